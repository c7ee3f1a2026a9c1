"""Whether somebody is who they say: password, one-time code, recovery code.

::

    count the attempt ─▶ read credentials ─▶ argon2id (also for nobody) ─▶ code ─▶ compare-and-swap what it used up
                                                                     └─ wrong: one answer for all of it

Every way to prove something counts as an attempt by account and source address, one limit for all of them.
"""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.audit.codes import FAILURE_CODES
from teleport_db.auth.credentials import Credentials
from teleport_db.auth.failures import Failures
from teleport_db.auth.passwords import Passwords
from teleport_db.auth.preference import Preference
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.users import CREDENTIALS, Users
from teleport_db.errors import AuthenticationFailed, NotFound, RevisionConflict, TeleportDBError
from teleport_db.interfaces import IBackend, Item

#: The one answer to everything that is wrong with what a stranger knows.
WRONG = "the user name, the password or the one-time code is wrong"
#: To somebody whose certificate says already who it is.
WRONG_CODE = "the one-time code is wrong, or was used already; type the one that the app shows next"
CHANGED = "your password or your second factors were changed just now; try again"


@attrs.frozen
class Proven:
    """What somebody who proved it has now.

    :param recovery: whether a recovery code was used up.
    """

    item: Item
    credentials: Credentials
    recovery: bool = False


class Proofs:
    """Checks what users know."""

    def __init__(
        self,
        backend: IBackend,
        recorder: Recorder,
        *,
        users: Users,
        passwords: Passwords,
        preference: Preference,
        failures: Failures,
        clock: IReactorTime,
    ) -> None:
        self._backend = backend
        self._recorder = recorder
        self._users = users
        self._passwords = passwords
        self._preference = preference
        self._failures = failures
        self._clock = clock

    async def stranger(self, name: str, password: str, code: str, address: str) -> Proven:
        """Somebody who logs in: the password, and a code where one is asked for.

        Raises AuthenticationFailed with one text for all that can be wrong, and what it was as its ``detail``;
        LimitExceeded after too many.
        """
        async with self._failures.attempt(name, address):
            second_factor = await self._preference.second_factor()
            item, credentials = await self._read(name)
            right = await self._passwords.verify(credentials.password, password)
            # Looked at in any case, so that it takes as long.
            spent, recovery = self._spend(credentials, code, recovery=True)
            needed = second_factor in ("otp", "on") or (second_factor == "optional" and bool(credentials.devices))
            if not right or item is None or (needed and spent is None):
                what = "no user" if item is None else "one-time code" if right else "password"
                raise AuthenticationFailed(WRONG, detail=what)
            try:
                await self._users.find(name)
            except NotFound:
                raise AuthenticationFailed(WRONG, detail="no user") from None
            if not needed or spent is None:
                return Proven(item, credentials)
            lost = AuthenticationFailed(WRONG, detail="one-time code")
            proven = await self._swap(item, spent, recovery, lost)
        await self._record_recovery(name, address, proven)
        return proven

    async def owner(self, name: str, password: str, code: str, address: str) -> Proven:
        """Somebody logged in who changes second factors: a code, or the password where there is no device.

        Raises AuthenticationFailed, LimitExceeded after too many; a failure is in the audit log.
        """
        async with self._failures.attempt(name, address):
            item, credentials = await self._read(name)
            if item is not None and credentials.devices:
                proven = await self._code(item, credentials, code, address, recovery=True)
            elif item is not None and await self._passwords.verify(credentials.password, password):
                proven = Proven(item, credentials)
            else:
                raise await self._refused(name, address, "the password is wrong")
        await self._record_recovery(name, address, proven)
        return proven

    async def present(self, name: str, code: str, address: str) -> Proven:
        """Somebody logged in who opens a session: a code of a device; recovery codes do not count.

        Raises AuthenticationFailed, LimitExceeded after too many; a failure is in the audit log.
        """
        async with self._failures.attempt(name, address):
            item, credentials = await self._read(name)
            if item is None:
                raise await self._refused(name, address, WRONG_CODE)
            return await self._code(item, credentials, code, address, recovery=False)

    async def devices_of(self, name: str) -> Credentials:
        """What a user has now, without any proof."""
        return (await self._read(name))[1]

    def _spend(self, credentials: Credentials, code: str, *, recovery: bool) -> tuple[Credentials | None, bool]:
        spent = credentials.spend_code(code, self._clock.seconds())
        if spent is not None or not recovery:
            return spent, False
        return credentials.spend_recovery(code), True

    async def _code(self, item: Item, credentials: Credentials, code: str, address: str, *, recovery: bool) -> Proven:
        spent, recovered = self._spend(credentials, code, recovery=recovery)
        if spent is None:
            raise await self._refused(item.key.removeprefix(CREDENTIALS), address, WRONG_CODE)
        return await self._swap(item, spent, recovered, AuthenticationFailed(WRONG_CODE))

    async def _swap(self, item: Item, spent: Credentials, recovery: bool, lost: TeleportDBError) -> Proven:
        """Use a code up: of any number of attempts with one code, one swaps."""
        try:
            swapped = await self._backend.compare_and_swap(item.key, item.revision, spent.stored())
        except (RevisionConflict, NotFound):
            raise lost from None
        return Proven(swapped, spent, recovery)

    async def _read(self, name: str) -> tuple[Item | None, Credentials]:
        try:
            item = await self._backend.get(CREDENTIALS + name)
        except NotFound:
            return None, Credentials()
        return item, Credentials.read(item.value)

    async def _refused(self, name: str, address: str, text: str) -> AuthenticationFailed:
        """Record that somebody with a certificate could not prove to be its user."""
        event = "mfa_auth_challenge.validate"
        result = {"user": name, "success": False, "error": text, "addr.remote": address}
        await self._recorder.record(event, FAILURE_CODES[event], **result)
        return AuthenticationFailed(text)

    async def _record_recovery(self, name: str, address: str, proven: Proven) -> None:
        if proven.recovery:
            left = len(proven.credentials.recovery)
            await self._recorder.record("recovery_code.used", user=name, left=left, **{"addr.remote": address})
