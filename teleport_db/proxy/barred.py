"""Hosts that a proxy does not know any more: those that were removed, and those that are locked.

A certificate cannot be taken back; so the proxy hears of removals and locks as agents do, closes the tunnels of
whom they name, and refuses them from then on.  While auth is away what was known last holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime

from teleport_db.api.locks import Lock, read_lock, stopping
from teleport_db.errors import AuthenticationFailed
from teleport_db.identity import Identity

#: What is watched.
KINDS = ("lock", "removed_host")


class Barred:
    """Knows who is locked or was removed.

    :param changed: called when there is more to know.
    """

    def __init__(self, *, clock: IReactorTime, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._locks: dict[str, Lock] = {}
        self._removed: frozenset[str] = frozenset()

    def apply(self, answer: Mapping[str, Any]) -> None:
        """Take over what a watch answered; all of it or nothing."""
        reset = bool(answer.get("reset"))
        locks = {} if reset else dict(self._locks)
        removed: set[str] = set() if reset else set(self._removed)
        for change in answer.get("changes", ()):
            name, gone = change["name"], change["type"] == "delete"
            if change["kind"] == "lock":
                locks.pop(name, None)
                if not gone:
                    locks[name] = read_lock(name, change["resource"])
            elif change["kind"] == "removed_host":
                (removed.discard if gone else removed.add)(name)
        self._locks, self._removed = locks, frozenset(removed)
        if reset or answer.get("changes"):
            self._changed()

    def check(self, identity: Identity) -> None:
        """AuthenticationFailed when this host is not let in any more."""
        if identity.name in self._removed:
            raise AuthenticationFailed(f"host {identity.name} was removed from the cluster")
        lock = stopping(self._locks.values(), {("server_id", identity.name)}, self._clock.seconds())
        if lock is not None:
            raise AuthenticationFailed(lock.why)
