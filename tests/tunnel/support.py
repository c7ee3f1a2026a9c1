"""Two ends of a tunnel in memory, and protocols that remember what they heard."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.tunnel.protocol import TunnelProtocol
from teleport_db.tunnel.stream import MuxStream
from tests.memory import pair

CLEAN = Failure(ConnectionDone())


class Recorder(Protocol):
    """Remembers."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.calls = 0
        self.ended: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.calls += 1

    def connectionLost(self, reason: Failure = CLEAN) -> None:
        assert self.ended is None, "the end was told twice"
        self.ended = reason


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Recorder):
    """Remembers, and hears of each direction's end."""

    read_ended = 0
    write_ended = 0

    def readConnectionLost(self) -> None:
        self.read_ended += 1

    def writeConnectionLost(self) -> None:
        self.write_ended += 1


class Recorders(Factory):
    """Builds recorders and keeps them."""

    noisy = False
    stopped = 0

    def __init__(self, protocol: Any = Recorder) -> None:
        self.kind = protocol
        self.built: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        self.address = addr
        self.built.append(self.kind())
        return self.built[-1]

    def stopFactory(self) -> None:
        self.stopped += 1


class Tunnel:
    """A connected pair: ``client`` dialled, ``server`` accepted."""

    def __init__(self, opened: Any = Recorder, accepted: Any = Recorder, **options: Any) -> None:
        self.clock = Clock()
        self.opening = Recorders(opened)
        self.accepting = Recorders(accepted)
        self.client_closed: list[Failure] = []
        self.server_closed: list[Failure] = []
        self.client = TunnelProtocol(True, clock=self.clock, closed=self.client_closed.append, **options)
        self.server = TunnelProtocol(
            False, clock=self.clock, accept=self.accepting, closed=self.server_closed.append, **options
        )
        self.wire = pair(self.client, self.server)

    def settle(self, limit: int | None = None) -> None:
        """Let turns pass and bytes move until both rest."""
        for _ in range(100000):
            moved = self.wire.step(limit)
            soon = any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls())
            soon = soon or bool(getattr(self.clock, "ending", ()))
            self.clock.advance(0)
            if not moved and not soon:
                return
        raise AssertionError("the tunnel never came to rest")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, a second a step, with the network at work."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.settle()

    def open(self) -> tuple[Any, Any]:
        """A new stream's two protocols, the opener's first."""
        here: list[Any] = []
        self.client.open_stream(self.opening).addCallback(here.append)
        self.settle()
        return here[0], self.accepting.built[-1]

    @staticmethod
    def stream(protocol: Any) -> MuxStream:
        assert isinstance(protocol.transport, MuxStream)
        return protocol.transport
