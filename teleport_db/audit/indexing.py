"""Keeps the index of the audit log up to date, in a thread, and asks it.

::

    written ── 0.2 s ──▶ 500 lines at a time, and while more are written a rest 19 times as long ──▶ until no more
    asked   ───────────▶ all that is missing, without a rest, for at most 5 s ──▶ what is found, or how far it is

So under a load that keeps the machine busy the index takes a twentieth of one thread, and falls behind; it catches up
when the load is over, and who asks waits for what is missing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.audit.finding import Finder
from teleport_db.audit.index import Index
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.shipping import ThreadHook
from teleport_db.audit.writing import Position
from teleport_db.errors import AuditUnavailable

T = TypeVar("T")

#: Seconds that a first line waits for others to come along.
GATHER = 0.2

#: Lines of one step, and how many times as long as it took the rest behind it is while the log grows.
STEP, REST = 500, 19

#: Seconds without a new line after which the log does not grow.
QUIET = 1.0

#: Seconds of a breath: enough for another thread to wake up.
BREATH_SECONDS = 0.0002

#: Lines of one step for who asks.
ASKED = 2000

#: Seconds that who asks waits for what the index lacks.
PATIENCE = 5.0


@attrs.frozen
class Behind:
    """The index lacks ``missing`` of ``total`` lines."""

    missing: int
    total: int


class Indexing:
    """The index of one log.

    :param durable: the end of the log that is on the disk.
    :param clock: for rests.
    :param in_thread: one thread, in which the index is used.
    :param elapsed: seconds of a clock that only goes forward, called in that thread; ``sleep`` likewise.
    """

    log = Logger()

    def __init__(
        self,
        directory: Path,
        durable: Callable[[], Position],
        *,
        clock: IReactorTime,
        in_thread: ThreadHook,
        elapsed: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory, self._durable, self._clock = directory, durable, clock
        self._in_thread, self._elapsed, self._sleep = in_thread, elapsed, sleep
        self._index: Index | None = None
        self._finder: Finder | None = None
        self._timer: IDelayedCall | None = None
        self._stepping = False
        self._stopped = False
        self._grown = 0.0  # when the log did

    def notify(self) -> None:
        """There are more lines.  Cheap."""
        self._grown = self._clock.seconds()
        if self._timer is None and not self._stepping and not self._stopped:
            self._timer = self._clock.callLater(GATHER, self._step)

    def ask(self, question: Callable[[Finder], T]) -> Deferred[T | Behind]:
        """Ask once the index has all that is durable now; :class:`Behind` when that takes too long.

        Fails with AuditUnavailable when the index cannot be used.
        """
        durable = self._durable()

        def asked() -> T | Behind:
            end = self._elapsed() + PATIENCE
            index, finder = self._open()
            while index.place.count < durable.count:
                if not index.step((durable.file, durable.size), ASKED):
                    break
                if self._elapsed() > end:
                    return Behind(durable.count - index.place.count, durable.count)
            return question(finder)

        answer: Deferred[T | Behind] = self._in_thread(asked)
        return answer.addErrback(self._unusable)

    def forget(self, oldest: LogFile) -> Deferred[None]:
        """The log's files before this one are gone."""
        gone: Deferred[None] = self._in_thread(lambda: self._open()[0].forget(oldest))
        return gone.addErrback(lambda failure: self.log.failure("the audit log's index keeps old rows", failure))

    def stop(self) -> Deferred[None]:
        """Close the index when nothing uses it any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._in_thread(self._close)

    # In the thread.

    def _open(self) -> tuple[Index, Finder]:
        if self._index is None or self._finder is None:
            self._index = Index(self._directory)
            self._finder = Finder(self._index)
        return self._index, self._finder

    def _breathe(self) -> None:
        """Let the reactor's thread have the interpreter: it would wait for it some milliseconds at each system call."""
        self._sleep(BREATH_SECONDS)

    def _close(self) -> None:
        if self._finder is not None and self._index is not None:
            self._finder.close()
            self._index.close()
        self._index = self._finder = None

    # In the reactor's.

    def _step(self) -> None:
        self._timer, self._stepping = None, True
        durable = self._durable()

        def step() -> tuple[float, int]:
            begun = self._elapsed()
            index, _ = self._open()
            taken = index.step((durable.file, durable.size), STEP, self._breathe)
            return self._elapsed() - begun, taken

        self._in_thread(step).addCallbacks(self._stepped, self._failed)

    def _stepped(self, outcome: tuple[float, int]) -> None:
        self._stepping = False
        took, taken = outcome
        if self._stopped:
            return
        if taken == STEP:
            grows = self._clock.seconds() - self._grown < QUIET
            self._timer = self._clock.callLater(took * REST if grows else 0, self._step)
        elif taken and self._index is not None and self._index.place.count < self._durable().count:
            self.notify()

    def _failed(self, failure: Failure) -> None:
        self._stepping = False
        self.log.failure("the audit log's index could not be written", failure)

    def _unusable(self, failure: Failure) -> Any:
        if failure.check(sqlite3.Error, OSError):
            raise AuditUnavailable(
                "the audit log's index cannot be used; delete it, and it is made anew",
                detail=failure.getErrorMessage(),
            )
        return failure
