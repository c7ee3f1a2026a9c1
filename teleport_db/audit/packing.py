"""Packs the closed files of the audit log, in a thread: a member of 64 KiB, a rest, a member ...

::

    a file is closed ── 0.2 s ──▶ its members, with a rest behind each while the log grows ─▶ it is packed ─▶ the next
                                  retention, the end: what is begun waits, or is given up; the plain file is whole

A member takes half a millisecond, and the rest while the log grows is 99 times as long: a hundredth of one thread, some
0.5 to 1 MB of the log a second.  A load that writes more for long may not fill the disk with plain files: the rest is
the shorter the more waits, and there is none when :data:`MOST` does.  When the log does not grow, 60 to 100 MB a second
are packed, unless others want the processors.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.audit import housekeeping
from teleport_db.audit.checkpoints import Point, no_point
from teleport_db.audit.housekeeping import PackedFile
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.pace import Growth, Leisurely
from teleport_db.audit.shipping import ThreadHook

T = TypeVar("T")

#: How many times as long as a member took the rest behind it is while the log grows.
REST = 99

#: Bytes that wait to be packed from which on there is no rest.
MOST = 1 << 30

#: Members of one step.
STEP = 16


class Packing:
    """The packing of one log's files.

    :param growth: whether the log grows.
    :param in_thread: one thread, in which files are packed; others of the log's may use it by :meth:`urgent`.
    :param at: see :data:`teleport_db.audit.checkpoints.Point`.
    :param elapsed: seconds of a clock that only goes forward, called in that thread; ``used`` as of
        :class:`~teleport_db.audit.pace.Leisurely`.
    """

    log = Logger()

    def __init__(
        self,
        directory: Path,
        *,
        growth: Growth,
        clock: IReactorTime,
        in_thread: ThreadHook,
        at: Point = no_point,
        elapsed: Callable[[], float] = time.monotonic,
        used: Callable[[], float] | None = time.thread_time,
    ) -> None:
        self._directory, self._at = directory, at
        self._files: list[tuple[LogFile, int]] = []  # that wait, and their bytes
        self._file: PackedFile | None = None
        self._stale = True
        self._work = Leisurely(
            self._step,
            growth=growth,
            times=self._times,
            failed=self._failed,
            clock=clock,
            in_thread=in_thread,
            elapsed=elapsed,
            used=used,
        )

    def notify(self) -> None:
        """There may be a file that is closed and not packed."""
        self._stale = True
        self._work.notify()

    def urgent(self, function: Callable[[], T]) -> Deferred[T]:
        """Call a function in the thread, however much there is to pack."""
        return self._work.urgent(function)

    def stop(self) -> Deferred[None]:
        """Give up what is begun; fires when the thread does no more."""
        return self._work.stop(self._abandon)

    def _failed(self, failure: Failure) -> None:
        self.log.failure("old audit files stay as they are", failure)

    # In the thread.

    def _step(self) -> float | None:
        try:
            if self._stale:
                self._look()
            for _ in range(STEP):
                if not self._pack():
                    return None
                if not self._work.rest():
                    break
        except Exception:
            self._abandon()
            raise
        return 0

    def _look(self) -> None:
        """See what there is to pack; what is begun is gone on with."""
        self._stale = False
        self._files = [
            (file, (self._directory / file.name).stat().st_size) for file in housekeeping.unpacked(self._directory)
        ]
        if self._file is not None:  # it is the first of them, unless it was removed meanwhile
            self._files = [entry for entry in self._files if entry[0] != self._file.file]

    def _pack(self) -> bool:
        """One member, or the end of a file; False when there is nothing to pack."""
        while self._file is None:
            if not self._files:
                return False
            file, _ = self._files.pop(0)
            if (self._directory / file.name).exists():
                self._file = PackedFile(self._directory, file, at=self._at)
        if not self._file.pack():
            self._file = None
        return True

    def _times(self) -> float:
        return REST * max(0.0, 1 - sum(size for _, size in self._files) / MOST)

    def _abandon(self) -> None:
        file, self._file, self._stale = self._file, None, True
        if file is not None:
            with contextlib.suppress(OSError):
                file.abandon()
