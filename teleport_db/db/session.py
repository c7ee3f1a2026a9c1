"""One PostgreSQL session at the agent.

::

    header            user's certificate verified here again: CA, time, route
    StartupMessage    effective names -> decision of the roles            refused: ErrorResponse, audited
                      database dialled, verified, logged in               failed:  ErrorResponse, audited
                      start of the session written to the spool           only then the client hears "ready"
    messages          each recorded before it goes on
    end               of either side, written to the spool
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.access.checker import check_session
from teleport_db.audit.events import SessionEvents
from teleport_db.certs.tls import peer_identity
from teleport_db.config.model import Database
from teleport_db.db.backend import LOGIN_SECONDS, Backend, DatabaseRefused, LoggedIn, open_backend, send_cancel
from teleport_db.db.policy import Policy
from teleport_db.db.relay import FrontendRelay
from teleport_db.errors import (
    AccessDenied,
    AuditUnavailable,
    AuthenticationFailed,
    DatabaseUnreachable,
    NoSuchDatabase,
    RemoteProtocolError,
    SessionCut,
    TeleportDBError,
)
from teleport_db.identity import Identity
from teleport_db.interfaces import Credentials, ICredentialSource
from teleport_db.pgwire.frontend import MalformedMessage, Statement
from teleport_db.pgwire.messages import error_for
from teleport_db.pgwire.startup import Opening, Startup, StartupMessage
from teleport_db.tunnel.header import CancelHeader, SessionHeader

log = Logger()


@attrs.frozen
class Served:
    """A database service as this agent serves it.

    :param labels: gives the static and the present dynamic labels.
    """

    database: Database
    labels: Callable[[], Mapping[str, str]]


class Append(Protocol):
    """Writes events into the spool, or raises AuditUnavailable.

    ``closing`` events end a session, and may use what the spool keeps free for that.
    """

    def __call__(self, events: Sequence[Mapping[str, Any]], *, closing: bool = False) -> None: ...


@attrs.frozen
class Surroundings:
    """What all sessions of an agent share.

    :param dial: the plain endpoint of a database's address.
    :param user_ca: gives the user CA's certificate, PEM.
    """

    cluster: str
    server_id: str
    served: Mapping[str, Served]
    policy: Policy
    append: Append
    credentials: ICredentialSource
    dial: Callable[[Database], IStreamClientEndpoint]
    user_ca: Callable[[], bytes]
    clock: IReactorTime
    new_uid: Callable[[], str]


class Session:
    """A session from its header to its end.

    :param transport: the stream to the proxy, above its TLS.
    :param closed: called once, with the session, when it is over.
    """

    def __init__(
        self, around: Surroundings, header: SessionHeader, transport: Any, *, closed: Callable[[Session], None]
    ) -> None:
        self._around = around
        self._header = header
        self._transport = transport
        self._closed = closed
        self._opening = Opening(encrypted=True)
        self._receiver: Callable[[bytes], None] = self._open
        self._backend: Backend | None = None
        self._credentials: Credentials | None = None
        self._database: Database | None = None
        self._events: SessionEvents | None = None
        self._running: Deferred[None] | None = None
        self._started = False
        self._over = False
        self._server_key: tuple[int, bytes] | None = None
        self._client_key: tuple[int, bytes] | None = None

    @property
    def id(self) -> str:
        """The session's id, made by the proxy."""
        return self._header.session_id

    def receive(self, data: bytes) -> None:
        """Some bytes of the client."""
        self._receiver(data)

    # Opening.

    def _open(self, data: bytes) -> None:
        try:
            events = self._opening.feed(data)
        except TeleportDBError as error:
            self._refuse(error)
            return
        for event in events:
            if not isinstance(event, Startup):
                self._refuse(RemoteProtocolError("a stream begins with a StartupMessage"))
                return
            self._receiver = self._premature
            self._transport.pauseProducing()
            self._running = Deferred.fromCoroutine(self._run(event))
            self._running.addErrback(self._unexpected)

    def _premature(self, data: bytes) -> None:
        """The transport is paused; what still comes was under way, and no client sends before it is let in."""
        self._refuse(RemoteProtocolError("the client sent messages before its login was over"))

    async def _run(self, startup: Startup) -> None:
        message = startup.message
        identity: Identity | None = None
        try:
            identity, served = self._identify()
            self._database = served.database
            self._events = self._make_events(identity, message)
            self._authorize(identity, served, message)
            logged_in = await self._log_in(message)
            self._begin(identity, message, logged_in, startup.rest)
        except DatabaseRefused as error:
            self._refuse(error, identity, message)
        except CancelledError:
            raise
        except TeleportDBError as error:
            self._refuse(error, identity, message)

    def _identify(self) -> tuple[Identity, Served]:
        """Whose session it is and to where, by the certificate alone."""
        around = self._around
        identity = peer_identity(
            self._header.certificate, user_ca=around.user_ca(), host_ca=None, now=around.clock.seconds()
        )
        route = identity.route
        if identity.usage != "database" or route is None or route.cluster != around.cluster:
            raise AuthenticationFailed(
                "this certificate names no database service of this cluster; run: tsh db login NAME"
            )
        served = around.served.get(route.service)
        if served is None:
            raise NoSuchDatabase(f'this agent does not serve database service "{route.service}"')
        return identity, served

    def _authorize(self, identity: Identity, served: Served, message: StartupMessage) -> None:
        """Decide on the names PostgreSQL will really use; raises AccessDenied."""
        message.check()
        decision = check_session(
            self._around.policy.roles(identity.roles),
            identity.traits,
            service=served.database.name,
            labels=served.labels(),
            db_user=message.user,
            db_name=message.database,
        )
        if not decision.allowed:
            raise AccessDenied(decision.public, reasons=decision.reasons)

    async def _log_in(self, message: StartupMessage) -> LoggedIn:
        database, around = self._database, self._around
        assert database is not None
        self._credentials = await around.credentials.credentials_for(database, message.user)
        self._backend = await open_backend(
            around.dial(database),
            self._credentials,
            service=database.name,
            host=database.uri.host,
            clock=around.clock,
        )
        if self._over:
            raise CancelledError
        try:
            return await self._backend.login(
                message.raw, password=self._credentials.password, key=(self._header.pid, self._header.secret)
            ).addTimeout(LOGIN_SECONDS, around.clock)
        except TimeoutError as error:
            raise DatabaseUnreachable(
                f'database service "{database.name}" did not finish the login within {LOGIN_SECONDS:.0f} seconds'
            ) from error

    def _begin(self, identity: Identity, message: StartupMessage, logged_in: LoggedIn, rest: bytes) -> None:
        """Record the start, let the client in, and relay."""
        assert self._backend is not None
        assert self._events is not None
        self._around.append(
            [
                self._events.start(
                    self._around.clock.seconds(),
                    success=True,
                    client_address=self._header.client_address,
                    roles=identity.roles,
                    parameters=_readable(message),
                )
            ]
        )
        self._started = True
        self._server_key, self._client_key = logged_in.server_key, logged_in.client_key
        backend: Any = self._backend.transport
        self._transport.write(logged_in.greeting)
        relay = FrontendRelay(record=self._record, forward=backend.write, failed=self._fail)
        self._receiver = relay.receive
        self._transport.registerProducer(backend, True)
        backend.registerProducer(self._transport, True)
        self._backend.relay(self._transport.write, self._backend_lost)
        if rest and not self._over:
            relay.receive(rest)
        if not self._over:
            self._transport.resumeProducing()
        log.info(
            "session {id} opened by {user} at {service}", id=self.id, user=identity.name, service=self._database_name
        )

    # While it runs.

    def _record(self, statements: Sequence[Statement]) -> None:
        assert self._events is not None
        now = self._around.clock.seconds()
        make = self._events.statement
        made = [make(now, statement) for statement in statements]
        try:
            self._around.append(made)
        except AuditUnavailable:
            for _ in made:
                self._events.withdraw()
            raise

    def cancel(self, header: CancelHeader) -> bool:
        """Pass a cancel on if its key is this session's; constant time."""
        if self._client_key is None or self._over or header.pid != self._client_key[0]:
            return False
        if not hmac.compare_digest(header.secret, self._client_key[1]):
            return False
        assert self._database is not None
        assert self._credentials is not None
        assert self._server_key is not None
        sending = Deferred.fromCoroutine(
            send_cancel(
                self._around.dial(self._database),
                self._credentials,
                self._server_key,
                service=self._database.name,
                host=self._database.uri.host,
                clock=self._around.clock,
            )
        )
        sending.addErrback(lambda reason: log.warn("a cancel failed: {reason}", reason=reason.getErrorMessage()))
        return True

    # Ending.

    def cut(self, error: SessionCut) -> None:
        """End the session and tell the client why."""
        if self._started:
            self._fail(error)
        else:
            self._refuse(error)

    def _fail(self, error: TeleportDBError) -> None:
        """A running session cannot go on."""
        if self._over:
            return
        log.warn("session {id} ended: {error} {detail}", id=self.id, error=error, detail=error.detail)
        if isinstance(error, MalformedMessage) and self._events is not None:
            self._append_quietly([self._events.malformed(self._around.clock.seconds(), error.payload)])
        self._transport.write(error_for(error))
        self._end(error.code)

    def _refuse(
        self, error: TeleportDBError, identity: Identity | None = None, message: StartupMessage | None = None
    ) -> None:
        """A session that never began: say so to the client and to the log."""
        if self._over:
            return
        log.info("session {id} refused: {error} {detail}", id=self.id, error=error, detail=error.detail)
        events = self._events or self._make_events(identity, message)
        reasons = getattr(error, "reasons", ())
        self._append_quietly(
            [
                events.start(
                    self._around.clock.seconds(),
                    success=False,
                    client_address=self._header.client_address,
                    roles=identity.roles if identity else (),
                    parameters=_readable(message) if message else {},
                    error="; ".join(reasons) or error.public,
                    message=error.public,
                )
            ]
        )
        self._transport.write(error.raw if isinstance(error, DatabaseRefused) else error_for(error))
        self._end(error.code)

    def _unexpected(self, reason: Failure) -> None:
        if reason.check(CancelledError) or self._over:
            return
        error_id = uuid.uuid4().hex[:12]
        log.failure("session {id} failed, error {error_id}", reason, id=self.id, error_id=error_id)
        if self._events is not None and not self._started:
            self._refuse(TeleportDBError(f"internal error, id {error_id}"))
            return
        self._transport.write(error_for(reason.value or TeleportDBError(), error_id=error_id))
        self._end("internal")

    def _backend_lost(self, reason: Failure) -> None:
        self._end("database closed the connection")

    def client_lost(self) -> None:
        """The client, or the way to it, is gone."""
        self._end("client closed the connection")

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        if self._started and self._events is not None:
            self._append_quietly([self._events.end(self._around.clock.seconds(), reason)])
        if self._backend is not None:
            backend: Any = self._backend.transport
            self._backend.lost = None
            backend.unregisterProducer()
            backend.loseConnection()
        if self._running is not None:
            self._running.cancel()
        self._transport.unregisterProducer()
        self._transport.resumeProducing()
        self._transport.loseConnection()
        self._closed(self)
        log.info("session {id} closed: {reason}", id=self.id, reason=reason)

    def _append_quietly(self, events: Sequence[Mapping[str, Any]]) -> None:
        """For what ends a session anyway: a spool that cannot be written is logged, nothing runs for it."""
        try:
            self._around.append(events, closing=True)
        except AuditUnavailable as error:
            log.error("an event of session {id} was not recorded: {detail}", id=self.id, detail=error.detail)

    @property
    def _database_name(self) -> str:
        return self._database.name if self._database else ""

    def _make_events(self, identity: Identity | None, message: StartupMessage | None) -> SessionEvents:
        database = self._database
        return SessionEvents(
            cluster_name=self._around.cluster,
            server_id=self._around.server_id,
            sid=self._header.session_id,
            user=identity.name if identity else "",
            db_service=database.name if database else "",
            db_protocol=database.protocol if database else "postgres",
            db_uri=str(database.uri) if database else "",
            db_name=message.database if message else "",
            db_user=message.user if message else "",
            new_uid=self._around.new_uid,
        )


def _readable(message: StartupMessage) -> dict[str, str]:
    """The startup parameters as text; what is no UTF-8 stays visible."""
    return {
        name.decode("utf-8", "backslashreplace"): value.decode("utf-8", "backslashreplace")
        for name, value in message.parameters
    }
