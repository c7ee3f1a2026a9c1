"""Streams of a tunnel where Twisted expects a network.

``StreamClientEndpoint(tunnel).connect(factory)`` opens a stream; ``StreamServerEndpoint(tunnel).listen(factory)``
takes those that the peer opens.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from teleport_db.tunnel.protocol import TunnelProtocol


@implementer(IStreamClientEndpoint)
class StreamClientEndpoint:
    """Opens a stream of ``tunnel`` for each connection."""

    def __init__(self, tunnel: TunnelProtocol) -> None:
        self._tunnel = tunnel

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """As :meth:`TunnelProtocol.open_stream`: ConnectionTrouble, LimitExceeded."""
        return self._tunnel.open_stream(protocolFactory)


@implementer(IStreamServerEndpoint)
class StreamServerEndpoint:
    """Takes the streams that the peer of ``tunnel`` opens; until it listens they are refused."""

    def __init__(self, tunnel: TunnelProtocol) -> None:
        self._tunnel = tunnel

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Take streams from now on; CannotListenError when somebody does already."""
        port = StreamPort(self._tunnel, protocolFactory)
        try:
            port.startListening()
        except CannotListenError:
            return fail()
        return succeed(port)


@implementer(IListeningPort)
class StreamPort:
    """The listening side of a tunnel."""

    def __init__(self, tunnel: TunnelProtocol, factory: IProtocolFactory) -> None:
        self._tunnel = tunnel
        self._factory = factory

    def startListening(self) -> None:
        """Take streams; CannotListenError when somebody does already."""
        if self._tunnel.accept is not None:
            taken = OSError("the tunnel's streams are taken already")
            raise CannotListenError("tunnel", 0, taken)
        self._tunnel.take(self._factory)

    def stopListening(self) -> Deferred[None]:
        """Refuse streams from now on; those there go on."""
        if self._tunnel.accept is self._factory:
            self._tunnel.take(None)
        return succeed(None)

    def getHost(self) -> IAddress:
        """The near end of the tunnel's connection."""
        return self._tunnel.host
