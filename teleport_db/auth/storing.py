"""Writes a resource as two administrators need it: nobody overwrites silently what the other has just written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teleport_db.api.resources import Resource
from teleport_db.errors import AlreadyExists, NotFound, RevisionConflict
from teleport_db.interfaces import IBackend, Item


def reference(resource: Resource) -> str:
    """``role/dev``, as commands call it."""
    return f"{resource.kind}/{resource.name}"


def described(kind: str, item: Item) -> Resource:
    """A resource that is stored with its whole metadata, as the API spells it."""
    metadata = item.value["metadata"]
    return Resource(
        kind,
        metadata["name"],
        item.value["spec"],
        item.revision,
        labels=metadata.get("labels", {}),
        description=metadata.get("description", ""),
    )


def changed_meanwhile(what: str) -> RevisionConflict:
    """The refusal of a revision that is not the present one."""
    return RevisionConflict(
        f"{what} was changed by somebody else meanwhile; look at it again (tctl get {what}) and repeat your change"
    )


async def create(
    backend: IBackend,
    key: str,
    resource: Resource,
    value: Mapping[str, Any],
    *,
    force: bool,
    expires: float | None = None,
) -> tuple[Item, bool]:
    """Store a new resource; the item, and whether it is new indeed.

    :param force: replace what is there: of exactly the resource's revision, when it has one.
    :raises AlreadyExists: there is one, without ``force``.
    :raises RevisionConflict: it is of another revision.
    """
    try:
        return await backend.create(key, value, expires), True
    except AlreadyExists:
        if not force:
            what = reference(resource)
            raise AlreadyExists(
                f"there is a {what} already; tctl create --force replaces it, tctl edit {what} changes it"
            ) from None
    if resource.revision is None:
        return await backend.put(key, value, expires), False
    return await replace(backend, key, resource, value, expires), False


async def replace(
    backend: IBackend, key: str, resource: Resource, value: Mapping[str, Any], expires: float | None = None
) -> Item:
    """Replace the resource of exactly this revision; NotFound, RevisionConflict."""
    try:
        return await backend.compare_and_swap(key, resource.revision or 0, value, expires)
    except NotFound:
        raise NotFound(f"there is no {reference(resource)} any more") from None
    except RevisionConflict:
        raise changed_meanwhile(reference(resource)) from None
