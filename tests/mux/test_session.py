"""What a session says and understands, and how the network's divisions do not matter."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import ConnectionTrouble, LimitExceeded, LocalProtocolError
from teleport_db.mux.events import (
    Acknowledged,
    DataReceived,
    Event,
    GoneAway,
    HalfClosed,
    Opened,
    PingAnswered,
    WasReset,
    WindowOpened,
)
from teleport_db.mux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_SIZE,
    INITIAL_WINDOW,
    MAX_BODY,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    GoAwayCode,
    header,
)
from teleport_db.mux.limits import Limits
from teleport_db.mux.session import Session
from tests.mux.support import WINDOW, connected, exchange, merged


class Wire(SynchronousTestCase):
    """The bytes, as the specification has them."""

    def test_open_and_send(self) -> None:
        """A stream is opened by a window update with SYN; data may follow at once."""
        session = Session(True, limits=Limits(window=INITIAL_WINDOW + 256))
        self.assertEqual((session.open_stream(), session.open_stream()), (1, 3))
        self.assertEqual(session.send(1, b"hello"), 5)
        self.assertEqual(
            session.data_to_send(),
            bytes.fromhex("00 01 0001 00000001 00000100")
            + bytes.fromhex("00 01 0001 00000003 00000100")
            + bytes.fromhex("00 00 0000 00000001 00000005")
            + b"hello",
        )
        self.assertEqual(session.data_to_send(), b"")

    def test_server_opens_even_ids(self) -> None:
        """The side that accepted the connection opens 2, 4, and so on."""
        session = Session(False)
        self.assertEqual((session.open_stream(), session.open_stream()), (2, 4))

    def test_answers(self) -> None:
        """ACK, FIN, RST, the answer to a ping and go away."""
        session = Session(False, limits=Limits(window=INITIAL_WINDOW))
        session.receive(header(WINDOW_UPDATE, SYN, 1, 0) + header(DATA, SYN, 3, 0) + header(PING, SYN, 0, 77))
        session.accept(1)
        session.half_close(1)
        session.reset(3)
        session.go_away()
        self.assertEqual(
            session.data_to_send(),
            header(PING, ACK, 0, 77)
            + header(WINDOW_UPDATE, ACK, 1, 0)
            + header(WINDOW_UPDATE, FIN, 1, 0)
            + header(WINDOW_UPDATE, RST, 3, 0)
            + header(GO_AWAY, 0, 0, GoAwayCode.NORMAL),
        )

    def test_large_sends_are_cut(self) -> None:
        """No frame has a body of more than 64 KiB, and none goes past the window."""
        session = Session(True)
        session.open_stream()
        session.data_to_send()
        self.assertEqual(session.send(1, b"x" * (INITIAL_WINDOW + 1)), INITIAL_WINDOW)
        self.assertEqual(session.send(1, b"x"), 0)
        self.assertEqual(session.data_to_send(), (header(DATA, 0, 1, MAX_BODY) + b"x" * MAX_BODY) * 4)


class Division(SynchronousTestCase):
    """The same events, however the bytes are divided."""

    def setUp(self) -> None:
        self.wire = (
            header(WINDOW_UPDATE, SYN, 1, 1024)
            + header(DATA, 0, 1, 5)
            + b"hello"
            + header(DATA, SYN, 3, 3)
            + b"abc"
            + header(PING, ACK, 0, 0)
            + header(DATA, FIN, 1, 6)
            + b" world"
            + header(WINDOW_UPDATE, ACK, 2, 7)
            + header(DATA, 0, 3, 0)
            + header(WINDOW_UPDATE, RST, 3, 0)
            + header(DATA, 0, 3, 4)
            + b"late"
            + header(DATA, FIN, 2, 1)
            + b"z"
            + header(GO_AWAY, 0, 0, 0)
        )
        self.expected: list[Event] = [
            Opened(1),
            DataReceived(1, b"hello"),
            Opened(3),
            DataReceived(3, b"abc"),
            PingAnswered(0),
            DataReceived(1, b" world"),
            HalfClosed(1),
            Acknowledged(2),
            WindowOpened(2),
            WasReset(3, refused=True),
            DataReceived(2, b"z"),
            HalfClosed(2),
            GoneAway(0),
        ]

    def feed(self, *parts: bytes) -> list[Event]:
        session = Session(False)
        session.open_stream()
        session.ping()
        events = [event for part in parts for event in session.receive(part)]
        self.assertFalse(session.failed)
        return merged(events)

    def test_whole(self) -> None:
        """All at once."""
        self.assertEqual(self.feed(self.wire), self.expected)

    def test_cut_once(self) -> None:
        """Cut at every place."""
        for cut in range(len(self.wire) + 1):
            self.assertEqual(self.feed(self.wire[:cut], self.wire[cut:]), self.expected, cut)

    def test_cut_twice(self) -> None:
        """Cut at every two places."""
        for first in range(len(self.wire)):
            for second in range(first, len(self.wire), 3):
                parts = (self.wire[:first], self.wire[first:second], self.wire[second:])
                self.assertEqual(self.feed(*parts), self.expected, (first, second))

    def test_bytewise(self) -> None:
        """One byte after the other, and nothing between."""
        parts = [part for byte in self.wire for part in (bytes([byte]), b"")]
        self.assertEqual(self.feed(*parts), self.expected)

    def test_nothing_is_collected(self) -> None:
        """A body is passed on as it arrives; whole chunks are not even copied."""
        session = Session(False)
        session.receive(header(DATA, SYN, 1, 100000))
        chunk = b"x" * 50000
        (event,) = session.receive(chunk)
        assert isinstance(event, DataReceived)
        self.assertIs(event.data, chunk)

    def test_neighbours_are_one(self) -> None:
        """What one large read brings for a stream is one event, unless something else comes between."""
        one, other = connected()
        one.open_stream()
        exchange(one, other)
        for stream, size in ((1, 30000), (1, 30000), (3, 10), (1, 20000), (1, 5)):
            one.send(stream, bytes([stream]) * size)
        wire = one.data_to_send()
        first, second = other.receive(wire[:10000]), other.receive(wire[10000:])
        expected = [(1, 10000 - HEADER_SIZE), (1, 50000 + HEADER_SIZE), (3, 10), (1, 20005)]
        self.assertEqual([(event.stream_id, len(event.data)) for event in first + second], expected)
        self.assertEqual({type(event.data) for event in first + second}, {bytes})


class Windows(SynchronousTestCase):
    def test_credit_in_steps(self) -> None:
        """Credit is announced at each half window, and only for what was delivered."""
        one, other = connected()
        one.send(1, b"x" * (WINDOW - 1))
        exchange(one, other)
        other.credit(1, WINDOW // 2 - 1)
        self.assertFalse(other.has_data)
        other.credit(1, 1)
        self.assertEqual(other.data_to_send(), header(WINDOW_UPDATE, 0, 1, WINDOW // 2))

    def test_credits_of_a_turn_are_one(self) -> None:
        """However much is delivered before the next write, a stream has one window update in it."""
        one, other = connected()
        one.send(1, b"x" * WINDOW)
        exchange(one, other)
        other.credit(1, WINDOW // 2)
        other.credit(1, WINDOW // 4)
        self.assertEqual(other.data_to_send(), header(WINDOW_UPDATE, 0, 1, 3 * WINDOW // 4))

    def test_no_credit_for_nothing(self) -> None:
        """More credit than was received is a fault of the caller."""
        one, other = connected()
        one.send(1, b"abc")
        exchange(one, other)
        other.credit(1, 2)
        self.assertRaises(LocalProtocolError, other.credit, 1, 2)

    def test_window_is_announced(self) -> None:
        """Both sides may send what the other announced with SYN or ACK."""
        one, other = Session(True, limits=Limits(window=1 << 20)), Session(False, limits=Limits(window=300000))
        one.open_stream()
        exchange(one, other)
        other.accept(1)
        exchange(one, other)
        self.assertEqual((one.window(1), other.window(1)), (300000, 1 << 20))

    def test_limits(self) -> None:
        """A window smaller than what the peer takes for granted cannot be kept."""
        self.assertRaises(ValueError, Limits, window=INITIAL_WINDOW - 1)
        self.assertRaises(ValueError, Limits, window=1 << 32)


class Closing(SynchronousTestCase):
    def test_half_close(self) -> None:
        """Each direction ends on its own; then the stream is gone on both sides."""
        one, other = connected()
        one.half_close(1)
        self.assertRaises(LocalProtocolError, one.send, 1, b"x")
        self.assertRaises(LocalProtocolError, one.half_close, 1)
        exchange(one, other)
        other.send(1, b"still")
        other.half_close(1)
        self.assertEqual(exchange(one, other)[0], [DataReceived(1, b"still"), HalfClosed(1)])
        self.assertEqual((len(one), len(other)), (0, 0))

    def test_gone_and_never_there(self) -> None:
        """A stream that is gone takes every call and does nothing; one that never was is an error."""
        one, other = connected()
        other.reset(1)
        exchange(one, other)
        self.assertEqual((one.send(1, b"gone"), one.window(1)), (4, 0))
        one.half_close(1)
        one.close(1)
        one.credit(1, 5)
        one.reset(1)
        other.accept(1)
        self.assertFalse(one.has_data or other.has_data)
        for stream_id in (0, 2, 3):
            self.assertRaises(LocalProtocolError, one.send, stream_id, b"x")
            self.assertRaises(LocalProtocolError, one.reset, stream_id)

    def test_reset(self) -> None:
        """A reset ends both directions; a second one is nothing."""
        one, other = connected()
        other.reset(1)
        other.reset(1)
        self.assertEqual(exchange(one, other)[0], [WasReset(1, refused=False)])
        self.assertEqual((len(one), len(other)), (0, 0))

    def test_refusal(self) -> None:
        """A stream that is reset before it was taken was refused."""
        one, other = Session(True), Session(False)
        one.open_stream()
        exchange(one, other)
        other.reset(1)
        self.assertEqual(exchange(one, other)[0], [WasReset(1, refused=True)])
        self.assertEqual(one.unacknowledged, 0)

    def test_close_answers_data_with_reset(self) -> None:
        """After close, data are not wanted: a reset says so, once."""
        one, other = connected()
        one.close(1)
        exchange(one, other)
        other.send(1, b"x" * 1000)
        other.send(1, b"y")
        wire = other.data_to_send()
        self.assertEqual(one.receive(wire), [])
        self.assertEqual(one.data_to_send(), header(WINDOW_UPDATE, RST, 1, 0))

    def test_close_of_an_ended_stream(self) -> None:
        """Close after the peer's end is the end."""
        one, other = connected()
        other.half_close(1)
        exchange(one, other)
        one.close(1)
        exchange(one, other)
        self.assertEqual((len(one), len(other)), (0, 0))

    def test_reset_within_a_body(self) -> None:
        """The rest of a body whose stream was reset meanwhile is nobody's; the frames after it are read."""
        one, other = connected()
        one.send(1, b"x" * 1000)
        one.open_stream()
        wire = one.data_to_send() + header(DATA, FIN, 3, 2) + b"ok"
        other.receive(wire[:500])
        other.reset(1)
        self.assertEqual(other.receive(wire[500:]), [Opened(3), DataReceived(3, b"ok"), HalfClosed(3)])


class Opening(SynchronousTestCase):
    def test_go_away(self) -> None:
        """After go away neither side opens streams; those there go on."""
        one, other = connected()
        other.go_away()
        self.assertEqual(exchange(one, other)[0], [GoneAway(0)])
        self.assertRaises(ConnectionTrouble, one.open_stream)
        self.assertRaises(ConnectionTrouble, other.open_stream)
        one.send(1, b"on")
        self.assertEqual(exchange(one, other)[1], [DataReceived(1, b"on")])

    def test_crossing_go_away(self) -> None:
        """A stream that was opened while go away was under way is refused."""
        one, other = connected()
        one.open_stream()
        one.send(3, b"too late")
        other.go_away()
        events, _ = exchange(one, other)
        self.assertEqual(events, [GoneAway(0), WasReset(3, refused=True)])
        self.assertFalse(other.failed)

    def test_streams_are_limited(self) -> None:
        """One stream too many is not opened here, and is refused when the peer opens it."""
        one = Session(True, limits=Limits(streams=3))
        other = Session(False, limits=Limits(streams=2))
        for _ in range(3):
            one.open_stream()
        self.assertRaises(LimitExceeded, one.open_stream)
        events, heard = exchange(one, other)
        self.assertEqual(heard, [Opened(1), Opened(3)])
        self.assertEqual(events, [WasReset(5, refused=True)])
        one.open_stream()

    def test_backlog(self) -> None:
        """A peer that does not take its streams gets no more of them."""
        one, other = Session(True, limits=Limits(backlog=2)), Session(False)
        one.open_stream()
        one.open_stream()
        self.assertRaises(LimitExceeded, one.open_stream)
        exchange(one, other)
        other.accept(1)
        self.assertRaises(LocalProtocolError, other.accept, 1)
        exchange(one, other)
        self.assertEqual(one.open_stream(), 5)
        one.reset(5)
        self.assertEqual(one.open_stream(), 7)
