"""A user's own second factors: devices for one-time codes, and recovery codes.

::

    begin    a code of a device there is, or the password     ─▶  a new secret, to be scanned
    confirm  the first code that the new device shows         ─▶  it counts; with the first come recovery codes
    remove   a code of any device, also of the one that goes
    renew    a code of any device                             ─▶  new recovery codes, the old ones count no more

Changing a second factor takes the old one; a recovery code stands in for a device that got lost.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from teleport_db.auth import otp
from teleport_db.auth.credentials import RECOVERY_CODES, Credentials, Device, NewCode, new_recovery_code
from teleport_db.auth.preference import Preference
from teleport_db.auth.proofs import CHANGED, Proofs
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.times import rfc3339
from teleport_db.auth.users import CREDENTIALS
from teleport_db.errors import AlreadyExists, BadRequest, LimitExceeded, NotFound, RevisionConflict
from teleport_db.interfaces import IBackend, Item

#: Devices of one user, characters of a device's name, and seconds that somebody has to scan a new one.
MAX_DEVICES, MAX_NAME, ENROLLING = 10, 32, 600.0


def check_device_name(name: str) -> str:
    """``name``, or BadRequest saying which names a device may have."""
    if not name or len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
        raise BadRequest(f"a device's name has 1 to {MAX_NAME} printable characters and no blanks around it")
    return name


class Devices:
    """Second factors, changed by their owners.

    :param new_code: makes a recovery code.
    """

    def __init__(
        self,
        backend: IBackend,
        recorder: Recorder,
        *,
        proofs: Proofs,
        preference: Preference,
        cluster: str,
        clock: IReactorTime,
        new_code: NewCode = new_recovery_code,
    ) -> None:
        self._backend = backend
        self._recorder = recorder
        self._proofs = proofs
        self._preference = preference
        self._cluster = cluster
        self._clock = clock
        self._new_code = new_code

    async def listing(self, name: str) -> dict[str, Any]:
        """The answer of ``GET /v1/mfa``: nothing that would be of use to anybody else."""
        credentials = await self._proofs.devices_of(name)
        return {
            "second_factor": await self._preference.second_factor(),
            "devices": [
                {
                    "name": device.name,
                    "type": "TOTP",
                    "added": rfc3339(device.added),
                    "last_used": rfc3339(device.used),
                }
                for device in credentials.devices
            ],
            "recovery_codes": len(credentials.recovery),
        }

    async def begin(self, name: str, device: str, *, password: str, code: str, address: str) -> dict[str, Any]:
        """A secret for a new device: the answer of ``POST /v1/mfa``.

        :param device: its name; "" for one that is not taken.
        """
        before = await self._proofs.devices_of(name)
        if len(before.devices) >= MAX_DEVICES:
            raise LimitExceeded(f"you have {MAX_DEVICES} devices already; remove one with tsh mfa rm")
        named = check_device_name(device) if device else _free_name(before)
        if before.find(named) is not None:
            raise AlreadyExists(f"you have a device {named!r} already; give the new one another --name")
        proven = await self._proofs.owner(name, password, code, address)
        secret = otp.new_secret()
        expires = self._clock.seconds() + ENROLLING
        value = {**proven.credentials.stored(), "enrolling": {"name": named, "secret": secret, "expires": expires}}
        await self._swap(proven.item, value)
        return {"name": named, "secret": secret, "uri": otp.provisioning_uri(secret, name, self._cluster)}

    async def confirm(self, name: str, code: str, *, address: str) -> dict[str, Any]:
        """Add the device of which this is a code: the answer of ``POST /v1/mfa/confirm``."""
        item, credentials = await self._stored(name)
        enrolling = credentials.enrolling
        if enrolling is None or enrolling["expires"] <= self._clock.seconds():
            raise NotFound("no device is being added, or it took too long; begin again: tsh mfa add")
        step = otp.matching_step(enrolling["secret"], code, self._clock.seconds())
        if step is None:
            raise BadRequest("the one-time code does not fit; scan the picture and type the code it shows now")
        device = Device(enrolling["name"], enrolling["secret"], step, self._clock.seconds())
        # The first device brings recovery codes; who has some keeps them.
        codes = [] if credentials.devices else self.new_codes()
        added = credentials.with_device(device)
        await self._swap(item, (added.with_recovery(codes) if codes else added).stored())
        await self.record_added(name, device.name, codes, address=address)
        return {"name": device.name, "recovery_codes": codes}

    async def remove(self, name: str, device: str, *, code: str, address: str) -> dict[str, Any]:
        """Remove a device; refused for the last one where logging in takes one."""
        before = await self._proofs.devices_of(name)
        if before.find(device) is None:
            raise NotFound(f"you have no device {device[:MAX_NAME]!r}; see tsh mfa ls")
        second_factor = await self._preference.second_factor()
        if len(before.devices) == 1 and second_factor in ("otp", "on"):
            raise BadRequest("this is your last device, and logging in takes one; add another first: tsh mfa add")
        proven = await self._proofs.owner(name, "", code, address)
        # Between the two looks somebody may have removed the others.
        left = proven.credentials.without_device(device)
        if proven.credentials.devices != left.devices and not left.devices and second_factor in ("otp", "on"):
            raise RevisionConflict(CHANGED)
        await self._swap(proven.item, left.stored())
        await self._recorder.record(
            "mfa.delete", user=name, mfa_device_name=device, mfa_device_type="TOTP", **{"addr.remote": address}
        )
        return {"name": device}

    async def renew(self, name: str, *, code: str, address: str) -> dict[str, Any]:
        """New recovery codes in the place of all old ones: the answer of ``POST /v1/mfa/recovery-codes``."""
        if not (await self._proofs.devices_of(name)).devices:
            raise BadRequest("recovery codes stand in for a device, and you have none; add one: tsh mfa add")
        proven = await self._proofs.owner(name, "", code, address)
        codes = self.new_codes()
        await self._swap(proven.item, proven.credentials.with_recovery(codes).stored())
        await self._record_codes(name, codes, address)
        return {"recovery_codes": codes}

    def new_codes(self) -> list[str]:
        """Recovery codes that nobody has."""
        return [self._new_code() for _ in range(RECOVERY_CODES)]

    async def record_added(self, name: str, device: str, codes: list[str], *, address: str) -> None:
        """Record that a user has a device more, and perhaps recovery codes."""
        await self._recorder.record(
            "mfa.add", user=name, mfa_device_name=device, mfa_device_type="TOTP", **{"addr.remote": address}
        )
        if codes:
            await self._record_codes(name, codes, address)

    async def _record_codes(self, name: str, codes: list[str], address: str) -> None:
        await self._recorder.record("recovery_code.generated", user=name, count=len(codes), **{"addr.remote": address})

    async def _stored(self, name: str) -> tuple[Item, Credentials]:
        try:
            item = await self._backend.get(CREDENTIALS + name)
        except NotFound:
            raise NotFound("no device is being added; begin again: tsh mfa add") from None
        return item, Credentials.read(item.value)

    async def _swap(self, item: Item, value: dict[str, Any]) -> None:
        try:
            await self._backend.compare_and_swap(item.key, item.revision, value)
        except (RevisionConflict, NotFound):
            raise RevisionConflict(CHANGED) from None


def _free_name(credentials: Credentials) -> str:
    numbers = range(1, MAX_DEVICES + 2)
    names = ("otp" if number == 1 else f"otp-{number}" for number in numbers)
    return next(name for name in names if credentials.find(name) is None)
