"""The frontend messages that are looked at, and how each is read.

Every function here takes a buffer and the bounds of one body in it, copies nothing but what it returns,
and raises :class:`Unreadable` unless the body is exactly what PostgreSQL's ``postgres.c`` would take
(``pq_getmsgend``: not one byte over).  Names and SQL stay bytes: they are in the client's encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs

_INT16 = struct.Struct(">H").unpack_from
_INT32 = struct.Struct(">i").unpack_from
_UINT32 = struct.Struct(">I").unpack_from
#: Readers of so many Int16; more of them are rare and may cost making the format.
_INT16S = tuple(struct.Struct(f">{count}H").unpack_from for count in range(17))


class Unreadable(Exception):
    """The body is not one of its type.  Never leaves the package."""


# Without slots a frozen class is built in half the time, and these are built on the byte path.


@attrs.frozen(slots=False)
class Query:
    """Simple query: frontend message ``Q``; `sql` may hold several statements."""

    sql: bytes


@attrs.frozen(slots=False)
class Parse:
    """Prepare a statement: ``P``.

    The server refuses a name that is in use and skips to the next Sync after any error, so a Parse that
    was sent is not yet a statement that exists: ParseComplete says so.

    :param name: empty for the unnamed statement.
    :param parameter_types: OIDs, 0 where the server shall find out.
    """

    name: bytes
    sql: bytes
    parameter_types: tuple[int, ...] = ()


@attrs.frozen(slots=False)
class Bind:
    """Make a portal of a prepared statement and its parameters: ``B``.

    :param formats: format codes of the parameters: none (all text), one for all, or one each; 0 text, 1 binary.
    :param parameters: values as sent; None is NULL.
    """

    portal: bytes
    statement: bytes
    formats: tuple[int, ...] = ()
    parameters: tuple[bytes | None, ...] = ()


#: A Bind of the unnamed portal that runs at once, as :mod:`teleport_db.pgwire.simple` finds it: the statement's name,
#: `formats` (none when all are text) and `parameters` as of a :class:`Bind`; SQL (else None) and types of the Parse of
#: the unnamed statement before it.
Bound = tuple[bytes, tuple[int, ...], tuple[bytes | None, ...], bytes | None, tuple[int, ...]]


@attrs.frozen(slots=False)
class Execute:
    """Run a portal: ``E``.

    :param limit: rows to return at most; 0 is all.
    """

    portal: bytes
    limit: int = 0


@attrs.frozen(slots=False)
class Close:
    """Close a prepared statement or a portal: ``C``.

    :param kind: ``b"S"`` a statement, ``b"P"`` a portal.
    """

    kind: bytes
    name: bytes


@attrs.frozen(slots=False)
class FunctionCall:
    """Call a function by its OID, without SQL: ``F``.

    :param arguments: values as sent; None is NULL.
    :param formats: of the arguments, as in a Bind.
    """

    oid: int
    arguments: tuple[bytes | None, ...] = ()
    formats: tuple[int, ...] = ()


@attrs.frozen(slots=False)
class Describe:
    """Ask what a prepared statement or a portal gives: ``D``; fields as of a Close."""

    kind: bytes
    name: bytes


@attrs.frozen(slots=False)
class Sync:
    """The end of a batch: ``S``.  What went wrong before it ends here."""


@attrs.frozen(slots=False)
class CopyEnd:
    """No more CopyData comes: CopyDone ``c`` or CopyFail ``f``."""


@attrs.frozen(slots=False)
class StatementPart:
    """A piece of a message too large to be held.

    The pieces' `data` joined are the SQL of a Query (without its NUL), else the body as it was sent.

    :param kind: ``Query``, ``Parse``, ``Bind`` or ``FunctionCall``.
    :param number: counted from 0 within its message.
    :param last: with this piece the message is whole.
    :param total_length: of all pieces, in bytes; 0 but for the last.
    :param sha256: of all pieces, in hexadecimal; empty but for the last.
    """

    kind: str
    number: int
    data: bytes
    last: bool = False
    total_length: int = 0
    sha256: str = ""


#: What is audited, in an event of its own or as a part of one.
Statement = Query | Parse | Bind | Execute | Close | FunctionCall | StatementPart
#: What has to be known of to tell which of the server's answers belongs to what.
FrontendMessage = Statement | Describe | Sync | CopyEnd
Decoder = Callable[[bytes, int, int], FrontendMessage]

SYNC_SENT = Sync()
COPY_ENDED = CopyEnd()


def decode_query(data: bytes, start: int, end: int) -> Query:
    """``String sql``."""
    stop = data.find(0, start, end)
    if stop != end - 1 or stop < 0:
        raise Unreadable
    return Query(data[start:stop])


def decode_parse(data: bytes, start: int, end: int) -> Parse:
    """``String name, String sql, Int16 n, n * Int32 type``."""
    name_end = data.find(0, start, end)
    sql_end = data.find(0, name_end + 1, end) if name_end >= 0 else -1
    position = sql_end + 3
    if sql_end < 0 or position > end:
        raise Unreadable
    (count,) = _INT16(data, sql_end + 1)
    if position + 4 * count != end:
        raise Unreadable
    types = struct.unpack_from(f">{count}I", data, position) if count else ()
    return Parse(data[start:name_end], data[name_end + 1 : sql_end], types)


def _values(data: bytes, position: int, end: int) -> tuple[tuple[int, ...], tuple[bytes | None, ...], int]:
    """``Int16 n, n * Int16 format, Int16 n, n * (Int32 length, bytes)``, as in Bind and FunctionCall.

    A read may run into the next message of the buffer, never past the buffer; then the position is past
    `end`, and the caller refuses.
    """
    (count,) = _INT16(data, position)
    position += 2
    formats = _INT16S[count](data, position) if count < 17 else struct.unpack_from(f">{count}H", data, position)
    position += 2 * count
    (count,) = _INT16(data, position)
    position += 2
    values: list[bytes | None] = []
    for _ in range(count):
        (length,) = _INT32(data, position)
        position += 4
        if length >= 0:
            start = position
            position += length
            if position > end:
                raise Unreadable
            values.append(data[start:position])
        elif length == -1:
            values.append(None)
        else:
            raise Unreadable
    return formats, tuple(values), position


def decode_bind(data: bytes, start: int, end: int) -> Bind:
    """``String portal, String statement, formats and values, Int16 n, n * Int16 result format``."""
    portal_end = data.find(0, start, end)
    statement_end = data.find(0, portal_end + 1, end) if portal_end >= 0 else -1
    if statement_end < 0:
        raise Unreadable
    try:
        formats, values, position = _values(data, statement_end + 1, end)
        (count,) = _INT16(data, position)
    except struct.error:
        raise Unreadable from None
    if position + 2 + 2 * count != end:
        raise Unreadable
    return Bind(data[start:portal_end], data[portal_end + 1 : statement_end], formats, values)


#: What nearly every driver sends, made once.
_EXECUTE_ALL = Execute(b"", 0)


def decode_execute(data: bytes, start: int, end: int) -> Execute:
    """``String portal, Int32 limit``."""
    if data[start:end] == b"\0\0\0\0\0":
        return _EXECUTE_ALL
    stop = data.find(0, start, end)
    if stop < 0 or stop + 5 != end:
        raise Unreadable
    return Execute(data[start:stop], _INT32(data, stop + 1)[0])


def _target(data: bytes, start: int, end: int) -> tuple[bytes, bytes]:
    """``Byte1 kind, String name``, as in Close and Describe."""
    kind = data[start : start + 1]
    if end - start < 2 or kind not in (b"S", b"P") or data.find(0, start + 1, end) != end - 1:
        raise Unreadable
    return kind, data[start + 1 : end - 1]


def decode_close(data: bytes, start: int, end: int) -> Close:
    """``Byte1 kind, String name``."""
    return Close(*_target(data, start, end))


#: What nearly every driver sends, made once.
_DESCRIBE_PORTAL = Describe(b"P", b"")


def decode_describe(data: bytes, start: int, end: int) -> Describe:
    """``Byte1 kind, String name``."""
    if data[start:end] == b"P\0":
        return _DESCRIBE_PORTAL
    return Describe(*_target(data, start, end))


def decode_function_call(data: bytes, start: int, end: int) -> FunctionCall:
    """``Int32 oid, formats and values, Int16 result format``."""
    try:
        (oid,) = _UINT32(data, start)
        formats, values, position = _values(data, start + 4, end)
    except struct.error:
        raise Unreadable from None
    if position + 2 != end:
        raise Unreadable
    return FunctionCall(oid, values, formats)
