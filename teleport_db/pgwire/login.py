"""The agent's login at a database, after TLS.

::

    agent                          database
    StartupMessage           ──▶
                             ◀──   NegotiateProtocolVersion      at most once, relayed
                             ◀──   a request for a password      ``authentication`` has the exchanges
    its answer               ──▶                                 when a secret was given
                             ◀──   AuthenticationOk              relayed, as all that follows
                             ◀──   ParameterStatus ...
                             ◀──   BackendKeyData                exchanged for our own key
                             ◀──   ReadyForQuery                 the session begins

NoticeResponse may come at any time, ErrorResponse ends it.  Everything else is not this protocol.  The
server is not trusted with memory: a message has at most 64 KiB and the whole login 1 MiB.

Source: protocol sections "Start-up" and "Message Formats".
"""

from __future__ import annotations

import enum

import attrs

from teleport_db.errors import LocalProtocolError, RemoteProtocolError
from teleport_db.pgwire.authentication import Accepted, Answer, Authentication, Derivation, Secret
from teleport_db.pgwire.backend_tls import BackendTLS
from teleport_db.pgwire.messages import (
    HEADER,
    HEADER_SIZE,
    MAX_SECRET,
    MIN_SECRET,
    backend_key_data,
    parse_error,
    parse_key_data,
)
from teleport_db.pgwire.startup import StartupMessage

__all__ = ["BackendLogin", "BackendTLS", "Derivation", "Done", "LoginEvent", "Refused", "Relay", "Secret", "Send"]

#: The largest length word of a message during login.
MAX_LOGIN_MESSAGE = 64 * 1024
#: Bytes a server may send before it is ready.
MAX_LOGIN = 1024 * 1024


@attrs.frozen
class Send:
    """Write this to the database; it may be a password."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Relay:
    """Write this to the client."""

    data: bytes


@attrs.frozen
class Done:
    """The database is ready, and the client has been told by a Relay before.

    :param rest: bytes of the server behind its ReadyForQuery: the session's first.
    :param server_key: the server's own process id and secret, None when it gave none.
    :param client_key: what the client got instead: the secret may have been cut.
    """

    rest: bytes
    server_key: tuple[int, bytes] | None = attrs.field(default=None, repr=False)
    client_key: tuple[int, bytes] | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Refused:
    """The database refused; nothing more is read from it.

    :param fields: of its ErrorResponse, by their one-letter codes.
    :param raw: the ErrorResponse as it came, for the client.
    """

    fields: dict[str, str]
    raw: bytes


#: A Derivation is a calculation for the caller to do and to give the result of to :meth:`BackendLogin.derived`.
LoginEvent = Send | Relay | Derivation | Done | Refused


class _State(enum.Enum):
    NEW = enum.auto()
    ASKED = enum.auto()  # the startup is out
    ANSWERED = enum.auto()  # a request for a password
    DERIVING = enum.auto()  # it waits for the caller, and the server for us
    AUTHENTICATED = enum.auto()
    READY = enum.auto()
    OVER = enum.auto()


#: What a server may send when; what is missing here is its error.
EXPECTED = {
    _State.ASKED: frozenset(b"RNEv"),
    _State.ANSWERED: frozenset(b"RNE"),
    _State.DERIVING: frozenset(b"NE"),
    _State.AUTHENTICATED: frozenset(b"SKNEZ"),
}


class BackendLogin:
    """One login at a database.

    :param startup: the client's StartupMessage as it came; it goes on byte by byte as it is.
    :param secret: answers requests for a password, and is forgotten with the login's end.
    :param key: process id and secret that the client gets instead of the server's; the secret is cut to 4
        bytes where the server's has 4 (protocol 3.0).  Without one the client gets none.
    :param allow_replication: a role allows a replication connection.
    :param allow_role_change: a role allows parameters that change the effective user.
    :raises AccessDenied: the startup asks for what is not allowed.
    """

    def __init__(
        self,
        startup: bytes,
        *,
        secret: Secret | None = None,
        key: tuple[int, bytes] | None = None,
        allow_replication: bool = False,
        allow_role_change: bool = False,
    ) -> None:
        # Checked here again, so that no path to a database goes around it.
        message = StartupMessage.parse(startup)
        message.check(allow_replication=allow_replication, allow_role_change=allow_role_change)
        if key is not None and not MIN_SECRET <= len(key[1]) <= MAX_SECRET:
            raise LocalProtocolError("the secret of a cancel key has 4 to 256 bytes")
        self._startup = startup
        self._authentication = Authentication(message.user, secret)
        self._key = key
        self._state = _State.NEW
        self._buffer = bytearray()
        self._need = HEADER_SIZE
        self._received = 0
        self._negotiated = False
        self._server_key: tuple[int, bytes] | None = None
        self._client_key: tuple[int, bytes] | None = None
        self._relay: list[bytes] = []
        self._events: list[LoginEvent] = []

    @property
    def buffered(self) -> int:
        """Bytes received that made no message yet: at most 64 KiB."""
        return len(self._buffer)

    def start(self) -> bytes:
        """What to send first, once TLS is verified."""
        if self._state is not _State.NEW:
            raise LocalProtocolError("this login has begun already")
        self._state = _State.ASKED
        return self._startup

    def feed(self, data: bytes) -> list[LoginEvent]:
        """Take bytes from the database.

        :return: what to do, in order; Done and Refused are the last ever.
        :raises RemoteProtocolError: the server broke the protocol.
        :raises AuthenticationFailed: it asks for a way to log in that there is not, or is not who it should be.
        """
        if self._state in (_State.NEW, _State.OVER):
            raise LocalProtocolError("this login is not running")
        self._buffer += data
        if len(self._buffer) < self._need:
            return []
        try:
            return self._walk()
        except Exception:
            self._finish()
            raise

    def derived(self, salted_password: bytes) -> list[LoginEvent]:
        """Go on with what a Derivation gave; nothing when the login has ended meanwhile."""
        if self._state is _State.OVER:
            return []
        if self._state is not _State.DERIVING:
            raise LocalProtocolError("this login waits for no key")
        self._state = _State.ANSWERED
        return [Send(self._authentication.derived(salted_password))]

    def _finish(self) -> None:
        self._state = _State.OVER
        self._buffer.clear()
        self._authentication.forget()

    def _walk(self) -> list[LoginEvent]:
        buffer = bytes(self._buffer)
        position = 0
        self._relay, self._events = [], []
        while True:
            following = position + self._next_size(buffer, position)
            if following > len(buffer):
                break
            raw = buffer[position:following]
            position = following
            self._count(len(raw))
            self._take(raw[0], raw)
            if self._state in (_State.READY, _State.OVER):
                break
        self._flush()
        if self._state is _State.READY:
            self._events.append(Done(buffer[position:], self._server_key, self._client_key))
        if self._state in (_State.READY, _State.OVER):
            self._finish()
        else:
            del self._buffer[:position]
            self._need = following - position
        return self._events

    def _next_size(self, buffer: bytes, position: int) -> int:
        """Bytes of the message that begins here; its header alone while that is not whole."""
        if len(buffer) - position < HEADER_SIZE:
            return HEADER_SIZE
        kind, length = HEADER.unpack_from(buffer, position)
        if kind not in EXPECTED[self._state]:
            raise RemoteProtocolError(
                f"the database sent a message of type 0x{kind:02x}, which has no place in a login"
            )
        if not 4 <= length <= MAX_LOGIN_MESSAGE:
            raise RemoteProtocolError(
                f"the database sent a message of {length} bytes during login; at most 65536 are taken"
            )
        return int(length) + 1

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > MAX_LOGIN:
            raise RemoteProtocolError("the database sent 1 MiB and is still not ready; the login is given up")

    def _flush(self) -> None:
        if self._relay:
            self._events.append(Relay(b"".join(self._relay)))
            self._relay = []

    def _take(self, kind: int, raw: bytes) -> None:
        body = raw[HEADER_SIZE:]
        if kind == ord("R"):
            self._authenticate(raw, body)
        elif kind == ord("E"):
            self._flush()
            self._events.append(Refused(parse_error(body), raw))
            self._state = _State.OVER
        elif kind == ord("K"):
            self._keys(body)
        elif kind == ord("Z"):
            if len(body) != 1 or body not in b"ITE":
                raise RemoteProtocolError("the database sent a malformed ReadyForQuery")
            self._relay.append(raw)
            self._state = _State.READY
        else:
            if kind == ord("v"):
                if self._negotiated:
                    raise RemoteProtocolError("the database negotiated the protocol's version twice")
                self._negotiated = True
            self._relay.append(raw)

    def _keys(self, body: bytes) -> None:
        if self._server_key is not None:
            raise RemoteProtocolError("the database sent two cancel keys")
        self._server_key = parse_key_data(body)
        if self._key is None:
            return
        pid, secret = self._key
        # A client of protocol 3.0 reads 4 bytes and no more; it is the server's key that tells.
        self._client_key = pid, secret[:4] if len(self._server_key[1]) == 4 else secret
        self._relay.append(backend_key_data(*self._client_key))

    def _authenticate(self, raw: bytes, body: bytes) -> None:
        match self._authentication.take(body):
            case Accepted():
                self._relay.append(raw)
                self._state = _State.AUTHENTICATED
            case Answer(data):
                self._flush()
                self._events.append(Send(data))
                self._state = _State.ANSWERED
            case Derivation() as derivation:
                self._flush()
                self._events.append(derivation)
                self._state = _State.DERIVING
            case None:
                pass
