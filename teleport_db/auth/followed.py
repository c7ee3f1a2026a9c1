"""What is stored under a prefix, in memory because every call asks for it: read once, then fed by a watch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from teleport_db.interfaces import Change, IBackend, Item

T = TypeVar("T")


class Followed(Generic[T]):
    """Keeps what :meth:`_read` makes of each item.

    :ivar _known: by the part of the key behind the prefix.
    """

    def __init__(self, backend: IBackend, prefix: str) -> None:
        self._backend = backend
        self._prefix = prefix
        self._known: dict[str, T] = {}
        self._stop: Callable[[], None] | None = None

    async def start(self) -> None:
        """Read all there are, and from now on hear of every change."""
        self._stop = self._backend.watch(self._prefix, self._changed)
        for item in await self._backend.range(self._prefix):
            self._changed(Change(item.key, item.revision, item))

    def stop(self) -> None:
        """Hear no more."""
        if self._stop is not None:
            self._stop()

    def _changed(self, change: Change) -> None:
        name = change.key.removeprefix(self._prefix)
        if change.item is None:
            self._known.pop(name, None)
        else:
            self._known[name] = self._read(name, change.item)

    def _read(self, name: str, item: Item) -> T:
        """What is to be kept of an item."""
        raise NotImplementedError
