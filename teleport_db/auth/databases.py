"""Databases that are registered while agents run: ``kind: db``.

::

    /db/NAME  the resource, strictly read      agents hear of it by their watch, and serve those that their labels match
"""

from __future__ import annotations

from typing import Any

from teleport_db.api.resources import Resource, check_name
from teleport_db.auth import storing
from teleport_db.auth.recorder import Recorder
from teleport_db.config.databases import database_resource, parse_database
from teleport_db.errors import BadRequest, ConfigError, NotFound
from teleport_db.interfaces import IBackend, Item

PREFIX = "/db/"


def resource_of(item: Item) -> Resource:
    """A stored database as the API spells it."""
    return storing.described("db", item)


class Databases:
    """All registered databases of the cluster."""

    def __init__(self, backend: IBackend, recorder: Recorder) -> None:
        self._backend = backend
        self._recorder = recorder

    async def list(self) -> list[Resource]:
        """All, by name."""
        return [resource_of(item) for item in await self._backend.range(PREFIX)]

    async def get(self, name: str) -> Resource:
        """One; NotFound."""
        return resource_of(await self._item(name))

    async def _item(self, name: str) -> Item:
        try:
            return await self._backend.get(PREFIX + name)
        except NotFound:
            raise NotFound(
                f"there is no db/{name[:64]}; those of agents' own configurations are listed by tctl get db_server"
            ) from None

    async def create(self, resource: Resource, *, force: bool, by: str) -> Resource:
        """Register a database; AlreadyExists unless ``force``."""
        value = _parsed(resource)
        item, new = await storing.create(self._backend, PREFIX + resource.name, resource, value, force=force)
        await self._record("db.create" if new else "db.update", value, by)
        return resource_of(item)

    async def update(self, resource: Resource, *, by: str) -> Resource:
        """Replace the database of exactly this revision."""
        value = _parsed(resource)
        item = await storing.replace(self._backend, PREFIX + resource.name, resource, value)
        await self._record("db.update", value, by)
        return resource_of(item)

    async def delete(self, name: str, *, by: str) -> None:
        """Remove one: its agents drop it, and end its sessions."""
        item = await self._item(name)
        await self._backend.delete(PREFIX + name)
        await self._record("db.delete", item.value, by)

    async def _record(self, event: str, value: dict[str, Any], by: str) -> None:
        metadata, spec = value["metadata"], value["spec"]
        await self._recorder.record(
            event,
            user=by,
            name=metadata["name"],
            db_service=metadata["name"],
            db_protocol=spec["protocol"],
            db_uri=spec["uri"],
            db_labels=metadata.get("labels", {}),
        )


def _parsed(resource: Resource) -> dict[str, Any]:
    check_name("db", resource.name)
    if resource.expires:
        raise BadRequest("metadata.expires: a db does not expire; tctl rm removes it")
    shape = resource.to_json()
    shape["metadata"].pop("revision", None)
    try:
        return database_resource(parse_database(shape))
    except ConfigError as error:
        raise BadRequest(str(error)) from error
