"""The common exchanges, each looked at in one step: what a Query or a Bind asks, and what came of it.

::

    Query                                           -> its SQL
    [Parse] Bind Describe Execute Sync              -> the Bind, and the SQL of the Parse
    [RowDescription] CommandComplete ReadyForQuery                              -> how it ended
    [ParseComplete] BindComplete RowDescription|NoData CommandComplete ReadyForQuery    -> likewise

Each function has a compiled twin, which stands in for it where that was built.  Whatever is not exactly that gives
None, and is for :mod:`teleport_db.pgwire.executions` and :mod:`teleport_db.pgwire.outcomes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from teleport_db.pgwire.messages import HEADER, HEADER_SIZE, SYNC, message
from teleport_db.pgwire.statements import Bound, Parse, Unreadable, decode_bind, decode_parse
from teleport_db.pgwire.walk import Answer
from teleport_db.pgwire.words import pure_mentions

__all__ = [
    "BOUND",
    "PARSED",
    "QUERIED",
    "Ending",
    "bound",
    "ending",
    "pure_bound",
    "pure_ending",
    "pure_query_text",
    "query_text",
]

#: What was asked: a Query, or a Bind with what runs it, perhaps behind a Parse.
QUERIED, BOUND, PARSED = range(3)

#: The command tag, the number at its end (else 0), rows and bytes of the database, and whether no transaction is open.
#: The ReadyForQuery of a Sync is none of those bytes.
Ending = tuple[bytes, int, int, int, bool]

_QUERY, _PARSE, _BIND = ord("Q"), ord("P"), ord("B")
#: What follows the Bind.
_BEHIND: Final = message(b"D", b"P\0") + message(b"E", b"\0\0\0\0\0") + SYNC
_COMPLETE, _READY, _ROWS = ord("C"), ord("Z"), ord("T")
#: Before the CommandComplete.
_BEFORE: Final = (({b"", b"T"}), ({b"2T", b"2n"}), ({b"12T", b"12n"}))
#: Tags that may drop names begin so, or count rows that were copied.
_TAGS: Final = (b"DEALLOCATE", b"DISCARD", b"COPY ")


def pure_query_text(chunk: bytes) -> bytes | None:
    """The SQL of a chunk that is one whole Query without any of :data:`~teleport_db.pgwire.words.WORDS`."""
    size = len(chunk)
    if size <= HEADER_SIZE:
        return None
    kind, length = HEADER.unpack_from(chunk)
    if kind != _QUERY or length + 1 != size or chunk.find(0, HEADER_SIZE) != size - 1:
        return None
    sql = chunk[HEADER_SIZE:-1]
    return None if pure_mentions(sql) else sql


def pure_bound(chunk: bytes) -> Bound | None:
    """What a chunk binds and runs, when that is all it does, without any of :data:`~teleport_db.pgwire.words.WORDS`.

    It is perhaps a Parse of the unnamed statement, then a Bind of the unnamed portal, its Describe, its Execute
    without a limit, and a Sync.
    """
    end = len(chunk) - len(_BEHIND)
    if end < HEADER_SIZE or not chunk.endswith(_BEHIND):
        return None
    parse, start = Parse(b"", b""), 0
    kind, length = HEADER.unpack_from(chunk)
    try:
        if kind == _PARSE:
            start = length + 1
            if start + HEADER_SIZE > end:
                return None
            parse = decode_parse(chunk, HEADER_SIZE, start)
            kind, length = HEADER.unpack_from(chunk, start)
        if kind != _BIND or start + 1 + length != end:
            return None
        bind = decode_bind(chunk, start + HEADER_SIZE, end)
    except Unreadable:
        return None
    if parse.name or bind.portal or (start and bind.statement) or pure_mentions(chunk):
        return None
    formats = bind.formats if any(bind.formats) else ()
    return bind.statement, formats, bind.parameters, parse.sql if start else None, parse.parameter_types


def pure_ending(answers: Sequence[Answer], asked: int) -> Ending | None:
    """How it ended, when these are its only answers and no name may have been dropped.

    :param asked: :data:`QUERIED`, :data:`BOUND` or :data:`PARSED`.
    """
    *before, (complete, tag, rows, size), (ready, status, others, last) = answers if len(answers) > 1 else (_NO, _NO)
    if complete != _COMPLETE or ready != _READY or others or bytes([kind for kind, *_ in before]) not in _BEFORE[asked]:
        return None
    if any(more for _, _, more, _ in before) or tag.startswith(_TAGS):
        return None
    tag = tag.partition(b"\0")[0]
    number = tag[tag.rfind(b" ") + 1 :]
    affected = int(number) if number.isdigit() and len(number) < 19 else 0
    received = size + sum(bytes_ for *_, bytes_ in before) + (last if asked == QUERIED else 0)
    return tag, affected, rows, received, status == b"I"


_NO: Answer = (0, b"", 0, 0)

try:
    from teleport_db._speed import bound, ending, query_text
except ImportError:  # it was installed without a compiler
    bound, ending, query_text = pure_bound, pure_ending, pure_query_text
