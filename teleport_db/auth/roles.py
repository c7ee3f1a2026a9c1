"""Roles as resources; what they mean is in :mod:`teleport_db.access`."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from teleport_db.access import Role, builtin_roles, parse_role, role_resource
from teleport_db.api.resources import Resource, check_name
from teleport_db.auth import storing
from teleport_db.auth.recorder import Recorder
from teleport_db.errors import AlreadyExists, BadRequest, ConfigError, NotFound
from teleport_db.interfaces import IBackend, Item

PREFIX, USERS = "/role/", "/user/"
#: Stored once the built-in roles are, so that one that was deleted stays deleted.
PRESETS = "/cluster/presets"
#: Bytes of a role's ``spec`` that an event has.
MAX_RECORDED = 16 << 10


def resource_of(item: Item) -> Resource:
    """A stored role as the API spells it."""
    return storing.described("role", item)


def role_of(item: Item) -> Role:
    """A stored role as the checker wants it."""
    return parse_role(item.value)


class Roles:
    """All roles of the cluster."""

    def __init__(self, backend: IBackend, recorder: Recorder) -> None:
        self._backend = backend
        self._recorder = recorder

    async def start(self) -> None:
        """At the first start, store the built-in roles."""
        try:
            await self._backend.get(PRESETS)
            return
        except NotFound:
            pass
        for name, role in builtin_roles().items():
            with contextlib.suppress(AlreadyExists):
                await self._backend.create(PREFIX + name, role_resource(role))
        await self._backend.put(PRESETS, {"version": 1})

    async def named(self, names: Iterable[str]) -> list[Role]:
        """Those of ``names`` that exist: a role that was deleted gives nothing."""
        found: list[Role] = []
        for name in names:
            with contextlib.suppress(NotFound):
                found.append(role_of(await self._backend.get(PREFIX + name)))
        return found

    async def check_exist(self, names: Iterable[str]) -> None:
        """NotFound for the first of ``names`` that is no role."""
        for name in names:
            check_name("role", name)
            try:
                await self._backend.get(PREFIX + name)
            except NotFound:
                raise NotFound(f"there is no role {name!r}; create it first") from None

    # The API.

    async def list(self) -> list[Resource]:
        """All, by name."""
        return [resource_of(item) for item in await self._backend.range(PREFIX)]

    async def get(self, name: str) -> Resource:
        """One; NotFound."""
        try:
            return resource_of(await self._backend.get(PREFIX + name))
        except NotFound:
            raise NotFound(f"there is no role {name!r}") from None

    async def create(self, resource: Resource, *, force: bool, by: str) -> Resource:
        """Store a role; AlreadyExists unless ``force``."""
        value = _parsed(resource)
        item, new = await storing.create(self._backend, PREFIX + resource.name, resource, value, force=force)
        await self._written("role.created" if new else "role.updated", value, by)
        return resource_of(item)

    async def update(self, resource: Resource, *, by: str) -> Resource:
        """Replace the role of exactly this revision."""
        value = _parsed(resource)
        item = await storing.replace(self._backend, PREFIX + resource.name, resource, value)
        await self._written("role.updated", value, by)
        return resource_of(item)

    async def _written(self, event: str, value: dict[str, Any], by: str) -> None:
        """Say what the role is now; of one that is too long for an event, which one it is."""
        spec: dict[str, Any] = {"spec": value["spec"]}
        encoded = json.dumps(value["spec"], sort_keys=True).encode()
        if len(encoded) > MAX_RECORDED:
            spec = {"spec_sha256": hashlib.sha256(encoded).hexdigest()}
        await self._recorder.record(event, user=by, name=value["metadata"]["name"], **spec)

    async def delete(self, name: str, *, by: str) -> None:
        """Remove a role that no user holds."""
        for item in await self._backend.range(USERS):
            if name in item.value["roles"]:
                user = item.key.removeprefix(USERS)
                raise BadRequest(f"the role {name!r} is held by the user {user!r}; take it away first")
        try:
            await self._backend.delete(PREFIX + name)
        except NotFound:
            raise NotFound(f"there is no role {name!r}") from None
        await self._recorder.record("role.deleted", user=by, name=name)


def _parsed(resource: Resource) -> dict[str, Any]:
    check_name("role", resource.name)
    if resource.expires:
        raise BadRequest("metadata.expires: a role does not expire; a lock with an end stops it, tctl rm removes it")
    shape = resource.to_json()
    shape["metadata"].pop("revision", None)
    try:
        return role_resource(parse_role(shape))
    except ConfigError as error:
        raise BadRequest(str(error)) from error
