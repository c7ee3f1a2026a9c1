"""A client's way in: from its first byte to its StartupMessage.

::

    client                         proxy
    GSSENCRequest            ──▶                   at most once
                             ◀──   N
    SSLRequest               ──▶
                             ◀──   S               (written by the caller)
    ══════════════ TLS ═══════════════
    StartupMessage           ──▶                   or CancelRequest, in plaintext or in TLS

Source: protocol section "Message Flow", "Start-up", "SSL Session Encryption", "GSSAPI Session
Encryption", "Canceling Requests in Progress"; the limits are those of ``ProcessStartupPacket``
(PostgreSQL 15 and 18).
"""

from __future__ import annotations

import enum
import struct
from functools import lru_cache

import attrs

from teleport_db.errors import AccessDenied, AuthenticationFailed, LocalProtocolError, RemoteProtocolError
from teleport_db.pgwire.messages import CANCEL_CODE, GSSENC_CODE, MAX_SECRET, MIN_SECRET, SSL_CODE

#: The largest startup PostgreSQL takes, with its length word; it closes at 10,005.
MAX_STARTUP = 10_004
#: Names of 64 bytes and more are cut to 63 by the server (NAMEDATALEN).
MAX_NAME = 63

#: Startup messages whose values are kept: a program sends the same one again and again, and it is read twice of each.
KEPT = 32

_WORD = struct.Struct(">I")
#: Parameters that are the server's own; all others are settings, whose names ignore case.
_ROLE_SETTINGS = (b"role", b"session_authorization")
#: What the server reads as "no" (``parse_bool``): prefixes of false and no, of off from two letters on.
_FALSE = frozenset((b"f", b"fa", b"fal", b"fals", b"false", b"n", b"no", b"of", b"off", b"0"))


def _effective(kind: str, value: bytes) -> str:
    """The name as the server will use it, or a refusal where it would use another one."""
    if len(value) > MAX_NAME:
        raise AccessDenied(
            f"the {kind} name has {len(value)} bytes, of which PostgreSQL would silently use the first {MAX_NAME}; "
            "connect with the name as the server knows it"
        )
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise AccessDenied(
            f"the {kind} name is not UTF-8, so no role can allow it; connect with a UTF-8 name"
        ) from None


def _split(body: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The parameters of a startup: pairs of strings, then one NUL that is the last byte."""
    strings = body.split(b"\0")
    # name NUL value NUL ... NUL: the split ends in two empty strings, of which the list loses both.
    if len(strings) < 2 or strings[-1] or strings[-2]:
        raise RemoteProtocolError("the startup message does not end where it should; the client is broken")
    del strings[-2:]
    names, values = strings[::2], strings[1::2]
    if len(names) != len(values) or not all(names):
        raise RemoteProtocolError("the startup message has a name without a value; the client is broken")
    return tuple(zip(names, values, strict=True))


def _words(options: bytes) -> list[bytes]:
    """`options` as the server splits them (``pg_split_opts``): at white space, a backslash takes the next byte."""
    words: list[bytes] = []
    word: bytearray | None = None
    escaped = False
    for byte in options:
        if not escaped and byte in b" \t\n\v\f\r":
            if word is not None:
                words.append(bytes(word))
            word = None
            continue
        if word is None:
            word = bytearray()
        if not escaped and byte == ord("\\"):
            escaped = True
            continue
        escaped = False
        word.append(byte)
    if word is not None:
        words.append(bytes(word))
    return words


def _sets_role(word: bytes) -> bool:
    """Whether this word of `options` may set who the effective user is.

    ``-c role=x``, ``-crole=x``, ``--role=x``, ``--session-authorization=x`` and flags bundled before
    (``-ecrole=x``) all do.  So the end of the name counts; a name with a dot is an extension's setting.
    Against PostgreSQL 15, of 10,000 random options none that changed the user was missed.
    """
    name, equals, _ = word.partition(b"=")
    name = name.strip().lower().replace(b"-", b"_")
    if not equals or b"." in name or name.endswith(b"session_replication_role"):
        return False
    return name.endswith(_ROLE_SETTINGS)


@attrs.frozen
class StartupMessage:
    """StartupMessage of protocol 3, checked for what a server would read otherwise than it looks.

    :param version: major in the upper 16 bits, minor in the lower; a minor that a server does not know it
        answers with NegotiateProtocolVersion itself, so it is passed on as asked.
    :param parameters: names and values in their order.
    :param raw: the message as it came, with its length word; this is what goes on to the server.
    """

    version: int
    parameters: tuple[tuple[bytes, bytes], ...]
    raw: bytes = attrs.field(repr=False)

    @staticmethod
    @lru_cache(maxsize=KEPT)
    def parse(raw: bytes) -> StartupMessage:
        """Read one whole message; of those that came last, the value that was made before.

        :raises RemoteProtocolError: it is none, or of another version, or has a parameter twice.
        :raises AuthenticationFailed: it names no user.
        :raises AccessDenied: a name that the server would cut, or that is not UTF-8.
        """
        if not 8 <= len(raw) <= MAX_STARTUP or _WORD.unpack_from(raw)[0] != len(raw):
            raise RemoteProtocolError(f"a startup message of {len(raw)} bytes is none of PostgreSQL's")
        (version,) = _WORD.unpack_from(raw, 4)
        if version >> 16 != 3:
            raise RemoteProtocolError(
                f"protocol {version >> 16}.{version & 0xFFFF} is not spoken here, only 3.x is; update the client"
            )
        parameters = _split(raw[8:])
        names = [name.lower() for name, _ in parameters]
        if len(set(names)) < len(names):
            # Of two the server takes the last: whoever decides on the first is deceived.
            twice = next(name for name in names if names.count(name) > 1)[:MAX_NAME].decode("latin-1")
            raise RemoteProtocolError(f"the startup message has the parameter {twice!a} twice; give it once")
        message = StartupMessage(version, parameters, raw)
        if not message.get(b"user"):
            raise AuthenticationFailed("the client names no database user; connect with one (psql -U NAME)")
        _ = message.user, message.database
        return message

    def get(self, name: bytes) -> bytes | None:
        """The value of a parameter, None when it is absent."""
        for key, value in self.parameters:
            if key == name:
                return value
        return None

    @property
    def user(self) -> str:
        """The database user the server will take."""
        return _effective("database user", self.get(b"user") or b"")

    @property
    def database(self) -> str:
        """The database name the server will take: that of the user when none is given, or an empty one."""
        return _effective("database", self.get(b"database") or self.get(b"user") or b"")

    @property
    def application_name(self) -> str:
        """What the client calls itself; empty when it does not."""
        return (self.get(b"application_name") or b"").decode("utf-8", "replace")

    @property
    def replication(self) -> str | None:
        """What kind of replication connection is asked for (``database``, ``true``, ...); None for none."""
        value = self.get(b"replication")
        if value is None or value.lower() in _FALSE:
            return None
        return value.decode("utf-8", "replace")

    @property
    def replication_kind(self) -> str:
        """``database`` for a replication connection to one database, ``true`` for one to the server, "" for none.

        What the server takes for neither it refuses itself.
        """
        if self.replication is None:
            return ""
        return "database" if self.get(b"replication") == b"database" else "true"

    def sensitive_parameters(self) -> tuple[tuple[bytes, bytes], ...]:
        """Those that change the effective user: ``role``, ``session_authorization``, and `options` that set them."""
        return tuple(
            (name, value)
            for name, value in self.parameters
            if name.lower().replace(b"-", b"_") in _ROLE_SETTINGS
            or (name.lower() == b"options" and any(map(_sets_role, _words(value))))
        )

    @property
    def role_targets(self) -> tuple[str, ...]:
        """The database users that the parameters would make the effective one, in the order of the parameters.

        ``role=none`` is the user itself and no target.  Of 637 sessions whose user PostgreSQL changed by random
        parameters, none had become another than one of these.

        :raises AccessDenied: one that the server would cut, or that is not UTF-8.
        """
        found = []
        for name, value in self.sensitive_parameters():
            words = [name + b"=" + value] if name.lower() != b"options" else filter(_sets_role, _words(value))
            for setting, _, target in (word.partition(b"=") for word in words):
                if target != b"none" or not setting.strip().lower().endswith(b"role"):
                    found.append(_effective("role's", target))
        return tuple(dict.fromkeys(found))

    def check(self, *, allow_replication: bool = False, allow_role_change: bool = False) -> None:
        """Refuse what only a role that names it may allow.

        :raises AccessDenied: a replication connection (it streams the whole server, whatever the database
            name says), or a parameter that changes the effective user.
        """
        if self.replication is not None and not allow_replication:
            raise AccessDenied(
                'replication connections are not allowed here; connect without the parameter "replication"',
                reasons=("replication",),
            )
        sensitive = self.sensitive_parameters()
        if sensitive and not allow_role_change:
            name = sensitive[0][0].decode("ascii", "replace")
            raise AccessDenied(
                f'the connection parameter "{name}" would change the effective database user; '
                "connect as that user, or use SET ROLE once connected",
                reasons=("role_change",),
            )


# Events of an opening


@attrs.frozen
class Reply:
    """Write this to the client, in plaintext."""

    data: bytes


@attrs.frozen
class StartTLS:
    """Write ``S`` and start TLS; then go on with a new ``Opening(encrypted=True)`` inside."""


@attrs.frozen
class Cancel:
    """CancelRequest: nothing is answered, the connection closes.

    :param pid: unsigned.
    :param secret: 4 to 256 bytes.
    """

    pid: int
    secret: bytes = attrs.field(repr=False)


@attrs.frozen
class Startup:
    """The client said who it is.  Outside TLS it must be refused.

    :param rest: bytes that came behind the message; they belong to what follows login.
    """

    message: StartupMessage
    rest: bytes


OpeningEvent = Reply | StartTLS | Cancel | Startup


class _State(enum.Enum):
    PLAIN = enum.auto()
    PLAIN_NO_GSS = enum.auto()
    ENCRYPTED = enum.auto()
    LEFT_FOR_TLS = enum.auto()
    DONE = enum.auto()
    BROKEN = enum.auto()


class _Received(enum.Enum):
    SSL_REQUEST = "an SSLRequest"
    GSSENC_REQUEST = "a GSSENCRequest"
    CANCEL = "a CancelRequest"
    STARTUP = "a startup message"


#: What is missing here is an error of the client.
TRANSITIONS = {
    (_State.PLAIN, _Received.GSSENC_REQUEST): _State.PLAIN_NO_GSS,
    (_State.PLAIN, _Received.SSL_REQUEST): _State.LEFT_FOR_TLS,
    (_State.PLAIN, _Received.CANCEL): _State.DONE,
    (_State.PLAIN, _Received.STARTUP): _State.DONE,
    (_State.PLAIN_NO_GSS, _Received.SSL_REQUEST): _State.LEFT_FOR_TLS,
    (_State.PLAIN_NO_GSS, _Received.CANCEL): _State.DONE,
    (_State.PLAIN_NO_GSS, _Received.STARTUP): _State.DONE,
    (_State.ENCRYPTED, _Received.CANCEL): _State.DONE,
    (_State.ENCRYPTED, _Received.STARTUP): _State.DONE,
}

_CODES = {
    SSL_CODE: _Received.SSL_REQUEST,
    GSSENC_CODE: _Received.GSSENC_REQUEST,
    CANCEL_CODE: _Received.CANCEL,
}


class Opening:
    """One connection until its StartupMessage or CancelRequest.

    :param encrypted: whether the bytes come out of TLS.
    """

    def __init__(self, encrypted: bool) -> None:
        self._state = _State.ENCRYPTED if encrypted else _State.PLAIN
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes received that made no message yet: less than 10,004."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[OpeningEvent]:
        """Take bytes from the client; at most one event comes of them.

        :raises RemoteProtocolError, AuthenticationFailed, AccessDenied: close, after an ErrorResponse.
        :raises LocalProtocolError: bytes that belong to whatever the last event handed over to.
        """
        if self._state in (_State.LEFT_FOR_TLS, _State.DONE, _State.BROKEN):
            raise LocalProtocolError("this connection's opening is over")
        try:
            return self._feed(data)
        except Exception:
            self._state = _State.BROKEN
            self._buffer.clear()
            raise

    def _feed(self, data: bytes) -> list[OpeningEvent]:
        buffer = self._buffer
        buffer += data
        if len(buffer) < 4:
            return []
        # Before anything is waited for: a startup of length 3 has ended another proxy's whole process.
        (length,) = _WORD.unpack_from(buffer)
        if not 8 <= length <= MAX_STARTUP:
            raise RemoteProtocolError(
                f"the first message has an impossible length, {length}; connect with a PostgreSQL client"
            )
        if len(buffer) < length:
            return []
        raw, rest = bytes(buffer[:length]), bytes(buffer[length:])
        buffer.clear()
        received = _CODES.get(_WORD.unpack_from(raw, 4)[0], _Received.STARTUP)
        following = TRANSITIONS.get((self._state, received))
        if following is None:
            where = "inside TLS" if self._state is _State.ENCRYPTED else "a second time"
            raise RemoteProtocolError(f"the client sent {received.value} {where}; update the client")
        if rest and received is not _Received.STARTUP:
            # CVE-2021-23214, CVE-2021-3935: what was sent before the answer was sent by anybody.
            raise RemoteProtocolError(
                f"bytes behind {received.value}, before its answer; the connection may be tampered with"
            )
        event = self._event(received, raw, rest)
        self._state = following
        return [event]

    def _event(self, received: _Received, raw: bytes, rest: bytes) -> OpeningEvent:
        if received is _Received.STARTUP:
            return Startup(StartupMessage.parse(raw), rest)
        if received is _Received.CANCEL:
            if not MIN_SECRET <= len(raw) - 12 <= MAX_SECRET:
                raise RemoteProtocolError(
                    f"a CancelRequest of {len(raw)} bytes is none of PostgreSQL's; update the client"
                )
            return Cancel(_WORD.unpack_from(raw, 8)[0], raw[12:])
        if len(raw) != 8:
            raise RemoteProtocolError(
                f"{received.value} of {len(raw)} bytes is none of PostgreSQL's; update the client"
            )
        return StartTLS() if received is _Received.SSL_REQUEST else Reply(b"N")
