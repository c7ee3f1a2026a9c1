"""The common exchanges looked at in one step: by Python, and by its compiled twins."""

from __future__ import annotations

import random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.pgwire.messages import message, ready_for_query
from teleport_db.pgwire.simple import BOUND, PARSED, QUERIED, ending, pure_ending, pure_query_text, query_text
from teleport_db.pgwire.walk import Answer, pure_walk

compiled = None
if query_text is pure_query_text:
    compiled = "the extension was not built: there is no compiler, or no header of Python's, here"

ROWS = message(b"T", b"\0\0")
DATA = message(b"D", b"\0\0")
SELECTED = message(b"C", b"SELECT 1\0")


def answers(wire: bytes) -> list[Answer]:
    found, left, rows, size, rest = pure_walk(wire, 0, 0, 0)
    assert (left, rows, size, rest) == (0, 0, 0, b"")
    return found


class SimpleCases:
    """What holds of either implementation."""

    query_text = staticmethod(pure_query_text)
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
    ending = staticmethod(ending)
    skip = compiled

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
