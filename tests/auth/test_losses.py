"""Agents that are lost, by the clock: what auth hears of them, and when it ends their sessions."""

from pathlib import Path
from typing import Any

from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.log import AuditLog
from teleport_db.audit.query import Query
from teleport_db.auth.losses import LOOK_SECONDS, LOST_SECONDS, START_SECONDS, Losses
from teleport_db.db.agent import PRESENCE_SECONDS
from tests.audit.samples import session
from tests.auth.support import NOW, AuthCase

#: Seconds within which each start has an end once an agent is lost.
BOUND = 60.0


class LossesTests(SynchronousTestCase):
    """Over a real audit log."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.directory = Path(self.mktemp())
        self.open()
        self.addCleanup(self.close)
        self.seq = 0

    def open(self) -> None:
        self.audit = AuditLog(self.directory, clock=self.clock)
        self.losses = Losses(self.audit, clock=self.clock)
        self.losses.start()

    def close(self) -> None:
        self.losses.stop()
        self.successResultOf(self.audit.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def ship(self, source: str, event: Any) -> None:
        self.losses.heard(source)
        self.seq += 1
        self.successResultOf(self.audit.receive(source, [(self.seq, event)]))

    def ends(self) -> list[tuple[str, str, float]]:
        found = self.successResultOf(self.audit.search(Query(event="db.session.end"), limit=100)).events
        return [(event["sid"], event["reason"], event["ei"]) for event in reversed(found)]

    def test_silent(self) -> None:
        """At each look it is told who is heard of; not before all had the time to be."""
        told: list[set[str]] = []
        self.losses.stop()
        self.losses = Losses(self.audit, clock=self.clock, silent=lambda heard: succeed(told.append(set(heard))))
        self.losses.start()
        self.pass_time(LOST_SECONDS, "a", "b")
        self.assertEqual(told, [])
        self.pass_time(START_SECONDS + LOOK_SECONDS, "a", "b")
        self.assertEqual(told[-1], {"a", "b"})
        self.pass_time(LOST_SECONDS + LOOK_SECONDS, "b")
        self.assertEqual(told[-1], {"b"})

    def pass_time(self, seconds: float, *alive: str) -> None:
        """Let time go by in seconds; who is alive is heard of as agents are."""
        for second in range(int(seconds)):
            if second % PRESENCE_SECONDS == 0:
                for source in alive:
                    self.losses.heard(source)
            self.clock.advance(1)

    def until_ended(self, *alive: str) -> float:
        """Seconds until there is an end."""
        for second in range(3600):
            if self.ends():
                return second
            for source in alive:
                self.losses.heard(source)
            self.clock.advance(1)
        raise AssertionError("no end")

    def test_killed(self) -> None:
        """An agent that was killed just after it was heard of: the end is there within the bound, not before."""
        self.ship("a", session("1").start(NOW))
        self.ship("b", session("2").start(NOW))
        self.pass_time(600, "a", "b")
        self.assertEqual(self.ends(), [])
        self.losses.heard("a")
        taken = self.until_ended("b")
        self.assertTrue(LOST_SECONDS <= taken <= LOST_SECONDS + LOOK_SECONDS < BOUND, taken)
        self.assertEqual(self.ends(), [("1", "agent_lost", 1)])

    def test_alive(self) -> None:
        """Who is heard of is not lost, by presence or by events alone, also when one heartbeat is missed."""
        self.ship("a", session("1").start(NOW))
        for _ in range(20):
            self.pass_time(2 * PRESENCE_SECONDS, "a")
        events = session("2")
        self.ship("b", events.start(NOW))
        for _ in range(20):
            self.ship("b", events.query(NOW, b"select 1"))
            self.pass_time(LOST_SECONDS - LOOK_SECONDS, "a")
        self.assertEqual(self.ends(), [])

    def test_auth_restarts(self) -> None:
        """An agent that died while auth was away is found after the start; one that lives has its time."""
        self.ship("dead", session("1").start(NOW))
        self.ship("alive", session("2").start(NOW))
        self.pass_time(10)
        self.close()
        self.clock.advance(10_000)
        self.open()
        self.pass_time(LOST_SECONDS + START_SECONDS - 6)
        self.losses.heard("alive")
        self.assertEqual(self.ends(), [])
        taken = self.until_ended() + LOST_SECONDS + START_SECONDS - 6
        self.assertLessEqual(taken, BOUND)
        self.assertEqual([end[0] for end in self.ends()], ["1"])
        self.pass_time(600, "alive")
        self.close()
        self.open()
        self.pass_time(600, "alive")
        self.assertEqual([end[0] for end in self.ends()], ["1"])

    def test_cut_off_and_back(self) -> None:
        """One that was cut off for long, with a restart of auth in between, goes on where it was."""
        events = session("1")
        self.ship("a", events.start(NOW))
        self.until_ended()
        self.close()
        self.open()
        self.pass_time(600)
        self.ship("a", events.query(NOW, b"select 1"))
        self.pass_time(600, "a")
        self.assertEqual(len(self.audit.open_sessions()), 1)
        self.ship("a", events.end(NOW, "client"))
        found = self.successResultOf(self.audit.search(limit=100)).events
        self.assertEqual(
            [(event["ei"], event["event"].removeprefix("db.session.")) for event in reversed(found)],
            [(0, "start"), (1, "end"), (2, "reopened"), (3, "query"), (4, "end")],
        )

    def test_restarted(self) -> None:
        """One that is back at once says where it began: nothing is waited for."""
        self.ship("a", session("1").start(NOW))
        self.losses.heard("a", began=self.seq + 1)
        self.assertEqual(self.ends(), [("1", "agent_lost", 1)])
        self.ship("a", session("2").start(NOW))
        self.losses.heard("a", began=self.seq)
        self.assertEqual(len(self.audit.open_sessions()), 1)

    def test_slept(self) -> None:
        """When auth itself did not run, or its clock was set, nobody is lost by that."""
        self.ship("a", session("1").start(NOW))
        for jump in (3600, -7200, 3600):
            self.clock.rightNow += jump
            for call in self.clock.getDelayedCalls():
                call.delay(jump)
            self.pass_time(LOST_SECONDS)
            self.assertEqual(self.ends(), [])
            self.losses.heard("a")
        self.assertLessEqual(self.until_ended(), BOUND)


class CallTests(AuthCase):
    """What agents are heard by."""

    async def test_heard(self) -> None:
        """Presence and events; and the number with which an agent began goes on to the log."""
        agent = self.host("db")
        lost: list[tuple[str, int | None]] = self.audit.lost
        await self.call("PUT", "/v1/presence", {"databases": []}, by=agent)
        (name,) = self.server.losses._heard
        await self.call("PUT", "/v1/presence", {"databases": [], "began": 17}, by=agent)
        self.assertEqual(lost, [(name, 17)])
        self.audit.sources = {name, "other"}
        self.clock.pump([LOOK_SECONDS] * int((LOST_SECONDS - LOOK_SECONDS) / LOOK_SECONDS))
        await self.call("POST", "/v1/audit", {"events": []}, by=agent)
        self.clock.pump([LOOK_SECONDS] * int(LOST_SECONDS / LOOK_SECONDS - 1))
        self.assertEqual({source for source, _ in lost[1:]}, {"other"})
        self.clock.pump([LOOK_SECONDS])
        self.assertIn((name, None), lost)
