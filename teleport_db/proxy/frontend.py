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
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.certs.tls import peer_identity
from teleport_db.errors import AgentOffline, AuthenticationFailed, TeleportDBError
from teleport_db.identity import DatabaseRoute, Identity
from teleport_db.interfaces import IRouter
from teleport_db.pgwire.messages import error_for
from teleport_db.pgwire.startup import Cancel, Opening, Reply, StartTLS, Startup
from teleport_db.proxy.forward import Side
from teleport_db.tunnel.header import CancelHeader, SessionHeader, encode_header

log = Logger()

#: Seconds a cancel's stream may take.
CANCEL_SECONDS = 10.0

#: Seconds to open a stream to an agent and its TLS, before the next agent is tried.
STREAM_SECONDS = 10.0


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

    def cancel(self, address: IAddress, pid: int, secret: bytes) -> None:
        """Pass a CancelRequest to the agent of its session; nobody is told whether there was one."""
        endpoint = self.sessions.find(pid, secret)
        if endpoint is None:
            log.info("a cancel request from {peer} fits no session", peer=address)
            return
        header = encode_header(CancelHeader(client_address=format_address(address), pid=pid, secret=secret))
        connecting = endpoint.connect(Factory.forProtocol(lambda: _Canceller(header)))
        connecting.addTimeout(CANCEL_SECONDS, self.clock)
        connecting.addErrback(lambda reason: log.warn("a cancel was lost: {reason}", reason=reason.getErrorMessage()))


class _Canceller(Protocol):
    def __init__(self, header: bytes) -> None:
        self._header = header

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._header)
        self.transport.loseConnection()


class AgentSide(Side):
    """The agent's end of a session, until its first byte only on trial."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: Deferred[None] | None = Deferred()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.answered is not None:
            answered, self.answered = self.answered, None
            answered.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self.answered is not None:
            answered, self.answered = self.answered, None
            answered.errback(reason)


class PostgresFrontend(Side):
    """One client above its TLS (or, for what it says first, instead of it)."""

    def __init__(self, gateway: Gateway, address: IAddress, settled: Callable[[], None]) -> None:
        super().__init__()
        self._gateway = gateway
        self._address = address
        self._settled = settled
        self._opening: Opening | None = Opening(encrypted=True)
        self._running: Deferred[None] | None = None
        self._pid = 0

    def dataReceived(self, data: bytes) -> None:
        if self._opening is None:
            super().dataReceived(data)
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
                    self._settled()
                    transport.pauseProducing()
                    self._running = Deferred.fromCoroutine(self._run(event))
                    self._running.addErrback(self._unexpected)
                case Cancel():
                    self._gateway.cancel(self._address, event.pid, event.secret)
                    transport.loseConnection()
                case Reply():
                    transport.write(event.data)
                case StartTLS():
                    transport.loseConnection()

    async def _run(self, startup: Startup) -> None:
        session_id = str(uuid.uuid4())
        about: dict[str, str] = {}
        try:
            # The same text everywhere a name of the client appears: the agent decides on its own reading.
            about = {"database_user": startup.message.user, "database_name": startup.message.database}
            transport: Any = self.transport
            identity, route = self._gateway.identify(transport.peer_certificate)
            about |= {"user": identity.name, "service": route.service}
            await self._open(startup, route, transport.peer_certificate, session_id)
        except TeleportDBError as error:
            self._refuse(error, session_id, about)

    async def _open(self, startup: Startup, route: DatabaseRoute, certificate: bytes, session_id: str) -> None:
        """Try the service's agents until one answers."""
        sessions = self._gateway.sessions
        endpoints = self._gateway.router.endpoints_for(route)
        self._pid, secret = sessions.new_key()
        header = SessionHeader(
            certificate=certificate,
            client_address=format_address(self._address),
            session_id=session_id,
            pid=self._pid,
            secret=secret,
        )
        transport: Any = self.transport
        for endpoint in endpoints:
            try:
                agent: Any = await endpoint.connect(Factory.forProtocol(AgentSide)).addTimeout(
                    STREAM_SECONDS, self._gateway.clock
                )
            except Exception as error:
                if self.reason is not None:
                    return
                log.warn("an agent could not be reached: {error}", error=error)
                continue
            if self.reason is not None:
                _end(agent)
                return
            sessions.bind(self._pid, endpoint)
            _send(agent, encode_header(header) + startup.message.raw + startup.rest)
            answered = agent.answered
            assert answered is not None
            try:
                await answered
            except CancelledError:
                _end(agent)
                return
            except Exception as error:
                log.warn("an agent was lost before it answered: {error}", error=error)
                continue
            self.join(agent)
            transport.resumeProducing()
            return
        raise AgentOffline(f'no agent of database service "{route.service}" could be reached; try again in a moment')

    def _refuse(self, error: TeleportDBError, session_id: str = "", about: Mapping[str, str] | None = None) -> None:
        """Tell the client in PostgreSQL's words, and the audit log."""
        transport: Any = self.transport
        transport.write(error_for(error))
        transport.loseConnection()
        refusal = Refusal(
            error=error,
            session_id=session_id or str(uuid.uuid4()),
            client_address=format_address(self._address),
            **(about or {}),
        )
        self._gateway.refused(refusal)

    def _unexpected(self, reason: Failure) -> None:
        if reason.check(CancelledError):
            return
        error_id = uuid.uuid4().hex[:12]
        log.failure("session failed, id {error_id}", reason, error_id=error_id)
        transport: Any = self.transport
        transport.write(error_for(reason.value or TeleportDBError(), error_id=error_id))
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._gateway.sessions.release(self._pid)
        if self._running is not None:
            self._running.cancel()


def _send(side: Side, data: bytes) -> None:
    transport: Any = side.transport
    transport.write(data)


def _end(side: Side) -> None:
    transport: Any = side.transport
    transport.abortConnection()


def format_address(address: IAddress) -> str:
    """``host:port``, with brackets around an IPv6 host."""
    host, port = getattr(address, "host", str(address)), getattr(address, "port", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
