"""PostgreSQL's protocol by hand, over real sockets: what no client library would send, and every byte that comes back.

TLS runs over ``ssl.MemoryBIO``: so a message can be glued to another one before TLS, the stream can be
half-closed, and its end is told apart: ``closed`` (close_notify), ``cut`` (without), ``reset``.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from typing import Any

from teleport_db.pgwire.messages import SSL_REQUEST, parse_error, startup_message
from tests.system.support import PATIENCE

Message = tuple[bytes, bytes]


def context(settings: Mapping[str, str], *, certificate: bool = True, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """A client's context from a service file's settings."""
    made = ssl.create_default_context(cafile=settings["sslrootcert"])
    # Some builds of Python take an end without close_notify for a clean one.
    made.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if certificate:
        made.load_cert_chain(settings["sslcert"], settings["sslkey"])
    if alpn:
        made.set_alpn_protocols(alpn)
    return made


class Raw:
    """One connection; plain until :meth:`secure`."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("localhost", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._buffer = b""
        #: How it ended: closed, cut or reset.
        self.end = ""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, as the kernel does for a process that ends."""
        self.socket.close()

    def reset(self) -> None:
        """Close with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    @property
    def port(self) -> int:
        """Our own."""
        return int(self.socket.getsockname()[1])

    # TLS.

    def secure(self, using: ssl.SSLContext, *, ask: bool = True) -> Raw:
        """SSLRequest, its answer, the handshake; ``ask=False`` is direct TLS."""
        if ask:
            self.socket.sendall(SSL_REQUEST)
            answer = self.socket.recv(1)
            assert answer == b"S", answer
        tls = using.wrap_bio(self._in, self._out, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.socket.sendall(self._out.read())
                data = self.socket.recv(65536)
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
        self._tls = tls
        self.socket.sendall(self._out.read())
        return self

    @property
    def alpn(self) -> str | None:
        """What was agreed on."""
        assert self._tls is not None
        return self._tls.selected_alpn_protocol()

    # Writing.

    def send(self, data: bytes) -> None:
        """Write, in TLS once that is there; a peer that is gone is noticed by reading."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if self._tls is None:
                self.socket.sendall(data)
            elif data:
                self._tls.write(data)
                self.socket.sendall(self._out.read())

    def half_close(self, *, notify: bool = True) -> None:
        """Say that nothing more comes: close_notify, and FIN; a peer that has ended first is noticed by reading."""
        with contextlib.suppress(OSError):
            if self._tls is not None and notify:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.unwrap()
                self.socket.sendall(self._out.read())
            self.socket.shutdown(socket.SHUT_WR)

    def startup(self, version: int = 3 << 16, **parameters: str) -> list[Message]:
        """Log in; what is said up to ReadyForQuery or the end."""
        self.send(startup_message([(k.encode(), v.encode()) for k, v in parameters.items()], version))
        return self.until(b"Z")

    # Reading.

    def _more(self) -> bytes:
        """Some bytes; empty at the end, which :attr:`end` names."""
        while not self.end:
            if self._tls is not None:
                try:
                    data = self._tls.read(1 << 20)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    data = b""
                    self.end = "closed"
                    break
                except ssl.SSLError as error:
                    # SSLEOFError, or in other builds the plain class with OpenSSL's reason.
                    if "eof" not in str(error).lower():
                        raise
                    self.end = "cut"
                    break
                else:
                    if not data:
                        self.end = "closed"
                        break
                    return data
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionResetError:
                self.end = "reset"
                break
            if self._tls is None:
                if data:
                    return data
                self.end = "closed"
            elif data:
                self._in.write(data)
            else:
                self._in.write_eof()
        return b""

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        pieces, missing = [self._buffer], size - len(self._buffer)
        while missing > 0 and (data := self._more()):
            pieces.append(data)
            missing -= len(data)
        found = b"".join(pieces)
        self._buffer = found[size:]
        return found[:size]

    def rest(self) -> bytes:
        """Everything until the end."""
        pieces = [self._buffer]
        self._buffer = b""
        while data := self._more():
            pieces.append(data)
        return b"".join(pieces)

    def message(self) -> Message | None:
        """The next message; None at the end."""
        header = self.read(5)
        if len(header) < 5:
            return None
        kind, length = struct.unpack("!cI", header)
        return kind, self.read(length - 4)

    def until(self, *kinds: bytes) -> list[Message]:
        """Messages up to one of these types, or to the end."""
        found: list[Message] = []
        while (one := self.message()) is not None:
            found.append(one)
            if one[0] in kinds:
                break
        return found

    def ask(self, data: bytes) -> list[Message]:
        """Send; what is said up to ReadyForQuery."""
        self.send(data)
        return self.until(b"Z")

    def gone_within(self, seconds: float) -> bool:
        """Whether the other side ends it in so many seconds."""
        before = time.monotonic()
        self.rest()
        return time.monotonic() - before < seconds


def kinds(messages: list[Message]) -> bytes:
    """The types of messages."""
    return b"".join(kind for kind, _ in messages)


def error(messages: list[Message]) -> dict[str, str]:
    """The fields of the last ErrorResponse; none when there is none."""
    return next((parse_error(body) for kind, body in reversed(messages) if kind == b"E"), {})


def rows(messages: list[Message]) -> list[list[bytes | None]]:
    """The values of DataRows."""
    found: list[list[bytes | None]] = []
    for kind, body in messages:
        if kind == b"D":
            position, row = 2, list[Any]()
            for _ in range(int.from_bytes(body[:2], "big")):
                length = int.from_bytes(body[position : position + 4], "big", signed=True)
                position += 4
                row.append(None if length < 0 else body[position : position + length])
                position += max(length, 0)
            found.append(row)
    return found


def split(data: bytes) -> list[Message]:
    """Bytes of a server as messages; the last may be cut short."""
    found = []
    while data:
        length = int.from_bytes(data[1:5], "big")
        found.append((data[:1], data[5 : 1 + length]))
        data = data[1 + length :]
    return found
