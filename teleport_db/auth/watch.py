"""What changed since: a long poll over the newest changes, or a snapshot for who is too far behind.

A host asks without a revision and gets everything; then with the revision it got, and hears within one
write's time of each change, or after the timeout of none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from teleport_db.auth import databases, locks, removals, roles, users
from teleport_db.errors import BadRequest, LimitExceeded
from teleport_db.interfaces import Change, IBackend, Item

#: What can be watched: where it is kept, how it is shown.
KINDS: dict[str, tuple[str, Callable[[Item], Any]]] = {
    "role": (roles.PREFIX, roles.resource_of),
    "user": (users.PREFIX, users.watched),
    "lock": (locks.PREFIX, locks.resource_of),
    "db": (databases.PREFIX, databases.resource_of),
    "removed_host": (removals.PREFIX, removals.resource_of),
}
#: What a proxy needs of that; agents and auth hear of everything.
PROXY_KINDS = ("lock", "removed_host")
#: Changes kept for those who were away; seconds of one poll; polls at once.
KEPT, MAX_WAIT, MAX_WAITING = 4096, 60.0, 10_000


class Watch:
    """The newest changes of one backend."""

    def __init__(self, backend: IBackend, *, clock: IReactorTime, kept: int = KEPT) -> None:
        self._backend = backend
        self._clock = clock
        self._changes: deque[tuple[int, str, dict[str, Any]]] = deque()
        self._kept = kept
        #: Everything after this revision is in ``_changes``; and the newest that was seen.
        self._floor = self._newest = 0
        self._waiting: list[Deferred[None]] = []
        self._stops: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Remember changes from now on."""
        self._stops = [
            self._backend.watch(prefix, lambda change, kind=kind: self._changed(kind, change))  # type: ignore[misc]
            for kind, (prefix, _) in KINDS.items()
        ]
        revision = await self._backend.revision()
        self._floor = max(self._floor, revision)
        self._newest = max(self._newest, revision)

    def stop(self) -> None:
        """Hear no more; who waits is answered."""
        for stop in self._stops:
            stop()
        self._wake()

    def _changed(self, kind: str, change: Change) -> None:
        prefix, show = KINDS[kind]
        shown: dict[str, Any] = {"type": "delete", "kind": kind, "name": change.key.removeprefix(prefix)}
        if change.item is not None:
            shown["type"] = "put"
            shown["resource"] = show(change.item).to_json()
        self._changes.append((change.revision, kind, shown))
        self._newest = max(self._newest, change.revision)
        while len(self._changes) > self._kept:
            self._floor = max(self._floor, self._changes.popleft()[0])
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    async def changes(self, kinds: Sequence[str], since: int | None, wait: float) -> dict[str, Any]:
        """The answer of ``GET /v1/watch``.

        :param since: the revision of the last answer; None for a snapshot.
        :param wait: seconds to wait for the first change, at most a minute.
        """
        if not kinds or not set(kinds) <= set(KINDS):
            raise BadRequest(f"kinds are some of {', '.join(KINDS)}")
        if since is None or since < self._floor:
            return await self._snapshot(kinds)
        end = self._clock.seconds() + min(wait, MAX_WAIT)
        while True:
            found = [shown for revision, kind, shown in self._changes if revision > since and kind in kinds]
            left = end - self._clock.seconds()
            if found or left <= 0 or not self._stops:
                return {"revision": max(since, self._newest), "reset": False, "changes": found}
            await self._next(left)

    async def _next(self, seconds: float) -> None:
        """Until the next change of any kind, or that many seconds."""
        if len(self._waiting) >= MAX_WAITING:
            raise LimitExceeded("too many watch already")
        deferred: Deferred[None] = Deferred()
        self._waiting.append(deferred)
        call = self._clock.callLater(seconds, deferred.callback, None)
        try:
            await deferred
        finally:
            if call.active():
                call.cancel()
            if deferred in self._waiting:
                self._waiting.remove(deferred)

    async def _snapshot(self, kinds: Sequence[str]) -> dict[str, Any]:
        # The revision first: what changes while the rest is read is told again, and that does no harm.
        revision = await self._backend.revision()
        changes = [
            {
                "type": "put",
                "kind": kind,
                "name": item.key.removeprefix(KINDS[kind][0]),
                "resource": KINDS[kind][1](item).to_json(),
            }
            for kind in kinds
            for item in await self._backend.range(KINDS[kind][0])
        ]
        return {"revision": revision, "reset": True, "changes": changes}
