"""The other side takes nothing, or not so much; the sink ends."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail

from teleport_db.audit.sinks.cutting import CUT
from teleport_db.audit.sinks.delivery import LAST_RETRY, LONGEST_WAIT
from teleport_db.audit.sinks.reading import Batch, Place
from teleport_db.audit.sinks.target import NotTaken
from teleport_db.audit.sinks.trouble import FAILED, FAILING, RECOVERED
from tests.audit.sinks.support import AWAY, SinkCase
from tests.audit.test_log import Thread


class TroubleTests(SinkCase):
    """The other side takes nothing."""

    def test_away(self) -> None:
        """It is tried again, ever more seldom; nothing is lost, and the log goes on meanwhile."""
        self.write(2)
        self.target.answers = [AWAY] * 20
        delivery = self.begin()
        self.clock.advance(1)
        waits = []
        while self.target.answers:
            before = self.clock.seconds()
            left = len(self.target.answers)
            while len(self.target.answers) == left:
                self.clock.advance(0.5)
            waits.append(self.clock.seconds() - before)
            self.write(1)
        self.assertEqual(waits[:7], [1, 2, 4, 8, 16, 32, LAST_RETRY])
        self.assertEqual((delivery.status()["state"], delivery.status()["error"]), ("failing", str(AWAY)))
        self.clock.advance(LAST_RETRY)
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, list(range(1, self.next_number)))
        self.assertEqual((delivery.status()["state"], delivery.behind), ("ok", 0))

    def test_events(self) -> None:
        """The audit log has one event of a failure that lasts, and one of its end; none of a short one."""
        self.write(1)
        self.target.answers = [AWAY] * 3
        self.begin()
        for _ in range(20):
            self.clock.advance(1)
        self.assertEqual((self.target.numbers, self.said), ([1], []))
        self.target.answers = [AWAY] * 20
        self.write(1)
        for _ in range(int(FAILING / 20) + 5):
            self.clock.advance(20)
        ((event, fields),) = self.said
        self.assertEqual((event, fields["sink"], fields["error"]), (FAILED, "one", str(AWAY)))
        for _ in range(40):
            self.clock.advance(LAST_RETRY)
        self.assertEqual([name for name, _ in self.said], [FAILED, RECOVERED])
        self.assertEqual(self.target.numbers, [1, 2])

    def test_asked_to_wait(self) -> None:
        """As long as the other side asks for, within bounds."""
        for asked, waited in ((120.0, 120.0), (1e9, LONGEST_WAIT)):
            self.target.answers = [NotTaken("answers 429", wait=asked)]
            count = len(self.target.batches)
            self.begin()
            self.write(1)
            self.clock.advance(1)
            self.clock.advance(waited - 0.1)
            self.assertEqual(len(self.target.batches), count)
            self.clock.advance(0.1)
            self.assertEqual(len(self.target.batches), count + 1)

    def test_too_large(self) -> None:
        """A batch is halved until it is taken, in order; the next ones become larger again, as far as they may."""
        self.target.answers = [NotTaken("413", too_large=True)] * 2
        self.begin(self.sink(format="events"))
        self.write(8)
        self.clock.advance(1)
        self.assertEqual([len(batch.records) for batch in self.target.batches], [2, 2, 2, 2])
        self.assertEqual([batch.first for batch in self.target.batches], [1, 3, 5, 7])
        for count in (4, 8, 16):
            self.write(count)
            self.clock.advance(1)
        self.assertEqual([len(batch.records) for batch in self.target.batches[4:]], [4, 8, 16])
        self.assertEqual(self.target.numbers, list(range(1, 37)))

    def test_always_too_large(self) -> None:
        """A side that never takes more than so much is asked ever less often whether it does."""
        refused: list[int] = []
        taking = self.target.send

        def send(batch: Batch) -> Deferred[None]:
            if len(batch.records) > 5:
                refused.append(batch.first // 8)
                return fail(NotTaken("413", too_large=True))
            return taking(batch)

        self.target.max_records = 8
        self.target.send = send  # type: ignore[method-assign]
        self.begin(self.sink(format="events"))
        for _ in range(200):
            self.write(8)
            self.clock.advance(1)
        self.assertEqual(refused, [0, 1, 3, 7, 15, 31, 63, 127, 191])
        self.assertEqual(self.target.numbers, list(range(1, 1601)))
        self.target.send = taking  # type: ignore[method-assign]
        for _ in range(100):
            self.write(8)
            self.clock.advance(1)
        self.assertEqual(len(self.target.batches[-1].records), 8)

    def test_one_too_large(self) -> None:
        """An event that is too large alone is cut, and says so; a line of the log is not, it would not verify."""
        self.target.answers = [NotTaken("413", too_large=True)] * 3
        self.begin(self.sink(format="events"))
        self.write(1, size=100_000)
        self.clock.advance(1)
        (record,) = self.target.records
        self.assertEqual((record["n"], record["uid"]), (1, "u1"))
        self.assertGreater(record[CUT], 80_000)
        self.target.answers = [NotTaken("413", too_large=True)] * 3
        delivery = self.begin()
        self.write(1, size=100_000)
        self.clock.advance(1)
        self.assertEqual(delivery.status()["error"], "413")
        for _ in range(10):
            self.clock.advance(10)
        pads = [len(record["event"]["pad"]) for record in self.target.records if "source" in record]
        self.assertIn(100_000, pads)

    def test_go_back(self) -> None:
        """A target that is not sure has the log sent again from a place, whether the sink waits or sends."""
        self.begin()
        self.write(2)
        self.clock.advance(1)
        self.write(2)
        self.clock.advance(1)
        self.target.go_back(self.target.batches[1].begin)
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, [1, 2, 3, 4, 3, 4])
        self.target.answers = [Deferred()]
        self.write(1)
        self.clock.advance(1)
        self.target.go_back(self.target.batches[0].begin)
        sending = self.target.batches.pop()
        self.assertEqual(len(sending.records), 1)
        self.target.answers = []
        self.delivery._running.cancel()  # type: ignore[union-attr]

    def test_unexpected(self) -> None:
        """A fault of this program's is in its log, and is tried again."""
        self.target.answers = [ZeroDivisionError("x")]
        delivery = self.begin()
        self.write(1)
        self.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("unexpected ZeroDivisionError", delivery.status()["error"])
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, [1])

    def test_unreadable_log(self) -> None:
        """A log that cannot be read is trouble as any other."""
        self.write(1)
        delivery = self.begin()
        self.clock.advance(1)
        path = next(self.directory.glob("*.jsonl"))
        path.rename(self.directory / "away")
        delivery._reader.close()
        self.write(1)
        self.clock.advance(1)
        self.assertIn("No such file", delivery.status()["error"])
        (self.directory / "away").rename(path)
        self.clock.advance(1)
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, [1, 2])


class StopTests(SinkCase):
    """The end of a process."""

    def test_thread(self) -> None:
        """It has stopped when its thread has, and what was read goes out next time."""
        thread = Thread()
        delivery = self.begin(in_thread=thread)
        thread.finish()
        self.write(1)
        self.clock.advance(1)
        self.assertEqual(len(thread.work), 1)
        stopped = delivery.stop()
        self.assertNoResult(stopped)
        thread.finish()
        self.successResultOf(stopped)
        self.assertEqual((self.target.batches, self.target.closed), ([], 1))
        self.delivery = None
        self.begin()
        self.clock.advance(1)
        self.assertEqual(self.target.numbers, [1])

    def test_place(self) -> None:
        """A sink that has not found its place holds every file."""
        thread = Thread()
        delivery = self.begin(in_thread=thread)
        self.assertIsNone(delivery.place)
        self.assertEqual(delivery.status()["state"], "starting")
        thread.finish()
        self.assertIsInstance(delivery.place, Place)
