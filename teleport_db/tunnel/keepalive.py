"""Signs of life.

::

    0 s          15 s                30 s         45 s
    |-------------|-------------------|------------|
                  ping ──── no answer for 30 s ───▶ dead

One ping is under way at a time.  Only its answer counts: a peer that sends but no longer hears is as dead
as one that is silent, and nothing that a stream does moves these deadlines.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Keepalive:
    """Pings once an interval and notices when no answer comes.

    :param interval: seconds between pings.
    :param timeout: seconds that an answer may take.
    :param ping: sends a ping; returns its value.
    :param dead: called when no answer came.
    :param each: called once an interval, before the ping.
    :ivar round_trip: seconds that the last ping took, or None.
    """

    def __init__(
        self,
        clock: IReactorTime,
        interval: float,
        timeout: float,
        *,
        ping: Callable[[], int],
        dead: Callable[[], None],
        each: Callable[[], None],
    ) -> None:
        self.interval = interval
        self.timeout = timeout
        self.round_trip: float | None = None
        self._clock = clock
        self._ping = ping
        self._dead = dead
        self._each = each
        self._value: int | None = None
        self._sent = 0.0
        self._next: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None

    def start(self) -> None:
        """Ping after one interval, and so on."""
        self._next = self._clock.callLater(self.interval, self._interval)

    def stop(self) -> None:
        """Stop, whatever is under way."""
        for call in (self._next, self._deadline):
            if call is not None and call.active():
                call.cancel()
        self._next = self._deadline = None

    def answered(self, value: int) -> None:
        """The peer answered the ping of this value."""
        if value == self._value:
            self.round_trip = self._clock.seconds() - self._sent
            self._value = None
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    def _interval(self) -> None:
        self.start()
        if self._value is None:
            self._sent = self._clock.seconds()
            self._value = self._ping()
            self._deadline = self._clock.callLater(self.timeout, self._unanswered)
        self._each()

    def _unanswered(self) -> None:
        self._deadline = None
        self.stop()
        self._dead()
