"""One yamux session: bytes in, events out; calls in, bytes out.

::

    dialling side (client, odd ids)                     accepting side (server, even ids)
      open_stream()   window update, SYN  ──────────▶  Opened
      send()          data                ──────────▶  DataReceived
      Acknowledged    ◀──────────  window update, ACK  accept()
      WindowOpened    ◀───────────────  window update  credit(), once the bytes have left
      half_close()    window update, FIN  ──────────▶  HalfClosed
      HalfClosed      ◀──────────  window update, FIN  half_close(): the stream is gone

Whatever is sent waits until :meth:`Session.data_to_send` takes all of it at once.  Bodies are passed on
as they arrive, so that no frame is ever collected: what is kept between two calls is the start of a
header.  A stream that is not read stops its own window and nothing else.

A session is ahead of the events it returns: the peer may have reset a stream that the reader of the events
still uses.  Calls for a stream that is gone therefore do nothing; calls for one that never was are errors.

Whoever drives a session decides when time has passed: it pings, and calls :meth:`Session.new_interval`.

The module is long because its two halves, what this side does and what the peer does, change the same streams;
what can stand alone does: frames, windows, the table of states, the tolerance.
"""

from __future__ import annotations

from typing import Final

from teleport_db.errors import ConnectionTrouble, LimitExceeded, LocalProtocolError, RemoteProtocolError
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
    joined,
)
from teleport_db.mux.frames import (
    ACK,
    ALL_FLAGS,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    HEADER_SIZE,
    INITIAL_WINDOW,
    MAX_BODY,
    MAX_U32,
    PING,
    RST,
    SYN,
    VERSION,
    WINDOW_UPDATE,
    GoAwayCode,
    header,
)
from teleport_db.mux.limits import Limits
from teleport_db.mux.states import READABLE, WRITABLE, Close, State, after
from teleport_db.mux.tolerance import Tolerance
from teleport_db.mux.window import ReceiveWindow, SendWindow

#: Bytes received at once above which the data of a stream that follow each other in them become one event.
JOINED: Final = 16 * 1024

_unpack = HEADER.unpack_from
_pack = HEADER.pack


class _Stream:
    """What a session knows of one stream.

    ``readable`` and ``writable`` follow from its state, and are asked for with every frame.
    """

    __slots__ = ("abandoned", "acknowledged", "incoming", "outgoing", "readable", "state", "writable")

    def __init__(self, window: int, acknowledged: bool) -> None:
        self.state = State.OPEN
        self.readable = self.writable = True
        self.outgoing = SendWindow()
        self.incoming = ReceiveWindow(window)
        self.acknowledged = acknowledged
        self.abandoned = False


class Session:
    """The protocol of one connection.

    :param client: True on the side that dialled.
    :ivar failed: the peer broke the protocol; nothing is understood any more.
    :ivar going_away: this side has said that it takes no more streams.
    :ivar gone_away: the peer has said so.
    :ivar unacknowledged: streams opened here that the peer has not taken yet.
    :ivar pending: bytes that wait for :meth:`data_to_send`, window updates not counted.
    """

    def __init__(self, client: bool, *, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.failed = False
        self.going_away = False
        self.gone_away = False
        self.unacknowledged = 0
        self.pending = 0
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1 if client else 2
        self._peer_parity = 0 if client else 1
        self._highest_peer_id = 0 if client else -1
        self._passed_over: dict[int, None] = {}
        self._out: list[bytes | memoryview] = []
        self._credits: dict[int, ReceiveWindow] = {}
        # The frame being received: the start of its header, or what its body still lacks.
        self._held = b""
        self._body = 0
        self._body_id = 0
        self._body_flags = 0
        self._tolerance = Tolerance(self.limits)
        self._next_ping = 0
        self._pings: set[int] = set()

    # What this side does.

    def __len__(self) -> int:
        """Streams that are open, in either direction."""
        return len(self._streams)

    def __contains__(self, stream_id: object) -> bool:
        return stream_id in self._streams

    def open_stream(self) -> int:
        """Open a stream; data may follow at once.

        Raises ConnectionTrouble when either side goes away or the ids are used up, LimitExceeded when there
        are too many streams, or too many that the peer has not taken yet.
        """
        if self.failed or self.going_away or self.gone_away:
            raise ConnectionTrouble("the tunnel takes no new streams")
        if len(self._streams) >= self.limits.streams:
            raise LimitExceeded("the tunnel has as many streams as it may have")
        if self.unacknowledged >= self.limits.backlog:
            raise LimitExceeded("the other end of the tunnel does not take its streams")
        stream_id = self._next_id
        if stream_id > MAX_U32:
            raise ConnectionTrouble("the tunnel has used up its streams")
        self._next_id += 2
        self._streams[stream_id] = _Stream(self.limits.window, acknowledged=False)
        self.unacknowledged += 1
        self._put(header(WINDOW_UPDATE, SYN, stream_id, self.limits.window - INITIAL_WINDOW))
        return stream_id

    def accept(self, stream_id: int) -> None:
        """Take a stream that the peer opened."""
        stream = self._stream(stream_id)
        if stream is None:
            return
        if stream.acknowledged:
            raise LocalProtocolError(f"stream {stream_id} was accepted before")
        stream.acknowledged = True
        self._put(header(WINDOW_UPDATE, ACK, stream_id, self.limits.window - INITIAL_WINDOW))

    def window(self, stream_id: int) -> int:
        """How many bytes :meth:`send` would take now."""
        stream = self._stream(stream_id)
        return 0 if stream is None else stream.outgoing.left

    def send(self, stream_id: int, data: bytes | memoryview) -> int:
        """Send as much of ``data`` as the window takes; returns how many bytes that was.

        The data must not change until :meth:`data_to_send` was called.
        """
        stream = self._streams.get(stream_id) or self._stream(stream_id)
        size = len(data)
        if stream is None:
            return size
        if not stream.writable:
            raise LocalProtocolError(f"stream {stream_id} was closed for writing")
        window = stream.outgoing
        if size <= window.left and size <= MAX_BODY:
            if size:
                window.left -= size
                self._out += (_pack(VERSION, DATA, 0, stream_id, size), data)
                self.pending += HEADER_SIZE + size
            return size
        size = min(size, window.left)
        window.left -= size
        view = memoryview(data)
        for start in range(0, size, MAX_BODY):
            part = view[start : min(start + MAX_BODY, size)]
            self._out += (header(DATA, 0, stream_id, len(part)), part)
            self.pending += HEADER_SIZE + len(part)
        return size

    def credit(self, stream_id: int, count: int) -> None:
        """``count`` received bytes have left; the peer hears of it at each half window."""
        stream = self._streams.get(stream_id) or self._stream(stream_id)
        if stream is not None and stream.incoming.credit(count) and stream.readable:
            self._credits[stream_id] = stream.incoming

    def half_close(self, stream_id: int) -> None:
        """Nothing more is sent on a stream; it may still be received on."""
        stream = self._stream(stream_id)
        if stream is not None:
            self._close(stream_id, stream, Close.SENT_FIN)
            self._put(header(WINDOW_UPDATE, FIN, stream_id, 0))

    def close(self, stream_id: int) -> None:
        """Nothing more is sent nor wanted: data that come nevertheless are answered with a reset."""
        stream = self._stream(stream_id)
        if stream is not None:
            stream.abandoned = True
            if stream.writable:
                self.half_close(stream_id)

    def reset(self, stream_id: int) -> None:
        """Throw a stream away, or refuse it.  One that is gone already is left alone."""
        stream = self._stream(stream_id)
        if stream is not None:
            self._put(header(WINDOW_UPDATE, RST, stream_id, 0))
            self._close(stream_id, stream, Close.SENT_RST)

    def ping(self) -> int:
        """Ask for a sign of life; returns the value that :class:`PingAnswered` will have."""
        value = self._next_ping
        self._next_ping = (value + 1) & MAX_U32
        self._pings.add(value)
        self._put(header(PING, SYN, 0, value))
        return value

    def go_away(self, code: GoAwayCode = GoAwayCode.NORMAL) -> None:
        """Say that no more streams are taken.  Those there are run on."""
        self.going_away = True
        self._put(header(GO_AWAY, 0, 0, code))

    def new_interval(self) -> None:
        """Some time has passed, as between two pings: what may be done so often may be done again."""
        self._tolerance.new_interval()

    @property
    def has_data(self) -> bool:
        """Whether :meth:`data_to_send` would return anything."""
        return bool(self._out or self._credits)

    def data_to_send(self) -> bytes:
        """All that is to be sent, joined once; empty when there is nothing."""
        out = self._out
        if self._credits:
            for stream_id, window in self._credits.items():
                out.append(header(WINDOW_UPDATE, 0, stream_id, window.announce()))
            self._credits.clear()
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        self.pending = 0
        return data

    # What the peer does.

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the peer, however they were divided; returns what they meant, in order.

        Never raises for what a peer sends: :class:`Failed` is the last event of a session.
        """
        events: list[Event] = []
        large = JOINED < len(data) > self._body  # else it is a piece of one body, and passed on as it is
        if not self.failed:
            try:
                self._receive(memoryview(data) if large else data, events)
            except RemoteProtocolError as error:
                self.failed = True
                self.go_away(GoAwayCode.PROTOCOL_ERROR)
                events.append(Failed(error))
        return joined(events) if large else events

    def whole(self, data: bytes) -> int:
        """The stream of which ``data`` is one whole frame with data and no flags, received by that; else 0.

        The shorter way for what most reads of a connection bring; where it is 0, nothing was received.
        """
        size = len(data) - HEADER_SIZE
        if size <= 0 or self._body or self._held or self.failed:
            return 0
        fields: tuple[int, int, int, int, int] = _unpack(data)
        version, kind, flags, stream_id, length = fields
        if length != size or version or kind or flags:
            return 0
        stream = self._streams.get(stream_id)
        if stream is None or not stream.readable or stream.abandoned or stream.incoming.left < size:
            return 0
        stream.incoming.left -= size
        return stream_id

    def _receive(self, data: bytes | memoryview, events: list[Event]) -> None:
        position, size, streams = 0, len(data), self._streams
        if self._body_id and self._body:
            self._check_body()
        fields: tuple[int, int, int, int, int]
        while True:
            if self._body:
                if position == size:
                    return
                end = min(position + self._body, size)
                self._body -= end - position
                if self._body_id:
                    events.append(DataReceived(self._body_id, data[position:end]))  # type: ignore[arg-type]
                position = end
                if self._body:
                    return
                if self._body_flags:
                    self._flags(self._body_id, streams[self._body_id], self._body_flags, events)
            if self._held:
                missing = HEADER_SIZE - len(self._held)
                self._held += data[position : position + missing]
                if len(self._held) < HEADER_SIZE:
                    return
                position += missing
                fields = _unpack(self._held)
                self._held = b""
            elif size - position >= HEADER_SIZE:
                fields = _unpack(data, position)
                position += HEADER_SIZE
                version, kind, flags, stream_id, length = fields
                if not (version or kind or flags):
                    # The byte path: data of a stream that is read, mostly whole.
                    stream = streams.get(stream_id)
                    if stream is not None and length and stream.readable and not stream.abandoned:
                        stream.incoming.debit(length)
                        end = position + length
                        if end <= size:
                            events.append(DataReceived(stream_id, data[position:end]))  # type: ignore[arg-type]
                            position = end
                        else:
                            self._body, self._body_id, self._body_flags = length, stream_id, 0
                        continue
            else:
                self._held = bytes(data[position:])
                return
            self._frame(fields, events)

    def _check_body(self) -> None:
        """Since a body began, its stream may have been reset or closed here: the rest of it is nobody's."""
        stream = self._streams.get(self._body_id)
        if stream is None or stream.abandoned:
            self.reset(self._body_id)
            self._body_id = self._body_flags = 0

    def _frame(self, fields: tuple[int, int, int, int, int], events: list[Event]) -> None:
        """Act on a header; the body of a data frame follows it."""
        version, kind, flags, stream_id, length = fields
        if version != VERSION:
            raise RemoteProtocolError(f"yamux has no version {version}")
        if flags & ~ALL_FLAGS:
            raise RemoteProtocolError(f"yamux has no flags {flags:#x}")
        if kind in (DATA, WINDOW_UPDATE):
            self._stream_frame(kind, flags, stream_id, length, events)
        elif stream_id != 0:
            raise RemoteProtocolError("a frame of the session names a stream")
        elif kind == PING:
            self._ping(flags, length, events)
        elif kind == GO_AWAY:
            self.gone_away = True
            self._tolerance.idle()
            events.append(GoneAway(length))
        else:
            raise RemoteProtocolError(f"yamux has no frames of type {kind}")

    def _stream_frame(self, kind: int, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        if stream_id == 0:
            raise RemoteProtocolError("a frame of a stream names none")
        if flags & SYN:
            self._opened(stream_id, events)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._late(kind, stream_id, length)
            return
        if flags & ACK and not stream.acknowledged:
            if stream_id % 2 == self._peer_parity:
                raise RemoteProtocolError(f"stream {stream_id} is opened and taken by the same side")
            stream.acknowledged = True
            self.unacknowledged -= 1
            events.append(Acknowledged(stream_id))
        ending = flags & (FIN | RST)
        if kind == WINDOW_UPDATE:
            if length:
                stream.outgoing.grant(length)
                if stream.writable and not flags & SYN:
                    events.append(WindowOpened(stream_id))
            elif not flags:
                self._tolerance.idle()
        elif length:
            if not stream.readable:
                raise RemoteProtocolError(f"data on stream {stream_id} after its end")
            stream.incoming.debit(length)
            self._body, self._body_id, self._body_flags = length, stream_id, ending
            if stream.abandoned:
                self._body_id = self._body_flags = 0
                self.reset(stream_id)
            return
        elif not flags:
            self._tolerance.idle()
        if ending:
            self._flags(stream_id, stream, ending, events)

    def _opened(self, stream_id: int, events: list[Event]) -> None:
        """A SYN.  No id is ever seen twice.

        The specification has ids only grow; HashiCorp's takes a number and sends the SYN in two steps, so that
        streams opened at the same time overtake each other.  An id that was passed over may therefore still come.
        """
        if stream_id % 2 != self._peer_parity:
            raise RemoteProtocolError(f"stream {stream_id} is not the peer's to open")
        if stream_id > self._highest_peer_id:
            self._pass_over(stream_id)
        elif stream_id in self._passed_over:
            del self._passed_over[stream_id]
        else:
            raise RemoteProtocolError(f"stream {stream_id} was opened before")
        if self.going_away or len(self._streams) >= self.limits.streams:
            self._put(header(WINDOW_UPDATE, RST, stream_id, 0))
            self._tolerance.gone()
            self._tolerance.in_vain()
        else:
            self._streams[stream_id] = _Stream(self.limits.window, acknowledged=False)
            events.append(Opened(stream_id))

    def _pass_over(self, stream_id: int) -> None:
        """The peer's highest id is this one now; remember the newest of those between, a backlog of them."""
        passed, most = self._passed_over, self.limits.backlog
        for between in range(max(self._highest_peer_id + 2, stream_id - 2 * most), stream_id, 2):
            passed[between] = None
            if len(passed) > most:
                del passed[next(iter(passed))]
        self._highest_peer_id = stream_id

    def _flags(self, stream_id: int, stream: _Stream, flags: int, events: list[Event]) -> None:
        """A FIN or an RST, after the body that carried it."""
        if flags & RST:
            refused = not stream.acknowledged
            self._close(stream_id, stream, Close.RECEIVED_RST)
            events.append(WasReset(stream_id, refused))
            if stream_id % 2 == self._peer_parity:
                self._tolerance.in_vain()
        else:
            self._close(stream_id, stream, Close.RECEIVED_FIN)
            events.append(HalfClosed(stream_id))

    def _late(self, kind: int, stream_id: int, length: int) -> None:
        """A frame for a stream that is gone: it may have been under way, as far as a window goes."""
        if not self._was_opened(stream_id):
            raise RemoteProtocolError(f"stream {stream_id} was never opened")
        if kind == DATA:
            self._body, self._body_id, self._body_flags = length, 0, 0
            self._tolerance.late(length)
        else:
            self._tolerance.late(0)

    def _ping(self, flags: int, value: int, events: list[Event]) -> None:
        if flags == SYN:
            self._tolerance.ping()
            self._put(header(PING, ACK, 0, value))
        elif flags == ACK:
            if value in self._pings:
                self._pings.remove(value)
                events.append(PingAnswered(value))
            else:
                self._tolerance.idle()
        else:
            raise RemoteProtocolError(f"a ping has no flags {flags:#x}")

    # Both.

    def _put(self, frame: bytes) -> None:
        self._out.append(frame)
        self.pending += HEADER_SIZE

    def _stream(self, stream_id: int) -> _Stream | None:
        """A stream, or None for one that is gone."""
        stream = self._streams.get(stream_id)
        if stream is None and not self._was_opened(stream_id):
            raise LocalProtocolError(f"stream {stream_id} was never opened")
        return stream

    def _was_opened(self, stream_id: int) -> bool:
        highest = self._highest_peer_id if stream_id % 2 == self._peer_parity else self._next_id - 2
        return 0 < stream_id <= highest and stream_id not in self._passed_over

    def _close(self, stream_id: int, stream: _Stream, close: Close) -> None:
        state = stream.state = after(stream.state, close)
        stream.readable, stream.writable = state in READABLE, state in WRITABLE
        if state is State.CLOSED:
            del self._streams[stream_id]
            self._credits.pop(stream_id, None)
            if stream_id % 2 != self._peer_parity and not stream.acknowledged:
                self.unacknowledged -= 1
            self._tolerance.gone(stream.incoming.left)
