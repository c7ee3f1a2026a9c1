"""What a session has prepared and what runs of it: the facts that its audit record is made of."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from teleport_db.pgwire.statements import Bind, Bound, FunctionCall, Statement
from teleport_db.pgwire.words import mentions

#: PostgreSQL compares names of statements and portals up to here (NAMEDATALEN - 1).
NAME_SIZE: Final = 63

#: Tags that are kept of one Query with many statements.
MAX_TAGS: Final = 16

#: What an :class:`Execution` came from; also entries of what the server owes an answer to.
QUERY, EXECUTE, FUNCTION, PARSE, BIND, DESCRIBE, CLOSE, SYNC, COPY_END = range(9)

_PREPARE = re.compile(rb"\bprepare\b(?!\s+transaction\b)", re.IGNORECASE)
_DECLARE = re.compile(rb"\bdeclare\b", re.IGNORECASE)
_DEALLOCATE = re.compile(
    rb"""\s*deallocate\s+(?:prepare\s+)?(?:"((?:[^"]|"")+)"|([a-z_\x80-\xff][a-z0-9_$\x80-\xff]*))\s*;?\s*""",
    re.IGNORECASE,
)


class Prepared:
    """A prepared statement.

    :ivar sql: None when it is not kept: the log has it in the event of its Parse, see `number`.
    :ivar types: OIDs of the parameters; 0, or missing, where they are not known.
    :ivar number: 0, or the statement id under which its Parse is in the log.
    :ivar cost: bytes that are kept.
    :ivar length: where there is a `number`, bytes of what was recorded; `sha256` of the same.
    :ivar since: the last statement id that was given before it.
    :ivar sensitive: it speaks of a password, so its parameters may be one.
    :ivar plain: its text is here, and has none of :data:`~teleport_db.pgwire.words.WORDS`.
    :ivar used: an execution of it is in the log.
    :ivar encoded: for whoever records it, a place for what is the same each time.

    :param lowered: the text in lower case, where that is known, or what matters of it.
    :param plain: it is known to be that.
    """

    __slots__ = (
        "_words",
        "cost",
        "encoded",
        "length",
        "number",
        "plain",
        "sensitive",
        "sha256",
        "since",
        "sql",
        "types",
        "used",
    )

    def __init__(
        self,
        sql: bytes | None,
        types: tuple[int, ...],
        since: int,
        *,
        lowered: bytes | None = None,
        plain: bool = False,
    ) -> None:
        self.sql = sql
        self.cost = 0 if sql is None else len(sql)
        self.types = types
        self.since = since
        if plain:
            lowered = b""
        elif lowered is None:
            lowered = sql.lower() if sql is not None else b""
        self.sensitive = b"password" in lowered
        self.plain = plain or (sql is not None and not mentions(sql))
        self.number = 0
        self.length = 0
        self.sha256 = ""
        self.used = False
        self.encoded: str | None = None
        self._words: tuple[bool, bool] | None = None
        if b"prepare" not in lowered and b"declare" not in lowered:
            self._words = (False, False)

    def without_text(self, number: int) -> Prepared:
        """The same, its text in the log under this statement id instead of here."""
        assert self.sql is not None
        same = Prepared(self.sql, self.types, self.since)
        same._words = self.words
        same.number, same.length, same.sha256 = number, len(self.sql), hashlib.sha256(self.sql).hexdigest()
        same.sql, same.cost, same.plain = None, 0, False
        return same

    @property
    def words(self) -> tuple[bool, bool]:
        """Whether it may make a prepared statement, and a cursor, by SQL."""
        if self._words is None:
            self._words = makes(self.sql or b"prepare declare")
        return self._words


def makes(sql: bytes) -> tuple[bool, bool]:
    """Whether this SQL may make a prepared statement, and a cursor."""
    return _PREPARE.search(sql) is not None, _DECLARE.search(sql) is not None


def deallocated(sql: bytes) -> bytes:
    """The name in ``DEALLOCATE name`` alone; empty for everything else."""
    found = _DEALLOCATE.fullmatch(sql)
    if found is None:
        return b""
    quoted, plain = found.groups()
    if quoted:
        return bytes(quoted.replace(b'""', b'"'))
    return b"" if plain.lower() in (b"all", b"prepare") else bytes(plain.lower())


class Portal:
    """A portal that a Bind made.

    :ivar prepared: None when nothing is known of the statement: SQL made it, or it does not exist.
    :ivar statement: its name.
    :ivar secret: its parameters may be passwords.
    :ivar cost: bytes that are kept.
    :ivar bind: None when its parameters are not kept: the log has them in the event of the Bind, see `number`.
    """

    __slots__ = ("bind", "cost", "number", "prepared", "secret", "since", "statement")

    def __init__(self, prepared: Prepared | None, statement: bytes, bind: Bind | None, since: int) -> None:
        self.prepared = prepared
        self.statement = statement
        self.bind = bind
        self.since = since
        self.cost = 0
        self.number = 0
        self.secret = False


class Execution:
    """One execution: a Query, an Execute or a FunctionCall.

    :ivar id: the statement id, from 1 within its session.
    :ivar sql: of a Query; None when it was recorded in parts.
    :ivar portal: of an Execute, until that is recorded; None when nothing is known of it.
    :ivar bound: instead of a portal, of an Execute that :class:`~teleport_db.pgwire.express.Express` follows;
        ``prepared`` is its statement, None when that is parsed with it.
    :ivar doubtful: SQL may have made the statement, or the portal, anew under its name.
    :ivar started: for whoever measures the time.

    What came of it:

    :ivar tags: of its statements, the first :data:`MAX_TAGS`; ``completed`` is how many there were.
    :ivar affected: the sum of the numbers in them.
    :ivar rows: that were returned, or copied in either direction.
    :ivar sent: bytes of the client; ``received`` bytes of the database.
    :ivar sqlstate: of the error; ``skipped`` when that was of another message of its batch, and this never ran.
    :ivar lost: the session ended before an answer came.
    """

    # What most executions never set is the class's: these are made on the byte path.
    portal: Portal | None = None
    portal_name = b""
    limit = 0
    function: FunctionCall | None = None
    doubtful = False
    deallocates = b""
    copying = False
    sqlstate = ""
    suspended = False
    skipped = False
    lost = False

    def __init__(self, kind: int, id: int, sent: int) -> None:
        self.kind = kind
        self.id = id
        self.sent = sent
        # What most set is set in one order: an object whose fields come otherwise than those of the first of its class
        # may get a dictionary of its own, which is slow.
        self.sql: bytes | None = None
        self.bound: Bound | None = None
        self.prepared: Prepared | None = None
        self.started = 0.0
        self.answered = False
        self.completed = 0
        self.tags: tuple[bytes, ...] = ()
        self.affected = 0
        self.rows = 0
        self.received = 0

    @property
    def whole(self) -> bool:
        """Whether it is to be recorded as one; the parts of a large Query are recorded already."""
        return self.kind != QUERY or self.sql is not None

    @property
    def success(self) -> bool:
        """Whether it ran to its end."""
        return not (self.sqlstate or self.lost)

    def bound_portal(self) -> Portal:
        """The portal that is made of what was bound."""
        assert self.bound is not None
        statement, formats, values, sql, types = self.bound
        prepared = self.prepared
        if prepared is None:
            prepared = Prepared(sql, types, self.id - 1, plain=True)
        portal = Portal(prepared, statement, Bind(b"", statement, formats, values), self.id - 1)
        portal.cost = prepared.cost + sum(len(value) for value in values if value)
        return portal

    def ended(self, tag: bytes, affected: int) -> None:
        """Its only CommandComplete has come, with this tag and the number at its end, of no COPY."""
        self.answered = True
        self.completed = 1
        self.tags = (tag,)
        self.affected = affected

    def complete(self, tag: bytes) -> None:
        """A CommandComplete with this tag."""
        self.answered = True
        self.completed += 1
        if len(self.tags) < MAX_TAGS:
            self.tags += (tag,)
        number = tag[tag.rfind(b" ") + 1 :]
        if number.isdigit() and len(number) < 19:
            self.affected += int(number)
            if tag.startswith(b"COPY "):
                self.rows += int(number)


class Large:
    """A message that comes in parts, as far as it came.

    :ivar number: the statement id of its parts.
    :ivar name: of the statement or portal that it makes; of a FunctionCall the function's OID.
    :ivar secret: its parameters may be passwords.
    :ivar words: of its text, those that matter.
    """

    __slots__ = ("_tail", "name", "number", "prepared", "secret", "statement", "words")

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = self.statement = b""
        self.prepared: Prepared | None = None
        self.secret = False
        self.words: set[bytes] = set()
        self._tail = b""

    def look(self, data: bytes) -> None:
        """Look for words that matter, also across the edge of two parts."""
        lowered = self._tail + data.lower()
        self.words |= {word for word in (b"password", b"prepare", b"declare") if word in lowered}
        self._tail = lowered[-7:]


class Recorded:
    """A message that is recorded beside the executions: a part of a large one, or what is not kept.

    :ivar number: the statement id under which it is recorded, 0 for none.
    :ivar secret: what it holds of parameters may be a password.
    """

    __slots__ = ("message", "number", "secret")

    def __init__(self, message: Statement, number: int, secret: bool = False) -> None:
        self.message = message
        self.number = number
        self.secret = secret


class Refused:
    """A statement that the server did not prepare, and that nobody had asked to run yet."""

    __slots__ = ("name", "prepared", "sqlstate")

    def __init__(self, name: bytes, prepared: Prepared, sqlstate: str) -> None:
        self.name = name
        self.prepared = prepared
        self.sqlstate = sqlstate


class CommitFailed:
    """The end of a batch failed, and with it what its executions had done."""

    __slots__ = ("id", "sqlstate")

    def __init__(self, id: int, sqlstate: str) -> None:
        self.id = id
        self.sqlstate = sqlstate
