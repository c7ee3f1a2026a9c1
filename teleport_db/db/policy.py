"""What the agent knows of the cluster's roles, users, locks and registered databases.

A long poll keeps it current (:mod:`teleport_db.api.watching`).  While auth is away what was known last holds, for as
long as :mod:`teleport_db.db.away` says; an agent that never heard from auth decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import attrs
from twisted.logger import Logger

from teleport_db.access.limits import Limits, combined_options
from teleport_db.access.roles import Options, Role, parse_role
from teleport_db.api.locks import read_lock, stopping
from teleport_db.config.databases import parse_database
from teleport_db.config.model import Database
from teleport_db.errors import AccessDenied, AgentOffline, AuthenticationFailed, TeleportDBError
from teleport_db.identity import Identity

log = Logger()


@attrs.frozen
class Standing:
    """What holds for a user now, whatever the certificate said when it was signed."""

    roles: tuple[Role, ...]
    traits: Mapping[str, tuple[str, ...]]


class Policy:
    """The cluster's roles, users, locks, registered databases and removed hosts, by their names."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {kind: {} for kind in _READERS}
        self._told: dict[tuple[str, str], Any] = {}
        self._defaults = Options()
        self._said: Mapping[str, Any] = {}
        self._heard = False

    @property
    def databases(self) -> tuple[Database, ...]:
        """The databases that are registered in the cluster, by name."""
        return tuple(database for _, database in sorted(self._known["db"].items()))

    def snapshot(self) -> dict[str, Any]:
        """All that is known, as the answer of a watch that :meth:`apply` takes."""
        return {"reset": True, "changes": list(self._told.values()), "session_defaults": dict(self._said)}

    @property
    def heard(self) -> bool:
        """Whether auth has ever said which roles there are."""
        return self._heard

    def apply(self, answer: Mapping[str, Any]) -> None:
        """Take over what a watch answered; with ``reset`` it is all there is."""
        reset = bool(answer.get("reset"))
        known = {kind: {} if reset else dict(values) for kind, values in self._known.items()}
        told = {} if reset else dict(self._told)
        for change in answer.get("changes", ()):
            kind, name = change.get("kind"), change["name"]
            if kind not in known:
                continue
            known[kind].pop(name, None)
            told.pop((kind, name), None)
            if change["type"] == "delete":
                continue
            told[kind, name] = change
            try:
                known[kind][name] = _READERS[kind](name, change["resource"])
            except TeleportDBError as error:
                # A role that cannot be read allows nothing; its denials are missed, so nobody may use it.
                log.error("{kind} {name} cannot be read and is not used: {error}", kind=kind, name=name, error=error)
        defaults = answer.get("session_defaults", {})
        limits = Options(
            client_idle_timeout=float(defaults.get("client_idle_timeout", 0)),
            disconnect_expired_cert=bool(defaults.get("disconnect_expired_cert", False)),
        )
        # All of it or nothing: an answer that breaks off in the middle leaves what was known.
        self._defaults, self._said = limits, defaults
        self._known, self._told, self._heard = known, told, True

    def standing(self, identity: Identity, *, host_id: str, now: float, signed: float = inf) -> Standing:
        """What holds for this user at this agent.

        :param now: seconds since the epoch.
        :param signed: when the user's certificate was.
        :raises AuthenticationFailed: the user is not there any more, be there a namesake, or is locked.
        :raises AccessDenied: a role of the user's is not there: it may be one that denies.
        :raises AgentOffline: auth was never heard.
        """
        self._must_have_heard()
        user = self._known["user"].get(identity.name)
        if user is None:
            raise AuthenticationFailed(f'user "{identity.name}" is not in this cluster any more')
        names, traits, created = user
        if signed < created:
            raise AuthenticationFailed(f'user "{identity.name}" was removed from this cluster since you logged in')
        self.check_host(host_id, now)
        targets = {("user", identity.name), *(("role", name) for name in names)}
        if identity.route is not None:
            targets.add(("db", identity.route.service))
        self._check_locks(targets, now)
        return Standing(self.roles(names), traits)

    def roles(self, names: Sequence[str]) -> tuple[Role, ...]:
        """The roles of these names; AccessDenied when one is not there."""
        self._must_have_heard()
        roles = self._known["role"]
        missing = [name for name in names if name not in roles]
        if missing:
            raise AccessDenied(
                f'access denied: your role "{missing[0]}" is not in the cluster any more; ask an administrator',
                reasons=[f"role {name} does not exist" for name in missing],
            )
        return tuple(roles[name] for name in names)

    def options(self, roles: Sequence[Role]) -> Limits:
        """The limits of these roles and the cluster's own, of each the strictest."""
        return combined_options([*roles, Role(name="", options=self._defaults)])

    def _must_have_heard(self) -> None:
        if not self._heard:
            raise AgentOffline("the agent has not heard from the auth service yet; try again in a moment")

    def check_host(self, host_id: str, now: float) -> None:
        """AuthenticationFailed when this agent, or a proxy, was removed or is locked."""
        if host_id in self._known["removed_host"]:
            raise AuthenticationFailed("the agent of this database was removed from the cluster; ask an administrator")
        lock = stopping(self._known["lock"].values(), {("server_id", host_id)}, now)
        if lock is not None:
            said = f": {lock.message}" if lock.message else ""
            raise AuthenticationFailed(f"the agent of this database is locked{said}; ask an administrator")

    def removed(self, host_id: str) -> bool:
        """Whether this host is no member of the cluster any more."""
        return host_id in self._known["removed_host"]

    def _check_locks(self, targets: set[tuple[str, str]], now: float) -> None:
        lock = stopping(self._known["lock"].values(), targets, now)
        if lock is not None:
            raise AuthenticationFailed(f"{lock.why}; ask an administrator")


def _read_role(name: str, resource: Mapping[str, Any]) -> Role:
    return parse_role(resource, where=f"role/{name}")


def _read_user(name: str, resource: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]], float]:
    spec = resource["spec"]
    traits = {str(key): tuple(map(str, values)) for key, values in (spec.get("traits") or {}).items()}
    return tuple(map(str, spec.get("roles") or ())), traits, float(spec.get("created") or 0)


#: How a resource of each kind that is watched is read.
_READERS: dict[str, Callable[[str, Mapping[str, Any]], Any]] = {
    "role": _read_role,
    "user": _read_user,
    "lock": read_lock,
    "db": lambda name, resource: parse_database(resource, where=f"db/{name}"),
    "removed_host": lambda name, resource: name,
}

#: What an agent hears of.
KINDS = tuple(_READERS)
