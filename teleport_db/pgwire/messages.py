"""Messages that more than one part of the protocol needs: built here, read here.

A message is a type byte, a length word that counts itself and the body, and the body::

    | type: 1 | length: 4 = 4 + len(body) | body |

The first messages of a connection have no type byte.  Numbers are big-endian; text is bytes that end in
NUL.  Source: PostgreSQL's documentation, "Frontend/Backend Protocol", sections "Message Formats" and
"Error and Notice Message Fields".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from teleport_db.errors import LocalProtocolError, RemoteProtocolError, TeleportDBError

#: Type byte (as a number) and length word of a message.
HEADER = struct.Struct(">BI")
#: Bytes of a type byte and a length word.
HEADER_SIZE = 5
_WORD = struct.Struct(">I")

#: Request codes that stand where a startup's version stands.
CANCEL_CODE = 1234 << 16 | 5678
SSL_CODE = 1234 << 16 | 5679
GSSENC_CODE = 1234 << 16 | 5680

SSL_REQUEST = struct.pack(">II", 8, SSL_CODE)
GSSENC_REQUEST = struct.pack(">II", 8, GSSENC_CODE)

PROTOCOL_3_0 = 3 << 16

#: A secret of a BackendKeyData: 4 bytes up to protocol 3.0, up to 256 from 3.2 on.
MIN_SECRET, MAX_SECRET = 4, 256

#: The largest length word PostgreSQL takes of any message (``MaxAllocSize``, 1 GiB - 1).
MAX_LENGTH = 0x3FFFFFFF

AUTHENTICATION_OK_CODE = 0
AUTHENTICATION_CLEARTEXT_CODE = 3
#: What a database may ask for instead of AuthenticationOk, in words.
AUTHENTICATION_METHODS = {
    2: "Kerberos V5",
    3: "a cleartext password",
    5: "an MD5 password",
    6: "SCM credentials",
    7: "GSSAPI",
    8: "GSSAPI",
    9: "SSPI",
    10: "SASL (SCRAM-SHA-256)",
    11: "SASL (SCRAM-SHA-256)",
    12: "SASL (SCRAM-SHA-256)",
}

AUTHENTICATION_OK = struct.pack(">cII", b"R", 8, AUTHENTICATION_OK_CODE)
AUTHENTICATION_CLEARTEXT = struct.pack(">cII", b"R", 8, AUTHENTICATION_CLEARTEXT_CODE)
TERMINATE = struct.pack(">cI", b"X", 4)
SYNC = struct.pack(">cI", b"S", 4)
FLUSH = struct.pack(">cI", b"H", 4)

#: Bytes of one field of an ErrorResponse that we write or read; libpq takes 30,000 in all before login.
MAX_ERROR_FIELD = 4096
MAX_ERROR_FIELDS = 32


def message(kind: bytes, body: bytes = b"") -> bytes:
    """One message of this type; its length word is computed here and nowhere else.

    Only for messages of our own: what a peer sent is passed on as it came (CVE-2024-27304).
    """
    if len(body) + 4 > MAX_LENGTH:
        raise LocalProtocolError(f"a message of {len(body)} bytes cannot be sent; PostgreSQL takes less than 1 GiB")
    return kind + _WORD.pack(len(body) + 4) + body


def string(value: bytes) -> bytes:
    """A String of the protocol: the bytes and a NUL; a NUL within would forge what follows it."""
    if b"\0" in value:
        raise LocalProtocolError("a text with a NUL byte cannot be sent to PostgreSQL")
    return value + b"\0"


# Errors and notices


def _fields(values: Iterable[tuple[str, str]]) -> bytes:
    parts = []
    for code, value in values:
        text = value.replace("\0", " ").encode("utf-8", "replace")[:MAX_ERROR_FIELD]
        # A cut may leave a part of a character behind.
        parts.append(code.encode("ascii") + text.decode("utf-8", "ignore").encode() + b"\0")
    return b"".join(parts) + b"\0"


def error_response(severity: str, sqlstate: str, message_: str, detail: str = "", hint: str = "") -> bytes:
    """ErrorResponse.

    :param severity: ``ERROR``, ``FATAL`` or ``PANIC``; also sent untranslated (field ``V``).
    :param sqlstate: five characters.
    :param message_: what psql shows; fields are cut at 4 KiB.
    """
    values = [("S", severity), ("V", severity), ("C", sqlstate), ("M", message_)]
    values += [(code, text) for code, text in (("D", detail), ("H", hint)) if text]
    return message(b"E", _fields(values))


def notice_response(sqlstate: str, message_: str) -> bytes:
    """NoticeResponse of severity NOTICE."""
    return message(b"N", _fields([("S", "NOTICE"), ("V", "NOTICE"), ("C", sqlstate), ("M", message_)]))


def error_for(exc: BaseException, *, error_id: str = "") -> bytes:
    """The ErrorResponse that a client gets for this exception; always FATAL, the session is over.

    A :class:`TeleportDBError` says its public text under its SQLSTATE.  Of anything else nothing is told
    but the id under which the log has it.
    """
    if isinstance(exc, TeleportDBError):
        return error_response("FATAL", exc.sqlstate, exc.public)
    where = f", id {error_id}" if error_id else ""
    return error_response("FATAL", "XX000", f"internal error{where}; the operator of this cluster finds it in the log")


def parse_error(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse's or NoticeResponse's body, by their one-letter codes.

    Never raises, whatever a hostile server sent: what cannot be read is left out, of fields of one code
    the first counts, a value is cut at 4 KiB and undecodable bytes are replaced.  The text is the
    server's; escape it wherever a line must stay one line.
    """
    fields: dict[str, str] = {}
    position = 0
    for _ in range(MAX_ERROR_FIELDS):
        code = body[position : position + 1]
        if code in (b"", b"\0"):
            break
        end = body.find(b"\0", position + 1)
        value = body[position + 1 : min(end if end >= 0 else len(body), position + 1 + MAX_ERROR_FIELD)]
        if code.isalpha():
            fields.setdefault(code.decode("ascii"), value.decode("utf-8", "replace"))
        if end < 0:
            break
        position = end + 1
    return fields


# Keys and cancelling


def _check_key(pid: int, secret: bytes) -> None:
    if not 0 <= pid < 1 << 32 or not MIN_SECRET <= len(secret) <= MAX_SECRET:
        raise LocalProtocolError("a cancel key is a process id of 32 bits and a secret of 4 to 256 bytes")


def backend_key_data(pid: int, secret: bytes) -> bytes:
    """BackendKeyData; the process id is unsigned here (some drivers read it signed)."""
    _check_key(pid, secret)
    return message(b"K", _WORD.pack(pid) + secret)


def parse_key_data(body: bytes) -> tuple[int, bytes]:
    """Process id and secret of a BackendKeyData's body."""
    if not 4 + MIN_SECRET <= len(body) <= 4 + MAX_SECRET:
        raise RemoteProtocolError(f"the database sent a cancel key of {len(body)} bytes, which is none of PostgreSQL's")
    return _WORD.unpack_from(body)[0], body[4:]


def cancel_request(pid: int, secret: bytes) -> bytes:
    """CancelRequest, the only message of its connection."""
    _check_key(pid, secret)
    return struct.pack(">III", 12 + len(secret), CANCEL_CODE, pid) + secret


# Login


def startup_message(parameters: Iterable[tuple[bytes, bytes]], version: int = PROTOCOL_3_0) -> bytes:
    """StartupMessage with its length word."""
    body = _WORD.pack(version) + b"".join(string(name) + string(value) for name, value in parameters) + b"\0"
    return _WORD.pack(len(body) + 4) + body


def password_message(password: bytes) -> bytes:
    """PasswordMessage."""
    return message(b"p", string(password))


def authentication(code: int, data: bytes = b"") -> bytes:
    """An Authentication message of this code."""
    return message(b"R", _WORD.pack(code) + data)


def parameter_status(name: bytes, value: bytes) -> bytes:
    """ParameterStatus."""
    return message(b"S", string(name) + string(value))


def negotiate_protocol_version(minor: int, options: Iterable[bytes] = ()) -> bytes:
    """NegotiateProtocolVersion: the newest minor version known, and the ``_pq_.`` options that are not."""
    options = tuple(options)
    return message(b"v", struct.pack(">II", minor, len(options)) + b"".join(map(string, options)))


def ready_for_query(status: bytes = b"I") -> bytes:
    """ReadyForQuery: idle ``I``, in a transaction ``T``, in a failed one ``E``."""
    return message(b"Z", status)
