"""Which agents serve a database service, and how to reach them.

::

    agent -- TLS, client certificate of the host CA, role "db" --> proxy      one tunnel an agent
    proxy -- stream: control header -->  agent                                names it serves, kept current
    proxy -- stream: TLS to HOSTID.CLUSTER --> agent                          one a session
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.errors import AgentOffline, NoSuchDatabase, RemoteProtocolError, TeleportDBError
from teleport_db.identity import DatabaseRoute, Identity, agent_name
from teleport_db.interfaces import IRouter
from teleport_db.net.tlslayer import TLSClientEndpoint
from teleport_db.tunnel.endpoints import StreamClientEndpoint
from teleport_db.tunnel.header import ControlHeader, FrameReader, encode_header
from teleport_db.tunnel.protocol import TunnelProtocol

log = Logger()

#: Database services one agent may announce.
MAX_SERVICES = 10000

#: Names of services that are remembered when nobody serves them any more.
MAX_KNOWN = 100_000


@attrs.define(eq=False)
class AgentLink:
    """One agent's tunnel as long as it stands."""

    identity: Identity
    tunnel: TunnelProtocol
    endpoint: AgentEndpoint
    services: frozenset[str] = frozenset()


class _Control(Protocol):
    """Reads what an agent says it serves."""

    def __init__(self, told: Callable[[dict[str, Any]], None], ended: Callable[[Failure], None]) -> None:
        self._told = told
        self._ended = ended
        self._frames = FrameReader()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(encode_header(ControlHeader()))

    def dataReceived(self, data: bytes) -> None:
        try:
            value = self._frames.feed(data)
            while value is not None:
                self._told(value)
                value = self._frames.feed(b"")
        except TeleportDBError as error:
            log.warn("an agent's announcement was refused: {error}", error=error)
            transport: Any = self.transport
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended(reason)


@implementer(IRouter)
class Router:
    """Knows every connected agent.

    :param context: gives the TLS context for streams to agents: the proxy's own certificate, and the host CA.
    :param shuffle: puts a list into random order, in place.
    """

    def __init__(
        self,
        *,
        context: Callable[[], ssl.SSLContext],
        clock: IReactorTime,
        shuffle: Callable[[list[Any]], None] = random.shuffle,
    ) -> None:
        self._context = context
        self._clock = clock
        self._shuffle = shuffle
        self._links: list[AgentLink] = []
        #: Names that were ever served, the longest unheard of first.
        self._known: dict[str, None] = {}

    @property
    def agents(self) -> int:
        """How many agents are connected."""
        return len(self._links)

    def attach(self, identity: Identity, tunnel: TunnelProtocol) -> None:
        """A tunnel of this agent was opened; what it serves is asked at once."""
        link = AgentLink(identity, tunnel, self._endpoint(identity, tunnel))
        self._links.append(link)
        log.info("agent {host} connected", host=identity.name)
        link.endpoint.connect(
            Factory.forProtocol(
                lambda: _Control(lambda said: self._announced(link, said), lambda reason: self._silent(link, reason))
            )
        ).addErrback(self._unasked, link)

    def _silent(self, link: AgentLink, reason: Failure) -> None:
        """It will not say any more what it serves: it is leaving, or else it shall dial again."""
        link.services = frozenset()
        if link in self._links and not reason.check(ConnectionDone):
            log.warn("agent {host} does not say any more what it serves", host=link.identity.name)
            link.tunnel.close()

    def _unasked(self, reason: Failure, link: AgentLink) -> None:
        if link in self._links:
            log.warn(
                "agent {host} does not say what it serves: {reason}",
                host=link.identity.name,
                reason=reason.getErrorMessage(),
            )
            link.tunnel.close()

    def detach(self, tunnel: TunnelProtocol) -> None:
        """This tunnel is gone."""
        for link in self._links:
            if link.tunnel is tunnel:
                self._links.remove(link)
                log.info("agent {host} is gone", host=link.identity.name)
                return

    def drop(self, check: Callable[[Identity], None]) -> None:
        """Close the tunnels of agents that ``check`` refuses, and the sessions in them."""
        for link in list(self._links):
            try:
                check(link.identity)
            except TeleportDBError as error:
                log.warn("the tunnel of agent {host} is closed: {error}", host=link.identity.name, error=error)
                link.tunnel.close()

    def close(self) -> None:
        """Close all tunnels."""
        for link in list(self._links):
            link.tunnel.close()

    def _announced(self, link: AgentLink, said: dict[str, Any]) -> None:
        names = said.get("databases")
        if not isinstance(names, list) or len(names) > MAX_SERVICES or not all(isinstance(name, str) for name in names):
            raise RemoteProtocolError("an announcement is a list of names")
        announced = frozenset(names)
        allowed = announced if link.identity.scope is None else announced & frozenset(link.identity.scope)
        if allowed != announced:
            log.warn("agent {host} announced databases its token was not made for", host=link.identity.name)
        link.services = allowed
        if link in self._links:
            self.remember(allowed)
        log.info("agent {host} serves {count} databases", host=link.identity.name, count=len(allowed))

    def remember(self, names: Iterable[str]) -> None:
        """These services exist, whether or not an agent of theirs is connected."""
        for name in names:
            self._known.pop(name, None)
            self._known[name] = None
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def endpoints_for(self, route: DatabaseRoute) -> list[IStreamClientEndpoint]:
        links = [link for link in self._links if route.service in link.services and link.tunnel.usable]
        if not links:
            if route.service in self._known:
                raise AgentOffline(
                    f'no agent of database service "{route.service}" is connected; try again, or ask who runs it'
                )
            raise NoSuchDatabase(f'there is no database service "{route.service}"; see: tsh db ls')
        # Of two tunnels of one agent the older one may be dead and not yet found to be.
        newest = list({link.identity.name: link for link in links}.values())
        older = [link for link in links if link not in newest]
        self._shuffle(newest)
        return [link.endpoint for link in [*newest, *older]]

    def _endpoint(self, identity: Identity, tunnel: TunnelProtocol) -> AgentEndpoint:
        name, stream = agent_name(identity.name, identity.cluster), StreamClientEndpoint(tunnel)
        inner = TLSClientEndpoint(stream, self._context, name=name, clock=self._clock, resume=True)
        return AgentEndpoint(identity.name, inner)


@implementer(IStreamClientEndpoint)
@attrs.frozen
class AgentEndpoint:
    """A stream to one agent, under TLS."""

    host_id: str
    _inner: IStreamClientEndpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        return self._inner.connect(protocolFactory)


class AgentTunnel(Protocol):
    """Above the TLS of a tunnel port: who is it, and may it?  Then the multiplexer."""

    def __init__(
        self,
        *,
        identify: Callable[[bytes | None], Identity],
        router: Router,
        accept: Factory | None,
        clock: IReactorTime,
        settled: Callable[[], None],
    ) -> None:
        self._identify = identify
        self._router = router
        self._accept = accept
        self._clock = clock
        self._settled = settled
        self._tunnel: TunnelProtocol | None = None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        try:
            identity = self._identify(transport.peer_certificate)
        except TeleportDBError as error:
            log.warn("a tunnel was refused: {error}", error=error)
            transport.loseConnection()
            return
        self._settled()
        self._tunnel = TunnelProtocol(client=False, clock=self._clock, accept=self._accept)
        self._tunnel.makeConnection(transport)  # type: ignore[no-untyped-call]
        self._router.attach(identity, self._tunnel)

    def dataReceived(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._tunnel is not None:
            self._router.detach(self._tunnel)
            self._tunnel.connectionLost(reason)
