"""A shipment taken apart, and its lines: by Python, and by compiled twins, which take less for plain and never more."""

from __future__ import annotations

import json
import random
from array import array
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit import logfile
from teleport_db.audit.events import encode
from teleport_db.audit.logfile import chain_run, pure_chain_run
from teleport_db.audit.shipped import Found, Run, pure_split, split
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


def runs(content: bytes, found: list[Found]) -> list[Run]:
    """Those of what was found."""
    return [Run(content, entry[1], entry[0], *entry[2:]) for entry in found if len(entry) == 5]


class SplitCases:
    """What holds of either implementation."""

    split = staticmethod(pure_split)

    def found(self, *raw: str) -> list[Found]:
        entries = self.split(body(*raw), MOST)
        assert entries is not None
        return entries

    def one_by_one(self: Any, content: bytes, entries: list[Found]) -> list[tuple[int, bytes, bool]]:
        """Each event with its number, and whether it is in a run; what a run says of its events is so."""
        found: list[tuple[int, bytes, bool]] = []
        for entry in entries:
            if len(entry) == 2:
                found.append((*entry, False))
                continue
            (run,) = runs(content, [entry])
            newest = {}
            for seq, event in run.one_by_one():
                decoded = json.loads(event.json)
                self.assertEqual(event.decoded(), decoded)
                said = [decoded[name] for name in ("event", "sid", "ei", "server_id", "cluster_name")]
                self.assertEqual(list(event[1:]), said)
                self.assertIn(event.kind, ("db.session.query", "db.session.result"))
                newest[event.sid] = event.ei
                found.append((seq, event.json, True))
            self.assertEqual((newest, run.last), (run.newest, found[-1][0]))
        return found

    def test_statements(self: Any) -> None:
        """They are one run, each with its number, and its JSON as it came."""
        made = statements()
        entries = self.found(*made)
        self.assertEqual(len(entries), 1)
        found = self.one_by_one(body(*made), entries)
        self.assertEqual(found, [(seq, text.encode(), True) for seq, text in enumerate(made, 7)])

    def test_runs(self: Any) -> None:
        """A run ends where numbers do not follow, another event comes, or another host or cluster is named."""
        (one, *_) = statements(1)
        session_end = encode({"event": "db.session.end"})
        elsewhere = one.replace('"server_id":"', '"server_id":"x')
        abroad = one.replace('"cluster_name":"', '"cluster_name":"x')
        for made, sizes in (
            ([one, one, session_end, one], [2, 0, 1]),
            ([session_end, session_end], [0, 0]),
            ([one, elsewhere, elsewhere, abroad, one], [1, 2, 1, 1]),
        ):
            entries = self.found(*made)
            self.assertEqual([len(entry[1]) // 16 if len(entry) == 5 else 0 for entry in entries], sizes)
            expected = [(seq, text.encode(), text != session_end) for seq, text in enumerate(made, 7)]
            self.assertEqual(self.one_by_one(body(*made), entries), expected)
        content = body(one, one, one, one).replace(b'"seq":9', b'"seq":19').replace(b'"seq":10', b'"seq":0010')
        entries = self.split(content, MOST)
        self.assertEqual([(entry[0], len(entry[1]) // 16) for entry in entries], [(7, 2), (19, 1), (10, 1)])
        self.assertEqual([seq for seq, _, _ in self.one_by_one(content, entries)], [7, 8, 19, 10])

    def test_parameters(self: Any) -> None:
        """A list of texts is flat."""
        raw = statements(1)[0].replace('"statement_id":1,', '"statement_id":1,"db_query_parameters":["1",null,"\\n"],')
        self.assertEqual(self.one_by_one(body(raw), self.found(raw)), [(7, raw.encode(), True)])

    def test_others(self: Any) -> None:
        """Other kinds, an object within, and fields of another form are left to whoever decodes them."""
        (raw, *_) = statements(1)
        for other in (
            raw.replace("db.session.query", "db.session.start"),
            raw.replace('"db.session.query"', '["db.session.query"]'),
            raw.replace('"db.session.query"', "{}"),
            raw.replace('"db.session.query"', "null"),
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
            self.assertEqual(self.found(other), [(7, other.encode())])

    def test_numbers(self: Any) -> None:
        """What some readers of JSON refuse, or take for infinite, makes no plain event, if it makes one."""
        (raw, *_) = statements(1)
        for number in ("9" * 5000, "9" * 300, "9" * 199, "1e999", "-1e400", "NaN", "Infinity"):
            entries = self.split(body(raw.replace('"ei":0', f'"ei":0,"rows":{number}')), MOST)
            self.assertTrue(entries is None or len(entries[0]) == 2, number[:9])

    def test_twice(self: Any) -> None:
        """A name that comes twice makes no plain event, however it is spelt."""
        (raw, *_) = statements(1)
        for twice in (
            raw.replace('"ei":0', '"ei":0,"sid":"other"'),
            raw.replace('"ei":0', '"ei":0,"ei":1'),
            raw.replace('"ei":0', '"ei":0,"\\u0065i":1'),
            raw.replace('"ei":0', '"ei":0,"x":1,"x":1'),
        ):
            self.assertEqual(self.found(twice), [(7, twice.encode())])

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
            found = self.one_by_one(bytes(damaged), entries)
            self.assertEqual(
                [(seq, json.loads(raw)) for seq, raw, _ in found], [(e["seq"], e["event"]) for e in decoded]
            )
            for (_, raw, plain), entry in zip(found, decoded, strict=True):
                if plain:
                    self.assertNotIn(b"\n", raw)
                    self.assertEqual(len(json.loads(raw, object_pairs_hook=list)), len(entry["event"]))


class PureSplitTests(SplitCases, SynchronousTestCase):
    pass


class CompiledSplitTests(SplitCases, SynchronousTestCase):
    split = staticmethod(split)
    if split is pure_split:
        skip = "the extension was not built: there is no compiler, or no header of Python's, here"

    def test_same(self) -> None:
        """What agents send is taken in the same way by both."""
        whole = body(*statements(50), encode({"event": "db.session.end", "parameters": {"a": ["b"]}}), *statements(3))
        self.assertEqual(split(whole, MOST), pure_split(whole, MOST))
        self.assertEqual(len(split(whole, MOST) or ()), 3)

    def test_damaged_same(self) -> None:
        """Where both take a damaged one apart its entries are the same; which are plain may differ."""
        whole = body(*statements(3))
        chance = random.Random(20261129)
        for _ in range(3000):
            damaged = bytearray(whole)
            for _ in range(chance.choice((1, 1, 2, 5))):
                damaged[chance.randrange(len(damaged))] = chance.choice(b'"\\{}[],:\n 0e-\x00\x7f\xff' + whole[:40])
            content = bytes(damaged)
            ours, theirs = split(content, MOST), pure_split(content, MOST)
            if ours is None or theirs is None:
                continue
            mine, others = self.one_by_one(content, ours), self.one_by_one(content, theirs)
            self.assertEqual([entry[:2] for entry in mine], [entry[:2] for entry in others])


class ChainCases:
    """The lines of a run are what they would be one by one, however it is cut."""

    chain_run = staticmethod(pure_chain_run)

    def test_lines(self: Any) -> None:
        content = body(*statements(5), first=2**53 - 3)
        (run,) = runs(content, pure_split(content, MOST) or [])
        for source in ("2b48651b-fbb6-4501-80ba-3cbe4fe50966", 'h"ö\\\u2028'):
            for before in ("", "0" * 64, "f" * 64):
                lines, chain = [], before
                for seq, event in run.one_by_one():
                    line, chain = logfile.line(source, seq, event, chain)
                    lines.append(line)
                head = b'{"source":%b,"seq":' % json.dumps(source).encode()
                for cut in range(run.count + 1):
                    first, between = self.chain_run(head, run.first, content, run.places, 0, cut, before)
                    rest, last = self.chain_run(head, run.first, content, run.places, cut, run.count, between)
                    self.assertEqual((first + rest, last), (b"".join(lines), chain))

    def test_long(self: Any) -> None:
        """Statements of any length."""
        (one, *_) = statements(1)
        for size in (0, 1, 3000, 5000, 300_000):
            content = body(one.replace('"db_query":"', '"db_query":"' + "x" * size))
            (run,) = runs(content, pure_split(content, MOST) or [])
            ((seq, event),) = run.one_by_one()
            made = self.chain_run(b"head", run.first, content, run.places, 0, 1, "0" * 64)
            raw = b'head%d,"event":%b' % (seq, event.json)
            self.assertEqual(made, logfile.chained(raw, "0" * 64))

    def test_no_run(self: Any) -> None:
        """What is in no run is refused, and nothing is read that is not the content's."""
        content = body(*statements(2))
        (run,) = runs(content, pure_split(content, MOST) or [])
        places = array("q", run.places)
        for begin, end in ((-1, 1), (2, 1), (0, 5), (5, 5), (4, 5), (0, 2**62)):
            self.assertRaises(ValueError, self.chain_run, b"", 1, content, run.places, begin, end, "")
        for at, value in ((0, -1), (1, 0), (1, len(content) + 1), (6, 2**63 - 1), (7, -(2**63))):
            bad = array("q", places)
            bad[at] = value
            self.assertRaises(ValueError, self.chain_run, b"", 1, content, bad.tobytes(), 0, 4, "")
        self.assertRaises(ValueError, self.chain_run, b"", -1, content, run.places, 0, 1, "")
        self.assertRaises(ValueError, self.chain_run, b"", 1, content, run.places, 0, 1, "0" * 65)
        self.assertRaises(ValueError, self.chain_run, b"", 1, content, run.places[:15], 0, 1, "")
        self.assertEqual(self.chain_run(b"", 1, content, run.places, 2, 2, "x"), (b"", "x"))


class PureChainTests(ChainCases, SynchronousTestCase):
    pass


class CompiledChainTests(ChainCases, SynchronousTestCase):
    chain_run = staticmethod(chain_run)
    if chain_run is pure_chain_run:
        skip = "the extension was not built: there is no compiler, or no header of Python's, here"
