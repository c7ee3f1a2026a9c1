"""Which statements run in a session and what comes of each: the book-keeping of both directions.

::

    client:    Parse s1 | Bind p1 s1 | Execute p1 | Sync | Query | ...        sent()     -> executions, to be recorded
    database:  '1'      | '2'        | ... 'C'    | 'Z'  | ... 'C' 'Z' | ...  answered() -> what came of them

The database answers in order, so a queue of what it still owes an answer to tells which answer belongs to what.

The text of an Execute is that of the statement which the server will run:

* A name means what a Parse that *succeeded* has bound to it.  A Parse of a name that is in use fails, and Execute
  runs the old text: so a name is bound at ParseComplete.
* Within a batch, up to its Sync, a Parse without an answer counts: if it fails the server skips to the Sync, and
  what stands between is not run.
* Beyond a Sync it does not: what needs a name whose answer has not come must wait (:meth:`Executions.sent` stops
  there).  The Sync was sent, so the answer comes.
* Names are compared as far as the server compares them, 63 bytes.
* What SQL makes (PREPARE, DECLARE) has a name and no text here; the text was recorded when it ran.  A name that
  SQL may have taken over since is marked doubtful.

Memory is bounded.  Texts and parameters beyond ``names.MAX_HELD`` are recorded with their Parse or Bind, under a
statement id that the executions refer to; beyond :data:`MAX_OWED` answers the client waits.  That cannot stall:
so many answers are more than the buffer that a server gathers them in.

Sources: protocol chapter "Message Flow", and postgres.c of PostgreSQL 15 where that is silent: what is skipped
after an error, what a COPY swallows, that a Query drops no named statement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from teleport_db.errors import RemoteProtocolError
from teleport_db.pgwire.names import MustWait, Owed
from teleport_db.pgwire.outcomes import Outcomes
from teleport_db.pgwire.prepared import (
    COPY_END,
    DESCRIBE,
    EXECUTE,
    FUNCTION,
    NAME_SIZE,
    QUERY,
    SYNC,
    Execution,
    Large,
    Portal,
    Prepared,
    Recorded,
    deallocated,
    makes,
)
from teleport_db.pgwire.statements import (
    Bind,
    Close,
    CopyEnd,
    Describe,
    Execute,
    FrontendMessage,
    FunctionCall,
    Parse,
    Query,
    StatementPart,
    Sync,
)

#: Answers that the database may owe: 5 bytes each at least, and its buffer has 8 KiB, poolers' have 16.
MAX_OWED: Final = 8192

Made = Execution | Recorded


class Executions(Outcomes):
    """The book-keeping of one session.

    :param messages: every message that is part of an execution is to be recorded on its own as well.
    :ivar made: what is to be recorded before bytes go on to the database; whoever records takes it out.
    :ivar last_id: the statement id that was given last.
    """

    __slots__ = (
        *("_cursors_from", "_end", "_ended", "_large", "_messages", "_secret_names", "_statements_from"),
        *("last_id", "made"),
    )

    def __init__(self, *, messages: bool = False) -> None:
        super().__init__()
        self.made: list[Made] = []
        self.last_id = 0
        self._messages = messages
        self._statements_from = self._cursors_from = 0  # names from before these ids are doubtful
        self._secret_names = False  # SQL has prepared something that speaks of a password
        self._large: Large | None = None
        self._end = self._ended = 0  # where the present message, and the last that was counted, end

    def sent(self, messages: Sequence[FrontendMessage], ends: Sequence[int], begin: int = 0, base: int = 0) -> int:
        """The client sends these messages; fills :attr:`made`, and :attr:`done` with what will never run.

        :param ends: where each ends, `base` added, in all that the client ever sent.
        :param begin: from which one on.
        :return: how many of them may go on: that many, or up to the one that must wait for an answer.
        :raises RemoteProtocolError: it can no more be told what belongs to what.
        """
        owed = self.owed
        for index in range(begin, len(messages)):
            message = messages[index]
            if len(owed) >= MAX_OWED:
                if not self._skipping:
                    return index
                self._skip(self._skipping)
            if self._doubt and message.__class__ not in (Sync, CopyEnd):
                raise RemoteProtocolError("a COPY that failed was not ended before the next message")
            self._end = base + ends[index]
            try:
                _SENDS[message.__class__](self, message)
            except MustWait:
                return index
        return len(messages)

    def _number(self) -> int:
        self.last_id += 1
        return self.last_id

    def _execution(self, kind: int, number: int = 0) -> Execution:
        made = Execution(kind, number or self._number(), self._end - self._ended)
        self._ended = self._end
        self.owed.append(made)
        self.made.append(made)
        return made

    def _will_make(self, words: tuple[bool, bool]) -> None:
        """SQL that is about to run may take names over."""
        prepares, declares = words
        if prepares:
            self._statements_from = self.last_id
        if declares:
            self._cursors_from = self.last_id

    def _query(self, message: Query) -> None:
        made = self._execution(QUERY)
        sql = made.sql = message.sql
        lowered = sql.lower()
        if b"prepare" in lowered or b"declare" in lowered:
            self._will_make(makes(sql))
            self._secret_names |= b"password" in lowered
        if b"deallocate" in lowered:
            made.deallocates = deallocated(sql)

    def _parse(self, message: Parse) -> None:
        prepared, kept = self.names.parse(message, self.last_id)
        if self._messages:
            self.made.append(Recorded(message, 0))
        if not kept:
            prepared = self._recorded(message.name, prepared)
        self.owed.append(self.names.prepare(message.name, prepared))

    def _bind(self, message: Bind) -> None:
        portal, kept = self.names.bind(message, self.last_id)
        portal.secret = self._is_secret(portal.prepared)
        if self._messages:
            self.made.append(Recorded(message, 0, portal.secret))
        if not kept:
            prepared = portal.prepared
            portal.number, portal.bind, portal.cost = self._number(), None, 0
            self.made.append(Recorded(message, portal.number, portal.secret))
            if prepared is not None and prepared.sql is not None:
                portal.prepared = self._recorded(portal.statement, prepared)
        self.owed.append(self.names.portal_from(message.portal, portal))

    def _recorded(self, name: bytes, prepared: Prepared) -> Prepared:
        """The same statement, its text in the log instead of here."""
        assert prepared.sql is not None
        number = self._number()
        self.made.append(Recorded(Parse(name, prepared.sql, prepared.types), number))
        return prepared.without_text(number)

    def _is_secret(self, prepared: Prepared | None) -> bool:
        """Whether parameters of it may be passwords."""
        return self._secret_names if prepared is None else prepared.sensitive

    def _execute(self, message: Execute) -> None:
        portal = self.names.portal(message.portal)
        if self._messages:
            self.made.append(Recorded(message, 0))
        made = self._execution(EXECUTE)
        made.portal, made.portal_name, made.limit = portal, message.portal[:NAME_SIZE], message.limit
        if portal is None:
            return
        if message.portal and portal.since < self._cursors_from:
            made.doubtful = True
        prepared = portal.prepared
        if prepared is None:
            return
        prepared.used = True
        if portal.statement and prepared.since < self._statements_from <= portal.since:
            made.doubtful = True
        words = prepared.words
        if words[0] or words[1]:
            self._will_make(words)
            self._secret_names |= prepared.sensitive
        if prepared.sql is not None and len(prepared.sql) < 200 and b"deallocate" in prepared.sql.lower():
            made.deallocates = deallocated(prepared.sql)

    def _function(self, message: FunctionCall) -> None:
        if self._messages:
            self.made.append(Recorded(message, 0))
        self._execution(FUNCTION).function = message

    def _close(self, message: Close) -> None:
        if self._messages:
            self.made.append(Recorded(message, 0))
        self.owed.append(self.names.close(message.kind, message.name))

    def _describe(self, message: Describe) -> None:
        owed = Owed(DESCRIBE, self.names.batch)
        if message.kind == b"S":
            owed.what = self.names.described(message.name)
        self.owed.append(owed)

    def _sync(self, message: Sync) -> None:
        if self._skipping:
            self._skip(self._skipping)
            self._skipping = ""
        self.owed.append(Owed(SYNC, self.names.batch))
        self.names.batch += 1
        self._ended = self._end
        if self._doubt == 2:
            self._doubt = 0

    def _copy_end(self, message: CopyEnd) -> None:
        size, self._ended = self._end - self._ended, self._end
        if self._doubt:
            self._drop_syncs()
            self._doubt = 2
        elif self.owed:
            self.owed.append(Owed(COPY_END, self.names.batch, cost=size))

    # Messages of more than 64 KiB.

    def _part(self, part: StatementPart) -> None:
        large = self._large = self._begin(part) if part.number == 0 else self._large
        assert large is not None
        if part.kind in ("Query", "Parse"):
            large.look(part.data)
        self.made.append(Recorded(part, large.number, large.secret))
        if part.last:
            self._large = None
            self._whole(part, large)

    def _begin(self, part: StatementPart) -> Large:
        names = part.data.split(b"\0", 2)
        if (part.kind == "Bind" and len(names) < 3) or (part.kind == "Parse" and len(names) < 2):
            raise RemoteProtocolError("a name of more than 64 KiB is no name of PostgreSQL's")
        known = None
        if part.kind == "Bind":
            known = self.names.statement(names[1])
        large = Large(self._number())
        large.name, large.prepared = names[0][:NAME_SIZE], known
        if part.kind == "Bind":
            large.statement, large.secret = names[1][:NAME_SIZE], self._is_secret(known)
        elif part.kind == "FunctionCall":
            large.name = part.data[:4]
        return large

    def _whole(self, part: StatementPart, large: Large) -> None:
        """The last part has come: now the server can run the message."""
        words = (b"prepare" in large.words, b"declare" in large.words)
        if part.kind == "Query":
            self._execution(QUERY, large.number)
            self._will_make(words)
            self._secret_names |= words[0] and b"password" in large.words
        elif part.kind == "FunctionCall":
            self._execution(FUNCTION, large.number).function = FunctionCall(int.from_bytes(large.name, "big"))
        elif part.kind == "Bind":
            portal = Portal(large.prepared, large.statement, None, self.last_id)
            portal.number = large.number
            self.owed.append(self.names.portal_from(large.name, portal))
        else:
            prepared = Prepared(None, (), self.last_id, lowered=b" ".join(sorted(large.words)))
            prepared.number, prepared.length, prepared.sha256 = large.number, part.total_length, part.sha256
            self.owed.append(self.names.prepare(large.name, prepared))


_SENDS: dict[type, Callable[[Executions, Any], None]] = {
    Query: Executions._query,
    Parse: Executions._parse,
    Bind: Executions._bind,
    Execute: Executions._execute,
    Close: Executions._close,
    Describe: Executions._describe,
    FunctionCall: Executions._function,
    StatementPart: Executions._part,
    Sync: Executions._sync,
    CopyEnd: Executions._copy_end,
}
