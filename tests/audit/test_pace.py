"""Work that can wait: when it rests, and what a step that fails leaves to be done."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.pace import FEW, GATHER, Growth, Leisurely


class Resting(SynchronousTestCase):
    """Bits that took so many milliseconds, of which they had a processor for so many."""

    def rests(self, *bits: tuple[float, float], grows: bool = False) -> list[float]:
        """Milliseconds of the rest behind each bit."""
        now, used, rests = [0.0], [0.0], []
        clock = Clock()
        clock.advance(1000)
        growth = Growth(clock)
        if grows:
            growth.add(FEW)

        def step() -> None:
            for took, had in bits:
                now[0] += took / 1000
                used[0] += had / 1000
                before = len(rests)
                work.rest()
                if len(rests) == before:
                    rests.append(0.0)

        def in_thread(function: Any) -> Deferred[Any]:
            steps.append(function)
            return Deferred()

        steps: list[Any] = []
        work = Leisurely(
            step,
            growth=growth,
            times=lambda: 10.0,
            failed=self.fail,
            clock=clock,
            in_thread=in_thread,
            elapsed=lambda: now[0],
            used=lambda: used[0],
            wait=lambda seconds: rests.append(round(seconds * 1000, 3)),
        )
        work.notify()
        clock.advance(GATHER)
        steps[0]()
        return rests

    def test_alone(self) -> None:
        """Who has the machine for himself goes on at once; a moment's wait is nobody's load."""
        self.assertEqual(self.rests((0.6, 0.6), (0.9, 0.5), (0.6, 0.2), (3.0, 2.0)), [0.0] * 4)

    def test_kept_waiting(self) -> None:
        """Where others want the processors there is a rest, and none behind a bit that was not kept waiting."""
        self.assertEqual(self.rests((3.6, 0.6), (0.6, 0.6), (1.2, 0.5)), [36.0, 0.0, 12.0])

    def test_growing(self) -> None:
        """While the log grows there is one in any case."""
        self.assertEqual(self.rests((0.6, 0.6), (0.8, 0.6), grows=True), [6.0, 8.0])


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
