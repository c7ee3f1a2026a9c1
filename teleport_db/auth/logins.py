"""Logging in: password, one-time code, certificate.

::

    count the attempt ─▶ read credentials ─▶ argon2id (also for nobody) ─▶ code ─▶ compare-and-swap its step
                                                                     └─ wrong: one answer for all of it
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.access import Role, combined_options
from teleport_db.audit.codes import FAILURE_CODES
from teleport_db.auth import otp
from teleport_db.auth.failures import Failures
from teleport_db.auth.locks import Locks
from teleport_db.auth.passwords import Passwords, check_new
from teleport_db.auth.preference import Preference
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.signing import HOUR, MIN_TTL, Signing
from teleport_db.auth.times import rfc3339
from teleport_db.auth.users import CREDENTIALS, User, Users
from teleport_db.certs.keys import load_public
from teleport_db.errors import AuthenticationFailed, NotFound, RevisionConflict
from teleport_db.identity import Identity
from teleport_db.interfaces import IBackend, Item

#: Seconds that a login lives when nobody says anything, as Teleport's.
DEFAULT_TTL = 12 * HOUR
#: Seconds that it lives at most when no role says less.
MAX_TTL = 30 * HOUR
#: Characters of an attempted name that the audit log keeps: it may be anything, a password too.
MAX_NAME = 64
#: The one answer to everything that is wrong with what a user knows.
WRONG = "the user name, the password or the one-time code is wrong"


def session_ttl(asked: float, roles: list[Role]) -> float:
    """Seconds that a login may live: what is asked for, at most what every role allows."""
    limit = combined_options(roles).max_session_ttl or MAX_TTL
    return max(min(asked or DEFAULT_TTL, limit), MIN_TTL)


@attrs.frozen
class _Proof:
    """What a user knows."""

    password: str = attrs.field(repr=False)
    code: str = attrs.field(repr=False)


class Logins:
    """Checks what users know and signs what they may have."""

    def __init__(
        self,
        backend: IBackend,
        recorder: Recorder,
        *,
        users: Users,
        passwords: Passwords,
        preference: Preference,
        locks: Locks,
        signing: Signing,
        clock: IReactorTime,
    ) -> None:
        self._backend = backend
        self._recorder = recorder
        self._users = users
        self._passwords = passwords
        self._preference = preference
        self._locks = locks
        self._signing = signing
        self._clock = clock
        self._failures = Failures(backend, clock=clock)

    async def login(
        self, name: str, password: str, code: str, *, public_key: str, ttl: float, address: str
    ) -> dict[str, Any]:
        """Sign the key of a user who proves to be one; the answer of ``POST /v1/login``.

        Raises AuthenticationFailed, LimitExceeded after too many of them, AccessDenied for a locked user.
        """
        load_public(public_key.encode("utf-8", "replace"))
        try:
            async with self._failures.attempt(name, address):
                await self._prove(name, _Proof(password, code))
        except AuthenticationFailed as error:
            await self._record(name[:MAX_NAME], address, error=str(error))
            raise
        user, roles = await self._users.with_roles(name)
        try:
            self._locks.check_user(user.name, user.roles)
            answer = self._signed(user, roles, public_key, ttl)
        except Exception as error:
            await self._record(name, address, error=str(error))
            raise
        await self._record(name, address)
        await self._recorder.record(
            "cert.create", user=name, cert_type="user", usage="login", expires=answer["expires"]
        )
        return answer

    def _signed(self, user: User, roles: list[Role], public_key: str, ttl: float) -> dict[str, Any]:
        identity = Identity(
            kind="user",
            name=user.name,
            cluster=self._signing.cluster,
            roles=user.roles,
            traits=user.traits,
            usage="login",
        )
        signed = self._signing.user(identity, public_key, session_ttl(ttl, roles))
        return {
            "user": user.name,
            "cluster": self._signing.cluster,
            "certificate": signed.certificate,
            "host_ca": self._signing.authorities.host.certificate_pem.decode(),
            "expires": rfc3339(signed.expires),
            "roles": list(user.roles),
        }

    async def change(self, name: str, proof: tuple[str, str], new_password: str, *, address: str) -> None:
        """Give a user a new password; the old one (and a code, where one is needed) opens the door."""
        check_new(new_password)
        async with self._failures.attempt(name, address):
            item = await self._prove(name, _Proof(*proof))
        encoded = await self._passwords.hash(new_password)
        # What was proven is what is replaced: a reset that came meanwhile stands.
        await self._backend.compare_and_swap(item.key, item.revision, {**item.value, "password": encoded})
        await self._recorder.record("user.password_change", user=name)

    async def _prove(self, name: str, proof: _Proof) -> Item:
        """The credentials of a user who proves to be one; AuthenticationFailed else."""
        second_factor = await self._preference.second_factor()
        item = await self._credentials(name)
        stored = {} if item is None else item.value
        right = await self._passwords.verify(stored.get("password"), proof.password)
        secret = stored.get("otp")
        step = otp.matching_step(secret, proof.code, self._clock.seconds(), stored.get("step", 0))
        needed = second_factor in ("otp", "on") or (second_factor == "optional" and secret is not None)
        if not right or item is None or (needed and step is None):
            raise AuthenticationFailed(WRONG)
        try:
            await self._users.find(name)
        except NotFound:
            raise AuthenticationFailed(WRONG) from None
        if needed:
            try:
                # Of any number of logins with one code, one swaps.
                return await self._backend.compare_and_swap(item.key, item.revision, {**stored, "step": step})
            except (RevisionConflict, NotFound):
                raise AuthenticationFailed(WRONG) from None
        return item

    async def _credentials(self, name: str) -> Item | None:
        try:
            return await self._backend.get(CREDENTIALS + name)
        except NotFound:
            return None

    async def _record(self, name: str, address: str, error: str = "") -> None:
        result = {"success": False, "error": error} if error else {"success": True}
        code = FAILURE_CODES["user.login"] if error else ""
        await self._recorder.record("user.login", code, user=name, method="local", **{"addr.remote": address}, **result)
