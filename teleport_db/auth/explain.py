"""Why a user may or may not open a session now, and what is open to a user at all.

The decision is the agents' own, :func:`teleport_db.access.check_session`, on what holds at this moment.  Who may
read users and roles asks about anybody; everybody else about himself, and of databases that he can see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from teleport_db.access import Decision, Options, Role, check_session, limits_of
from teleport_db.auth.locks import WORDS, Locks
from teleport_db.auth.presence import Announced, Presence
from teleport_db.auth.routes import Caller
from teleport_db.auth.users import User, Users
from teleport_db.errors import AccessDenied, NotFound


@attrs.frozen
class Asked:
    """The session that is asked about; see :func:`teleport_db.access.check_session`."""

    service: str
    db_user: str
    db_name: str
    replication: str = ""
    role_targets: tuple[str, ...] = ()
    address: str | None = None


@attrs.frozen
class _Standing:
    """What holds for a user now.

    :param missing: roles that the user has and the cluster has not: an agent lets nobody in with one.
    """

    user: User
    roles: tuple[Role, ...]
    missing: tuple[str, ...]


class Explain:
    """Answers ``tctl access explain`` and ``tctl access ls``.

    :param session_defaults: the limits of the cluster itself.
    """

    def __init__(self, users: Users, presence: Presence, locks: Locks, session_defaults: Mapping[str, Any]) -> None:
        self._users = users
        self._presence = presence
        self._locks = locks
        self._defaults = Role("", options=Options(**session_defaults))

    async def session(self, caller: Caller, name: str, asked: Asked) -> dict[str, Any]:
        """Each role's say about a session, the decision, the locks and the limits in force.

        :raises NotFound: there is no such user, or no agent serves such a database now.
        :raises AccessDenied: the caller may not ask about this user.
        """
        reads = _reads(caller, name)
        standing = await self._standing(name)
        announced = await self._announced(asked.service, None if reads else standing)
        decisions = [self._decide(standing, asked, labels) for labels in announced.variants]
        # Each agent decides on its own labels; the one that refuses is the one that is asked about.
        decision = next((one for one in decisions if not one.allowed), decisions[0])
        targets = {("user", name), ("db", asked.service), *(("role", role) for role in standing.user.roles)}
        locks = await self._in_force(targets)
        message = decision.public
        if locks:
            message = f"{locks[0]['text']}; ask an administrator"
        elif standing.missing:
            message = f'role "{standing.missing[0]}" is not in the cluster any more; ask an administrator'
        return {
            **_person(standing),
            "db_service": announced.name,
            "labels": dict(announced.labels),
            "db_user": asked.db_user,
            "db_name": asked.db_name,
            "allowed": not message,
            "agents_differ": len({one.allowed for one in decisions}) > 1,
            "message": message,
            "reasons": list(decision.reasons),
            "says": [
                {"role": say.role, "says": say.verdict, "text": str(say), "concerned": say.within or bool(say.denies)}
                for say in decision.says
            ],
            "locks": locks,
            "limits": limits_of([*standing.roles, self._defaults]),
        }

    async def listing(self, caller: Caller, name: str) -> dict[str, Any]:
        """The database services that a user sees, with users and names; the locks and limits in force."""
        _reads(caller, name)
        standing = await self._standing(name)
        roles, traits = standing.roles, standing.user.traits
        listed = await self._presence.listing(roles, traits)
        open_now = [] if standing.missing else listed
        return {
            **_person(standing),
            "databases": [{key: one[key] for key in ("name", "labels", "users", "names")} for one in open_now],
            "locks": await self._in_force({("user", name), *(("role", role) for role in standing.user.roles)}),
            "limits": limits_of([*roles, self._defaults]),
        }

    async def _standing(self, name: str) -> _Standing:
        user, roles = await self._users.with_roles(name)
        there = {role.name for role in roles}
        return _Standing(user, tuple(roles), tuple(role for role in user.roles if role not in there))

    async def _announced(self, service: str, sees: _Standing | None) -> Announced:
        if sees is not None:
            return await self._presence.visible_to(service, sees.roles, sees.user.traits)
        for one in await self._presence.all():
            if one.name == service:
                return one
        raise NotFound(f"no agent serves a database {service[:64]!r} now; tctl db ls lists those that are served")

    def _decide(self, standing: _Standing, asked: Asked, labels: Mapping[str, str]) -> Decision:
        return check_session(
            standing.roles,
            standing.user.traits,
            service=asked.service,
            labels=labels,
            db_user=asked.db_user,
            db_name=asked.db_name,
            replication=asked.replication,
            role_targets=asked.role_targets,
            address=asked.address,
        )

    async def _in_force(self, targets: set[tuple[str, str]]) -> list[dict[str, str]]:
        found = []
        for lock in await self._locks.list():
            ((kind, value),) = lock.spec["target"].items()
            if (kind, value) not in targets:
                continue
            message = str(lock.spec.get("message") or "")
            text = f'{WORDS[kind]} "{value}" is locked' + (f": {message}" if message else "")
            found.append({"name": lock.name, "text": text, "expires": lock.expires})
        return found


def _reads(caller: Caller, name: str) -> bool:
    """Whether the caller may read everything; AccessDenied for who asks about somebody else and may not."""
    if caller.may(("user", "read")) and caller.may(("role", "read")):
        return True
    if caller.user is None or caller.user.name != name:
        raise AccessDenied('asking about others takes "read" on "user" and on "role", which no role of yours allows')
    return False


def _person(standing: _Standing) -> dict[str, Any]:
    traits: dict[str, Sequence[str]] = {key: list(values) for key, values in standing.user.traits.items()}
    return {
        "user": standing.user.name,
        "roles": list(standing.user.roles),
        "missing_roles": list(standing.missing),
        "traits": traits,
    }
