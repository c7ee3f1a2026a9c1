"""``tctl audit ...``, ``tsh sessions ls``, ``tsh play``: what people see, and that nothing writes to their terminal."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.log import AuditLog
from teleport_db.cli.auditquery import HEADERS, LONGEST, details, row
from teleport_db.cli.output import cut
from teleport_db.cli.tctl_audit_export import COLUMNS
from teleport_db.cli.tsh_sessions import replay
from tests.audit.samples import NOW
from tests.cli.support import CommandTestCase, Result

#: Colours, a carriage return, a new line that looks like a row, a mark that turns the direction of writing.
HOSTILE = "select '\x1b[31mred\x1b[0m'\r\n2026-01-01T00:00:00Z user.login T1000I root \u202e\x00\x9b2J"

STATEMENT: dict[str, Any] = {
    "event": "db.session.query",
    "code": "TDB02I",
    "user": "alice",
    "time": "2026-01-01T00:00:01.000Z",
    "sid": "s1",
    "statement_id": 1,
    "db_service": "aurora",
    "db_name": "shop",
    "db_query": "select 1",
}
RESULT: dict[str, Any] = {
    "event": "db.session.result",
    "code": "TDB10I",
    "time": "2026-01-01T00:00:01.500Z",
    "sid": "s1",
    "statement_id": 1,
    "success": False,
    "rows": 3,
    "duration_ms": 1500.25,
    "sqlstate": "42P01",
    "error": "there is no such table",
}
START = {"event": "db.session.start", "sid": "s1", "time": "2026-01-01T00:00:00.000Z", "addr.remote": "192.0.2.1:5"}
END = {"event": "db.session.end", "sid": "s1", "time": "2026-01-01T00:10:00.000Z", "reason": "client"}


class ListingTests(CommandTestCase):
    """As commands."""

    def tctl(self, *arguments: str, **environment: str) -> Result:
        folder = self.home / "data"
        if not folder.exists():
            self.cluster.make_admin(folder)
        return self.run_program("tctl", f"--data-dir={folder}", *arguments, **environment)

    def test_joined(self) -> None:
        """A statement and its result are one row: rows, time, SQLSTATE."""
        self.cluster.events = [{**STATEMENT, "result": RESULT}]
        lines = self.succeeds(self.tctl("audit", "ls")).splitlines()
        self.assertEqual(lines[0].split(), list(HEADERS))
        self.assertEqual(lines[2].split()[-6:], ["shop", "3", "1.5s", "42P01", "select", "1"])
        self.assertIn("joined=1", self.cluster.calls[-1][1])
        self.succeeds(self.tctl("audit", "ls", "--raw"))
        self.assertNotIn("joined", self.cluster.calls[-1][1])

    def test_sinks(self) -> None:
        """What they are and how far; nothing another side has said moves the cursor; ``--check`` is for cron."""
        self.assertIn("No sinks", self.succeeds(self.tctl("audit", "sinks", "--check")))
        good = {"name": "copy", "type": "file", "target": "/x", "state": "ok", "behind": 0, "sent": 7}
        bad = {"name": "siem", "type": "https", "target": "https://s", "state": "failing", "behind": 9, "sent": 1}
        bad |= {"error": HOSTILE, "since": "2026-01-01T00:00:00.000Z"}
        self.cluster.sinks = [{**good, "last_sent": "2026-01-01T00:00:00.000Z"}]
        lines = self.succeeds(self.tctl("audit", "sinks", "--check")).splitlines()
        self.assertEqual(lines[2].split(), ["copy", "file", "/x", "ok", "0", "7", "2026-01-01T00:00:00.000Z"])
        self.cluster.sinks.append(bad)
        lines = self.succeeds(self.tctl("audit", "sinks")).splitlines()
        self.assertEqual(len(lines), 4)
        self.assertIn("failing 9      1", lines[3])
        self.assertTrue(lines[3].isprintable() and "since 2026-01-01T00:00:00.000Z: select" in lines[3])
        shown = self.tctl("audit", "sinks", "--check", "--format=json")
        self.assertEqual((shown.code, json.loads(shown.out)), (1, self.cluster.sinks))

    def test_search(self) -> None:
        """Words go to the server; what has no letter in it is refused."""
        self.cluster.events = [STATEMENT]
        self.succeeds(self.tctl("audit", "search", "drop", "us*", "--sqlstate=42P01", "--db=aurora", "--session=s1"))
        target = self.cluster.calls[-1][1]
        for part in ("text=drop+us%2A", "sqlstate=42P01", "db_service=aurora", "sid=s1"):
            self.assertIn(part, target)
        self.fails(self.tctl("audit", "search", "--", "-%"), "WORD", code=2)

    def test_injection(self) -> None:
        """Whatever a statement says, it stays in its row, and moves no cursor."""
        self.cluster.events = [{**STATEMENT, "db_query": HOSTILE, "user": "\x1b[2J", "result": RESULT}]
        said = [self.succeeds(self.tctl("audit", *words)) for words in (("ls",), ("tail",), ("search", "select"))]
        self.assertEqual([len(text.splitlines()) for text in said], [3, 1, 3])
        said += [
            self.succeeds(self.tctl("audit", command, f"--format={form}"))
            for command, form in (("ls", "json"), ("ls", "yaml"), ("ls", "jsonl"), ("tail", "jsonl"))
        ]
        self.cluster.events = [{**START, "sid": "s1"}, {**STATEMENT, "db_query": HOSTILE}, {**RESULT, "error": HOSTILE}]
        self.cluster.sessions = [{"sid": HOSTILE, "user": HOSTILE, "db_service": HOSTILE, "reason": HOSTILE}]
        self.login()
        said += [self.succeeds(self.tsh("play", "s1")), self.succeeds(self.tsh("sessions", "ls"))]
        self.assertEqual([len(text.splitlines()) for text in said[-2:]], [4, 3])
        for text in said:
            self.assertTrue(text.isascii() or text.replace("\n", "").isprintable(), text)
            self.assertNotRegex(text, "[\x00-\x09\x0b-\x1f\x7f\x9b\u202e]")

    def test_terminal(self) -> None:
        """Rows end where the terminal does."""
        self.cluster.events = [{**STATEMENT, "db_query": "select " + "x" * 1000, "result": RESULT}]
        code, said = self.at_terminal("tctl", f"--data-dir={self._data()}", "audit", "ls", answers=())
        self.assertEqual(code, 0)
        self.assertLessEqual(max(map(len, said.splitlines())), 133)

    def test_long(self) -> None:
        """Where there is no terminal, as much as a person reads; the whole in the other forms."""
        long = "select " + "x" * 100_000
        self.cluster.events = [{**STATEMENT, "db_query": long}] * 3
        for words in (("ls",), ("tail",), ("search", "select")):
            self.assertLess(len(self.succeeds(self.tctl("audit", *words))), 4 * LONGEST)
        self.login()
        self.assertLess(len(self.succeeds(self.tsh("play", "s1"))), 4 * LONGEST)
        listed = json.loads(self.succeeds(self.tctl("audit", "ls", "--format=json")))
        self.assertEqual([event["db_query"] for event in listed], [long] * 3)
        self.assertEqual(self.succeeds(self.tctl("audit", "ls", "--format=yaml")).count("- event:"), 3)
        self.cluster.events = []
        for form in ("json", "yaml"):
            self.assertEqual(self.succeeds(self.tctl("audit", "ls", f"--format={form}")), "[]\n")

    def _data(self) -> Path:
        self.tctl("audit", "ls")
        return self.home / "data"

    def test_checkpoint(self) -> None:
        """It is printed as it is, or added to a file."""
        line = self.succeeds(self.tctl("audit", "checkpoint"))
        self.assertEqual(json.loads(line), {"checkpoint": {"number": 1}})
        for _ in range(2):
            self.succeeds(self.tctl("audit", "checkpoint", "--out=kept"))
        self.assertEqual((self.home / "kept").read_text(), line * 2)

    def test_export(self) -> None:
        """JSON lines are the events; CSV has their fields, and nothing a spreadsheet would run."""
        self.cluster.events = [{**STATEMENT, "db_query": "=1+1;\nselect"}, RESULT]
        self.succeeds(self.tctl("audit", "export", "--out=a.jsonl"))
        lines = (self.home / "a.jsonl").read_text().splitlines()
        self.assertEqual([json.loads(line) for line in lines], self.cluster.events)
        self.succeeds(self.tctl("audit", "export", "--out=a.csv", "--format=csv"))
        header, first, second = csv.reader(io.StringIO((self.home / "a.csv").read_bytes().decode(), newline=""))
        self.assertEqual(header, list(COLUMNS))
        self.assertEqual(first[header.index("db_query")], "'=1+1;\nselect")
        self.assertEqual(second[header.index("duration_ms")], "1500.25")
        self.fails(self.tctl("audit", "export", "--out=a.jsonl", "--user=bob"), "other flags", "--overwrite")
        self.fails(self.tctl("audit", "export", "--out=s3://bucket"), "BUCKET", code=2)

    def test_sessions(self) -> None:
        """A row each; who it was, how long, how many statements."""
        self.cluster.sessions = [
            {"sid": "s1", "user": "alice", "db_service": "aurora", "db_name": "shop", "started": START["time"],
             "ended": END["time"], "reason": "client", "statements": 5, "errors": 1}
        ]  # fmt: skip
        self.login()
        lines = self.succeeds(self.tsh("sessions", "ls")).splitlines()
        self.assertEqual(
            lines[2].split(),
            ["s1", "2026-01-01", "00:00:00", "10m0s", "alice", "aurora", "shop", "5", "1", "client"],
        )
        listed = self.tsh("sessions", "ls", "--limit=1", "--format=json")
        self.assertEqual(json.loads(self.succeeds(listed)), self.cluster.sessions)
        self.assertIn("--after=7", self.tsh("sessions", "ls", "--limit=1").err)

    def test_play(self) -> None:
        """All pages of one session, statements with what came of them."""
        other = {**STATEMENT, "sid": "s2", "db_query": "select 2"}
        self.cluster.events = [START, STATEMENT, other, RESULT, END]
        self.login()
        lines = self.succeeds(self.tsh("play", "s1")).splitlines()
        self.assertEqual([line.strip() for line in lines], [
            "Session s1 of alice, aurora shop as bob",
            "00:00.0  began, from 192.0.2.1:5",
            "00:01.0  select 1",
            "-> 42P01 there is no such table, 3 rows, 1.5s",
            "10:00.0  ended: client",
        ])  # fmt: skip
        played = json.loads(self.succeeds(self.tsh("play", "s1", "--format=json")))
        self.assertEqual(played, [START, STATEMENT, RESULT, END])
        self.fails(self.tsh("play", "s3"), "s3")
        self.fails(self.tsh("play", "s1", "--speed=0"), "--speed", code=2)


class VerifyTests(CommandTestCase):
    """``tctl audit verify``, which calls nobody."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.clock.advance(NOW)
        self.log = AuditLog(self.home / "data" / "audit", clock=self.clock)
        self.addCleanup(self.log.close)
        for number in range(1, 6):
            event = {"event": "user.login", "uid": f"u{number}", "time": "2026-01-01T00:00:00.000Z"}
            self.log.receive("host", [(number, event)])
        kept = self.successResultOf(self.log.checkpoint())
        assert kept is not None
        (self.home / "kept").write_bytes(kept.line)

    def verify(self, *arguments: str) -> Result:
        return self.run_program("tctl", "audit", "verify", f"--data-dir={self.home / 'data'}", *arguments)

    def test_whole(self) -> None:
        """While the log is in use; with what was kept elsewhere; as JSON."""
        said = self.succeeds(self.verify())
        self.assertIn("whole: 5 events in 1 files", said)
        self.assertIn("tctl audit checkpoint", said)
        self.assertIn("1 checkpoints that were kept elsewhere", self.succeeds(self.verify("--checkpoint=kept")))
        report = json.loads(self.succeeds(self.verify("--format=json")))
        self.assertEqual((report["ok"], report["events"], report["finding"]), (True, 5, None))

    def test_changed(self) -> None:
        """Exit 1; the file, the line, the event; nothing is changed by looking."""
        (path,) = (self.home / "data" / "audit").glob("*.jsonl")
        path.write_bytes(path.read_bytes().replace(b'"u3"', b'"u7"'))
        before = path.read_bytes()
        self.fails(self.verify(), "changed", f"{path.name}:4 (event u7 of 2026-01-01T00:00:00.000Z)")
        shown = self.verify("--format=json")
        self.assertEqual((shown.code, json.loads(shown.out)["finding"]["line"]), (1, 4))
        self.assertEqual(path.read_bytes(), before)

    def test_refused(self) -> None:
        """No log, no file, no checkpoint in it."""
        self.fails(self.run_program("tctl", "audit", "verify", "--data-dir=/nowhere"), "/nowhere/audit", "--data-dir")
        self.fails(self.verify("--checkpoint=nothing"), "nothing")
        (self.home / "bad").write_text("x\n")
        self.fails(self.verify("--checkpoint=bad"), "bad:1")


class ReplayTests(SynchronousTestCase):
    """The timing of a replay."""

    def pauses(self, speed: float | None, longest: float = 3.0) -> list[float]:
        slept: list[float] = []
        events = [START, {**STATEMENT, "result": RESULT}, END]
        replay({}, events, lambda line: None, slept.append, speed=speed, longest=longest)
        return slept

    def test_speed(self) -> None:
        """As it was, faster, with long pauses cut, or at once."""
        self.assertEqual(self.pauses(1.0, 1000.0), [1.0, 599.0])
        self.assertEqual(self.pauses(2.0, 1000.0), [0.5, 299.5])
        self.assertEqual(self.pauses(1.0), [1.0, 3.0])
        self.assertEqual(self.pauses(None), [])


class RowTests(SynchronousTestCase):
    """Cells of odd events."""

    def test_odd(self) -> None:
        """What an agent sent may have any shape."""
        for event in ({}, {"result": []}, {"result": {"duration_ms": "x"}}, {"db_query_parameters": [None, {"a": 1}]}):
            self.assertEqual(len(row(event)), len(HEADERS))

    def test_about(self) -> None:
        """What was done to what."""
        for event, said in (
            ({"event": "service.start", "services": ["auth", "proxy"], "after_crash": True},
             "services=auth,proxy after_crash=yes"),
            ({"event": "config.update", "changes": [{"key": "a.b", "from": "1", "to": "2"}]}, "changes=a.b:1->2"),
            ({"event": "audit.read", "criteria": {"user": "bob", "text": "x y"}, "addr.remote": "192.0.2.1"},
             "criteria=user:bob,text:x y"),
            ({"event": "lock.created", "name": "l", "target": {"user": "bob"}}, "name=l target=user:bob"),
            ({"event": "instance.down", "reason": "lost", "databases": ["a"]}, "lost"),
            ({"event": "db.create", "name": "aurora", "roles": ["x"]}, "aurora"),
            ({"event": "db.session.start", "roles": ["access"], "addr.remote": "192.0.2.1:5"}, "192.0.2.1:5"),
            ({"event": "user.login", "addr.remote": "192.0.2.1"}, "192.0.2.1"),
            ({"event": "db.session.start", "statement_name": "s", "parameters": ["1", None]}, "s -- 1, None"),
            ({"event": "db.session.start", "portal_name": "p"}, "p"),
            ({}, ""),
        ):  # fmt: skip
            self.assertEqual(details(event), said)

    def test_cut(self) -> None:
        self.assertEqual(cut("x" * 100, 10), "xxxxxxx...")
