"""Which database services there are now: what agents announce, and goes away when they stop to.

::

    /presence/HOST-ID  {"databases": [{"name", "description", "protocol", "uri", "labels"}]}   45 seconds
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.access import Role, allowed_names, visible
from teleport_db.api.resources import Resource, check_name
from teleport_db.auth import body as fields
from teleport_db.auth.recorder import Recorder
from teleport_db.errors import AccessDenied, BadRequest, NotFound
from teleport_db.identity import Identity
from teleport_db.interfaces import IBackend

PREFIX = "/presence/"
#: Seconds an announcement holds; agents repeat it three times as often.
TTL = 45


@attrs.frozen
class Announced:
    """One database service, however many agents serve it."""

    name: str
    description: str
    protocol: str
    uri: str
    labels: Mapping[str, str]
    agents: int = 1

    @property
    def value(self) -> dict[str, Any]:
        """As it is stored and shown."""
        return {
            "name": self.name,
            "description": self.description,
            "protocol": self.protocol,
            "uri": self.uri,
            "labels": dict(self.labels),
        }


def parse(value: Mapping[str, Any]) -> Announced:
    """One database service of an announcement."""
    protocol = fields.text(value, "protocol", "postgres", limit=64)
    if protocol != "postgres":
        raise BadRequest("protocol is postgres")
    return Announced(
        check_name("db", fields.text(value, "name")),
        fields.text(value, "description", ""),
        protocol,
        fields.text(value, "uri", "", limit=1024),
        fields.labels(value),
    )


def merge(announced: Sequence[Announced]) -> list[Announced]:
    """One entry a name, the first agent's, in the order of the names."""
    found: dict[str, Announced] = {}
    for one in announced:
        known = found.get(one.name)
        found[one.name] = one if known is None else attrs.evolve(known, agents=known.agents + 1)
    return [found[name] for name in sorted(found)]


class Presence:
    """The database services of the cluster."""

    def __init__(self, backend: IBackend, recorder: Recorder, *, clock: IReactorTime) -> None:
        self._backend = backend
        self._recorder = recorder
        self._clock = clock

    async def announce(self, host: Identity, databases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Store what a host serves, for :data:`TTL` seconds; AccessDenied outside of its scope."""
        parsed = [parse(value) for value in databases]
        now = {one.name: one.value for one in parsed}
        if len(now) != len(parsed):
            raise BadRequest("a database service is announced twice")
        outside = sorted(set(now) - set(host.scope)) if host.scope is not None else []
        if outside:
            raise AccessDenied(f"the join token of this agent does not allow the database {outside[0]!r}")
        before = await self._of(host.name)
        await self._backend.put(PREFIX + host.name, {"databases": list(now.values())}, self._clock.seconds() + TTL)
        await self._record(host, before, now)
        return {"ttl": TTL}

    async def leave(self, host: Identity) -> None:
        """A host stops cleanly; it is gone at once."""
        before = await self._of(host.name)
        try:
            await self._backend.delete(PREFIX + host.name)
        except NotFound:
            return
        await self._record(host, before, {})

    async def _of(self, host_id: str) -> dict[str, dict[str, Any]]:
        try:
            item = await self._backend.get(PREFIX + host_id)
        except NotFound:
            return {}
        return {one["name"]: one for one in item.value["databases"]}

    async def _record(self, host: Identity, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for name in sorted(set(before) | set(now)):
            if name not in before:
                event = "db.create"
            elif name not in now:
                event = "db.delete"
            elif before[name] != now[name]:
                event = "db.update"
            else:
                continue
            one = now.get(name) or before[name]
            await self._recorder.record(
                event,
                user=host.name,
                server_id=host.name,
                name=name,
                db_service=name,
                db_protocol=one["protocol"],
                db_uri=one["uri"],
            )

    async def all(self) -> list[Announced]:
        """Every database service that somebody serves now, by name."""
        items = await self._backend.range(PREFIX)
        return merge([Announced(**value) for item in items for value in item.value["databases"]])

    async def listing(
        self, roles: Sequence[Role] | None, traits: Mapping[str, tuple[str, ...]]
    ) -> list[dict[str, Any]]:
        """The answer of ``GET /v1/databases``; without roles, everything."""
        items = []
        for one in await self.all():
            if roles is not None and not visible(roles, traits, one.labels):
                continue
            users, names = ([], []) if roles is None else allowed_names(roles, traits, one.labels)
            items.append({**one.value, "agents": one.agents, "users": list(users), "names": list(names)})
        return items

    async def visible_to(self, service: str, roles: Sequence[Role], traits: Mapping[str, tuple[str, ...]]) -> Announced:
        """One service; NotFound in the same words when there is none and when the user may not see it."""
        for one in await self.all():
            if one.name == service and visible(roles, traits, one.labels):
                return one
        raise NotFound(f"there is no database {service[:64]!r}; `tsh db ls` lists those that you may use")

    async def resources(self) -> list[Resource]:
        """All of them as ``kind: db``."""
        return [
            Resource(
                "db", one.name, {key: one.value[key] for key in ("description", "protocol", "uri")}, labels=one.labels
            )
            for one in await self.all()
        ]
