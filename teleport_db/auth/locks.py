"""Locks: they stop a user, all holders of a role, a host, or a database service, now and everywhere."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.api.resources import Resource, check_name
from teleport_db.auth import body as fields
from teleport_db.auth import storing
from teleport_db.auth.followed import Followed
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.times import rfc3339, seconds_of
from teleport_db.errors import AccessDenied, BadRequest, NotFound
from teleport_db.identity import Identity
from teleport_db.interfaces import IBackend, Item

PREFIX = "/lock/"
#: What a lock's target may name; ``node`` is Teleport's older word for ``server_id``.
TARGETS = ("user", "role", "server_id", "db")
WORDS = {"user": "user", "role": "role", "server_id": "host", "db": "database service"}


@attrs.frozen
class Lock:
    """One lock that holds until ``expires`` (seconds since the epoch, None for ever)."""

    name: str
    target: tuple[str, str]
    message: str
    expires: float | None


def resource_of(item: Item) -> Resource:
    """A stored lock as the API spells it."""
    expires = rfc3339(item.expires) if item.expires is not None else ""
    spec = {key: value for key, value in item.value.items() if value}
    return Resource("lock", item.key.removeprefix(PREFIX), spec, item.revision, expires)


class Locks(Followed[Lock]):
    """All locks of the cluster."""

    def __init__(self, backend: IBackend, recorder: Recorder, *, clock: IReactorTime) -> None:
        super().__init__(backend, PREFIX)
        self._recorder = recorder
        self._clock = clock

    def _read(self, name: str, item: Item) -> Lock:
        ((kind, value),) = item.value["target"].items()
        return Lock(name, (kind, value), item.value.get("message", ""), item.expires)

    def check_user(self, name: str, roles: tuple[str, ...]) -> None:
        """Raise AccessDenied when a lock stops this user."""
        self._check({("user", name), *(("role", role) for role in roles)})

    def check(self, identity: Identity) -> None:
        """Raise AccessDenied when a lock stops whoever holds this identity."""
        if identity.kind == "user":
            self.check_user(identity.name, identity.roles)
        else:
            self._check({("server_id", identity.name)})

    def check_database(self, name: str) -> None:
        """Raise AccessDenied when a lock stops this database service."""
        self._check({("db", name)})

    def _check(self, targets: set[tuple[str, str]]) -> None:
        now = self._clock.seconds()
        for lock in self._known.values():
            if lock.target in targets and (lock.expires is None or lock.expires > now):
                kind, value = lock.target
                message = f": {lock.message}" if lock.message else ""
                raise AccessDenied(f"{WORDS[kind]} {value!r} is locked{message}", reasons=(f"lock {lock.name}",))

    # The API.

    async def list(self) -> list[Resource]:
        """All that hold, by name."""
        return [resource_of(item) for item in await self._backend.range(PREFIX)]

    async def get(self, name: str) -> Resource:
        """One; NotFound."""
        try:
            return resource_of(await self._backend.get(PREFIX + name))
        except NotFound:
            raise NotFound(f"there is no lock/{name[:64]}") from None

    async def create(self, resource: Resource, *, force: bool, by: str) -> Resource:
        """Store a lock; it holds from the moment this answers."""
        value, expires = self._parsed(resource)
        item, _ = await storing.create(
            self._backend, PREFIX + check_name("lock", resource.name), resource, value, force=force, expires=expires
        )
        return await self._written(item, by)

    async def update(self, resource: Resource, *, by: str) -> Resource:
        """Replace the lock of exactly this revision."""
        value, expires = self._parsed(resource)
        item = await storing.replace(self._backend, PREFIX + resource.name, resource, value, expires)
        return await self._written(item, by)

    async def _written(self, item: Item, by: str) -> Resource:
        lock = resource_of(item)
        await self._recorder.record(
            "lock.created",
            user=by,
            name=lock.name,
            target=item.value["target"],
            message=item.value.get("message") or None,
            expires=lock.expires or None,
        )
        return lock

    async def delete(self, name: str, *, by: str) -> None:
        """Remove one; NotFound."""
        try:
            await self._backend.delete(PREFIX + name)
        except NotFound:
            raise NotFound(f"there is no lock/{name[:64]}; tctl get locks lists them") from None
        await self._recorder.record("lock.deleted", user=by, name=name)

    def _parsed(self, resource: Resource) -> tuple[dict[str, Any], float | None]:
        spec = dict(resource.spec)
        target = fields.mapping(spec.pop("target", None), "spec.target")
        named = {("server_id" if kind == "node" else kind): value for kind, value in target.items() if value}
        if len(named) != 1 or not set(named) <= set(TARGETS):
            raise BadRequest(f"a lock's spec.target names one of {', '.join(TARGETS)}")
        kind = next(iter(named))
        message, when = fields.text(spec, "message", ""), fields.text(spec, "expires", "") or resource.expires
        if not message.isprintable():
            raise BadRequest("spec.message is one line, without control characters: it is shown in terminals")
        if resource.expires and when != resource.expires:
            raise BadRequest("metadata.expires and spec.expires differ; one of them is enough")
        unknown = set(spec) - {"message", "expires"}
        if unknown:
            raise BadRequest(f"a lock has no spec.{sorted(unknown)[0]}")
        value = {"target": {kind: fields.text(named, kind)}, "message": message}
        expires = seconds_of(when) if when else None
        if expires is not None and expires <= self._clock.seconds():
            raise BadRequest("the lock would be over before it begins")
        return value, expires
