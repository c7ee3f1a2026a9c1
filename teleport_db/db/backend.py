"""The agent's connection to a database: encryption asked for, TLS verified in full, then the login.

::

    agent                          PostgreSQL
      | SSLRequest             ->      |
      | <-  S                          |   anything else ends it: there is no fallback to plaintext
      | TLS, name and CA verified      |
      | StartupMessage         ->      |   the client's own bytes
      | a password, or SCRAM   <->     |   where the server asks and the agent has one
      | <-  AuthenticationOk ... ReadyForQuery, or ErrorResponse
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.certs.binding import server_end_point
from teleport_db.certs.tls import verify_name
from teleport_db.errors import AuthenticationFailed, DatabaseUnreachable, TeleportDBError
from teleport_db.interfaces import Credentials
from teleport_db.net.tlslayer import TLSClientEndpoint, TLSLayer
from teleport_db.pgwire.backend_tls import BackendTLS
from teleport_db.pgwire.login import BackendLogin, Derivation, Done, LoginEvent, Refused, Relay, Secret, Send
from teleport_db.pgwire.messages import cancel_request, error_response

#: Seconds a database has for TLS and login together.
LOGIN_SECONDS = 15.0

#: Characters of a database's own words that are kept for the logs.
MAX_WORDS = 1024


class DatabaseRefused(TeleportDBError):
    """The database itself said no, in its own words.

    :param fields: of its ErrorResponse, by field code.
    :param raw: the ErrorResponse as it came.
    :param detail: for the log: what it was asked with.
    :param advice: what can be done about it, where that is known.
    """

    status = 403
    code = "database_refused"

    def __init__(self, fields: dict[str, str], raw: bytes, *, detail: str = "", advice: str = "") -> None:
        # Its words go to the client as they came; here they are on their way to logs, where a line stays a line.
        words = fields.get("M") or "the database refused the connection"
        said = "".join(c if c.isprintable() else " " for c in words[:MAX_WORDS])
        super().__init__(f"{said}; {advice}" if advice else said, detail=detail)
        self.fields = fields
        self.raw = raw

    def advised(self, advice: str) -> DatabaseRefused:
        """The same with a hint for the client, in the place of the server's own if it has one."""
        fields = self.fields
        raw = error_response(
            fields.get("V", "FATAL"),
            fields.get("C", self.sqlstate),
            fields.get("M", ""),
            detail=fields.get("D", ""),
            hint=advice,
        )
        return DatabaseRefused(fields, raw, detail=self.detail, advice=advice)


@attrs.frozen
class LoggedIn:
    """A login that the database accepted.

    :param greeting: all that the client is to hear of it, AuthenticationOk to ReadyForQuery.
    :param server_key: the database's own cancel key, None where it gave none.
    :param client_key: the key that the client was told instead.
    """

    greeting: bytes
    server_key: tuple[int, bytes] | None = attrs.field(repr=False)
    client_key: tuple[int, bytes] | None = attrs.field(repr=False)


class _AskForTLS(Protocol):
    """SSLRequest and its answer; afterwards the protocol above speaks to the transport."""

    def __init__(self, upper: IProtocol, ready: Deferred[IProtocol]) -> None:
        self._upper = upper
        self._ready: Deferred[IProtocol] | None = ready
        self._asking: BackendTLS | None = BackendTLS()

    def connectionMade(self) -> None:
        assert self._asking is not None
        self.transport.write(self._asking.start())  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if self._asking is None:
            self._upper.dataReceived(data)
            return
        if self._ready is None:
            return
        try:
            accepted = self._asking.feed(data)
        except TeleportDBError as error:
            ready, self._ready = self._ready, None
            self.transport.loseConnection()  # type: ignore[union-attr]
            ready.errback(error)
            return
        if accepted:
            ready, self._ready, self._asking = self._ready, None, None
            assert self.transport is not None
            self._upper.makeConnection(self.transport)
            transport: Any = self.transport
            if transport.protocol is self:
                transport.protocol = self._upper
            ready.callback(self._upper)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._asking is None:
            self._upper.connectionLost(reason)
        elif self._ready is not None:
            ready, self._ready = self._ready, None
            ready.errback(DatabaseUnreachable("the database closed the connection before TLS"))


class _Asking(Factory):
    """Makes one :class:`_AskForTLS`."""

    noisy = False

    def __init__(self, upper: IProtocol, ready: Deferred[IProtocol]) -> None:
        self._upper, self._ready = upper, ready

    def buildProtocol(self, addr: IAddress | None) -> _AskForTLS:
        return _AskForTLS(self._upper, self._ready)


@implementer(IStreamClientEndpoint)
class PostgresEndpoint:
    """Connects and has TLS accepted; what the factory builds starts its handshake at once."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        ready: Deferred[IProtocol] = Deferred()
        upper = factory.buildProtocol(IPv4Address("TCP", "", 0))
        assert upper is not None
        asking: Any = await self._endpoint.connect(_Asking(upper, ready))
        try:
            return await ready
        except BaseException:
            asking.transport.abortConnection()
            raise


class Backend(Protocol):
    """The protocol above the database's TLS.

    Before the login's end it collects what the client is to hear; afterwards it passes everything on.
    """

    def __init__(self) -> None:
        self._login: BackendLogin | None = None
        self._compute: Callable[[Callable[[], bytes]], Deferred[bytes]] | None = None
        self._shown = ""
        self._advise: Callable[[TeleportDBError], str] | None = None
        self._password = False
        self._done: Deferred[LoggedIn] | None = None
        self._greeting = bytearray()
        self._forward: Callable[[bytes], Any] | None = None
        self._early = b""
        self._timer: IDelayedCall | None = None
        self.lost: Callable[[Failure], None] | None = None
        self.reason: Failure | None = None

    def login(
        self,
        startup: bytes,
        credentials: Credentials,
        *,
        key: tuple[int, bytes],
        allow_replication: bool = False,
        allow_role_change: bool = False,
        new_nonce: Callable[[], str] = secrets.token_urlsafe,
    ) -> Deferred[LoggedIn]:
        """Log in with the client's StartupMessage.

        Fails with DatabaseRefused, DatabaseUnreachable, AuthenticationFailed, RemoteProtocolError, whose
        ``detail`` names the credentials.

        :param allow_replication: a role allows a replication connection.
        :param allow_role_change: a role allows whom the parameters make of the user.
        :param new_nonce: gives text for SCRAM that nobody can guess.
        """
        secret = None
        if credentials.password is not None:
            certificate: bytes | None = getattr(self.transport, "peer_certificate", None)
            binding = server_end_point(certificate) if certificate is not None else None
            secret = Secret(credentials.password, credentials.methods, new_nonce(), binding)
        self._login = BackendLogin(
            startup,
            secret=secret,
            key=key,
            allow_replication=allow_replication,
            allow_role_change=allow_role_change,
        )
        self._done = Deferred()
        self._compute, self._shown = credentials.compute, credentials.name
        self._advise, self._password = credentials.advise, secret is not None
        assert self.transport is not None
        self.transport.write(self._login.start())
        return self._done

    def relay(self, forward: Callable[[bytes], Any], lost: Callable[[Failure], None]) -> None:
        """From now on pass on what the database sends, and tell of its end."""
        self._forward, self.lost = forward, lost
        if self._early:
            early, self._early = self._early, b""
            forward(early)
        if self.reason is not None:
            lost(self.reason)

    def close(self, clock: IReactorTime, seconds: float) -> None:
        """Close after what was written, and abort when the database does not take it in so many seconds."""
        self.lost = None
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()
        if self.reason is None and self._timer is None:
            self._timer = clock.callLater(seconds, transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        if self._forward is not None:
            self._forward(data)
        elif self._login is not None:
            self._logging_in(self._login, data)
        else:
            # Behind ReadyForQuery, before the session took over: it is the reactor's same turn.
            self._early += data

    def _logging_in(self, login: BackendLogin, data: bytes) -> None:
        try:
            events = login.feed(data)
        except TeleportDBError as error:
            self._fail(error)
            return
        self._do(login, events)

    def _do(self, login: BackendLogin, events: list[LoginEvent]) -> None:
        assert self.transport is not None
        for event in events:
            match event:
                case Send():
                    self.transport.write(event.data)
                case Relay():
                    self._greeting += event.data
                case Derivation():
                    self._derive(login, event)
                case Done():
                    self._early = event.rest
                    greeting = bytes(self._greeting)
                    self._greeting.clear()  # a session may last, and has no use for it
                    self._finish().callback(LoggedIn(greeting, event.server_key, event.client_key))
                    return
                case Refused():
                    self._fail(DatabaseRefused(event.fields, event.raw))
                    return

    def _derive(self, login: BackendLogin, derivation: Derivation) -> None:
        """Have SCRAM's calculation done; the login may have ended when its turn comes, or its result does."""

        def run() -> bytes:
            return derivation.run() if self._login is login else b""

        def derived(key: bytes) -> None:
            if self._login is login:
                self._do(login, login.derived(key))

        def failed(reason: Failure) -> None:
            if self._login is login:
                self._finish().errback(reason)

        compute = self._compute or maybeDeferred
        compute(run).addCallback(derived).addErrback(failed)

    def _fail(self, error: TeleportDBError) -> None:
        """The login fails; the log is to say with what it was tried, and both sides what can be done."""
        advice = self._advise(error) if self._advise is not None else ""
        if advice and isinstance(error, DatabaseRefused):
            error = error.advised(advice)
        elif advice:
            error = type(error)(f"{error}; {advice}", detail=error.detail)
        shown = f"(shown to the database: {self._shown})" if self._shown else ""
        error.detail = " ".join(filter(None, (error.detail, shown)))
        self._finish().errback(error)

    def _finish(self) -> Deferred[LoggedIn]:
        assert self._done is not None
        done, self._done, self._login, self._compute = self._done, None, None, None
        return done

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._done is not None:
            # PostgreSQL refuses a client certificate by an alert behind the handshake, and says why in its log only.
            often = " (often its ssl_ca_file is not this cluster's NAME.cas: tctl auth sign --format=db)"
            self._fail(
                DatabaseUnreachable(
                    "the database closed the connection during the login; its log says why"
                    + ("" if self._password else often)
                )
            )
        elif self.lost is not None:
            self.lost(reason)


class _Backends(Factory):
    """Makes the connections of all sessions."""

    noisy = False
    protocol = Backend


_BACKENDS = _Backends()


def database_endpoint(
    endpoint: IStreamClientEndpoint, context: ssl.SSLContext, host: str, clock: IReactorTime, *, wildcard: bool = False
) -> IStreamClientEndpoint:
    """TLS to a PostgreSQL server, its certificate verified for ``host``."""
    plain = PostgresEndpoint(endpoint)
    if not wildcard:
        return TLSClientEndpoint(plain, context, name=host, clock=clock)

    def check(layer: TLSLayer) -> None:
        verify_name(layer.peer_certificate or b"", host, wildcard=True)

    return TLSClientEndpoint(plain, context, server_hostname=host, check=check, clock=clock)


async def open_backend(
    endpoint: IStreamClientEndpoint, credentials: Credentials, *, service: str, host: str, clock: IReactorTime
) -> Backend:
    """Connect to a database and verify it.

    :param endpoint: its address, plain TCP.
    :raises DatabaseUnreachable: with words that say which step failed.
    """
    try:
        backend: Any = (
            await database_endpoint(endpoint, credentials.context, host, clock, wildcard=credentials.wildcard)
            .connect(_BACKENDS)
            .addTimeout(LOGIN_SECONDS, clock)
        )
    except DatabaseUnreachable:
        raise
    except AuthenticationFailed as error:
        raise DatabaseUnreachable(
            f'the agent does not trust the server of database service "{service}": {error} ({credentials.trust})',
            detail=error.detail,
        ) from error
    except TimeoutError as error:
        raise DatabaseUnreachable(
            f'database service "{service}" did not answer its agent within {LOGIN_SECONDS:.0f} seconds'
        ) from error
    except TeleportDBError as error:
        raise DatabaseUnreachable(f'database service "{service}": {error}', detail=error.detail) from error
    assert isinstance(backend, Backend)
    return backend


async def send_cancel(
    endpoint: IStreamClientEndpoint,
    credentials: Credentials,
    key: tuple[int, bytes],
    *,
    service: str,
    host: str,
    clock: IReactorTime,
) -> None:
    """Ask the database to cancel what the session of this key is running, on a connection of its own.

    Returns when the database has closed that connection, which it does when the cancel is delivered.
    """
    backend = await open_backend(endpoint, credentials, service=service, host=host, clock=clock)
    assert backend.transport is not None
    delivered: Deferred[None] = Deferred()
    backend.relay(lambda data: None, lambda reason: delivered.callback(None))
    backend.transport.write(cancel_request(*key))
    try:
        await delivered.addTimeout(LOGIN_SECONDS, clock)
    finally:
        backend.close(clock, LOGIN_SECONDS)
