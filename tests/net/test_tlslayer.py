"""TLS over the in-memory wire: every division of the stream, ends, pressure, re-entrancy, TLS in TLS."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer, ISSLTransport, ITransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.errors import AuthenticationFailed, ConnectionTrouble
from teleport_db.net.tlsconnection import DELIVERY, RECORD
from teleport_db.net.tlslayer import State, TLSLayer
from tests.memory import HIGH_WATER, Wire, pair
from tests.net import material
from tests.net.material import HalfRecorder, Recorder, echo

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Ends:
    """A client and a server, each with its layer."""

    def __init__(
        self,
        client: Recorder | None = None,
        server: Recorder | None = None,
        *,
        server_context: ssl.SSLContext | None = None,
        client_context: ssl.SSLContext | None = None,
        check: Callable[[TLSLayer], None] | None = None,
        client_check: Callable[[TLSLayer], None] | None = None,
        **more: Any,
    ) -> None:
        self.clock = Clock()
        self.client = client or Recorder()
        self.server = server or Recorder()
        self.failures: dict[str, Failure] = {}
        self.below_client: Any = TLSLayer(
            self.client,
            client_context or material.client_context(),
            server_side=False,
            server_hostname="server.test",
            clock=self.clock,
            check=client_check,
            failed=lambda failure: self.failed("client", failure),
            **more,
        )
        self.below_server: Any = TLSLayer(
            self.server,
            server_context or SERVER,
            server_side=True,
            clock=self.clock,
            check=check,
            failed=lambda failure: self.failed("server", failure),
        )

    def failed(self, who: str, failure: Failure) -> None:
        assert who not in self.failures, "told twice"
        self.failures[who] = failure

    def join(self) -> Wire:
        self.wire = pair(self.below_client, self.below_server)
        return self.wire


SERVER = material.server_context()


class Handshakes(SynchronousTestCase):
    """How connections begin."""

    def test_interfaces(self) -> None:
        """The layer is a transport to what is above and a half-closeable protocol to what is below."""
        ends = Ends()
        ends.join().flush()
        for interface in (ITransport, IConsumer, IPushProducer, ISSLTransport, IHalfCloseableProtocol):
            self.assertTrue(verifyObject(interface, ends.below_client))

    def test_facts(self) -> None:
        """After the handshake both sides know version, ALPN and the other's certificate."""
        for version in VERSIONS:
            ends = Ends(
                server_context=material.server_context(clients=True, version=version, alpn=("postgresql",)),
                client_context=material.client_context(pem=material.client_pem(), alpn=("postgresql", "other")),
            )
            ends.join().flush()
            for layer in (ends.below_client, ends.below_server):
                self.assertEqual(layer.alpn, "postgresql")
                self.assertEqual(layer.version, version.name.replace("_", "."))
            name = ends.below_server.getPeerCertificate().get_subject().CN
            self.assertEqual(name, "alice")
            self.assertEqual(ends.below_client.getPeerCertificate().get_subject().CN, "server")
            self.assertEqual(ends.below_server.getPeer().port, 50000)
            self.assertEqual(ends.below_server.getHost().port, 5432)

    def test_divided(self) -> None:
        """Handshake, data and clean end work however the network divides them."""
        for version in VERSIONS:
            context = material.server_context(clients=True, version=version)
            client_context = material.client_context(pem=material.client_pem())
            for size in (1, 2, 3, 5, 7, 64, 1000, None):
                ends = Ends(
                    Recorder(greeting=b"question"),
                    Recorder(on_data=echo),
                    server_context=context,
                    client_context=client_context,
                )
                wire = ends.join()
                wire.flush(size)
                self.assertEqual(ends.client.data, b"question")
                ends.client.transport.write(b"bye")
                ends.client.transport.loseConnection()
                wire.flush(size)
                self.assertEqual(ends.server.data, b"questionbye")
                self.assertEqual(ends.server.events, ["made", "lost"])
                self.assertIsInstance(ends.server.reason.value, ConnectionDone)
                self.assertIsInstance(ends.client.reason.value, ConnectionDone)
                self.assertEqual(ends.clock.getDelayedCalls(), [])
                self.assertEqual(ends.failures, {})

    def test_tickets(self) -> None:
        """A server gives a ticket to who has none, and no other to who resumes a session by it."""
        context, client_context = material.server_context(), material.client_context()
        before, found = context.num_tickets, []
        session: ssl.SSLSession | None = None
        for _ in range(3):
            given: list[ssl.SSLSession] = []
            ends = Ends(server_context=context, client_context=client_context, session=session, resumable=given.append)
            wire = ends.join()
            flights: list[bytes] = []
            self.tap(ends.below_server.transport, flights)
            wire.flush()
            ends.client.transport.loseConnection()
            found.append((ends.below_client.resumed, len(flights)))
            session = session or given[0]
        self.assertEqual(found, [(False, 2), (True, 1), (True, 1)])
        self.assertEqual(context.num_tickets, before)

    @staticmethod
    def tap(transport: Any, written: list[bytes]) -> None:
        """Note what is written to a transport."""
        write = transport.write

        def noted(data: bytes) -> None:
            written.append(data)
            write(data)

        transport.write = noted

    def test_last_flight(self) -> None:
        """What is said as soon as the handshake is done goes down in one write with the handshake's end."""
        ends = Ends(Recorder(greeting=b"question"), Recorder())
        writes: list[bytes] = []
        wire = ends.join()
        self.tap(ends.below_client.transport, writes)
        wire.flush()
        self.assertEqual(ends.server.data, b"question")
        self.assertEqual(len(writes), 1, "the ClientHello was written before")

    def test_every_cut(self) -> None:
        """Any one cut of what a client sends, from ClientHello to close_notify, changes nothing."""
        recorded = Script.record(SERVER)
        for cut in range(1, len(recorded.stream) - 1, 3):
            recorded.replay(self, [cut])

    def test_random_cuts(self) -> None:
        """So do many cuts at random."""
        recorded = Script.record(SERVER)
        dice = random.Random(7)
        for _ in range(100):
            recorded.replay(self, sorted(dice.sample(range(1, len(recorded.stream)), 9)))

    def test_refused_by_check(self) -> None:
        """What ``check`` raises closes the connection; nothing goes up, and the reason is told."""

        def check(layer: TLSLayer) -> None:
            raise ZeroDivisionError("a bug in a callback")

        ends = Ends(Recorder(greeting=b"secret"), check=check)
        ends.join().flush()
        self.assertIsInstance(ends.failures["server"].value, ZeroDivisionError)
        self.assertEqual(ends.server.events, [])
        self.assertEqual(ends.server.chunks, [])
        self.assertIsInstance(ends.client.reason.value, ConnectionLost)
        self.assertEqual(ends.clock.getDelayedCalls(), [])

    def test_closed_by_check(self) -> None:
        """A check that closes instead of raising is no success either."""
        for how in ("abortConnection", "loseConnection"):
            ends = Ends(check=lambda layer, how=how: getattr(layer, how)())  # type: ignore[misc]
            ends.join().flush()
            self.assertEqual(ends.server.events, [])
            self.assertIsInstance(ends.failures["server"].value, ConnectionTrouble)

    def test_unknown_authority(self) -> None:
        """A certificate of somebody else's is refused with words, on both sides."""
        stranger = material.Material("stranger")
        ends = Ends(client_context=material.client_context(trusted=stranger.pem))
        ends.join().flush()
        self.assertIsInstance(ends.failures["client"].value, AuthenticationFailed)
        self.assertIn("does not verify", str(ends.failures["client"].value))
        # In TLS 1.3 too: the alert arrives during the server's handshake.
        self.assertIn("refused our certificate: unknown ca", str(ends.failures["server"].value))
        self.assertEqual((ends.client.events, ends.server.events), ([], []))

    def test_no_client_certificate(self) -> None:
        """The client hears that it needs a certificate, in TLS 1.3 after its own handshake was done."""
        for version in VERSIONS:
            ends = Ends(server_context=material.server_context(clients=True, version=version))
            ends.join().flush()
            self.assertIsInstance(ends.failures["server"].value, AuthenticationFailed)
            self.assertIn("has no certificate", str(ends.failures["server"].value))
            self.assertEqual(ends.server.events, [])
            if version is ssl.TLSVersion.TLSv1_3:
                self.assertIsInstance(ends.client.reason.value, AuthenticationFailed)
                self.assertIn("certificate required", str(ends.client.reason.value))
            else:
                self.assertIn("client", ends.failures)

    def test_expired(self) -> None:
        """An expired certificate is refused with words."""
        old = material.authority().pair("server", "server.test", age=30)
        ends = Ends(server_context=material.server_context(pem=old))
        ends.join().flush()
        self.assertIn("expired", str(ends.failures["client"].value))

    def test_silence(self) -> None:
        """A peer that says nothing is cut off in time."""
        ends = Ends()
        transport = Aborting()
        ends.below_server.makeConnection(transport)
        ends.clock.advance(9.9)
        self.assertFalse(transport.aborted)
        ends.clock.advance(0.2)
        self.assertTrue(transport.aborted)
        self.assertIn("within 10 seconds", str(ends.failures["server"].value))
        ends.below_server.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(ends.server.events, [])
        self.assertEqual(ends.clock.getDelayedCalls(), [])

    def test_too_large(self) -> None:
        """A handshake that never ends is cut off at 64 KiB."""
        ends = Ends()
        transport = Aborting()
        ends.below_server.makeConnection(transport)
        # A ClientHello that announces 16 MB in honest records, one byte of progress at a time.
        hello = b"\x01\xff\xff\xff" + bytes(16380)
        sent = 0
        while not transport.aborted and not transport.disconnecting:
            ends.below_server.dataReceived(b"\x16\x03\x01\x40\x00" + hello)
            hello = bytes(16384)
            sent += 16389
            self.assertLess(sent, 70000)
        self.assertIn("server", ends.failures)

    def test_no_tls(self) -> None:
        """Something else than TLS is refused at once."""
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", bytes(100), b"\xff" * 100):
            ends = Ends()
            transport = Aborting()
            ends.below_server.makeConnection(transport)
            ends.below_server.dataReceived(junk)
            self.assertIsInstance(ends.failures["server"].value, ConnectionTrouble)
            self.assertTrue(transport.disconnecting)
            ends.below_server.dataReceived(junk)
            ends.clock.advance(10)
            self.assertTrue(transport.aborted)
            ends.below_server.connectionLost(Failure(ConnectionLost()))

    def test_cut_short(self) -> None:
        """An end during the handshake is told to ``failed``, once, never to the protocol above."""
        for end in ("half", "lost"):
            ends = Ends()
            transport = Aborting()
            ends.below_client.makeConnection(transport)
            if end == "half":
                ends.below_client.readConnectionLost()
            ends.below_client.connectionLost(Failure(ConnectionDone()))
            self.assertIn("closed during the TLS handshake", str(ends.failures["client"].value))
            self.assertEqual(ends.client.events, [])
            self.assertEqual(ends.clock.getDelayedCalls(), [])

    def test_sniffed(self) -> None:
        """Bytes that somebody else has read before are fed in."""
        recorded = Script.record(SERVER)
        ends = Ends()
        wire = Wire(ends.below_client, Recorder())
        wire.server.protocol.makeConnection(wire.server)
        ends.below_client.makeConnection(wire.client)
        wire.flush()
        sniffed = wire.server.protocol.data
        self.assertGreater(len(sniffed), 100)
        wire.server.protocol = ends.below_server
        ends.below_server.makeConnection(wire.server)
        ends.below_server.dataReceived(sniffed)
        wire.flush()
        self.assertEqual(ends.server.events, ["made"])
        self.assertGreater(len(recorded.stream), 0)


class Aborting(StringTransport):
    """A transport that notes an abort."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class Script:
    """All that a client sends to a TLS 1.2 server that draws the same randomness would differ; so this
    replays with a live client: the client's bytes are held and divided, the server's go back whole."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream

    @classmethod
    def record(cls, context: ssl.SSLContext) -> Script:
        script = cls(b"")
        script.stream = script._run(context, None)
        return script

    def replay(self, case: SynchronousTestCase, cuts: list[int]) -> None:
        self._run(SERVER, cuts, case)

    def _run(self, context: ssl.SSLContext, cuts: list[int] | None, case: SynchronousTestCase | None = None) -> bytes:
        ends = Ends(Recorder(greeting=b"a" * 40), Recorder(on_data=echo), client_context=CLIENT)
        wire = ends.join()
        sent = 0
        everything = b""
        closed = False
        while True:
            waiting = len(wire.client.outgoing)
            if waiting:
                limit = waiting
                for cut in cuts or ():
                    if sent < cut < sent + waiting:
                        limit = cut - sent
                        break
                everything += bytes(wire.client.outgoing[:limit])
                sent += limit
                wire.client.step(limit)
            elif not wire.server.step() and not wire.client.step():
                if closed:
                    break
                closed = True
                ends.client.transport.write(b"b" * 40)
                ends.client.transport.loseConnection()
        if case is not None:
            case.assertEqual(ends.server.data, b"a" * 40 + b"b" * 40)
            case.assertEqual(ends.client.data, b"a" * 40)
            case.assertIsInstance(ends.server.reason.value, ConnectionDone)
        return everything


CLIENT = material.client_context()


class Closing(SynchronousTestCase):
    """How connections end."""

    def open(self, client: Recorder | None = None, server: Recorder | None = None, **kwargs: Any) -> Ends:
        ends = Ends(client, server, client_context=CLIENT, **kwargs)
        ends.join().flush()
        self.assertEqual(ends.server.events, ["made"])
        return ends

    def assert_ends(self, protocol: Recorder, kind: type[Exception]) -> None:
        self.assertIsNotNone(protocol.reason)
        self.assertIs(type(protocol.reason.value), kind, str(protocol.reason))

    def test_pending_writes_first(self) -> None:
        """What was written before loseConnection arrives, then the clean end."""
        ends = self.open()
        ends.server.transport.write(b"x" * 300000)
        ends.server.transport.loseConnection()
        ends.server.transport.write(b"too late")
        ends.wire.flush(1000)
        self.assertEqual(ends.client.data, b"x" * 300000)
        self.assert_ends(ends.client, ConnectionDone)
        self.assert_ends(ends.server, ConnectionDone)
        self.assertEqual(ends.clock.getDelayedCalls(), [])

    def test_nothing_after_the_end(self) -> None:
        """Writing, closing and pausing after the end do no harm."""
        ends = self.open()
        ends.client.transport.loseConnection()
        ends.wire.flush()
        for protocol in (ends.client, ends.server):
            layer = protocol.transport
            layer.write(b"x")
            layer.writeSequence([b"x", b"y"])
            layer.loseConnection()
            layer.loseWriteConnection()
            layer.abortConnection()
            layer.pauseProducing()
            layer.resumeProducing()
            layer.stopProducing()
            layer.dataReceived(b"x")
            layer.readConnectionLost()
            layer.writeConnectionLost()
            layer.unregisterProducer()
            producer = Producer(layer)
            layer.registerProducer(producer, True)
            self.assertEqual(producer.events, ["stop"])
            self.assertIs(layer._state, State.LOST)
            self.assertIn("LOST", repr(layer))

    def test_truncation(self) -> None:
        """An end of the bytes below without close_notify is ConnectionLost, as a cut is."""
        ends = self.open()
        ends.wire.client.loseConnection()  # behind the layer's back
        ends.wire.flush()
        self.assert_ends(ends.server, ConnectionLost)
        self.assertIn("close_notify", str(ends.server.reason.value))

        ends = self.open()
        ends.wire.client.loseWriteConnection()
        ends.wire.flush()
        self.assert_ends(ends.server, ConnectionLost)

        ends = self.open(server=HalfRecorder())
        ends.wire.client.loseWriteConnection()
        ends.wire.flush()
        self.assertEqual(ends.server.events, ["made", "lost"])
        self.assert_ends(ends.server, ConnectionLost)

        ends = self.open()
        ends.wire.cut()
        self.assert_ends(ends.server, ConnectionLost)
        self.assert_ends(ends.client, ConnectionLost)

    def test_truncated_record(self) -> None:
        """The end in the middle of a record delivers nothing of it."""
        ends = self.open()
        ends.client.transport.write(b"whole")
        ends.wire.flush()
        ends.client.transport.write(b"partial")
        del ends.wire.client.outgoing[-1:]
        ends.wire.client.loseWriteConnection()
        ends.wire.flush()
        self.assertEqual(ends.server.data, b"whole")
        self.assert_ends(ends.server, ConnectionLost)

    def test_abort(self) -> None:
        """An abort drops what waits and says so."""
        ends = self.open()
        ends.client.transport.write(b"x" * 1000)
        ends.client.transport.abortConnection()
        ends.wire.flush()
        self.assert_ends(ends.client, ConnectionAborted)
        self.assert_ends(ends.server, ConnectionLost)
        self.assertEqual(ends.server.data, b"")

    def test_abort_during_handshake(self) -> None:
        """An abort in the middle of the handshake is told to ``failed`` only."""
        ends = Ends()
        wire = ends.join()
        wire.step(50)
        ends.below_server.abortConnection()
        wire.flush()
        self.assertEqual(ends.server.events + ends.client.events, [])
        self.assertEqual(set(ends.failures), {"server", "client"})
        self.assertEqual(ends.clock.getDelayedCalls(), [])

    def test_flipped_bytes(self) -> None:
        """A changed byte anywhere in a record ends the connection with an error, never with data."""
        for position in range(0, 40, 3):
            ends = self.open()
            ends.client.transport.write(b"0123456789")
            ends.wire.client.outgoing[position % len(ends.wire.client.outgoing)] ^= 0x41
            ends.wire.flush()
            ends.wire.client.loseConnection()
            ends.wire.flush()
            self.assertEqual(ends.server.data, b"")
            self.assertNotIsInstance(ends.server.reason.value, ConnectionDone)
            self.assertEqual(ends.clock.getDelayedCalls(), [])

    def test_broken_peer_that_stays(self) -> None:
        """After a fatal error the connection below is closed, and aborted if the peer will not go."""
        ends = Ends(client_context=CLIENT)
        wire = ends.join()
        wire.flush()
        wire.server.protocol.dataReceived(b"\x17\x03\x03\x00\x20" + bytes(32))
        self.assertTrue(wire.server.disconnecting)
        self.assertEqual(ends.server.events, ["made"])
        wire.client.paused = True  # the alert cannot leave
        ends.clock.advance(10)
        self.assertEqual(ends.server.events, ["made", "lost"])
        self.assertIsInstance(ends.server.reason.value, ConnectionTrouble)

    def test_half_close(self) -> None:
        """One direction ends cleanly while the other goes on."""
        for version in VERSIONS:
            ends = self.open(HalfRecorder(), HalfRecorder(), server_context=material.server_context(version=version))
            ends.client.transport.write(b"all of it")
            ends.client.transport.loseWriteConnection()
            ends.client.transport.write(b"dropped")
            ends.wire.flush()
            self.assertEqual(ends.server.data, b"all of it")
            self.assertEqual(ends.server.events, ["made", "read lost"])
            ends.server.transport.write(b"answer" * 20000)
            ends.wire.flush()
            self.assertEqual(ends.client.data, b"answer" * 20000)
            ends.server.transport.loseConnection()
            ends.wire.flush()
            self.assertIn("read lost", ends.client.events)
            self.assert_ends(ends.client, ConnectionDone)
            self.assert_ends(ends.server, ConnectionDone)
            self.assertEqual(ends.clock.getDelayedCalls(), [])

    def test_both_half_close(self) -> None:
        """When both directions have ended, the connection has."""
        ends = self.open(HalfRecorder(), HalfRecorder())
        ends.client.transport.loseWriteConnection()
        ends.server.transport.loseWriteConnection()
        ends.wire.flush()
        self.assert_ends(ends.client, ConnectionDone)
        self.assert_ends(ends.server, ConnectionDone)

    def test_half_close_with_unread_data(self) -> None:
        """A half-close while paused loses nothing of what had arrived."""
        ends = self.open(HalfRecorder(), HalfRecorder())
        layer = ends.client.transport
        wire = ends.wire
        ends.server.transport.write(b"one")
        layer.pauseProducing()
        layer.dataReceived(bytes(wire.server.outgoing))  # a transport below that delivers once more
        wire.server.outgoing.clear()
        layer.loseWriteConnection()
        wire.flush()
        self.assertEqual(ends.client.chunks, [])
        self.assertEqual(ends.server.events, ["made", "read lost"])
        ends.server.transport.write(b"two")
        ends.server.transport.loseConnection()
        layer.resumeProducing()
        self.assertEqual(ends.client.chunks, [b"one"])
        wire.flush()
        self.assertEqual(ends.client.data, b"onetwo")
        self.assert_ends(ends.client, ConnectionDone)

    def test_held_past_the_end(self) -> None:
        """What a paused protocol is owed is delivered before it hears of the end."""
        for how in ("close", "cut"):
            ends = self.open()
            layer = ends.client.transport
            layer.pauseProducing()
            ends.server.transport.write(b"last words")
            ends.server.transport.loseConnection()
            layer.dataReceived(bytes(ends.wire.server.outgoing))
            ends.wire.server.outgoing.clear()
            if how == "close":
                ends.wire.flush()
            else:
                ends.wire.cut()
            self.assertEqual(ends.client.events, ["made"])
            layer.resumeProducing()
            self.assertEqual(ends.client.data, b"last words")
            self.assertEqual(ends.client.events, ["made", "lost"])
            self.assert_ends(ends.client, ConnectionDone)

    def test_given_up_past_the_end(self) -> None:
        """A paused protocol whose connection is gone hears of it when it closes, not from within."""
        for how in ("loseConnection", "abortConnection", "stopProducing"):
            ends = self.open()
            layer = ends.client.transport
            layer.pauseProducing()
            ends.server.transport.write(b"unwanted")
            layer.dataReceived(bytes(ends.wire.server.outgoing))
            ends.wire.cut()
            self.assertEqual(ends.client.events, ["made"])
            getattr(layer, how)()
            self.assertEqual(ends.client.events, ["made"])
            ends.clock.advance(0)
            self.assertEqual(ends.client.events, ["made", "lost"])
            self.assertEqual(ends.client.data, b"")

    def test_post_handshake_messages(self) -> None:
        """Session tickets and an end right behind them are no data and no error."""
        ends = Ends(server=Recorder(then_close=True), client_context=CLIENT)
        ends.join().flush(1)
        self.assertEqual(ends.client.chunks, [])
        self.assert_ends(ends.client, ConnectionDone)


class Producer:
    """A push producer, and a pull producer of three pieces."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.events: list[str] = []
        self.pieces = [b"1", b"2", b"3"]

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")
        if self.pieces:
            self.transport.write(self.pieces.pop(0))
        else:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.events.append("stop")


class Pressure(SynchronousTestCase):
    """Nothing is buffered without bound."""

    def open(self, client: Recorder | None = None, server: Recorder | None = None) -> Ends:
        ends = Ends(client, server, client_context=CLIENT)
        ends.join().flush()
        return ends

    def test_push_producer(self) -> None:
        """A producer is paused when the transport below is full, and resumed when it has drained."""
        ends = self.open()
        producer = Producer(ends.client.transport)
        producer.pieces = []
        ends.client.transport.registerProducer(producer, True)
        ends.client.transport.write(bytes(HIGH_WATER // 2))
        self.assertEqual(producer.events, [])
        ends.client.transport.write(bytes(HIGH_WATER))
        self.assertEqual(producer.events, ["pause"])
        ends.wire.flush()
        self.assertEqual(producer.events, ["pause", "resume"])

    def test_pull_producer(self) -> None:
        """A pull producer is asked whenever the transport below is empty; the close waits for it."""
        ends = self.open()
        producer = Producer(ends.client.transport)
        ends.client.transport.registerProducer(producer, False)
        ends.client.transport.loseConnection()
        ends.wire.flush()
        self.assertEqual(ends.server.data, b"123")
        self.assertIsInstance(ends.server.reason.value, ConnectionDone)

    def test_half_close_waits(self) -> None:
        """So does a half-close."""
        ends = self.open(HalfRecorder(), HalfRecorder())
        producer = Producer(ends.client.transport)
        ends.client.transport.registerProducer(producer, False)
        ends.client.transport.loseWriteConnection()
        ends.wire.flush()
        self.assertEqual(ends.server.data, b"123")
        self.assertEqual(ends.server.events, ["made", "read lost"])

    def test_one_producer(self) -> None:
        """A second producer is a fault of the caller."""
        ends = self.open()
        ends.client.transport.registerProducer(Producer(None), True)
        self.assertRaises(RuntimeError, ends.client.transport.registerProducer, Producer(None), True)

    def test_producer_stopped(self) -> None:
        """A producer hears, once, that there is nobody left: on a clean end, a broken record, a cut."""
        for end in ("clean", "broken", "cut"):
            ends = self.open()
            producer = Producer(ends.client.transport)
            ends.client.transport.registerProducer(producer, True)
            if end == "clean":
                ends.server.transport.loseConnection()
            elif end == "broken":
                ends.client.transport.dataReceived(b"\x17\x03\x03\x00\x20" + bytes(32))
            else:
                ends.wire.cut()
            ends.wire.flush()
            self.assertEqual(producer.events, ["stop"], end)
            self.assertEqual(ends.client.events, ["made", "lost"])

    def test_paused_reader(self) -> None:
        """A paused protocol is told nothing, and the pause goes down to the network."""
        ends = self.open()
        ends.client.transport.pauseProducing()
        self.assertTrue(ends.wire.client.paused)
        ends.server.transport.write(b"x" * 100)
        ends.wire.flush()
        self.assertEqual(ends.client.chunks, [])
        self.assertGreater(len(ends.wire.server.outgoing), 100)
        ends.client.transport.resumeProducing()
        ends.wire.flush()
        self.assertEqual(ends.client.data, b"x" * 100)

    def test_divided_records(self) -> None:
        """Records of any size that come many at once, divided anywhere, are the bytes that were written."""
        sizes = (1, 16384, 8192, 100, 16383, 5, 16384, 16384, 3000, 150000)
        for cut in (16407, 20000, 32768, 50001, 65536, 131072):
            ends = self.open()
            written = b""
            for number in range(60):
                piece = bytes([number]) * sizes[number % len(sizes)]
                ends.server.transport.write(piece)
                written += piece
            ends.wire.flush(cut)
            self.assertTrue(ends.client.data == written, cut)
            ends.server.transport.write(b"and then")
            ends.wire.flush()
            self.assertTrue(ends.client.data == written + b"and then", cut)

    def test_junk_behind_records(self) -> None:
        """What was whole before the first record that is not the peer's is delivered, then the connection ends."""
        ends = self.open()
        ends.server.transport.write(b"x" * 60000)
        ends.wire.server.write(b"\x17\x03\x03\xff\xff" + bytes(70000))
        ends.wire.flush()
        self.assertEqual(ends.client.data, b"x" * 60000)
        self.assertIsNotNone(ends.client.reason)

    def test_paused_within(self) -> None:
        """A protocol that pauses with each delivery is given one at a time."""
        ends = self.open(Recorder(on_data=lambda protocol, data: protocol.transport.pauseProducing()))
        total = 400000
        ends.server.transport.write(b"x" * total)
        ends.wire.flush()
        seen = 0
        while seen < total:
            self.assertGreater(len(ends.client.chunks), 0)
            for chunk in ends.client.chunks:
                self.assertLessEqual(len(chunk), DELIVERY + RECORD)
            self.assertEqual(len(ends.client.chunks), 1)
            seen += len(ends.client.chunks.pop())
            ends.client.transport.resumeProducing()
            ends.wire.flush()
        self.assertEqual(seen, total)
        self.assertEqual(ends.client.chunks, [])

    def test_paused_and_resumed_within(self) -> None:
        """Pausing and resuming within one delivery neither recurses nor stops."""
        depth = []

        def on_data(protocol: Recorder, data: bytes) -> None:
            self.assertEqual(depth, [])
            depth.append(1)
            protocol.transport.pauseProducing()
            protocol.transport.resumeProducing()
            depth.pop()

        ends = self.open(Recorder(on_data=on_data))
        ends.server.transport.write(b"x" * 400000)
        ends.wire.flush()
        self.assertEqual(len(ends.client.data), 400000)

    def test_paused_when_made(self) -> None:
        """A protocol may pause as soon as it is connected."""

        class Shy(Recorder):
            def connectionMade(self) -> None:
                super().connectionMade()
                self.transport.pauseProducing()

        ends = Ends(Recorder(greeting=b"early"), Shy(), client_context=CLIENT)
        wire = ends.join()
        wire.flush()
        self.assertEqual(ends.server.chunks, [])
        self.assertTrue(wire.server.paused)
        ends.server.transport.resumeProducing()
        wire.flush()
        self.assertEqual(ends.server.data, b"early")


class Reentrancy(SynchronousTestCase):
    """What a protocol may do while it is given data."""

    def run_with(self, on_data: Callable[[Recorder, bytes], None]) -> Ends:
        ends = Ends(Recorder(), Recorder(on_data=on_data), client_context=CLIENT)
        wire = ends.join()
        wire.flush()
        for _ in range(10):
            ends.client.transport.write(b"x" * 20000)
        wire.flush()
        return ends

    def test_close_within(self) -> None:
        """After loseConnection nothing more is delivered."""
        ends = self.run_with(lambda protocol, data: protocol.transport.loseConnection())
        self.assertEqual(len(ends.server.chunks), 1)
        self.assertIsInstance(ends.server.reason.value, ConnectionDone)
        self.assertIsInstance(ends.client.reason.value, ConnectionDone)

    def test_abort_within(self) -> None:
        """Nor after abortConnection."""
        ends = self.run_with(lambda protocol, data: protocol.transport.abortConnection())
        self.assertEqual(len(ends.server.chunks), 1)
        self.assertIsInstance(ends.server.reason.value, ConnectionAborted)
        self.assertIsInstance(ends.client.reason.value, ConnectionLost)

    def test_write_and_close_within(self) -> None:
        """An answer written just before closing arrives."""

        def answer(protocol: Recorder, data: bytes) -> None:
            protocol.transport.write(b"the answer")
            protocol.transport.loseConnection()

        ends = self.run_with(answer)
        self.assertEqual(ends.client.data, b"the answer")

    def test_close_when_made(self) -> None:
        """A protocol may close, or abort, as soon as it is connected."""
        for how, kind in (("loseConnection", ConnectionDone), ("abortConnection", ConnectionAborted)):

            class Brief(Recorder):
                how: str

                def connectionMade(self) -> None:
                    super().connectionMade()
                    getattr(self.transport, self.how)()

            brief = Brief()
            brief.how = how
            ends = Ends(Recorder(greeting=b"early"), brief, client_context=CLIENT)
            ends.join().flush()
            self.assertEqual(brief.events, ["made", "lost"])
            self.assertIs(type(brief.reason.value), kind)
            self.assertEqual(brief.chunks, [])

    def test_exception_within(self) -> None:
        """An exception goes down to the transport's owner, who ends the connection; it is told once."""

        def fall(protocol: Recorder, data: bytes) -> None:
            raise ZeroDivisionError

        ends = Ends(Recorder(greeting=b"x"), Recorder(on_data=fall), client_context=CLIENT)
        wire = ends.join()
        self.assertRaises(ZeroDivisionError, wire.flush)
        wire.server.lost(ZeroDivisionError())
        self.assertIsInstance(ends.server.reason.value, ZeroDivisionError)

    def test_replaced_within(self) -> None:
        """The protocol above may be replaced by another, as on Twisted's transports."""
        second = Recorder()

        def hand_over(protocol: Recorder, data: bytes) -> None:
            layer = protocol.transport
            layer.protocol = second
            second.makeConnection(layer)
            second.dataReceived(b"rest")

        ends = Ends(Recorder(greeting=b"first"), Recorder(on_data=hand_over), client_context=CLIENT)
        wire = ends.join()
        wire.flush()
        ends.client.transport.write(b" second")
        ends.client.transport.loseConnection()
        wire.flush()
        self.assertEqual(ends.server.data, b"first")
        self.assertEqual(second.data, b"rest second")
        self.assertEqual(second.events, ["made", "lost"])


class Nested(SynchronousTestCase):
    """TLS inside TLS."""

    def nest(self, client: Recorder, server: Recorder) -> tuple[Ends, Ends, Wire]:
        inner = Ends(client, server, client_context=CLIENT)
        outer = Ends(client_context=CLIENT)
        outer.below_client.protocol = inner.below_client
        outer.below_server.protocol = inner.below_server
        return inner, outer, outer.join()

    def test_divided(self) -> None:
        """Both handshakes, data both ways and the end, however divided."""
        for size in (1, 17, 1000, None):
            inner, outer, wire = self.nest(Recorder(greeting=b"x" * 3000), Recorder(on_data=echo))
            wire.flush(size)
            self.assertEqual(inner.client.data, b"x" * 3000)
            inner.server.transport.loseConnection()
            wire.flush(size)
            self.assertIsInstance(inner.client.reason.value, ConnectionDone)
            self.assertIsInstance(inner.server.reason.value, ConnectionDone)
            self.assertEqual(inner.clock.getDelayedCalls() + outer.clock.getDelayedCalls(), [])

    def test_pressure(self) -> None:
        """Pauses go down and come up through both."""
        inner, _, wire = self.nest(Recorder(), Recorder())
        wire.flush()
        producer = Producer(inner.client.transport)
        producer.pieces = []
        inner.client.transport.registerProducer(producer, True)
        inner.server.transport.pauseProducing()
        self.assertTrue(wire.server.paused)
        inner.client.transport.write(bytes(200000))
        wire.flush()
        self.assertEqual(producer.events, ["pause"])
        inner.server.transport.resumeProducing()
        wire.flush()
        self.assertEqual(producer.events, ["pause", "resume"])
        self.assertEqual(len(inner.server.data), 200000)

    def test_half_close(self) -> None:
        """A half-close within passes through the outer layer."""
        inner, _, wire = self.nest(HalfRecorder(), HalfRecorder())
        wire.flush()
        inner.client.transport.write(b"question")
        inner.client.transport.loseWriteConnection()
        wire.flush()
        self.assertEqual(inner.server.events, ["made", "read lost"])
        inner.server.transport.write(b"answer" * 50000)
        inner.server.transport.loseConnection()
        wire.flush()
        self.assertEqual(inner.client.data, b"answer" * 50000)
        self.assertIsInstance(inner.client.reason.value, ConnectionDone)

    def test_truncated_below(self) -> None:
        """A cut of the outer TLS is one of the inner."""
        inner, _, wire = self.nest(Recorder(), Recorder())
        wire.flush()
        wire.client.loseConnection()
        wire.flush()
        self.assertIsInstance(inner.server.reason.value, ConnectionLost)
