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
from teleport_db.api.resources import check_name
from teleport_db.auth import body as fields
from teleport_db.auth.attendance import Attendance
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.times import rfc3339
from teleport_db.errors import AccessDenied, BadRequest, NotFound
from teleport_db.identity import Identity
from teleport_db.interfaces import IBackend

PREFIX = "/presence/"
#: Seconds an announcement holds; agents repeat it three times as often.
TTL = 45


@attrs.frozen
class Announced:
    """One database service, however many agents serve it.

    :param labels: those that all its agents agree on.
    :param variants: the labels of each agent; every agent decides on its own.
    """

    name: str
    description: str
    protocol: str
    uri: str
    labels: Mapping[str, str]
    agents: int = 1
    variants: tuple[Mapping[str, str], ...] = attrs.field(
        default=attrs.Factory(lambda self: (self.labels,), takes_self=True)
    )

    def visible(self, roles: Sequence[Role], traits: Mapping[str, tuple[str, ...]]) -> bool:
        """Whether one of its agents at least is shown to a user with these roles."""
        return any(visible(roles, traits, labels) for labels in self.variants)

    def allowed(
        self, roles: Sequence[Role], traits: Mapping[str, tuple[str, ...]]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The database users and names that are open at one of its agents at least, for people to read."""
        found = [allowed_names(roles, traits, labels) for labels in self.variants]
        users, names = ({text: None for pair in found for text in sorted(pair[which])} for which in (0, 1))
        return tuple(users), tuple(names)

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
    """One entry a name, in the order of the names: the first agent's, with the labels that all agree on."""
    found: dict[str, Announced] = {}
    for one in announced:
        known = found.get(one.name)
        if known is None:
            found[one.name] = one
            continue
        agreed = {key: value for key, value in known.labels.items() if one.labels.get(key) == value}
        variants = known.variants if one.labels in known.variants else (*known.variants, one.labels)
        found[one.name] = attrs.evolve(known, agents=known.agents + 1, labels=agreed, variants=variants)
    return [found[name] for name in sorted(found)]


class Presence:
    """The database services of the cluster."""

    def __init__(self, backend: IBackend, recorder: Recorder, *, clock: IReactorTime) -> None:
        self._backend = backend
        self._recorder = recorder
        self._clock = clock
        self.attendance = Attendance(backend, recorder)

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
        await self.attendance.up(host.name, now)
        await self._record(host.name, before, now)
        return {"ttl": TTL}

    async def leave(self, host: Identity) -> None:
        """A host stops cleanly; it is gone at once."""
        await self.forget(host.name, "left")

    async def forget(self, host_id: str, reason: str) -> None:
        """What a host had announced is not there any more.

        :param reason: for the audit log.
        """
        before = await self._of(host_id)
        try:
            await self._backend.delete(PREFIX + host_id)
        except NotFound:
            before = {}
        await self._record(host_id, before, {})
        await self.attendance.down(host_id, reason)

    async def servers(self) -> list[tuple[str, list[dict[str, Any]], str]]:
        """Each host with what it announced, and until when that holds (RFC 3339)."""
        items = await self._backend.range(PREFIX)
        return [
            (item.key.removeprefix(PREFIX), list(item.value["databases"]), rfc3339(item.expires or 0.0))
            for item in items
        ]

    async def _of(self, host_id: str) -> dict[str, dict[str, Any]]:
        try:
            item = await self._backend.get(PREFIX + host_id)
        except NotFound:
            return {}
        return {one["name"]: one for one in item.value["databases"]}

    async def _record(self, host_id: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
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
                user=host_id,
                server_id=host_id,
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
            if roles is not None and not one.visible(roles, traits):
                continue
            users, names = ((), ()) if roles is None else one.allowed(roles, traits)
            items.append({**one.value, "agents": one.agents, "users": list(users), "names": list(names)})
        return items

    async def visible_to(self, service: str, roles: Sequence[Role], traits: Mapping[str, tuple[str, ...]]) -> Announced:
        """One service; NotFound in the same words when there is none and when the user may not see it."""
        for one in await self.all():
            if one.name == service and one.visible(roles, traits):
                return one
        raise NotFound(f"there is no database {service[:64]!r}; `tsh db ls` lists those that you may use")
