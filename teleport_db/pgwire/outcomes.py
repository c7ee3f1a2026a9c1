"""What comes of the statements of a session: its database's answers, put to what they answer.

::

    owed:      Parse | Bind | Execute | Sync | Query | Sync ...     in the order in which the client asked
    database:   '1'     '2'     'C'     'Z'   'C' 'Z'   'Z'         popped in that order

* After an error in a message of the extended protocol the server does nothing up to the next Sync, a Query
  included: what stands between gets the error as its result.
* A Sync may fail too, when its commit does.
* A COPY from the client swallows Syncs.
* What fits nothing is a hostile server's: it is not taken to mean anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from teleport_db.errors import RemoteProtocolError
from teleport_db.pgwire.names import Names, Owed
from teleport_db.pgwire.prepared import (
    BIND,
    CLOSE,
    COPY_END,
    DESCRIBE,
    EXECUTE,
    FUNCTION,
    PARSE,
    QUERY,
    SYNC,
    CommitFailed,
    Execution,
    Refused,
)
from teleport_db.pgwire.walk import Answer

Done = Execution | Refused | CommitFailed

_IDLE = b"I"


class Outcomes:
    """The half of the book-keeping that listens to the database.

    :ivar done: what is to be recorded before bytes go on to the client; whoever records takes it out.
    :ivar names: what the client's names mean.
    """

    __slots__ = ("_doubt", "_last", "_rows", "_size", "_skipping", "done", "names", "owed")

    def __init__(self) -> None:
        self.done: list[Done] = []
        self.names = Names()
        #: What the database owes an answer to, in order.
        self.owed: deque[Owed | Execution] = deque()
        self._skipping = ""  # the SQLSTATE since which the server waits for a Sync that has not come
        self._doubt = 0  # see _in_doubt
        self._last = 0  # the last execution of this batch that succeeded
        self._rows = self._size = 0

    @property
    def idle(self) -> bool:
        """Whether the database has answered all that it was asked."""
        return not self.owed

    @property
    def in_query(self) -> bool:
        """Whether it is a Query that the database answers next, or goes on to answer."""
        return bool(self.owed) and self.owed[0].kind == QUERY

    def answered(self, answers: Sequence[Answer]) -> None:
        """The database has given these answers; fills :attr:`done`.

        What fits nothing that it was asked is not taken to mean anything.

        :raises RemoteProtocolError: it can no more be told what belongs to what.
        """
        known = _ANSWERS
        for kind, body, rows, size in answers:
            self._rows += rows
            self._size += size
            known[kind](self, body)

    def lost(self, rows: int = 0, size: int = 0) -> None:
        """The session is over: what ran has no other end than this; fills :attr:`done`.

        :param rows: since the last answer; ``size`` bytes.
        """
        if self._skipping:
            self._skip(self._skipping)
        self._rows += rows
        self._size += size
        for entry in self.owed:
            if isinstance(entry, Execution) and not entry.sqlstate:
                entry.lost = True
                self._finish(entry)
        self.owed.clear()

    def _finish(self, execution: Execution) -> None:
        execution.rows += self._rows
        execution.received += self._size
        self._rows = self._size = 0
        self.done.append(execution)

    def _head(self) -> Any:
        """What the server answers now; a Sync before it that it did not answer was swallowed by a COPY."""
        owed = self.owed
        while owed and owed[0].kind >= SYNC:
            owed.popleft()
        return owed[0] if owed else None

    def _take(self, kind: int) -> Any:
        """The next that is owed, if it is of this kind."""
        head = self._head()
        if head is None or head.kind != kind:
            return None
        self.owed.popleft()
        return head

    def _ignored(self, body: bytes) -> None:
        """Says nothing that is needed."""

    def _confirmed(self, kind: int) -> None:
        owed = self._take(kind)
        if owed is not None:
            owed.names.confirm(owed)

    def _parsed(self, body: bytes) -> None:
        self._confirmed(PARSE)

    def _bound(self, body: bytes) -> None:
        self._confirmed(BIND)

    def _closed(self, body: bytes) -> None:
        self._confirmed(CLOSE)

    def _described(self, body: bytes) -> None:
        self._take(DESCRIBE)

    def _typed(self, body: bytes) -> None:
        head = self._head()
        if head is None or head.kind != DESCRIBE or head.what is None:
            return
        found = [int.from_bytes(body[at : at + 4], "big") for at in range(2, len(body) - 3, 4)]
        given = head.what.types
        head.what.types = tuple(
            given[index] if index < len(given) and given[index] else oid for index, oid in enumerate(found)
        )

    def _completed(self, body: bytes) -> None:
        head = self._head()
        if head is None or head.kind > EXECUTE:
            return
        tag = body.partition(b"\0")[0]
        head.complete(tag)
        if head.kind == EXECUTE:
            self.owed.popleft()
        if head.copying:
            head.copying = False
            self._copied(head)
        if head.kind == EXECUTE:
            self._last = head.id
            self._finish(head)
        if tag.startswith(b"D"):
            if tag in (b"DEALLOCATE ALL", b"DISCARD ALL"):
                self.names.deallocate(b"")
            elif tag == b"DEALLOCATE" and head.deallocates:
                self.names.deallocate(head.deallocates)

    def _copied(self, execution: Execution) -> None:
        """A COPY from the client is complete: it has swallowed the Syncs before its end."""
        owed = self.owed
        first = 1 if owed and owed[0] is execution else 0
        for index in range(first, len(owed)):
            entry = owed[index]
            if entry.kind == COPY_END:
                assert isinstance(entry, Owed)
                execution.sent += entry.cost
                for _ in range(index - first + 1):
                    del owed[first]
                return
            if entry.kind != SYNC:
                return

    def _suspended(self, body: bytes) -> None:
        head = self._take(EXECUTE)
        if head is not None:
            head.suspended = True
            self._last = head.id
            self._finish(head)

    def _was_empty(self, body: bytes) -> None:
        head = self._head()
        if head is None or head.kind > EXECUTE:
            return
        head.answered = True
        if head.kind == EXECUTE:
            self.owed.popleft()
            self._finish(head)

    def _returned(self, body: bytes) -> None:
        head = self._head()
        if head is not None and head.kind == FUNCTION:
            head.answered = True

    def _copies(self, body: bytes) -> None:
        head = self._head()
        if head is not None and head.kind <= EXECUTE:
            head.copying = True

    def _ready(self, body: bytes) -> None:
        owed = self.owed
        while owed and owed[0].kind == COPY_END:
            owed.popleft()
        if owed:
            head: Any = owed[0]
            if head.kind == SYNC:
                owed.popleft()
                self._last = 0
            elif head.kind in (QUERY, FUNCTION) and head.answered:
                owed.popleft()
                if head.kind == QUERY:
                    self.names.statements.drop(b"")
                self._last = 0
                if not head.sqlstate:
                    self._finish(head)
            # Anything else was ready before: it answers a Sync that was taken to be swallowed.
        if self._doubt == 1 and not any(entry.kind == SYNC for entry in owed):
            self._doubt = 0
        self._rows = self._size = 0
        if body == _IDLE:
            self.names.end_transaction()
        while owed and owed[0].kind == COPY_END:
            owed.popleft()

    def _failed(self, body: bytes) -> None:
        sqlstate = sqlstate_of(body)
        owed = self.owed
        while owed and owed[0].kind == COPY_END:
            owed.popleft()
        if not owed:
            return
        head: Any = owed[0]
        if head.kind == SYNC:
            if self._last:
                self.done.append(CommitFailed(self._last, sqlstate))
                self._last = 0
            return
        if head.kind in (QUERY, FUNCTION):
            if not head.sqlstate:
                # Nothing of it runs any more, and the server sends this at once: the client may see it alone.
                head.sqlstate, head.answered = sqlstate, True
                self._finish(head)
            if head.copying:
                # Nothing is skipped behind a Query, so only how often the server is ready is in doubt.
                head.copying = False
                while len(owed) > 1 and owed[1].kind == SYNC:
                    del owed[1]
            return
        owed.popleft()
        if head.kind == EXECUTE:
            head.sqlstate = sqlstate
            self._finish(head)
            if head.copying:
                self._in_doubt()
        else:
            _forget(head)
            if head.kind == PARSE:
                if not head.name:
                    head.names.drop(b"")  # the server lets the old one go first
                if not head.what.used:
                    self.done.append(Refused(head.name, head.what, sqlstate))
        self._skip(sqlstate)

    def _skip(self, sqlstate: str) -> None:
        """After an error the server does nothing up to the next Sync."""
        owed = self.owed
        while owed:
            entry = owed[0]
            if entry.kind == SYNC:
                self._skipping = ""
                return
            owed.popleft()
            if isinstance(entry, Execution):
                entry.sqlstate, entry.skipped = sqlstate, True
                self.done.append(entry)
            else:
                _forget(entry)
        self._skipping = sqlstate

    # A COPY from the client swallows every Sync that it reads.  When one of an Execute fails nobody can tell which
    # it had read and which will be answered: one ReadyForQuery comes at least, and one more for each Sync in doubt
    # at most.  libpq sends such a Sync with the Execute, and one more behind the end of the copy.  So: those in
    # doubt are taken to be swallowed, and a ReadyForQuery too many is not taken for an answer to anything.  That
    # holds as long as a Sync follows directly behind the end of the copy; a client that sends anything else there
    # could have it run without our knowing, so its session ends.

    def _in_doubt(self) -> None:
        """The COPY of the Execute before all that is owed now has failed."""
        owed = self.owed
        syncs = 0
        while syncs < len(owed) and owed[syncs].kind == SYNC:
            syncs += 1
        if not syncs:
            return
        if syncs == len(owed):
            self._doubt = 1
            return
        if owed[syncs].kind != COPY_END or (len(owed) > syncs + 1 and owed[syncs + 1].kind != SYNC):
            raise RemoteProtocolError("a COPY that failed was not ended before the next message")
        for _ in range(syncs + 1):
            owed.popleft()
        if not owed:
            self._doubt = 2

    def _drop_syncs(self) -> None:
        kept = [entry for entry in self.owed if entry.kind != SYNC]
        self.owed.clear()
        self.owed.extend(kept)


_ANSWERS: dict[int, Callable[[Outcomes, bytes], None]] = {
    ord("1"): Outcomes._parsed,
    ord("2"): Outcomes._bound,
    ord("3"): Outcomes._closed,
    ord("C"): Outcomes._completed,
    ord("E"): Outcomes._failed,
    ord("G"): Outcomes._copies,
    ord("H"): Outcomes._ignored,
    ord("I"): Outcomes._was_empty,
    ord("T"): Outcomes._described,
    ord("V"): Outcomes._returned,
    ord("W"): Outcomes._copies,
    ord("Z"): Outcomes._ready,
    ord("n"): Outcomes._described,
    ord("s"): Outcomes._suspended,
    ord("t"): Outcomes._typed,
}


def _forget(owed: Owed) -> None:
    """It will not be answered."""
    if owed.names is not None:
        owed.names.settle(owed)


def sqlstate_of(body: bytes) -> str:
    """The SQLSTATE in the beginning of an ErrorResponse's body; ``XX000`` when there is none to be found."""
    for field in body.split(b"\0"):
        if field[:1] == b"C" and len(field) == 6 and field.isalnum():
            return field[1:].decode("ascii")
    return "XX000"
