"""A whole cluster in memory: clients, a proxy, agents and a scripted PostgreSQL, on one clock.

::

    Client ── wire ── FrontDoor  proxy  AgentTunnel ══ wire ══ tunnel  agent  Session ── wire ── Database

Every TLS is real, every wire is a :class:`tests.memory.Wire`, and nothing moves but in
:meth:`Cluster.settle`, which may divide what moves.  What the spool and the databases see stands in one
:attr:`Cluster.journal`, in the order in which they saw it.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.alpn import ALPN_POSTGRESQL, ALPN_TUNNEL
from teleport_db.certs.authority import Authority, AuthorityKind
from teleport_db.certs.keys import der, load_certificate, new_key, pem, private_pem
from teleport_db.certs.tls import KeyPair, client_context, peer_identity, server_context
from teleport_db.config.model import Database
from teleport_db.config.values import Address
from teleport_db.db.policy import Policy
from teleport_db.db.session import Session
from teleport_db.db.streams import Announcements, IncomingStream, proxies_only
from teleport_db.db.surroundings import Served, Surroundings
from teleport_db.errors import AuditUnavailable, AuthenticationFailed
from teleport_db.identity import DatabaseRoute, Identity, agent_name
from teleport_db.interfaces import Credentials, ICredentialSource
from teleport_db.net.tlslayer import TLSLayer, TLSServerFactory
from teleport_db.pgwire.messages import (
    SSL_REQUEST,
    authentication,
    backend_key_data,
    error_response,
    message,
    parameter_status,
    parse_error,
    ready_for_query,
    startup_message,
)
from teleport_db.proxy.frontend import Gateway, PostgresFrontend, Refusal, Sessions
from teleport_db.proxy.router import AgentTunnel, Router
from teleport_db.proxy.sniffer import Door, FrontDoor
from teleport_db.tunnel.keepalive import Keepalive
from teleport_db.tunnel.protocol import TunnelProtocol
from tests.memory import Wire

CLUSTER = "root"
#: OpenSSL looks at the machine's clock; all else looks at ours, which starts here.
NOW = float(int(time.time()))
#: The host name of every database.
HOST = "db.example"

GREETING = (
    authentication(0)
    + parameter_status(b"server_version", b"18.1")
    + backend_key_data(4242, b"srvk")
    + ready_for_query()
)
ANSWER = message(b"C", b"SELECT 1\0") + ready_for_query()


# Certificates.


@cache
def authority(kind: AuthorityKind, name: str = CLUSTER) -> Authority:
    return Authority.create(kind, name, now=NOW - 86400)


def certified(
    ca: Authority,
    common_name: str,
    *,
    server: bool = False,
    names: Sequence[str] = (),
    ttl: float = 36000.0,
    **more: Any,
) -> KeyPair:
    """A new key and its certificate; ``now`` may lie in the past."""
    key = new_key()
    certificate = ca.issue(
        key.public_key(), common_name=common_name, now=more.pop("now", NOW), ttl=ttl, server=server, names=names, **more
    )
    return KeyPair(pem(certificate), private_pem(key))


def user_pair(
    service: str | None = "aurora",
    *,
    name: str = "alice",
    cluster: str = CLUSTER,
    ca: Authority | None = None,
    **more: Any,
) -> KeyPair:
    """A user's certificate; without a service it is one of ``tsh login``."""
    identity = Identity(
        "user",
        name,
        more.pop("identity_cluster", CLUSTER),
        roles=("dev",),
        usage="database" if service else "login",
        route=DatabaseRoute(cluster, service) if service else None,
    )
    return certified(ca or authority("user"), name, identity=identity, **more)


def put_user(name: str, roles: tuple[str, ...] = ("dev",), **traits: list[str]) -> dict[str, Any]:
    """A watch's word of a user."""
    spec = {"roles": list(roles), "traits": traits}
    resource = {"kind": "user", "version": "v2", "metadata": {"name": name}, "spec": spec}
    return {"type": "put", "kind": "user", "name": name, "resource": resource}


@cache
def alice() -> KeyPair:
    return user_pair()


def host_pair(role: str, name: str, *, server: bool, scope: tuple[str, ...] | None = None, **more: Any) -> KeyPair:
    names = (agent_name(name, CLUSTER), f"{role}.{CLUSTER}") if server else ()
    identity = None if server else Identity("host", name, CLUSTER, roles=(role,), scope=scope)
    return certified(authority("host"), name, server=server, names=names, identity=identity, **more)


@cache
def proxy_pair(server: bool) -> KeyPair:
    return host_pair("proxy", "proxy-1", server=server)


@cache
def agent_pair(name: str, server: bool, scope: tuple[str, ...] | None = None) -> KeyPair:
    return host_pair("db", name, server=server, scope=scope)


@cache
def agent_serving(name: str) -> ssl.SSLContext:
    host_ca = authority("host").certificate_pem
    return server_context(agent_pair(name, True), client_cas=[host_ca], client_required=True, remember=True)


@cache
def _to_agents(pair: KeyPair) -> ssl.SSLContext:
    return client_context(cas=[authority("host").certificate_pem], pair=pair)


@cache
def tunnel_client(pair: KeyPair) -> ssl.SSLContext:
    return client_context(cas=[authority("host").certificate_pem], pair=pair, alpn=[ALPN_TUNNEL])


@cache
def psql_context(pair: KeyPair | None, alpn: tuple[str, ...]) -> ssl.SSLContext:
    return client_context(cas=[authority("host").certificate_pem], pair=pair, alpn=alpn)


@cache
def _front_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext, ssl.SSLContext]:
    server, host = proxy_pair(True), authority("host").certificate_pem
    return (
        server_context(
            server, client_cas=[authority("user").certificate_pem], lenient_clients=True, alpn=[ALPN_POSTGRESQL]
        ),
        server_context(server, client_cas=[host], client_required=True, alpn=[ALPN_TUNNEL]),
        server_context(server, alpn=["http/1.1"]),
    )


@cache
def database_context(name: str = HOST) -> ssl.SSLContext:
    pair = certified(authority("db"), name, server=True, names=[name])
    return server_context(pair, client_cas=[authority("db_client").certificate_pem], client_required=True)


@cache
def _database_client(user: str) -> Credentials:
    pair = certified(authority("db_client"), user)
    return Credentials(client_context(cas=[authority("db").certificate_pem], pair=pair))


# Protocols at the edges.


class Peer(Protocol):
    """Remembers what it heard, and how it ended."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.reason is None, "the end was told twice"
        self.reason = reason


class Client(Peer):
    """A PostgreSQL client: it asks for TLS, and the rest a test says above it in :attr:`tls`."""

    def __init__(self, cluster: Cluster, pair: KeyPair | None, *, direct: bool = False) -> None:
        super().__init__()
        self.above = Peer()
        self.why: Failure | None = None
        self.up = False
        alpn = (ALPN_POSTGRESQL,) if direct else ()
        self.tls = TLSLayer(
            self.above,
            psql_context(pair, alpn),
            server_side=False,
            clock=cluster.clock,
            failed=self._failed,
            connected=self._connected,
        )
        self._direct = direct
        self.wire = cluster.dial(self)

    def _failed(self, why: Failure) -> None:
        self.why = why

    def _connected(self) -> None:
        self.up = True

    def connectionMade(self) -> None:
        if self._direct:
            self.tls.makeConnection(self.transport)
        else:
            self.transport.write(SSL_REQUEST)

    def dataReceived(self, data: bytes) -> None:
        if not self._direct and not self.received:
            super().dataReceived(data)
            assert data == b"S", data
            self.tls.makeConnection(self.transport)
        else:
            self.tls.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self.tls.transport is not None:
            self.tls.connectionLost(reason)

    # What a test says and hears above TLS.

    @property
    def heard(self) -> bytes:
        return self.above.received

    @property
    def gone(self) -> bool:
        return self.reason is not None

    @property
    def messages(self) -> list[tuple[bytes, bytes]]:
        """Type and body of each message that came; the last may be cut short."""
        found, rest = [], self.heard
        while rest:
            length = int.from_bytes(rest[1:5], "big")
            found.append((rest[:1], rest[5 : 1 + length]))
            rest = rest[1 + length :]
        return found

    @property
    def error(self) -> dict[str, str]:
        """The fields of the last message, which is an ErrorResponse."""
        kind, body = self.messages[-1]
        assert kind == b"E", self.messages
        return parse_error(body)

    @property
    def key(self) -> tuple[int, bytes]:
        body = dict(self.messages)[b"K"]
        return int.from_bytes(body[:4], "big"), body[4:]

    def write(self, data: bytes) -> None:
        self.tls.write(data)

    def startup(self, **parameters: str) -> None:
        self.write(startup(**parameters))

    def query(self, sql: bytes = b"select 1") -> None:
        self.write(message(b"Q", sql + b"\0"))


def startup(**parameters: str) -> bytes:
    given = {"user": "app", "database": "shop"} | parameters
    return startup_message([(name.encode(), value.encode()) for name, value in given.items()])


class Database_(Protocol):
    """The plain side of one connection to the fake PostgreSQL."""

    transport: Any

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.buffer = b""
        self.tls: TLSLayer | None = None
        self.above: DatabaseSession | None = None
        self.reason: Failure | None = None
        server.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        if self.tls is not None:
            self.tls.dataReceived(data)
            return
        self.buffer += data
        if self.buffer == SSL_REQUEST:
            self.transport.write(self.server.tls_answer)
            if self.server.tls_answer == b"S" and self.server.handshakes:
                self.above = DatabaseSession(self.server)
                self.tls = TLSLayer(self.above, self.server.context, server_side=True, clock=self.server.clock)
                self.tls.makeConnection(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason
        if self.tls is not None:
            self.tls.connectionLost(reason)


class DatabaseSession(Peer):
    """What PostgreSQL says above TLS."""

    def __init__(self, server: Postgres) -> None:
        super().__init__()
        self.server = server
        self.startup = b""

    def dataReceived(self, data: bytes) -> None:
        if self.startup:
            self.server.journal.append(("forwarded", data))
            super().dataReceived(data)
            if self.server.answer is not None:
                self.server.answer(self, data)
            return
        self.received += data
        length = int.from_bytes(self.received[:4], "big")
        if len(self.received) < 4 or len(self.received) < length:
            return
        first, self.received = self.received[:length], self.received[length:]
        if first[4:8] == (80877102).to_bytes(4, "big"):
            self.server.cancels.append(first[8:])
            self.transport.loseConnection()
            return
        self.startup = first
        self.server.logins.append(self)
        if self.server.greeting:
            self.transport.write(self.server.greeting)


def answer_queries(session: DatabaseSession, data: bytes) -> None:
    """A result for each simple query, however queries are divided."""
    done = getattr(session, "answered", 0)
    buffer, position = session.received, 0
    count = 0
    while position + 5 <= len(buffer):
        following = position + 1 + int.from_bytes(buffer[position + 1 : position + 5], "big")
        if following > len(buffer):
            break
        count += buffer[position : position + 1] == b"Q"
        position = following
    if count > done:
        session.answered = count  # type: ignore[attr-defined]
        session.transport.write(ANSWER * (count - done))


class Postgres:
    """A scripted server."""

    def __init__(self, clock: Clock, journal: list[tuple[str, Any]]) -> None:
        self.clock, self.journal = clock, journal
        self.tls_answer = b"S"
        self.handshakes = True
        self.greeting = GREETING
        self.answer: Callable[[DatabaseSession, bytes], None] | None = answer_queries
        self.context = database_context()
        self.connections: list[Database_] = []
        self.logins: list[DatabaseSession] = []
        self.cancels: list[bytes] = []

    def refuse(self, sqlstate: str, text: str) -> None:
        self.greeting = error_response("FATAL", sqlstate, text)


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects through the cluster's network in its next turn; or refuses, or never answers."""

    def __init__(self, cluster: Cluster, server: Callable[[], Protocol]) -> None:
        self._cluster = cluster
        self._server = server
        self.refusing = False
        self.hanging = False
        self.dialled = 0
        self.cancelled = 0

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        self.dialled += 1
        if self.refusing:
            return fail(ConnectionRefusedError())
        result: Deferred[Any] = Deferred(self._cancel)
        if not self.hanging:
            self._call = self._cluster.clock.callLater(0, self._connect, protocolFactory, result)
        return result

    def _cancel(self, result: Deferred[Any]) -> None:
        self.cancelled += 1
        if not self.hanging and self._call.active():
            self._call.cancel()

    def _connect(self, factory: IProtocolFactory, result: Deferred[Any]) -> None:
        protocol: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
        self._cluster.add(Wire(protocol, self._server()))
        result.callback(protocol)


@implementer(ICredentialSource)
class FakeCredentials:
    """Gives what a database wants; at once, or when a test says so."""

    def __init__(self) -> None:
        self.waiting: Deferred[Credentials] | None = None
        self.error: Exception | None = None

    def credentials_for(self, database: Any, user: str) -> Deferred[Credentials]:
        if self.waiting is not None:
            return self.waiting
        if self.error is not None:
            return fail(self.error)
        return succeed(_database_client(user))


class FakeSpool:
    """Writes into the journal, unless it is full or broken."""

    def __init__(self, journal: list[tuple[str, Any]]) -> None:
        self.journal = journal
        self.full = False
        self.broken = False
        self.events: list[Mapping[str, Any]] = []

    def append(self, events: Sequence[Mapping[str, Any] | bytes], *, closing: bool = False) -> None:
        if self.broken or (self.full and not closing):
            raise AuditUnavailable(detail="no space left on device")
        for event in events:
            fields = json.loads(event) if isinstance(event, bytes) else event
            self.events.append(fields)
            self.journal.append(("recorded", fields["event"]))

    def of(self, sid: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["sid"] == sid]


def dev_role(**allow: Any) -> dict[str, Any]:
    rules = {"db_labels": {"*": "*"}, "db_names": ["*"], "db_users": ["app"]} | allow
    return {"kind": "role", "version": "v3", "metadata": {"name": "dev"}, "spec": {"allow": rules}}


class AgentRig:
    """One agent: the database it dials, its spool, its sessions, its tunnel."""

    def __init__(
        self, cluster: Cluster, name: str, services: Sequence[str] = ("aurora",), scope: tuple[str, ...] | None = None
    ) -> None:
        self.cluster, self.name = cluster, name
        self.database = Postgres(cluster.clock, cluster.journal)
        self.dialling = MemoryEndpoint(cluster, lambda: Database_(self.database))
        self.spool = FakeSpool(cluster.journal)
        self.credentials = FakeCredentials()
        self.policy = Policy()
        self.allow()
        self.services = list(services)
        self.sessions: list[Session] = []
        self.ended = 0
        self.announcements = Announcements(lambda: self.services)
        numbers = iter(range(10**9))
        self.around = Surroundings(
            cluster=CLUSTER,
            server_id=name,
            served={
                service: Served(Database(service, Address(HOST, 5432)), lambda: {"env": "test"}) for service in services
            },
            policy=self.policy,
            append=self.spool.append,
            credentials=self.credentials,
            dial=lambda database: self.dialling,
            user_ca=lambda: authority("user").certificate_pem,
            clock=cluster.clock,
            new_uid=lambda: f"uid-{next(numbers)}",
            sessions_of=lambda user: sum(session.user == user for session in self.sessions),
            monotonic=cluster.clock.seconds,
        )
        self.pair = agent_pair(name, False, scope)
        self.tunnel = self._tunnel()
        self.wire = self._dial()

    def allow(self, **rules: Any) -> None:
        """Let role dev allow this."""
        change = {"type": "put", "kind": "role", "name": "dev", "resource": dev_role(**rules)}
        self.policy.apply({"reset": True, "changes": [change, put_user("alice")]})

    def _tunnel(self) -> TunnelProtocol:
        check = proxies_only(lambda: authority("host").certificate_pem, self.cluster.clock)
        incoming = Factory.forProtocol(
            lambda: IncomingStream(
                check=check,
                open_session=self._open_session,
                cancel=self._cancel,
                announcements=self.announcements,
                clock=self.cluster.clock,
            )
        )
        accept = TLSServerFactory(incoming, lambda: agent_serving(self.name), clock=self.cluster.clock)
        return TunnelProtocol(client=True, clock=self.cluster.clock, accept=accept)

    def _dial(self) -> Wire:
        context = tunnel_client(self.pair)
        return self.cluster.dial(
            TLSLayer(self.tunnel, context, server_side=False, clock=self.cluster.clock, server_hostname=None)
        )

    def _open_session(self, header: Any, transport: Any) -> Session:
        session = Session(self.around, header, transport, closed=self._closed)
        self.sessions.append(session)
        return session

    def _closed(self, session: Session) -> None:
        self.sessions.remove(session)
        self.ended += 1

    def _cancel(self, header: Any) -> Deferred[None]:
        found = [session.cancel(header) for session in list(self.sessions)]
        self.reached = [one is not None for one in found]
        return next((one for one in found if one is not None), succeed(None))


class Cluster:
    """One proxy, and the network everything is connected by."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.journal: list[tuple[str, Any]] = []
        self.wires: list[Wire] = []
        self.refusals: list[Refusal] = []
        self.web: list[Peer] = []
        self.randomness = random.Random(7)
        self.proxy_pair = proxy_pair(False)
        self.router = Router(context=lambda: _to_agents(self.proxy_pair), clock=self.clock, shuffle=lambda links: None)
        self.gateway = Gateway(
            cluster=CLUSTER,
            router=self.router,
            sessions=Sessions(random_bytes=self.randomness.randbytes),
            user_ca=lambda: authority("user").certificate_pem,
            refused=self.refusals.append,
            clock=self.clock,
        )
        #: What takes the streams that agents open: auth's API, when a test has one.
        self.accept: Any = Factory.forProtocol(Peer)
        self.front = self._front()
        self._ports = 40000

    def _front(self) -> FrontDoor:
        postgres_context, tunnel_context, web_context = _front_contexts()

        def web(address: Any, settled: Callable[[], None]) -> Peer:
            settled()
            self.web.append(Peer())
            return self.web[-1]

        postgres = Door(
            lambda address, settled: PostgresFrontend(self.gateway, address, settled), lambda: postgres_context
        )
        return FrontDoor(
            web=Door(web, lambda: web_context),
            postgres=postgres,
            doors={ALPN_POSTGRESQL: postgres, ALPN_TUNNEL: Door(self._tunnel, lambda: tunnel_context)},
            cancel=self.gateway.cancel,
            refused=self.gateway.refuse_stranger,
            clock=self.clock,
        )

    def _tunnel(self, address: Any, settled: Callable[[], None]) -> AgentTunnel:
        return AgentTunnel(
            identify=self._identify_agent,
            router=self.router,
            accept=self.accept,
            clock=self.clock,
            settled=settled,
        )

    def _identify_agent(self, certificate: bytes | None) -> Identity:
        if certificate is None:
            raise AuthenticationFailed("a tunnel without a certificate")
        return peer_identity(
            certificate, user_ca=None, host_ca=authority("host").certificate_pem, now=self.clock.seconds()
        )

    # The network.

    def add(self, wire: Wire) -> Wire:
        """A new connection."""
        self._ports += 1
        wire.client.port = self._ports
        self.wires.append(wire)
        return wire.connect()

    def dial(self, client: Any) -> Wire:
        """Connect to the front door."""
        wire = Wire(client, Peer())
        wire.client.port = self._ports + 1
        server = self.front.buildProtocol(wire.server.getPeer())
        assert server is not None, "the front door refused the connection"
        wire.server.protocol = server
        return self.add(wire)

    def settle(self, limit: int | None = None, turns: int = 1_000_000) -> None:
        """Let turns pass and bytes move, ``limit`` at a time, until all is at rest."""
        for _ in range(turns):
            moved = False
            for wire in list(self.wires):
                moved = wire.step(limit) or moved
                if not wire.client.connected and not wire.server.connected:
                    self.wires.remove(wire)
            soon = any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls())
            self.clock.advance(0)
            if not moved and not soon:
                return
        raise AssertionError("the cluster never came to rest")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, a second a step, with the network at work."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.settle()

    # What tests mostly want.

    def agent(self, name: str = "agent-1", services: Sequence[str] = ("aurora",), **more: Any) -> AgentRig:
        """An agent that is connected and has announced what it serves."""
        rig = AgentRig(self, name, services, **more)
        self.settle()
        return rig

    def client(self, pair: KeyPair | None = None, *, direct: bool = False) -> Client:
        """A client whose TLS stands; by default alice's."""
        client = Client(self, pair or alice(), direct=direct)
        self.settle()
        return client

    def session(self, **parameters: str) -> Client:
        """A client that was let in."""
        client = self.client()
        client.startup(**parameters)
        self.settle()
        assert client.messages[-1] == (b"Z", b"I"), client.messages
        return client

    def timers(self) -> list[Any]:
        """What is due later, the tunnels' own aside."""
        return [
            call
            for call in self.clock.getDelayedCalls()
            if not isinstance(getattr(call.func, "__self__", None), Keepalive | TunnelProtocol)
        ]


def certificate_of(pair: KeyPair) -> bytes:
    """DER."""
    return der(load_certificate(pair.certificate_pem))
