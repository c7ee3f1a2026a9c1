"""One sink: reads, sends, moves its cursor; waits when there is nothing, and when the other side takes nothing.

::

    nothing new ── changed() ──▶ gather: a full batch, or some seconds ──▶ read (thread) ──▶ send ──▶ cursor ──▶ rest
                                                                              failed │  ▲
                                                            wait, with jitter ◀──────┘  └── the same batch again

A rest is so many times as long as reading took, so a sink that catches up takes a tenth of a thread at most.  A batch
whose acknowledgement was lost is sent again, and so is one that was sent before a crash but not after its cursor moved.
"""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from teleport_db.audit.events import timestamp
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.shipping import ThreadHook
from teleport_db.audit.sinks.cutting import shortened
from teleport_db.audit.sinks.reading import Batch, Cursor, DamagedCursor, Place, Reader, State, pending
from teleport_db.audit.sinks.records import Selection
from teleport_db.audit.sinks.target import Log, NotTaken, Target, Tell
from teleport_db.audit.sinks.trouble import GAP, Troubles
from teleport_db.audit.writing import Position
from teleport_db.config.sinks import EVENTS, Sink

#: Seconds before the first retry and between later ones at most; each is cut by a random factor.
FIRST_RETRY, LAST_RETRY = 1.0, 60.0

#: The longest time that the other side may ask for, seconds.
LONGEST_WAIT = 3600.0

#: The most batches between two attempts at larger ones.
LAST_PATIENCE = 64

#: How many times as long as reading took the rest behind it is.
REST = 9

#: Seconds between two looks whether a batch is full.
LOOK = 1.0

#: Bytes under which an event is not cut, whatever the other side says.
SMALL = 1024


class Delivery:
    """One sink.

    :param log: the audit log.
    :param in_thread: one thread of this sink's own.
    :param tell: see :data:`Tell`.
    :param random: between 0 and 1.
    :param elapsed: seconds of a clock that only goes forward, called in the thread.
    """

    log = Logger()

    def __init__(
        self,
        sink: Sink,
        target: Target,
        log: Log,
        *,
        clock: IReactorTime,
        in_thread: ThreadHook,
        tell: Tell,
        random: Callable[[], float] = _random.random,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sink = sink
        self._target, self._source, self._clock, self._tell = target, log, clock, tell
        self._in_thread, self._random, self._elapsed = in_thread, random, elapsed
        self._reader = Reader(
            log.directory, Selection(sink), max_bytes=target.max_bytes, max_records=target.max_records
        )
        self._cursor = Cursor.of(log.directory, sink.name)
        self._first = self._first_needed()
        self._most = target.max_records  # less, once the other side has found a batch too large
        self._grew, self._patience, self._grow_in = False, 1, 1
        self._running: Deferred[None] | None = None
        self._waiting: Deferred[None] | None = None
        self._back: Place | None = None
        target.go_back = self._go_back
        self._sent_at = 0.0
        self.troubles = Troubles(sink.name, tell)
        #: How far it is; None until it is known.
        self.place: Place | None = None

    def _first_needed(self) -> LogFile | None:
        """What :attr:`needed` is until the place is known; with a cursor that cannot be read, all there is."""
        try:
            kept = self._cursor.load()
        except (OSError, DamagedCursor):
            return LogFile("")
        return kept[0].file if kept is not None else None if self.sink.begin == "now" else LogFile("")

    # From outside

    def start(self) -> None:
        """Send from now on."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError))

    def stop(self) -> Deferred[None]:
        """Send nothing more; fires when the thread and the target are done."""
        if self._running is not None:
            self._running.cancel()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._target.close()
        await self._in_thread(self._reader.close)  # behind whatever the thread is at

    @property
    def needed(self) -> LogFile | None:
        """The oldest file of the log that it has not read to its end; None when it is to begin with what comes."""
        return self.place.file if self.place is not None else self._first

    @property
    def behind(self) -> int:
        """Lines of the log that it has not got."""
        return max(self._source.position.count - (self.place.line if self.place is not None else 0), 0)

    def status(self) -> dict[str, Any]:
        """For the API."""
        place, troubles = self.place, self.troubles
        found: dict[str, Any] = {
            "name": self.sink.name,
            "type": self.sink.kind,
            "target": self.sink.target,
            "state": "failing" if troubles.error else "starting" if place is None else "ok",
            "behind": self.behind,
            "line": 0 if place is None else place.line,
            "sent": 0 if place is None else place.sent,
        }
        if self._sent_at:
            found["last_sent"] = timestamp(self._sent_at)
        if troubles.error:
            found |= {"error": troubles.error, "since": timestamp(troubles.since)}
        return found

    # The loop

    async def _run(self) -> None:
        failures = 0
        batch: Batch | None = None
        while True:
            try:
                if self.place is None:
                    await self._find_place()
                if self._back is not None:
                    self.place, self._back, batch = self._back, None, None
                if batch is None:
                    batch = await self._next()
                if batch is not None and self._back is None:
                    await self._deliver(batch)
                    self._grow(batch)
                    await self._moved(batch)
                    batch, failures = None, 0
                continue
            except CancelledError:
                raise
            except Exception as error:
                failures += 1
                self.troubles.failed(error, self._clock.seconds(), self.behind)
                wait = min(LAST_RETRY, FIRST_RETRY * 2 ** min(failures - 1, 10)) * (0.5 + 0.5 * self._random())
                wait = max(wait, min(getattr(error, "wait", 0.0), LONGEST_WAIT))
            await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self._clock, seconds)

    async def _find_place(self) -> None:
        end = self._source.position

        def find() -> tuple[Place, State, str]:
            """Why it begins anew is "" where it does not, or nothing was before."""
            why = ""
            try:
                kept = self._cursor.load()
            except DamagedCursor:
                kept, why = None, "its cursor is damaged"
            if kept is not None:
                if self._reader.fits(kept[0]):
                    return *kept, ""
                why = "the audit log is not the one it was sent before"
            if not why and self.sink.begin == "now":
                place = Place(end.file, end.size, end.count, chain=end.chain if end.size else "")
            else:
                place = self._reader.oldest()
            self._cursor.keep(place, {})
            return place, {}, why

        place, state, why = await self._in_thread(find)
        if why:
            self.log.error("sink {name} is sent all there is: {why}", name=self.sink.name, why=why)
            self._tell(GAP, sink=self.sink.name, first_line=place.line + 1, lines=0, error=why)
        self._target.state = state
        self.place = place

    async def _next(self) -> Batch | None:
        """The next batch with records; None when the target wants to go back."""
        assert self.place is not None
        batch: Batch
        while True:
            while self._source.position.count <= self.place.line:
                await self._changed()
                if self._back is not None:
                    return None
            await self._gathered()
            end, place = self._source.position, self.place

            def read(place: Place = place, end: Position = end) -> tuple[Batch, float]:
                begun = self._elapsed()
                batch = self._reader.read(place, end)
                if not batch.records and batch.end != place:
                    self._cursor.keep(batch.end, self._target.state)
                return batch, self._elapsed() - begun

            batch, took = await self._in_thread(read)
            if batch.lost:
                self._tell(GAP, sink=self.sink.name, first_line=place.line + 1, lines=batch.lost)
            if took:
                await self._sleep(took * REST)
            if batch.records:
                return batch
            self.place = batch.end

    def _changed(self) -> Deferred[None]:
        """Fires when the log has more, or the target wants to go back."""
        changed = self._source.changed()
        waiting: Deferred[None] = Deferred(lambda _: changed.cancel())

        def fired(result: Any) -> None:
            if not waiting.called:
                waiting.callback(result)

        changed.addBoth(fired)
        self._waiting = waiting
        return waiting

    def _go_back(self, place: Place) -> None:
        """What was sent behind this place is to be sent again."""
        self._back = place
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    async def _gathered(self) -> None:
        """There is a full batch, or enough time has gone by for one that is not."""
        assert self.place is not None
        until = self._clock.seconds() + self._target.gather
        while pending(self.place, self._source.position) < self._target.max_bytes:
            left = until - self._clock.seconds()
            if left <= 0:
                return
            await self._sleep(min(left, LOOK))

    async def _deliver(self, batch: Batch) -> None:
        """Send a batch, in pieces when it is too large for the other side."""
        if len(batch.records) > self._most:
            for half in batch.halves():
                await self._deliver(half)
            return
        try:
            await self._target.send(batch)
        except NotTaken as error:
            if not error.too_large:
                raise
            smaller = self._smaller(batch, error)
            for piece in smaller:
                await self._deliver(piece)

    def _smaller(self, batch: Batch, error: NotTaken) -> Sequence[Batch]:
        """What may be taken in place of a batch that was too large."""
        if len(batch.records) > 1:
            self._most = len(batch.records) // 2
            if self._grew:
                self._grew, self._patience = False, min(self._patience * 2, LAST_PATIENCE)
            self._grow_in = self._patience
            self.log.warn(
                "sink {name}: {error}; {most} events at a time for now",
                name=self.sink.name,
                error=str(error),
                most=self._most,
            )
            return batch.halves()
        (record,) = batch.records
        if self.sink.format != EVENTS or len(record) <= SMALL:
            raise error
        shorter = shortened(record, max(len(record) // 2, SMALL))
        if len(shorter) >= len(record):
            raise error
        self.log.warn("sink {name}: {error}; the event is cut", name=self.sink.name, error=str(error))
        return [attrs.evolve(batch, records=(shorter,))]

    def _grow(self, batch: Batch) -> None:
        """A batch was taken: the next ones may be larger again, the later the more often that was in vain."""
        if self._grew and len(batch.records) > self._most // 2:
            self._grew, self._patience = False, 1
        self._grow_in -= 1
        if self._grow_in <= 0 and self._most < self._target.max_records:
            self._most = min(self._most * 2, self._target.max_records)
            self._grew, self._grow_in = True, self._patience

    async def _moved(self, batch: Batch) -> None:
        """The other side has a batch."""
        state = self._target.state
        self.place = batch.end
        self._sent_at = self._clock.seconds()
        self.troubles.over(self._sent_at)
        try:
            await self._in_thread(lambda: self._cursor.keep(batch.end, state))
        except OSError as error:
            # What is sent is sent; after a crash it would be sent again, and the next batch tries again to say so.
            self.log.error("the cursor of sink {name} cannot be kept: {error}", name=self.sink.name, error=str(error))
