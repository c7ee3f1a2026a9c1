"""The events of common exchanges: as the long way makes them, by Python and by its compiled twins alike."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit import exchange, executions, uids
from teleport_db.audit.exchange import (
    bound_event,
    milliseconds,
    pure_bound_event,
    pure_query_event,
    pure_result_event,
    query_event,
    result_event,
)
from teleport_db.audit.moments import timestamp
from teleport_db.audit.redaction import WORDS as SECRETS
from teleport_db.audit.redaction import speaks_of_secrets
from teleport_db.audit.uids import pure_uuids, uuids
from teleport_db.pgwire.prepared import EXECUTE, QUERY, Execution, Prepared
from teleport_db.pgwire.words import WORDS, mentions, pure_mentions
from tests.audit.samples import NOW, session

UID = "0b1f4b3e-7bdd-4b8e-9e7e-0f5d8c1f9b8d"
TAIL = b',"sid":"s"}'
TEXTS = [
    *(b"", b"select 1", b'"\\/\b\f\n\r\t', bytes(range(128)), "é ß € \U0001f600 \U0010ffff".encode(), b"x" * 10_000),
    *("\ud7ff\ue000\uffff\u0080\u07ff\u0800".encode(), b"\x7f", "é".encode() * 3000),
]
NO_TEXTS = [
    *(
        b"\xff",
        b"\xc3",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf0\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"a\x80",
    ),
    *(b"\xe2\x82", b"\xf0\x9f\x98", b"\xf5\x80\x80\x80", b"\xc3("),
]
compiled = None
if query_event is pure_query_event:
    compiled = "the extension was not built: there is no compiler, or no header of Python's, here"


class EventCases:
    """What holds of either implementation."""

    query: Callable[..., Any] = staticmethod(pure_query_event)
    bound: Callable[..., Any] = staticmethod(pure_bound_event)
    result: Callable[..., Any] = staticmethod(pure_result_event)

    def setUp(self: Any) -> None:
        self.patch(executions, "query_event", self.query)
        self.patch(executions, "bound_event", self.bound)
        self.patch(executions, "result_event", self.result)

    def both(self: Any, one: Execution, *, parameters: bool = True) -> None:
        """The short way's events are those of the long way, byte for byte."""
        short, long = (session(new_uid=lambda: UID) for _ in range(2))
        short.parameters = long.parameters = parameters
        self.assertEqual(short.begun(NOW, one), long.execution(NOW, one).json.encode())
        one.complete(b"INSERT 0 3")
        one.rows, one.received = 1 << 40, 17
        self.assertEqual(short.ended(NOW, one, 0.0123456), long.outcome(NOW, one, 0.0123456).json.encode())
        self.assertEqual(short._next, 2)

    def test_queries(self: Any) -> None:
        """Any text, and what is none."""
        for text in TEXTS + NO_TEXTS:
            one = Execution(QUERY, 7, 60)
            one.sql = text
            self.both(one)

    def test_bound(self: Any) -> None:
        """Parameters of any text, NULL, in binary, and those that are not recorded."""
        for value in [*TEXTS, *NO_TEXTS, None]:
            for name in (b"", b"s1"):
                for formats in ((), (0,), (1,)):
                    prepared = Prepared(b"select $1, $2", (), 0)
                    for parameters in (True, False):
                        one = Execution(EXECUTE, 7, 60)
                        one.bound, one.prepared = (name, formats, (value, b"2"), None, ()), prepared
                        self.both(one, parameters=parameters)

    def test_binary(self: Any) -> None:
        """Values in binary, of types that are known, or not, and of none; text between them."""
        number, text, uuid, array = 23, 25, 2950, 1009
        for types in ((), (number,), (number, text, uuid, array), (array, uuid, 0, text), (text, text)):
            for values in (
                *((b"\0\0\0\5",), (b"\0\0\0\5", None, b"x" * 16, b"{a}"), (b"\xff" * 4, "\u20ac".encode()), (b"",)),
                *((b"\0\0\0\1\0\0\0\0\0\0\0\x19\0\0\0\1\0\0\0\1\0\0\0\1a",), (b'"\\', b"\x7f\0")),
            ):
                for formats in ((1,), (1, 1), (0, 1), (1, 0, 1, 0), (0, 1, 2)):
                    one = Execution(EXECUTE, 7, 60)
                    one.bound, one.prepared = (b"s", formats, values, None, ()), Prepared(b"select 1", types, 0)
                    self.both(one)
                    one = Execution(EXECUTE, 7, 60)
                    one.bound = (b"", formats, values, b"select 1", types)
                    self.both(one)

    def test_parsed(self: Any) -> None:
        """The text of a Parse with its Bind."""
        for text in TEXTS + NO_TEXTS:
            for values in ((), (text,), (None, b"2")):
                for formats in ((), (1,)):
                    for parameters in (True, False):
                        one = Execution(EXECUTE, 7, 60)
                        one.bound = (b"", formats, values, text, (23,))
                        self.both(one, parameters=parameters)

    def test_times(self: Any) -> None:
        """As the calendar has it, at every edge of it."""
        for now in (
            0.0,
            0.9994,
            951782399.5,
            951782400.0,
            1709164800.125,
            1735689599.9995,
            4102444800.0,
            253402300799.0,
        ):
            made = json.loads(self.query(0, UID, now, 1, b"x", (), TAIL))
            self.assertEqual(made["time"], timestamp(now))

    def test_durations(self: Any) -> None:
        """In milliseconds, to the microsecond."""
        for seconds in (-1.0, 0.0, 1e-7, 1e-6, 0.00123, 0.0010005, 0.1, 1.0, 59.9999996, 86400.5):
            made = self.result(0, UID, NOW, 1, 2, 3, 4, 5, seconds, b"X", TAIL)
            self.assertIn(b'"duration_ms":%b,' % str(milliseconds(seconds)).encode(), made)
        self.assertEqual([milliseconds(0.00123), milliseconds(1.0), milliseconds(-5.0)], [1.23, 1000.0, 0.0])

    def test_tag(self: Any) -> None:
        """A tag that is no text is left to the long way."""
        self.assertIsNone(self.result(0, UID, NOW, 1, 2, 3, 4, 5, 0.0, b"\xff", TAIL))


class PureEventTests(EventCases, SynchronousTestCase):
    pass


class CompiledEventTests(EventCases, SynchronousTestCase):
    query, bound, result = (staticmethod(made) for made in (query_event, bound_event, result_event))
    skip = compiled

    def test_no_bytes(self) -> None:
        """What is neither bytes nor NULL is no value."""
        self.assertRaises(TypeError, bound_event, 0, UID, NOW, 1, "", ("x",), TAIL)
        self.assertRaises(TypeError, query_event, 0, UID, NOW, 1, b"", ("x",), TAIL)

    def test_arguments(self) -> None:
        """Of another number, or another type, they are refused."""
        good: dict[Any, tuple[Any, ...]] = {
            query_event: (0, UID, NOW, 1, b"", (), TAIL),
            bound_event: (0, UID, NOW, 1, "", (), TAIL),
            result_event: (0, UID, NOW, 1, 2, 3, 4, 5, 0.5, b"", TAIL),
        }
        for function, given in good.items():
            self.assertIsInstance(function(*given), bytes)
            for at in range(len(given)):
                self.assertRaises(TypeError, function, *given[:at])
                self.assertRaises(TypeError, function, *given[:at], object(), *given[at + 1 :])
            self.assertRaises(TypeError, function, *given, 1)
        self.assertRaises(UnicodeEncodeError, bound_event, 0, "\ud800", NOW, 1, "", (), TAIL)


class WordTests(SynchronousTestCase):
    def test_found(self) -> None:
        """In any case, at either end."""
        for implementation in (mentions, pure_mentions):
            for word in WORDS:
                for text in (word, word.upper(), b"select " + word, word.title() + b" x", b"x" * 50 + word + b"'"):
                    self.assertTrue(implementation(text), text)
                self.assertFalse(implementation(word[:-1]))
            for text in (b"", b"select 1 from t where d = :x", b"u & a", b"PAS S", b"tok en"):
                self.assertFalse(implementation(text), text)

    def test_secrets(self) -> None:
        """Whatever redaction would look into has one of them."""
        for word in (*SECRETS, "://", 'U&"'):
            self.assertTrue(pure_mentions(word.encode()), word)
        chance = random.Random(20261122)
        pieces = [*SECRETS, "'x'", " ", '"', "U&", "://", "a:b@", "connection", "\\0070", "=", "pass", "word"]
        for _ in range(3000):
            text = "".join(chance.choice(pieces) for _ in range(6)).encode()
            if speaks_of_secrets(text):
                self.assertTrue(pure_mentions(text), text)

    def test_same(self) -> None:
        """The twin finds the same, whatever the bytes; those too that differ from a letter or a sign in one bit."""
        chance = random.Random(20261122)
        alphabet = b"passecrettokenprepardeclocate://u& \x00\xffPASU\x1a\x0f\x06"
        for _ in range(3000):
            text = bytes(chance.choice(alphabet) for _ in range(40))
            self.assertIs(mentions(text), pure_mentions(text), text)
        for near in (b"\x1a//", b":\x0f/", b":/\x0f", b"u\x06", b"U\xa6", b"\xd0ass"):
            self.assertFalse(mentions(near), near)


class UidTests(SynchronousTestCase):
    skip = compiled

    def test_same(self) -> None:
        """Version 4, of the same random bytes the same."""
        chance = random.Random(20261122)
        self.assertEqual(uuids(noise := chance.randbytes(16 * 64)), pure_uuids(noise))
        self.assertEqual(uuids(b""), [])
        self.assertIs(uids.uuids, uuids)


class BuiltTests(SynchronousTestCase):
    def test_all_or_none(self) -> None:
        """The extension is used for everything that it has, or for nothing."""
        built = {getattr(exchange, name).__module__ for name in ("query_event", "bound_event", "result_event")}
        self.assertEqual(len(built), 1)
