"""An honest pair of transports in memory.

``pair(a, b)`` connects two protocols.  Bytes wait in a buffer until :meth:`Wire.flush` or
:meth:`Wire.step` moves them, so that a test decides how the network divides them.  A paused reader is
never delivered to, and a full buffer pauses the writer's producer, as a socket would.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

#: Bytes in flight above which a writer's producer is paused.
HIGH_WATER = 65536


@implementer(ITransport, IConsumer, IPushProducer)
class MemoryTransport:
    """One end of the wire."""

    disconnecting = False
    connected = True

    def __init__(self, wire: Wire, protocol: IProtocol, port: int) -> None:
        self.wire = wire
        self.protocol = protocol
        self.port = port
        self.peer: MemoryTransport
        self.outgoing = bytearray()
        self.paused = False
        self.write_closed = False
        self.eof_told = False
        self.producer: Any = None
        self.streaming = False
        self._producer_paused = False

    # What the protocol calls.

    def write(self, data: bytes) -> None:
        assert isinstance(data, (bytes, bytearray, memoryview)), type(data)
        if self.connected and not self.write_closed and not self.disconnecting:
            self.outgoing += data
            self._pressure()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        self.write_closed = True

    def abortConnection(self) -> None:
        if self.connected:
            self.outgoing.clear()
            self.lost(ConnectionAborted())
            self.peer.lost(ConnectionLost())

    def getPeer(self) -> IAddress:
        return IPv4Address("TCP", "127.0.0.1", self.peer.port)

    def getHost(self) -> IAddress:
        return IPv4Address("TCP", "127.0.0.1", self.port)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Accepted: there is nothing to delay."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("a producer is registered already")
        self.producer, self.streaming, self._producer_paused = producer, streaming, False
        if not self.connected or self.disconnecting:
            producer.stopProducing()
        elif not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.loseConnection()

    # What the wire calls.

    def _pressure(self) -> None:
        full = self.streaming and len(self.outgoing) > HIGH_WATER
        if self.producer is not None and full and not self._producer_paused:
            self._producer_paused = True
            self.producer.pauseProducing()

    def _relief(self) -> None:
        if self.producer is not None and not self.outgoing and (self._producer_paused or not self.streaming):
            self._producer_paused = False
            self.producer.resumeProducing()

    def step(self, limit: int | None = None) -> bool:
        """Move up to ``limit`` bytes to the peer, or tell it of the end; True if anything happened."""
        if not self.connected:
            return False
        if self.outgoing and not self.peer.paused:
            data = bytes(self.outgoing[:limit])
            del self.outgoing[: len(data)]
            self.peer.protocol.dataReceived(data)
            if self.connected:
                self._relief()
            return True
        if self.outgoing:
            return False
        if self.disconnecting:
            if self.producer is not None:
                # As Twisted's: a registered producer holds the close back until it is done.
                before = len(self.outgoing)
                self._relief()
                return len(self.outgoing) != before
            self.lost(ConnectionDone())
            self.peer.lost(ConnectionDone())
            return True
        if self.write_closed and not self.eof_told:
            self.eof_told = True
            protocol = IHalfCloseableProtocol(self.peer.protocol, None)
            if protocol is None:
                self.peer.loseConnection()
            else:
                protocol.readConnectionLost()
            return True
        return False

    def lost(self, reason: Exception) -> None:
        """The connection is gone; the protocol hears of it once."""
        if self.connected:
            self.connected = False
            self.disconnecting = True
            if self.producer is not None:
                producer, self.producer = self.producer, None
                producer.stopProducing()
            self.protocol.connectionLost(Failure(reason))


class Wire:
    """Two transports, and the network between them."""

    def __init__(self, client: IProtocol, server: IProtocol) -> None:
        self.client = MemoryTransport(self, client, 50000)
        self.server = MemoryTransport(self, server, 5432)
        self.client.peer, self.server.peer = self.server, self.client

    def connect(self) -> Wire:
        """Tell both protocols that they are connected, the server's first."""
        self.server.protocol.makeConnection(self.server)
        self.client.protocol.makeConnection(self.client)
        return self

    def step(self, limit: int | None = None) -> bool:
        """One move each way; True if anything happened."""
        moved = self.client.step(limit)
        return self.server.step(limit) or moved

    def flush(self, limit: int | None = None, turns: int = 100000) -> None:
        """Move until nothing moves any more, ``limit`` bytes at a time."""
        for _ in range(turns):
            if not self.step(limit):
                return
        raise AssertionError("the two ends never came to rest")

    def cut(self) -> None:
        """The network fails: what was in flight is gone."""
        for end in (self.client, self.server):
            end.outgoing.clear()
            end.lost(ConnectionLost())


def pair(client: IProtocol, server: IProtocol) -> Wire:
    """Two connected protocols; ``flush()`` the result to let bytes move."""
    return Wire(client, server).connect()
