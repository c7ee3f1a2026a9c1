"""Certificates for users: one database service of a login, or an identity file for a program.

Where a role says ``require_session_mfa``, a database's certificate takes a one-time code of its own, lives for a
minute, and says so (``mfa``); it also says when the login ends (``login_expires``), because sessions that it
opened go on until then.  A file cannot type codes, so none is signed for such a user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime

from teleport_db.access import Role, combined_options
from teleport_db.auth import body as fields
from teleport_db.auth.presence import Presence
from teleport_db.auth.proofs import Proofs
from teleport_db.auth.routes import Caller
from teleport_db.auth.signing import FILE_TTL, MAX_FILE_TTL, Signed, Signing, bounded_ttl
from teleport_db.auth.users import User, Users
from teleport_db.errors import AccessDenied, BadRequest, SecondFactorRequired
from teleport_db.identity import DatabaseRoute, Identity

#: Seconds that a certificate lives for which a one-time code was asked: long enough to start a client.
SESSION_TTL = 60.0
ASKS = "asks for a one-time code at each login to a database"


def asking(roles: Sequence[Role]) -> str:
    """Which role asks for a code at each login to a database, for a text; "" when none does."""
    limits = combined_options(roles)
    return limits.whose("require_session_mfa") if limits.require_session_mfa else ""


class UserCertificates:
    """Signs for users who are logged in, and for administrators who want a file."""

    def __init__(
        self, *, users: Users, presence: Presence, proofs: Proofs, signing: Signing, clock: IReactorTime
    ) -> None:
        self._users = users
        self._presence = presence
        self._proofs = proofs
        self._signing = signing
        self._clock = clock

    async def database(self, caller: Caller, body: Mapping[str, Any]) -> tuple[Identity, Signed]:
        """A certificate of the caller's own for one database service, never longer than the caller's.

        Raises SecondFactorRequired where a role asks for a code and there is none in the call,
        AuthenticationFailed for a wrong one.
        """
        user = caller.user
        if user is None:
            raise BadRequest("only a user has databases; sign an identity file for it instead")
        asked = fields.mapping(body.get("route"), "route")
        public_key = fields.text(body, "public_key")
        left = caller.expires - self._clock.seconds()
        ttl = min(fields.number(body, "ttl", 0) or left, left)
        announced = await self._presence.visible_to(fields.text(asked, "service", limit=64), caller.roles, user.traits)
        route = DatabaseRoute(
            cluster=self._signing.cluster,
            service=announced.name,
            user=fields.text(asked, "user", "", limit=256),
            database=fields.text(asked, "database", "", limit=256),
            protocol=announced.protocol,
        )
        mfa = await self._present(caller, user, fields.text(body, "otp", "", limit=64))
        identity = self._identity(
            user, "database", route=route, mfa=mfa, login_expires=int(caller.expires) if mfa else 0
        )
        return identity, self._signing.user(identity, public_key, min(ttl, SESSION_TTL) if mfa else ttl)

    async def _present(self, caller: Caller, user: User, code: str) -> bool:
        """Whether the user has just proven to be there; False where no role asks for it."""
        role = asking(caller.roles)
        if not role:
            return False
        asks = f"{role} {ASKS}"
        if caller.identity is None or caller.identity.usage != "login":
            raise AccessDenied(f"{asks}, and an identity file has none; log in with tsh login")
        if not (await self._proofs.devices_of(user.name)).devices:
            raise AccessDenied(f"{asks}, and you have no device for them; add one: tsh mfa add")
        if not code:
            raise SecondFactorRequired(asks)
        await self._proofs.present(user.name, code, caller.address)
        return True

    async def file(self, body: Mapping[str, Any]) -> tuple[Identity, Signed]:
        """A user's identity file: full powers of that user, so it takes an administrator."""
        user, roles = await self._users.with_roles(fields.text(body, "user", limit=64))
        ttl = bounded_ttl(fields.number(body, "ttl", 0), FILE_TTL, MAX_FILE_TTL)
        role = asking(roles)
        if role:
            raise AccessDenied(
                f'{role} of user "{user.name}" {ASKS}, which a program with a file cannot give; '
                "sign the file for a user without this role"
            )
        identity = self._identity(user, "file")
        return identity, self._signing.user(identity, fields.text(body, "public_key"), ttl)

    def _identity(self, user: User, usage: str, **more: Any) -> Identity:
        return Identity(
            kind="user",
            name=user.name,
            cluster=self._signing.cluster,
            roles=user.roles,
            traits=user.traits,
            usage=usage,
            **more,
        )
