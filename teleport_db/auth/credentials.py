"""What a user knows and has, as it is kept: a password, devices for one-time codes, recovery codes.

::

    /credentials/NAME  {"password": hash | null,
                        "devices": [{"name", "secret", "step": last one used, "added": seconds}, ...],
                        "recovery": [hash of each code that was not used, ...],
                        "enrolling": {"name", "secret", "expires"} | null,
                        "invite": {"hash", "purpose", "otp", "expires"} | null}

All of it is one item, so that spending a code and what it was spent for are one compare-and-swap.  A device's
secret has to be kept as it is, since codes are made of it; everything else is kept as a hash.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from teleport_db.auth import otp
from teleport_db.auth.secrets import hashed

#: The name of the device that the page of an invite adds.
FIRST_DEVICE = "otp"
#: Recovery codes that are made at once: as many as fit on a card.
RECOVERY_CODES = 8
#: Letters and digits that nobody takes for each other: 16 of them are 80 random bits, in groups of four.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_LENGTH, _GROUP = 16, 4

#: Makes one new recovery code.
NewCode = Callable[[], str]


def new_recovery_code() -> str:
    """As ``k3vq-8mzt-...``."""
    letters = [secrets.choice(_ALPHABET) for _ in range(_LENGTH)]
    return "-".join("".join(letters[at : at + _GROUP]) for at in range(0, _LENGTH, _GROUP))


def _hash_of(code: str) -> str:
    return hashed("".join(letter for letter in code.lower() if letter not in " -\t"))


@attrs.frozen
class Device:
    """An authenticator app.

    :param step: of the last code that was taken; :param added: seconds since the epoch.
    """

    name: str
    secret: str = attrs.field(repr=False)
    step: int
    added: float

    @property
    def used(self) -> float:
        """When its last code was taken, seconds since the epoch, to 30 of them."""
        return float(self.step * otp.STEP)


def _devices(value: Mapping[str, Any]) -> tuple[Device, ...]:
    return tuple(Device(**device) for device in value.get("devices", ()))


@attrs.frozen
class Credentials:
    """Of one user.  Nothing here says whose they are, or whether the user exists."""

    password: str | None = attrs.field(default=None, repr=False)
    devices: tuple[Device, ...] = ()
    recovery: tuple[str, ...] = attrs.field(default=(), repr=False)
    enrolling: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    invite: Mapping[str, Any] | None = attrs.field(default=None, repr=False)

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Credentials:
        """As it was stored."""
        return cls(
            value.get("password"),
            _devices(value),
            tuple(value.get("recovery", ())),
            value.get("enrolling"),
            value.get("invite"),
        )

    def stored(self) -> dict[str, Any]:
        """As it is stored."""
        return attrs.asdict(self)

    # Codes.

    def spend_code(self, code: str, now: float) -> Credentials | None:
        """What is left when ``code`` of a device was used; None for a code that is wrong or was used already.

        :param now: seconds since the epoch.
        """
        found = None
        for at, device in enumerate(self.devices):
            step = otp.matching_step(device.secret, code, now, device.step)
            if step is not None:
                used = attrs.evolve(device, step=step)
                found = attrs.evolve(self, devices=(*self.devices[:at], used, *self.devices[at + 1 :]))
        if not self.devices:
            otp.matching_step(None, code, now)  # takes as long where there is nothing
        return found

    def spend_recovery(self, code: str) -> Credentials | None:
        """What is left when a recovery code was used; None for one that is wrong or was used already.

        It does not matter how somebody writes it: large or small letters, with or without dashes.
        """
        given = _hash_of(code)
        matching = [kept for kept in self.recovery if hmac.compare_digest(kept, given)]
        if not matching or not self.devices:
            return None
        return attrs.evolve(self, recovery=tuple(kept for kept in self.recovery if kept not in matching))

    def with_recovery(self, codes: Sequence[str]) -> Credentials:
        """With new recovery codes in the place of those that there were."""
        return attrs.evolve(self, recovery=tuple(_hash_of(code) for code in codes))

    # Devices.

    def find(self, name: str) -> Device | None:
        """The device of a name."""
        return next((device for device in self.devices if device.name == name), None)

    def with_device(self, device: Device) -> Credentials:
        """With one more; what was under way to add one is over."""
        return attrs.evolve(self, devices=(*self.devices, device), enrolling=None)

    def without_device(self, name: str) -> Credentials:
        """Without one; recovery codes go with the last."""
        devices = tuple(device for device in self.devices if device.name != name)
        return attrs.evolve(self, devices=devices, recovery=self.recovery if devices else ())
