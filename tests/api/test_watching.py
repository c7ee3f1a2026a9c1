"""The long poll by which hosts hear of changes."""

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.api.watching import RETRY_SECONDS, Watcher
from teleport_db.errors import ConnectionTrouble


class WatchTests(SynchronousTestCase):
    """The long poll."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.applied: list[Any] = []
        self.lost = 0
        self.queries: list[dict[str, Any]] = []
        self.polls: list[Deferred[Any]] = []
        self.cancelled = 0
        self.watch = Watcher(
            self.call, ("role", "lock"), self.apply, clock=self.clock, lost=self.lose, uniform=lambda low, high: high
        )
        self.watch.start()

    def call(self, method: str, path: str, *, query: Any, timeout: float) -> Deferred[Any]:
        self.assertEqual((method, path), ("GET", "/v1/watch"))
        self.queries.append(query)
        self.polls.append(Deferred(lambda _: setattr(self, "cancelled", self.cancelled + 1)))
        return self.polls[-1]

    def apply(self, answer: Mapping[str, Any]) -> None:
        self.applied.append(answer["changes"])

    def lose(self) -> None:
        self.lost += 1

    def test_polls(self) -> None:
        """The first answer is everything; each later poll asks for what came since."""
        self.assertNotIn("since", self.queries[0])
        self.polls[0].callback({"revision": 5, "reset": True, "changes": ["one"]})
        self.assertEqual(self.queries[1]["since"], 5)
        self.polls[1].callback({"revision": 6, "changes": ["two"]})
        self.assertEqual(self.queries[2]["since"], 6)
        self.assertEqual(self.applied, [["one"], ["two"]])
        self.assertEqual(self.queries[1]["kinds"], "role,lock")

    def test_auth_away(self) -> None:
        """The wait grows up to its most, and everything is asked anew."""
        self.polls[0].callback({"revision": 5, "reset": True, "changes": ["one"]})
        waits = []
        for _ in range(6):
            self.polls[-1].errback(ConnectionTrouble("away"))
            (call,) = self.clock.getDelayedCalls()
            waits.append(call.getTime() - self.clock.seconds())
            self.clock.advance(waits[-1])
            self.assertNotIn("since", self.queries[-1])
        self.assertEqual(waits, [1.0, 2.0, 4.0, 8.0, RETRY_SECONDS[1], RETRY_SECONDS[1]])
        self.assertEqual((self.lost, self.applied), (6, [["one"]]))
        self.polls[-1].callback({"revision": 9, "reset": True, "changes": []})
        self.assertEqual((self.lost, self.applied), (6, [["one"], []]))

    def test_nonsense(self) -> None:
        """An answer that is none is asked for again, not now."""
        for answer in ({}, {"revision": "x"}, {"revision": 1}):
            self.polls[-1].callback(answer)
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
            self.clock.advance(RETRY_SECONDS[1])

    def test_stop(self) -> None:
        """A stop ends the poll, or the wait for the next one."""
        self.watch.stop()
        self.assertEqual((self.cancelled, self.clock.getDelayedCalls()), (1, []))
        self.setUp()
        self.polls[0].errback(ConnectionTrouble("away"))
        self.watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
