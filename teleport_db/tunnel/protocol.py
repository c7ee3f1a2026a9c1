"""The tunnel: many streams over one connection.

::

    agent (dials: client)                                      proxy (accepts: server)
      TunnelProtocol(True, accept=sessions)  ◀── one connection ──▶  TunnelProtocol(False, accept=api)
        ping every 15 s, dead after 30 s without an answer, either way
        the frames of one reactor turn leave as one write
        go away: no new streams, those there run to their end

The connection below is written to as fast as it takes and no faster: while it holds back, bytes wait in
their streams, each of which pauses its own producer; then the streams take turns, a frame each.  It is
always read: what a stream does not read is bounded by that stream's window.

The module is long because turns, events and the end of a connection work on the same few collections of
streams; one stream is :mod:`teleport_db.tunnel.stream`, the signs of life are :mod:`teleport_db.tunnel.keepalive`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost, NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.errors import ConnectionTrouble, LimitExceeded, TeleportDBError
from teleport_db.interfaces import ITurns
from teleport_db.mux.events import (
    Acknowledged,
    DataReceived,
    Event,
    Failed,
    GoneAway,
    HalfClosed,
    Opened,
    PingAnswered,
    WasReset,
    WindowOpened,
)
from teleport_db.mux.frames import HEADER_SIZE, MAX_BODY
from teleport_db.mux.limits import Limits
from teleport_db.mux.session import Session
from teleport_db.tunnel.keepalive import Keepalive
from teleport_db.tunnel.stream import MuxStream

log = Logger()

#: Bytes of data that are put into one write.
TURN: Final = 256 * 1024
#: Seconds a connection gets to take the last word before it is cut.
LAST_WORD: Final = 30.0


@implementer(IPushProducer)
class TunnelProtocol(Protocol):
    """One end of a tunnel, above any transport.

    :param client: True on the side that dialled.
    :param clock: gives turns and time.
    :param accept: builds the protocols of streams that the peer opens; None refuses them.
    :param max_streams: at a time, whoever opened them; ``limits`` says all else that is bounded.
    :param keepalive: seconds between two pings.
    :param keepalive_timeout: seconds without the answer to one after which the tunnel is dead.
    :param linger: seconds that a stream closed here waits for the peer's end before it is reset.
    :param closed: told once why the tunnel ended, after all its streams were.
    :param peer_leaving: told when the peer takes no more streams, so that another tunnel may be dialled.
    :ivar session: the :class:`~teleport_db.mux.session.Session`.
    """

    def __init__(
        self,
        client: bool,
        *,
        clock: IReactorTime,
        accept: IProtocolFactory | None = None,
        max_streams: int = 1000,
        keepalive: float = 15.0,
        keepalive_timeout: float = 30.0,
        linger: float = 30.0,
        limits: Limits | None = None,
        closed: Callable[[Failure], None] | None = None,
        peer_leaving: Callable[[], None] | None = None,
    ) -> None:
        self.session = Session(client, limits=limits or Limits(streams=max_streams))
        self.accept = accept
        self._clock = clock
        self._keepalive = Keepalive(
            clock, keepalive, keepalive_timeout, ping=self.session.ping, dead=self._unanswered, each=self._interval
        )
        self._linger = linger
        self._closed = closed
        self._peer_leaving = peer_leaving
        self._streams: dict[int, MuxStream] = {}
        self._turn_due = False
        self._turn_call: IDelayedCall | None = None  # where the reactor knows no end of a turn
        self._at_turns_end: Callable[[Callable[[], None]], object] = (
            clock.at_turns_end if ITurns.providedBy(clock) else self._call_later
        )
        self._congested = False
        #: Streams with bytes to send and a window to send them in, the next one first.
        self._ready: dict[MuxStream, None] = {}
        #: Streams with something put off to the next turn.
        self._attention: dict[MuxStream, None] = {}
        #: Streams closed here whose peer has not ended them yet, and until when it may.
        self._lingering: dict[int, float] = {}
        self._waiting: dict[Deferred[IProtocol], IProtocolFactory] = {}
        self._drain_call: IDelayedCall | None = None
        self._last_word_call: IDelayedCall | None = None
        self._drained: list[Deferred[None]] = []
        self._draining = False
        self._reason: Failure | None = None

    # For whoever owns the tunnel.

    @property
    def peer(self) -> IAddress:
        """The far end of the connection."""
        address: IAddress = self._carrier().getPeer()
        return address

    @property
    def host(self) -> IAddress:
        """The near end of the connection."""
        address: IAddress = self._carrier().getHost()
        return address

    @property
    def round_trip(self) -> float | None:
        """Seconds that the last ping took, or None."""
        return self._keepalive.round_trip

    @property
    def stream_count(self) -> int:
        """Streams that are in use here."""
        return len(self._streams)

    @property
    def usable(self) -> bool:
        """Whether a stream may be opened: connected, and neither side is leaving."""
        session = self.session
        return self.connected == 1 and not (
            self._reason is not None or self._draining or session.going_away or session.gone_away
        )

    def open_stream(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open a stream and connect a protocol of ``factory`` to it, without waiting for the peer.

        A peer that refuses the stream is seen as ``connectionLost``.  Fails with ConnectionTrouble when the
        tunnel is not usable and LimitExceeded when it is full; waits, and may be cancelled, while the peer
        is slow in taking streams.
        """
        if not self.usable:
            return fail(ConnectionTrouble("the tunnel is closed" if not self.connected else "the tunnel is closing"))
        if len(self.session) + len(self._waiting) >= self.session.limits.streams:
            return fail(LimitExceeded("the tunnel has as many streams as it may have"))

        def cancel(result: Deferred[IProtocol]) -> None:
            self._waiting.pop(result, None)

        result: Deferred[IProtocol] = Deferred(cancel)
        self._waiting[result] = factory
        self._open_waiting()
        return result

    def drain(self, grace: float) -> Deferred[None]:
        """Take no more streams, wait up to ``grace`` seconds for those there, close.

        Fires when the connection is closed.
        """
        result: Deferred[None] = Deferred()
        if not self.connected:
            result.callback(None)
            return result
        self._drained.append(result)
        if not self._draining:
            self._draining = True
            self.session.go_away()
            self._refuse_waiting()
            self._drain_call = self._clock.callLater(grace, self._drain_ends)
            self._schedule()
        return result

    def take(self, factory: IProtocolFactory | None) -> None:
        """Build the protocols of streams that the peer opens from now on; None refuses them."""
        before, self.accept = self.accept, factory
        if self.connected:
            for changed, call in ((factory, "doStart"), (before, "doStop")):
                if changed is not None:
                    getattr(changed, call)()

    def close(self) -> None:
        """Close the tunnel now; its streams are lost."""
        self._end(Failure(ConnectionDone()))

    # IProtocol.

    def connectionMade(self) -> None:
        """The connection is there: the first ping goes out after one interval."""
        self._carrier().registerProducer(self, True)
        if self.accept is not None:
            self.accept.doStart()
        self._keepalive.start()

    def dataReceived(self, data: bytes) -> None:
        """Frames of the peer."""
        session, streams = self.session, self._streams
        stream_id = session.whole(data)
        if stream_id:  # the usual case
            stream = streams.get(stream_id)
            if stream is not None:
                stream.data_arrived(data[HEADER_SIZE:])
        else:
            for event in session.receive(data):
                if type(event) is DataReceived:
                    stream = streams.get(event[0])
                    if stream is not None:
                        stream.data_arrived(event[1])
                else:
                    self._happened(event)
        if not self._turn_due and (session.has_data or self._draining):
            self._schedule()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """The connection is gone, and all streams with it."""
        self.connected = 0
        self._stop(self._reason or reason)
        turn, self._turn_call = self._turn_call, None
        if turn is not None and turn.active():
            turn.cancel()
            self._turn_due = False
        word, self._last_word_call = self._last_word_call, None
        if word is not None and word.active():
            word.cancel()
        if self._attention:
            self._schedule()  # Of streams that have data to deliver first.
        if self.accept is not None:
            self.accept.doStop()
        drained, self._drained = self._drained, []
        for waiting in drained:
            waiting.callback(None)
        closed, self._closed = self._closed, None
        if closed is not None:
            closed(self._reason or reason)

    # IPushProducer, for the connection below.

    def pauseProducing(self) -> None:
        """The connection takes no more: bytes wait in their streams."""
        self._congested = True

    def resumeProducing(self) -> None:
        """The connection takes more."""
        self._congested = False
        if self._ready or self.session.has_data:
            self._schedule()

    def stopProducing(self) -> None:
        """The connection is gone; ``connectionLost`` follows."""

    # What the streams call.

    def send_now(self, stream_id: int, data: bytes) -> int:
        """Put bytes into this turn's write, unless others wait for theirs; returns how many went in."""
        session = self.session
        if self._congested or self._ready or session.pending >= TURN:
            return 0
        if not self._turn_due:
            self._turn_due = True
            self._at_turns_end(self._turn)
        return session.send(stream_id, data if len(data) <= TURN else memoryview(data)[:TURN])

    def wants_to_send(self, stream: MuxStream) -> None:
        """A stream has bytes that wait: it takes its place in the row once it has a window."""
        if stream not in self._ready and self.session.window(stream.stream_id):
            self._ready[stream] = None
            if not self._congested:
                self._schedule()

    def needs_attention(self, stream: MuxStream) -> None:
        """Call ``stream.attend()`` in the next turn."""
        self._attention[stream] = None
        self._schedule()

    def close_stream(self, stream: MuxStream) -> None:
        """A stream has sent all it had and reads no more."""
        self.session.close(stream.stream_id)
        if stream.stream_id in self.session:
            self._lingering[stream.stream_id] = self._clock.seconds() + self._linger

    def stream_finished(self, stream: MuxStream) -> None:
        """A stream's protocol is about to hear of its end."""
        self._streams.pop(stream.stream_id, None)
        self._ready.pop(stream, None)
        if self._draining and not self._streams:
            self._schedule()

    # Turns.

    def _schedule(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._at_turns_end(self._turn)

    def _call_later(self, turn: Callable[[], None]) -> None:
        self._turn_call = self._clock.callLater(0, turn)

    def _turn(self) -> None:
        """Once a reactor turn: what was put off, then one write."""
        self._turn_due = False
        if self._attention:
            attention, self._attention = self._attention, {}
            for stream in attention:
                stream.attend()
        if not self.connected or self._reason is not None:
            return
        if not self._congested:
            if self._ready:
                self._fill()
            data = self.session.data_to_send()
            if data:
                self._carrier().write(data)
            if self._ready and not self._congested:
                self._schedule()
        if self._draining and not self._congested and not self._streams and not self.session:
            self._end(Failure(ConnectionDone()))

    def _fill(self) -> None:
        """Let the streams that wait take turns, a frame each, until the write is large enough."""
        ready, session = self._ready, self.session
        while ready and session.pending < TURN:
            stream = next(iter(ready))
            del ready[stream]
            stream.send_queued(MAX_BODY)
            if not stream.queued:
                stream.attend()
            elif session.window(stream.stream_id):
                ready[stream] = None

    # Events.

    def _happened(self, event: Event) -> None:
        """Everything but data."""
        match event:
            case WindowOpened(stream_id):
                stream = self._streams.get(stream_id)
                if stream is not None and stream.queued:
                    self.wants_to_send(stream)
            case Opened(stream_id):
                self._accept_stream(stream_id)
            case Acknowledged():
                self._open_waiting()
            case HalfClosed(stream_id):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.end_arrived()
            case WasReset(stream_id, refused):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    text = "the peer refused the stream" if refused else "the peer reset the stream"
                    stream.lost(Failure(ConnectionLost(text)))
                self._open_waiting()
            case PingAnswered(value):
                self._keepalive.answered(value)
            case GoneAway(code):
                self._peer_leaves(code)
            case Failed(error):
                log.warn("tunnel with {peer}: {error}", peer=self.peer, error=error)
                self._end(Failure(error))

    def _accept_stream(self, stream_id: int) -> None:
        if stream_id not in self.session:
            return  # The peer reset it in the same breath: nothing is built for that.
        if self.accept is None or self._draining or self._reason is not None:
            self.session.reset(stream_id)
            return
        stream = MuxStream(self, stream_id)
        try:
            protocol = self.accept.buildProtocol(stream.getPeer())
        except Exception:
            log.failure("no protocol for stream {stream_id}", stream_id=stream_id)
            protocol = None
        if protocol is None:
            self.session.reset(stream_id)
            return
        self.session.accept(stream_id)
        stream.connect(protocol)

    def _open_waiting(self) -> None:
        """Open the streams that were asked for, as far as the peer keeps up."""
        session = self.session
        while self._waiting and session.unacknowledged < session.limits.backlog:
            result = next(iter(self._waiting))
            factory = self._waiting.pop(result)
            try:
                protocol = self._open(factory)
            except Exception:
                result.errback(Failure())
            else:
                result.callback(protocol)

    def _open(self, factory: IProtocolFactory) -> IProtocol:
        stream_id = self.session.open_stream()
        self._schedule()
        stream = MuxStream(self, stream_id)
        factory.doStart()
        try:
            protocol = factory.buildProtocol(stream.getPeer())
            if protocol is None:
                raise NoProtocol()
        except BaseException:
            self.session.reset(stream_id)
            factory.doStop()
            raise
        stream.factory = factory
        stream.connect(protocol)
        return protocol

    def register(self, stream: MuxStream) -> None:
        """A stream has its protocol."""
        self._streams[stream.stream_id] = stream

    def _peer_leaves(self, code: int) -> None:
        log.info("tunnel with {peer}: the peer takes no more streams, code {code}", peer=self.peer, code=code)
        self._refuse_waiting()
        if self._peer_leaving is not None:
            self._peer_leaving()

    def _refuse_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for result in waiting:
            result.errback(ConnectionTrouble("the tunnel is closing"))

    # Time.

    def _interval(self) -> None:
        """Once an interval: floods are counted anew, and streams that linger too long are reset."""
        self.session.new_interval()
        now = self._clock.seconds()
        for stream_id in [stream_id for stream_id, until in self._lingering.items() if until <= now]:
            del self._lingering[stream_id]
            self.session.reset(stream_id)
        self._schedule()

    def _unanswered(self) -> None:
        text = f"the other end of the tunnel has not answered for {self._keepalive.timeout:g} s"
        self._end(Failure(ConnectionTrouble(text)), abort=True)

    def _drain_ends(self) -> None:
        self._drain_call = None
        self._end(Failure(ConnectionDone()))

    # The end.

    def _end(self, reason: Failure, *, abort: bool = False) -> None:
        """This side ends the tunnel: the streams hear of it now, the peer by its last frames."""
        if not self.connected or self._reason is not None:
            return
        self._reason = reason
        self._stop(reason)
        carrier = self._carrier()
        carrier.unregisterProducer()
        if abort:
            carrier.abortConnection()
            return
        carrier.write(self.session.data_to_send())
        carrier.loseConnection()
        self._last_word_call = self._clock.callLater(LAST_WORD, carrier.abortConnection)

    def _stop(self, reason: Failure) -> None:
        """No more timers, no more streams; once or twice."""
        self._keepalive.stop()
        if self._drain_call is not None and self._drain_call.active():
            self._drain_call.cancel()
        self._drain_call = None
        self._refuse_waiting()
        self._lingering.clear()
        text = str(reason.value) if isinstance(reason.value, TeleportDBError) else "the tunnel was closed"
        for stream in list(self._streams.values()):
            stream.lost(Failure(ConnectionLost(text)))

    def _carrier(self) -> Any:
        """The transport below; None of Twisted's interfaces has all that a connection can do."""
        return self.transport
