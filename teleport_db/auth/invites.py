"""Invites and resets: a link with which somebody sets a password, once.

::

    /invite/HASH       {"user": NAME}                        finds the user by the link
    /credentials/NAME  {..., "invite": {"hash": HASH, ...}}  says whether the link still counts

A user has one at a time: a newer one, or a redemption, makes the older worthless.  What finds the user is
kept a week longer than the link counts, so that who comes late is told why it does not.
"""

from __future__ import annotations

import hmac
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.auth import otp
from teleport_db.auth.credentials import FIRST_DEVICE, Credentials, Device
from teleport_db.auth.devices import Devices
from teleport_db.auth.passwords import Passwords, check_new
from teleport_db.auth.preference import Preference
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.refusals import Refusals
from teleport_db.auth.secrets import NewToken, hashed, new_token
from teleport_db.auth.signing import HOUR, bounded_ttl
from teleport_db.auth.times import rfc3339
from teleport_db.auth.users import CREDENTIALS, Users
from teleport_db.errors import BadRequest, NotFound, RevisionConflict
from teleport_db.interfaces import IBackend, Item

PREFIX = "/invite/"
#: Seconds, as Teleport's: an hour, at most two days for an invite and one for a reset.
DEFAULT_TTL, MAX_INVITE_TTL, MAX_RESET_TTL = HOUR, 48 * HOUR, 24 * HOUR
#: Seconds that a link which does not count any more is known as such.
REMEMBERED = 7 * 24 * HOUR
UNKNOWN = "this link is unknown, or was over long ago; look whether it is complete"
USED = "this link was used already"
EXPIRED = "this link has expired"
REPLACED = "a newer link has taken the place of this one"

WRONG_CODE = "the one-time code does not fit; scan the picture and type the code it shows now"


class Invites:
    """Makes and redeems links."""

    def __init__(
        self,
        backend: IBackend,
        recorder: Recorder,
        *,
        users: Users,
        passwords: Passwords,
        preference: Preference,
        devices: Devices,
        refusals: Refusals,
        cluster: str,
        clock: IReactorTime,
        token: NewToken = new_token,
    ) -> None:
        self._backend = backend
        self._recorder = recorder
        self._users = users
        self._passwords = passwords
        self._preference = preference
        self._devices = devices
        self._refusals = refusals
        self._cluster = cluster
        self._clock = clock
        self._token = token

    def invite_ttl(self, asked: float) -> float:
        """Seconds an invite lives; BadRequest when that is too long."""
        return bounded_ttl(asked, DEFAULT_TTL, MAX_INVITE_TTL)

    async def invite(self, name: str, ttl: float, *, by: str) -> dict[str, Any]:
        """A link for a user who was just made; the answer of ``POST /v1/users``."""
        return await self._make(name, "invite", self.invite_ttl(ttl), by)

    async def reset(self, name: str, ttl: float, *, by: str) -> dict[str, Any]:
        """A link for a user who lost the password; from now on nothing that was known opens anything."""
        await self._users.find(name)
        return await self._make(name, "reset", bounded_ttl(ttl, DEFAULT_TTL, MAX_RESET_TTL), by)

    async def _make(self, name: str, purpose: str, ttl: float, by: str) -> dict[str, Any]:
        token = self._token()
        expires = self._clock.seconds() + ttl
        await self._backend.put(PREFIX + hashed(token), {"user": name}, expires + REMEMBERED)
        invite = {"hash": hashed(token), "purpose": purpose, "otp": otp.new_secret(), "expires": expires}
        # All that there was is over: password, devices, recovery codes, links.
        await self._backend.put(CREDENTIALS + name, Credentials(invite=invite).stored())
        await self._recorder.record(
            "reset_password_token.create", user=by, name=name, purpose=purpose, expires=rfc3339(expires)
        )
        return {"user": name, "token": token, "expires": rfc3339(expires)}

    async def _find(self, token: str, address: str = "") -> tuple[str, Item]:
        """The user of a link that counts, and its credentials; NotFound that says why it does not, else."""
        digest, name = hashed(token), ""
        try:
            name = (await self._backend.get(PREFIX + digest)).value["user"]
            item = await self._backend.get(CREDENTIALS + name)
            why = self._worthless(item.value.get("invite"), digest)
        except NotFound:
            why = UNKNOWN
        if why:
            await self._refused(name, why, address)
            raise NotFound(why)
        return name, item

    def _worthless(self, invite: dict[str, Any] | None, digest: str) -> str:
        """Why a link does not count; "" for one that does."""
        if invite is None:
            return USED
        if not hmac.compare_digest(invite["hash"], digest):
            return REPLACED
        return EXPIRED if invite["expires"] <= self._clock.seconds() else ""

    async def _refused(self, name: str, why: str, address: str) -> None:
        where = {"addr.remote": address} if address else {}
        await self._refusals.record("user.password_change", why, caller="", user=name, **where)

    async def show(self, token: str) -> dict[str, Any]:
        """What the page of the link shows: the answer of ``GET /v1/invites/TOKEN``."""
        name, item = await self._find(token)
        invite = item.value["invite"]
        second_factor = await self._preference.second_factor()
        secret = invite["otp"]
        shown = {"secret": secret, "uri": otp.provisioning_uri(secret, name, self._cluster)}
        return {
            "user": name,
            "purpose": invite["purpose"],
            "second_factor": second_factor,
            "otp": None if second_factor == "off" else shown,
            "expires": rfc3339(invite["expires"]),
        }

    async def redeem(self, token: str, password: str, code: str, *, address: str) -> dict[str, Any]:
        """Set the password, and take the device up; of any number at once, one does.

        The answer has the recovery codes, none where there is no device.  Raises NotFound when the link does not
        count (any more), BadRequest for a password that is too short or a code that does not fit, after which the
        link still counts.
        """
        name, item = await self._find(token, address)
        check_new(password)
        second_factor = await self._preference.second_factor()
        made, codes = Credentials(), list[str]()
        if second_factor in ("otp", "on") or (second_factor == "optional" and code):
            secret = item.value["invite"]["otp"]
            step = otp.matching_step(secret, code, self._clock.seconds())
            if step is None:
                await self._refused(name, WRONG_CODE, address)
                raise BadRequest(WRONG_CODE)
            codes = self._devices.new_codes()
            made = made.with_device(Device(FIRST_DEVICE, secret, step, self._clock.seconds())).with_recovery(codes)
        made = attrs.evolve(made, password=await self._passwords.hash(password))
        try:
            await self._backend.compare_and_swap(item.key, item.revision, made.stored())
        except (RevisionConflict, NotFound):
            raise NotFound(USED) from None
        await self._recorder.record("user.password_change", user=name, success=True, **{"addr.remote": address})
        if codes:
            await self._devices.record_added(name, FIRST_DEVICE, codes, address=address)
        return {"user": name, "recovery_codes": codes}
