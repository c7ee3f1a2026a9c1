"""Two transports joined: order, ends in both directions, pressure, and a far end that is slow to come."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from teleport_db.proxy.forward import CLOSING_SECONDS, Forwarder, Side
from tests.cluster import Peer
from tests.memory import HIGH_WATER, Wire, pair


@implementer(IHalfCloseableProtocol)
class HalfPeer(Peer):
    """Hears of each direction's end."""

    ended = 0

    def readConnectionLost(self) -> None:
        self.ended += 1

    def writeConnectionLost(self) -> None:
        """Nothing."""


class Later:
    """An endpoint that connects when a test says so."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.result: Deferred[Any] = Deferred(self.cancel)

    def cancel(self, result: Any) -> None:
        self.cancelled += 1

    def connect(self, factory: Any) -> Deferred[Any]:
        self.factory = factory
        return self.result


class JoinedTests(SynchronousTestCase):
    """``a <-> Side | Side <-> b``."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.a, self.b = HalfPeer(), HalfPeer()
        self.left, self.right = Side(self.clock), Side(self.clock)
        self.wires = pair(self.a, self.left), pair(self.b, self.right)

    def flush(self, limit: int | None = None) -> None:
        while sum(wire.step(limit) for wire in self.wires):
            pass

    def join(self) -> None:
        self.left.join(self.right)

    def test_interface(self) -> None:
        verifyObject(IHalfCloseableProtocol, self.left)

    def test_both_ways(self) -> None:
        """Early bytes go first, and everything in order."""
        self.a.transport.write(b"early ")
        self.b.transport.write(b"also early ")
        self.flush()
        self.join()
        self.a.transport.write(b"late")
        self.b.transport.write(b"later")
        self.flush(1)
        self.assertEqual((self.b.received, self.a.received), (b"early late", b"also early later"))

    def test_clean_end(self) -> None:
        """What was written before the end arrives, whichever side ends."""
        for ends, other in ((0, 1), (1, 0)):
            self.setUp()
            self.join()
            peers = self.a, self.b
            peers[ends].transport.write(b"last" * 50000)
            peers[ends].transport.loseConnection()
            self.flush(1000)
            self.assertEqual(peers[other].received, b"last" * 50000)
            self.assertIsNotNone(peers[other].reason)
            self.clock.advance(CLOSING_SECONDS)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cut(self) -> None:
        """A cut goes on as one: a clean end would be a lie."""
        self.join()
        self.wires[0].cut()
        self.flush()
        assert self.b.reason is not None
        self.assertFalse(self.wires[1].client.connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_half_close(self) -> None:
        """One direction ends; the other goes on until it ends too."""
        self.join()
        self.a.transport.write(b"question")
        self.a.transport.loseWriteConnection()
        self.flush()
        self.assertEqual((self.b.received, self.b.ended), (b"question", 1))
        self.b.transport.write(b"answer")
        self.b.transport.loseConnection()
        self.flush()
        self.assertEqual(self.a.received, b"answer")
        self.assertIsNotNone(self.a.reason)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pressure(self) -> None:
        """A slow b pauses a; nothing is lost."""
        self.join()
        self.b.transport.pauseProducing()
        chunk = b"x" * 10000
        for _ in range(100):
            self.a.transport.write(chunk)
        for _ in range(200):
            self.wires[0].step(10000)
        self.assertLess(len(self.wires[1].server.outgoing), 2 * HIGH_WATER)
        self.assertGreater(len(self.a.transport.outgoing), 500_000)
        self.b.transport.resumeProducing()
        self.flush(10000)
        self.assertEqual(len(self.b.received), 1_000_000)

    def test_end_while_pressed(self) -> None:
        """A peer that takes nothing is cut off some time after the other's end."""
        self.join()
        self.b.transport.pauseProducing()
        self.a.transport.write(b"x" * 10)
        self.a.transport.loseConnection()
        self.flush()
        self.assertIsNone(self.b.reason)
        self.clock.advance(CLOSING_SECONDS)
        self.assertIsNotNone(self.b.reason)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_joined_too_late(self) -> None:
        """A side that is gone when it is joined takes the other with it, after its last bytes."""
        self.b.transport.write(b"last words")
        self.b.transport.loseConnection()
        self.flush()
        self.join()
        self.flush()
        self.assertEqual(self.a.received, b"last words")
        self.assertIsNotNone(self.a.reason)


class ForwarderTests(SynchronousTestCase):
    """A side that opens its other end itself."""

    def setUp(self) -> None:
        self.endpoint = Later()
        self.calls: list[str] = []
        self.a, self.b = Peer(), Peer()
        self.forwarder = Forwarder(self.endpoint, lambda: self.calls.append("answered"))  # type: ignore[arg-type]
        self.near = pair(self.a, self.forwarder)

    def far(self) -> Wire:
        side = self.endpoint.factory.buildProtocol(None)
        wire = Wire(side, self.b).connect()
        self.endpoint.result.callback(side)
        return wire

    def test_waits(self) -> None:
        """Nothing is read until the far end stands; what was fed in goes first."""
        self.forwarder.dataReceived(b"sniffed ")
        self.a.transport.write(b"rest")
        self.near.flush()
        self.assertEqual(len(self.a.transport.outgoing), 4)
        far = self.far()
        self.near.flush()
        far.flush()
        self.assertEqual(self.b.received, b"sniffed rest")

    def test_preface(self) -> None:
        """What the far end is told of the peer stands before everything else."""
        self.endpoint = Later()
        self.forwarder = Forwarder(self.endpoint, preface=lambda peer: f"from {peer.port}; ".encode())  # type: ignore
        self.near = pair(self.a, self.forwarder)
        self.forwarder.dataReceived(b"sniffed")
        far = self.far()
        far.flush()
        self.assertRegex(self.b.received, rb"^from [0-9]+; sniffed$")

    def test_answered(self) -> None:
        """A peer that only asks has said nothing yet; one that goes on after an answer has, once."""
        self.forwarder.dataReceived(b"hello")
        far = self.far()
        self.a.transport.write(b"hello again")
        self.near.flush()
        far.flush()
        self.b.transport.write(b"prove it")
        far.flush()
        self.near.flush()
        self.assertEqual(self.calls, [])
        for proof in (b"proof", b"more"):
            self.a.transport.write(proof)
            self.near.flush()
        self.assertEqual(self.calls, ["answered"])

    def test_refused(self) -> None:
        """A far end that cannot be reached aborts, so that nobody takes it for an answer."""
        self.endpoint.result.errback(Failure(ConnectionRefusedError()))
        self.assertIsNotNone(self.a.reason)
        self.assertEqual(self.calls, [])

    def test_gone_meanwhile(self) -> None:
        """A peer that goes away ends the dialling."""
        self.near.cut()
        self.assertEqual((self.endpoint.cancelled, self.calls), (1, []))

    def test_gone_at_the_same_moment(self) -> None:
        """... and if it was too late for that, the far end is closed again."""
        self.forwarder._connecting = None
        self.near.cut()
        far = self.far()
        far.flush()
        self.assertEqual(self.calls, [])
        self.assertIsNotNone(self.b.reason)
