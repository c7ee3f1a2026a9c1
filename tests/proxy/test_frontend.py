"""PostgreSQL through a whole cluster: what the client hears, what is recorded, what stays behind."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from teleport_db.errors import ConnectionTrouble, LimitExceeded
from teleport_db.interfaces import IRouter
from teleport_db.pgwire.messages import AUTHENTICATION_OK, error_response, message
from teleport_db.proxy.forward import CLOSING_SECONDS
from teleport_db.proxy.frontend import ANSWER_SECONDS, MAX_EARLY, STRANGERS_A_MINUTE, STREAM_SECONDS
from teleport_db.proxy.sniffer import OPENING_SECONDS
from tests.cluster import (
    ANSWER,
    GREETING,
    NOW,
    AgentRig,
    Client,
    Cluster,
    Peer,
    authority,
    host_pair,
    startup,
    user_pair,
)

HANGS: dict[str, Callable[[AgentRig], None]] = {
    "credentials": lambda agent: setattr(agent.credentials, "waiting", Deferred()),
    "dialling": lambda agent: setattr(agent.dialling, "hanging", True),
    "answer to SSLRequest": lambda agent: setattr(agent.database, "tls_answer", b""),
    "handshake": lambda agent: setattr(agent.database, "handshakes", False),
    "login": lambda agent: setattr(agent.database, "greeting", b""),
}


class FrontendCase(SynchronousTestCase):
    """A cluster that must have forgotten everything at the end."""

    def setUp(self) -> None:
        self.cluster = Cluster()

    def assertForgotten(self, *agents: AgentRig) -> None:
        """No session, no key, no timer and no database connection is left, and the events are whole."""
        self.cluster.settle()
        self.assertEqual(len(self.cluster.gateway.sessions), 0)
        self.assertEqual(self.cluster.front.unsettled.counts, {})
        self.assertEqual(self.cluster.timers(), [])
        for agent in agents:
            self.assertEqual(agent.sessions, [])
            self.assertEqual([one for one in agent.database.connections if one.reason is None], [])
            for sid in {event["sid"] for event in agent.spool.events}:
                events = agent.spool.of(sid)
                self.assertEqual([event["ei"] for event in events], list(range(len(events))))
                self.assertEqual(events[0]["event"], "db.session.start")
                ends = [event["event"] for event in events].count("db.session.end")
                self.assertEqual(ends, int(events[0]["success"]))
                if ends:
                    self.assertEqual(events[-1]["event"], "db.session.end")

    def refused(self, client: Client, sqlstate: str, *words: str) -> None:
        """The client was told, and its connection closed."""
        self.cluster.settle()
        self.assertEqual(client.error["C"], sqlstate, client.error)
        for word in words:
            self.assertIn(word, client.error["M"])
        self.assertTrue(client.gone)


class SessionTests(FrontendCase):
    """From the first byte to the last."""

    def setUp(self) -> None:
        super().setUp()
        self.agent = self.cluster.agent()

    def leave(self, client: Client) -> None:
        client.write(b"X\0\0\0\4")
        client.tls.loseConnection()
        self.assertForgotten(self.agent)

    def test_session(self) -> None:
        """A client is let in, asks and is answered, and its session leaves nothing behind."""
        client = self.cluster.session()
        self.assertEqual([kind for kind, _ in client.messages], [b"R", b"S", b"K", b"Z"])
        client.query(b"select 1")
        self.cluster.settle()
        self.assertTrue(client.heard.endswith(ANSWER))
        self.leave(client)
        self.assertTrue(client.gone)
        self.assertEqual(
            [event["event"] for event in self.agent.spool.events],
            ["db.session.start", "db.session.query", "db.session.result", "db.session.end"],
        )
        self.assertEqual(self.cluster.refusals, [])

    def test_what_is_recorded(self) -> None:
        """The start says who came from where, as which role, to what."""
        self.leave(self.cluster.session(application_name="psql"))
        start = self.agent.spool.events[0]
        for name, value in {
            "user": "alice",
            "db_service": "aurora",
            "db_user": "app",
            "db_name": "shop",
            "success": True,
            "roles": ["dev"],
            "server_id": "agent-1",
        }.items():
            self.assertEqual(start[name], value)
        self.assertEqual(start["parameters"]["application_name"], "psql")
        self.assertRegex(start["addr.remote"], r"127\.0\.0\.1:\d+")

    def test_direct_tls(self) -> None:
        """A ClientHello with ALPN postgresql needs no SSLRequest."""
        client = self.cluster.client(direct=True)
        client.startup()
        self.cluster.settle()
        self.assertEqual(client.messages[-1], (b"Z", b"I"))
        self.leave(client)

    def test_divided(self) -> None:
        """However small the pieces are in which everything comes, the session is the same."""
        for limit in (1, 2, 3, 7, 64, 1000):
            client = Client(self.cluster, user_pair())
            self.cluster.settle(limit)
            client.write(startup() + message(b"Q", b"select 1\0"))
            self.cluster.settle(limit)
            self.assertEqual(client.messages[-2:], [(b"C", b"SELECT 1\0"), (b"Z", b"I")], limit)
            self.leave(client)

    def test_cut_everywhere(self) -> None:
        """A startup and two queries behind it, divided at every byte into two records."""
        wire = startup() + message(b"Q", b"one\0") + message(b"Q", b"two\0")
        for cut in range(1, len(wire)):
            client = self.cluster.client()
            client.write(wire[:cut])
            self.cluster.settle()
            client.write(wire[cut:])
            self.cluster.settle()
            self.assertTrue(client.heard.endswith(GREETING[-6:] + ANSWER * 2), (cut, client.messages))
            said = [event["db_query"] for event in self.agent.spool.events[-4:] if "db_query" in event]
            self.assertEqual(said, ["one", "two"], cut)
            self.leave(client)

    def test_many(self) -> None:
        """Many sessions at once: each hears its own answers, and each one's events are whole."""

        def echo(session: Any, data: bytes) -> None:
            session.transport.write(message(b"D", data) + ANSWER)

        self.agent.database.answer = echo
        clients = [Client(self.cluster, user_pair()) for _ in range(40)]
        self.cluster.settle()
        for number, client in enumerate(clients):
            client.write(startup(application_name=str(number)))
        self.cluster.settle()
        for turn in range(3):
            for number, client in enumerate(clients):
                client.query(f"{number}/{turn}".encode())
            self.cluster.settle()
        self.assertEqual(len(self.agent.sessions), 40)
        for number, client in enumerate(clients):
            said = b"".join(body for kind, body in client.messages if kind == b"D")
            wanted = b"".join(message(b"Q", f"{number}/{turn}\0".encode()) for turn in range(3))
            self.assertEqual(said, wanted)
        self.assertEqual(len({client.key for client in clients}), 40)
        for client in clients:
            client.tls.loseConnection()
        self.assertForgotten(self.agent)
        self.assertEqual(len({event["sid"] for event in self.agent.spool.events}), 40)
        self.assertEqual(len(self.agent.spool.events), 40 * (2 + 3 * 2))

    def test_client_vanishes(self) -> None:
        """A client that is cut off ends its session, and the database's connection with it."""
        client = self.cluster.session()
        client.wire.cut()
        self.assertForgotten(self.agent)

    def test_database_ends(self) -> None:
        """What the database said last still reaches the client, then the end does."""
        client = self.cluster.session()
        database = self.agent.database.logins[-1]
        database.transport.write(ANSWER)
        database.transport.loseConnection()
        self.cluster.settle()
        self.assertTrue(client.heard.endswith(ANSWER))
        self.assertTrue(client.gone)
        self.assertForgotten(self.agent)
        self.assertEqual(self.agent.spool.events[-1]["reason"], "database closed the connection")

    def test_database_vanishes(self) -> None:
        """A database that is cut off ends the session."""
        client = self.cluster.session()
        self.agent.database.connections[-1].transport.wire.cut()
        self.cluster.settle()
        self.assertTrue(client.gone)
        self.assertForgotten(self.agent)

    def test_agent_vanishes(self) -> None:
        """A tunnel that is cut ends the sessions in it on both sides; the agent is offline then."""
        client = self.cluster.session()
        self.agent.wire.cut()
        self.cluster.settle()
        self.assertTrue(client.gone)
        self.assertForgotten(self.agent)
        self.assertEqual(self.cluster.router.agents, 0)
        client = self.cluster.client()
        client.startup()
        self.refused(client, "08006", "aurora", "is connected")

    def test_half_close(self) -> None:
        """A client that ends its half after Terminate ends its session."""
        client = self.cluster.session()
        client.write(b"X\0\0\0\4")
        client.tls.loseWriteConnection()
        self.assertForgotten(self.agent)

    def test_last_answer(self) -> None:
        """A client that ends its half behind a query is answered before the end."""
        client = self.cluster.session()
        before = client.heard
        client.query()
        client.tls.loseWriteConnection()
        self.assertForgotten(self.agent)
        self.assertEqual(client.heard, before + ANSWER)
        self.assertEqual(self.agent.spool.events[-1]["reason"], "client closed the connection")

    def test_last_answer_of_an_early_end(self) -> None:
        """A client that ends its half before it is let in gets its greeting and its answer, and then the end."""
        for cut in range(4):
            client = self.cluster.client()
            client.startup()
            for _ in range(cut):
                # At each of these turns another of agent, credentials and database is waited for.
                for wire in list(self.cluster.wires):
                    wire.step()
                self.cluster.clock.advance(0)
            client.query()
            client.tls.loseWriteConnection()
            self.assertForgotten(self.agent)
            self.assertTrue(client.heard.startswith(AUTHENTICATION_OK), client.heard)
            self.assertTrue(client.heard.endswith(ANSWER), client.heard)
            self.assertTrue(client.above.reason is not None and client.above.reason.check(ConnectionDone))
            self.assertEqual(self.agent.spool.events[-1]["reason"], "client closed the connection")

    def test_end_before_the_startup(self) -> None:
        """A client that ends its half before it has asked for anything is closed."""
        client = self.cluster.client()
        client.write(startup()[:20])
        client.tls.loseWriteConnection()
        self.assertForgotten(self.agent)
        self.assertEqual((client.heard, self.agent.dialling.dialled), (b"", 0))

    def test_killed_database(self) -> None:
        """A database that ends without close_notify ends so for the client, behind its last words."""
        client = self.cluster.session()
        database = self.agent.database.logins[-1]
        database.transport.write(ANSWER)
        self.agent.database.connections[-1].transport.loseConnection()
        self.assertForgotten(self.agent)
        self.assertTrue(client.heard.endswith(ANSWER))
        self.assertIsNotNone(client.above.reason)
        assert client.above.reason is not None
        self.assertIsNotNone(client.above.reason.check(ConnectionLost))
        self.assertEqual(self.agent.spool.events[-1]["reason"], "database closed the connection")

    def test_killed_client(self) -> None:
        """What a client said before it was killed is run, as the server does it."""
        client = self.cluster.session()
        client.query(b"last words")
        client.transport.loseConnection()
        self.assertForgotten(self.agent)
        (database,) = self.agent.database.logins
        self.assertEqual(database.received, message(b"Q", b"last words\0"))

    def test_database_closes_first(self) -> None:
        """When the database closes, no session is left, whether the client closes its side or not."""

        @implementer(IHalfCloseableProtocol)
        class Stays(Peer):
            def readConnectionLost(self) -> None:
                """Say nothing, and close nothing."""

            def writeConnectionLost(self) -> None:
                """Never comes."""

        client = self.cluster.session()
        client.tls.protocol = Stays()
        (database,) = self.agent.database.logins
        database.transport.loseConnection()
        self.assertForgotten(self.agent)


class PressureTests(FrontendCase):
    """A slow reader stops who writes, not the memory."""

    def setUp(self) -> None:
        super().setUp()
        self.agent = self.cluster.agent()
        self.client = self.cluster.session()

    def produce(self, transport: Any, total: int, chunk: bytes) -> list[int]:
        """Write chunks through a push producer, one a call, as fast as the transport takes them."""
        written = [0]
        cluster = self.cluster

        class Producer:
            paused = False

            def more(self) -> None:
                if not self.paused and written[0] < total:
                    written[0] += len(chunk)
                    transport.write(chunk)
                    cluster.clock.callLater(0, self.more)

            def pauseProducing(self) -> None:
                self.paused = True

            def resumeProducing(self) -> None:
                self.paused = False
                cluster.clock.callLater(0, self.more)

            def stopProducing(self) -> None:
                self.paused = True

        producer = Producer()
        transport.registerProducer(producer, True)
        producer.more()
        return written

    def test_result(self) -> None:
        """A client that does not read stops the database; when it reads again everything is there."""
        row = message(b"D", bytes(16000))
        before = len(self.client.heard)
        self.client.transport.pauseProducing()
        written = self.produce(self.agent.database.logins[0].transport, 4_000_000, row)
        self.cluster.settle()
        stopped = written[0]
        self.assertLess(stopped, 1_500_000)
        self.client.transport.resumeProducing()
        self.cluster.settle()
        self.assertGreaterEqual(written[0], 4_000_000)
        self.assertEqual(len(self.client.heard) - before, written[0])

    def test_copy(self) -> None:
        """A database that does not read stops the client."""
        self.agent.database.answer = None
        database = self.agent.database.connections[0].transport
        database.pauseProducing()
        written = self.produce(self.client.tls, 4_000_000, message(b"d", bytes(16000)))
        self.cluster.settle()
        self.assertLess(written[0], 1_500_000)
        database.resumeProducing()
        self.cluster.settle()
        self.assertEqual(len(self.agent.database.logins[0].received), written[0])

    def test_error_meanwhile(self) -> None:
        """What a database says while it reads nothing is not held up by what waits for it."""
        self.agent.database.answer = None
        connection = self.agent.database.connections[0].transport
        connection.pauseProducing()
        written = self.produce(self.client.tls, 4_000_000, message(b"d", bytes(16000)))
        self.cluster.settle()
        self.assertLess(written[0], 1_500_000)
        error = error_response("ERROR", "23505", "there is one already")
        self.agent.database.logins[0].transport.write(error)
        self.cluster.settle()
        self.assertTrue(self.client.heard.endswith(error))

    def test_stalled_and_cut(self) -> None:
        """A client that does not read is cut off some time after its session is over."""
        row = message(b"D", bytes(16000))
        self.client.transport.pauseProducing()
        self.produce(self.agent.database.logins[0].transport, 4_000_000, row)
        self.cluster.settle()
        database = self.agent.database.logins[0]
        database.transport.unregisterProducer()
        database.transport.abortConnection()
        self.cluster.settle()
        self.cluster.pass_time(2 * CLOSING_SECONDS + 60)
        self.assertTrue(self.client.gone)
        self.assertForgotten(self.agent)

    def test_others_go_on(self) -> None:
        """One stalled session leaves the others running."""
        self.client.transport.pauseProducing()
        self.produce(self.agent.database.logins[0].transport, 4_000_000, message(b"D", bytes(16000)))
        self.cluster.settle()
        other = self.cluster.session()
        other.query()
        self.cluster.settle()
        self.assertTrue(other.heard.endswith(ANSWER))


class RefusalTests(FrontendCase):
    """Who is not let in reads why, and the audit log has it."""

    def setUp(self) -> None:
        super().setUp()
        self.agent = self.cluster.agent()

    def attempt(self, pair: Any, data: bytes | None = None) -> Client:
        client = self.cluster.client(pair)
        client.write(startup() if data is None else data)
        self.cluster.settle()
        return client

    def check(self, client: Client, sqlstate: str, *words: str) -> None:
        self.refused(client, sqlstate, *words)
        self.assertEqual(len(self.cluster.refusals), 1)
        self.assertEqual(self.cluster.refusals[0].error.public, client.error["M"])
        self.assertEqual(self.agent.dialling.dialled, 0)
        self.assertForgotten(self.agent)

    def test_no_certificate(self) -> None:
        client = Client(self.cluster, None)
        self.cluster.settle()
        client.startup()
        self.check(client, "28000", "tsh db login")
        self.assertEqual(self.cluster.refusals[0].database_user, "app")

    def test_expired(self) -> None:
        """An expired certificate passes the handshake, so that psql reads when it expired."""
        self.check(self.attempt(user_pair(now=NOW - 7200, ttl=60.0)), "28000", "; run: tsh db login aurora")
        self.assertEqual((self.cluster.refusals[0].user, self.cluster.refusals[0].service), ("alice", "aurora"))

    def test_expires_later(self) -> None:
        """It is our clock that counts."""
        pair = user_pair(ttl=60.0)
        self.cluster.clock.rightNow = NOW + 61
        self.check(self.attempt(pair), "28000", "expired at")

    def test_login_certificate(self) -> None:
        self.check(self.attempt(user_pair(None)), "28000", "names no database service")

    def test_other_cluster(self) -> None:
        self.check(self.attempt(user_pair(cluster="leaf")), "28000", 'for cluster "leaf"')

    def test_unknown_service(self) -> None:
        self.check(self.attempt(user_pair("nothing")), "3D000", '"nothing"', "tsh db ls")
        self.assertEqual((self.cluster.refusals[0].user, self.cluster.refusals[0].service), ("alice", "nothing"))

    def test_wrong_authority(self) -> None:
        """A certificate of an unknown authority, or of the hosts', fails in the handshake, and nobody is named."""
        for pair in (
            user_pair(ca=authority("user", "other")),
            host_pair("db", "agent-1", server=False),
        ):
            client = self.attempt(pair)
            self.assertEqual(client.heard, b"")
            self.assertTrue(client.gone)
            refusal = self.cluster.refusals.pop()
            self.assertIn("no authority of this cluster", refusal.error.public)
            self.assertEqual((refusal.user, refusal.service, self.cluster.refusals), ("", "", []))
            self.assertIn(":", refusal.client_address)
        self.assertForgotten(self.agent)

    def test_broken_startup(self) -> None:
        """What is no startup is refused once, whatever follows."""
        client = self.attempt(None, b"\0\0\0\3" * 5)
        client.write(b"more")
        self.check(client, "08P01", "impossible length")

    def test_ssl_request_inside_tls(self) -> None:
        self.check(self.attempt(None, b"\0\0\0\x08\x04\xd2\x16\x2f"), "08P01", "inside TLS")

    def test_strangers(self) -> None:
        """Without any certificate the audit log cannot be flooded; psql reads the words all the same."""
        for _ in range(STRANGERS_A_MINUTE + 5):
            client = Client(self.cluster, None)
            self.cluster.settle()
            client.startup()
            self.refused(client, "28000")
        self.assertEqual(len(self.cluster.refusals), STRANGERS_A_MINUTE)
        self.cluster.pass_time(60)
        client = Client(self.cluster, None)
        self.cluster.settle()
        client.startup()
        self.refused(client, "28000")
        self.assertEqual(len(self.cluster.refusals), STRANGERS_A_MINUTE + 1)

    def test_silence(self) -> None:
        """Who stops at any point of the opening is cut off, and no longer counted."""
        bare = Client(self.cluster, None)
        bare.write = lambda data: None  # type: ignore[method-assign]
        silent = self.cluster.client()
        half = self.cluster.client()
        half.write(startup()[:9])
        self.cluster.settle()
        self.assertEqual(sum(self.cluster.front.unsettled.counts.values()), 3)
        self.cluster.pass_time(OPENING_SECONDS)
        for client in (bare, silent, half):
            self.assertTrue(client.gone)
        self.assertForgotten(self.agent)

    def test_fault(self) -> None:
        """An error nobody thought of is told by its id only, and recorded."""

        class Broken:
            def endpoints_for(self, route: Any) -> Any:
                raise RuntimeError("secret")

        object.__setattr__(self.cluster.gateway, "router", Broken())
        client = self.attempt(None)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.check(client, "XX000", "internal error, id ")
        self.assertNotIn("secret", str(client.error))


@implementer(IRouter)
class FixedRouter:
    """Endpoints that fail as a test says."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = errors

    def endpoints_for(self, route: Any) -> Any:
        class Endpoint:
            def __init__(self, error: Exception) -> None:
                self.error = error

            def connect(self, factory: Any) -> Deferred[Any]:
                return fail(self.error)

        return [Endpoint(error) for error in self.errors]


class AgentsTests(FrontendCase):
    """Several agents, and agents that fail."""

    def test_router_is_one(self) -> None:
        verifyObject(IRouter, FixedRouter())
        verifyObject(IRouter, self.cluster.router)

    def test_lost_before_its_first_byte(self) -> None:
        """An agent that is lost while it logs in is followed by the next one, under another session id."""
        first, second = self.cluster.agent("agent-1"), self.cluster.agent("agent-2")
        first.database.greeting = b""
        client = self.cluster.client()
        client.write(startup() + message(b"Q", b"early\0"))
        self.cluster.settle()
        self.assertEqual((len(first.sessions), len(second.sessions)), (1, 0))
        first.wire.cut()
        self.cluster.settle()
        self.assertTrue(client.heard.endswith(ANSWER), client.messages)
        self.assertEqual(second.database.logins[0].received, message(b"Q", b"early\0"))
        self.assertEqual([event["success"] for event in first.spool.events], [False])
        self.assertNotEqual(first.spool.events[0]["sid"], second.spool.events[0]["sid"])
        client.tls.loseConnection()
        self.assertForgotten(first, second)
        self.assertEqual(self.cluster.refusals, [])

    def test_refusal_is_an_answer(self) -> None:
        """A refusal is final: the next agent is not asked."""
        first, second = self.cluster.agent("agent-1"), self.cluster.agent("agent-2")
        first.allow(db_users=["other"])
        client = self.cluster.client()
        client.startup()
        self.refused(client, "42501")
        self.assertEqual(second.spool.events, [])
        self.assertEqual(self.cluster.refusals, [])
        self.assertForgotten(first, second)

    def test_unanswering_tunnel(self) -> None:
        """An agent whose tunnel takes nothing is given up after a while, and the next one asked."""
        first, second = self.cluster.agent("agent-1"), self.cluster.agent("agent-2")
        self.cluster.wires.remove(first.wire)
        client = self.cluster.client()
        client.startup()
        self.cluster.settle()
        self.cluster.pass_time(STREAM_SECONDS - 1)
        self.assertEqual(client.heard, b"")
        self.cluster.pass_time(1)
        self.assertEqual(client.messages[-1], (b"Z", b"I"))
        self.assertEqual(len(second.sessions), 1)
        client.tls.loseConnection()
        self.assertForgotten(second)

    def test_all_unanswering(self) -> None:
        """When nobody is left the client is told, and the audit log."""
        first = self.cluster.agent()
        self.cluster.wires.remove(first.wire)
        client = self.cluster.client()
        client.startup()
        self.cluster.settle()
        self.cluster.pass_time(STREAM_SECONDS)
        self.refused(client, "08006", "could be reached")
        self.assertEqual(len(self.cluster.refusals), 1)
        self.assertForgotten()

    def test_client_vanishes_meanwhile(self) -> None:
        """A client that goes away while a stream is opened is not waited with."""
        first = self.cluster.agent()
        self.cluster.wires.remove(first.wire)
        for end in ("cut", "close"):
            client = self.cluster.client()
            client.startup()
            self.cluster.settle()
            if end == "cut":
                client.wire.cut()
            else:
                client.tls.loseConnection()
            self.assertForgotten()
            self.assertEqual(self.cluster.refusals, [])

    def test_client_vanishes_at_each_stage(self) -> None:
        """... nor when its agent waits for auth or for the database; the attempt is recorded."""
        for stage, hang in HANGS.items():
            for end in ("cut", "close"):
                self.cluster = Cluster()
                agent = self.cluster.agent()
                hang(agent)
                client = self.cluster.client()
                client.startup()
                self.cluster.settle()
                self.assertEqual(len(agent.sessions), 1, stage)
                if end == "cut":
                    client.wire.cut()
                else:
                    client.tls.loseConnection()
                self.assertForgotten(agent)
                (event,) = agent.spool.events
                self.assertFalse(event["success"])
                self.assertIn("the client closed the connection", event["message"])
                self.assertEqual(agent.dialling.cancelled, int(stage == "dialling"))

    def test_agent_never_answers(self) -> None:
        """An agent that is there and says nothing is given up."""
        agent = self.cluster.agent()
        agent.credentials.waiting = Deferred()
        client = self.cluster.client()
        client.startup()
        self.cluster.settle()
        self.cluster.pass_time(ANSWER_SECONDS)
        self.refused(client, "08006", "did not answer within 90 seconds")
        self.assertForgotten(agent)

    def test_early_flood(self) -> None:
        """What a client sends before it is let in is bounded; nothing of it is lost."""
        agent = self.cluster.agent()
        waiting = agent.credentials.waiting = Deferred()
        client = self.cluster.client()
        client.startup()
        flood = message(b"d", bytes(16000)) * 40
        client.write(flood)
        self.cluster.settle(16384)
        self.assertGreater(len(client.transport.outgoing), len(flood) - 4 * MAX_EARLY)
        agent.credentials.waiting = None
        agent.credentials.credentials_for(None, "app").chainDeferred(waiting)
        self.cluster.settle()
        self.assertEqual(agent.database.logins[0].received, flood)

    def test_full(self) -> None:
        """Agents at their limit are no agents that are away."""
        object.__setattr__(self.cluster.gateway, "router", FixedRouter(LimitExceeded("full"), LimitExceeded("full")))
        client = self.cluster.client()
        client.startup()
        self.refused(client, "53300", "limit")
        object.__setattr__(self.cluster.gateway, "router", FixedRouter(LimitExceeded("full"), ConnectionTrouble("x")))
        client = self.cluster.client()
        client.startup()
        self.refused(client, "08006")
        self.assertForgotten()
