"""Lines, events, messages: what goes out, byte by byte."""

from __future__ import annotations

import contextlib
import json
import random
import re

import attrs
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit import logfile
from teleport_db.audit.sinks.cutting import CUT, shortened
from teleport_db.audit.sinks.records import DamagedLine, Selection, chain_of, ending, split
from teleport_db.audit.sinks.rfc5424 import LAST_NUMBER, Format
from teleport_db.config.sinks import FileSink
from tests.audit.samples import NOW, session

FORMAT = Format(facility=13, hostname="auth.example.com", app_name="teleport", version="1.0", limit=8192)
CHECKPOINT = (
    b'{"checkpoint":{"number":7,"count":1,"previous":"","time":"2027-01-15T08:00:00.125Z","key":""},"chain":"%s"}'
)


@attrs.frozen
class Message:
    """A message taken apart, strictly as RFC 5424, 6, has it."""

    facility: int
    severity: int
    time: str
    hostname: str
    app_name: str
    procid: str
    msgid: str
    data: dict[str, dict[str, str]]
    text: bytes


_HEADER = re.compile(
    rb"<(0|[1-9][0-9]{0,2})>1 (-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z) ([!-~]{1,255}) ([!-~]{1,48})"
    rb" ([!-~]{1,128}) ([!-~]{1,32}) "
)
_ELEMENT = re.compile(rb'\[([^ ="\]]{1,32})((?: [^ ="\]]{1,32}="(?:[^"\\\]]|\\["\\\]])*")*)\]')


def parse(message: bytes) -> Message:
    """ValueError for what is none."""
    head = _HEADER.match(message)
    if head is None or int(head[1]) > 191:
        raise ValueError(f"no header: {message[:100]!r}")
    at, data = head.end(), {}
    if message[at : at + 1] == b"-":
        at += 1
    else:
        while (element := _ELEMENT.match(message, at)) is not None:
            at = element.end()
            parameters = re.findall(rb' ([^ =]+)="((?:[^"\\]|\\.)*)"', element[2])
            data[element[1].decode()] = {name.decode(): value.decode() for name, value in parameters}
    if message[at : at + 1] not in (b"", b" "):
        raise ValueError(f"no structured data: {message[:200]!r}")
    texts = [part.decode() for part in head.groups()[1:]]
    return Message(int(head[1]) // 8, int(head[1]) % 8, *texts, data, message[at + 1 :])


def unframed(stream: bytes) -> tuple[list[bytes], bytes]:
    """The whole messages of a stream (RFC 5425, 4.3), and what is left; ValueError for what is no frame."""
    found, at = [], 0
    while True:
        length, blank, _ = stream[at : at + 12].partition(b" ")
        if not blank:
            if len(length) > 9 or not (length.isdigit() or not length):
                raise ValueError(f"no length: {length!r}")
            return found, stream[at:]
        if not re.fullmatch(rb"[1-9][0-9]*", length):
            raise ValueError(f"no length: {length!r}")
        begin = at + len(length) + 1
        if len(stream) < begin + int(length):
            return found, stream[at:]
        found.append(stream[begin : begin + int(length)])
        at = begin + int(length)


def line(event: dict[str, object], source: str = "host") -> bytes:
    return logfile.line(source, 7, event, "0" * 64)[0].removesuffix(b"\n")


class RecordTests(SynchronousTestCase):
    """Events out of lines."""

    def test_real(self) -> None:
        """Those of sessions, whose JSON is taken as it stands."""
        events = session("s")
        for event in (events.start(NOW), events.end(NOW, "client")):
            made = logfile.line("host", 3, event, "")[0].removesuffix(b"\n")
            name, record = split(made)
            self.assertEqual((name, record), (event["event"], event.json.encode()))

    def test_hostile(self) -> None:
        """Nothing in an event or a source is taken for what is around it."""
        for event, source in (
            ({"event": "x", "t": '","chain":"' + "0" * 64 + '"}\n'}, "host"),
            ({"ei": 1, "event": "x"}, '","seq":1,"event":{"ei":1,"event":"y"'),
            ({"event": {"event": "y"}}, "h"),
            ({"event": 'q"uote'}, "h\\"),
            ({"ei": 1, "event": "é"}, "h"),
            ({}, "h"),
        ):
            name, record = split(line(event, source))
            self.assertEqual(json.loads(record), event)
            self.assertEqual(name, str(event.get("event", "")))

    def test_damaged(self) -> None:
        """What is no line of an event's."""
        whole = line({"ei": 1, "event": "x"})
        for text in (b"", b"x", b"[]", whole[:-1], whole[:-80], b'{"source":"h","seq":1,"event":{"ei":1,"event":"x"'):
            self.assertRaises(DamagedLine, split, text)

    def test_any_bytes(self) -> None:
        """Whatever was done to a line, it is a record or it is damaged; nothing else happens."""
        seed, whole = random.Random(3), line(dict(session("s").start(NOW)))
        for _ in range(5000):
            text = bytearray(whole)
            for _ in range(seed.randrange(1, 6)):
                at = seed.randrange(len(text))
                match seed.randrange(3):
                    case 0:
                        text[at] = seed.randrange(256)
                    case 1:
                        del text[at : at + seed.randrange(1, 40)]
                    case _:
                        text[at:at] = seed.choice([b'"', b"\\", b"{", b'","event":{', b"\xff", b'"chain":"'])
            with contextlib.suppress(DamagedLine):
                _, record = split(bytes(text))
                parse(FORMAT.message(record.replace(b"\n", b" "), 1))

    def test_chain(self) -> None:
        """The chain value of a line, and the ending it stands in."""
        made, chain = logfile.line("host", 1, {"event": "x"}, "")
        self.assertEqual(chain_of(made[:-1]), chain)
        self.assertTrue(made.endswith(ending(chain)))
        self.assertEqual(chain_of(b"{}"), "")

    def test_globs(self) -> None:
        """A star stands for anything, a dot for itself."""
        for globs, name, wanted in (
            (("a.b",), "a.b", True),
            (("a.b",), "axb", False),
            (("a.*",), "a.b.c", True),
            (("a.*",), "a", False),
            (("*.end", "x"), "a.end", True),
            (("*.end", "x"), "a.end.x", False),
            (("*",), "", True),
        ):
            selection = Selection(FileSink(name="n", path="/p", events=globs, format="events"))
            record = selection(line({"ei": 1, "event": name}))
            self.assertEqual(record is not None, wanted, (globs, name))

    def test_checkpoints(self) -> None:
        """They go with lines, not with events."""
        for form, wanted in (("log", True), ("events", False)):
            selection = Selection(FileSink(name="n", path="/p", events=("x",), format=form))
            self.assertEqual(selection(CHECKPOINT % (b"0" * 64)) is not None, wanted)


class CuttingTests(SynchronousTestCase):
    """Events that are too long."""

    def test_cut(self) -> None:
        """JSON still, with all its short fields, and no longer than it may be; what fits is as it was."""
        seed = random.Random(5)
        for _ in range(300):
            texts = {
                f"t{n}": "".join(seed.choices(["a", "é", "\U0001f600", '"', "\0"], k=seed.randrange(3000)))
                for n in range(seed.randrange(4))
            }
            event = {"ei": 1, "uid": "u", **texts, "parameters": ["x" * seed.randrange(2000), None, 1], "time": "t"}
            encoded = json.dumps(event).encode()
            limit = seed.randrange(2048, 9000)
            cut = shortened(encoded, limit)
            made = json.loads(cut)
            self.assertLessEqual(len(cut), max(limit, 2048))
            self.assertEqual((made["ei"], made["uid"], made["time"]), (1, "u", "t"))
            self.assertEqual(CUT in made, len(encoded) > limit)
            if len(encoded) <= limit:
                self.assertEqual(cut, encoded)

    def test_twice(self) -> None:
        """What is cut again says how much is missing of the whole."""
        event = json.dumps({"q": "x" * 100_000}).encode()
        once = shortened(shortened(event, 50_000), 10_000)
        self.assertLess(abs(json.loads(once)[CUT] - 90_000), 500)

    def test_nothing_to_cut(self) -> None:
        """What has no long text stays what it is."""
        numbers = json.dumps({f"n{n}": n for n in range(1000)}).encode()
        self.assertEqual(len(json.loads(shortened(numbers, 2048))), 1001)
        for odd in (b'"' + b"x" * 5000 + b'"', b"x" * 5000, b"[" * 5000, b"\xff" * 5000):
            self.assertEqual(shortened(odd, 2048), odd)
            self.assertEqual(len(FORMAT.message(odd * 2, 1)), FORMAT.limit)


class SyslogTests(SynchronousTestCase):
    """RFC 5424."""

    def test_event(self) -> None:
        """Everything in its place."""
        event = session("s").start(NOW)
        found = parse(FORMAT.message(event.json.encode(), 5))
        self.assertEqual((found.facility, found.severity, found.time), (13, 6, event["time"]))
        self.assertEqual((found.hostname, found.app_name, found.procid), ("auth.example.com", "teleport", "-"))
        self.assertEqual((found.msgid, json.loads(found.text)), ("TDB00I", dict(event)))
        self.assertEqual(found.data["meta"], {"sequenceId": "5"})
        self.assertEqual(found.data["origin"], {"software": "teleport_db", "swVersion": "1.0"})

    def test_severity(self) -> None:
        """By the last letter of the code."""
        for code, severity in (("TDB00I", 6), ("TDB00W", 4), ("TJ002E", 3), ("X", 5), ("", 5), ("<bad>", 5)):
            event = {"ei": 1, "event": "x", "uid": "u", "code": code, "time": "2027-01-15T08:00:00Z"}
            self.assertEqual(
                parse(FORMAT.message(json.dumps(event, separators=(",", ":")).encode(), 1)).severity, severity
            )

    def test_hostile(self) -> None:
        """Whatever is in an event, the message is one."""
        for fields in (
            {"time": "2027] <1>1"},
            {"code": "A B"},
            {"code": "x" * 40},
            {"time": 7},
            {"event": "\n2 x"},
            {"q": ']" \\ é\n\x1b[2J'},
        ):
            event = {"ei": 1, "event": "x", "uid": "u", "code": "C", "time": "2027-01-15T08:00:00Z", **fields}
            text = json.dumps(event, separators=(",", ":")).encode()
            found = parse(FORMAT.message(text, 1))
            self.assertEqual(found.text, text)
            self.assertTrue(found.text.isascii() and b"\n" not in found.text)
        odd = attrs.evolve(FORMAT, hostname="a b")
        self.assertEqual(parse(odd.message(b"{}", 1)).hostname, "-")

    def test_lines(self) -> None:
        """Lines of the log, and checkpoints, as they are."""
        event = {"ei": 1, "event": "x", "uid": "u", "code": "TDB00W", "time": "2027-01-15T08:00:00Z"}
        text = line(event, 'odd"host')
        found = parse(FORMAT.message(text, 1))
        self.assertEqual((found.msgid, found.severity, found.text), ("TDB00W", 4, text))
        checkpoint = CHECKPOINT % (b"0" * 64)
        found = parse(FORMAT.message(checkpoint, 1))
        self.assertEqual((found.msgid, found.time), ("checkpoint", "2027-01-15T08:00:00.125Z"))

    def test_numbers(self) -> None:
        """As long as RFC 5424 lets them grow, and then from 1 on."""
        for number, shown in ((1, 1), (LAST_NUMBER, LAST_NUMBER), (LAST_NUMBER + 1, 1)):
            self.assertEqual(parse(FORMAT.message(b"{}", number)).data["meta"]["sequenceId"], str(shown))

    def test_limit(self) -> None:
        """A message is never longer than it may be, and its text is JSON."""
        event = {"ei": 1, "event": "x", "uid": "u", "code": "TDB02I", "time": "2027-01-15T08:00:00Z", "q": "é" * 9000}
        message = FORMAT.message(json.dumps(event, separators=(",", ":")).encode(), 1)
        self.assertLessEqual(len(message), 8192)
        self.assertGreater(len(message), 6000)
        self.assertIn(CUT, json.loads(parse(message).text))

    def test_frames(self) -> None:
        """Counted in bytes, one behind the other."""
        stream = FORMAT.frames([b'{"n":1}', b'{"n":2}'], 8)
        messages, rest = unframed(stream)
        self.assertEqual(([parse(m).text for m in messages], rest), ([b'{"n":1}', b'{"n":2}'], b""))
        self.assertEqual([parse(m).data["meta"]["sequenceId"] for m in messages], ["8", "9"])
