"""The shorter way for one whole frame of data: the same as the long one, or not taken at all."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.mux.events import DataReceived
from teleport_db.mux.frames import DATA, FIN, HEADER_SIZE, PING, RST, SYN, WINDOW_UPDATE, header
from teleport_db.mux.session import Session
from tests.mux.support import WINDOW, connected


def state(session: Session) -> Any:
    """What a session remembers of what it was given."""
    streams = {
        stream_id: (stream.state, stream.abandoned, stream.incoming.left, stream.incoming.delivered)
        for stream_id, stream in session._streams.items()
    }
    rest = (session._held, session._body, session._body_id, session._body_flags, session.failed, session.pending)
    tolerance = session._tolerance
    spent = [getattr(tolerance, name) for name in tolerance.__slots__ if name != "_limits"]
    return streams, rest, list(session._out), spent


#: One stream that is read, one closed here, one the peer has ended, one that is gone, and one that never was.
READ, CLOSED, ENDED, GONE, NEVER = 1, 3, 5, 7, 9


def receiver() -> Session:
    """A session with all of these."""
    one, other = connected()
    for _ in (CLOSED, ENDED, GONE):
        one.open_stream()
    other.receive(one.data_to_send())
    for stream_id in (CLOSED, ENDED, GONE):
        other.accept(stream_id)
    one.half_close(ENDED)
    one.reset(GONE)
    other.receive(one.data_to_send())
    other.close(CLOSED)
    other.data_to_send()
    return other


FRAMES = st.builds(
    lambda kind, flags, stream_id, length, body: header(kind, flags, stream_id, length) + body,
    st.sampled_from([DATA, DATA, DATA, WINDOW_UPDATE, PING, 4]),
    st.sampled_from([0, 0, 0, SYN, FIN, RST, 16]),
    st.sampled_from([READ, READ, CLOSED, ENDED, GONE, NEVER, 0, 2]),
    st.sampled_from([0, 1, 3, 4, 5, WINDOW + 1]),
    st.sampled_from([b"", b"x", b"abc", b"abcd", b"abcde"]),
)
PIECES = st.lists(st.one_of(FRAMES, FRAMES, st.binary(max_size=30)), min_size=1, max_size=6)


class Whole(SynchronousTestCase):
    def same(self, session: Session, data: bytes) -> int:
        """Give it the same bytes both ways; which way was taken."""
        twin, before = copy.deepcopy(session), state(session)
        stream_id = session.whole(data)
        if not stream_id:
            self.assertEqual(state(session), before, "it was not taken, but not left alone either")
            session.receive(data)
        else:
            self.assertEqual(twin.receive(data), [DataReceived(stream_id, data[HEADER_SIZE:])])
            self.assertEqual(state(session), state(twin))
        return stream_id

    @settings(max_examples=1000, deadline=None)
    @given(PIECES)
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Whatever comes, behind whatever came before."""
        session = receiver()
        for piece in pieces:
            self.same(session, piece)

    def test_taken(self) -> None:
        """What it is for: frames of a stream that is read, up to its window."""
        session = receiver()
        self.assertEqual(self.same(session, header(DATA, 0, READ, 3) + b"abc"), READ)
        rest = WINDOW - 3
        self.assertEqual(self.same(session, header(DATA, 0, READ, rest) + bytes(rest)), READ)
        self.assertEqual(self.same(session, header(DATA, 0, READ, 1) + b"x"), 0)
        self.assertTrue(session.failed)

    def test_not_taken(self) -> None:
        """A part, more than one, another's, or the middle of something."""
        frame = header(DATA, 0, READ, 3) + b"abc"
        for data in (b"", frame[:5], frame[:-1], frame + b"\0", frame * 2, header(DATA, FIN, READ, 3) + b"abc"):
            self.assertEqual(self.same(receiver(), data), 0)
        for stream_id in (CLOSED, ENDED, GONE, NEVER, 0, 2):
            self.assertEqual(self.same(receiver(), header(DATA, 0, stream_id, 3) + b"abc"), 0)
        session = receiver()
        session.receive(header(DATA, 0, READ, len(frame) + 1) + b"x")
        self.assertEqual(self.same(session, frame), 0, "a body that looks like a frame")
