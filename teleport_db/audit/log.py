"""The auth server's audit log: files by day, appended to and synced outside of the reactor's thread.

::

    DIRECTORY/2026-11-22.jsonl   {"source":"HOST-ID","seq":7,"event":{...},"chain":"SHA-256"}, one a line
    DIRECTORY/state.json         what is known up to a place in the files, so that a start reads little
    DIRECTORY/lock               one process has a log

Batches that come while one is being written wait and are written together, with one fsync (group commit).
What a source has sent before, known by its number, is acknowledged and not written again.  Sessions whose
source is lost are ended here: :mod:`teleport_db.audit.sessions` has the rule for what comes late.

``chain`` is the hash of the line before and of this one, so that a line that is edited, taken out or moved
shows in :func:`verify`; cutting the end off shows only against a chain value that is kept elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike, close
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.audit import logfile
from teleport_db.audit.appending import AppendOnly, lock_directory
from teleport_db.audit.events import timestamp
from teleport_db.audit.logfile import verify
from teleport_db.audit.sessions import OWN, OpenSession, Record, Sessions
from teleport_db.audit.shipping import ThreadHook, inline
from teleport_db.audit.uids import uid_source
from teleport_db.certs.files import sync_directory, write_secret
from teleport_db.errors import AuditUnavailable, BadRequest
from teleport_db.interfaces import IAuditLog

#: Bytes of log after which a new ``state.json`` is written: what a start reads at most, and a little more.
STATE_EVERY = 8 << 20

#: Events that one search returns at most.
MAX_RESULTS = 10_000

Event = dict[str, Any]

__all__ = ["MAX_RESULTS", "OWN", "AuditLog", "OpenSession", "verify"]


@attrs.define
class _State:
    """What follows from the lines of the log."""

    chain: str = ""
    last: dict[str, int] = attrs.field(factory=dict)
    sessions: Sessions = attrs.field(factory=Sessions)

    def take(self, source: str, seq: int, event: Mapping[str, Any]) -> None:
        self.last[source] = max(seq, self.last.get(source, 0))
        self.sessions.take(source, seq, event)


@attrs.define
class _Waiting:
    """What somebody wants written.

    :param lost: a source whose sessions end, and the number of its before which they began.
    """

    records: list[Record]
    answer: int
    done: Deferred[int]
    lost: tuple[str, int | None] | None = None


@implementer(IAuditLog)
class AuditLog:
    """The log in one directory.

    Opening it reads what was written since the last ``state.json``; ConfigError when another process has it.

    :param clock: ``seconds()`` since the epoch, as a reactor's.
    :param in_thread: where files are written and read.
    :param new_uid: a new unique id at each call, for what the log makes up.
    """

    log = Logger()

    def __init__(
        self,
        directory: str | PathLike[str],
        *,
        clock: IReactorTime,
        in_thread: ThreadHook = inline,
        new_uid: Callable[[], str] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._clock, self._in_thread = clock, in_thread
        self._new_uid = new_uid or uid_source()
        self._lock = lock_directory(self.directory)
        try:
            self._state = _State()
            self._since_state = 0
            self._file = self._recover()
        except BaseException:
            close(self._lock)
            raise
        self._accepted = dict(self._state.last)
        self._durable = (self._file.path, self._file.size)
        self._waiting: list[_Waiting] = []
        self._writing: list[_Waiting] | None = None
        self._closed: Deferred[None] | None = None

    # Writing

    def receive(self, source: str, events: Sequence[tuple[int, Mapping[str, Any]]]) -> Deferred[int]:
        """Keep a batch of a source's.

        :param events: with numbers that grow; those the log has, or is about to have, are dropped.

        Fires with the last number when all are durable, fails with AuditUnavailable.
        """
        last = self._accepted.get(source, 0)
        answer = last
        records = []
        for seq, event in events:
            if type(seq) is not int or seq < 1 or not isinstance(event, Mapping):
                return fail(BadRequest("an audit record is a whole number and an object"))
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

    def open_sessions(self, source: str | None = None) -> list[OpenSession]:
        """Sessions without an end, of one source or of all: what to end when an agent is lost."""
        return self._state.sessions.open(source)

    def open_sources(self) -> set[str]:
        """Who has sessions without an end."""
        return self._state.sessions.sources()

    @property
    def chain(self) -> str:
        """The hash of the newest durable line; kept elsewhere, it shows whether the end was cut off."""
        return self._state.chain

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
        records = self._records(batch, moment)
        written = self._in_thread(lambda: self._write(records, moment)) if records else succeed(self._state.chain)
        written.addCallbacks(self._written, self._not_written, callbackArgs=(batch, records), errbackArgs=(batch,))
        written.addErrback(lambda failure: self.log.failure("the audit log's answer failed", failure=failure))

    def _write(self, records: Sequence[Record], moment: float) -> str:
        """In the thread: nothing else touches the file."""
        path = self._path(moment)
        if path.name > self._file.path.name:  # a clock that goes back does not go back to an old file
            following = AppendOnly(path)
            sync_directory(self.directory)
            self._file.close()
            self._file = following
        chain, lines = self._state.chain, []
        for source, seq, event in records:
            text, chain = logfile.line(source, seq, event, chain)
            lines.append(text)
        before = self._file.size
        self._file.write(b"".join(lines))
        try:
            self._file.sync()
        except OSError:
            self._file.undo(before)
            raise
        return chain

    def _written(self, chain: str, batch: list[_Waiting], records: Sequence[Record]) -> None:
        self._state.chain = chain
        for source, seq, event in records:
            self._state.take(source, seq, event)
        path, size = self._durable
        self._durable = (self._file.path, self._file.size)
        self._since_state += self._file.size - (size if path == self._file.path else 0)
        if self._since_state >= STATE_EVERY:
            self._since_state = 0
            saving = self._in_thread(self._saving())
            saving.addErrback(lambda failure: self.log.failure("the audit log's state was not kept", failure=failure))
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
            kept = self._in_thread(self._saving())
            kept.addErrback(lambda failure: self.log.failure("the audit log's state was not kept", failure=failure))
            kept.addCallback(lambda _: self._release()).chainDeferred(closed)

    def _release(self) -> None:
        self._file.close()
        close(self._lock)

    def close(self) -> Deferred[None]:
        """Write what waits, keep the state, let go of the directory; nothing may be sent any more."""
        closed: Deferred[None] = Deferred()
        self._closed = closed
        if self._writing is None:
            self._finish([], None)
        return closed

    # State

    def _path(self, moment: float) -> Path:
        return self.directory / f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}.jsonl"

    def _saving(self) -> Callable[[], None]:
        path, size = self._durable
        state = {"chain": self._state.chain, "last": self._state.last, "sessions": self._state.sessions.kept()}
        data = json.dumps({"v": 2, "file": path.name, "size": size, **state}).encode()
        return lambda: write_secret(self.directory / "state.json", data)

    def _recover(self) -> AppendOnly:
        files = logfile.files(self.directory)
        begin = self._load_state(files)
        for path in files:
            if path.name < begin[0]:
                continue
            offset = begin[1] if path.name == begin[0] else 0
            whole = self._replay(path, offset)
            self._since_state += whole - offset
        file = AppendOnly(files[-1] if files else self._path(self._clock.seconds()))
        if files and whole < file.size:
            self.log.warn("{size} bytes behind the last whole line were cut off", size=file.size - whole)
            file.truncate(whole)
        file.sync()
        sync_directory(self.directory)
        return file

    def _load_state(self, files: Sequence[Path]) -> tuple[str, int]:
        """Where in the files to read on; from their beginning if the state is not there or does not fit."""
        try:
            kept = json.loads((self.directory / "state.json").read_bytes())
            size = next(path.stat().st_size for path in files if path.name == kept["file"])
            if kept.pop("v") == 2 and kept["size"] <= size:
                begin = (str(kept.pop("file")), int(kept.pop("size")))
                self._state = _State(**{**kept, "sessions": Sessions(kept["sessions"])})
                return begin
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            pass
        return "", 0

    def _replay(self, path: Path, offset: int) -> int:
        """Take the lines from ``offset`` on; returns where the last whole one ends."""
        with open(path, "rb") as file:
            file.seek(offset)
            for line in file:
                record = logfile.record(line)
                if record is None:
                    if line.endswith(b"\n"):
                        self.log.warn(
                            "the audit log has a damaged line: {path}:{offset}", path=path.name, offset=offset
                        )
                        offset += len(line)
                        continue
                    break
                self._state.take(record["source"], record["seq"], record["event"])
                self._state.chain = str(record.get("chain", ""))
                offset += len(line)
        return offset

    # Reading

    def search(
        self,
        *,
        limit: int,
        event: str | None = None,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after: str | None = None,
    ) -> Deferred[list[Event]]:
        """Durable events, the newest first.

        :param limit: 1 to :data:`MAX_RESULTS`.
        :param event: its name, as ``db.session.query``.
        :param since: seconds since the epoch of the oldest wanted, by the event's own time.
        :param until: the same of the newest, which is not included.
        :param after: the ``uid`` of the last event of a search before: go on behind it.

        Fails with BadRequest for another limit.
        """
        if not 1 <= limit <= MAX_RESULTS:
            return fail(BadRequest(f"limit is between 1 and {MAX_RESULTS}"))
        wanted = {name: value for name, value in (("event", event), ("user", user)) if value is not None}
        oldest = "" if since is None else timestamp(since)
        newest = "~" if until is None else timestamp(until)
        durable = self._durable

        def find() -> list[Event]:
            found: list[Event] = []
            waiting = after is not None
            marks = [f'"{name}":{json.dumps(value)}'.encode() for name, value in wanted.items()]
            for made in logfile.newest_first(self.directory, durable, since, marks, after):
                if waiting:
                    waiting = made.get("uid") != after
                    continue
                if oldest <= str(made.get("time", "")) < newest and wanted.items() <= made.items():
                    found.append(made)
                    if len(found) == limit:
                        break
            return found

        return self._in_thread(find)
