"""The API's calls about decisions: why a session is allowed or refused, and what is open to a user."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from teleport_db.access import LOGICAL, PHYSICAL
from teleport_db.auth.explain import Asked, Explain
from teleport_db.auth.server import AuthServer
from teleport_db.errors import BadRequest

if TYPE_CHECKING:
    from teleport_db.auth.calls import Call

#: The longest name that is asked about, in characters.
MAX_NAME = 256


class AccessCalls:
    """One method a route."""

    _server: AuthServer

    @property
    def _explain(self) -> Explain:
        server = self._server
        return Explain(server.users, server.presence, server.locks, server.session_defaults)

    async def explain_access(self, call: Call) -> dict[str, Any]:
        """One session of one user."""
        db_user, role = _name(call, "db_user"), _name(call, "role", needed=False)
        replication = call.query.get("replication", "")
        if replication not in ("", LOGICAL, PHYSICAL):
            raise BadRequest(f"replication is {LOGICAL} or {PHYSICAL}")
        asked = Asked(
            service=_name(call, "db"),
            db_user=db_user,
            db_name=_name(call, "db_name", needed=False) or db_user,
            replication=replication,
            role_targets=(role,) if role else (),
            address=_address(call.query.get("from")),
        )
        return await self._explain.session(call.caller, _name(call, "user"), asked)

    async def list_access(self, call: Call) -> dict[str, Any]:
        """All databases of one user."""
        return await self._explain.listing(call.caller, _name(call, "user"))


def _name(call: Call, key: str, *, needed: bool = True) -> str:
    value = call.query.get(key, "")
    if needed and not value:
        raise BadRequest(f"{key} is missing")
    if len(value) > MAX_NAME:
        raise BadRequest(f"{key} is too long")
    return value


def _address(text: str | None) -> str | None:
    if not text:
        return None
    try:
        return str(ip_address(text))
    except ValueError:
        raise BadRequest("from is an IP address, the one that a client comes from") from None
