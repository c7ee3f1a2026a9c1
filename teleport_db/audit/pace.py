"""Work on the audit log that can wait, in a thread: it rests while the log grows, and where others want the processors.

::

    more to do ── 0.2 s ──▶ a bit, a rest many times as long, a bit, a rest ...   while the log grows
                            bit after bit, and such a rest behind one that was kept waiting      when it does not
    urgent     ───────────▶ no rests; what is urgent runs when the step of some bits is over, then the work goes on

A bit is well under a millisecond, so that the reactor's thread waits for no more than that for the interpreter or a
core; and a load that keeps the machine busy is left what it needs.  Rests are a multiple of what the bit took by the
clock: on a busy machine work takes longer, and so do the rests.  Not every load makes the log grow, a long COPY does
not: that others want the processors, or the interpreter, is seen by a bit that took longer than it was running.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from teleport_db.audit.shipping import ThreadHook, inline

T = TypeVar("T")

#: Seconds that a first line waits for others to come along.
GATHER = 0.2

#: Lines in a second from which on the log grows; a statement now and then is no load.
FEW = 100

#: Seconds without so many after which it does not.
QUIET = 1.0

#: How many times as long as it was running a bit takes that was kept waiting, and how many seconds longer at least.
KEPT_WAITING, LONGER = 2.0, 0.0005

#: Seconds of the longest rest, so that there is some pace however slow the machine is.
LONGEST = 2.0

#: Seconds of a breath: enough for another thread to wake up.
BREATH = 0.0001

#: Seconds of work that need no rest while the log does not grow.
BIT = 0.0004


class Growth:
    """Whether the log grows.

    :param clock: ``seconds()`` since the epoch, asked in any thread.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._since, self._lines, self._last = 0.0, 0, 0.0

    def add(self, lines: int) -> None:
        """So many lines were written."""
        now = self._clock.seconds()
        if not 0 <= now - self._since < QUIET:
            self._since, self._lines = now, 0
        self._lines += lines
        if self._lines >= FEW:
            self._last = now

    def __bool__(self) -> bool:
        return 0 <= self._clock.seconds() - self._last < QUIET


class Leisurely:
    """Such work.

    :param step: does some bits of it in the thread, :meth:`rest` behind each; seconds after which the next step is due,
        None when all is done.
    :param times: how many times as long as a bit took the rest behind it is while the log grows; called in the thread.
    :param least: seconds of a rest behind any work of :data:`BIT` at any time.
    :param failed: told why a step was the last one until :meth:`notify` is called.
    :param elapsed: seconds of a clock that only goes forward, called in the thread.
    :param used: seconds of processor time that the thread has used; None does not look at others.
    :param wait: waits so many seconds in the thread; without it, less when something is urgent.
    """

    def __init__(
        self,
        step: Callable[[], float | None],
        *,
        growth: Growth,
        times: Callable[[], float],
        failed: Callable[[Failure], None],
        clock: IReactorTime,
        in_thread: ThreadHook,
        least: float = 0.0,
        elapsed: Callable[[], float] = time.monotonic,
        used: Callable[[], float] | None = time.thread_time,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._take_step, self._growth, self._times, self._least = step, growth, times, least
        self._tell_failed, self._clock, self._in_thread = failed, clock, in_thread
        self._hurry = threading.Event()
        self.elapsed, self.wait = elapsed, wait or self._hurry.wait
        self._used = None if in_thread is inline else used
        self._begun = self._used_before = 0.0
        self._urgent = 0
        self._timer: IDelayedCall | None = None
        self._stepping = self._more = self._stopped = False

    # In the reactor's thread.

    def notify(self) -> None:
        """There is more to do.  Cheap."""
        self._more = True
        if self._timer is None and not self._stepping and not self._stopped:
            self._timer = self._clock.callLater(GATHER, self._step)

    def urgent(self, function: Callable[[], T]) -> Deferred[T]:
        """Call a function in the thread, before anything of the work that has not begun."""
        self._urgent += 1
        self._hurry.set()
        answer: Deferred[T] = self._in_thread(function)
        return answer.addBoth(self._calm)

    def _calm(self, answer: T) -> T:
        self._urgent -= 1
        if not self._urgent:
            self._hurry.clear()
        return answer

    def stop(self, close: Callable[[], None]) -> Deferred[None]:
        """Take no further step; ``close`` is called in the thread."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self.urgent(close)

    def _step(self) -> None:
        self._timer, self._stepping, self._more = None, True, False
        self._in_thread(self._timed_step).addCallbacks(self._stepped, self._failed)

    def _stepped(self, delay: float | None) -> None:
        self._stepping = False
        if self._stopped:
            return
        if delay is not None:
            self._timer = self._clock.callLater(delay, self._step)
        elif self._more:
            self.notify()

    def _failed(self, failure: Failure) -> None:
        self._stepping = False
        self._tell_failed(failure)
        if self._more:  # and that is none of what has failed
            self.notify()

    # In the thread.

    def _timed_step(self) -> float | None:
        self._begin()
        return self._take_step()

    def _begin(self) -> None:
        self._begun = self.elapsed()
        if self._used is not None:
            self._used_before = self._used()

    def rest(self) -> bool:
        """Rest as long as is due behind what was done since the last rest; whether nothing is urgent."""
        rest, took = self._least, self.elapsed() - self._begun
        if self._growth or self._kept_waiting(took):
            rest = max(rest, min(LONGEST, took * self._times()))
        if rest and not self._hurry.is_set():
            self.wait(rest)
        self._begin()
        return not self._hurry.is_set()

    def _kept_waiting(self, took: float) -> bool:
        if self._used is None:
            return False
        used = self._used() - self._used_before
        return took > KEPT_WAITING * used and took > used + LONGER
