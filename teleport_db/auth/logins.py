"""Logging in: password, one-time code, certificate; and choosing another password.

What somebody knows is for :mod:`teleport_db.auth.proofs` to check.  A password that was changed ends no login:
the certificates that are out were given to who proved to be the user then, and a lock ends them at once.
"""

from __future__ import annotations

from typing import Any

import attrs

from teleport_db.access import Role, combined_options
from teleport_db.audit.codes import FAILURE_CODES
from teleport_db.auth.locks import Locks
from teleport_db.auth.passwords import Passwords, check_new
from teleport_db.auth.proofs import CHANGED, Proofs
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.refusals import Refusals
from teleport_db.auth.signing import HOUR, MIN_TTL, Signing
from teleport_db.auth.times import rfc3339
from teleport_db.auth.users import User, Users
from teleport_db.certs.keys import load_public
from teleport_db.config.durations import format_duration
from teleport_db.errors import AccessDenied, AuthenticationFailed, LimitExceeded, NotFound, RevisionConflict
from teleport_db.identity import Identity
from teleport_db.interfaces import IBackend

#: Seconds that a login lives when nobody says anything, as Teleport's.
DEFAULT_TTL = 12 * HOUR
#: Seconds that it lives at most when no role says less.
MAX_TTL = 30 * HOUR
#: Characters that the audit log keeps of a name that no user has: it may be anything, a password too.
SHOWN = 4


def session_ttl(asked: float, roles: list[Role]) -> float:
    """Seconds that a login may live: what is asked for, at most what every role allows."""
    limit = combined_options(roles).max_session_ttl or MAX_TTL
    return max(min(asked or DEFAULT_TTL, limit), MIN_TTL)


def shortened(asked: float, roles: list[Role]) -> str:
    """Which role lets a login live for less than was asked for; "" when none does."""
    limits = combined_options(roles)
    if not limits.max_session_ttl or limits.max_session_ttl >= (asked or DEFAULT_TTL):
        return ""
    return f"{limits.whose('max_session_ttl')} allows {format_duration(limits.max_session_ttl)} (max_session_ttl)"


class Logins:
    """Checks what users know and signs what they may have."""

    def __init__(
        self,
        backend: IBackend,
        recorder: Recorder,
        *,
        users: Users,
        passwords: Passwords,
        proofs: Proofs,
        locks: Locks,
        signing: Signing,
        refusals: Refusals,
    ) -> None:
        self._backend = backend
        self._recorder = recorder
        self._users = users
        self._passwords = passwords
        self._proofs = proofs
        self._locks = locks
        self._signing = signing
        self._refusals = refusals

    async def login(
        self, name: str, password: str, code: str, *, public_key: str, ttl: float, address: str
    ) -> dict[str, Any]:
        """Sign the key of a user who proves to be one; the answer of ``POST /v1/login``.

        Raises AuthenticationFailed, LimitExceeded after too many of them, AccessDenied for a locked user.
        """
        load_public(public_key.encode("utf-8", "replace"))
        try:
            proven = await self._proofs.stranger(name, password, code, address)
        except AuthenticationFailed as error:
            await self._record(await self._shown(name), address, error=str(error), wrong=error.detail or None)
            raise
        except LimitExceeded as error:
            await self._too_many("user.login", name, address, error)
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
        if proven.recovery:
            answer["recovery_codes"] = len(proven.credentials.recovery)
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
            "shortened": shortened(ttl, roles),
            "roles": list(user.roles),
        }

    async def change(self, name: str, old: str, code: str, new: str, *, address: str) -> None:
        """Give a user a new password; the old one (and a code, where one is needed) opens the door.

        Raises as :meth:`login`, and BadRequest for a new password that is too short.
        """
        check_new(new)
        try:
            proven = await self._proofs.stranger(name, old, code, address)
            user = await self._users.find(name)
            self._locks.check_user(user.name, user.roles)
        except (AuthenticationFailed, AccessDenied) as error:
            await self._record_change(await self._shown(name), address, error=str(error), wrong=error.detail or None)
            raise
        except LimitExceeded as error:
            await self._too_many("user.password_change", name, address, error)
            raise
        value = attrs.evolve(proven.credentials, password=await self._passwords.hash(new)).stored()
        try:
            # What was proven is what is replaced: a reset that came meanwhile stands.
            await self._backend.compare_and_swap(proven.item.key, proven.item.revision, value)
        except (RevisionConflict, NotFound):
            raise RevisionConflict(CHANGED) from None
        await self._record_change(name, address)

    async def _record_change(self, name: str, address: str, error: str = "", wrong: str | None = None) -> None:
        event = "user.password_change"
        result = {"success": False, "error": error, "wrong": wrong} if error else {"success": True}
        code = FAILURE_CODES[event] if error else ""
        await self._recorder.record(event, code, user=name, **{"addr.remote": address}, **result)

    async def _too_many(self, event: str, name: str, address: str, error: LimitExceeded) -> None:
        """Attempts that were not looked at any more, of which there can be any number."""
        about = {"user": await self._shown(name), "addr.remote": address}
        await self._refusals.record(event, str(error), caller="", **about)

    async def _shown(self, name: str) -> str:
        """An attempted name for the audit log."""
        try:
            return (await self._users.find(name)).name
        except NotFound:
            return name[:SHOWN] + "..."

    async def _record(self, name: str, address: str, error: str = "", wrong: str | None = None) -> None:
        """A login, or one that was none.

        :param wrong: what was, which the stranger is not told.
        """
        result = {"success": False, "error": error, "wrong": wrong} if error else {"success": True}
        code = FAILURE_CODES["user.login"] if error else ""
        await self._recorder.record("user.login", code, user=name, method="local", **{"addr.remote": address}, **result)
