"""One PostgreSQL session at the agent.

::

    header            user's certificate verified here again: CA, time, route
    StartupMessage    effective names -> decision of the roles            refused: ErrorResponse, audited
                      database dialled, verified, logged in               failed:  ErrorResponse, audited
                      start of the session written to the spool           only then the client hears "ready"
    messages          each recorded before it goes on
    end               of either side, written to the spool

The module is long because opening, running and ending look at the same state: any of them may be cut short by
either side.
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.access.checker import check_session
from teleport_db.access.limits import Limits
from teleport_db.certs.tls import shared
from teleport_db.config.model import Database
from teleport_db.db.backend import LOGIN_SECONDS, Backend, DatabaseRefused, LoggedIn, open_backend, send_cancel
from teleport_db.db.limits import SessionLimits, certificate_begin, certificate_end, check_present
from teleport_db.db.record import SessionRecord
from teleport_db.db.relay import BackendRelay, FrontendRelay, Gate
from teleport_db.db.surroundings import Served, Surroundings
from teleport_db.errors import (
    AccessDenied,
    AuditUnavailable,
    DatabaseUnreachable,
    LimitExceeded,
    RemoteProtocolError,
    SessionCut,
    TeleportDBError,
)
from teleport_db.identity import Identity
from teleport_db.interfaces import Credentials
from teleport_db.net.pace import Pace
from teleport_db.pgwire.express import Express
from teleport_db.pgwire.frontend import MalformedMessage
from teleport_db.pgwire.messages import error_for
from teleport_db.pgwire.startup import Opening, Startup, StartupMessage
from teleport_db.tunnel.header import CancelHeader, SessionHeader

log = Logger()

#: Seconds from the header until the StartupMessage must be there.
OPENING_SECONDS = 10.0

#: Seconds that either side of a session which is over gets to take what was written to it.
CLOSING_SECONDS = 30.0

#: Bytes of the client that are kept while its login is under way; then it is not read any more.
MAX_EARLY = 65536


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
        self._early: list[bytes] = []
        self._record = SessionRecord(
            around.append,
            append_one=around.append_one,
            clock=around.clock,
            new_uid=around.new_uid,
            cluster=around.cluster,
            server_id=around.server_id,
            sid=header.session_id,
            client_address=header.client_address,
            monotonic=around.monotonic,
        )
        self._executions = Express(messages=around.audit.statement_messages)
        self._backend: Backend | None = None
        self._credentials: Credentials | None = None
        self._running: Deferred[None] | None = None
        self._relayed: BackendRelay | None = None
        self._relay: FrontendRelay | None = None
        self._limits: SessionLimits | None = None
        self._cancelling: Deferred[None] | None = None
        self._told_of_cancel: list[Deferred[None]] = []
        self._started = False
        self._over = False
        self._lost = False
        self._done = False
        self._server_key: tuple[int, bytes] | None = None
        self._client_key: tuple[int, bytes] | None = None
        self._timer: IDelayedCall | None = around.clock.callLater(OPENING_SECONDS, self._too_late)

    @property
    def id(self) -> str:
        """The session's id, made by the proxy."""
        return self._header.session_id

    def receive(self, data: bytes) -> None:
        """Some bytes of the client."""
        self._receiver(data)

    # Opening.

    def _too_late(self) -> None:
        self._timer = None
        self._refuse(RemoteProtocolError(f"no startup message came within {OPENING_SECONDS:.0f} seconds"))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

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
            self._stop_timer()
            self._record.message = event.message
            self._receiver = self._hold
            if event.rest:
                self._hold(event.rest)
            self._running = Deferred.fromCoroutine(self._run(event.message))
            self._running.addErrback(self._unexpected)

    def _hold(self, data: bytes) -> None:
        """Keep what a client sends before it is let in.

        It is read on nevertheless: who reads nothing does not hear that the client has gone.
        """
        self._early.append(data)
        if sum(map(len, self._early)) > MAX_EARLY:
            self._transport.pauseProducing()

    def _drop(self, data: bytes) -> None:
        """After the end nothing is recorded any more, so nothing goes on."""

    async def _run(self, message: StartupMessage) -> None:
        try:
            identity = self._record.identity = self._around.identify(self._header.certificate)
            # The same for all sessions of this user's, now that it is known to be one of ours.
            self._header = attrs.evolve(self._header, certificate=shared(self._header.certificate))
            served = self._around.find(identity)
            self._record.database = served.database
            age = self._record.policy_age = self._around.policy_age()
            if age is not None:
                log.info("session {id}: auth is away; what is known is {age:.0f} s old", id=self.id, age=age)
            self._around.admit()
            self._authorize(identity, served, message)
            logged_in = await self._log_in(served.database, message)
            self._begin(identity, logged_in)
        except TeleportDBError as error:
            self._refuse(error)

    def _authorize(self, identity: Identity, served: Served, message: StartupMessage) -> None:
        """Decide on the names PostgreSQL will really use; raises AccessDenied, AuthenticationFailed, LimitExceeded."""
        around = self._around
        standing = around.policy.standing(
            identity,
            host_id=around.server_id,
            now=around.clock.seconds(),
            signed=certificate_begin(self._header.certificate),
        )
        decision = check_session(
            standing.roles,
            standing.traits,
            service=served.database.name,
            labels=served.labels(),
            db_user=message.user,
            db_name=message.database,
            replication=message.replication_kind,
            role_targets=message.role_targets,
            address=self._header.client_address.rpartition(":")[0].strip("[]"),
        )
        if not decision.allowed:
            raise AccessDenied(decision.public, reasons=decision.reasons)
        limits = around.policy.options(standing.roles)
        check_present(identity, limits)
        self._limit(limits)

    def _limit(self, options: Limits) -> None:
        """Take over what the roles limit, now that it is known or has changed."""
        now = self._around.clock.seconds()
        if self._limits is None:
            self._limits = SessionLimits(options, self._valid_until(), now)
        else:
            self._limits.options = options
        self._record.record_parameters(options.record_parameters)
        most = options.max_db_connections
        if most and not self._started and self._around.sessions_of(self.user) > most:
            raise LimitExceeded(
                f"you have {most} session{'s' if most > 1 else ''} open at this agent, which is all that"
                f" {options.whose('max_db_connections')} allows (max_db_connections); close one of them"
            )

    def _valid_until(self) -> float:
        """When the certificate's time comes, or the login's that was asked for a code for just this session."""
        identity = self._record.identity
        return (identity.login_expires if identity else 0) or certificate_end(self._header.certificate)

    @property
    def user(self) -> str:
        """Whose session it is; empty before that is known."""
        return self._record.identity.name if self._record.identity else ""

    @property
    def service(self) -> str:
        """The database service it leads to; empty before that is known."""
        return self._record.service

    def check_limits(self, now: float) -> None:
        """End the session when its time is over.

        :param now: seconds since the epoch.
        """
        if not self._started or self._over:
            return
        assert self._limits is not None
        assert self._relay is not None
        assert self._relayed is not None
        why = self._limits.check(now, heard=self._relay.heard, idle=self._relayed.idle)
        if why is not None:
            self.cut(why)

    async def _log_in(self, database: Database, message: StartupMessage) -> LoggedIn:
        around = self._around
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
            logged_in = await self._backend.login(
                message.raw,
                self._credentials,
                key=(self._header.pid, self._header.secret),
                allow_replication=True,  # the roles have decided on both
                allow_role_change=True,
            ).addTimeout(LOGIN_SECONDS, around.clock)
        except TimeoutError as error:
            raise DatabaseUnreachable(
                f'database service "{database.name}" did not finish the login within {LOGIN_SECONDS:.0f} seconds'
            ) from error
        # A cancel request wants no more of it than its TLS.
        self._credentials = attrs.evolve(self._credentials, password=None)
        return logged_in

    def _begin(self, identity: Identity, logged_in: LoggedIn) -> None:
        """Record the start, let the client in, and relay."""
        assert self._backend is not None
        self._record.start()
        self._started = True
        self._server_key, self._client_key = logged_in.server_key, logged_in.client_key
        log.info(
            "session {id} opened by {user} at {service} with {shown}",
            id=self.id,
            user=identity.name,
            service=self._record.service,
            shown=(self._credentials and self._credentials.name) or "its credentials",
        )
        backend: Any = self._backend.transport
        self._transport.write(logged_in.greeting)
        gate = Gate(self._transport)
        relay = self._relay = FrontendRelay(
            self._executions,
            record=self._record_statements,
            begins=self._record.begins,
            forward=backend.write,
            failed=self._fail,
            shut=gate.shut,
            durable=self._durable,
            synced=self._around.synced,
        )
        self._receiver = relay.receive
        self._transport.registerProducer(Pace(backend), True)
        backend.registerProducer(gate, True)
        self._relayed = BackendRelay(
            self._executions,
            record=self._record_statements,
            ends=self._record.ends,
            forward=self._transport.write,
            failed=self._fail,
            answered=relay.go_on,
        )
        self._backend.relay(self._relayed.receive, self._backend_lost)
        early, self._early = b"".join(self._early), []
        if early and not self._over:
            relay.receive(early)
        if not self._over:
            if self._done:
                self._pass_end_on()
            self._transport.resumeProducing()

    def _record_statements(self) -> None:
        self._record.statements(self._executions)

    def _durable(self) -> bool:
        """Whether a statement waits until its record is on the disk: the agent's setting, or a role's."""
        assert self._limits is not None
        return self._around.audit.durability == "fsync" or self._limits.options.record_session == "strict"

    # While it runs.

    def cancel(self, header: CancelHeader) -> Deferred[None] | None:
        """Pass a cancel on if its key is this session's; constant time.

        One at a time: a second one while the first is under way would cancel nothing else.

        :return: fires when it is delivered, or will not be; None when it is not this session's.
        """
        if self._client_key is None or self._over or header.pid != self._client_key[0]:
            return None
        if not hmac.compare_digest(header.secret, self._client_key[1]):
            return None
        told: Deferred[None] = Deferred()
        self._told_of_cancel.append(told)
        if self._cancelling is not None:
            return told
        log.info("session {id}: a cancel request from {peer}", id=self.id, peer=header.client_address)
        try:
            self._record.cancel(header.client_address)
        except AuditUnavailable as error:
            self._fail(error)
            self._cancel_done(None)
            return told
        database = self._record.database
        assert database is not None
        assert self._credentials is not None
        assert self._server_key is not None
        self._cancelling = Deferred.fromCoroutine(
            send_cancel(
                self._around.dial(database),
                self._credentials,
                self._server_key,
                service=database.name,
                host=database.uri.host,
                clock=self._around.clock,
            )
        )
        self._cancelling.addErrback(self._cancel_failed).addCallback(self._cancel_done)
        return told

    def _cancel_failed(self, reason: Failure) -> None:
        if not self._over:
            log.warn("a cancel of session {id} failed: {reason}", id=self.id, reason=reason.getErrorMessage())

    def _cancel_done(self, _: None) -> None:
        self._cancelling = None
        waiting, self._told_of_cancel = self._told_of_cancel, []
        for told in waiting:
            told.callback(None)

    def reconsider(self) -> None:
        """Roles, users or locks have changed: a session that would not be let in now is ended."""
        record = self._record
        identity, message = record.identity, record.message
        served = None if record.database is None else self._around.served.get(record.database.name)
        if self._over or identity is None or message is None or served is None:
            return
        try:
            self._authorize(identity, served, message)
        except TeleportDBError as error:
            self.cut(SessionCut(f"this session was ended: {error}"))

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
        if isinstance(error, MalformedMessage):
            self._record.malformed(error.payload)
        self._tell(error_for(error))
        self._end(error.public if isinstance(error, SessionCut) else error.code)

    def _tell(self, message: bytes) -> None:
        """Write to the client, unless that would fall into the middle of what the database was saying."""
        if self._relayed is None or self._relayed.between_messages:
            self._transport.write(message)
        if self._relayed is not None:
            self._relayed.last_word()  # this was the last one

    def _refuse(self, error: TeleportDBError) -> None:
        """A session that never began: say so to the client and to the log."""
        if self._over:
            return
        log.info("session {id} refused: {error} {detail}", id=self.id, error=error, detail=error.detail)
        self._record.failure(error.public, "; ".join(getattr(error, "reasons", ())))
        self._transport.write(error.raw if isinstance(error, DatabaseRefused) else error_for(error))
        self._end(error.code)

    def _unexpected(self, reason: Failure) -> None:
        """A fault of ours; or the end of the session has cancelled its opening, which is none."""
        if self._over:
            return
        error_id = uuid.uuid4().hex[:12]
        log.failure("session {id} failed, error {error_id}", reason, id=self.id, error_id=error_id)
        error = TeleportDBError(f"internal error, id {error_id}; the operator of this cluster finds it in the log")
        if self._started:
            self._fail(error)
        else:
            self._refuse(error)

    def _backend_lost(self, reason: Failure) -> None:
        # A database that was killed ends its connection without TLS's close_notify, and so does this session then.
        clean = reason.check(ConnectionDone) is not None
        self._end("client closed the connection" if self._done else "database closed the connection", clean=clean)

    def client_done(self) -> None:
        """The client has said its last word; as on a direct connection it gets the answer to that.

        The database hears of the end behind the last byte, answers what it was asked, and closes.
        """
        if self._over or self._record.message is None:
            self._transport.loseConnection()
            return
        self._done = True
        if self._started:
            self._pass_end_on()

    def _pass_end_on(self) -> None:
        assert self._relay is not None
        self._relay.end(self._half_close)

    def _half_close(self) -> None:
        assert self._backend is not None
        backend: Any = self._backend.transport
        backend.unregisterProducer()
        backend.loseWriteConnection()
        self._wait_for_answer()

    def _wait_for_answer(self) -> None:
        """A database that runs a query may take its time, one that has nothing to do may not."""
        self._timer = self._around.clock.callLater(CLOSING_SECONDS, self._still_there)

    def _still_there(self) -> None:
        self._timer = None
        if self._relayed is None or self._relayed.idle:
            self._end("client closed the connection")
        else:
            self._wait_for_answer()

    def client_lost(self) -> None:
        """The client, or the way to it, is gone."""
        self._lost = True
        if self._over:
            self._stop_timer()
        elif not self._started and self._record.message is not None:
            self._record.failure("the client closed the connection before it was let in")
        self._end("client closed the connection")

    def _end(self, reason: str, *, clean: bool = True) -> None:
        if self._over:
            return
        self._over = True
        self._stop_timer()
        self._receiver = self._drop
        self._early.clear()
        if self._started:
            if self._relay is not None and self._relayed is not None:
                self._relay.stop()
                self._relayed.lost()
                self._record.lost(self._executions)
                if word := self._relayed.last_word():
                    self._transport.write(word)
            self._record.end(reason)
        for waiting in (self._running, self._cancelling):
            if waiting is not None:
                waiting.cancel()
        if self._backend is not None:
            self._backend.close(self._around.clock, CLOSING_SECONDS)
        self._transport.unregisterProducer()
        self._transport.resumeProducing()
        if clean:
            self._transport.loseConnection()
        else:
            self._transport.cutConnection()
        if not self._lost:
            self._timer = self._around.clock.callLater(CLOSING_SECONDS, self._cut_off)
        self._closed(self)
        log.info("session {id} closed: {reason}", id=self.id, reason=reason)

    def _cut_off(self) -> None:
        """The client did not take the last words in time."""
        self._timer = None
        self._transport.abortConnection()
