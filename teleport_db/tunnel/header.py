"""What a proxy says first on a stream it opened to an agent, inside the stream's own TLS.

::

    proxy                                            agent
      | length u32 | JSON object                  ->  |
      |            | {"type": "session", ...}         |   then PostgreSQL, from StartupMessage on
      |            | {"type": "cancel", ...}          |   then the end of the stream
      |            | {"type": "control"}              |
      | <-  length u32 | {"databases": [names]}       |   and again whenever they change

Both directions use the same bounded frame.  The agent believes nothing in a header but that the client
held the key of the certificate in it; the certificate it verifies itself.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import attrs

from teleport_db.errors import RemoteProtocolError

#: The most bytes a frame's JSON may have.
MAX_FRAME = 65536


@attrs.frozen
class SessionHeader:
    """A PostgreSQL session follows.

    :param certificate: the user's certificate as the client presented it, DER.
    :param client_address: ``host:port`` of the client as the proxy saw it.
    :param session_id: the session's id, made by the proxy.
    :param pid: the process id the client is to be told in BackendKeyData.
    :param secret: the secret key it is to be told, 32 bytes; cut when the protocol's version wants 4.
    """

    certificate: bytes
    client_address: str
    session_id: str
    pid: int
    secret: bytes = attrs.field(repr=False)


@attrs.frozen
class CancelHeader:
    """A client asks to cancel what the session with this key is running."""

    client_address: str
    pid: int
    secret: bytes = attrs.field(repr=False)


@attrs.frozen
class ControlHeader:
    """The agent shall say on this stream which databases it serves."""


Header = SessionHeader | CancelHeader | ControlHeader


def encode_frame(value: dict[str, Any]) -> bytes:
    """A JSON object with its length before it."""
    body = json.dumps(value, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {len(body)} bytes; the most is {MAX_FRAME}")
    return len(body).to_bytes(4, "big") + body


def encode_header(header: Header) -> bytes:
    """The frame of a header."""
    match header:
        case SessionHeader():
            return encode_frame(
                {
                    "type": "session",
                    "certificate": base64.b64encode(header.certificate).decode(),
                    "client_address": header.client_address,
                    "session_id": header.session_id,
                    "pid": header.pid,
                    "secret": header.secret.hex(),
                }
            )
        case CancelHeader():
            return encode_frame(
                {
                    "type": "cancel",
                    "client_address": header.client_address,
                    "pid": header.pid,
                    "secret": header.secret.hex(),
                }
            )
        case ControlHeader():
            return encode_frame({"type": "control"})


def decode_header(value: dict[str, Any]) -> Header:
    """The header that a frame's object says; RemoteProtocolError when it says none."""
    try:
        match value["type"]:
            case "session":
                return SessionHeader(
                    certificate=base64.b64decode(value["certificate"], validate=True),
                    client_address=_text(value["client_address"]),
                    session_id=_text(value["session_id"]),
                    pid=_pid(value["pid"]),
                    secret=bytes.fromhex(value["secret"]),
                )
            case "cancel":
                return CancelHeader(
                    client_address=_text(value["client_address"]),
                    pid=_pid(value["pid"]),
                    secret=bytes.fromhex(value["secret"]),
                )
            case "control":
                return ControlHeader()
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise RemoteProtocolError("a stream's header cannot be read", detail=repr(error)) from error
    raise RemoteProtocolError("a stream's header is of an unknown type")


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise ValueError("not a short text")
    return value


def _pid(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**32:
        raise ValueError("not a process id")
    return value


class FrameReader:
    """Takes frames off a byte stream, and leaves alone what follows them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> dict[str, Any] | None:
        """The next frame's object, or None when more bytes are needed.

        Raises RemoteProtocolError for a frame that is too long or no JSON object.
        """
        self._buffer += data
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if length > MAX_FRAME:
            raise RemoteProtocolError(f"a frame of {length} bytes; the most is {MAX_FRAME}")
        if len(self._buffer) < 4 + length:
            return None
        body = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError("a frame is not JSON", detail=repr(error)) from error
        if not isinstance(value, dict):
            raise RemoteProtocolError("a frame is not a JSON object")
        return value

    def rest(self) -> bytes:
        """What came behind the last frame; it is given out once."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
