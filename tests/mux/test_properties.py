"""Whatever is sent, read, credited and closed in whatever order: nothing is lost, and no window is overrun."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.mux.events import DataReceived, HalfClosed, Opened, WasReset
from teleport_db.mux.frames import INITIAL_WINDOW
from teleport_db.mux.limits import Limits
from teleport_db.mux.session import Session

SIZES = st.sampled_from([0, 1, 12, 100, 4096, 65535, 65536, 65537, 200000, 600000])
WINDOWS = st.sampled_from([INITIAL_WINDOW, INITIAL_WINDOW + 1, 2 * INITIAL_WINDOW, 1 << 20])
MOVES = st.lists(
    st.tuples(
        st.sampled_from(["open", "send", "send", "send", "carry", "carry", "deliver", "end", "reset", "close"]),
        st.booleans(),
        st.integers(0, 5),
        SIZES,
    ),
    max_size=60,
)
examples = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Side:
    """A session with what it was given to send and what it has heard."""

    def __init__(self, client: bool, window: int) -> None:
        self.session = Session(client, limits=Limits(window=window))
        self.window = window
        self.wire = b""
        self.known: list[int] = []
        self.sent: dict[int, int] = {}
        self.heard: dict[int, bytearray] = {}
        self.undelivered: dict[int, int] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.finished: set[int] = set()
        self.closed: set[int] = set()

    def receive(self, data: bytes) -> None:
        for event in self.session.receive(data):
            match event:
                case Opened(stream_id):
                    self.session.accept(stream_id)
                    self.known.append(stream_id)
                case DataReceived(stream_id, data):
                    assert data and stream_id not in self.ended and stream_id not in self.closed
                    self.heard.setdefault(stream_id, bytearray()).extend(data)
                    self.undelivered[stream_id] = self.undelivered.get(stream_id, 0) + len(data)
                    assert self.undelivered[stream_id] <= self.window
                case HalfClosed(stream_id):
                    self.ended.add(stream_id)
                case WasReset(stream_id):
                    self.reset.add(stream_id)
        assert not self.session.failed

    def deliver(self, stream_id: int, most: int) -> None:
        count = min(most, self.undelivered.get(stream_id, 0))
        self.undelivered[stream_id] = self.undelivered.get(stream_id, 0) - count
        self.session.credit(stream_id, count)


def content(stream_id: int, client: bool, start: int, size: int) -> bytes:
    """The bytes of one direction of one stream, at their place."""
    pattern = bytes((stream_id * 7 + client * 3 + place) % 251 for place in range(251))
    offset = start % 251
    return (pattern * (size // 251 + 2))[offset : offset + size]


def move(side: Side, other: Side, client: bool, name: str, number: int, size: int) -> None:
    """One step of a schedule."""
    if name == "open":
        side.known.append(side.session.open_stream())
    elif name == "carry":
        side.wire += side.session.data_to_send()
        part, side.wire = side.wire[: size or None], side.wire[size:] if size else b""
        other.receive(part)
    elif side.known:
        stream_id = side.known[number % len(side.known)]
        live = stream_id in side.session and stream_id not in side.finished
        if name == "send" and live:
            start = side.sent.get(stream_id, 0)
            side.sent[stream_id] = start + side.session.send(stream_id, content(stream_id, client, start, size))
        elif name == "deliver":
            side.deliver(stream_id, size)
        elif name == "end" and live:
            side.session.half_close(stream_id)
            side.finished.add(stream_id)
        elif name == "reset" and size > 65536:
            side.session.reset(stream_id)
            side.closed.add(stream_id)
        elif name == "close" and live and size > 4096:
            side.session.close(stream_id)
            side.finished.add(stream_id)
            side.closed.add(stream_id)


class Schedules(SynchronousTestCase):
    @examples
    @given(WINDOWS, WINDOWS, MOVES)
    def test_any_schedule(self, window: int, other_window: int, moves: list[tuple[str, bool, int, int]]) -> None:
        """Both ends agree at the end, however it went."""
        one, other = Side(True, window), Side(False, other_window)
        for name, client, number, size in moves:
            if client:
                move(one, other, True, name, number, size)
            else:
                move(other, one, False, name, number, size)
        self.come_to_rest(one, other)
        for side, peer, client in ((one, other, True), (other, one, False)):
            for stream_id in side.known:
                sent = content(stream_id, client, 0, side.sent.get(stream_id, 0))
                heard = bytes(peer.heard.get(stream_id, b""))
                cut = {stream_id} & (side.reset | side.closed | peer.reset | peer.closed)
                if cut:
                    self.assertTrue(sent.startswith(heard))
                else:
                    self.assertEqual(heard, sent)
                    self.assertEqual(stream_id in peer.ended, stream_id in side.finished)
        self.assertEqual(set(one.session._streams) - one.closed, set(other.session._streams) - one.closed)

    def come_to_rest(self, one: Side, other: Side) -> None:
        """Carry all, deliver all, and see that every window is whole again."""
        busy: Callable[[], bool] = lambda: bool(  # noqa: E731
            one.wire or other.wire or one.session.has_data or other.session.has_data
        )
        while True:
            for side in (one, other):
                for stream_id in side.known:
                    side.deliver(stream_id, 1 << 30)
            if not busy():
                break
            move(one, other, True, "carry", 0, 0)
            move(other, one, False, "carry", 0, 0)
        for side, peer in ((one, other), (other, one)):
            for stream_id, stream in side.session._streams.items():
                if stream_id in peer.session and stream_id not in (side.finished | peer.closed):
                    incoming = peer.session._streams[stream_id].incoming
                    self.assertEqual(stream.outgoing.left, incoming.left)
                    self.assertEqual(incoming.left + incoming.delivered, peer.window)

    @examples
    @given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
    def test_garbage(self, data: bytes, cuts: list[int]) -> None:
        """Garbage means the same, however it is divided."""
        whole, parts = Session(False), Session(False)
        bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        whole.receive(data)
        for start, end in pairwise(bounds):
            parts.receive(data[start:end])
        self.assertEqual((whole.failed, whole.data_to_send()), (parts.failed, parts.data_to_send()))
