"""The auth server's audit log: appended to and synced outside of the reactor's thread.

::

    DIRECTORY/2026-11-22.jsonl   events and checkpoints, one a line (teleport_db.audit.logfile)
    DIRECTORY/keys/              the key that signs the next checkpoint (teleport_db.audit.checkpoints)
    DIRECTORY/state.json         what is known up to a place in the files, so that a start reads little
    DIRECTORY/tip                how many lines there are, for who finds fewer
    DIRECTORY/index.sqlite       where to find what; made of the files (teleport_db.audit.index)
    DIRECTORY/lock               one process has a log

Batches that come while one is being written wait and are written together, with one fsync (group commit).
What a source has sent before, known by its number, is acknowledged and not written again.  Sessions whose
source is lost are ended here: :mod:`teleport_db.audit.sessions` has the rule for what comes late.

Each line has the hash of the line before and of this one, and at least once a minute a checkpoint is signed by a
key that exists no more when the next comes: :mod:`teleport_db.audit.verifying` finds what was changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike, close
from pathlib import Path
from time import sleep
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.audit import housekeeping
from teleport_db.audit.appending import lock_directory
from teleport_db.audit.checkpoints import Checkpoint, Point, SigningKeys, no_point
from teleport_db.audit.events import make_event
from teleport_db.audit.finding import Page
from teleport_db.audit.housekeeping import Expired
from teleport_db.audit.indexing import Behind, Indexing
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.pace import BREATH, Growth
from teleport_db.audit.packing import Packing
from teleport_db.audit.query import Query
from teleport_db.audit.recovery import STATE, recover
from teleport_db.audit.sessions import OWN, OpenSession, Record
from teleport_db.audit.shipped import Run, ShippedStatement
from teleport_db.audit.shipping import ThreadHook, inline
from teleport_db.audit.uids import uid_source
from teleport_db.audit.writing import Position, Writer, no_breath
from teleport_db.certs.files import write_secret
from teleport_db.config.model import AuditFiles
from teleport_db.errors import AuditUnavailable, BadRequest
from teleport_db.interfaces import IAuditLog

#: Bytes of log after which a new ``state.json`` is written: what a start reads at most, and a little more.
STATE_EVERY = 8 << 20

#: Events that one search returns at most.
MAX_RESULTS = 10_000

#: Seconds after which what was written has a checkpoint.
CHECKPOINT_SECONDS = 60.0

#: Seconds between two looks for files whose time has come.
LOOK_SECONDS = 3600.0

__all__ = ["MAX_RESULTS", "OWN", "AuditLog", "OpenSession"]


@attrs.define
class _Waiting:
    """What somebody wants written.

    :param lost: a source whose sessions end, and the number of its before which they began.
    :param sign: whether a checkpoint is wanted behind it.
    """

    records: list[Record]
    answer: int
    done: Deferred[int]
    lost: tuple[str, int | None] | None = None
    sign: bool = False


@implementer(IAuditLog)
class AuditLog:
    """The log in one directory.

    Opening it reads what was written since the last ``state.json``; ConfigError when another process has it.

    :param clock: ``seconds()`` since the epoch, as a reactor's.
    :param in_thread: where files are written; ``index_thread``: one thread that the index is used in;
        ``pack_thread``: where closed files are packed.
    :param new_uid: a new unique id at each call, for what the log makes up.
    :param cluster: the name in events of the log's own.
    :param at: see :data:`teleport_db.audit.checkpoints.Point`.
    """

    log = Logger()

    def __init__(
        self,
        directory: str | PathLike[str],
        *,
        clock: IReactorTime,
        in_thread: ThreadHook = inline,
        index_thread: ThreadHook = inline,
        pack_thread: ThreadHook = inline,
        new_uid: Callable[[], str] | None = None,
        keeping: AuditFiles = AuditFiles(),  # noqa: B008 - frozen
        cluster: str = "",
        at: Point = no_point,
    ) -> None:
        self.directory = Path(directory)
        self._clock, self._in_thread = clock, in_thread
        self._new_uid = new_uid or uid_source()
        self._keeping, self._cluster, self._at = keeping, cluster, at
        self._lock = lock_directory(self.directory)
        try:
            self._state = recover(self.directory, clock.seconds())
            place = self._state.position
            keys = SigningKeys(self.directory / "keys", place.checkpoint, at=at)
            breathe = no_breath if in_thread is inline else partial(sleep, BREATH)
            self._writer = Writer(self.directory, place, keys, max_file=keeping.max_file, at=at, breathe=breathe)
        except BaseException:
            close(self._lock)
            raise
        self._accepted = dict(self._state.last)
        self._kept_size = place.size
        self._growth = Growth(clock)
        self._indexing = Indexing(
            self.directory, lambda: self.position, growth=self._growth, clock=clock, in_thread=index_thread
        )
        self._packing = Packing(self.directory, growth=self._growth, clock=clock, in_thread=pack_thread, at=at)
        self._waiting: list[_Waiting] = []
        self._writing: list[_Waiting] | None = None
        self._closing = False
        self._closed: Deferred[None] | None = None
        self._signing: IDelayedCall | None = None
        self._looking: IDelayedCall | None = None
        self._removing: Deferred[None] | None = None
        #: Gives the oldest file that somebody has still to read, None for none; retention leaves it and what follows.
        self.needed: Callable[[], LogFile | None] = lambda: None
        self._held: tuple[LogFile, ...] = ()
        self._watching: list[Deferred[None]] = []

    def start(self) -> None:
        """Index, pack and remove, from now on until it is closed."""
        self._indexing.notify()
        self._keep_house()

    # Writing

    def receive(
        self, source: str, events: Sequence[tuple[int, Mapping[str, Any] | ShippedStatement | Run]]
    ) -> Deferred[int]:
        """Keep a batch of a source's.

        :param events: with numbers that grow, a run with that of its first; those the log has, or is about to have, are
            dropped.  Of a :class:`~teleport_db.audit.logfile.RawEvent`, a
            :class:`~teleport_db.audit.shipped.ShippedStatement` and a :class:`~teleport_db.audit.shipped.Run` the JSON
            is written as it came.

        Fires with the last number when all are durable, fails with AuditUnavailable.
        """
        last = self._accepted.get(source, 0)
        answer = last
        records: list[Record] = []
        for seq, event in events:
            if type(seq) is not int or seq < 1 or not isinstance(event, (ShippedStatement, Run, Mapping)):
                return fail(BadRequest("an audit record is a whole number and an object"))
            if isinstance(event, Run):
                if seq > last and source != OWN:
                    records.append((source, seq, event))
                elif event.last > last:
                    records += [(source, number, one) for number, one in event.one_by_one() if number > last]
                last, answer = max(last, event.last), max(answer, event.last)
                continue
            if seq > last:
                records.append((source, seq, event))
                last = seq
            answer = max(answer, seq)
        self._accepted[source] = last
        return self._enqueue(_Waiting(records, answer, Deferred()))

    def emit(self, events: Sequence[Mapping[str, Any]]) -> Deferred[None]:
        """Keep events of the auth server's own."""
        return self._enqueue(_Waiting([(OWN, 0, event) for event in events], 0, Deferred())).addCallback(lambda _: None)

    def lose(self, source: str, *, before: int | None = None) -> Deferred[int]:
        """End the sessions of a source that is not heard of, reason ``agent_lost``.

        :param before: the source is there and says that it has sent everything below this number, and that
            it began anew with it: only sessions that began before it are over, and nothing more comes of them.

        Fires with how many were ended when that is durable, fails with AuditUnavailable.
        """
        sessions = self._state.sessions
        if before is not None:
            sessions.forget(source, before)
        if not sessions.older(source, before):
            return succeed(0)
        return self._enqueue(_Waiting([], 0, Deferred(), (source, before)))

    def checkpoint(self) -> Deferred[Checkpoint | None]:
        """Sign all that the log has; fires with the newest checkpoint, None for a log without a line."""
        waiting = _Waiting([], 0, Deferred(), sign=True)
        return self._enqueue(waiting).addCallback(lambda _: self.position.checkpoint)

    def open_sessions(self, source: str | None = None) -> list[OpenSession]:
        """Sessions without an end, of one source or of all: what to end when an agent is lost."""
        return self._state.sessions.open(source)

    def open_sources(self) -> set[str]:
        """Who has sessions without an end."""
        return self._state.sessions.sources()

    @property
    def position(self) -> Position:
        """The end of what is durable."""
        return self._state.position

    def _enqueue(self, waiting: _Waiting) -> Deferred[int]:
        self._waiting.append(waiting)
        if self._writing is None:
            self._write_next()
        return waiting.done

    def _next_batch(self) -> list[_Waiting]:
        """All that waits; but ends that are made up come alone, since what follows is numbered by them."""
        ends = [number for number, waiting in enumerate(self._waiting) if waiting.lost is not None]
        size = max(ends[0], 1) if ends else len(self._waiting)
        batch, self._waiting = self._waiting[:size], self._waiting[size:]
        return batch

    def _records(self, batch: list[_Waiting], moment: float) -> list[Record]:
        """The lines to write, as what is durable now makes them."""
        sessions, last = self._state.sessions, self._state.last.get(OWN, 0)
        if batch[0].lost is not None:
            made = sessions.losses(*batch[0].lost, moment, self._new_uid)
            batch[0].answer = len(made)
        else:
            given = [record for waiting in batch for record in waiting.records]
            made = list(sessions.numbered(given, moment, self._new_uid))
        records = []
        for source, seq, event in made:
            last += source == OWN
            records.append((source, last if source == OWN else seq, event))
        return records

    def _write_next(self) -> None:
        self._writing = batch = self._next_batch()
        moment = self._clock.seconds()
        try:
            records = self._records(batch, moment)
        except Exception:  # whatever an event was made to be: the log goes on without it
            self._not_written(Failure(), batch)
            return
        sign = any(waiting.sign for waiting in batch) and bool(records or self.position.unsigned)
        written: Deferred[Position] = (
            self._in_thread(lambda: self._writer.write(records, moment, sign=sign))
            if records or sign
            else succeed(self.position)
        )
        written.addCallbacks(self._written, self._not_written, callbackArgs=(batch, records), errbackArgs=(batch,))
        written.addErrback(lambda failure: self.log.failure("the audit log's answer failed", failure=failure))

    def _written(self, place: Position, batch: list[_Waiting], records: Sequence[Record]) -> None:
        before, self._state.position = self.position, place
        for source, seq, event in records:
            self._state.take(source, seq, event)
        if place.file != before.file:
            self._kept_size = 0
            if self._looking is not None and not self._closing:
                self._keep_house()
        if place.size - self._kept_size >= STATE_EVERY:
            self._kept_size = place.size
            self._keep_state()
        if place.unsigned and self._signing is None and not self._closing:
            self._signing = self._clock.callLater(CHECKPOINT_SECONDS, self._sign)
        if place.count != before.count:
            self._growth.add(place.count - before.count)
            self._indexing.notify()
            watching, self._watching = self._watching, []
            for watcher in watching:
                watcher.callback(None)
        self._finish(batch, None)

    def _not_written(self, failure: Failure, batch: list[_Waiting]) -> None:
        self.log.failure("the audit log cannot be written", failure=failure)
        # What waits was numbered behind what failed: all of it is sent again.
        batch += self._waiting
        self._waiting = []
        self._accepted = dict(self._state.last)
        self._finish(batch, AuditUnavailable(detail=failure.getErrorMessage()))

    def _finish(self, batch: list[_Waiting], error: AuditUnavailable | None) -> None:
        self._writing = None
        if self._waiting:
            self._write_next()
        for waiting in batch:
            if waiting.done.called:
                continue  # cancelled: the events are kept nevertheless
            if error is None:
                waiting.done.callback(waiting.answer)
            else:
                waiting.done.errback(error)
        if self._closed is not None and self._writing is None:
            closed, self._closed = self._closed, None
            self._release().chainDeferred(closed)

    def _sign(self) -> None:
        self._signing = None
        self.checkpoint().addErrback(lambda _: None)  # it was logged; the next line tries again

    # Closing

    def close(self) -> Deferred[None]:
        """Write what waits, sign it, keep the state, let go of the directory; nothing may be sent any more."""
        closed: Deferred[None] = Deferred()
        self._closing = True
        for timer in (self._signing, self._looking):
            if timer is not None and timer.active():
                timer.cancel()
        for watcher in list(self._watching):
            watcher.cancel()
        self._closed = closed
        self.checkpoint().addErrback(lambda _: None)
        return closed

    def _release(self) -> Deferred[None]:
        kept = self._keep_state()
        removed: Deferred[None] = Deferred()
        if self._removing is None:
            removed.callback(None)
        else:
            self._removing.addCallback(lambda _: removed.callback(None))
        all_done: Deferred[Any] = gatherResults([kept, removed, self._packing.stop(), self._indexing.stop()])
        return all_done.addCallback(lambda _: self._let_go())

    def _let_go(self) -> None:
        self._writer.close()
        close(self._lock)

    def _keep_state(self) -> Deferred[None]:
        data = self._state.kept()
        saving: Deferred[None] = self._in_thread(lambda: write_secret(self.directory / STATE, data))
        return saving.addErrback(lambda failure: self.log.failure("the audit log's state was not kept", failure))

    # Closed files

    def _keep_house(self) -> None:
        """Remove what is too old, then pack what is closed; and look again in an hour."""
        if self._looking is not None and self._looking.active():
            self._looking.cancel()
        self._looking = self._clock.callLater(LOOK_SECONDS, self._keep_house)
        if self._removing is None:
            self._removing = Deferred.fromCoroutine(self._remove())
            self._removing.addErrback(lambda failure: self.log.failure("old audit files stay as they are", failure))
            self._removing.addCallback(self._removed)

    def _removed(self, _: object) -> None:
        self._removing = None
        if self._keeping.compress and not self._closing:
            self._packing.notify()

    async def _remove(self) -> None:
        directory, keeping, now = self.directory, self._keeping, self._clock.seconds()
        needed, in_thread = self.needed(), self._packing.urgent
        found = await in_thread(lambda: housekeeping.expired(directory, now, keeping.retention))
        held = housekeeping.held(found, needed)
        if held:
            await self._say_held(held, now)
            found = await in_thread(lambda: housekeeping.expired(directory, now, keeping.retention, needed=needed))
        if found is not None:
            files = found.files
            await self.emit([self._retention(found, now)])
            self._at("retention recorded")
            await in_thread(lambda: housekeeping.remove(directory, files, at=self._at))
            await self._indexing.forget(found.oldest)

    async def _say_held(self, held: tuple[LogFile, ...], now: float) -> None:
        names = [file.name for file in held if file not in self._held]
        self._held = held
        if not names:
            return
        self.log.warn(
            "a sink has not read {files} of the audit log, whose time has come: they stay", files=", ".join(names)
        )
        await self.emit(
            [make_event(housekeeping.HELD, uid=self._new_uid(), time=now, cluster_name=self._cluster, files=names)]
        )

    def _retention(self, found: Expired, now: float) -> dict[str, Any]:
        return make_event(
            housekeeping.RETENTION,
            uid=self._new_uid(),
            time=now,
            cluster_name=self._cluster,
            files=[file.name for file in found.files],
            count=found.head.count,
            chain=found.head.previous,
        )

    # Reading

    def search(
        self,
        query: Query = Query(),  # noqa: B008 - frozen
        *,
        limit: int,
        after: int | None = None,
        oldest_first: bool = False,
        joined: bool = False,
    ) -> Deferred[Page]:
        """Durable events, the newest first unless said.

        :param limit: 1 to :data:`MAX_RESULTS`.
        :param after: the ``next`` of the page before: go on behind it.
        :param joined: a statement and its result as one, see :mod:`teleport_db.audit.finding`.

        Fails with BadRequest for another limit, with AuditUnavailable when the index cannot be used.
        """
        if not 1 <= limit <= MAX_RESULTS:
            return fail(BadRequest(f"limit is between 1 and {MAX_RESULTS}"))
        found = self._indexing.ask(
            lambda finder: finder.page(query, limit=limit, after=after, oldest_first=oldest_first, joined=joined)
        )

        def answered(page: Page | Behind) -> Page:
            return Page([], after, behind=page.missing, total=page.total) if isinstance(page, Behind) else page

        return found.addCallback(answered)

    def recorded_sessions(
        self, *, user: str | None = None, sid: str | None = None, limit: int, after: int | None = None
    ) -> Deferred[tuple[list[dict[str, Any]], int | None]]:
        """Sessions that were let in, the newest first, and where to go on.

        Fails with AuditUnavailable while the index is far behind.
        """
        found = self._indexing.ask(lambda finder: finder.sessions(user=user, sid=sid, limit=limit, after=after))

        def answered(sessions: Any) -> Any:
            if isinstance(sessions, Behind):
                raise AuditUnavailable("the audit log's index is being made; ask again in a minute")
            return sessions

        return found.addCallback(answered)

    def changed(self) -> Deferred[None]:
        """Fires when there are more lines; cancel it to wait no longer."""
        watcher: Deferred[None] = Deferred(self._watching.remove)
        self._watching.append(watcher)
        return watcher
