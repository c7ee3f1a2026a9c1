"""The exchanges that most sessions consist of, followed in one step each.

::

    Query                        -> [RowDescription] ... CommandComplete ReadyForQuery
    [Parse] Bind Describe Execute Sync
                                 -> [ParseComplete] BindComplete RowDescription|NoData ... CommandComplete ReadyForQuery

Each as one chunk while nothing else is owed, of SQL that makes or drops no name, the second with the unnamed portal,
of a statement that is known or of the unnamed one.  Whatever is not exactly that goes the long way of
:mod:`teleport_db.pgwire.executions` and :mod:`teleport_db.pgwire.outcomes`; also what began so and is answered
otherwise, or followed before it is answered: it is then put where the long way would have left it.  Both ways give
the same executions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from teleport_db.pgwire.executions import Executions
from teleport_db.pgwire.messages import HEADER, HEADER_SIZE, message
from teleport_db.pgwire.messages import SYNC as SYNC_MESSAGE
from teleport_db.pgwire.names import Owed
from teleport_db.pgwire.prepared import DESCRIBE, EXECUTE, QUERY, SYNC, Execution, Portal, Prepared
from teleport_db.pgwire.simple import BOUND, PARSED, QUERIED, ending, query_text
from teleport_db.pgwire.statements import Bind, FrontendMessage, Unreadable, decode_bind, decode_parse
from teleport_db.pgwire.walk import Answer
from teleport_db.pgwire.words import mentions

#: Bytes of a chunk that is looked at.
MAX_CHUNK: Final = 16384

_PARSE, _BIND = ord("P"), ord("B")
#: What follows the Bind.
_BEHIND = message(b"D", b"P\0") + message(b"E", b"\0\0\0\0\0") + SYNC_MESSAGE


class Express(Executions):
    """The book-keeping of one session, the common exchanges in one step."""

    __slots__ = ("_alone", "_waiting")

    def __init__(self, *, messages: bool = False) -> None:
        super().__init__(messages=messages)
        self._alone = not messages
        self._waiting: tuple[Execution, Bind, Prepared, bool] | None = None

    @property
    def idle(self) -> bool:
        """Whether the database has answered all that it was asked."""
        return not self.owed and self._waiting is None

    def begun(self, chunk: bytes, base: int) -> Execution | None:
        """What the client begins with a chunk behind a whole message; None when it takes the long way.

        Its :attr:`Execution.sql`, or `portal`, is to be recorded before the chunk goes on.

        :param base: bytes that the client has sent before.
        """
        size = len(chunk)
        if not HEADER_SIZE < size <= MAX_CHUNK or self.owed or self._waiting is not None or not self._alone:
            return None
        if self._doubt or self._skipping or self.done:
            return None
        sql = query_text(chunk)
        if sql is not None:
            one = self._one(QUERY, base + size - self._ended, base + size)
            one.sql = sql
            self.owed.append(one)
            return one
        kind, length = HEADER.unpack_from(chunk)
        if kind == _BIND:
            return self._bind_begun(chunk, 0, base)
        return self._parse_begun(chunk, length + 1, base) if kind == _PARSE and length < size else None

    def _one(self, kind: int, sent: int, end: int) -> Execution:
        self.last_id += 1
        self._end = self._ended = end
        return Execution(kind, self.last_id, sent)

    def _parse_begun(self, chunk: bytes, end: int, base: int) -> Execution | None:
        if chunk[HEADER_SIZE] or not chunk.endswith(_BEHIND):
            return None
        names = self.names
        try:
            parse = decode_parse(chunk, HEADER_SIZE, end)
        except Unreadable:
            return None
        prepared = Prepared(parse.sql, parse.parameter_types, self.last_id)
        if not prepared.plain or names.statements.pending or not names.has_room(names.statements, prepared.cost):
            return None
        return self._bind_begun(chunk, end, base, prepared)

    def _bind_begun(self, chunk: bytes, start: int, base: int, parsed: Prepared | None = None) -> Execution | None:
        if len(chunk) < start + HEADER_SIZE + 4 or chunk[start + HEADER_SIZE] or not chunk.endswith(_BEHIND):
            return None
        kind, length = HEADER.unpack_from(chunk, start)
        if kind != _BIND or start + 1 + length + len(_BEHIND) != len(chunk) or mentions(chunk):
            return None
        try:
            bind = decode_bind(chunk, start + HEADER_SIZE, start + 1 + length)
        except Unreadable:
            return None
        statements, prepared = self.names.statements, parsed
        if parsed is None:
            prepared = statements.confirmed.get(bind.statement)
        elif bind.statement:
            return None
        if prepared is None or statements.pending or not prepared.plain or prepared.since < self._statements_from:
            return None
        prepared.used = True
        end = base + len(chunk)
        one = self._one(EXECUTE, end - len(SYNC_MESSAGE) - self._ended, end)
        one.portal = Portal(prepared, bind.statement, bind, one.id - 1)
        self._waiting = one, bind, prepared, parsed is not None
        return one

    def ended(self, answers: Sequence[Answer]) -> Execution | None:
        """What these answers are the end of; None when they take the long way.

        It is to be recorded before the answers go on.
        """
        if self._waiting is not None:
            return self._bind_ended(answers)
        owed = self.owed
        if len(owed) != 1 or self._doubt:
            return None
        one = owed[0]
        if one.kind != QUERY or not isinstance(one, Execution) or one.answered or one.copying:
            return None
        found = ending(answers, QUERIED)
        if found is None:
            return None
        tag, affected, rows, received, idle = found
        owed.popleft()
        one.ended(tag, affected)
        one.rows += self._rows + rows
        one.received += self._size + received
        self._rows = self._size = self._last = 0
        names = self.names
        if b"" in names.statements.confirmed:
            names.statements.drop(b"")
        if idle and names.portals.confirmed:
            names.end_transaction()
        return one

    def _bind_ended(self, answers: Sequence[Answer]) -> Execution | None:
        assert self._waiting is not None
        one, _, prepared, parsed = self._waiting
        if self._rows or self._size:
            return None
        found = ending(answers, PARSED if parsed else BOUND)
        if found is None:
            return None
        tag, affected, rows, received, idle = found
        if not idle:
            return None
        self._waiting = None
        names = self.names
        names.batch += 1
        if parsed:
            names.statements.replace(b"", prepared)
        if names.portals.confirmed:
            names.end_transaction()
        one.ended(tag, affected)
        one.rows, one.received = rows, received
        return one

    def _put_back(self) -> None:
        """The long way goes on from here."""
        if self._waiting is None:
            return
        (one, bind, prepared, parsed), self._waiting = self._waiting, None
        names = self.names
        if parsed:
            self.owed.append(names.prepare(b"", prepared))
        portal = Portal(prepared, bind.statement, bind, one.id - 1)
        portal.cost = prepared.cost + sum(len(value) for value in bind.parameters if value)
        self.owed.append(names.portal_from(b"", portal))
        self.owed.append(Owed(DESCRIBE, names.batch))
        self.owed.append(one)
        self.owed.append(Owed(SYNC, names.batch))
        names.batch += 1

    def sent(self, messages: Sequence[FrontendMessage], ends: Sequence[int], begin: int = 0, base: int = 0) -> int:
        """As :meth:`Executions.sent`."""
        self._put_back()
        return super().sent(messages, ends, begin, base)

    def answered(self, answers: Sequence[Answer]) -> None:
        """As :meth:`Outcomes.answered`."""
        self._put_back()
        super().answered(answers)

    def lost(self, rows: int = 0, size: int = 0) -> None:
        """As :meth:`Outcomes.lost`."""
        self._put_back()
        super().lost(rows, size)
