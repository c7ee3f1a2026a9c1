"""A peer that breaks the protocol is told so, costs little, and never raises here."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.mux.events import Failed, Opened
from teleport_db.mux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    INITIAL_WINDOW,
    MAX_U32,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    GoAwayCode,
    header,
)
from teleport_db.mux.limits import Limits
from teleport_db.mux.session import Session
from teleport_db.mux.states import Close, State, after
from tests.mux.support import WINDOW, connected, exchange

REFUSAL = header(GO_AWAY, 0, 0, GoAwayCode.PROTOCOL_ERROR)


class Hostile(SynchronousTestCase):
    """Each case against a server that has taken stream 1 and opened stream 2."""

    def setUp(self) -> None:
        one, self.session = connected()
        self.session.open_stream()
        exchange(one, self.session)
        one.accept(2)
        exchange(one, self.session)

    def assertBroken(self, *frames: bytes, text: str) -> None:
        events = self.session.receive(b"".join(frames))
        assert isinstance(events[-1], Failed), events
        self.assertIn(text, str(events[-1].error))
        self.assertTrue(self.session.data_to_send().endswith(REFUSAL))
        self.assertEqual(self.session.receive(b"whatever comes then" * 10), [])
        self.assertFalse(self.session.has_data)

    def test_version(self) -> None:
        self.assertBroken(HEADER.pack(1, DATA, 0, 1, 0), text="version 1")

    def test_http(self) -> None:
        """Another protocol's bytes are no yamux."""
        self.assertBroken(b"GET / HTTP/1.1\r\n", text="version 71")

    def test_type(self) -> None:
        self.assertBroken(header(4, 0, 0, 0), text="type 4")

    def test_flags(self) -> None:
        self.assertBroken(header(DATA, 16, 1, 0), text="flags 0x10")

    def test_parity(self) -> None:
        """The peer opens a stream with a number of this side's."""
        self.assertBroken(header(WINDOW_UPDATE, SYN, 4, 0), text="not the peer's")

    def test_reopened(self) -> None:
        self.assertBroken(header(WINDOW_UPDATE, SYN, 1, 0), text="opened before")

    def test_passed_over_twice(self) -> None:
        """A number that was passed over may come once."""
        frames = [header(WINDOW_UPDATE, SYN, n, 0) for n in (9, 7, 3)]
        self.assertEqual(self.session.receive(b"".join(frames)), [Opened(9), Opened(7), Opened(3)])
        self.assertBroken(header(WINDOW_UPDATE, SYN, 7, 0), text="stream 7 was opened before")

    def test_passed_over_is_not_open(self) -> None:
        self.assertBroken(header(WINDOW_UPDATE, SYN, 9, 0), header(DATA, 0, 7, 1), text="stream 7 was never opened")

    def test_passed_over_is_bounded(self) -> None:
        """A leap leaves no more than a backlog of numbers to remember."""
        self.session.receive(header(WINDOW_UPDATE, SYN, 1001, 0) + header(WINDOW_UPDATE, SYN, MAX_U32, 0))
        self.assertFalse(self.session.failed)
        self.assertEqual(len(self.session._passed_over), Limits().backlog)
        self.assertBroken(header(WINDOW_UPDATE, SYN, 999, 0), text="stream 999 was opened before")

    def test_never_opened(self) -> None:
        """Numbers above the highest that either side has opened."""
        for stream_id in (3, 4, MAX_U32):
            for kind in (DATA, WINDOW_UPDATE):
                self.setUp()
                self.assertBroken(header(kind, 0, stream_id, 1), text="never opened")

    def test_stream_zero(self) -> None:
        for kind in (DATA, WINDOW_UPDATE):
            for flags in (0, SYN, FIN):
                self.setUp()
                self.assertBroken(header(kind, flags, 0, 0), text="names none")

    def test_session_frames_on_streams(self) -> None:
        for kind in (PING, GO_AWAY):
            self.setUp()
            self.assertBroken(header(kind, SYN, 1, 0), text="names a stream")

    def test_ping_flags(self) -> None:
        for flags in (0, SYN | ACK, FIN):
            self.setUp()
            self.assertBroken(header(PING, flags, 0, 0), text="a ping has no flags")

    def test_overrun(self) -> None:
        """One byte more than the window is refused by its header, before its body comes."""
        self.assertBroken(header(DATA, 0, 1, WINDOW + 1), text="overrun")
        self.setUp()
        self.session.receive(header(DATA, 0, 1, WINDOW) + bytes(WINDOW))
        self.assertBroken(header(DATA, 0, 1, 1), text="overrun")

    def test_overrun_while_undelivered(self) -> None:
        """What was not delivered was not credited."""
        self.session.receive(header(DATA, 0, 1, WINDOW) + bytes(WINDOW))
        self.session.credit(1, WINDOW // 2)
        self.session.data_to_send()
        self.assertBroken(header(DATA, 0, 1, WINDOW // 2 + 1), text="overrun")

    def test_overrun_with_syn(self) -> None:
        self.assertBroken(header(DATA, SYN, 3, WINDOW + 1), text="overrun")

    def test_window_overflow(self) -> None:
        self.assertBroken(header(WINDOW_UPDATE, 0, 1, MAX_U32), text="32 bits")

    def test_data_after_fin(self) -> None:
        self.assertBroken(header(DATA, FIN, 1, 0), header(DATA, 0, 1, 1), text="after its end")

    def test_second_fin(self) -> None:
        self.assertBroken(header(DATA, FIN, 1, 0), header(DATA, FIN, 1, 0), text="RECEIVED_FIN")

    def test_opened_and_taken_by_the_same(self) -> None:
        self.assertBroken(header(WINDOW_UPDATE, SYN | ACK, 3, 0), text="same side")

    def test_taken_by_its_opener(self) -> None:
        self.assertBroken(header(WINDOW_UPDATE, SYN, 3, 0), header(WINDOW_UPDATE, ACK, 3, 0), text="same side")

    def test_ping_flood(self) -> None:
        """So many pings are answered an interval, and no more."""
        many = header(PING, SYN, 0, 1) * Limits().pings
        self.session.receive(many)
        self.assertEqual(self.session.data_to_send(), header(PING, ACK, 0, 1) * Limits().pings)
        self.session.new_interval()
        self.assertEqual(self.session.receive(many), [])
        self.session.data_to_send()
        self.assertBroken(header(PING, SYN, 0, 1), text="pings")

    def test_idle_flood(self) -> None:
        """Frames that say nothing."""
        for frame in (
            header(DATA, 0, 1, 0),
            header(WINDOW_UPDATE, 0, 1, 0),
            header(PING, ACK, 0, 5),
            header(GO_AWAY, 0, 0, 0),
        ):
            self.setUp()
            self.session.receive(frame * Limits().idle_frames)
            self.assertFalse(self.session.failed)
            self.assertBroken(frame, text="say nothing")

    def test_reset_flood(self) -> None:
        """A peer that opens and resets is counted and closed."""
        self.session = Session(False, limits=Limits(resets=100))
        pairs = [header(DATA, SYN, n, 0) + header(DATA, RST, n, 0) for n in range(1, 1000, 2)]
        self.session.receive(b"".join(pairs[:100]))
        self.assertFalse(self.session.failed)
        self.session.new_interval()
        self.session.receive(b"".join(pairs[100:200]))
        self.assertFalse(self.session.failed)
        self.assertBroken(pairs[200], text="in vain")
        self.assertEqual(len(self.session), 0)

    def test_refused_flood(self) -> None:
        """A peer that goes on opening streams that are refused is closed."""
        self.session = Session(False, limits=Limits(streams=1, resets=10))
        self.session.receive(b"".join(header(DATA, SYN, n, 0) for n in range(1, 22, 2)))
        self.assertFalse(self.session.failed)
        self.assertBroken(header(DATA, SYN, 23, 0), text="in vain")

    def test_late_frames_are_bounded(self) -> None:
        """What may have been under way to a stream that is gone is dropped; more than that is not borne."""
        self.session.reset(1)
        body = header(DATA, 0, 1, 1) + b"x"
        self.assertEqual(self.session.receive(body * WINDOW), [])
        self.assertFalse(self.session.failed)
        self.session.receive(header(WINDOW_UPDATE, 0, 1, 1) * WINDOW)
        self.assertFalse(self.session.failed)
        self.assertBroken(body * 100, text="gone")

    def test_late_frames_of_a_refused_stream(self) -> None:
        """A peer may have sent its whole first window before it heard of the refusal."""
        self.session = Session(False, limits=Limits(streams=0))
        frame = header(DATA, 0, 1, 65536) + bytes(65536)
        self.assertEqual(self.session.receive(header(WINDOW_UPDATE, SYN, 1, 0) + frame * 4), [])
        self.assertFalse(self.session.failed)
        self.assertEqual(INITIAL_WINDOW, 4 * 65536)

    def test_answers_do_not_grow(self) -> None:
        """A peer that sends and never reads makes nothing grow: a stream has one credit in wait."""
        for _ in range(200):
            self.session.receive(header(DATA, 0, 1, WINDOW // 2) + bytes(WINDOW // 2))
            self.session.credit(1, WINDOW // 2)
            self.session._credits[1].announce()  # as if it had been sent and read
        self.assertEqual(self.session.pending, 0)

    def test_mutations(self) -> None:
        """Whatever is sent, the only way to fail is the session's own, and no state is left behind it."""
        mutator = random.Random(20)
        good = [
            header(WINDOW_UPDATE, SYN, 1, 99),
            header(DATA, SYN, 3, 3) + b"abc",
            header(DATA, 0, 1, 2) + b"xy",
            header(WINDOW_UPDATE, ACK, 2, 7),
            header(DATA, FIN, 2, 1) + b"z",
            header(WINDOW_UPDATE, RST, 3, 0),
            header(PING, SYN, 0, 7),
            header(PING, ACK, 0, 0),
            header(GO_AWAY, 0, 0, 0),
        ]
        for _ in range(20000):
            frames = bytearray(b"".join(mutator.choices(good, k=4)))
            for _ in range(mutator.randrange(3)):
                frames[mutator.randrange(len(frames))] = mutator.choice((0, 1, 2, 3, 4, 8, 255))
            session = Session(False)
            session.open_stream()
            session.ping()
            cut = mutator.randrange(len(frames))
            events = session.receive(bytes(frames[:cut])) + session.receive(bytes(frames[cut:]))
            self.assertEqual(session.failed, any(isinstance(event, Failed) for event in events))
            self.assertLessEqual(len(session._held), 11)
            session.data_to_send()


class Table(SynchronousTestCase):
    def test_missing_entries(self) -> None:
        """What the table of states does not have is somebody's error, by name."""
        for close in Close:
            with self.assertRaises(Exception) as caught:
                after(State.CLOSED, close)
            kind = "RemoteProtocolError" if close.name.startswith("RECEIVED") else "LocalProtocolError"
            self.assertEqual(type(caught.exception).__name__, kind)
