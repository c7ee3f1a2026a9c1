"""The agent as a service: what it tells auth, what it offers when, how it comes back and how it leaves."""

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from teleport_db.audit.spool import Spool
from teleport_db.certs.tls import client_context, server_context
from teleport_db.config.model import Database
from teleport_db.config.values import Address
from teleport_db.db.agent import PRESENCE_SECONDS, Agent, HostContexts
from teleport_db.errors import AgentOffline, NoSuchDatabase
from teleport_db.identity import DatabaseRoute
from teleport_db.net.tlslayer import TLSServerFactory
from tests.cluster import (
    CLUSTER,
    HOST,
    NOW,
    Cluster,
    Database_,
    FakeCredentials,
    MemoryEndpoint,
    Postgres,
    agent_pair,
    agent_serving,
    authority,
    dev_role,
    host_pair,
    put_user,
    startup,
    tunnel_client,
)


class Auth(Resource):
    """The calls an agent makes."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, str]] = []
        self.events: list[dict[str, Any]] = []
        self.presence: Any = None
        self.began: list[int | None] = []
        self.away = False
        self.deaf = False
        self.revision = 1
        self.known: dict[tuple[str, str], dict[str, Any]] = {}
        self.watching: list[Request] = []

    def tell(self, changes: Sequence[dict[str, Any]]) -> None:
        """Something changed; with nothing, who waits is answered all the same."""
        self.revision += bool(changes)
        for change in changes:
            self.known.pop((change["kind"], change["name"]), None)
            if change["type"] == "put":
                self.known[change["kind"], change["name"]] = change
        watching, self.watching = self.watching, []
        for request in watching:
            if self.away:
                request.setResponseCode(503)
            answer = {"revision": self.revision, "reset": False, "changes": list(changes)}
            request.write(json.dumps({} if self.away else answer).encode())
            request.finish()

    def _leaves(self, request: Request) -> None:
        request.notifyFinish().addErrback(lambda _: self.watching.remove(request) if request in self.watching else None)

    def render(self, request: Request) -> Any:
        method, path = request.method.decode(), request.path.decode()
        self.heard.append((method, path))
        if self.away or (self.deaf and path == "/v1/audit"):
            request.setResponseCode(503)
            return b"{}"
        answer: dict[str, Any] = {}
        match method, path:
            case "GET", "/v1/watch":
                if b"since" in request.args:
                    self.watching.append(request)
                    self._leaves(request)
                    return NOT_DONE_YET
                answer = {"revision": self.revision, "reset": True, "changes": list(self.known.values())}
            case "PUT", "/v1/presence":
                body = json.load(request.content)
                self.presence = body["databases"]
                self.began.append(body.get("began"))
            case "DELETE", "/v1/presence":
                self.presence = None
            case "POST", "/v1/audit":
                sent = json.load(request.content)["events"]
                self.events += [event["event"] for event in sent]
                answer = {"acknowledged": sent[-1]["seq"]}
        return json.dumps(answer).encode()


class AgentCase(SynchronousTestCase):
    """One agent whose only way to auth is its tunnel."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.auth = Auth()
        host_ca = authority("host").certificate_pem
        calling = server_context(host_pair("auth", "auth-1", server=True), client_cas=[host_ca], client_required=True)
        self.cluster.accept = TLSServerFactory(
            Site(self.auth, reactor=self.cluster.clock), calling, clock=self.cluster.clock
        )
        self.database = Postgres(self.cluster.clock, self.cluster.journal)
        self.door = MemoryEndpoint(
            self.cluster,
            lambda: self.cluster.front.buildProtocol(Address("127.0.0.1", 1)),  # type: ignore[arg-type]
        )
        self.agent = self.make_agent()
        self.stopped = False

    def make_agent(self, **more: Any) -> Agent:
        """The agent; another one of the same machine when it is called again."""
        pair, host_ca = agent_pair("agent-1", False), authority("host").certificate_pem
        contexts = HostContexts(
            serving=agent_serving("agent-1"),
            tunnel=tunnel_client(pair),
            calling=client_context(cas=[host_ca], pair=pair, alpn=["teleport-auth"]),
        )
        dialling = MemoryEndpoint(self.cluster, lambda: Database_(self.database))
        self.spool = Spool(self.mktemp(), now=lambda: NOW)
        return Agent(
            cluster=CLUSTER,
            host_id="agent-1",
            databases=[Database("aurora", Address(HOST, 5432), static_labels={"env": "test"})],
            spool=self.spool,
            contexts=lambda: contexts,
            host_ca=lambda: host_ca,
            user_ca=lambda: authority("user").certificate_pem,
            proxies=[self.door],
            dial=lambda database: dialling,
            credentials=lambda api: FakeCredentials(),
            run=lambda command: Deferred(),
            in_thread=maybeDeferred,
            reactor=self.cluster.clock,
            uniform=lambda low, high: high,
            **more,
        )

    def start(self) -> None:
        if not self.auth.known:
            role = {"type": "put", "kind": "role", "name": "dev", "resource": dev_role()}
            self.auth.tell([role, put_user("alice")])
        self.agent.startService()
        self.addCleanup(self.stop)
        self.cluster.settle()

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            stopping = self.agent.stopService()
            self.cluster.settle()
            self.cluster.pass_time(60)
            self.successResultOf(stopping)

    def offered(self) -> int:
        try:
            return len(self.cluster.router.endpoints_for(DatabaseRoute(CLUSTER, "aurora")))
        except (NoSuchDatabase, AgentOffline):
            return 0


class LifeTests(AgentCase):
    """From its start to its stop."""

    def test_start(self) -> None:
        """It dials, hears the roles, and offers its databases to auth and to the proxy."""
        self.start()
        (database,) = self.auth.presence
        self.assertEqual(
            (database["name"], database["uri"], database["labels"]), ("aurora", f"{HOST}:5432", {"env": "test"})
        )
        self.assertEqual(self.offered(), 1)

    def test_session(self) -> None:
        """What a session recorded reaches auth, in order."""
        self.start()
        client = self.cluster.session()
        client.query()
        self.cluster.settle()
        client.tls.loseConnection()
        self.cluster.pass_time(5)
        self.assertEqual(
            [(event["ei"], event["event"]) for event in self.auth.events],
            [(0, "db.session.start"), (1, "db.session.query"), (2, "db.session.result"), (3, "db.session.end")],
        )
        self.assertEqual((self.agent.session_count, self.agent.spool_pending), (0, 0))

    def test_auth_away(self) -> None:
        """Nothing is offered before the roles are known: nobody could be let in."""
        self.auth.away = True
        self.start()
        self.assertEqual((self.agent.tunnel_count, self.offered()), (1, 0))
        self.auth.away = False
        self.cluster.pass_time(PRESENCE_SECONDS)
        self.assertEqual(self.offered(), 1)
        self.assertIsNotNone(self.auth.presence)

    def test_auth_goes_away(self) -> None:
        """Sessions open and run while auth is away; what they record is shipped later."""
        self.start()
        self.auth.away = True
        client = self.cluster.session()
        client.query()
        self.cluster.pass_time(5)
        self.assertEqual(self.auth.events, [])
        self.assertEqual(client.messages[-2][0], b"C")
        self.auth.away = False
        self.cluster.pass_time(90)
        self.assertEqual(len(self.auth.events), 3)

    def test_presence(self) -> None:
        """Presence is told again and again, for auth forgets it."""
        self.start()
        before = self.auth.heard.count(("PUT", "/v1/presence"))
        self.cluster.pass_time(3 * PRESENCE_SECONDS)
        self.assertGreaterEqual(self.auth.heard.count(("PUT", "/v1/presence")), before + 3)

    def test_began(self) -> None:
        """Once auth has all that an earlier life left in the spool, it is told with which number this one began."""
        self.start()
        began = self.spool.last + 1
        self.assertEqual(self.auth.began, [began])
        client = self.cluster.session()
        client.query()
        self.cluster.pass_time(PRESENCE_SECONDS)
        self.assertEqual(set(self.auth.began), {began})

    def test_began_behind(self) -> None:
        """Before auth has that, nothing is said."""
        self.spool.append([{"event": "db.session.start", "server_id": "agent-1", "sid": "1", "ei": 0, "success": True}])
        self.agent._began = self.spool.last + 1
        self.auth.deaf = True
        self.start()
        self.cluster.pass_time(2 * PRESENCE_SECONDS)
        self.assertEqual(set(self.auth.began), {None})
        self.auth.deaf = False
        self.cluster.pass_time(60 + PRESENCE_SECONDS)
        self.assertEqual(len(self.auth.events), 1)
        self.assertEqual(self.auth.began[-1], self.spool.last + 1)

    def test_reconnects(self) -> None:
        """A tunnel that is lost is dialled again; its sessions have ended, and new ones find the agent."""
        self.start()
        client = self.cluster.session()
        next(wire for wire in self.cluster.wires if wire is not client.wire and wire.server.port == 5432).cut()
        self.cluster.wires[:] = [wire for wire in self.cluster.wires if wire.client.connected]
        self.cluster.pass_time(120)
        self.assertEqual((self.agent.tunnel_count, self.offered()), (1, 1))
        self.cluster.session()

    def test_proxy_away(self) -> None:
        """A proxy that refuses is dialled again, with growing waits up to a minute."""
        self.door.refusing = True
        self.start()
        self.cluster.pass_time(600)
        self.assertLess(self.door.dialled, 20)
        self.assertGreater(self.door.dialled, 9)
        self.door.refusing = False
        self.cluster.pass_time(61)
        self.assertEqual(self.offered(), 1)

    def test_stop(self) -> None:
        """Sessions are told, their ends shipped, the presence withdrawn, nothing left."""
        self.start()
        client = self.cluster.session()
        stopping = self.agent.stopService()
        self.stopped = True
        self.cluster.settle()
        self.assertEqual(client.error["C"], "57P01")
        self.cluster.pass_time(60)
        self.successResultOf(stopping)
        self.assertEqual([event["event"] for event in self.auth.events], ["db.session.start", "db.session.end"])
        self.assertIsNone(self.auth.presence)
        self.assertEqual((self.agent.session_count, self.agent.tunnel_count), (0, 0))
        self.assertEqual(self.cluster.router.agents, 0)
        self.assertEqual(self.cluster.timers(), [])

    def test_stop_refuses_new_ones(self) -> None:
        """While it says its last words the agent takes no new session."""
        self.start()
        self.auth.away = True
        self.cluster.session()
        stopping = self.agent.stopService()
        self.stopped = True
        self.cluster.settle()
        self.assertEqual(self.offered(), 0)
        client = self.cluster.client()
        client.write(startup())
        self.cluster.settle()
        self.assertEqual(client.error["C"], "08006")
        self.cluster.pass_time(60)
        self.successResultOf(stopping)

    def test_stop_while_proxy_away(self) -> None:
        """Without a tunnel there is nobody to say last words to."""
        self.door.hanging = True
        self.start()
        stopping = self.agent.stopService()
        self.stopped = True
        self.cluster.settle()
        self.successResultOf(stopping)
        self.assertEqual(self.cluster.timers(), [])
