"""From the spool to the auth server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.shipping import FIRST_RETRY, GATHER, LAST_RETRY, SPACING, Shipper
from teleport_db.audit.spool import Spool
from teleport_db.audit.spooled import Batch
from teleport_db.errors import AuditUnavailable, BadRequest, ConnectionTrouble


class ShipperTests(SynchronousTestCase):
    """In order, one batch in flight, until it is acknowledged."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = Spool(Path(self.mktemp()), now=lambda: 1.0)
        self.addCleanup(self.spool.close)
        self.sent: list[Batch] = []
        self.answers: list[Deferred[int]] = []
        self.cancelled: list[object] = []
        self.shipper = Shipper(self.spool, self.send, clock=self.clock, batch=3, random=lambda: 1.0)
        self.addCleanup(lambda: self.shipper.stop() and None)

    def send(self, batch: Batch) -> Deferred[int]:
        self.sent.append(batch)
        self.answers.append(Deferred(self.cancelled.append))
        return self.answers[-1]

    def append(self, count: int) -> None:
        for _ in range(count):
            self.spool.append([{"n": self.spool.last + 1}])
            self.shipper.notify()

    def numbers(self, batch: int = -1) -> list[int]:
        return [number - self.first for number, _ in self.sent[batch]]

    @property
    def first(self) -> int:
        return self.spool._firsts[0]

    def test_in_order(self) -> None:
        """Batches follow each other, none before the last was acknowledged."""
        self.append(7)
        self.shipper.start()
        self.clock.advance(0)
        self.assertEqual(self.numbers(), [0, 1, 2])
        self.clock.advance(100)
        self.assertEqual(len(self.sent), 1)
        self.answers[0].callback(self.first + 2)
        self.clock.advance(0)
        self.assertEqual(self.numbers(), [3, 4, 5])
        self.answers[1].callback(self.first + 5)
        self.clock.advance(GATHER)
        self.assertEqual(self.numbers(), [6])
        self.answers[2].callback(self.first + 6)
        self.assertEqual(self.spool.pending, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gathered(self) -> None:
        """What comes within a moment goes together."""
        self.shipper.start()
        self.clock.advance(0)
        self.append(1)
        self.clock.advance(GATHER / 2)
        self.append(1)
        self.assertEqual(self.sent, [])
        self.clock.advance(GATHER / 2)
        self.assertEqual(self.numbers(), [0, 1])

    def test_part_acknowledged(self) -> None:
        """What was not is sent again."""
        self.append(3)
        self.shipper.start()
        self.clock.advance(0)
        self.answers[0].callback(self.first + 1)
        self.clock.advance(GATHER)
        self.assertEqual(self.numbers(), [2])

    def test_never_more_than_was_sent(self) -> None:
        """An acknowledgement of the future frees nothing of it."""
        self.append(5)
        self.shipper.start()
        self.clock.advance(0)
        self.answers[0].callback(self.first + 1000)
        self.assertEqual(self.spool.pending, 2)

    def test_failures(self) -> None:
        """Waits grow from one second to a minute, and the same batch is tried until it is through."""
        self.append(2)
        self.shipper.start()
        self.clock.advance(0)
        delay = FIRST_RETRY
        for attempt in range(9):
            self.answers[-1].errback(ConnectionTrouble("as tested"))
            self.clock.advance(delay - 0.01)
            self.assertEqual(len(self.sent), attempt + 1)
            self.clock.advance(0.02)
            self.assertEqual(len(self.sent), attempt + 2)
            self.assertEqual(self.numbers(), [0, 1])
            delay = min(delay * 2, LAST_RETRY)
        self.append(1)
        self.answers[-1].callback(self.first + 1)
        self.clock.advance(SPACING)
        self.assertEqual(self.numbers(), [2])

    def test_spaced(self) -> None:
        """While more comes the disk is asked for a sync now and then; all that one has covered goes at once."""
        syncs: list[int] = []
        begin = self.spool.begin_sync
        self.patch(self.spool, "begin_sync", lambda: syncs.append(self.spool.last - self.first) or begin())
        self.append(7)
        self.shipper.start()
        self.clock.advance(0)
        self.append(2)
        for acknowledged in (2, 5, 6):
            self.answers[-1].callback(self.first + acknowledged)
            self.clock.advance(0)
        self.assertEqual(([len(batch) for batch in self.sent], syncs), ([3, 3, 1], [6]))
        self.clock.advance(SPACING)
        self.assertEqual((self.numbers(), syncs), ([7, 8], [6, 8]))

    def test_jitter(self) -> None:
        """Agents that were cut off together do not come back together."""
        self.append(1)
        self.shipper._random = lambda: 0.0
        self.shipper.start()
        self.clock.advance(0)
        self.answers[-1].errback(ConnectionTrouble())
        self.clock.advance(FIRST_RETRY / 2)
        self.assertEqual(len(self.sent), 2)

    def test_retry_now(self) -> None:
        """The tunnel is back: no need to wait."""
        self.append(1)
        self.shipper.start()
        self.clock.advance(0)
        self.answers[-1].errback(ConnectionTrouble())
        self.shipper.retry_now()
        self.clock.advance(0)
        self.assertEqual(len(self.sent), 2)

    def test_send_raises(self) -> None:
        """A sender that fails at once is one that fails."""
        self.append(1)
        shipper = Shipper(self.spool, lambda batch: 1 / 0, clock=self.clock, random=lambda: 1.0)
        shipper.start()
        self.clock.advance(0)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        shipper.stop()

    def test_nothing_new_acknowledged(self) -> None:
        """A server that answers and takes nothing is not asked in a loop."""
        self.append(1)
        self.shipper.start()
        self.clock.advance(0)
        self.answers[-1].callback(0)
        self.clock.advance(FIRST_RETRY / 2)
        self.assertEqual(len(self.sent), 1)

    def test_sync_fails(self) -> None:
        """What may not be on the disk is not shipped, and nothing more is appended."""
        self.append(1)

        def broken(function: object) -> Deferred[Any]:
            raise OSError(5, "Input/output error")

        shipper = Shipper(self.spool, self.send, clock=self.clock, in_thread=broken)
        shipper.start()
        self.clock.advance(0)
        self.assertEqual(self.sent, [])
        self.assertRaises(AuditUnavailable, self.spool.append, [{}])
        shipper.stop()

    def test_damaged(self) -> None:
        """What auth refuses because the disk has changed it is told by its number."""
        self.append(2)
        segment = next(self.spool.directory.glob("*.jsonl"))
        segment.write_bytes(segment.read_bytes().replace(b'{"n":%d}' % self.first, b'{"n":%s}' % (b"x" * 16)))
        self.shipper.start()
        self.clock.advance(0)
        with capturedLogs() as said:
            self.answers[0].errback(BadRequest("no JSON"))
        self.assertIn(f"record {self.first} ", said[-1]["detail"])
        self.assertEqual(self.spool.pending, 2)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_stop(self) -> None:
        """What is in flight is cancelled, and nothing starts again."""
        self.append(5)
        self.shipper.start()
        self.clock.advance(0)
        self.successResultOf(self.shipper.stop())
        self.assertEqual(len(self.cancelled), 1)
        self.shipper.notify()
        self.clock.advance(1000)
        self.assertEqual(len(self.sent), 1)
        self.assertEqual(self.spool.pending, 5)
        self.successResultOf(self.shipper.stop())

    def test_flush(self) -> None:
        """It fires when all was acknowledged, and can be given up."""
        self.append(4)
        self.shipper.start()
        flushed, given_up = self.shipper.flush(), self.shipper.flush()
        given_up.addErrback(lambda _: None)
        given_up.cancel()
        self.clock.advance(0)
        self.answers[0].callback(self.first + 2)
        self.assertNoResult(flushed)
        self.clock.advance(GATHER)
        self.answers[1].callback(self.first + 3)
        self.assertIsNone(self.successResultOf(flushed))

    def test_flush_nothing(self) -> None:
        self.shipper.start()
        self.clock.advance(0)
        flushed = self.shipper.flush()
        self.clock.advance(0)
        self.successResultOf(flushed)

    def test_real_answers(self) -> None:
        """A sender that answers at once empties the spool."""
        self.append(20)
        shipper = Shipper(self.spool, lambda batch: succeed(batch[-1][0]), clock=self.clock, batch=3)
        shipper.start()
        self.clock.pump([GATHER] * 10)
        self.assertEqual(self.spool.pending, 0)
        shipper.stop()
