"""A stream is an ordinary transport."""

from __future__ import annotations

import io
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.protocols.basic import FileSender
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from teleport_db.mux.limits import Limits
from teleport_db.tunnel.address import StreamAddress
from teleport_db.tunnel.stream import HIGH_WATER
from tests.tunnel.support import HalfCloseable, Recorder, Tunnel

WINDOW = Limits().window


@implementer(IPushProducer)
class Source:
    """A push producer that counts what it is told."""

    def __init__(self) -> None:
        self.paused = self.resumed = self.stopped = 0

    def pauseProducing(self) -> None:
        self.paused += 1

    def resumeProducing(self) -> None:
        self.resumed += 1

    def stopProducing(self) -> None:
        self.stopped += 1


class Writing(SynchronousTestCase):
    def test_interfaces(self) -> None:
        """A stream provides what it says."""
        here, _ = Tunnel().open()
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, here.transport)

    def test_both_ways(self) -> None:
        """What is written at one end arrives at the other, both ways."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        here.transport.write(b"question")
        here.transport.writeSequence([b" ", b"asked"])
        there.transport.write(bytearray(b"answer"))
        tunnel.settle()
        self.assertEqual((there.received, here.received), (b"question asked", b"answer"))

    def test_text_is_refused(self) -> None:
        """Text is no bytes."""
        here, _ = Tunnel().open()
        self.assertRaises(TypeError, here.transport.write, "text")

    def test_caller_may_reuse_its_buffer(self) -> None:
        """A bytearray may change after it was written."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        data = bytearray(b"first")
        here.transport.write(data)
        data[:] = b"later, and longer"
        tunnel.settle()
        self.assertEqual(there.received, b"first")

    def test_addresses(self) -> None:
        """Both ends name the tunnel and the stream."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        self.assertEqual(here.transport.getPeer(), StreamAddress(tunnel.client.peer, 1))
        self.assertEqual(there.transport.getHost(), StreamAddress(tunnel.server.host, 1))
        self.assertEqual(tunnel.opening.address, here.transport.getPeer())

    def test_more_than_a_window(self) -> None:
        """A large write arrives whole, in order, however small the pieces of the network."""
        data = bytes(range(256)) * 8 * 1024
        for limit in (None, 1 << 16, 4099):
            tunnel = Tunnel()
            here, there = tunnel.open()
            here.transport.write(data)
            tunnel.settle(limit)
            self.assertEqual(there.received, data)
            self.assertEqual(here.transport.queued, 0)

    def test_one_write_a_turn(self) -> None:
        """What a turn wrote on all streams leaves as one write."""
        tunnel = Tunnel()
        streams = [tunnel.open()[0] for _ in range(5)]
        writes: list[bytes] = []
        write = tunnel.wire.client.write
        tunnel.wire.client.write = lambda data: (writes.append(data), write(data))[1]  # type: ignore[method-assign]
        for protocol in streams:
            protocol.transport.write(b"a")
            protocol.transport.write(b"b")
        self.assertEqual(writes, [])
        tunnel.settle()
        self.assertEqual(len(writes), 1)
        self.assertEqual([protocol.received for protocol in tunnel.accepting.built], [b"ab"] * 5)


class Reading(SynchronousTestCase):
    def test_paused(self) -> None:
        """A paused protocol hears nothing, its sender stops at the window, and resuming brings it all."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        there.transport.pauseProducing()
        source = Source()
        here.transport.registerProducer(source, True)
        data = bytes(range(256)) * (WINDOW // 256) + b"x" * (HIGH_WATER + 1)
        here.transport.write(data)
        tunnel.settle()
        self.assertEqual(there.received, b"")
        self.assertEqual(here.transport.queued, len(data) - WINDOW)
        self.assertEqual((source.paused, source.resumed), (1, 0))
        there.transport.resumeProducing()
        self.assertEqual(there.received, b"", "nothing is delivered from within a call")
        tunnel.settle()
        self.assertEqual(there.received, data)
        self.assertEqual((source.paused, source.resumed), (1, 1))

    def test_pauses_while_reading(self) -> None:
        """A protocol that pauses with each piece gets one piece each time."""

        class Careful(Recorder):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.transport.pauseProducing()

        tunnel = Tunnel(accepted=Careful)
        here, there = tunnel.open()
        data = bytes(range(256)) * 4096
        here.transport.write(data)
        for turn in range(1, 1000):
            tunnel.settle()
            self.assertEqual(there.calls, min(turn, there.calls))
            if there.received == data:
                break
            there.transport.resumeProducing()
        self.assertEqual(there.received, data)

    def test_stalled_stream_leaves_others(self) -> None:
        """A stream nobody reads stops itself, in one window's memory, and nothing else."""
        tunnel = Tunnel()
        stuck, reader = tunnel.open()
        reader.transport.pauseProducing()
        stuck.transport.write(b"x" * (4 * WINDOW))
        other, heard = tunnel.open()
        data = bytes(range(256)) * 16384
        other.transport.write(data)
        tunnel.settle()
        self.assertEqual(heard.received, data)
        self.assertEqual(stuck.transport.queued, 3 * WINDOW)
        self.assertEqual(reader.received, b"")


class Ending(SynchronousTestCase):
    def test_lose_connection_sends_first(self) -> None:
        """loseConnection sends all that was written, even past a window; both ends hear of a clean end."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        data = b"y" * (3 * WINDOW)
        here.transport.write(data)
        here.transport.loseConnection()
        here.transport.write(b"too late")
        self.assertIsNone(here.ended)
        tunnel.settle()
        self.assertEqual(there.received, data)
        for end in (here, there):
            self.assertTrue(end.ended.check(ConnectionDone))
        self.assertEqual((len(tunnel.client.session), len(tunnel.server.session)), (0, 0))
        self.assertEqual((tunnel.client.stream_count, tunnel.server.stream_count), (0, 0))
        self.assertEqual(tunnel.opening.stopped, 1)

    def test_lose_connection_waits_for_a_producer(self) -> None:
        """A registered producer may still write; the end comes once it is unregistered."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        here.transport.registerProducer(Source(), True)
        here.transport.loseConnection()
        tunnel.settle()
        here.transport.write(b"the last")
        tunnel.settle()
        self.assertIsNone(there.ended)
        here.transport.unregisterProducer()
        tunnel.settle()
        self.assertEqual(there.received, b"the last")
        self.assertIsNotNone(there.ended)

    def test_paused_reader_hears_all_before_the_end(self) -> None:
        """The end waits behind what was not read yet."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        there.transport.pauseProducing()
        here.transport.write(b"error message")
        here.transport.loseConnection()
        tunnel.settle()
        self.assertIsNone(there.ended)
        there.transport.resumeProducing()
        tunnel.settle()
        self.assertEqual(there.received, b"error message")
        self.assertTrue(there.ended.check(ConnectionDone))

    def test_the_peers_end_waits_for_no_producer(self) -> None:
        """A protocol that cannot be half closed ends with its peer, whatever produces for it."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        source = Source()
        there.transport.registerProducer(source, True)
        there.transport.write(b"written before")
        here.transport.loseWriteConnection()
        tunnel.settle()
        self.assertEqual((source.stopped, here.received), (1, b"written before"))
        for end in (here, there):
            self.assertTrue(end.ended.check(ConnectionDone))

    def test_crossing_data(self) -> None:
        """Data for a stream that was closed here are answered with a reset; what was sent before is read."""
        tunnel = Tunnel(accepted=HalfCloseable)
        here, there = tunnel.open()
        here.transport.write(b"goodbye")
        here.transport.loseConnection()
        tunnel.settle()
        self.assertEqual((there.received, there.read_ended), (b"goodbye", 1))
        there.transport.write(b"wait")
        tunnel.settle()
        self.assertTrue(there.ended.check(ConnectionLost))
        self.assertEqual((len(tunnel.client.session), len(tunnel.server.session)), (0, 0))

    def test_half_close(self) -> None:
        """One direction ends; the other goes on; then both have ended and the stream with them."""
        tunnel = Tunnel(HalfCloseable, HalfCloseable)
        here, there = tunnel.open()
        here.transport.write(b"the whole question")
        here.transport.loseWriteConnection()
        here.transport.write(b"too late")
        tunnel.settle()
        self.assertEqual((there.received, there.read_ended, here.write_ended), (b"the whole question", 1, 1))
        self.assertIsNone(here.ended)
        there.transport.write(b"answer")
        there.transport.loseWriteConnection()
        tunnel.settle()
        self.assertEqual((here.received, here.read_ended), (b"answer", 1))
        for end in (here, there):
            self.assertTrue(end.ended.check(ConnectionDone))
        self.assertEqual(len(tunnel.client.session), 0)

    def test_abort(self) -> None:
        """abortConnection ends both directions at once; what waited is lost."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        there.transport.pauseProducing()
        here.transport.write(b"z" * (2 * WINDOW))
        tunnel.settle()
        here.transport.abortConnection()
        self.assertIsNone(here.ended, "nothing is told from within a call")
        tunnel.settle()
        self.assertTrue(here.ended.check(ConnectionAborted))
        self.assertTrue(there.ended.check(ConnectionLost))
        self.assertEqual(there.received, b"")
        self.assertEqual((len(tunnel.client.session), len(tunnel.server.session)), (0, 0))

    def test_broken_protocol(self) -> None:
        """A protocol that raises loses its stream; the tunnel and its other streams go on."""

        class Broken(Recorder):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError

        tunnel = Tunnel()
        other, heard = tunnel.open()
        tunnel.accepting.kind = Broken
        here, there = tunnel.open()
        here.transport.write(b"x")
        other.transport.write(b"fine")
        tunnel.settle()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(there.ended.check(ZeroDivisionError))
        self.assertTrue(here.ended.check(ConnectionLost))
        self.assertEqual(heard.received, b"fine")

    def test_broken_everywhere(self) -> None:
        """Wherever a protocol or a producer raises, its stream ends and the tunnel goes on."""

        class Raises(HalfCloseable):
            where = ""

            def __getattribute__(self, name: str) -> Any:
                if name == type(self).where:
                    raise ZeroDivisionError
                return super().__getattribute__(name)

        class RaisingSource(Source):
            def resumeProducing(self) -> None:
                raise ZeroDivisionError

        for name in ("makeConnection", "dataReceived", "readConnectionLost", "connectionLost", ""):
            tunnel = Tunnel()
            other, heard = tunnel.open()
            Raises.where = name
            tunnel.accepting.kind = Raises
            here, there = tunnel.open()
            if not name:
                there.transport.registerProducer(RaisingSource(), True)
                there.transport.write(b"x" * (2 * WINDOW))
            here.transport.write(b"x")
            if name == "connectionLost":
                here.transport.abortConnection()
            elif name:
                here.transport.loseConnection()
            tunnel.settle()
            other.transport.write(b"fine")
            tunnel.settle()
            self.assertGreaterEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1, name)
            self.assertIsNotNone(here.ended, name)
            self.assertEqual((heard.received, len(tunnel.server.session)), (b"fine", 1), name)

    def test_abort_within_data_received(self) -> None:
        """A stream may be ended from wherever its protocol is called."""
        for name in ("abortConnection", "loseConnection"):

            class Ends(Recorder):
                method = name

                def dataReceived(self, data: bytes) -> None:
                    super().dataReceived(data)
                    getattr(self.transport, self.method)()
                    assert self.ended is None

            tunnel = Tunnel(accepted=Ends)
            here, there = tunnel.open()
            here.transport.write(b"1")
            tunnel.settle()
            here.transport.write(b"2")
            tunnel.settle()
            self.assertEqual(there.received, b"1")
            self.assertIsNotNone(there.ended)
            self.assertIsNotNone(here.ended)


class Producing(SynchronousTestCase):
    def test_pull(self) -> None:
        """A pull producer is asked for more as fast as the peer reads."""
        data = bytes(range(256)) * 8192
        tunnel = Tunnel()
        here, there = tunnel.open()
        there.transport.pauseProducing()
        done: list[Any] = []
        FileSender().beginFileTransfer(io.BytesIO(data), here.transport).addCallback(done.append)
        tunnel.settle()
        self.assertEqual(done, [])
        self.assertLessEqual(here.transport.queued, HIGH_WATER)
        there.transport.resumeProducing()
        tunnel.settle()
        self.assertEqual(len(done), 1)
        here.transport.loseConnection()
        tunnel.settle()
        self.assertEqual(there.received, data)

    def test_stopped_with_the_stream(self) -> None:
        """A producer hears when its stream is gone, and at once when it comes too late."""
        tunnel = Tunnel()
        here, there = tunnel.open()
        source, late = Source(), Source()
        here.transport.registerProducer(source, True)
        self.assertRaises(RuntimeError, here.transport.registerProducer, late, True)
        there.transport.abortConnection()
        tunnel.settle()
        here.transport.registerProducer(late, True)
        self.assertEqual((source.stopped, late.stopped), (1, 1))
