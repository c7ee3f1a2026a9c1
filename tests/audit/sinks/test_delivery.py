"""A sink gets the log in order, at least once, whatever happens to it; the log never waits for it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from twisted.internet.defer import Deferred

from teleport_db.audit import logfile
from teleport_db.audit.sinks.delivery import REST
from teleport_db.audit.sinks.reading import Cursor
from teleport_db.audit.sinks.records import Selection
from teleport_db.audit.sinks.target import NotTaken
from teleport_db.config.model import AuditFiles
from teleport_db.config.sinks import Sink
from tests.audit.sinks.support import AWAY, FakeTarget, SinkCase
from tests.audit.test_log import DAY, Thread


class OrderTests(SinkCase):
    """What comes, and when."""

    def test_lines(self) -> None:
        """What the log has and what comes, byte by byte as it stands there, checkpoints included."""
        self.write(5)
        self.begin()
        self.clock.advance(1)
        self.write(3)
        self.clock.advance(1)
        self.assertEqual(b"".join(batch.data for batch in self.target.batches), self.lines())
        self.assertEqual(self.target.numbers, list(range(1, 9)))
        self.assertEqual([batch.first for batch in self.target.batches], [1, 7])

    def test_gathered(self) -> None:
        """Lines wait for others to come along; a batch that is full does not."""
        self.begin()
        self.write(1)
        self.clock.advance(0.5)
        self.write(1)
        self.assertEqual(self.target.batches, [])
        self.clock.advance(0.5)
        self.assertEqual(len(self.target.batches), 1)
        self.target.max_bytes = 500
        self.write(10, size=100)
        self.assertEqual(len(self.target.batches), 2)
        self.write(1)
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, list(range(1, 14)))

    def test_bounded(self) -> None:
        """A batch has at most so many bytes and records; a line that is longer comes alone and whole."""
        self.target = FakeTarget(max_bytes=2000, max_records=3, gather=0)
        self.write(4)
        self.write(1, size=9000)
        self.write(10)
        self.begin()
        self.assertEqual(self.target.numbers, list(range(1, 16)))
        self.assertTrue(all(len(batch.records) <= 3 for batch in self.target.batches))
        sizes = [len(batch.data) for batch in self.target.batches]
        self.assertEqual([size for size in sizes if size > 2000], [max(sizes)])
        self.assertGreater(max(sizes), 9000)

    def test_files(self) -> None:
        """Rotated, packed and plain files follow each other."""
        self.reopen(keeping=AuditFiles(max_file=2000)).start()
        for _ in range(6):
            self.write(4, size=300)
            self.clock.advance(DAY)
        self.assertGreater(len(list(self.directory.glob("*.gz"))), 2)
        self.begin()
        self.clock.advance(1)
        self.assertEqual(b"".join(batch.data for batch in self.target.batches), self.lines())

    def test_packed_meanwhile(self) -> None:
        """A file that is packed while a sink is in its middle is read on."""
        self.target = FakeTarget(max_bytes=600, gather=0)
        self.reopen(keeping=AuditFiles(max_file=2000)).start()
        self.write(4, size=300)
        blocked: Deferred[None] = Deferred()
        self.target.answers = [None, blocked]
        self.begin()
        self.assertEqual(len(self.target.batches), 2)
        self.clock.advance(DAY)
        self.write(4, size=300)
        self.clock.advance(DAY)
        self.write(1)
        self.assertTrue(list(self.directory.glob("*.gz")))
        blocked.callback(None)
        self.clock.advance(1)
        self.assertEqual(b"".join(batch.data for batch in self.target.batches), self.lines())

    def test_rest(self) -> None:
        """A rest after each batch, as many times as long as reading it took."""
        now = [0.0]

        def elapsed() -> float:
            now[0] += 0.5
            return now[0]

        self.target = FakeTarget(max_bytes=500, gather=0)
        self.write(20)
        self.begin(elapsed=elapsed)
        self.assertEqual(len(self.target.batches), 0)
        self.clock.advance(0.5 * REST)
        self.assertEqual(len(self.target.batches), 1)
        self.clock.advance(0.5 * REST - 0.1)
        self.assertEqual(len(self.target.batches), 1)
        self.clock.advance(0.1)
        self.assertEqual(len(self.target.batches), 2)

    def test_idle(self) -> None:
        """A sink that has everything asks for nothing and has no timer."""
        self.write(3)
        thread = Thread()
        self.begin(in_thread=thread)
        for _ in range(3):
            thread.finish()
            self.clock.advance(1)
        thread.finish()
        before = [call for call in self.clock.getDelayedCalls() if call.active()]
        self.assertEqual((len(before), thread.work), (1, []))  # the log's own checkpoint

    def test_begin_now(self) -> None:
        """A new sink may begin with what comes; from then on it has its cursor."""
        self.write(5)
        self.begin(self.sink(begin="now"))
        self.write(2)
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, [6, 7])
        self.end()
        self.write(1)
        self.begin(self.sink(begin="now"))
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, [6, 7, 8])

    def test_events_alone(self) -> None:
        """Events without what the log has around them, and without checkpoints."""
        self.write(2)
        self.source.emit([{"event": 'odd "name"', "n": 3, "text": 'a","event":{"b'}])
        self.begin(self.sink(format="events"))
        self.clock.advance(1)
        records = self.target.records
        self.assertEqual([record["n"] for record in records], [1, 2, 3])
        self.assertEqual(records[0]["uid"], "u1")
        self.assertEqual(set(records[2]), {"event", "n", "text"})
        self.assertEqual([batch.end.line for batch in self.target.batches], [4])

    def test_filter(self) -> None:
        """Globs choose; the cursor goes on also over what is for others."""
        names = [
            "db.session.query",
            "user.login",
            "user.create",
            "db.session.start",
            "xuser.login",
            "db.session.startx",
        ]
        for name in names:
            self.write(1, name=name)
        delivery = self.begin(self.sink(format="events", events=("user.*", "db.session.start")))
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, [2, 3, 4])
        self.write(3)
        self.clock.advance(1)
        self.assertEqual((len(self.target.batches), delivery.behind), (1, 0))
        kept = Cursor.of(self.directory, "one").load()
        assert kept is not None
        self.assertEqual((kept[0].line, kept[0].sent), (10, 3))

    def test_damaged(self) -> None:
        """A line that is no event is complained of, and what is behind it comes."""
        self.write(3)
        path = next(self.directory.glob("*.jsonl"))
        path.write_bytes(path.read_bytes().replace(b'"seq":2,', b'"seq:2,'))
        self.begin(self.sink(format="events"))
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, [1, 3])


class CursorTests(SinkCase):
    """Nothing is lost by a restart, and nothing sent twice but what nobody knows of."""

    def test_restart(self) -> None:
        """Another process goes on where the first was, with what its target kept."""
        self.write(5)
        self.begin()
        self.clock.advance(1)
        self.reopen()
        self.write(4)
        target = FakeTarget()
        self.begin(target=target)
        self.assertEqual(target.state, {"sent": 6})
        self.clock.advance(1)
        self.assertEqual(target.numbers, [6, 7, 8, 9])
        self.assertEqual(target.batches[0].first, 7)

    def test_unacknowledged(self) -> None:
        """What was sent and not acknowledged is sent again, with the same numbers."""
        self.write(5)
        self.target.answers = [Deferred()]
        self.begin()
        self.clock.advance(1)
        self.crash()
        self.reopen()
        target = FakeTarget()
        self.begin(target=target)
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, target.numbers)
        self.assertEqual(target.batches[0].first, 1)

    def crash(self) -> None:
        self.end()
        super().crash()

    def test_unreadable(self) -> None:
        """A cursor that cannot be read, and one of another log: all is sent."""
        self.write(5)
        self.begin()
        self.clock.advance(1)
        path = Cursor.of(self.directory, "one").path
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        good = json.loads(path.read_bytes())
        for bad in (
            "",
            "[]",
            json.dumps({**good, "v": 2}),
            json.dumps({**good, "file": "../x"}),
            json.dumps({**good, "offset": -1}),
            json.dumps({**good, "chain": "0" * 64}),
            json.dumps({**good, "offset": good["offset"] + 1}),
            json.dumps({**good, "offset": 10**9}),
            json.dumps({**good, "file": "2099-01-01.jsonl"}),
        ):
            self.end()
            path.write_text(bad)
            target = FakeTarget()
            self.said.clear()
            for _ in range(2):  # a restart says nothing again
                self.begin(self.sink(begin="now"), target)
            self.clock.advance(1)
            self.assertEqual(target.numbers, [1, 2, 3, 4, 5], bad)
            self.assertEqual([(event, fields["first_line"]) for event, fields in self.said], [("audit.sink.gap", 1)])
        self.flushLoggedErrors()

    def test_away(self) -> None:
        """A cursor that cannot be reached just now is waited for, and nothing is removed meanwhile."""
        self.begin(self.sink(begin="now"))
        self.end()
        path = Cursor.of(self.directory, "one").path
        kept = path.read_bytes()
        path.unlink()
        path.mkdir()
        self.write(2)
        delivery = self.begin(self.sink(begin="now"))
        self.assertEqual(delivery.status()["state"], "failing")
        self.assertEqual(delivery.needed, logfile.LogFile(""))
        path.rmdir()
        path.write_bytes(kept)
        for _ in range(3):
            self.clock.advance(1)
        self.assertEqual(self.target.numbers, [1, 2])

    def test_gap(self) -> None:
        """What was removed before the sink had it is named in the audit log, and the rest comes."""
        self.reopen(keeping=AuditFiles(max_file=1000))
        self.write(1)
        self.begin()
        self.clock.advance(1)
        self.end()
        for _ in range(3):
            self.write(4, size=300)
        for file in logfile.files(self.directory)[:2]:
            (self.directory / file.name).unlink()
        target = FakeTarget()
        self.begin(target=target)
        self.clock.advance(1)
        ((event, fields),) = self.said
        self.assertEqual((event, fields["sink"], fields["first_line"]), ("audit.sink.gap", "one", 3))
        self.assertEqual(b"".join(batch.data for batch in target.batches), self.lines())
        first = json.loads(target.batches[0].records[0])["checkpoint"]
        self.assertEqual(fields["lines"], first["count"] - 2)

    def test_cursor_not_kept(self) -> None:
        """A cursor that cannot be written stops nothing."""
        self.begin()
        path = Cursor.of(self.directory, "one").path
        path.unlink()
        path.mkdir()
        self.write(2)
        self.clock.advance(1)
        self.write(2)
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, [1, 2, 3, 4])


class TakenBackTests(SinkCase):
    """What stood behind the log's end for a moment."""

    def test_taken_back(self) -> None:
        """A write that failed and was taken back is not sent in the place of what was written instead."""
        self.begin()
        self.write(1)
        path = next(self.directory.glob("*.jsonl"))
        with open(path, "ab") as file:
            file.write(b"x" * 4000)
        self.clock.advance(1)
        os.truncate(path, path.stat().st_size - 4000)
        self.write(2)
        self.clock.advance(1)
        self.assertEqual(b"".join(batch.data for batch in self.target.batches), self.lines())


class RandomTests(SinkCase):
    """Everything at once."""

    def test_everything(self) -> None:
        """Rotation, packing, restarts, lost answers, refusals, going back: no gap, in order, the same again."""
        for seed in range(12):
            self.end()
            self.shut()
            self.directory, self.next_number = Path(self.mktemp()), 1
            self.run_once(random.Random(seed))

    def run_once(self, seed: random.Random) -> None:
        sink = self.sink(
            format=seed.choice(["log", "events"]), events=seed.choice([(), ("user.*",), ("db.*", "user.*")])
        )
        targets: list[FakeTarget] = []
        keeping = AuditFiles(max_file=3000, compress=seed.random() < 0.5)

        def start() -> None:
            self.reopen(keeping=keeping).start()
            targets.append(FakeTarget(max_bytes=seed.choice([400, 2000, 10**6]), max_records=seed.choice([1, 7, 1000])))
            self.begin(sink, targets[-1])

        start()
        for _ in range(60):
            if seed.random() < 0.4:
                outcome = seed.choice([AWAY, NotTaken("413", too_large=True), Deferred(), None, None, None])
                targets[-1].answers.append(outcome)
            match seed.randrange(6):
                case 0 | 1 | 2:
                    self.write(seed.randrange(1, 20), size=seed.choice([10, 900]), name=seed.choice(["db.x", "user.y"]))
                case 3:
                    self.clock.advance(seed.choice([0, 1, 60, DAY]))
                case 4 if targets[-1].batches:
                    targets[-1].go_back(seed.choice(targets[-1].batches).begin)
                case 5 if seed.random() < 0.5:
                    start()
            self.clock.advance(1)
        start()
        self.clock.pump([1] * 200)
        assert self.delivery is not None
        self.assertEqual(self.delivery.behind, 0)
        self.complete(sink, targets)

    def complete(self, sink: Sink, targets: list[FakeTarget]) -> None:
        """What came, by its numbers, is what the sink is to get of the log."""
        selection = Selection(sink)
        wanted = [record for line in self.lines().splitlines() if (record := selection(line)) is not None]
        found: list[bytes] = []
        for batch in (batch for target in targets for batch in target.batches):
            for number, record in enumerate(batch.records, batch.first - 1):
                self.assertLessEqual(number, len(found), "a gap")
                if number == len(found):
                    found.append(record)
                self.assertEqual(found[number], record)
        self.assertEqual(found, wanted)
