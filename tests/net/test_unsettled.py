"""Strangers of one address are bounded, and keep nobody out who has a certificate."""

from __future__ import annotations

import ssl
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.net.tlslayer import TLSLayer, TLSServerFactory
from teleport_db.net.unsettled import Unsettled
from tests.memory import Wire
from tests.net import material
from tests.net.material import Recorder

LIMIT = 4


class UnsettledTests(SynchronousTestCase):
    """The counting."""

    def test_counts(self) -> None:
        """By address, the oldest first; one that is removed twice was there once."""
        here, there = (IPv4Address("TCP", host, 1) for host in ("192.0.2.1", "192.0.2.2"))
        unsettled = Unsettled(2)
        unsettled.add(here, "a")
        unsettled.add(here, "b")
        unsettled.add(there, "c")
        self.assertEqual((unsettled.full(here), unsettled.full(there), unsettled.oldest(here)), (True, False, "a"))
        for _ in range(2):
            unsettled.remove(here, "a")
            self.assertEqual(unsettled.counts, {"192.0.2.1": 1, "192.0.2.2": 1})
        unsettled.remove(here, "b")
        unsettled.remove(there, "c")
        self.assertEqual(unsettled.counts, {})


class ListenerTests(SynchronousTestCase):
    """A listener that asks for certificates and takes connections without one."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.unsettled = Unsettled(LIMIT)
        context = material.server_context(clients=True)
        context.verify_mode = ssl.CERT_OPTIONAL
        self.factory = TLSServerFactory(
            Factory.forProtocol(Recorder), context, clock=self.clock, unsettled=self.unsettled
        )

    def connect(self, peer: Any, host: str = "192.0.2.1") -> Wire:
        layer = self.factory.buildProtocol(IPv4Address("TCP", host, 50000))
        return Wire(peer, layer).connect()

    def shake(self, *, certificate: bool) -> tuple[Recorder, Wire]:
        above = Recorder()
        context = material.client_context(pem=material.client_pem() if certificate else None)
        wire = self.connect(
            TLSLayer(above, context, server_side=False, server_hostname="server.test", clock=self.clock)
        )
        wire.flush()
        return above, wire

    def test_silent(self) -> None:
        """Of those that say nothing the oldest makes room; another address is not touched, and time ends them all."""
        wires = [self.connect(Recorder()) for _ in range(LIMIT)]
        other = self.connect(Recorder(), "192.0.2.2")
        self.connect(Recorder())
        self.assertEqual([wire.server.connected for wire in (*wires, other)], [False, *[True] * LIMIT])
        self.assertEqual(self.unsettled.counts, {"192.0.2.1": LIMIT, "192.0.2.2": 1})
        self.clock.advance(60)
        self.assertEqual(self.unsettled.counts, {})

    def test_certificate(self) -> None:
        """Who has shown a certificate is not counted and stays; he comes in however many strangers there are."""
        first, _ = self.shake(certificate=True)
        self.assertEqual(self.unsettled.counts, {})
        for _ in range(3 * LIMIT):
            self.connect(Recorder())
        second, _ = self.shake(certificate=True)
        for _ in range(3 * LIMIT):
            self.connect(Recorder())
        for above in (first, second):
            self.assertEqual(above.events, ["made"])

    def test_stranger(self) -> None:
        """A handshake without a certificate says nothing of who it is: it counts until its end."""
        _, wire = self.shake(certificate=False)
        self.assertEqual(self.unsettled.counts, {"192.0.2.1": 1})
        wire.cut()
        self.assertEqual(self.unsettled.counts, {})
