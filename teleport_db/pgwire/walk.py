"""What a database answers, by its headers.

::

    chunk from the database ──▶ BackendWalk.feed() ──▶ answers: the few messages that end something
                                                       rows and bytes in between, counted

Types and lengths are looked at, bodies only of the few types whose words matter, and of those a beginning.
A chunk that lies within one long body costs a subtraction, a row of a usual length one comparison.  What
is kept between two chunks is a header or the beginning of such a body.

:func:`pure_walk` has no state of its own; its compiled twin stands in for it where that was built.
"""

from __future__ import annotations

from collections.abc import Sequence

from teleport_db.errors import RemoteProtocolError
from teleport_db.pgwire.messages import HEADER, HEADER_SIZE, MAX_LENGTH

__all__ = ["KEPT", "Answer", "BackendWalk", "pure_walk", "walk"]

#: An answer: its type, the beginning of its body, and since the answer before the rows and bytes, its own included.
Answer = tuple[int, bytes, int, int]

#: Bytes of the body that are kept of each type that ends or changes something; all others are only counted.
#: CommandComplete (a tag has at most 64), ErrorResponse (the SQLSTATE is its third field), ReadyForQuery,
#: ParameterDescription (4 bytes a parameter).
KEPT = {ord("C"): 128, ord("E"): 2048, ord("Z"): 1, ord("t"): 16384}
#: Those of which the type says all: ParseComplete, BindComplete, CloseComplete, PortalSuspended,
#: EmptyQueryResponse, RowDescription, NoData, CopyInResponse, CopyOutResponse, CopyBothResponse, FunctionCallResponse.
KEPT |= dict.fromkeys(b"123sITnGHWV", 0)

_KEEP: tuple[int, ...] = tuple(KEPT.get(kind, -1) for kind in range(256))
_DATA_ROW = ord("D")
_NOTHING: tuple[Answer, ...] = ()


def pure_walk(data: bytes, left: int, rows: int, size: int) -> tuple[list[Answer], int, int, int, bytes]:
    """Walk one chunk.

    :param data: what was left over of the chunk before, and the chunk.
    :param left: bytes of a body that are still to come, at the beginning of `data`.
    :param rows: DataRows since the last answer; ``size`` bytes.
    :return: the answers; then `left`, `rows` and `size` as they are now; and the end of `data` that is
        needed again together with the next chunk.
    :raises RemoteProtocolError: a length that no message has.
    """
    answers: list[Answer] = []
    end = len(data)
    if left >= end:
        return answers, left - end, rows, size + end, b""
    position = left
    start = 0  # counted into `size` up to here
    header = HEADER.unpack_from
    keep_of = _KEEP
    last_header = end - HEADER_SIZE
    while position <= last_header:
        kind, length = header(data, position)
        if length < 4 or length > MAX_LENGTH:
            raise RemoteProtocolError(f"the database sent a message with an impossible length, {length}")
        following = position + 1 + length
        keep = keep_of[kind]
        if keep < 0:
            if kind == _DATA_ROW:
                rows += 1
                if following < end and data[following] == _DATA_ROW:
                    # Rows of one table often have one length.
                    alike, step = data[position : position + HEADER_SIZE], 1 + length
                    while data.startswith(alike, following):
                        rows += 1
                        following += step
            position = following
            continue
        body = position + HEADER_SIZE
        needed = min(following, body + keep)
        if needed > end:
            break
        answered = following if following < end else end
        answers.append((kind, data[body:needed], rows, size + answered - start))
        rows = size = 0
        start = answered
        position = following
    if position >= end:
        return answers, position - end, rows, size + end - start, b""
    return answers, 0, rows, size + position - start, data[position:]


try:
    from teleport_db._speed import walk
except ImportError:  # it was installed without a compiler
    walk = pure_walk


class BackendWalk:
    """Finds the answers of one session in what its database sends.

    :ivar rows: DataRows since the last answer.
    :ivar size: bytes since the last answer.
    """

    __slots__ = ("_left", "_rest", "rows", "size")

    def __init__(self) -> None:
        self.rows = 0
        self.size = 0
        self._left = 0
        self._rest = b""

    @property
    def between_messages(self) -> bool:
        """Whether all that was received made whole messages."""
        return not (self._left or self._rest)

    @property
    def begun(self) -> int:
        """Bytes of a message's beginning, too few to tell what it is."""
        return len(self._rest)

    def feed(self, data: bytes) -> Sequence[Answer]:
        """Take a chunk from the database; RemoteProtocolError when it cannot be PostgreSQL's."""
        left, size = self._left, len(data)
        if left >= size:
            self._left = left - size
            self.size += size
            return _NOTHING
        if self._rest:
            data = self._rest + data
        answers, self._left, self.rows, self.size, self._rest = walk(data, left, self.rows, self.size)
        return answers
