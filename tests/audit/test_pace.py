"""Work that can wait: what a step that fails leaves to be done."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.pace import GATHER, Growth, Leisurely


class Broken(Exception):
    """A step's fault."""


class Failing(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.steps: list[Deferred[float | None]] = []
        self.failures: list[Failure] = []
        self.work = Leisurely(
            lambda: None,
            growth=Growth(self.clock),
            times=lambda: 1.0,
            failed=self.failures.append,
            clock=self.clock,
            in_thread=self.in_thread,
        )

    def in_thread(self, function: object) -> Deferred[float | None]:
        self.steps.append(Deferred())
        return self.steps[-1]

    def test_told_meanwhile(self) -> None:
        """What came while a step was failing is done by the next; without it there is none."""
        self.work.notify()
        self.clock.advance(GATHER)
        self.work.notify()
        self.steps[0].errback(Broken())
        self.clock.advance(GATHER)
        self.assertEqual(len(self.steps), 2)
        self.steps[1].errback(Broken())
        self.clock.advance(100)
        self.assertEqual((len(self.steps), len(self.failures)), (2, 2))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_told_before_the_end(self) -> None:
        """Once it is stopped nothing is begun."""
        self.work.notify()
        self.clock.advance(GATHER)
        self.work.notify()
        self.work.stop(lambda: None)
        self.steps[0].errback(Broken())
        self.clock.advance(100)
        self.assertEqual(len(self.steps), 2, "the step, and what closes")
