"""SNI and ALPN of a TLS ClientHello, read before any TLS starts.

Whoever shares one port among several certificates chooses by these two, and starts the TLS that fits with
the same bytes.  Pure: bytes in, a value out (RFC 8446 sections 4.1.2 and 5.1)::

    record     22 | 3 x | length:2 | fragment          at most 2^14 bytes; a hello may span several
    handshake  1 | length:3 | hello
    hello      version:2 random:32 session_id<0..32> cipher_suites<2..> compression<1..> extensions<0..>
    extension  type:2 data<0..>                         0 server_name, 16 ALPN, 43 supported_versions
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

import attrs

from teleport_db.errors import RemoteProtocolError

#: Bytes, record headers and all, within which a ClientHello must be complete.
MAX_HELLO = 16384

#: Records a hello may be spread over: more is an attempt to make every byte cost a long walk.
MAX_RECORDS = 64

CLIENT_HELLO = 1
SERVER_NAME = 0
ALPN = 16
PRE_SHARED_KEY = 41
SUPPORTED_VERSIONS = 43

#: Where the vectors of a hello begin: behind the headers of record and handshake, the version and the random bytes.
HELLO_VECTORS = 5 + 4 + 2 + 32

_EXTENSION = Struct(">HH").unpack_from


@attrs.frozen
class NeedMore:
    """The hello is not complete; ``missing`` bytes at least are to come."""

    missing: int


@attrs.frozen
class ClientHello:
    """What a client asks for.

    :param sni: the server's name in lower case; None when the client sent none.
    :param alpn: protocols in the client's order of preference; bytes beyond ASCII as latin-1.
    :param versions: what the client speaks, in its order; 0x0304 is TLS 1.3.
    """

    sni: str | None
    alpn: tuple[str, ...]
    versions: tuple[int, ...]


def parse(data: bytes) -> NeedMore | ClientHello:
    """Read a ClientHello from the first bytes of a connection; more bytes may follow it.

    :raises RemoteProtocolError: these bytes are no ClientHello, or one above :data:`MAX_HELLO`.
    """
    hello = bytearray()
    wanted = 4
    at = 0
    for _ in range(MAX_RECORDS):
        header = data[at : at + 5]
        _check_record(header)
        if len(header) < 5:
            return _more(len(data), at + 5 - len(data) + wanted - len(hello))
        length = int.from_bytes(header[3:5], "big")
        hello += data[at + 5 : at + 5 + length]
        if hello and hello[0] != CLIENT_HELLO:
            raise RemoteProtocolError("no TLS ClientHello")
        if len(hello) >= 4:
            wanted = 4 + int.from_bytes(hello[1:4], "big")
            if wanted > MAX_HELLO:
                raise RemoteProtocolError("the TLS ClientHello is too large")
            if len(hello) >= wanted:
                return _hello(_Reader(bytes(hello[4:wanted])))
        at += 5 + length
        if at > len(data):
            return _more(len(data), max(at - len(data), wanted - len(hello)))
    raise RemoteProtocolError("the TLS ClientHello is in too many pieces")


def resumes(data: bytes) -> bool:
    """Whether a ClientHello offers to resume a session of TLS 1.3.

    A look for the one extension only (RFC 8446 section 4.2.11), at a hello that is whole in its first record; of
    anything else it says no.
    """
    try:
        at = HELLO_VECTORS
        at += 1 + data[at]  # session_id
        at += 2 + (data[at] << 8 | data[at + 1])  # cipher_suites
        at += 1 + data[at]  # compression
        end = at + 2 + (data[at] << 8 | data[at + 1])
        at += 2
        while at < end:
            kind, length = _EXTENSION(data, at)
            if kind == PRE_SHARED_KEY:
                return True
            at += 4 + length
    except (IndexError, StructError):
        pass
    return False


def _more(have: int, missing: int) -> NeedMore:
    if have + missing > MAX_HELLO:
        raise RemoteProtocolError("the TLS ClientHello is too large")
    return NeedMore(missing)


def _check_record(header: bytes) -> None:
    """Refuse as soon as a byte tells: nobody waits for the rest of something that is no TLS."""
    if header[:1] not in (b"", b"\x16") or header[1:2] not in (b"", b"\x03"):
        raise RemoteProtocolError("no TLS ClientHello")
    if len(header) == 5 and not 0 < int.from_bytes(header[3:5], "big") <= 16384:
        # A fragment of a handshake message is never empty (RFC 8446 section 5.1).
        raise RemoteProtocolError("a TLS record of an impossible length")


class _Reader:
    """Takes vectors off the front of a body; whatever does not fit is the peer's fault."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.body)

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.body):
            raise RemoteProtocolError("the TLS ClientHello is malformed")
        taken = self.body[self.at : end]
        self.at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, least: int = 0, most: int = 65535) -> bytes:
        """A vector whose length is a number of ``size`` bytes."""
        length = self.number(size)
        if not least <= length <= most:
            raise RemoteProtocolError("the TLS ClientHello is malformed")
        return self.take(length)

    def end(self) -> None:
        if self:
            raise RemoteProtocolError("the TLS ClientHello is malformed")


def _hello(reader: _Reader) -> ClientHello:
    version = reader.number(2)
    reader.take(32)
    reader.vector(1, 0, 32)
    if len(reader.vector(2, 2, 65534)) % 2:
        raise RemoteProtocolError("the TLS ClientHello is malformed")
    reader.vector(1, 1, 255)
    extensions: dict[int, bytes] = {}
    if reader:
        vectors = reader.vector(2)
        reader.end()
        at, size = 0, len(vectors)
        while at < size:
            start = at + 4
            if start > size:
                raise RemoteProtocolError("the TLS ClientHello is malformed")
            kind, length = _EXTENSION(vectors, at)
            if kind in extensions:
                raise RemoteProtocolError("the TLS ClientHello repeats an extension")
            at = start + length
            if at > size:
                raise RemoteProtocolError("the TLS ClientHello is malformed")
            extensions[kind] = vectors[start:at]
    return ClientHello(
        sni=_server_name(extensions[SERVER_NAME]) if SERVER_NAME in extensions else None,
        alpn=_alpn(extensions[ALPN]) if ALPN in extensions else (),
        versions=_versions(extensions[SUPPORTED_VERSIONS]) if SUPPORTED_VERSIONS in extensions else (version,),
    )


def _server_name(body: bytes) -> str:
    """RFC 6066 section 3: a list with one name of type host_name."""
    outer = _Reader(body)
    names = _Reader(outer.vector(2, 1))
    outer.end()
    if names.number(1) != 0:
        raise RemoteProtocolError("the TLS ClientHello names a server of an unknown kind")
    name = names.vector(2, 1, 255)
    names.end()
    if not all(0x21 <= byte <= 0x7E for byte in name):
        raise RemoteProtocolError("the TLS ClientHello names an impossible server")
    return name.decode("ascii").lower()


def _alpn(body: bytes) -> tuple[str, ...]:
    """RFC 7301 section 3.1."""
    outer = _Reader(body)
    names = _Reader(outer.vector(2, 2))
    outer.end()
    found = []
    while names:
        found.append(names.vector(1, 1, 255).decode("latin-1"))
    return tuple(found)


def _versions(body: bytes) -> tuple[int, ...]:
    outer = _Reader(body)
    numbers = _Reader(outer.vector(1, 2, 254))
    outer.end()
    found = []
    while numbers:
        found.append(numbers.number(2))
    return tuple(found)
