"""Users as resources, and their credentials, which no resource shows.

::

    /user/NAME         {"roles": [...], "traits": {...}, "created": seconds}
    /credentials/NAME  see :mod:`teleport_db.auth.credentials`

An outstanding invite or reset is kept *in* the credentials, so that redeeming it is one
compare-and-swap: there is no moment in which it is used up and the password not yet set.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.access import Role
from teleport_db.api.resources import Resource, check_name
from teleport_db.auth import body as fields
from teleport_db.auth import storing
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.roles import Roles
from teleport_db.errors import AlreadyExists, BadRequest, NotFound
from teleport_db.interfaces import IBackend, Item

PREFIX, CREDENTIALS = "/user/", "/credentials/"
#: Bytes of roles and traits as JSON: they go into a certificate.
MAX_IDENTITY = 16384


@attrs.frozen
class User:
    """What a user is and may be.

    :param created: seconds since the epoch; certificates from before were a namesake's.
    """

    name: str
    roles: tuple[str, ...]
    traits: Mapping[str, tuple[str, ...]]
    created: int = 0


def user_of(item: Item) -> User:
    """A stored user."""
    traits = {key: tuple(values) for key, values in item.value["traits"].items()}
    return User(item.key.removeprefix(PREFIX), tuple(item.value["roles"]), traits, item.value.get("created", 0))


def resource_of(item: Item) -> Resource:
    """A stored user as the API spells it."""
    spec = {"roles": item.value["roles"], "traits": item.value["traits"]}
    return Resource("user", item.key.removeprefix(PREFIX), spec, item.revision)


def watched(item: Item) -> Resource:
    """The same as agents hear of it, with what they know a namesake's certificates by."""
    resource = resource_of(item)
    return attrs.evolve(resource, spec={**resource.spec, "created": item.value.get("created", 0)})


def parse_traits(spec: Mapping[str, Any]) -> dict[str, list[str]]:
    """Lists of literals by name."""
    given = fields.mapping(spec.get("traits") or {}, "traits")
    return {fields.text({"trait": key}, "trait", limit=64): list(fields.texts(given, key, ())) for key in given}


class Users:
    """All users of the cluster."""

    def __init__(self, backend: IBackend, recorder: Recorder, roles: Roles, *, clock: IReactorTime) -> None:
        self._backend = backend
        self._recorder = recorder
        self.roles = roles
        self._clock = clock

    async def find(self, name: str) -> User:
        """One; NotFound."""
        return user_of(await self._get(name))

    async def with_roles(self, name: str) -> tuple[User, list[Role]]:
        """A user and the roles it holds now; NotFound."""
        user = await self.find(name)
        return user, await self.roles.named(user.roles)

    async def _get(self, name: str) -> Item:
        try:
            return await self._backend.get(PREFIX + name)
        except NotFound:
            raise NotFound(f"there is no user {name[:64]!r}") from None

    async def _value(self, resource: Resource) -> dict[str, Any]:
        check_name("user", resource.name)
        if resource.expires:
            raise BadRequest("metadata.expires: a user does not expire; tctl lock stops one, tctl users rm removes one")
        unknown = set(resource.spec) - {"roles", "traits"}
        if unknown:
            raise BadRequest(f"a user has no spec.{sorted(unknown)[0][:64]}")
        roles = fields.texts(resource.spec, "roles", ("access",)) or ("access",)
        await self.roles.check_exist(roles)
        value = {"roles": list(roles), "traits": parse_traits(resource.spec), "created": int(self._clock.seconds())}
        if len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) > MAX_IDENTITY:
            raise BadRequest("a user's roles and traits are too large for a certificate")
        return value

    # The API.

    async def list(self) -> list[Resource]:
        """All, by name."""
        return [resource_of(item) for item in await self._backend.range(PREFIX)]

    async def get(self, name: str) -> Resource:
        """One; NotFound."""
        return resource_of(await self._get(name))

    async def create(self, resource: Resource, *, force: bool, by: str) -> Resource:
        """Store a user without a password; AlreadyExists unless ``force``, which keeps the password."""
        value = await self._value(resource)
        event = "user.create"
        try:
            item = await self._backend.create(PREFIX + resource.name, value)
            # Credentials of a namesake who was deleted while a reset was being made are nobody's.
            with contextlib.suppress(NotFound):
                await self._backend.delete(CREDENTIALS + resource.name)
        except AlreadyExists:
            if not force:
                raise AlreadyExists(f"there is a user {resource.name!r} already") from None
            with contextlib.suppress(NotFound):
                value["created"] = (await self._get(resource.name)).value.get("created", 0)
            item, _ = await storing.create(self._backend, PREFIX + resource.name, resource, value, force=True)
            event = "user.update"
        await self._recorder.record(event, user=by, name=resource.name, **_granted(value))
        return resource_of(item)

    async def update(self, resource: Resource, *, by: str) -> Resource:
        """Replace the user of exactly this revision."""
        value = await self._value(resource)
        value["created"] = (await self._get(resource.name)).value.get("created", 0)
        item = await storing.replace(self._backend, PREFIX + resource.name, resource, value)
        await self._recorder.record("user.update", user=by, name=resource.name, **_granted(value))
        return resource_of(item)

    async def delete(self, name: str, *, by: str) -> None:
        """Remove a user, the credentials first: what is left after a crash cannot log in."""
        await self._get(name)
        with contextlib.suppress(NotFound):
            await self._backend.delete(CREDENTIALS + name)
        await self._backend.delete(PREFIX + name)
        await self._recorder.record("user.delete", user=by, name=name)


def _granted(value: dict[str, Any]) -> dict[str, Any]:
    """What of a user an event has."""
    return {"roles": value["roles"], "traits": value["traits"] or None}
