"""The tunnel as a whole: keep-alive, draining, back-pressure, refusals, the end."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.errors import ConnectionTrouble, LimitExceeded, RemoteProtocolError
from teleport_db.mux.frames import SYN, WINDOW_UPDATE, header
from teleport_db.mux.limits import Limits
from teleport_db.tunnel.protocol import LAST_WORD, TURN, TunnelProtocol
from tests.memory import MemoryTransport
from tests.tunnel.support import HalfCloseable, Recorder, Recorders, Tunnel

WINDOW = Limits().window


class KeepaliveTests(SynchronousTestCase):
    def test_answered(self) -> None:
        """Pings go both ways every 15 s, and a live tunnel lives."""
        tunnel = Tunnel()
        tunnel.pass_time(14)
        self.assertIsNone(tunnel.client.round_trip)
        tunnel.pass_time(300)
        self.assertEqual((tunnel.client.round_trip, tunnel.server.round_trip), (0, 0))
        self.assertTrue(tunnel.client.usable)
        self.assertEqual((tunnel.client_closed, tunnel.server_closed), ([], []))

    def test_half_open(self) -> None:
        """A connection that swallows everything is found after 45 s; all streams hear of it."""
        tunnel = Tunnel()
        here, _ = tunnel.open()
        tunnel.server._keepalive.stop()
        tunnel.clock.pump([1] * 44)
        self.assertEqual(tunnel.client_closed, [])
        tunnel.clock.advance(1)
        (reason,) = tunnel.client_closed
        self.assertTrue(reason.check(ConnectionTrouble))
        self.assertIn("has not answered for 30 s", str(reason.value))
        self.assertTrue(here.ended.check(ConnectionLost))
        self.assertFalse(tunnel.wire.client.connected)
        self.assertEqual(tunnel.clock.getDelayedCalls(), [])

    def test_data_are_no_answer(self) -> None:
        """A peer that talks but never answers is dead all the same."""
        clock = Clock()
        closed: list[Failure] = []
        tunnel = TunnelProtocol(False, clock=clock, accept=Recorders(), closed=closed.append)
        transport = MemoryTransport(None, tunnel, 1)  # type: ignore[arg-type]
        transport.peer = MemoryTransport(None, Recorder(), 2)  # type: ignore[arg-type]
        tunnel.makeConnection(transport)
        tunnel.dataReceived(header(WINDOW_UPDATE, SYN, 1, 0))
        for _ in range(44):
            clock.advance(1)
            tunnel.dataReceived(header(0, 0, 1, 1) + b"x")
        self.assertEqual(closed, [])
        clock.advance(1)
        self.assertTrue(closed[0].check(ConnectionTrouble))

    def test_lingering_streams_are_reset(self) -> None:
        """A stream closed here whose peer never ends it is reset after a while."""
        tunnel = Tunnel(accepted=HalfCloseable)
        here, there = tunnel.open()
        here.transport.loseConnection()
        tunnel.settle()
        self.assertEqual((tunnel.client.stream_count, len(tunnel.client.session)), (0, 1))
        tunnel.pass_time(29)
        self.assertIsNone(there.ended)
        tunnel.pass_time(1)
        self.assertTrue(there.ended.check(ConnectionLost))
        self.assertEqual((len(tunnel.client.session), len(tunnel.server.session)), (0, 0))


class OpeningTests(SynchronousTestCase):
    def test_at_once(self) -> None:
        """A stream may be written to before the peer has heard of it."""
        tunnel = Tunnel()
        protocol = self.successResultOf(tunnel.client.open_stream(tunnel.opening))
        protocol.transport.write(b"at once")
        tunnel.settle()
        self.assertEqual(tunnel.accepting.built[0].received, b"at once")

    def test_either_side(self) -> None:
        """The accepting side opens streams as well, with even numbers."""
        tunnel = Tunnel()
        tunnel.client.take(tunnel.opening)
        protocol = self.successResultOf(tunnel.server.open_stream(Recorders()))
        protocol.transport.write(b"from there")
        tunnel.settle()
        self.assertEqual(protocol.transport.stream_id, 2)
        self.assertEqual(tunnel.opening.built[0].received, b"from there")

    def test_refused(self) -> None:
        """Nobody takes streams: the opener hears that they were refused."""
        tunnel = Tunnel()
        for refusal in (None, Recorders(lambda: None), Recorders(lambda: 1 // 0)):
            tunnel.server.take(refusal)
            protocol = self.successResultOf(tunnel.client.open_stream(Recorders()))
            tunnel.settle()
            self.assertTrue(protocol.ended.check(ConnectionLost))
            self.assertIn("refused", str(protocol.ended.value))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(tunnel.server.usable)

    def test_full(self) -> None:
        """So many streams and no more; one that ends makes room."""
        tunnel = Tunnel(max_streams=2)
        here, _ = tunnel.open()
        tunnel.open()
        self.failureResultOf(tunnel.client.open_stream(Recorders()), LimitExceeded)
        here.transport.loseConnection()
        tunnel.settle()
        self.successResultOf(tunnel.client.open_stream(Recorders()))

    def test_slow_peer(self) -> None:
        """Openers wait while the peer takes no streams, and may give up."""
        tunnel = Tunnel(limits=Limits(backlog=1))
        first = tunnel.client.open_stream(Recorders())
        second, third, fourth = (tunnel.client.open_stream(Recorders()) for _ in range(3))
        self.successResultOf(first)
        self.assertNoResult(second)
        third.cancel()
        self.failureResultOf(third, CancelledError)
        tunnel.settle()
        self.successResultOf(second)
        self.successResultOf(fourth)
        self.assertEqual(len(tunnel.client.session), 3)

    def test_factory_that_fails(self) -> None:
        """The opener hears why; the peer hears of a reset; nothing is left."""
        tunnel = Tunnel()
        self.failureResultOf(tunnel.client.open_stream(Recorders(lambda: 1 // 0)), ZeroDivisionError)
        tunnel.settle()
        self.assertEqual((len(tunnel.client.session), len(tunnel.server.session)), (0, 0))

    def test_opened_and_reset(self) -> None:
        """A stream that comes and goes within one read costs no protocol."""
        tunnel = Tunnel()
        protocol: Any = self.successResultOf(tunnel.client.open_stream(Recorders()))
        protocol.transport.abortConnection()
        tunnel.settle()
        self.assertEqual(tunnel.accepting.built, [])


class Pressure(SynchronousTestCase):
    def test_connection_holds_back(self) -> None:
        """While the connection takes nothing, bytes wait in their streams and producers are paused."""
        tunnel = Tunnel()
        streams = [tunnel.open() for _ in range(4)]
        verifyObject(IPushProducer, tunnel.client)
        tunnel.wire.server.paused = True
        for here, _ in streams:
            here.transport.write(b"x" * WINDOW)
        tunnel.clock.advance(0)
        tunnel.clock.advance(0)
        self.assertLess(len(tunnel.wire.client.outgoing), TURN + 70000)
        waiting = sum(here.transport.queued for here, _ in streams)
        self.assertGreater(waiting, 4 * WINDOW - TURN - 70000)
        tunnel.wire.server.paused = False
        tunnel.settle()
        self.assertEqual([len(there.received) for _, there in streams], [WINDOW] * 4)

    def test_streams_take_turns(self) -> None:
        """A small message is not kept behind the whole of a large one."""
        tunnel = Tunnel()
        (large, _), (small, heard) = tunnel.open(), tunnel.open()
        large.transport.write(b"x" * WINDOW * 2)
        small.transport.write(b"quick")
        moved = 0
        while not heard.received:
            tunnel.clock.advance(0)
            tunnel.wire.client.step(65536)
            moved += 65536
        self.assertLessEqual(moved, 2 * TURN)

    def test_pieces_are_joined(self) -> None:
        """What one read of the connection brings for a stream is delivered once, in its order among the others."""
        tunnel = Tunnel()
        (large, heard), (small, other) = tunnel.open(), tunnel.open()
        large.transport.write(b"a" * 70000)
        small.transport.write(b"between")
        large.transport.write(b"b" * 70000)
        tunnel.clock.advance(0)
        calls = heard.calls
        tunnel.wire.client.step(200000)
        self.assertEqual((heard.received, other.received), (b"a" * 70000 + b"b" * 70000, b"between"))
        self.assertEqual((heard.calls - calls, other.calls), (2, 1))

    def test_broken_connection(self) -> None:
        """When the network fails every stream and the owner hear of it, once."""
        tunnel = Tunnel()
        pairs = [tunnel.open() for _ in range(3)]
        tunnel.wire.cut()
        for protocol in (end for both in pairs for end in both):
            self.assertTrue(protocol.ended.check(ConnectionLost))
        self.assertEqual((len(tunnel.client_closed), len(tunnel.server_closed)), (1, 1))
        self.failureResultOf(tunnel.client.open_stream(Recorders()), ConnectionTrouble)
        self.assertEqual((tunnel.opening.stopped, tunnel.accepting.stopped), (1, 1))
        tunnel.clock.advance(0)
        self.assertEqual(tunnel.clock.getDelayedCalls(), [])


class Leaving(SynchronousTestCase):
    def test_drain(self) -> None:
        """No new streams; those there run to their end; then the connection closes."""
        left: list[None] = []
        tunnel = Tunnel(peer_leaving=lambda: left.append(None))
        here, there = tunnel.open()
        done = tunnel.server.drain(60)
        tunnel.settle()
        self.assertEqual((tunnel.client.usable, tunnel.server.usable, len(left)), (False, False, 1))
        self.failureResultOf(tunnel.client.open_stream(Recorders()), ConnectionTrouble)
        here.transport.write(b"to the end")
        tunnel.settle()
        self.assertEqual(there.received, b"to the end")
        self.assertNoResult(done)
        here.transport.loseConnection()
        tunnel.settle()
        self.successResultOf(done)
        self.successResultOf(tunnel.server.drain(60))
        for closed in (tunnel.client_closed, tunnel.server_closed):
            self.assertTrue(closed[0].check(ConnectionDone))
        self.assertTrue(there.ended.check(ConnectionDone))

    def test_grace_ends(self) -> None:
        """Streams that do not end are cut when the grace is over."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        done = tunnel.server.drain(10)
        tunnel.pass_time(9)
        self.assertNoResult(done)
        tunnel.pass_time(1)
        self.successResultOf(done)
        self.assertTrue(here.ended.check(ConnectionLost))
        self.assertTrue(there.ended.check(ConnectionLost))

    def test_idle_tunnel_drains_at_once(self) -> None:
        tunnel = Tunnel()
        done = tunnel.client.drain(10)
        tunnel.settle()
        self.successResultOf(done)

    def test_hostile_peer(self) -> None:
        """A peer that breaks the protocol is told, all streams end, and the connection closes."""
        tunnel = Tunnel()
        _, there = tunnel.open()
        tunnel.wire.client.write(b"GET / HTTP/1.1\r\n\r\n")
        tunnel.settle()
        self.assertTrue(tunnel.server_closed[0].check(RemoteProtocolError))
        self.assertTrue(there.ended.check(ConnectionLost))
        self.assertTrue(tunnel.client.session.gone_away)
        self.assertEqual(tunnel.clock.getDelayedCalls(), [])

    def test_last_word_is_bounded(self) -> None:
        """A peer that does not even take the last word is cut."""
        tunnel = Tunnel()
        tunnel.wire.client.paused = True
        tunnel.wire.client.write(b"GET / HTTP/1.1\r\n\r\n")
        tunnel.wire.client.step()
        self.assertEqual(tunnel.server_closed, [])
        tunnel.clock.advance(LAST_WORD)
        self.assertEqual(len(tunnel.server_closed), 1)

    def test_close(self) -> None:
        """close ends it now, cleanly."""
        tunnel = Tunnel()
        here, _ = tunnel.open()
        tunnel.client.close()
        self.assertTrue(here.ended.check(ConnectionLost))
        tunnel.settle()
        self.assertTrue(tunnel.client_closed[0].check(ConnectionDone))

    def test_unread_data_outlive_the_tunnel(self) -> None:
        """What the peer had sent whole is still read by a protocol that was paused when the tunnel broke."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        there.transport.pauseProducing()
        here.transport.write(b"the last words")
        here.transport.loseConnection()
        tunnel.settle()
        tunnel.wire.cut()
        self.assertIsNone(there.ended)
        there.transport.resumeProducing()
        tunnel.clock.advance(0)
        self.assertEqual(there.received, b"the last words")
        self.assertIsNotNone(there.ended)
