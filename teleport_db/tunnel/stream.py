"""One stream of a tunnel: an ordinary Twisted transport.

::

    protocol ──write──▶ MuxStream ──as the window allows──▶ session ──one write a turn──▶ connection
             ◀─dataReceived──┘ queue while paused ◀── events ──┘
                    credit once delivered ──────────────────▶ session

What the protocol sees is what a TCP transport shows: ``loseConnection`` sends what was written and ends,
a registered producer holds the end back, both kinds of producers are driven, half-close goes both ways to
whoever provides ``IHalfCloseableProtocol``, and nothing is ever called back from within a call.

The module is long because a transport is one class: both directions and the end look at each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.mux.frames import MAX_BODY
from teleport_db.tunnel.address import StreamAddress

if TYPE_CHECKING:
    from teleport_db.tunnel.protocol import TunnelProtocol

log = Logger()

#: Bytes that wait for a window above which a producer is paused; it is resumed when none are left.
HIGH_WATER: Final = 64 * 1024


@implementer(ITransport, IConsumer, IPushProducer)
class MuxStream:
    """A transport whose bytes go through a tunnel.

    :ivar protocol: what is spoken over it.
    :ivar connected: until the protocol was told of the end.
    :ivar disconnecting: the end was asked for, here.
    """

    __slots__ = (
        "__weakref__",
        "_aborted",
        "_eof",
        "_eof_told",
        "_fin_sent",
        "_incoming",
        "_outgoing",
        "_paused",
        "_producer",
        "_producer_paused",
        "_queued",
        "_reason",
        "_streaming",
        "_tunnel",
        "_write_closing",
        "connected",
        "disconnecting",
        "factory",
        "protocol",
        "stream_id",
    )

    protocol: IProtocol

    def __init__(self, tunnel: TunnelProtocol, stream_id: int) -> None:
        self._tunnel = tunnel
        self.stream_id = stream_id
        self.factory: Any = None
        self.connected = True
        self.disconnecting = False
        # Out.
        self._outgoing: deque[bytes | memoryview] | None = None
        self._queued = 0
        self._write_closing = False
        self._fin_sent = False
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False
        # In.
        self._incoming: deque[bytes] | None = None
        self._paused = False
        self._eof = False
        self._eof_told = False
        # The end.
        self._aborted = False
        self._reason: Failure | None = None

    def __repr__(self) -> str:
        return f"<MuxStream {self.stream_id}{'' if self.connected else ' lost'}>"

    # ITransport.

    def getPeer(self) -> IAddress:
        """The far end."""
        return StreamAddress(self._tunnel.peer, self.stream_id)

    def getHost(self) -> IAddress:
        """The near end."""
        return StreamAddress(self._tunnel.host, self.stream_id)

    def write(self, data: bytes) -> None:
        """Send bytes, in this turn if the window allows."""
        if not self.connected or self._reason is not None or self._aborted or self._fin_sent:
            return
        if (self.disconnecting or self._write_closing) and self._producer is None:
            return
        if not isinstance(data, bytes):
            if isinstance(data, str):
                raise TypeError("a transport takes bytes, not str")
            data = bytes(data)
        if not data:
            return
        rest: bytes | memoryview = data
        if not self._queued:
            sent = self._tunnel.send_now(self.stream_id, data)
            if sent == len(data):
                if self._producer is not None and not self._streaming:
                    self._tunnel.needs_attention(self)
                return
            if sent:
                rest = memoryview(data)[sent:]
        if self._outgoing is None:
            self._outgoing = deque()
        self._outgoing.append(rest)
        self._queued += len(rest)
        self._tunnel.wants_to_send(self)
        if self._queued > HIGH_WATER and self._streaming and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send the pieces as one."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Send what was written, then end both directions.  What still comes in is not wanted."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._incoming = None
            self._tunnel.needs_attention(self)

    def loseWriteConnection(self) -> None:
        """Send what was written, then end this direction."""
        if self.connected and not self._write_closing:
            self._write_closing = True
            self._tunnel.needs_attention(self)

    def abortConnection(self) -> None:
        """End both directions at once; what was written and not sent is lost."""
        if self.connected and not self._aborted:
            self._aborted = self.disconnecting = True
            self._drop()
            self._tunnel.session.reset(self.stream_id)
            if self._reason is None:
                self._reason = Failure(ConnectionAborted())
            self._tunnel.needs_attention(self)

    # IConsumer.

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let ``producer`` write as fast as the far end reads."""
        if self._producer is not None:
            raise RuntimeError(f"cannot register {producer!r}: {self._producer!r} was never unregistered")
        if not self.connected or self._reason is not None:
            producer.stopProducing()
            return
        self._producer, self._streaming, self._producer_paused = producer, streaming, False
        if not streaming:
            producer.resumeProducing()
        elif self._queued > HIGH_WATER:
            self._producer_paused = True
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """The producer has written all that it had."""
        self._producer = None
        self._streaming = self._producer_paused = False
        if self.disconnecting or self._write_closing:
            self._tunnel.needs_attention(self)

    # IPushProducer.

    def pauseProducing(self) -> None:
        """Deliver nothing more for now; the window stays shut for what waits here."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Go on delivering, from the next turn."""
        if self._paused:
            self._paused = False
            if self._incoming or self._eof or self._reason is not None:
                self._tunnel.needs_attention(self)

    def stopProducing(self) -> None:
        """As :meth:`loseConnection`."""
        self.loseConnection()

    # What the tunnel calls.

    def connect(self, protocol: IProtocol) -> None:
        """Give the stream its protocol."""
        self.protocol = protocol
        self._tunnel.register(self)
        try:
            protocol.makeConnection(self)
        except Exception:
            self._broken()

    def data_arrived(self, data: bytes) -> None:
        """Deliver, or keep while the protocol is paused."""
        if self.disconnecting:
            return
        if self._paused or self._incoming:
            if self._incoming is None:
                self._incoming = deque()
            self._incoming.append(data)
            return
        try:
            self.protocol.dataReceived(data)
        except Exception:
            self._broken()
        else:
            self._tunnel.session.credit(self.stream_id, len(data))

    def end_arrived(self) -> None:
        """The peer sends nothing more."""
        self._eof = True
        if not self._incoming and not self._paused:
            self._tell_end()

    def lost(self, reason: Failure) -> None:
        """The stream is gone below.  What the peer had sent *whole* is still delivered first."""
        if self.connected and self._reason is None:
            self._reason = reason
            self._drop(incoming=not self._eof)
            if not self._incoming:
                self._finish()

    def send_queued(self, most: int) -> int:
        """Hand up to ``most`` waiting bytes to the session; returns how many the window took."""
        outgoing, session = self._outgoing, self._tunnel.session
        most = min(most, session.window(self.stream_id)) if outgoing else 0
        sent = 0
        while outgoing and sent < most:
            data = outgoing.popleft()
            size = len(data)
            if size < most - sent and len(outgoing) > 0 and len(outgoing[0]) < MAX_BODY:
                data, size = self._join(data, most - sent)
            taken = session.send(self.stream_id, data if size <= most - sent else memoryview(data)[: most - sent])
            if taken < size:
                outgoing.appendleft(memoryview(data)[taken:])
            sent += taken
        self._queued -= sent
        return sent

    @property
    def queued(self) -> int:
        """Bytes that wait for the window, or for the connection."""
        return self._queued

    def attend(self) -> None:
        """Do what was put off to this turn: deliver, ask a producer for more, end."""
        if self.connected and not self._paused and not self.disconnecting:
            self._deliver_queued()
        if not self.connected:
            return
        if self._reason is not None:
            if not self._incoming:
                self._finish()
        elif self._queued == 0:
            try:
                self._drained()
            except Exception:
                self._broken()

    # Inside.

    def _join(self, first: bytes | memoryview, most: int) -> tuple[bytes | memoryview, int]:
        """Small pieces that waited together travel in one frame."""
        assert self._outgoing is not None
        most = min(most, MAX_BODY)
        parts, size = [first], len(first)
        while self._outgoing and size + len(self._outgoing[0]) <= most:
            part = self._outgoing.popleft()
            size += len(part)
            parts.append(part)
        return (b"".join(parts), size) if len(parts) > 1 else (first, size)

    def _deliver_queued(self) -> None:
        while self._incoming and not self._paused:
            parts, size = [self._incoming.popleft()], 0
            size = len(parts[0])
            while self._incoming and size + len(self._incoming[0]) <= MAX_BODY:
                parts.append(self._incoming.popleft())
                size += len(parts[-1])
            try:
                self.protocol.dataReceived(b"".join(parts) if len(parts) > 1 else parts[0])
            except Exception:
                self._broken()
            else:
                self._tunnel.session.credit(self.stream_id, size)
        if self._eof and not self._incoming and not self._paused:
            self._tell_end()

    def _tell_end(self) -> None:
        """The peer's end, once: to the protocol if it can hear of it, as the end of all otherwise."""
        if self._eof_told or self.disconnecting:
            return
        self._eof_told = True
        half = IHalfCloseableProtocol(self.protocol, None)
        try:
            if half is not None:
                half.readConnectionLost()
            else:
                # As for TCP, nobody is waited for: what was written is sent, what a producer has left is not.
                producer, self._producer = self._producer, None
                self._streaming = self._producer_paused = False
                if producer is not None:
                    producer.stopProducing()
                self.loseConnection()
        except Exception:
            self._broken()
        else:
            if self._fin_sent and half is not None:
                self.lost(Failure(ConnectionDone()))

    def _drained(self) -> None:
        """Nothing waits to be sent: more is asked for, or what was to come after it is done."""
        if self._producer is not None:
            if not self._streaming:
                self._producer.resumeProducing()
            elif self._producer_paused:
                self._producer_paused = False
                self._producer.resumeProducing()
            return
        if self.disconnecting:
            self._tunnel.close_stream(self)
            self._reason = Failure(ConnectionDone())
            self._finish()
        elif self._write_closing and not self._fin_sent:
            self._fin_sent = True
            self._tunnel.session.half_close(self.stream_id)
            self._tell_write_closed()

    def _tell_write_closed(self) -> None:
        half = IHalfCloseableProtocol(self.protocol, None)
        try:
            if half is not None:
                half.writeConnectionLost()
        except Exception:
            self._broken()
            return
        if self._eof_told and self.connected:
            self.lost(Failure(ConnectionDone()))

    def _broken(self) -> None:
        """The protocol raised: its stream ends, as a connection would, and no other does."""
        reason = Failure()
        log.failure("{stream} of {protocol} failed", failure=reason, stream=self, protocol=type(self.protocol).__name__)
        if self.connected and self._reason is None:
            self._tunnel.session.reset(self.stream_id)
            self.disconnecting = True
            self._drop()
            self._reason = reason
            self._finish()

    def _drop(self, incoming: bool = True) -> None:
        self._outgoing = None
        self._queued = 0
        if incoming:
            self._incoming = None

    def _finish(self) -> None:
        """Tell the protocol of the end, once."""
        if not self.connected:
            return
        self.connected = False
        self.disconnecting = True
        self._drop()
        self._tunnel.stream_finished(self)
        producer, self._producer = self._producer, None
        try:
            if producer is not None:
                producer.stopProducing()
            self.protocol.connectionLost(self._reason or Failure(ConnectionDone()))
        except Exception:
            log.failure("{stream} of {protocol} failed in its end", stream=self, protocol=type(self.protocol).__name__)
        if self.factory is not None:
            self.factory.doStop()
