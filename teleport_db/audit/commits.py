"""Group commit: one fsync, in a thread, for all that was appended to a spool until it began.

::

    append, synced(go on) ──┐
    append, synced(go on) ──┤                       ┌── both go on
                            └──▶ fsync in a thread ─┘
    append, synced(go on) ────────────┘ waits for the next one
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from teleport_db.audit.spool import Spool
from teleport_db.errors import AuditUnavailable

#: Told that everything is on the disk, or why it cannot be trusted to be.
Told = Callable[[AuditUnavailable | None], None]


class GroupCommit:
    """Syncs one spool, one sync at a time.

    :param in_thread: runs a function outside of the reactor's thread.
    """

    def __init__(self, spool: Spool, in_thread: Callable[[Callable[[], Any]], Deferred[Any]]) -> None:
        self._spool, self._in_thread = spool, in_thread
        self._waiting: deque[tuple[int, Told]] = deque()
        self._running = False

    def synced(self, told: Told) -> None:
        """Have ``told`` called, in the order of these calls, when all that was appended until now is on the disk."""
        last = self._spool.last
        if self._spool.synced >= last and not self._waiting:
            told(None)
            return
        self._waiting.append((last, told))
        if not self._running:
            self._begin()

    def sync(self) -> Deferred[None]:
        """Fires when all that was appended until now is on the disk; fails with AuditUnavailable."""
        done: Deferred[None] = Deferred()

        def told(error: AuditUnavailable | None) -> None:
            if not done.called:
                done.errback(error) if error is not None else done.callback(None)

        self.synced(told)
        return done

    def _begin(self) -> None:
        try:
            sync = self._spool.begin_sync()
        except OSError as error:  # no descriptor is left: nothing was lost, and who comes next tries again
            self._refuse(error)
            return
        self._running = True
        maybeDeferred(self._in_thread, sync).addCallbacks(self._done, self._failed)

    def _done(self, number: int) -> None:
        self._spool.end_sync(number)
        while self._waiting and self._waiting[0][0] <= number:
            self._waiting.popleft()[1](None)
        self._running = False
        if self._waiting:
            self._begin()

    def _failed(self, reason: Failure) -> None:
        # The kernel may have dropped what it could not write and says so only once (fsyncgate, 2018).
        self._spool.failed(Exception(reason.getErrorMessage()))
        self._running = False
        self._refuse(reason.value or Exception(reason.getErrorMessage()))

    def _refuse(self, reason: BaseException) -> None:
        error = AuditUnavailable(detail=f"the spool could not be synced: {reason}")
        waiting, self._waiting = self._waiting, deque()
        for _, told in waiting:
            told(error)
