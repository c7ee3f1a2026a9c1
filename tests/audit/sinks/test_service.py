"""All sinks beside a log: what retention leaves for them, what is said of them, what each waits for alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from teleport_db.audit.housekeeping import HELD, RETENTION
from teleport_db.audit.log import LOOK_SECONDS
from teleport_db.audit.shipping import ThreadHook, inline
from teleport_db.audit.sinks.file import FileTarget
from teleport_db.audit.sinks.service import Sinks, make_target
from teleport_db.audit.sinks.trouble import FAILED, RECOVERED
from teleport_db.config.model import AuditFiles
from teleport_db.config.sinks import FileSink, HTTPSSink, Sink
from tests.audit.sinks.support import SinkCase
from tests.audit.test_log import DAY, LogCase, Thread

KEEPING = AuditFiles(max_file=2000, retention=3 * DAY, compress=False)


class SinksCase(SinkCase):
    def setUp(self) -> None:
        super().setUp()
        self.out = Path(self.mktemp())
        self.out.mkdir()
        self.threads: dict[str, ThreadHook] = {}
        self.sinks: Sinks | None = None
        self.addCleanup(self.stop)

    def sink(self, name: str = "one", **more: Any) -> FileSink:
        return FileSink(name=name, path=str((self.out / f"{name}.jsonl").absolute()), **more)

    def all(self, *sinks: Sink, **logs: Any) -> Sinks:  # type: ignore[override]
        """These sinks on a log that keeps house."""
        log = self.reopen(**logs)
        self.sinks = Sinks(
            sinks,
            log,
            thread=lambda name: self.threads.get(name, inline),
            cluster="root",
            hostname="auth",
            reactor=self.clock,
            random=lambda: 1.0,
            elapsed=lambda: 0.0,
        )
        log.needed = self.sinks.needed
        log.start()
        self.sinks.start()
        return self.sinks

    def stop(self) -> None:
        if self.sinks is not None:
            stopped = self.sinks.stop()
            for thread in self.threads.values():
                assert isinstance(thread, Thread)
                thread.finish()
            self.successResultOf(stopped)
            self.sinks = None

    def events(self, name: str) -> list[dict[str, Any]]:
        """Those of the log's own with this name."""
        found = [json.loads(line) for line in self.lines().splitlines()]
        return [record["event"] for record in found if record.get("event", {}).get("event") == name]

    def look(self) -> None:
        self.clock.advance(LOOK_SECONDS)
        for _ in range(3):
            self.clock.advance(1)


class RetentionTests(SinksCase):
    def test_held(self) -> None:
        """A file whose time has come stays until every sink has read it; the log says so, once, and then it goes."""
        thread = self.threads["slow"] = Thread()
        sinks = self.all(self.sink("fast"), self.sink("slow"), keeping=KEEPING, cluster="root")
        for _ in range(8):
            self.write(2, size=300)
            self.clock.advance(DAY)
            self.look()
        self.assertGreater(len(list(self.directory.glob("*.jsonl"))), 7)
        self.assertEqual(self.events(RETENTION), [])
        held = self.events(HELD)
        self.assertEqual(held[0]["files"], ["2025-11-24.jsonl"])
        self.assertEqual((held[0]["code"], held[0]["cluster_name"]), ("TAL00W", "root"))
        before = len(held)
        self.look()
        self.assertEqual(len(self.events(HELD)), before)
        whole = self.lines()
        while thread.work:
            thread.finish()
            self.clock.advance(1)
        self.assertEqual(sinks.behind, 0)
        self.look()
        self.assertTrue(self.events(RETENTION))
        self.assertLess(len(list(self.directory.glob("*.jsonl"))), 6)
        thread.finish()
        self.assertTrue((self.out / "slow.jsonl").read_bytes().startswith(whole))

    def test_partly(self) -> None:
        """What all have read goes, what one of them has not stays."""
        thread = self.threads["slow"] = Thread()
        sinks = self.all(self.sink("slow"), keeping=KEEPING)
        thread.finish()
        for _ in range(3):
            self.write(2, size=300)
            self.clock.advance(1)
            thread.finish()
            self.clock.advance(DAY)
            thread.finish()
        needed = sinks.needed()
        assert needed is not None
        for _ in range(6):
            self.write(2, size=300)
            self.clock.advance(DAY)
            self.look()
        names = sorted(path.name for path in self.directory.glob("*.jsonl"))
        self.assertEqual(min(names), needed.name)

    def test_none(self) -> None:
        """Without sinks nothing is held."""
        sinks = self.all(keeping=KEEPING)
        self.assertEqual((sinks.needed(), sinks.statuses(), sinks.behind, sinks.failing), (None, [], 0, 0))
        for _ in range(6):
            self.write(2, size=300)
            self.clock.advance(DAY)
            self.look()
        self.assertTrue(self.events(RETENTION))


class StateTests(SinksCase):
    def test_status(self) -> None:
        """What each is, how far, and why not further; one that fails keeps no other waiting."""
        bad = FileSink(name="bad", path="/nowhere/audit.jsonl")
        sinks = self.all(self.sink("good"), bad)
        self.write(3)
        self.clock.advance(1)
        good, failing = sinks.statuses()
        self.assertEqual(
            {key: good[key] for key in ("name", "type", "state", "behind", "line", "sent")},
            {"name": "good", "type": "file", "state": "ok", "behind": 0, "line": 4, "sent": 4},
        )
        self.assertTrue(good["last_sent"].startswith("2025-11-24T"))
        self.assertEqual((failing["state"], failing["behind"]), ("failing", 4))
        self.assertEqual(failing["error"], "/nowhere/audit.jsonl: no such file or directory")
        self.assertEqual((sinks.behind, sinks.failing), (4, 1))

    def test_no_loop(self) -> None:
        """A sink that fails for a day makes one event of it, and one of its end, which it gets itself."""
        target = self.out / "there"
        sinks = self.all(FileSink(name="bad", path=str((target / "x.jsonl").absolute())))
        self.write(1)
        for _ in range(24 * 60):
            self.clock.advance(60)
        (event,) = self.events(FAILED)
        self.assertEqual((event["sink"], event["code"]), ("bad", "TAL01W"))
        target.mkdir()
        for _ in range(5):
            self.clock.advance(60)
        (event,) = self.events(RECOVERED)
        self.assertGreater(event["seconds"], 86000)
        self.assertEqual((sinks.failing, sinks.behind), (0, 0))
        self.assertEqual((target / "x.jsonl").read_bytes(), self.lines())


class MakingTests(LogCase):
    def test_kinds(self) -> None:
        """Each kind has its target."""
        made = make_target(
            FileSink(name="a", path="/x"), cluster="root", hostname="h", reactor=self.clock, in_thread=inline
        )
        self.assertIsInstance(made, FileTarget)
        self.assertRaises(
            TypeError, make_target, Sink(name="a"), cluster="", hostname="", reactor=self.clock, in_thread=inline
        )

    def test_nothing_secret(self) -> None:
        """A sink that prints shows neither its headers nor its path, which may have a token in it."""
        sink = HTTPSSink(name="a", host="h", port=1, path="/in?token=hush", headers={"X": "hush"})
        self.assertNotIn("hush", f"{sink} {sink!r} {sink.target}")
