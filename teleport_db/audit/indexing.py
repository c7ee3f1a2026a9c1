"""Keeps the index of the audit log up to date, in a thread, and asks it.

::

    written ── 0.2 s ──▶ five lines at a time, and while more are written a rest 49 times as long ──▶ until no more
    asked   ───────────▶ all that is missing, without a rest, for at most 5 s ──▶ what is found, or how far it is

So under a load that keeps the machine busy the index takes a fiftieth of a thread, some 800 lines a second, and
falls behind; it catches up when the load is over, and who asks waits for what is missing.  Once it is so far behind
that nobody who asks could wait for it, nothing is to be gained before that: the rest is 199 times as long.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.audit.finding import Finder
from teleport_db.audit.index import Index
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.pace import BREATH, GATHER, Growth, Leisurely
from teleport_db.audit.shipping import ThreadHook
from teleport_db.audit.writing import Position
from teleport_db.errors import AuditUnavailable

T = TypeVar("T")

#: Lines of one step, and how many times as long as some took the rest behind them is while the log grows.
STEP, REST = 500, 49

#: Lines that are missing from which on who asks could not wait for them, and how long the rest is then.
HOPELESS, LONG_REST = 200_000, 199

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
    :param growth: whether the log grows.
    :param in_thread: one thread, in which the index is used.
    :param elapsed: seconds of a clock that only goes forward, called in that thread.
    """

    log = Logger()

    def __init__(
        self,
        directory: Path,
        durable: Callable[[], Position],
        *,
        growth: Growth,
        clock: IReactorTime,
        in_thread: ThreadHook,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._durable, self._elapsed = directory, durable, elapsed
        self._index: Index | None = None
        self._finder: Finder | None = None
        self._work = Leisurely(
            self._step,
            growth=growth,
            times=self._rest,
            failed=self._failed,
            clock=clock,
            in_thread=in_thread,
            least=BREATH,
            elapsed=elapsed,
        )
        self.notify = self._work.notify

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

        answer: Deferred[T | Behind] = self._work.urgent(asked)
        return answer.addErrback(self._unusable)

    def forget(self, oldest: LogFile) -> Deferred[None]:
        """The log's files before this one are gone."""
        gone = self._work.urgent(lambda: self._open()[0].forget(oldest))
        return gone.addErrback(lambda failure: self.log.failure("the audit log's index keeps old rows", failure))

    def stop(self) -> Deferred[None]:
        """Close the index when nothing uses it any more."""
        return self._work.stop(self._close)

    # In the thread.

    def _open(self) -> tuple[Index, Finder]:
        if self._index is None or self._finder is None:
            self._index = Index(self._directory)
            self._finder = Finder(self._index)
        return self._index, self._finder

    def _step(self) -> float | None:
        durable = self._durable()
        index, _ = self._open()
        taken = index.step((durable.file, durable.size), STEP, self._work.rest)
        self._work.rest()
        if taken == STEP:
            return 0
        return GATHER if taken and index.place.count < self._durable().count else None

    def _rest(self) -> float:
        behind = 0 if self._index is None else self._durable().count - self._index.place.count
        return REST if behind < HOPELESS else LONG_REST

    def _close(self) -> None:
        if self._finder is not None and self._index is not None:
            self._finder.close()
            self._index.close()
        self._index = self._finder = None

    # In the reactor's.

    def _failed(self, failure: Failure) -> None:
        self.log.failure("the audit log's index could not be written", failure)

    def _unusable(self, failure: Failure) -> Any:
        if failure.check(sqlite3.Error, OSError):
            raise AuditUnavailable(
                "the audit log's index cannot be used; delete it, and it is made anew",
                detail=failure.getErrorMessage(),
            )
        return failure
