"""The front door: what is told apart, how long, how many, and every way of dividing it."""

import contextlib
import ssl
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.net.unsettled import MAX_UNSETTLED
from teleport_db.pgwire.messages import GSSENC_CODE, SSL_REQUEST, cancel_request, parse_error, startup_message
from teleport_db.proxy.sniffer import NO_APPLICATION_PROTOCOL, OPENING_SECONDS, Door, FrontDoor
from tests.cluster import Cluster, Peer, psql_context
from tests.memory import Wire

GSSENC_REQUEST = (8).to_bytes(4, "big") + GSSENC_CODE.to_bytes(4, "big")


def hello(*alpn: str) -> bytes:
    """A real ClientHello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="proxy.root")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class DoorCase(SynchronousTestCase):
    """Doors that forward untouched bytes into recorders, each named."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.opened: list[tuple[str, Peer]] = []
        self.settles: list[Any] = []
        self.cancels: list[tuple[int, bytes]] = []
        self.refused: list[tuple[str, Any]] = []
        self.front = FrontDoor(
            web=self.door("web"),
            postgres=self.door("postgres"),
            doors={"one": self.door("one"), "two": self.door("two"), "nobody": Door(lambda *_: None, None)},
            cancel=self.cancel,
            refused=lambda address, error, message: self.refused.append((error.public, message)),
            clock=self.clock,
        )

    def cancel(self, address: Any, pid: int, secret: bytes) -> Deferred[None]:
        self.cancels.append((pid, secret))
        return succeed(None)

    def door(self, name: str) -> Door:
        def build(address: Any, settled: Any) -> Peer:
            self.opened.append((name, Peer()))
            self.settles.append(settled)
            return self.opened[-1][1]

        return Door(build, None)

    def connect(self, host: str = "127.0.0.1") -> tuple[Peer, Wire]:
        peer = Peer()
        sniffer = self.front.buildProtocol(IPv4Address("TCP", host, 50000))
        assert sniffer is not None
        return peer, Wire(peer, sniffer).connect()

    def send(self, *pieces: bytes) -> tuple[Peer, Wire]:
        peer, wire = self.connect()
        for piece in pieces:
            peer.transport.write(piece)
            wire.flush()
        return peer, wire

    def assertClosed(self, peer: Peer) -> None:
        self.assertIsNotNone(peer.reason)
        self.assertEqual(self.front.unsettled.counts, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DoorTests(DoorCase):
    """What goes where."""

    def test_alpn(self) -> None:
        """The first name of the client's that is known decides; unknown ones and none lead to the web."""
        for alpn, name in (
            ((), "web"),
            (("http/1.1",), "web"),
            (("two",), "two"),
            (("h3", "one", "two"), "one"),
        ):
            wire = hello(*alpn)
            self.send(wire)
            self.assertEqual((self.opened[-1][0], self.opened[-1][1].received), (name, wire))

    def test_hello_cut_everywhere(self) -> None:
        """A ClientHello is recognised however it is divided, and passed on whole."""
        wire = hello("one")
        for cut in range(1, len(wire)):
            _, line = self.send(wire[:cut], wire[cut:])
            self.assertEqual((self.opened[-1][0], self.opened[-1][1].received), ("one", wire))
            line.cut()
        peer, line = self.connect()
        peer.transport.write(wire + b"more")
        line.flush(1)
        self.assertEqual(self.opened[-1][1].received, wire + b"more")

    def test_ssl_request_cut_everywhere(self) -> None:
        """GSSENCRequest, SSLRequest and a ClientHello, each cut at each byte, and byte by byte."""
        for request in (GSSENC_REQUEST, SSL_REQUEST):
            for cut in range(1, 8):
                peer, _ = self.send(request[:cut], request[cut:])
                self.assertEqual(peer.received, b"N" if request is GSSENC_REQUEST else b"S")
        for after in (hello(), hello("postgresql"), hello("one", "postgresql")):
            peer, wire = self.connect()
            for piece in (GSSENC_REQUEST, SSL_REQUEST, after):
                peer.transport.write(piece)
                wire.flush(1)
            self.assertEqual(peer.received, b"NS")
            # Behind SSLRequest it is PostgreSQL, whichever names stand beside its own.
            self.assertEqual((self.opened[-1][0], self.opened[-1][1].received), ("postgres", after))

    def test_other_protocol_after_ssl_request(self) -> None:
        """Behind SSLRequest TLS for anything but PostgreSQL ends with an alert, as at the server itself."""
        for alpn in (("one",), ("http/1.1",), ("h2", "postgres")):
            peer, _ = self.send(SSL_REQUEST, hello(*alpn))
            self.assertEqual(peer.received, b"S" + NO_APPLICATION_PROTOCOL)
            self.assertClosed(peer)
        self.assertEqual(self.opened, [])

    def test_glued_bytes(self) -> None:
        """Bytes behind a request and before its answer close the connection; they reach nobody."""
        for request in (SSL_REQUEST, GSSENC_REQUEST):
            for glued in (b"\x16", hello(), SSL_REQUEST, startup_message([(b"user", b"u")])):
                peer, _ = self.send(request + glued)
                self.assertNotIn(peer.received[:1], (b"S", b"N"))
                self.assertClosed(peer)
        self.assertEqual(self.opened, [])

    def test_requests_twice(self) -> None:
        for request, answer in ((GSSENC_REQUEST, b"N"),):
            peer, _ = self.send(request, request)
            self.assertEqual(peer.received[:2], answer + b"E")
            self.assertClosed(peer)

    def test_plaintext_after_ssl_request(self) -> None:
        """After S only TLS is listened to, and nothing is said in plaintext."""
        peer, _ = self.send(SSL_REQUEST, startup_message([(b"user", b"u")]))
        self.assertEqual(peer.received, b"S")
        self.assertClosed(peer)

    def test_plaintext_startup(self) -> None:
        """A client without TLS reads what to do, however its startup is divided."""
        wire = startup_message([(b"user", b"u"), (b"database", b"d")])
        for cut in range(1, len(wire)):
            peer, _ = self.send(wire[:cut], wire[cut:])
            fields = parse_error(peer.received[5:])
            self.assertEqual((peer.received[:1], fields["C"]), (b"E", "28000"))
            self.assertIn("sslmode=require", fields["M"])
            self.assertClosed(peer)
            ((said, message),) = self.refused
            self.assertEqual((said, message.user, message.database), (fields["M"], "u", "d"))
            self.refused = []

    def test_old_protocol(self) -> None:
        """A protocol that is not spoken is refused in words."""
        for version in (2 << 16, 4 << 16):
            peer, _ = self.send(startup_message([(b"user", b"u")], version))
            self.assertEqual(parse_error(peer.received[5:])["C"], "08P01")
            self.assertClosed(peer)

    def test_lengths(self) -> None:
        """An impossible length is refused before it is waited for."""
        for length in (0, 3, 7, 10_005, 2**31, 2**32 - 1):
            peer, _ = self.send(length.to_bytes(4, "big"))
            self.assertEqual(parse_error(peer.received[5:])["C"], "08P01")
            self.assertClosed(peer)

    def test_nobody(self) -> None:
        peer, _ = self.send(hello("nobody"))
        self.assertEqual(peer.received, b"")
        self.assertClosed(peer)

    def test_no_hello(self) -> None:
        """What begins as TLS and is none closes."""
        for junk in (b"\x16" * 100, b"\x16\x03\x01\xff\xff" + bytes(20000), b"\x16\x03\x01\0\5\x02\0\0\1\0"):
            peer, _ = self.send(junk)
            self.assertEqual(peer.received, b"")
            self.assertClosed(peer)

    def test_cancel(self) -> None:
        """A CancelRequest is passed on once and answered by the end; one of a wrong length is none."""
        wire = cancel_request(77, b"1234")
        for cut in range(1, len(wire)):
            peer, _ = self.send(wire[:cut], wire[cut:])
            self.assertEqual((self.cancels.pop(), self.cancels, peer.received), ((77, b"1234"), [], b""))
            self.assertClosed(peer)
        for secret in (b"", b"123", b"1" * 257):
            size = (12 + len(secret)).to_bytes(4, "big")
            peer, _ = self.send(size + wire[4:12] + secret)
            self.assertClosed(peer)
        peer, _ = self.send(wire + b"more")
        self.assertClosed(peer)
        self.assertEqual(self.cancels, [])


class LimitTests(DoorCase):
    """How long, and how many."""

    def test_silence(self) -> None:
        """Whoever does not say what he wants in time is cut off."""
        for beginning in (b"", b"\0", GSSENC_REQUEST, SSL_REQUEST, hello()[:30], hello()):
            peer, _ = self.send(beginning) if beginning else self.connect()
            self.clock.advance(OPENING_SECONDS - 0.01)
            self.assertIsNone(peer.reason)
            self.clock.advance(0.01)
            self.assertClosed(peer)

    def test_settled(self) -> None:
        """Who has said who he is stays, and is no longer counted; saying it twice does nothing."""
        peer, wire = self.send(hello())
        self.settles[-1]()
        self.settles[-1]()
        self.assertEqual(self.front.unsettled.counts, {})
        self.clock.advance(OPENING_SECONDS * 10)
        self.assertIsNone(peer.reason)
        wire.cut()
        self.assertClosed(peer)

    def test_per_address(self) -> None:
        """So many connections of one address at most; others' are not touched, and the end of one makes room."""
        wires = [self.connect()[1] for _ in range(MAX_UNSETTLED)]
        self.assertIsNone(self.front.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1)))
        self.connect("127.0.0.2")
        self.assertIsNotNone(self.front.buildProtocol(IPv6Address("TCP", "::1", 1)))
        wires[0].cut()
        self.connect()
        self.assertIsNone(self.front.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1)))
        self.clock.advance(OPENING_SECONDS)
        self.assertEqual(self.front.unsettled.counts, {})
        self.connect()

    def test_released_once(self) -> None:
        """However a connection ends, it is released exactly once."""
        for end in ("refused", "too late", "cut", "settled"):
            other, _ = self.connect()
            peer, wire = self.connect()
            if end == "refused":
                peer.transport.write(b"\0\0\0\3")
                wire.flush()
            elif end == "too late":
                self.clock.advance(OPENING_SECONDS / 2)
                _, other_wire = self.connect()
                self.clock.advance(OPENING_SECONDS / 2)
                self.assertEqual(self.front.unsettled.counts, {"127.0.0.1": 1})
                other_wire.cut()
                continue
            elif end == "settled":
                peer.transport.write(hello())
                wire.flush()
                self.settles[-1]()
            wire.cut()
            self.assertEqual(self.front.unsettled.counts, {"127.0.0.1": 1})
            other.transport.abortConnection()
            self.assertEqual(self.front.unsettled.counts, {})

    def test_end_while_sniffing(self) -> None:
        """A peer that ends its half before it has said anything is closed."""
        for beginning in (b"", SSL_REQUEST, hello()[:50]):
            peer, wire = self.connect()
            peer.transport.write(beginning)
            peer.transport.loseWriteConnection()
            wire.flush()
            self.assertClosed(peer)


class TLSDoorTests(SynchronousTestCase):
    """Doors with TLS."""

    def test_hello_settles_nothing(self) -> None:
        """A door that counts no time of its own counts until the handshake is done."""
        cluster = Cluster()
        peer = Peer()
        wire = cluster.dial(peer)
        peer.transport.write(hello())
        cluster.settle()
        self.assertNotEqual(peer.received, b"")
        self.assertEqual(cluster.front.unsettled.counts, {"127.0.0.1": 1})
        cluster.pass_time(OPENING_SECONDS)
        self.assertIsNotNone(peer.reason)
        self.assertEqual((cluster.front.unsettled.counts, cluster.timers()), ({}, []))
        self.assertFalse(wire.server.connected)

    def test_web(self) -> None:
        """After the handshake the web door is settled."""
        from teleport_db.net.tlslayer import TLSLayer

        cluster = Cluster()
        above = Peer()
        cluster.dial(TLSLayer(above, psql_context(None, ("http/1.1",)), server_side=False, clock=cluster.clock))
        cluster.settle()
        self.assertEqual(cluster.front.unsettled.counts, {})
        above.transport.write(b"GET /")
        cluster.settle()
        self.assertEqual(cluster.web[0].received, b"GET /")

    def test_broken_handshake(self) -> None:
        """A handshake that breaks is the end of it."""
        cluster = Cluster()
        peer = Peer()
        cluster.dial(peer)
        peer.transport.write(hello())
        cluster.settle()
        peer.transport.write(b"\x17\x03\x03\0\5xxxxx")
        cluster.settle()
        cluster.pass_time(OPENING_SECONDS)
        self.assertIsNotNone(peer.reason)
        self.assertEqual((cluster.front.unsettled.counts, cluster.timers()), ({}, []))

    def test_context_that_fails(self) -> None:
        """A context that cannot be made refuses the connection, not the process."""
        cluster = Cluster()

        def context() -> ssl.SSLContext:
            from teleport_db.errors import ConfigError

            raise ConfigError("no certificate")

        cluster.front.web = Door(lambda address, settled: Peer(), context)
        peer = Peer()
        cluster.dial(peer)
        peer.transport.write(hello())
        cluster.settle()
        self.assertIsNotNone(peer.reason)
        self.assertEqual(cluster.front.unsettled.counts, {})
