"""A shipment taken apart: by Python, and by its compiled twin, which may take less for plain and never more."""

from __future__ import annotations

import json
import random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.events import encode
from teleport_db.audit.shipped import Entry, ShippedStatement, pure_split, split
from teleport_db.pgwire.prepared import QUERY, Execution
from tests.audit.samples import session

MOST = 2000


def statements(count: int = 3) -> list[str]:
    """The JSON of the events of so many statements."""
    events = session()
    made = []
    for number in range(count):
        one = Execution(QUERY, number + 1, 60)
        one.sql = 'select \'é "quoted"\\\' -- \n\x7f {"seq"}'.encode()
        made.append(events.execution(1795363200.125, one).json)
        one.complete(b"SELECT 1")
        made.append(events.outcome(1795363200.25, one, 0.0012).json)
    return made


def body(*raw: str, first: int = 7) -> bytes:
    entries = [f'{{"seq":{seq},"event":{text}}}' for seq, text in enumerate(raw, first)]
    return ('{"events":[' + ",".join(entries) + "]}").encode()


class SplitCases:
    """What holds of either implementation."""

    split = staticmethod(pure_split)

    def found(self, *raw: str) -> list[Entry]:
        entries = self.split(body(*raw), MOST)
        assert entries is not None
        return entries

    def test_statements(self: Any) -> None:
        """Each with its number, its JSON as it came, and what is needed of it."""
        made = statements()
        for at, (seq, raw, *said) in enumerate(self.found(*made)):
            self.assertEqual((seq, raw), (7 + at, made[at].encode()))
            event = json.loads(raw)
            self.assertEqual(said, [event[name] for name in ("event", "sid", "ei", "server_id", "cluster_name")])
            self.assertEqual(ShippedStatement(raw, *said).decoded(), event)

    def test_parameters(self: Any) -> None:
        """A list of texts is flat."""
        raw = statements(1)[0].replace('"statement_id":1,', '"statement_id":1,"db_query_parameters":["1",null,"\\n"],')
        self.assertEqual(self.found(raw)[0][2], "db.session.query")

    def test_others(self: Any) -> None:
        """Other kinds, an object within, and fields of another form are left to whoever decodes them."""
        (raw, *_) = statements(1)
        for other in (
            raw.replace("db.session.query", "db.session.start"),
            raw.replace('"statement_id":1,', '"statement_id":1,"db_query_parameters_base64":{"0":"AA=="},'),
            raw.replace('"ei":0', '"ei":-1'),
            raw.replace('"ei":0', '"ei":0.5'),
            raw.replace('"ei":0', '"ei":"0"'),
            raw.replace('"ei":0', '"ei":1234567890123456'),
            raw.replace('"code":"TDB02I"', '"code":5'),
            raw.replace('"code":"TDB02I",', ""),
            raw.replace('"sid":"', '"sid":"\\\\'),
            raw.replace('"sid":"', '"sid":"' + "x" * 513),
            raw.replace('"server_id":', '"server":'),
            raw.replace('"ei":0', ",".join(f'"f{n}":0' for n in range(48)) + ',"ei":0'),
        ):
            self.assertNotEqual(other, raw)
            ((seq, same, *said),) = self.found(other)
            self.assertEqual((seq, same, said), (7, other.encode(), [None] * 5))

    def test_numbers(self: Any) -> None:
        """What some readers of JSON refuse, or take for infinite, makes no plain event, if it makes one."""
        (raw, *_) = statements(1)
        for number in ("9" * 5000, "9" * 300, "1e999", "-1e400", "NaN", "Infinity"):
            entries = self.split(body(raw.replace('"ei":0', f'"ei":0,"rows":{number}')), MOST)
            self.assertTrue(entries is None or entries[0][2] is None, number[:9])

    def test_twice(self: Any) -> None:
        """A name that comes twice makes no plain event, however it is spelt."""
        (raw, *_) = statements(1)
        for twice in (
            raw.replace('"ei":0', '"ei":0,"sid":"other"'),
            raw.replace('"ei":0', '"ei":0,"ei":1'),
            raw.replace('"ei":0', '"ei":0,"\\u0065i":1'),
            raw.replace('"ei":0', '"ei":0,"x":1,"x":1'),
        ):
            self.assertEqual(self.found(twice)[0][2], None)

    def test_no_shipment(self: Any) -> None:
        """Cut or changed anywhere, too many, deep: None, or what JSON means by it."""
        whole = body(*statements(2))
        for cut in range(len(whole)):
            self.assertIsNone(self.split(whole[:cut], MOST))
        self.assertIsNone(self.split(whole + b" ", MOST))
        self.assertIsNone(self.split(whole, 3))
        self.assertIsNotNone(self.split(whole, 4))
        self.assertIsNone(self.split(whole.replace(b'"seq":7', b'"seq":1234567890123456789'), MOST))
        for bad in ("1", '"x"', "[]", "null", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"):
            self.assertIsNone(self.split(body(bad), MOST), bad[:20])
        for value in ("tru", '"\\x"', '"\\u12g4"', '"\n"', "-", "1.", "01", "1e", "1,", "[1,]", '{"b"}', "{,}"):
            self.assertIsNone(self.split(body(f'{{"a":{value}}}'), MOST), value)
        self.assertIsNone(self.split(body('{"a":"é"}'), MOST))

    def test_damaged(self: Any) -> None:
        """Whatever a byte is changed to: what is taken for an event is what JSON has there, on one line."""
        whole = body(*statements(2))
        chance = random.Random(20261122)
        for _ in range(4000):
            damaged = bytearray(whole)
            for _ in range(chance.choice((1, 1, 2, 5))):
                damaged[chance.randrange(len(damaged))] = chance.choice(b'"\\{}[],:\n 0e-\x00\xff' + whole[:40])
            entries = self.split(bytes(damaged), MOST)
            if entries is None:
                continue
            decoded = json.loads(damaged)["events"]
            self.assertEqual(
                [(seq, json.loads(raw)) for seq, raw, *_ in entries], [(e["seq"], e["event"]) for e in decoded]
            )
            for (_, raw, *said), entry in zip(entries, decoded, strict=True):
                event = entry["event"]
                if said[0] is not None:
                    self.assertNotIn(b"\n", raw)
                    self.assertEqual(len(json.loads(raw, object_pairs_hook=list)), len(event))
                    self.assertEqual(said, [event[n] for n in ("event", "sid", "ei", "server_id", "cluster_name")])


class PureSplitTests(SplitCases, SynchronousTestCase):
    pass


class CompiledSplitTests(SplitCases, SynchronousTestCase):
    split = staticmethod(split)
    if split is pure_split:
        skip = "the extension was not built: there is no compiler, or no header of Python's, here"

    def test_same(self) -> None:
        """What agents send is taken in the same way by both."""
        whole = body(*statements(50), encode({"event": "db.session.end", "parameters": {"a": ["b"]}}))
        self.assertEqual(split(whole, MOST), pure_split(whole, MOST))
