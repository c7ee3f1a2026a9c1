"""Bytes from one transport to another and back, untouched.

::

    a  <->  Side | Side  <->  b        a slow b pauses a, and the other way round
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.net.pace import Pace

log = Logger()

#: Seconds either end gets to take what was written to it, once the other is gone.
CLOSING_SECONDS = 30.0


@implementer(IHalfCloseableProtocol)
class Side(Protocol):
    """One end of a pair; what comes in here goes out at the other.

    :param clock: limits the time this end has to take its last bytes; None leaves that to the transport.
    """

    def __init__(self, clock: IReactorTime | None = None) -> None:
        self.clock = clock
        self._closing: IDelayedCall | None = None
        self.other: Side | None = None
        self.reason: Failure | None = None
        self._early: list[bytes] = []
        self._half_closed = False

    def dataReceived(self, data: bytes) -> None:
        other = self.other
        if other is None:
            self._early.append(data)
        else:
            other.transport.write(data)  # type: ignore[union-attr]

    def join(self, other: Side) -> None:
        """Make a pair of two connected sides; what came early goes on first."""
        self.other, other.other = other, self
        for here, there in ((self, other), (other, self)):
            early, here._early = here._early, []
            there.transport.writeSequence(early)  # type: ignore[union-attr]
        transports: tuple[Any, Any] = (self.transport, other.transport)
        transports[0].registerProducer(Pace(transports[1]), True)
        transports[1].registerProducer(Pace(transports[0]), True)
        for here, there in ((self, other), (other, self)):
            if here.reason is not None:
                there.end(here.reason)
            elif here._half_closed:
                here.readConnectionLost()

    def end(self, reason: Failure) -> None:
        """The other side is gone: this one goes the same way, cleanly or not."""
        transport: Any = self.transport
        transport.unregisterProducer()
        if reason.check(ConnectionDone):
            transport.loseConnection()
        elif hasattr(transport, "cutConnection"):
            # What came before the end still goes on: a query behind which a client dies is run, an error behind
            # which a database dies is read.
            transport.cutConnection()
        else:
            transport.abortConnection()
        self.limit_closing()

    def limit_closing(self) -> None:
        """A peer that does not take the last bytes is not waited for."""
        if self.clock is not None and self._closing is None and self.reason is None:
            transport: Any = self.transport
            self._closing = self.clock.callLater(CLOSING_SECONDS, transport.abortConnection)

    def readConnectionLost(self) -> None:
        if self.other is None:
            self._half_closed = True
        else:
            transport: Any = self.other.transport
            transport.unregisterProducer()
            transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """Nothing to do: the other direction goes on."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        if self.other is not None and self.other.reason is None:
            self.other.end(reason)


class _Far(Side):
    """The other end of a forwarder."""

    spoke = False

    def dataReceived(self, data: bytes) -> None:
        self.spoke = True
        super().dataReceived(data)


class Forwarder(Side):
    """A side that opens its other end itself.

    :param endpoint: where the bytes go.
    :param answered: called once, when the peer answers to what the other end has said: of TLS that is the
        rest of the handshake, and a ClientHello alone, which costs nothing to repeat, is not.
    :param preface: makes, of this side's peer, what the other end is told before the bytes.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        answered: Callable[[], None] | None = None,
        *,
        preface: Callable[[IAddress], bytes] = lambda peer: b"",
    ) -> None:
        super().__init__()
        self._preface = preface
        self._endpoint = endpoint
        self._answered = answered
        self._far: _Far | None = None
        self._connecting: Deferred[Any] | None = None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.pauseProducing()
        self._connecting = self._endpoint.connect(Factory.forProtocol(_Far))
        self._connecting.addCallbacks(self._made, self._failed)
        self._connecting.addErrback(lambda reason: log.failure("a stream could not be forwarded", reason))

    def dataReceived(self, data: bytes) -> None:
        if self._answered is not None and self._far is not None and self._far.spoke:
            answered, self._answered = self._answered, None
            answered()
        super().dataReceived(data)

    def _made(self, other: _Far) -> None:
        self._connecting = None
        self._far = other
        transport: Any = self.transport
        if preface := self._preface(transport.getPeer()):
            other.transport.write(preface)  # type: ignore[union-attr]
        self.join(other)
        if self.reason is None:
            transport.resumeProducing()

    def _failed(self, reason: Failure) -> None:
        self._connecting = None
        if self.reason is None:
            log.warn("a stream could not be forwarded: {reason}", reason=reason.getErrorMessage())
            transport: Any = self.transport
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._connecting is not None:
            self._connecting.cancel()
