"""The common exchanges looked at in one step: by Python, and by its compiled twins."""

from __future__ import annotations

import random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.pgwire.messages import SYNC, message, ready_for_query
from teleport_db.pgwire.simple import (
    BOUND,
    PARSED,
    QUERIED,
    bound,
    ending,
    pure_bound,
    pure_ending,
    pure_query_text,
    query_text,
)
from teleport_db.pgwire.walk import Answer, pure_walk
from tests.pgwire.wire import DESCRIBE, bind, execute, parse

compiled = None
if query_text is pure_query_text:
    compiled = "the extension was not built: there is no compiler, or no header of Python's, here"

ROWS = message(b"T", b"\0\0")
DATA = message(b"D", b"\0\0")
SELECTED = message(b"C", b"SELECT 1\0")
RUN = DESCRIBE + execute(b"") + SYNC


def answers(wire: bytes) -> list[Answer]:
    found, left, rows, size, rest = pure_walk(wire, 0, 0, 0)
    assert (left, rows, size, rest) == (0, 0, 0, b"")
    return found


class SimpleCases:
    """What holds of either implementation."""

    query_text = staticmethod(pure_query_text)
    bound = staticmethod(pure_bound)
    ending = staticmethod(pure_ending)

    def test_queries(self: Any) -> None:
        """One whole Query is taken, of text without a word that matters."""
        for sql in (b"", b"select 1", b"\xff\x80" * 100, b"x" * 70_000, b"pas"):
            self.assertEqual(self.query_text(message(b"Q", sql + b"\0")), sql)

    def test_no_queries(self: Any) -> None:
        """Half of one, more than one, another message, a text with a zero, words: each goes the long way."""
        wire = message(b"Q", b"select 1\0")
        for cut in range(len(wire)):
            self.assertIsNone(self.query_text(wire[:cut]))
        for other in (
            *(wire + b"x", wire + wire, message(b"P", b"select 1\0"), message(b"Q", b"select 1"), message(b"Q", b"")),
            *(message(b"Q", b"a\0b\0"), message(b"Q", b"a\0\0"), b"Q\0\0\0\0\0", b"Q\xff\xff\xff\xff\0"),
            *(
                message(b"Q", sql + b"\0")
                for sql in (b"Prepare x", b"set PASSWORD", b"a://b", b"U&'x'", b"DISCARD TOKEN")
            ),
        ):
            self.assertIsNone(self.query_text(other), other)

    def test_bound(self: Any) -> None:
        """A Bind that runs at once, and a Parse before it: what they say, the formats where one is not text."""
        long = bytes(range(1, 256)) * 50
        for name in (b"", b"s1", b"\xff" * 70):
            for given in ((), (b"",), (None,), (b"1", None, long, b"\0"), (None,) * 300):
                for formats in ((), (0,), (1,), (0, 1), (0,) * 300, (65535,)):
                    for results in ((), (0,), (1, 0, 1)):
                        wire = bind(b"", name, formats, given, results) + RUN
                        shown = formats if any(formats) else ()
                        self.assertEqual(self.bound(wire), (name, shown, given, None, ()))
                        if name:
                            self.assertIsNone(self.bound(parse(b"", b"x") + wire))
                            continue
                        for types in ((), (23, 0, 1 << 31), (1,) * 300):
                            for sql in (b"", b"select $1", long):
                                found = self.bound(parse(b"", sql, types) + wire)
                                self.assertEqual(found, (b"", shown, given, sql, types))

    def test_not_bound(self: Any) -> None:
        """Half of it, more, a name of a portal, a limit, no Describe, words that matter: each goes the long way."""
        one, before = bind(b"", b"s", (), (b"1",)), parse(b"", b"select 1", (1,))
        unnamed = bind(b"", b"", (0,), (b"1", None), (1,))
        for wire in (one + RUN, before + unnamed + RUN):
            self.assertIsNotNone(self.bound(wire))
            for cut in range(len(wire)):
                self.assertIsNone(self.bound(wire[:cut]))
                if wire[cut + 1 :] != unnamed + RUN:
                    self.assertIsNone(self.bound(wire[cut + 1 :]))
        for wire in (
            *(b"x" + one + RUN, one + RUN + b"x", one + SYNC + RUN, one + one + RUN, before + RUN, RUN),
            *(before + one + RUN, before + before + unnamed + RUN),
            *(bind(b"p", b"s") + RUN, one + DESCRIBE + execute(b"", 1) + SYNC, one + execute(b"") + SYNC),
            *(one + DESCRIBE + execute(b"p") + SYNC, one + DESCRIBE + execute(b""), one + DESCRIBE + DESCRIBE + RUN),
            *(parse(b"s", b"select 1") + unnamed + RUN, parse(b"", b"a\0b") + unnamed + RUN),
            *(message(b"D", b"S\0") + RUN, before + message(b"B") + RUN, message(b"P") + unnamed + RUN),
        ):
            self.assertIsNone(self.bound(wire), wire)
        for word in (b"Prepare", b"my PASSWORD", b"a://b", b"U&'x'", b"TOKEN", b"secrets"):
            self.assertIsNone(self.bound(bind(b"", word) + RUN))
            self.assertIsNone(self.bound(bind(b"", b"s", (), (word,)) + RUN))
            self.assertIsNone(self.bound(parse(b"", word) + unnamed + RUN))

    def test_endings(self: Any) -> None:
        """Tag, number, rows, bytes, and whether a transaction is open."""
        for status, idle in ((b"I", True), (b"T", False), (b"E", False)):
            ready = ready_for_query(status)
            found = self.ending(answers(ROWS + DATA * 3 + SELECTED + ready), QUERIED)
            size = len(ROWS + DATA * 3 + SELECTED)
            self.assertEqual(found, (b"SELECT 1", 1, 3, size + len(ready), idle))
            self.assertIs(type(found[-1]), bool)
            for before, asked in ((b"2", BOUND), (b"12", PARSED)):
                for described in (ROWS, message(b"n")):
                    wire = b"".join(message(bytes([kind])) for kind in before) + described + DATA + SELECTED
                    self.assertEqual(self.ending(answers(wire + ready), asked), (b"SELECT 1", 1, 1, len(wire), idle))

    def test_tags(self: Any) -> None:
        """The number is the last word of it, if that is one."""
        for tag, number in (
            *((b"INSERT 0 17", 17), (b"BEGIN", 0), (b"", 0), (b"17", 17), (b"X ", 0), (b"X -1", 0), (b"X 1a", 0)),
            *((b"X 999999999999999999", 10**18 - 1), (b"X 1000000000000000000", 0), (b"\xff 5", 5), (b"X \xd9\xa1", 0)),
        ):
            for end in (b"\0", b"", b"\0behind 9"):
                found = self.ending(answers(message(b"C", tag + end) + ready_for_query()), QUERIED)
                self.assertEqual(found[:2], (tag, number))

    def test_no_endings(self: Any) -> None:
        """Tags that drop names or copy, answers of another exchange, more or fewer of them: none is taken."""
        ready = ready_for_query()
        for tag in (b"DEALLOCATE", b"DEALLOCATE ALL", b"DISCARD ALL", b"COPY 5"):
            self.assertIsNone(self.ending(answers(message(b"C", tag + b"\0") + ready), QUERIED))
        bound, error = message(b"2"), message(b"E", b"SERROR\0\0")
        for wire in (
            b"",
            SELECTED,
            ready,
            SELECTED + SELECTED,
            ready + SELECTED,
            error + ready,
            ROWS + ROWS + SELECTED,
        ):
            for asked in (QUERIED, BOUND, PARSED):
                self.assertIsNone(self.ending(answers(wire), asked), wire)
        for wire in (bound, bound + ROWS, message(b"n"), DATA + ROWS, SELECTED + ROWS, message(b"1") + bound + ROWS):
            self.assertIsNone(self.ending(answers(wire + SELECTED + ready), QUERIED), wire)
        self.assertIsNone(self.ending(answers(ROWS + SELECTED + DATA + ready), QUERIED))
        self.assertIsNone(self.ending(answers(bound + ROWS + SELECTED + ready), PARSED))
        self.assertIsNone(self.ending(answers(message(b"1") + bound + ROWS + SELECTED + ready), BOUND))


class PureTests(SimpleCases, SynchronousTestCase):
    """In Python."""


class CompiledTests(SimpleCases, SynchronousTestCase):
    """By the extension."""

    query_text = staticmethod(query_text)
    bound = staticmethod(bound)
    ending = staticmethod(ending)
    skip = compiled

    def test_same_bound(self) -> None:
        """However a Bind and a Parse are damaged or cut, both say the same."""
        chance = random.Random(5)
        taken = 0
        for _ in range(60_000):
            given = chance.choices((b"", b"1", None, b"\0\0\0\5", b"pas", b"x" * 20), k=chance.randrange(4))
            formats, results = (chance.choice(((), (0,), (1,), (0, 1), (0, 0, 0))) for _ in range(2))
            wire = bytearray(bind(b"", chance.choice((b"", b"", b"s1")), formats, given, results) + RUN)
            if chance.random() < 0.5:
                wire[:0] = parse(b"", chance.choice((b"", b"select 1")), chance.choice(((), (23,), (0, 20))))
            for _ in range(chance.randrange(3)):
                # Of each number the last byte says most; lengths are made a little wrong, or very.
                at = chance.randrange(len(wire))
                wire[at] = chance.choice((0, 1, 2, 255, 127, 128, wire[at] ^ 1, wire[at] - 1 & 255, wire[at] + 1 & 255))
            if chance.random() < 0.1:
                at = chance.randrange(len(wire))
                del wire[at : at + chance.randrange(3)]
            found = bound(bytes(wire))
            self.assertEqual(found, pure_bound(bytes(wire)), wire)
            taken += found is not None
        self.assertGreater(taken, 10_000)

    def test_same(self) -> None:
        """Whatever is asked and answered, both say the same."""
        chance = random.Random(3)
        parts = [*(ROWS, DATA, SELECTED, message(b"n"), message(b"1"), message(b"2"), message(b"C", b"COPY 3\0"))]
        parts += [message(b"C", b"\0"), message(b"C", b"UPDATE 12\0"), message(b"N", b"\0"), message(b"G")]
        for _ in range(30_000):
            wire = b"".join(chance.choices(parts, k=chance.randrange(6))) + ready_for_query(chance.choice((b"I", b"T")))
            found = answers(wire)
            for asked in (QUERIED, BOUND, PARSED):
                self.assertEqual(ending(found, asked), pure_ending(found, asked), wire)
            asking = bytearray(message(b"Q", chance.choice((b"select 1\0", b"\0", b"select 'pas' || 's'\0"))))
            for _ in range(chance.randrange(3)):
                asking[chance.randrange(len(asking))] = chance.choice((0, 4, 5, 14, 32, 80, 115, 255))
            self.assertEqual(query_text(bytes(asking)), pure_query_text(bytes(asking)), asking)

    def test_strange(self) -> None:
        """What is no list of answers is none of these, and no crash."""
        for function in (bound, query_text):
            for none in ("B", None, 1, bytearray(bind(b"", b"") + RUN)):
                self.assertRaises(TypeError, function, none)
        for given in (
            [],
            [1, 2],
            [(1,), (2,)],
            [("C", b"", 0, 0), (90, b"I", 0, 5)],
            [(67, "", 0, 0), (90, b"I", 0, 5)],
            (),
        ):
            self.assertIsNone(ending(given, QUERIED))  # type: ignore[arg-type]
        self.assertRaises(ValueError, ending, [], 3)
        for arguments in ((), ([],), ([], QUERIED, 1), ([], "1"), ([], None), ([], 1 << 70)):
            self.assertRaises((TypeError, OverflowError), ending, *arguments)
