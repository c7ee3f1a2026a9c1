"""PostgreSQL's side of the proxy: from the client's certificate to a stream of its agent.

::

    client                      proxy                                agent
      | TLS, certificate    ->    |                                    |
      | StartupMessage      ->    | route of the certificate           |
      |                           | TLS in a stream, header        ->  |
      |                           | StartupMessage, untouched      ->  |
      | <-  what the agent says   | <-                                 |

An agent that is lost before its first byte is followed by the next one of the same service.  The proxy
decides who may be heard; what is allowed the agent decides.
"""

from __future__ import annotations

import hmac
import os
import uuid
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.certs.tls import peer_identity
from teleport_db.errors import AgentOffline, AuthenticationFailed, LimitExceeded, TeleportDBError
from teleport_db.hostport import host_port
from teleport_db.identity import DatabaseRoute, Identity
from teleport_db.interfaces import IRouter
from teleport_db.pgwire.messages import error_for
from teleport_db.pgwire.startup import Cancel, Opening, Reply, StartTLS, Startup, StartupMessage
from teleport_db.proxy.forward import Side
from teleport_db.tunnel.header import CancelHeader, SessionHeader, encode_header

log = Logger()

#: Seconds a cancel's stream may take.
CANCEL_SECONDS = 10.0

#: Seconds to open a stream to an agent and its TLS, before the next agent is tried.
STREAM_SECONDS = 10.0

#: Seconds an agent has to answer: longer than it waits for auth, the database's TLS and its login together.
ANSWER_SECONDS = 90.0

#: Bytes of a client that are kept while its agent has not answered; then it is not read any more.
MAX_EARLY = 65536

#: CancelRequests of one address that are looked at, a minute; further ones are dropped.
CANCELS_A_MINUTE = 600

#: Addresses whose CancelRequests are counted.
MAX_COUNTED = 10_000

#: Refusals of clients without any certificate that reach the audit log, a minute: they may be anybody's.
STRANGERS_A_MINUTE = 60


@attrs.frozen
class Refusal:
    """A connection that never reached an agent, for the audit log."""

    error: TeleportDBError
    session_id: str
    client_address: str
    user: str = ""
    service: str = ""
    database_user: str = ""
    database_name: str = ""


class Sessions:
    """The keys that the proxy handed out, each with the way to its session's agent.

    The secret is made here and compared again at the agent; a process id only finds the agent.
    """

    def __init__(self, *, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random_bytes
        self._by_pid: dict[int, tuple[bytes, IStreamClientEndpoint | None]] = {}

    def __len__(self) -> int:
        return len(self._by_pid)

    def new_key(self) -> tuple[int, bytes]:
        """A process id nobody has, and 32 random bytes.

        The process id stays positive in the protocol's signed 32 bits: some drivers read it so.
        """
        while True:
            pid = int.from_bytes(self._random(4), "big") & 0x7FFFFFFF
            if pid and pid not in self._by_pid:
                secret = self._random(32)
                self._by_pid[pid] = (secret, None)
                return pid, secret

    def bind(self, pid: int, endpoint: IStreamClientEndpoint) -> None:
        """The session with this process id runs at this agent."""
        self._by_pid[pid] = (self._by_pid[pid][0], endpoint)

    def release(self, pid: int) -> None:
        """The session is over."""
        self._by_pid.pop(pid, None)

    def find(self, pid: int, secret: bytes) -> IStreamClientEndpoint | None:
        """The agent of the session with this key; a key of 4 bytes is one cut by protocol 3.0."""
        known, endpoint = self._by_pid.get(pid, (b"\0" * 32, None))
        if len(secret) not in (4, len(known)) or not hmac.compare_digest(known[: len(secret)], secret):
            return None
        return endpoint


@attrs.define
class Allowance:
    """So many a minute."""

    most: int
    _minute: float = -1.0
    _used: int = 0

    def take(self, now: float) -> bool:
        """Whether there is one left."""
        minute = now // 60
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += 1
        return self._used <= self.most


class Allowances:
    """So many a minute for each address; of too many addresses the one that was counted first is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_host: dict[str, Allowance] = {}

    def take(self, host: str, now: float) -> bool:
        """Whether this address has one left."""
        allowance = self._by_host.get(host)
        if allowance is None:
            if len(self._by_host) >= MAX_COUNTED:
                del self._by_host[next(iter(self._by_host))]
            allowance = self._by_host[host] = Allowance(self._most)
        return allowance.take(now)


@attrs.frozen
class Gateway:
    """What all PostgreSQL connections of a proxy share.

    :param user_ca: gives the user CA's certificate, PEM.
    :param refused: told of connections that never reached an agent.
    """

    cluster: str
    router: IRouter
    sessions: Sessions
    user_ca: Callable[[], bytes]
    refused: Callable[[Refusal], None]
    clock: IReactorTime
    strangers: Allowance = attrs.field(factory=lambda: Allowance(STRANGERS_A_MINUTE))
    cancels: Allowances = attrs.field(factory=lambda: Allowances(CANCELS_A_MINUTE))
    agents: Factory = attrs.field(init=False)

    @agents.default
    def _agents(self) -> Factory:
        return AgentSides(self.clock)

    def identify(self, certificate: bytes | None) -> tuple[Identity, DatabaseRoute]:
        """Who holds this certificate and where it leads; AuthenticationFailed with words for psql."""
        if certificate is None:
            raise AuthenticationFailed(
                "a client certificate is needed; run: tsh db login NAME, and connect with its service name"
            )
        identity = peer_identity(certificate, user_ca=self.user_ca(), host_ca=None, now=self.clock.seconds())
        route = identity.route
        if identity.usage != "database" or route is None:
            raise AuthenticationFailed("this certificate names no database service; run: tsh db login NAME")
        if route.cluster != self.cluster or identity.cluster != self.cluster:
            raise AuthenticationFailed(f'this certificate is for cluster "{route.cluster}", this is "{self.cluster}"')
        return identity, route

    def whose(self, certificate: bytes | None) -> dict[str, str]:
        """Whom a certificate that is not taken, one that has expired above all, was given to, for the audit log."""
        if certificate is None:
            return {}
        try:
            identity = peer_identity(certificate, user_ca=self.user_ca(), host_ca=None, now=None)
        except TeleportDBError:
            return {}
        return {"user": identity.name, "service": "" if identity.route is None else identity.route.service}

    def refuse_stranger(self, address: IAddress, error: TeleportDBError, message: StartupMessage | None) -> None:
        """Tell the audit log of a client without a certificate of this cluster's; of so many a minute."""
        if not self.strangers.take(self.clock.seconds()):
            log.info("connection from {peer} refused: {error}", peer=address, error=error)
            return
        about = {} if message is None else {"database_user": message.user, "database_name": message.database}
        self.refused(Refusal(error, str(uuid.uuid4()), format_address(address), **about))

    def cancel(self, address: IAddress, pid: int, secret: bytes) -> Deferred[None]:
        """Pass a CancelRequest to the agent of its session.

        :return: fires, never with an error, when the database has been told, or will not be: a client that waits for
            the end of its connection goes on then, and its next statement is not the one that is cancelled.
        """
        if not self.cancels.take(str(getattr(address, "host", address)), self.clock.seconds()):
            return succeed(None)
        endpoint = self.sessions.find(pid, secret)
        if endpoint is None:
            log.info("a cancel request from {peer} fits no session", peer=address)
            return succeed(None)
        header = encode_header(CancelHeader(client_address=format_address(address), pid=pid, secret=secret))
        connecting: Deferred[Any] = endpoint.connect(Factory.forProtocol(lambda: _Canceller(header, self.clock)))
        connecting.addTimeout(CANCEL_SECONDS, self.clock)
        connecting.addCallback(lambda canceller: canceller.delivered)
        connecting.addErrback(lambda reason: log.warn("a cancel was lost: {reason}", reason=reason.getErrorMessage()))
        return connecting


class _Canceller(Protocol):
    """Tells an agent of a cancel, and waits until that is delivered: then the agent closes the stream."""

    def __init__(self, header: bytes, clock: IReactorTime) -> None:
        self._header, self._clock = header, clock
        self._timer: IDelayedCall | None = None
        self.delivered: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(self._header)
        self._timer = self._clock.callLater(CANCEL_SECONDS, transport.abortConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.delivered.callback(None)


class AgentSide(Side):
    """The agent's end of a session, until its first byte only on trial."""

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(clock)
        self.answered: Deferred[None] = Deferred(self._given_up)
        self._heard = False

    def _given_up(self, answered: Deferred[None]) -> None:
        self._heard = True
        answered.errback(CancelledError())
        transport: Any = self.transport
        transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        other = self.other
        if other is not None:
            other.transport.write(data)  # type: ignore[union-attr]
            return
        self._early.append(data)
        if not self._heard:
            self._heard = True
            self.answered.callback(None)

    def readConnectionLost(self) -> None:
        """A database that has closed takes nothing more, whether the client closes as well or not."""
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if not self._heard:
            self._heard = True
            self.answered.errback(reason)


class AgentSides(Factory):
    """Makes the agents' ends of all sessions."""

    noisy = False

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock

    def buildProtocol(self, addr: IAddress | None) -> AgentSide:
        return AgentSide(self._clock)


class PostgresFrontend(Side):
    """One client above its TLS."""

    def __init__(self, gateway: Gateway, address: IAddress, settled: Callable[[], None]) -> None:
        super().__init__(gateway.clock)
        self._gateway = gateway
        self._address = address
        self._settled: Callable[[], None] | None = settled
        self._opening: Opening | None = Opening(encrypted=True)
        self._running: Deferred[None] | None = None
        self._refused = False
        self._cancelling = False
        self._about: dict[str, str] = {}
        self._pid = 0

    def dataReceived(self, data: bytes) -> None:
        other = self.other
        if other is not None:
            other.transport.write(data)  # type: ignore[union-attr]
            return
        if self._opening is None:
            self._early.append(data)
            self._early_data()
            return
        if self._cancelling:
            return
        transport: Any = self.transport
        try:
            events = self._opening.feed(data)
        except TeleportDBError as error:
            self._refuse(error)
            return
        for event in events:
            match event:
                case Startup():
                    self._opening = None
                    self._settle()
                    if event.rest:
                        self.dataReceived(event.rest)
                    self._running = Deferred.fromCoroutine(self._run(event.message))
                    self._running.addErrback(self._unexpected)
                case Cancel():
                    self._cancelling = True
                    self._settle()
                    cancelling = self._gateway.cancel(self._address, event.pid, event.secret)
                    cancelling.addCallback(lambda _: transport.loseConnection())
                case Reply() | StartTLS():
                    transport.loseConnection()

    def _settle(self) -> None:
        """Say that the client has said what it wants, and let go of whoever counted it."""
        settled, self._settled = self._settled, None
        if settled is not None:
            settled()

    def readConnectionLost(self) -> None:
        """The client says no more: what it has asked for it still gets, once it has asked for a session."""
        if self._opening is None:
            super().readConnectionLost()
        else:
            transport: Any = self.transport
            transport.loseConnection()

    def _early_data(self) -> None:
        """The client is read on while its agent has not answered, so that it is noticed when it goes away."""
        if sum(map(len, self._early)) > MAX_EARLY:
            transport: Any = self.transport
            transport.pauseProducing()

    async def _run(self, message: StartupMessage) -> None:
        try:
            # For the audit log only: the agent decides on its own reading.
            self._about = {"database_user": message.user, "database_name": message.database}
            transport: Any = self.transport
            self._about |= self._gateway.whose(transport.peer_certificate)
            _, route = self._gateway.identify(transport.peer_certificate)
            await self._open(message, route, transport.peer_certificate)
        except TeleportDBError as error:
            self._refuse(error)

    async def _open(self, message: StartupMessage, route: DatabaseRoute, certificate: bytes) -> None:
        """Try the service's agents until one answers."""
        sessions, clock = self._gateway.sessions, self._gateway.clock
        endpoints = self._gateway.router.endpoints_for(route)
        self._pid, secret = sessions.new_key()
        full = 0
        for endpoint in endpoints:
            try:
                connecting = endpoint.connect(self._gateway.agents)
                agent: Any = await connecting.addTimeout(STREAM_SECONDS, clock)
            except CancelledError:
                raise
            except Exception as error:
                full += isinstance(error, LimitExceeded)
                log.warn("an agent could not be reached: {error}", error=error)
                continue
            sessions.bind(self._pid, endpoint)
            # An id for each attempt: an agent that is lost may have recorded a start under the last one.
            header = SessionHeader(
                certificate=certificate,
                client_address=format_address(self._address),
                session_id=str(uuid.uuid4()),
                pid=self._pid,
                secret=secret,
            )
            _send(agent, encode_header(header) + message.raw)
            try:
                await agent.answered.addTimeout(ANSWER_SECONDS, clock)
            except CancelledError:
                raise
            except TimeoutError:
                raise AgentOffline(
                    f'the agent of database service "{route.service}" did not answer '
                    f"within {ANSWER_SECONDS:.0f} seconds; try again, or ask who runs it"
                ) from None
            except Exception as error:
                log.warn("an agent was lost before it answered: {error}", error=error)
                continue
            self.join(agent)
            transport: Any = self.transport
            transport.resumeProducing()
            return
        if full and full == len(endpoints):
            raise LimitExceeded(f'every agent of database service "{route.service}" is at its limit of sessions')
        raise AgentOffline(f'no agent of database service "{route.service}" could be reached; try again in a moment')

    def _refuse(self, error: TeleportDBError) -> None:
        """Tell the client in PostgreSQL's words, and the audit log; once."""
        transport: Any = self.transport
        if self._refused or self.reason is not None:
            return
        self._refused = True
        transport.write(error_for(error))
        transport.loseConnection()
        self.limit_closing()
        if transport.peer_certificate is None and not self._gateway.strangers.take(self._gateway.clock.seconds()):
            log.info("connection from {peer} refused: {error}", peer=self._address, error=error)
            return
        refusal = Refusal(
            error=error,
            session_id=str(uuid.uuid4()),
            client_address=format_address(self._address),
            **self._about,
        )
        self._gateway.refused(refusal)

    def _unexpected(self, reason: Failure) -> None:
        """A fault of ours; or the client has gone and cancelled its opening, which is none."""
        if self.reason is not None:
            return
        error_id = uuid.uuid4().hex[:12]
        log.failure("a session could not be opened, id {error_id}", reason, error_id=error_id)
        self._refuse(
            TeleportDBError(f"internal error, id {error_id}; the operator of this cluster finds it in the log")
        )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._gateway.sessions.release(self._pid)
        if self._running is not None:
            self._running.cancel()


def _send(side: Side, data: bytes) -> None:
    transport: Any = side.transport
    transport.write(data)


def format_address(address: IAddress) -> str:
    """``host:port``, with brackets around an IPv6 host."""
    return host_port(getattr(address, "host", str(address)), getattr(address, "port", 0))
