"""CancelRequests, from any client's plaintext or TLS to the database of exactly one session."""

from teleport_db.pgwire.messages import cancel_request
from teleport_db.proxy.frontend import CANCEL_SECONDS, CANCELS_A_MINUTE, Sessions
from tests.cluster import GREETING, Client, Peer
from tests.proxy.test_frontend import FrontendCase


class CancelTests(FrontendCase):
    """Two sessions at one agent and one at another."""

    def setUp(self) -> None:
        super().setUp()
        self.agent = self.cluster.agent()
        self.first, self.second = self.cluster.session(), self.cluster.session()
        self.agent.database.answer = None

    def plain(self, pid: int, secret: bytes) -> Peer:
        peer = Peer()
        self.cluster.dial(peer)
        peer.transport.write(cancel_request(pid, secret))
        self.cluster.settle()
        return peer

    def test_recorded(self) -> None:
        """A cancel is on record before it goes on, with who asked."""
        self.plain(*self.first.key)
        (event,) = [event for event in self.agent.spool.events if event["event"] == "db.session.cancel"]
        self.assertEqual((event["code"], event["user"]), ("TDB90I", "alice"))
        self.assertTrue(event["addr.remote"].startswith("127.0.0.1:"))
        self.assertEqual(len(self.agent.database.cancels), 1)

    def test_too_many(self) -> None:
        """An address that guesses keys is not looked at any more for the rest of the minute."""
        pid, secret = self.first.key
        for _ in range(CANCELS_A_MINUTE):
            self.plain(pid, bytes(4))
        self.plain(pid, secret)
        self.assertEqual(self.agent.database.cancels, [])
        self.cluster.clock.advance(60)
        self.plain(pid, secret)
        self.assertEqual(len(self.agent.database.cancels), 1)

    def test_client_never_sees_the_servers_key(self) -> None:
        pid, secret = self.first.key
        self.assertNotIn(secret, GREETING)
        self.assertNotEqual(self.first.key, self.second.key)
        self.assertEqual(len(secret), 4)
        self.assertLess(pid, 2**31)

    def test_plain(self) -> None:
        """It needs no certificate; it ends without an answer, and the session goes on."""
        peer = self.plain(*self.first.key)
        self.assertEqual(peer.received, b"")
        self.assertIsNotNone(peer.reason)
        self.assertEqual(self.agent.database.cancels, [(4242).to_bytes(4, "big") + b"srvk"])
        self.assertEqual(self.agent.reached, [True, False])
        self.assertFalse(self.first.gone)

    def test_end_says_delivered(self) -> None:
        """The client's connection ends when the database has been told: its next statement is not meant."""
        peer = Peer()
        self.cluster.dial(peer)
        peer.transport.write(cancel_request(*self.first.key))
        while peer.reason is None:
            before = len(self.agent.database.cancels)
            for wire in list(self.cluster.wires):
                wire.step()
            self.cluster.clock.advance(0)
            if len(self.agent.database.cancels) > before:
                break
        self.assertIsNone(peer.reason)
        self.cluster.settle()
        self.assertIsNotNone(peer.reason)

    def test_not_delivered(self) -> None:
        """A database that does not answer is not waited for longer than a while; nothing is left of it."""
        self.agent.database.handshakes = False
        peer = self.plain(*self.first.key)
        self.assertIsNone(peer.reason)
        self.assertEqual(self.cluster.front.unsettled.counts, {})
        self.cluster.pass_time(CANCEL_SECONDS)
        self.assertIsNotNone(peer.reason)
        for client in (self.first, self.second):
            client.tls.loseConnection()
        self.cluster.pass_time(30)
        self.assertForgotten(self.agent)

    def test_tls(self) -> None:
        client = Client(self.cluster, None)
        self.cluster.settle()
        client.write(cancel_request(*self.second.key))
        self.cluster.settle()
        self.assertTrue(client.gone)
        self.assertEqual(self.agent.reached, [False, True])
        self.assertEqual(len(self.agent.database.cancels), 1)

    def test_nothing_behind_it(self) -> None:
        """What comes behind a cancel while that is under way is no refusal: nothing is said, nothing is recorded."""
        self.agent.database.handshakes = False
        client = Client(self.cluster, None)
        self.cluster.settle()
        client.write(cancel_request(*self.first.key))
        self.cluster.settle()
        client.write(b"more")
        self.cluster.settle()
        self.assertFalse(client.gone)
        self.cluster.pass_time(CANCEL_SECONDS)
        self.assertTrue(client.gone)
        self.assertEqual((client.messages, self.cluster.refusals), ([], []))

    def test_wrong_key(self) -> None:
        """Wrong secrets, lengths and process ids reach nobody, and nobody is told."""
        pid, secret = self.first.key
        wrong = bytes([secret[0] ^ 1]) + secret[1:]
        for key in (
            (pid, wrong),
            (pid ^ 1, secret),
            (pid, secret + b"\0"),
            (pid, secret + bytes(28)),
            (pid, bytes(256)),
            (self.second.key[0], secret),
            (4242, b"srvk"),
            (0, bytes(4)),
            (0, bytes(32)),
        ):
            peer = self.plain(*key)
            self.assertEqual(peer.received, b"")
            self.assertIsNotNone(peer.reason)
        self.assertEqual(self.agent.database.cancels, [])

    def test_after_the_end(self) -> None:
        """The key of a session that is over finds nobody."""
        key = self.first.key
        self.first.tls.loseConnection()
        self.cluster.settle()
        self.plain(*key)
        self.assertEqual(self.agent.database.cancels, [])

    def test_before_the_login(self) -> None:
        """A session that is not let in has no key yet."""
        self.agent.database.greeting = b""
        self.cluster.client().startup()
        self.cluster.settle()
        pid = max(self.cluster.gateway.sessions._by_pid, key=list(self.cluster.gateway.sessions._by_pid).index)
        self.plain(pid, self.cluster.gateway.sessions._by_pid[pid][0])
        self.assertEqual(self.agent.database.cancels, [])

    def test_flood(self) -> None:
        """One cancel of a session at a time, however many are asked for."""
        self.agent.database.handshakes = False
        before = self.agent.dialling.dialled
        for _ in range(20):
            self.plain(*self.first.key)
        self.assertEqual(self.agent.dialling.dialled, before + 1)
        self.cluster.pass_time(15)
        self.agent.database.handshakes = True
        self.plain(*self.first.key)
        self.assertEqual(len(self.agent.database.cancels), 1)

    def test_ends_with_the_session(self) -> None:
        """A cancel that is under way is dropped with its session."""
        self.agent.dialling.hanging = True
        self.plain(*self.first.key)
        for client in (self.first, self.second):
            client.tls.loseConnection()
        self.assertForgotten(self.agent)
        self.assertEqual(self.agent.dialling.cancelled, 1)

    def test_agent_away(self) -> None:
        """A cancel that cannot reach its agent is given up."""
        self.cluster.wires.remove(self.agent.wire)
        self.plain(*self.first.key)
        self.cluster.pass_time(CANCEL_SECONDS)
        self.agent.wire.cut()
        self.assertForgotten()

    def test_without_a_key(self) -> None:
        """A database that gives no key has clients that have none."""
        self.agent.database.greeting = GREETING.replace(b"K\0\0\0\x0c" + (4242).to_bytes(4, "big") + b"srvk", b"")
        client = self.cluster.session()
        self.assertNotIn(b"K", dict(client.messages))

    def test_long_keys(self) -> None:
        """A server of protocol 3.2 has longer secrets, and so have its clients."""
        long = b"K" + (4 + 4 + 32).to_bytes(4, "big") + (7).to_bytes(4, "big") + b"s" * 32
        self.agent.database.greeting = GREETING.replace(b"K\0\0\0\x0c" + (4242).to_bytes(4, "big") + b"srvk", long)
        client = self.cluster.session()
        self.assertEqual(len(client.key[1]), 32)
        self.plain(client.key[0], client.key[1][:4])
        self.assertEqual(self.agent.database.cancels, [])
        self.plain(*client.key)
        self.assertEqual(self.agent.database.cancels, [(7).to_bytes(4, "big") + b"s" * 32])


class KeysTests(FrontendCase):
    """The proxy's own keys."""

    def test_process_ids(self) -> None:
        """Never 0, never negative as signed 32 bits, never twice."""
        stream = [bytes(4), b"\xff\xff\xff\xff", b"a" * 32, b"\x7f\xff\xff\xff", b"\0\0\0\1", b"b" * 32]
        sessions = Sessions(random_bytes=lambda count: stream.pop(0))
        self.assertEqual(sessions.new_key(), (2**31 - 1, b"a" * 32))
        self.assertEqual(sessions.new_key(), (1, b"b" * 32))
        sessions.release(1)
        sessions.release(1)
        self.assertEqual(len(sessions), 1)
