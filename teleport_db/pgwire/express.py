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
from teleport_db.pgwire.messages import HEADER_SIZE
from teleport_db.pgwire.messages import SYNC as SYNC_MESSAGE
from teleport_db.pgwire.names import Owed
from teleport_db.pgwire.prepared import DESCRIBE, EXECUTE, QUERY, SYNC, Execution, Prepared
from teleport_db.pgwire.simple import BOUND, PARSED, QUERIED, bound, ending, query_text
from teleport_db.pgwire.statements import Bound, FrontendMessage
from teleport_db.pgwire.walk import Answer

#: Bytes of a chunk that is looked at.
MAX_CHUNK: Final = 16384

_QUERY = ord("Q")


class Express(Executions):
    """The book-keeping of one session, the common exchanges in one step."""

    __slots__ = ("_alone", "_waiting")

    def __init__(self, *, messages: bool = False) -> None:
        super().__init__(messages=messages)
        self._alone = not messages
        self._waiting: Execution | None = None

    @property
    def idle(self) -> bool:
        """Whether the database has answered all that it was asked."""
        return not self.owed and self._waiting is None

    def begun(self, chunk: bytes, base: int) -> Execution | None:
        """What the client begins with a chunk behind a whole message; None when it takes the long way.

        Its :attr:`Execution.sql`, or `bound`, is to be recorded before the chunk goes on.

        :param base: bytes that the client has sent before.
        """
        size = len(chunk)
        if not HEADER_SIZE < size <= MAX_CHUNK or self.owed or self._waiting is not None or not self._alone:
            return None
        if self._doubt or self._skipping or self.done:
            return None
        if chunk[0] != _QUERY:
            found = bound(chunk)
            return None if found is None else self._bind_begun(found, base + size)
        sql = query_text(chunk)
        if sql is None:
            return None
        one = self._one(QUERY, base + size - self._ended, base + size)
        one.sql = sql
        self.owed.append(one)
        return one

    def _one(self, kind: int, sent: int, end: int) -> Execution:
        self.last_id += 1
        self._end = self._ended = end
        return Execution(kind, self.last_id, sent)

    def _bind_begun(self, found: Bound, end: int) -> Execution | None:
        statement, _, _, sql, _ = found
        names = self.names
        statements, prepared = names.statements, None
        if statements.pending:
            return None
        if sql is None:
            prepared = statements.confirmed.get(statement)
            if prepared is None or not prepared.plain or prepared.since < self._statements_from:
                return None
            prepared.used = True
        elif not names.has_room(statements, len(sql)):
            return None
        one = self._waiting = self._one(EXECUTE, end - len(SYNC_MESSAGE) - self._ended, end)
        one.bound, one.prepared = found, prepared
        return one

    def ended(self, answers: Sequence[Answer]) -> Execution | None:
        """What these answers are the end of; None when they take the long way.

        It is to be recorded before the answers go on.
        """
        if self._waiting is not None:
            return self._bind_ended(self._waiting, answers)
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

    def _bind_ended(self, one: Execution, answers: Sequence[Answer]) -> Execution | None:
        if self._rows or self._size:
            return None
        parsed = one.prepared is None
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
            self._replace_unnamed(one)
        if names.portals.confirmed:
            names.end_transaction()
        one.ended(tag, affected)
        one.rows, one.received = rows, received
        return one

    def _replace_unnamed(self, one: Execution) -> None:
        """The unnamed statement is the one that was parsed with it."""
        assert one.bound is not None
        *_, sql, types = one.bound
        statements, since = self.names.statements, one.id - 1
        known = statements.confirmed.get(b"")
        if known is not None and known.plain and known.sql == sql and known.types == types:
            known.since = since  # many a driver parses the same text each time
        else:
            statements.replace(b"", Prepared(sql, types, since, plain=True))

    def _put_back(self) -> None:
        """The long way goes on from here."""
        one, self._waiting = self._waiting, None
        if one is None:
            return
        names = self.names
        portal = one.bound_portal()
        if one.prepared is None:
            assert portal.prepared is not None
            portal.prepared.used = True
            self.owed.append(names.prepare(b"", portal.prepared))
        one.bound = one.prepared = None
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
