"""Where a connection comes from that a proxy passes on."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs.keys import der, load_certificate, load_private, new_key
from teleport_db.errors import AuthenticationFailed
from teleport_db.net.origin import HOLDS_SECONDS, MAGIC, OriginFactory, OriginSigner
from teleport_db.tunnel.address import StreamAddress
from tests.cluster import NOW, Peer, proxy_pair
from tests.memory import Wire

CLIENT = IPv4Address("TCP", "198.51.100.7", 40123)


class Behind(Peer):
    """What is behind the reader: remembers who its peer was when it heard something."""

    seen: Any = None

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.seen = self.transport.getPeer()


class OriginTests(SynchronousTestCase):
    """A listener of auth's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        pair = proxy_pair(False)
        self.certificate = der(load_certificate(pair.certificate_pem))
        self.signer = OriginSigner(self.certificate, load_private(pair.key_pem))

    def check(self, certificate: bytes) -> None:
        if certificate != self.certificate:
            raise AuthenticationFailed("no proxy")

    def connect(self) -> tuple[Behind, Peer, Wire]:
        behind, client = Behind(), Peer()
        factory = OriginFactory(Factory.forProtocol(lambda: behind), self.check, clock=self.clock)
        wire = Wire(client, factory.buildProtocol(CLIENT)).connect()
        return behind, client, wire

    def send(self, data: bytes, limit: int | None = None) -> tuple[Behind, Peer]:
        behind, client, wire = self.connect()
        client.transport.write(data)
        while wire.step(limit):
            pass
        return behind, client

    def test_divided(self) -> None:
        """The address of the statement is the peer, however the network divides it; then come the bytes."""
        for address in (CLIENT, IPv6Address("TCP", "2001:db8::7", 40123), StreamAddress(CLIENT, 5)):
            preface = self.signer.preface(address, NOW)
            for limit in (None, 1, 7):
                behind, client = self.send(preface + b"\x16\x03\x01", limit)
                self.assertEqual(behind.received, b"\x16\x03\x01")
                self.assertEqual(
                    (behind.seen.host, behind.seen.port), (getattr(address, "carrier", address).host, 40123)
                )
                self.assertIsNone(client.reason)

    def test_without(self) -> None:
        """What begins otherwise came straight here."""
        for data in (b"\x16\x03\x01", b"O", b"ORI", b"ORAL"):
            behind, client = self.send(data + b"\x00" * 8)
            self.assertEqual(behind.received, data + b"\x00" * 8)
            self.assertNotEqual(getattr(behind.seen, "host", ""), CLIENT.host)
            self.assertIsNone(client.reason)
        self.assertEqual(self.signer.preface(UNIXAddress(b"/x"), NOW), b"")

    def test_refused(self) -> None:
        """A statement of somebody else, of another time, changed or too long ends the connection."""
        good = self.signer.preface(CLIENT, NOW)
        other = OriginSigner(self.certificate, new_key()).preface(CLIENT, NOW)
        stranger = OriginSigner(self.certificate[:-1] + b"x", self.signer.key).preface(CLIENT, NOW)
        for data in (
            other,
            stranger,
            good.replace(b"198.51.100.7", b"198.51.100.8"),
            self.signer.preface(CLIENT, NOW - HOLDS_SECONDS - 1),
            self.signer.preface(CLIENT, NOW + HOLDS_SECONDS + 1),
            MAGIC + b"\xff\xff",
            MAGIC + b"\x00\x02{}\x00\x00",
            MAGIC + b"\x00\x02[]\x00\x00",
        ):
            behind, client = self.send(data + b"\x16\x03\x01")
            self.assertEqual(behind.received, b"")
            self.assertIsNotNone(client.reason)
            self.assertIsNotNone(behind.reason)
