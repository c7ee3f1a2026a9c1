"""The walk over a database's headers, however the network divides them."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import RemoteProtocolError
from teleport_db.pgwire import walk as walking
from teleport_db.pgwire.messages import error_response, message, ready_for_query
from teleport_db.pgwire.walk import KEPT, BackendWalk, pure_walk, walk
from tests.pgwire.test_properties import PROPERTY
from tests.pgwire.wire import cuts

ROW = message(b"D", b"\0\1\0\0\0\1x")
TAG = message(b"C", b"SELECT 3\0")
READY = ready_for_query(b"T")
RESULT = message(b"T", b"columns") + ROW * 3 + TAG + READY

Found = tuple[list[tuple[int, bytes]], int, int]


def walked(*chunks: bytes) -> Found:
    """The answers' types and bodies, all rows, and all bytes; and the walk has counted each once."""
    walk = BackendWalk()
    answers, rows, size = [], 0, 0
    for chunk in chunks:
        for kind, body, some, many in walk.feed(chunk):
            answers.append((kind, body))
            rows, size = rows + some, size + many
    return answers, rows + walk.rows, size + walk.size


def naive(wire: bytes) -> Found:
    """The same from the whole, slowly; an answer that is not whole counts as soon as what is kept of it is."""
    answers, rows, position = [], 0, 0
    while position + 5 <= len(wire):
        kind, length = struct.unpack_from(">BI", wire, position)
        keep = KEPT.get(kind)
        needed = position + 5 + min(keep or 0, length - 4)
        if needed > len(wire):
            break
        if keep is not None:
            answers.append((kind, wire[position + 5 : needed]))
        rows += kind == ord("D")
        position += 1 + length
    return answers, rows, min(position, len(wire))


class WalkCases:
    """What holds of either implementation."""

    def test_divided_everywhere(self) -> None:
        """The same answers, rows and bytes at every cut, and byte by byte."""
        expected = ([(ord("T"), b""), (ord("C"), b"SELECT 3\0"), (ord("Z"), b"T")], 3, len(RESULT))
        for first, second in cuts(RESULT):
            self.assertEqual(walked(first, second), expected)
        self.assertEqual(walked(*(RESULT[at : at + 1] for at in range(len(RESULT)))), expected)

    def test_counts_to_each_answer(self) -> None:
        """Rows and bytes belong to the answer behind them."""
        first, tag, ready = BackendWalk().feed(RESULT)
        self.assertEqual(first[2:], (0, 5 + len(b"columns")))
        self.assertEqual(tag[2:], (3, 3 * len(ROW) + len(TAG)))
        self.assertEqual(ready[2:], (0, len(READY)))

    def test_long_bodies_cost_nothing(self) -> None:
        """Chunks within a row are not looked at, and nothing is kept of them."""
        walk = BackendWalk()
        walk.feed(struct.pack(">cI", b"D", 4 + 3 * 65536))
        for _ in range(3):
            self.assertFalse(walk.between_messages)
            self.assertEqual(walk.feed(b"Z" * 65536), ())
        self.assertTrue(walk.between_messages)
        self.assertEqual((walk.rows, walk.size), (1, 5 + 3 * 65536))

    def test_rows_of_many_sizes(self) -> None:
        """Runs of equal rows, and rows that look like other messages."""
        rows = [message(b"D", bytes(size)) for size in (0, 1, 1, 1, 7, 7, 300, 1)] + [message(b"D", READY + TAG)]
        wire = b"".join(rows) + TAG
        for cut in range(0, len(wire), 3):
            self.assertEqual(walked(wire[:cut], wire[cut:]), ([(ord("C"), b"SELECT 3\0")], 9, len(wire)))

    def test_between_messages(self) -> None:
        """True at exactly the ends of messages."""
        ends, position = {0}, 0
        while position < len(RESULT):
            position += 1 + int.from_bytes(RESULT[position + 1 : position + 5], "big")
            ends.add(position)
        for first, _ in cuts(RESULT):
            walk = BackendWalk()
            walk.feed(first)
            self.assertEqual(walk.between_messages, len(first) in ends)

    def test_impossible_lengths(self) -> None:
        """A hostile server ends its own session, at the header."""
        for kind in b"DCEZTx\0":
            for length in (0, 3, 0x40000000, 0xFFFFFFFF):
                self.assertRaises(RemoteProtocolError, BackendWalk().feed, RESULT + struct.pack(">BI", kind, length))

    def test_endless(self) -> None:
        """Of a message without end a beginning is kept, and no more."""
        for kind in b"CEZtTDAx":
            walk = BackendWalk()
            walk.feed(struct.pack(">BI", kind, 0x3FFFFFFF))
            found = sum(len(walk.feed(b"x" * 1000)) for _ in range(100))
            self.assertEqual(found, 1 if KEPT.get(kind) else 0)
            self.assertEqual(walk._rest, b"")

    def test_long_error(self) -> None:
        """Its beginning is enough, and what follows is not taken for messages."""
        error = message(b"E", b"SERROR\0C42601\0M" + READY * 5000 + b"\0\0")
        for size in (1, 100, 4096, len(error)):
            answers, _, count = walked(*(error[at : at + size] for at in range(0, len(error), size)), READY)
            self.assertEqual([kind for kind, _ in answers], [ord("E"), ord("Z")])
            self.assertEqual(count, len(error) + len(READY))

    @PROPERTY
    @given(
        st.lists(
            st.builds(
                message, st.sampled_from([bytes([kind]) for kind in b"DDDDd123CEGHINSTVWZnst"]), st.binary(max_size=40)
            ),
            max_size=30,
        ),
        st.randoms(use_true_random=False),
    )
    def test_like_the_naive_walk(self, messages: list[bytes], chance: random.Random) -> None:
        """Any messages in any chunks."""
        wire = b"".join(messages)
        edges = sorted({0, len(wire), *(chance.randint(0, len(wire)) for _ in range(chance.randint(0, 20)))})
        chunks = [wire[start:end] for start, end in itertools.pairwise(edges)]
        self.assertEqual(walked(*chunks), naive(wire))

    @PROPERTY
    @given(st.binary(max_size=300), st.integers(1, 50))
    def test_noise(self, noise: bytes, size: int) -> None:
        """Anything either passes or raises the one error."""
        walk = BackendWalk()
        try:
            for at in range(0, len(noise), size):
                walk.feed(noise[at : at + size])
        except RemoteProtocolError:
            pass

    def test_errors(self) -> None:
        """Our own ErrorResponse is read like a server's."""
        ((kind, body, _, _),) = BackendWalk().feed(error_response("ERROR", "42P01", "no such table"))
        self.assertEqual(kind, ord("E"))
        self.assertIn(b"C42P01\0", body)


class PureWalkTests(WalkCases, SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(walking, "walk", pure_walk)


class CompiledWalkTests(WalkCases, SynchronousTestCase):
    if walk is pure_walk:
        skip = "the extension was not built: there is no compiler, or no header of Python's, here"

    def test_like_the_pure_walk(self) -> None:
        """The very same answer to the very same question, or the same error."""
        chance = random.Random(20261122)
        for _ in range(3000):
            data = b"".join(chance.choice((ROW, ROW, TAG, READY, RESULT)) for _ in range(chance.randrange(6)))
            damaged = bytearray(data)
            for _ in range(chance.choice((0, 0, 1, 3)) if damaged else 0):
                damaged[chance.randrange(len(damaged))] = chance.choice((0, 3, 4, 68, 90, 255, chance.randrange(256)))
            question = (bytes(damaged), chance.choice((0, 0, 1, 7, 1 << 29)), chance.randrange(3), chance.randrange(99))
            self.assertEqual(answer(walk, question), answer(pure_walk, question))

    def test_arguments(self) -> None:
        """Of another number, or another type, they are refused."""
        good: tuple[Any, ...] = (READY, 0, 0, 0)
        for at in range(4):
            self.assertRaises(TypeError, walk, *good[:at])
            self.assertRaises(TypeError, walk, *good[:at], "x", *good[at + 1 :])
        self.assertRaises(TypeError, walk, *good, 0)
        self.assertRaises(ValueError, walk, READY, -1, 0, 0)


def answer(implementation: Callable[..., Any], question: tuple[bytes, int, int, int]) -> object:
    try:
        return implementation(*question)
    except RemoteProtocolError as error:
        return str(error)
