"""What hosts ship is decoded once and written as it came, unless it could mean two things or break a line."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.events import encode
from teleport_db.audit.logfile import RawEvent, line, record, run_lines
from teleport_db.audit.shipped import Run, pure_split
from teleport_db.auth import shipment
from teleport_db.auth.shipment import read_shipment
from teleport_db.errors import BadRequest
from tests.audit.samples import NOW, session

EVENT = {"event": "db.session.query", "db_query": 'é "\n\\ },{"seq","event"}', "deep": [{"a": None}], "n": 1.5}
#: One with what looks like a name in a text.
TRICKY = {**EVENT, "db_query": '},{"seq":9,"event":{'}


def body(*raw: str) -> bytes:
    return ('{"events":[' + ",".join(f'{{"seq":{n},"event":{text}}}' for n, text in enumerate(raw, 1)) + "]}").encode()


def written(event: Any) -> bytes:
    return line("host", 1, event, "")[0]


class ShipmentTests(SynchronousTestCase):
    def test_as_sent(self) -> None:
        """The bytes of the line are those that came; what they say is what they say."""
        raw = encode(EVENT)
        other = raw.replace('"n":1.5', '"n":1.50')
        found = read_shipment(body(raw, other))
        self.assertEqual([(seq, dict(event)) for seq, event in found], [(1, EVENT), (2, EVENT)])
        self.assertTrue(all(type(event) is RawEvent for _, event in found))
        self.assertIn(other.encode(), written(found[1][1]))

    def test_spaced(self) -> None:
        """White space means nothing, and its line says the same."""
        spaced = encode(EVENT).replace('"n":1.5', '"n":  1.50')
        ((seq, event),) = read_shipment(body(spaced))
        made = record(written(event))
        assert made is not None
        self.assertEqual((seq, made["event"]), (1, EVENT))

    def test_statements(self) -> None:
        """Those are not decoded at all, and written as they came."""
        made = session().query(NOW, b"select 1").json
        ((first, run),) = read_shipment(body(made, made))
        assert isinstance(run, Run)
        self.assertEqual((first, run.first, run.count, run.last), (1, 1, 2, 2))
        for seq, event in run.one_by_one():
            self.assertEqual(event.decoded(), json.loads(made))
            self.assertIn(made.encode(), written(event))
            self.assertEqual(line("host", seq, event, "")[0], run_lines("host", run, seq - 1, seq, "")[0])

    def test_encoded_anew(self) -> None:
        """Other forms of the same mean the same, on one line and once."""
        raw = encode(EVENT)
        for text in (
            body(raw.replace(',"deep"', ',\n"deep"')),
            body(raw.replace(',"deep"', ',"deep":5,"deep"')),
            body(raw.replace(',"deep"', ',"de\\u0065p":5,"deep"')),
            body(raw).replace(b'"seq":1', b'"seq": 1'),
            json.dumps({"events": [{"seq": 1, "event": EVENT}]}).encode(),
            json.dumps({"events": [{"event": EVENT, "seq": 1}]}, ensure_ascii=False).encode(),
        ):
            ((seq, event),) = read_shipment(text)
            self.assertEqual((seq, dict(event)), (1, EVENT))
            self.assertNotEqual(type(event), RawEvent)
            self.assertEqual(written(event).count(b"\n"), 1)
            made = record(written(event))
            assert made is not None
            self.assertEqual(made["event"], EVENT)

    def test_twice(self) -> None:
        """However a name that comes twice is spelt, the log has it once; texts that look so are right as well."""
        for raw in (
            '{"a":1,"a":2}',
            '{"a" :1,"a":2}',
            '{"a"\t:1,"a":2}',
            '{"\\u0061":1,"a":2}',
            '{"b":{"a":1,"a":2},"a":2}',
            '{"b":[{"a":1,"a":2}],"a":2}',
            '{"b":"\\":","a" :1,"a":2}',
            '{"b\\\\":1,"a":1,"a":2}',
        ):
            ((_, event),) = read_shipment(body(raw))
            text = written(event).decode().partition('"event":')[2]
            self.assertEqual(text.count('"a":') + text.count('"a" '), 1 + ("{" in text[1:]), raw)
        ((_, event),) = read_shipment(body(encode(TRICKY)))
        self.assertEqual(dict(event), TRICKY)

    def test_numbers(self) -> None:
        """What is no number to every reader of JSON is refused."""
        raw = session().query(NOW, b"select 1").json
        for event in (encode(EVENT), raw):
            for number in ("9" * 5000, "9" * 300, "1e999", "-1e400", "NaN", "-Infinity"):
                for text in (f'{event[:-1]},"rows":{number}}}', f'{event[:-1]}, "rows": [{{"a":{number}}}]}}'):
                    self.assertRaises(BadRequest, read_shipment, body(text))

    def test_refused(self) -> None:
        """Cut anywhere, of other kinds, too many."""
        whole = body(encode(EVENT))
        for cut in range(1, len(whole)):
            self.assertRaises(BadRequest, read_shipment, whole[:cut])
        for text in (b"", b"{}", whole + b"x", body("5"), body('"x"'), body("{}").replace(b"1", b"-1"), b"[" * 10_000):
            self.assertRaises(BadRequest, read_shipment, text)
        self.assertEqual(read_shipment(b'{"events":[]}'), [])
        self.patch(shipment, "MAX_EVENTS", 3)
        self.assertEqual(len(read_shipment(body(*["{}"] * 3))), 3)
        self.assertRaises(BadRequest, read_shipment, body(*["{}"] * 4))


class PureShipmentTests(ShipmentTests):
    """The same where the extension was not built."""

    def setUp(self) -> None:
        self.patch(shipment, "split", pure_split)
