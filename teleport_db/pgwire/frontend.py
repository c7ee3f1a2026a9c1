"""What a client sends after its startup, on its way to the database.

::

    chunk from the client ──▶ feed() ──▶ (bytes that may go on, statements)
                                          │                     │
                                          └── only after ◀── recorded

Messages are found by walking headers in place.  Bytes are never re-framed (CVE-2024-27304: a length
computed again is a length that can overflow): what goes on are slices of what came, in order.

* Unaudited messages (CopyData, Flush, ...) stream through in whatever pieces they come; Sync, Describe and
  the end of a COPY are given too, since what the database answers is understood by them.
* An audited message of up to 64 KiB is held until it is whole, then released with its statement.
* A larger one goes on in parts, each with its :class:`StatementPart`; the last byte goes with the last
  part.  PostgreSQL cannot run a part of a message, so nothing runs that was not recorded.
* An unknown type, an impossible length or a body that is not what its type says raises, and no byte of it
  has gone on, nor of anything else in the same chunk.

A server that fell out of step would read a client's data as messages.  Here that cannot be: the server
walks the very same headers, in COPY too (protocol section "COPY Operations": other messages end the copy
but are framed alike).
"""

from __future__ import annotations

import hashlib

from teleport_db.errors import RemoteProtocolError
from teleport_db.pgwire.messages import HEADER, HEADER_SIZE, MAX_LENGTH
from teleport_db.pgwire.statements import (
    COPY_ENDED,
    SYNC_SENT,
    Bind,
    Close,
    CopyEnd,
    Decoder,
    Describe,
    Execute,
    FrontendMessage,
    FunctionCall,
    Parse,
    Query,
    Statement,
    StatementPart,
    Sync,
    Unreadable,
    decode_bind,
    decode_close,
    decode_describe,
    decode_execute,
    decode_function_call,
    decode_parse,
    decode_query,
)

__all__ = [
    "MAX_PART",
    "MAX_PAYLOAD",
    "Bind",
    "Close",
    "CopyEnd",
    "Describe",
    "Execute",
    "FrontendMessage",
    "FrontendScanner",
    "FunctionCall",
    "MalformedMessage",
    "Parse",
    "Query",
    "Statement",
    "StatementPart",
    "Sync",
]

#: Bytes of SQL in one statement or part.
MAX_PART = 64 * 1024
#: The largest length word of a message that is held whole: itself, 64 KiB, and a NUL.
MAX_WHOLE = 4 + MAX_PART + 1
#: PostgreSQL's own limit to messages that hold no more than a name (PQ_SMALL_MESSAGE_LIMIT, from 14 on).
MAX_SMALL = 10_000
#: Bytes of a malformed message that are kept for the audit log.
MAX_PAYLOAD = 1024

COPY_DATA = ord("d")

_DECODERS: dict[int, Decoder] = {
    ord("Q"): decode_query,
    ord("P"): decode_parse,
    ord("B"): decode_bind,
    ord("E"): decode_execute,
    ord("C"): decode_close,
    ord("D"): decode_describe,
    ord("F"): decode_function_call,
}
#: Audited types that may be larger than what is held, and their names in a StatementPart.
_LARGE = {ord("Q"): "Query", ord("P"): "Parse", ord("B"): "Bind", ord("F"): "FunctionCall"}
#: Flush, CopyData, Terminate, and the answers to authentication; and those that are known by their type alone.
_UNAUDITED: dict[int, FrontendMessage | None] = {
    **dict.fromkeys(b"HdXp"),
    ord("S"): SYNC_SENT,
    ord("c"): COPY_ENDED,
    ord("f"): COPY_ENDED,
}


class MalformedMessage(RemoteProtocolError):
    """A client's message that is none of PostgreSQL's; the session ends, nothing of it has gone on.

    :param payload: how it began, for the audit log: up to 1 KiB from its type byte on.
    """

    def __init__(self, public: str = "", *, payload: bytes = b"", detail: str = "") -> None:
        super().__init__(public, detail=detail)
        self.payload = payload


class _Large:
    """A message that goes on in parts."""

    __slots__ = ("beginning", "digest", "digested", "held", "kind", "missing", "name", "number", "prefix")

    def __init__(self, kind: int, prefix: bytes, size: int) -> None:
        self.kind = kind
        self.name = _LARGE[kind]
        self.prefix = prefix  # the header, which goes with the first part
        self.beginning = prefix  # for the audit log, should it be malformed
        self.missing = size  # bytes of the body that have not come
        self.held = bytearray()
        self.number = 0
        self.digest = hashlib.sha256()
        self.digested = 0

    def take(self, data: bytes) -> tuple[bytes, list[FrontendMessage], list[int]]:
        """More of the body, never more than is missing; what goes on, the parts, and where each ends in it."""
        if len(self.beginning) < MAX_PAYLOAD:
            self.beginning += data[: MAX_PAYLOAD - len(self.beginning)]
        self.held += data
        self.missing -= len(data)
        parts: list[FrontendMessage] = []
        released: list[bytes] = []
        ends: list[int] = []
        # Parts depend on the message alone, not on how the network divided it; the last is never empty.
        while len(self.held) >= MAX_PART and len(self.held) + self.missing > MAX_PART + 1:
            end = _character_end(self.held, MAX_PART)
            piece = bytes(memoryview(self.held)[:end])
            del self.held[:end]
            released += [self.prefix, piece]
            self.prefix = b""
            parts.append(self._part(piece, last=False))
            ends.append(sum(map(len, released)))
        if not self.missing:
            piece = bytes(self.held)
            self.held.clear()
            released.append(piece)
            if self.kind == ord("Q"):
                if piece[-1]:
                    raise Unreadable
                piece = piece[:-1]
            parts.append(self._part(piece, last=True))
            ends.append(sum(map(len, released)))
        return b"".join(released), parts, ends

    def _part(self, piece: bytes, last: bool) -> StatementPart:
        if self.kind == ord("Q") and b"\0" in piece:
            raise Unreadable
        self.digest.update(piece)
        self.digested += len(piece)
        number = self.number
        self.number += 1
        if last:
            return StatementPart(self.name, number, piece, True, self.digested, self.digest.hexdigest())
        return StatementPart(self.name, number, piece)


def _character_end(data: bytearray, end: int) -> int:
    """`end`, or up to three bytes before it when it would divide a UTF-8 character."""
    for back in (1, 2, 3):
        byte = data[end - back]
        if byte & 0xC0 == 0x80:
            continue
        size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return end - back if size > back else end
    return end


class FrontendScanner:
    """Finds the audited messages of one session in what its client sends.

    :ivar ends: of the messages that :meth:`feed` gave last, where each ends in the bytes it gave; of one that
        streams through perhaps behind them.
    """

    __slots__ = ("_error", "_held", "_large", "_need", "_passing", "ends")

    def __init__(self) -> None:
        self.ends: list[int] = []
        self._passing = 0  # bytes of an unaudited message that are still to come
        self._need = 0  # not 0: `_held` waits for so many bytes, or one of the two below is set
        self._held = bytearray()
        self._large: _Large | None = None
        self._error: MalformedMessage | None = None

    @property
    def buffered(self) -> int:
        """Bytes received and not yet released: at most 64 KiB and a header."""
        return len(self._held) + (len(self._large.held) + len(self._large.prefix) if self._large else 0)

    @property
    def between_messages(self) -> bool:
        """Whether all that was received made whole messages."""
        return not (self._passing or self._need)

    def feed(self, data: bytes) -> tuple[bytes, list[FrontendMessage]]:
        """Take a chunk from the client.

        :return: bytes that may go on once the statements have been recorded, and the messages that they
            complete (of those that stream through: that begin in them), in order.
        :raises MalformedMessage: also at every later call.
        """
        self.ends = []
        if self._need:
            return self._resume(data)
        passing = self._passing
        if not passing:
            return self._scan(data, 0)
        size = len(data)
        if size <= passing:
            self._passing = passing - size
            return data, []
        self._passing = 0
        return self._scan(data, passing)

    def _scan(self, data: bytes, position: int) -> tuple[bytes, list[FrontendMessage]]:
        """Walk the headers from `position` on; what is before it passes."""
        statements: list[FrontendMessage] = []
        ends = self.ends = []
        end = len(data)
        last_header = end - HEADER_SIZE
        decoder_of = _DECODERS.get
        header = HEADER.unpack_from
        while position <= last_header:
            kind, length = header(data, position)
            if length < 4 or length > MAX_LENGTH:
                raise self._malformed(data, position, f"has an impossible length, {length}")
            following = position + 1 + length
            if kind == COPY_DATA:
                position = following
                continue
            decode = decoder_of(kind)
            if decode is not None:
                if length > MAX_WHOLE or (length > MAX_SMALL and kind not in _LARGE):
                    return self._begin_large(data, position, statements)
                if following > end:
                    return self._hold(data, position, following - position), statements
                try:
                    statements.append(decode(data, position + HEADER_SIZE, following))
                except Unreadable:
                    raise self._malformed(data, position, "cannot be read") from None
                ends.append(following)
            elif kind not in _UNAUDITED:
                raise self._malformed(data, position, "is none of PostgreSQL's")
            else:
                known = _UNAUDITED[kind]
                if known is not None:
                    statements.append(known)
                    ends.append(following)
            position = following
        if position >= end:
            self._passing = position - end
            return data, statements
        return self._hold(data, position, HEADER_SIZE), statements

    def _hold(self, data: bytes, position: int, need: int) -> bytes:
        self._held += data[position:]
        self._need = need
        return data[:position]

    def _resume(self, data: bytes) -> tuple[bytes, list[FrontendMessage]]:
        """Go on with a message that was not whole."""
        if self._error is not None:
            raise MalformedMessage(self._error.public, payload=self._error.payload)
        if self._large is not None:
            return self._resume_large(data)
        held = self._held
        held += data
        if len(held) < self._need:
            return b"", []
        self._need = 0
        whole = bytes(held)
        held.clear()
        return self._scan(whole, 0)

    def _begin_large(
        self, data: bytes, position: int, statements: list[FrontendMessage]
    ) -> tuple[bytes, list[FrontendMessage]]:
        kind, length = HEADER.unpack_from(data, position)
        if kind not in _LARGE:
            raise self._malformed(data, position, f"has an impossible length, {length}")
        body, ends = position + HEADER_SIZE, self.ends
        self._large = _Large(kind, data[position:body], length - 4)
        self._need = 1
        released, more = self._resume_large(data[body:])
        self.ends = ends + [position + end for end in self.ends]
        return data[:position] + released, statements + more

    def _resume_large(self, data: bytes) -> tuple[bytes, list[FrontendMessage]]:
        large = self._large
        assert large is not None
        missing = large.missing
        try:
            released, statements, ends = large.take(data[:missing])
        except Unreadable:
            raise self._malformed(large.beginning, 0, "cannot be read") from None
        self.ends = ends
        if large.missing:
            return released, statements
        self._large = None
        self._need = 0
        if len(data) == missing:
            return released, statements
        more, others = self._scan(data[missing:], 0)
        self.ends = ends + [len(released) + end for end in self.ends]
        return released + more, statements + others

    def _malformed(self, data: bytes, position: int, what: str) -> MalformedMessage:
        """Close the scanner for good."""
        code = data[position : position + 1]
        name = code.decode() if code.isalpha() else f"0x{code.hex()}"
        self._large = None
        self._held.clear()
        self._passing = 0
        self._need = 1
        self._error = MalformedMessage(
            f"a message of type {name} {what}; the session ends here, update the client if it is not meant to do this",
            payload=data[position : position + MAX_PAYLOAD],
        )
        return self._error
