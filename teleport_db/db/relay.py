"""The agent's byte path, once a session's login is done.

::

    frontend bytes -> scanner -> executions -> recorded -> (synced) -> database      nothing goes on unrecorded
    client         <- recorded <- outcomes  <- walk     <- backend bytes             nor is a result seen that is not

No Deferred, no log line and no object a message but the audited ones.  What one chunk brings is one write into the
spool, and one write on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from teleport_db.errors import AuditUnavailable, TeleportDBError
from teleport_db.net.pace import Pace
from teleport_db.pgwire.express import Express
from teleport_db.pgwire.frontend import FrontendMessage, FrontendScanner
from teleport_db.pgwire.messages import HEADER_SIZE
from teleport_db.pgwire.prepared import Execution
from teleport_db.pgwire.walk import BackendWalk

_COMPLETE: Final = ord("C")

#: Bytes that may wait for a sync before the client is not read any more.
MAX_UNSYNCED: Final = 256 * 1024


class Gate(Pace):
    """The client as the producer of what the database is sent: closed by the database's transport, or by the relay."""

    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self._full = self._shut = False

    def pauseProducing(self) -> None:
        self._full = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._full = False
        if not self._shut:
            super().resumeProducing()

    def shut(self, shut: bool) -> None:
        """The relay wants no more, or more again."""
        if shut:
            self._shut = True
            super().pauseProducing()
        elif self._shut:
            self._shut = False
            if not self._full:
                super().resumeProducing()


class FrontendRelay:
    """What the client sends, from the first message after its login.

    :param record: writes what ``executions`` has made into the spool, or raises AuditUnavailable.
    :param begins: writes one exchange that begins, likewise.
    :param forward: the database's ``transport.write``.
    :param failed: told of the error that ends the session.
    :param shut: told whether more of the client is wanted.
    :param durable: whether what was recorded must be on the disk before it runs.
    :param synced: has its argument called when it is.
    """

    def __init__(
        self,
        executions: Express,
        *,
        record: Callable[[], None],
        begins: Callable[[Execution], None],
        forward: Callable[[bytes], Any],
        failed: Callable[[TeleportDBError], None],
        shut: Callable[[bool], None] = lambda shut: None,
        durable: Callable[[], bool] = lambda: False,
        synced: Callable[[Callable[[AuditUnavailable | None], None]], None] = lambda told: told(None),
    ) -> None:
        self._executions = executions
        self._scanner = FrontendScanner()
        #: Chunks so far: another number than before means that the client was heard of.
        self.heard = 0
        self._record, self._begins, self._forward, self._failed = record, begins, forward, failed
        self._shut, self._durable, self._when_synced = shut, durable, synced
        self._base = 0  # bytes of the client before the present chunk
        self._held: tuple[bytes, list[FrontendMessage], list[int], int, int] | None = None
        self._late: list[bytes] = []
        self._unsynced: deque[list[bytes]] = deque()
        self._unsynced_bytes = 0
        self._ended: Callable[[], None] | None = None

    def receive(self, data: bytes) -> None:
        """Some bytes of the client."""
        self.heard += 1
        if self._held is not None:
            self._late.append(data)
            self._shut(True)
            return
        try:
            self._take(data)
        except TeleportDBError as error:
            self._failed(error)

    def _take(self, data: bytes) -> None:
        if self._scanner.between_messages:
            one = self._executions.begun(data, self._base)
            if one is not None:
                self._begins(one)
                self._base += len(data)
                self._send(data, True)
                return
        forward, messages = self._scanner.feed(data)
        if messages:
            self._pass(forward, messages, self._scanner.ends, 0, 0)
        else:
            self._base += len(forward)
            self._send(forward, False)

    def _pass(self, data: bytes, messages: list[FrontendMessage], ends: list[int], first: int, start: int) -> None:
        """Record and pass on what is in ``data`` behind ``start``, up to what must wait for an answer."""
        executions = self._executions
        count = executions.sent(messages, ends, first, self._base)
        recorded = bool(executions.made)
        if recorded or executions.done:
            self._record()
        if count == len(messages):
            self._held = None
            self._base += len(data)
            self._send(data[start:] if start else data, recorded)
            return
        end = ends[count - 1] if count > first else start
        self._send(data[start:end], recorded)
        self._held = (data, messages, ends, count, end)
        self._shut(True)

    def go_on(self) -> None:
        """The database has answered something: what waited for that may be able to go on."""
        if self._held is None:
            return
        try:
            self._pass(*self._held)
            while self._held is None and self._late:
                late, self._late = b"".join(self._late), []
                self._take(late)
        except TeleportDBError as error:
            self._failed(error)
            return
        self._settle()

    def _send(self, data: bytes, recorded: bool) -> None:
        """Pass on, when what was recorded is as durable as it must be, and never out of order."""
        if recorded and self._durable():
            self._unsynced.append([data])
            self._count(len(data))
            self._when_synced(self._synced)
        elif self._unsynced:
            self._unsynced[-1].append(data)
            self._count(len(data))
        elif data:
            self._forward(data)

    def _count(self, size: int) -> None:
        self._unsynced_bytes += size
        if self._unsynced_bytes > MAX_UNSYNCED:
            self._shut(True)

    def _synced(self, error: AuditUnavailable | None) -> None:
        if not self._unsynced:
            return  # the session is over
        if error is not None:
            self._failed(error)
            return
        data = b"".join(self._unsynced.popleft())
        self._unsynced_bytes -= len(data)
        if data:
            self._forward(data)
        self._settle()

    def _settle(self) -> None:
        """Read on, or end, once nothing waits."""
        if self._held is None and self._unsynced_bytes <= MAX_UNSYNCED:
            self._shut(False)
            if self._ended is not None and not self._unsynced:
                ended, self._ended = self._ended, None
                ended()

    def end(self, ended: Callable[[], None]) -> None:
        """The client has said its last word: have ``ended`` called when all of it has gone on."""
        if self._held is None and not self._unsynced:
            ended()
        else:
            self._ended = ended

    def stop(self) -> None:
        """The session is over: what waits goes nowhere."""
        self._held, self._ended = None, None
        self._late.clear()
        self._unsynced.clear()


class BackendRelay:
    """What the database sends, from its ReadyForQuery on.

    :param record: writes what ``executions`` has done into the spool, or raises AuditUnavailable.
    :param ends: writes one exchange that has ended, likewise.
    :param forward: the client's ``transport.write``.
    :param failed: told of the error that ends the session.
    :param answered: told that the database has answered something, and the client has it.

    It is passed on as it comes, once what it says of the statements is recorded.
    """

    def __init__(
        self,
        executions: Express,
        *,
        record: Callable[[], None],
        ends: Callable[[Execution], None],
        forward: Callable[[bytes], Any],
        failed: Callable[[TeleportDBError], None],
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        self._executions = executions
        self._walk = BackendWalk()
        self._feed = self._walk.feed
        self._record, self._ends, self._forward = record, ends, forward
        self._failed, self._answered = failed, answered
        self._kept_back: bool | None = None  # a chunk was, and whether there was a message's end before it
        self._last_word = b""  # of a Query, perhaps: see _hold

    def receive(self, data: bytes) -> None:
        """Some bytes of the database."""
        answers: Sequence[Any] = ()
        before = self.between_messages
        try:
            answers = self._feed(data)
            if answers:
                one = self._executions.ended(answers)
                if one is not None:
                    self._end(one)
                else:
                    self._executions.answered(answers)
                    if self._executions.done:
                        self._record()
        except TeleportDBError as error:
            self._kept_back = before
            self._failed(error)
            return
        if self._last_word:
            data, self._last_word = self._last_word + data, b""
        if answers:
            if answers[-1][0] == _COMPLETE and self._executions.in_query:
                data = self._hold(data, answers[-1][1])
            self._forward(data)
            self._answered()
        else:
            self._forward(data)

    def _hold(self, data: bytes, tag: bytes) -> bytes:
        """Keep the CommandComplete at the end of a chunk until the next one, and give what comes before it.

        It may be the last word on a Query, of which the result is not known before the server is ready.  That comes
        in the same chunk, unless the server's buffer was full just between the two.
        """
        walk = self._walk
        size = HEADER_SIZE + len(tag) + walk.begun
        if walk.size or size > len(data):
            return data  # it is not at the end, or its beginning has gone on already
        self._last_word = data[-size:]
        return data[:-size]

    def _end(self, one: Execution) -> None:
        try:
            self._ends(one)
        except AuditUnavailable:
            self._executions.done.append(one)  # it is said with the session's last words
            raise

    def lost(self) -> None:
        """The session is over; what runs has no other result than that."""
        self._executions.lost(self._walk.rows, self._walk.size)

    def last_word(self) -> bytes:
        """What was kept until more of the database would come, now that nothing more does."""
        word, self._last_word = self._last_word, b""
        return word

    @property
    def idle(self) -> bool:
        """Whether the database has answered all that it was asked."""
        return self._executions.idle

    @property
    def between_messages(self) -> bool:
        """Whether what was passed on ended with a whole message."""
        if self._kept_back is not None:
            return self._kept_back
        return bool(self._last_word) or self._walk.between_messages
