"""Who serves what: announcements and their scope, order of agents, tunnels that come and go."""

from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import AgentOffline, NoSuchDatabase
from teleport_db.identity import DatabaseRoute
from teleport_db.net.tlslayer import TLSLayer
from teleport_db.proxy import router
from teleport_db.proxy.sniffer import OPENING_SECONDS
from teleport_db.tunnel.header import ControlHeader, FrameReader, decode_header, encode_frame
from teleport_db.tunnel.protocol import TunnelProtocol
from tests.cluster import (
    CLUSTER,
    NOW,
    Cluster,
    Peer,
    agent_pair,
    agent_serving,
    authority,
    certified,
    host_pair,
    tunnel_client,
    user_pair,
)


class RouterCase(SynchronousTestCase):
    """A proxy."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.router = self.cluster.router

    def hosts(self, service: str) -> list[str]:
        """Which agents would be tried, in order."""
        endpoints = self.router.endpoints_for(DatabaseRoute(CLUSTER, service))
        return [endpoint.host_id for endpoint in endpoints]  # type: ignore[attr-defined]


class AnnouncementTests(RouterCase):
    """What agents say they serve."""

    def test_services(self) -> None:
        self.cluster.agent("agent-1", ["aurora", "metrics"])
        self.cluster.agent("agent-2", ["metrics"])
        self.assertEqual(self.hosts("aurora"), ["agent-1"])
        self.assertEqual(self.hosts("metrics"), ["agent-1", "agent-2"])
        self.assertRaises(NoSuchDatabase, self.hosts, "other")

    def test_remembered(self) -> None:
        """A service that is known from elsewhere is offline, not unknown, until an agent dials."""
        self.router.remember(["aurora"])
        self.assertRaises(AgentOffline, self.hosts, "aurora")
        self.assertRaises(NoSuchDatabase, self.hosts, "other")
        self.cluster.agent("agent-1", ["aurora"])
        self.assertEqual(self.hosts("aurora"), ["agent-1"])

    def test_scope(self) -> None:
        """What a token was not made for is left out, and the rest served."""
        self.cluster.agent("agent-1", ["aurora", "payroll"], scope=("aurora", "metrics"))
        self.assertEqual(self.hosts("aurora"), ["agent-1"])
        for name in ("payroll", "metrics"):
            self.assertRaises(NoSuchDatabase, self.hosts, name)

    def test_empty_scope(self) -> None:
        self.cluster.agent("agent-1", ["aurora"], scope=())
        self.assertRaises(NoSuchDatabase, self.hosts, "aurora")

    def test_changes(self) -> None:
        """The last announcement counts, whole."""
        agent = self.cluster.agent("agent-1", ["aurora"])
        agent.services = ["metrics"]
        agent.announcements.changed()
        self.cluster.settle(1)
        self.assertEqual(self.hosts("metrics"), ["agent-1"])
        self.assertRaises(AgentOffline, self.hosts, "aurora")

    def test_offline(self) -> None:
        """A service that was known is offline, not unknown, when its agent has gone."""
        agent = self.cluster.agent()
        agent.wire.cut()
        self.assertRaises(AgentOffline, self.hosts, "aurora")
        self.assertRaises(NoSuchDatabase, self.hosts, "other")
        self.assertEqual(self.cluster.timers(), [])

    def test_known_names_are_bounded(self) -> None:
        """An agent that announces ever new names does not fill the memory."""
        self.patch(router, "MAX_KNOWN", 10)
        agent = self.cluster.agent()
        for number in range(30):
            agent.services = [f"db-{number}"]
            agent.announcements.changed()
            self.cluster.settle()
        self.assertEqual(len(self.router._known), 10)
        self.assertRaises(AgentOffline, self.hosts, "db-28")
        self.assertRaises(NoSuchDatabase, self.hosts, "db-3")

    def test_leaving(self) -> None:
        """An agent that ends its announcements gets no new sessions; those it has go on."""
        agent = self.cluster.agent()
        client = self.cluster.session()
        agent.announcements.close()
        self.cluster.settle()
        self.assertRaises(AgentOffline, self.hosts, "aurora")
        client.query()
        self.cluster.settle()
        self.assertEqual(client.messages[-2][0], b"C")

    def test_draining(self) -> None:
        """A tunnel that is going away is not tried."""
        agent = self.cluster.agent()
        self.cluster.session()
        agent.tunnel.drain(10)
        self.cluster.settle()
        self.assertRaises(AgentOffline, self.hosts, "aurora")

    def test_order(self) -> None:
        """Agents in random order; an older tunnel of the same agent, which may be dead, after all others."""
        shuffled = []
        self.router._shuffle = shuffled.append
        for name in ("agent-1", "agent-2", "agent-1"):
            self.cluster.agent(name)
        self.assertEqual(self.hosts("aurora"), ["agent-1", "agent-2", "agent-1"])
        self.assertEqual(len(shuffled[0]), 2)
        newest = self.router._links[-1]
        self.assertIs(shuffled[0][0], newest)


class HostileAgentTests(RouterCase):
    """Agents that announce something else."""

    def dial(self, answer: bytes) -> TunnelProtocol:
        """An agent whose answer on the control stream is this."""

        class Control(Peer):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                value = FrameReader().feed(self.received)
                if value is not None and isinstance(decode_header(value), ControlHeader):
                    self.transport.write(answer)

        class Accept(Factory):
            noisy = False

            def buildProtocol(this, addr: object) -> TLSLayer:
                return TLSLayer(Control(), agent_serving("agent-1"), server_side=True, clock=self.cluster.clock)

        tunnel = TunnelProtocol(client=True, clock=self.cluster.clock, accept=Accept())
        context = tunnel_client(agent_pair("agent-1", False))
        self.cluster.dial(TLSLayer(tunnel, context, server_side=False, clock=self.cluster.clock))
        self.cluster.settle()
        return tunnel

    def test_nonsense(self) -> None:
        """What is no list of names ends the tunnel."""
        for answer in (
            encode_frame({"databases": "aurora"}),
            encode_frame({"databases": [1]}),
            encode_frame({"databases": {"a": 1}}),
            encode_frame({}),
            encode_frame({"databases": ["a"] * (router.MAX_SERVICES + 1)}),
            b"\0\0\0\2[]",
            b"\0\0\0\2{x",
            b"\xff\xff\xff\xff",
        ):
            tunnel = self.dial(answer)
            self.assertEqual(tunnel.connected, 0, answer[:40])
            self.assertEqual(self.router.agents, 0)
        self.assertRaises(NoSuchDatabase, self.hosts, "aurora")
        self.assertEqual(self.cluster.timers(), [])

    def test_silent(self) -> None:
        """An agent that says nothing serves nothing."""
        self.dial(b"")
        self.assertEqual(self.router.agents, 1)
        self.assertRaises(NoSuchDatabase, self.hosts, "aurora")

    def test_other_name(self) -> None:
        """An agent that cannot show the certificate of its own name on a stream is dropped."""

        class Accept(Factory):
            noisy = False

            def buildProtocol(this, addr: object) -> TLSLayer:
                return TLSLayer(Peer(), agent_serving("agent-2"), server_side=True, clock=self.cluster.clock)

        tunnel = TunnelProtocol(client=True, clock=self.cluster.clock, accept=Accept())
        context = tunnel_client(agent_pair("agent-1", False))
        self.cluster.dial(TLSLayer(tunnel, context, server_side=False, clock=self.cluster.clock))
        self.cluster.settle()
        self.assertEqual((tunnel.connected, self.router.agents), (0, 0))


class TunnelDoorTests(RouterCase):
    """Who may open a tunnel."""

    def attempt(self, pair: object) -> TunnelProtocol:
        tunnel = TunnelProtocol(client=True, clock=self.cluster.clock)
        context = tunnel_client(pair)  # type: ignore[arg-type]
        self.cluster.dial(TLSLayer(tunnel, context, server_side=False, clock=self.cluster.clock))
        self.cluster.settle()
        return tunnel

    def test_refused(self) -> None:
        """Users, unknown authorities and expired hosts open none, and are not waited for."""
        foreign = certified(authority("host", "other"), "agent-1")
        for pair in (user_pair(None), foreign, host_pair("db", "old", server=False, now=NOW - 7200, ttl=60.0)):
            self.attempt(pair)
            self.assertEqual(self.router.agents, 0)
        self.cluster.pass_time(OPENING_SECONDS)
        self.assertEqual((self.cluster.front.unsettled.counts, self.cluster.timers()), ({}, []))

    def test_expires_by_our_clock(self) -> None:
        pair = host_pair("db", "short", server=False, ttl=60.0)
        self.cluster.clock.rightNow = NOW + 61
        self.attempt(pair)
        self.assertEqual(self.router.agents, 0)

    def test_close(self) -> None:
        """Closing the router closes every tunnel."""
        agents = [self.cluster.agent(name) for name in ("agent-1", "agent-2")]
        self.router.close()
        self.cluster.settle()
        self.assertEqual([agent.tunnel.connected for agent in agents], [0, 0])
        self.assertEqual((self.router.agents, self.cluster.timers()), (0, []))
