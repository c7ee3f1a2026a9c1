"""The TLS layer under random operations and random bytes, seeded."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import ConnectionTrouble, TeleportDBError
from teleport_db.net.tlslayer import TLSLayer
from tests.memory import Wire, pair
from tests.net import material
from tests.net.material import HalfRecorder, Recorder

SERVER = material.server_context()
CLIENT = material.client_context()


class Run:
    """Two ends of one or two layers, and what each has been told to send."""

    def __init__(self, dice: random.Random, half: bool, depth: int) -> None:
        self.dice = dice
        self.clock = Clock()
        kind = HalfRecorder if half else Recorder
        self.ends = [kind(on_data=self.within), kind(on_data=self.within)]
        self.failures: list[Failure] = []
        client: Any = self.ends[0]
        server: Any = self.ends[1]
        for _ in range(depth):
            client = TLSLayer(client, CLIENT, server_side=False, clock=self.clock, failed=self.failures.append)
            server = TLSLayer(server, SERVER, server_side=True, clock=self.clock, failed=self.failures.append)
        self.wire: Wire = pair(client, server)
        self.wire.flush(dice.choice([1, 100, None]))
        self.sent = [b"", b""]
        self.writable = [True, True]
        self.half = half

    def within(self, protocol: Recorder, data: bytes) -> None:
        """What a protocol may do inside ``dataReceived``."""
        choice = self.dice.random()
        if choice < 0.1:
            protocol.transport.pauseProducing()
        elif choice < 0.15:
            protocol.transport.pauseProducing()
            protocol.transport.resumeProducing()
        elif choice < 0.25:
            self.write(self.ends.index(protocol), 50)

    def write(self, end: int, most: int) -> None:
        if self.writable[end] and self.ends[end].reason is None:
            data = self.dice.randbytes(self.dice.choice([1, 100, most]))
            self.sent[end] += data
            self.ends[end].transport.write(data)

    def step(self) -> None:
        end = self.dice.randrange(2)
        transport: Any = self.ends[end].transport
        choice = self.dice.random()
        if choice < 0.4:
            self.write(end, 60000)
        elif choice < 0.5:
            transport.pauseProducing()
        elif choice < 0.6:
            transport.resumeProducing()
        elif choice < 0.62 and self.half:
            self.writable[end] = False
            transport.loseWriteConnection()
        else:
            for _ in range(self.dice.randrange(10)):
                self.wire.step(self.dice.choice([1, 10, 1000, 20000, None]))

    def rest(self) -> None:
        for _ in range(100000):
            for end in self.ends:
                if end.reason is None:
                    end.transport.resumeProducing()
            if not self.wire.step():
                return
        raise AssertionError("never came to rest")


class RandomOperations(SynchronousTestCase):
    """Whatever is done, nothing is lost, doubled or out of order."""

    def run_one(self, seed: int, half: bool, depth: int) -> None:
        dice = random.Random(seed)
        run = Run(dice, half, depth)
        self.assertEqual([end.events for end in run.ends], [["made"], ["made"]])
        for _ in range(40):
            run.step()
        run.rest()
        self.assertEqual(run.failures, [])
        for end in (0, 1):
            self.assertEqual(run.ends[1 - end].data, run.sent[end], (seed, half, depth))
            self.assertEqual(run.ends[1 - end].events.count("read lost"), 0 if run.writable[end] else 1)
        closer = dice.randrange(2)
        run.write(closer, 30000)
        run.writable[0] = run.writable[1] = False
        run.ends[closer].transport.loseConnection()
        run.rest()
        run.clock.advance(20)
        for end in run.ends:
            self.assertEqual(end.events.count("lost"), 1, (seed, half, depth))
        if not half:
            self.assertEqual(run.ends[1 - closer].data, run.sent[closer])
            self.assertIsInstance(run.ends[0].reason.value, ConnectionDone)
            self.assertIsInstance(run.ends[1].reason.value, ConnectionDone)
        self.assertEqual(run.clock.getDelayedCalls(), [])

    def test_one_layer(self) -> None:
        """TLS over the wire."""
        for seed in range(150):
            self.run_one(seed, seed % 2 == 0, 1)

    def test_two_layers(self) -> None:
        """TLS over TLS over the wire."""
        for seed in range(80):
            self.run_one(1000 + seed, seed % 2 == 0, 2)

    def test_ended_anyhow(self) -> None:
        """Cut, aborted or truncated at any point: each end is told once, and only a prefix has arrived."""
        for seed in range(200):
            dice = random.Random(seed)
            run = Run(dice, seed % 2 == 0, 1 + seed % 3 % 2)
            for _ in range(dice.randrange(30)):
                run.step()
            how = dice.randrange(4)
            if how == 0:
                run.wire.cut()
            elif how == 1:
                run.wire.client.abortConnection()
            elif how == 2:
                run.wire.client.loseConnection()
            else:
                run.ends[0].transport.abortConnection()
            run.rest()
            run.clock.advance(20)
            run.rest()
            for end in (0, 1):
                self.assertEqual(run.ends[end].events.count("lost"), 1, (seed, how))
                self.assertTrue(run.sent[1 - end].startswith(run.ends[end].data), (seed, how))
                self.assertIsInstance(run.ends[end].reason.value, (ConnectionLost, ConnectionAborted, ConnectionDone))
            self.assertEqual(run.clock.getDelayedCalls(), [], (seed, how))


class RandomBytes(SynchronousTestCase):
    """A hostile peer's bytes lead to a refusal with words, and to nothing else."""

    def feed(self, server_side: bool, data: bytes, dice: random.Random) -> Failure | None:
        clock = Clock()
        failures: list[Failure] = []
        upper = Recorder()
        layer = TLSLayer(
            upper,
            SERVER if server_side else CLIENT,
            server_side=server_side,
            clock=clock,
            failed=failures.append,
        )
        transport = StringTransport()
        layer.makeConnection(transport)
        cut = dice.randrange(len(data) + 1)
        layer.dataReceived(data[:cut])
        layer.dataReceived(data[cut:])
        clock.advance(30)
        layer.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(upper.events, [])
        self.assertEqual(len(failures), 1)
        self.assertIsInstance(failures[0].value, TeleportDBError)
        self.assertTrue(str(failures[0].value))
        self.assertEqual(clock.getDelayedCalls(), [])
        return failures[0]

    def test_junk(self) -> None:
        """Bytes that are nothing, with and without the look of a record."""
        dice = random.Random(1)
        for _ in range(500):
            junk = dice.randbytes(dice.randrange(1, 300))
            if dice.random() < 0.7:
                junk = (
                    bytes([dice.choice([20, 21, 22, 23])])
                    + b"\x03\x03"
                    + (len(junk) & 0xFFFF).to_bytes(2, "big")
                    + junk
                )
            self.feed(dice.random() < 0.5, junk, dice)

    def test_mutated_flights(self) -> None:
        """First flights of real peers with bytes changed, dropped and doubled."""
        dice = random.Random(2)
        for _ in range(500):
            server_side = dice.random() < 0.5
            flight = bytearray(self.flight(server_side))
            for _ in range(dice.randrange(1, 6)):
                at = dice.randrange(len(flight))
                what = dice.randrange(3)
                if what == 0:
                    flight[at] ^= 1 << dice.randrange(8)
                elif what == 1:
                    del flight[at : at + dice.randrange(1, 20)]
                else:
                    flight[at:at] = flight[at : at + dice.randrange(1, 20)]
            self.feed(server_side, bytes(flight), dice)

    def flight(self, server_side: bool) -> bytes:
        """What a server reads first, or what a client of another handshake read."""
        client, server = (
            TLSLayer(Recorder(), CLIENT, server_side=False, clock=Clock()),
            TLSLayer(Recorder(), SERVER, server_side=True, clock=Clock()),
        )
        wire = pair(client, server)
        if server_side:
            return bytes(wire.client.outgoing)
        wire.client.step()
        return bytes(wire.server.outgoing)

    def test_trouble(self) -> None:
        """Not every stranger is an authentication failure: most just speak something else."""
        failure = self.feed(True, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", random.Random(0))
        assert failure is not None
        self.assertIsInstance(failure.value, ConnectionTrouble)
