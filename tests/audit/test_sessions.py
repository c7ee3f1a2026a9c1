"""Each start gets an end, and ``(sid, ei)`` has no gap and no duplicate, whoever comes late."""

from __future__ import annotations

import os
from typing import Any

from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit import logfile
from teleport_db.audit import sessions as sessions_module
from teleport_db.audit.events import SessionEvents
from teleport_db.audit.log import AuditLog
from teleport_db.audit.sessions import OWN, Sessions
from teleport_db.errors import AuditUnavailable
from tests.audit.samples import NOW, session
from tests.audit.test_log import LogCase, Thread


class LostCase(LogCase):
    """One agent, ``a``, whose records are numbered as a spool's."""

    def setUp(self) -> None:
        super().setUp()
        self.seq = 0
        self.sent: list[tuple[int, Any]] = []

    def ship(self, log: AuditLog, *events: Any) -> None:
        batch = []
        for event in events:
            self.seq += 1
            batch.append((self.seq, event))
        self.sent += batch
        self.assertEqual(self.successResultOf(log.receive("a", batch)), self.seq)

    def told(self, log: AuditLog, sid: str = "1") -> list[tuple[Any, ...]]:
        """What the log has of a session, oldest first; its numbers have no gap and no duplicate."""
        found = [
            event for event in reversed(self.successResultOf(log.search(limit=1000)).events) if event["sid"] == sid
        ]
        self.assertEqual([event["ei"] for event in found], list(range(len(found))))
        self.assertEqual(len({event["uid"] for event in found}), len(found))
        return [
            (event["event"].removeprefix("db.session."), event.get("reason") or event.get("db_query", ""))
            for event in found
        ]


BEGUN: list[Any] = [("start", ""), ("query", "select 1")]
LOST: Any = ("end", "agent_lost")


class LostTests(LostCase):
    """Ends that are made up, and taken back."""

    def begin(self, log: AuditLog) -> SessionEvents:
        events = session("1")
        self.ship(log, events.start(NOW), events.query(NOW, b"select 1"))
        return events

    def test_stays_away(self) -> None:
        """The end has the session's next number and all that its events share; it comes once."""
        log = self.log()
        events = self.begin(log)
        self.assertEqual(log.open_sources(), {"a"})
        self.assertEqual(self.successResultOf(log.lose("a")), 1)
        self.assertEqual(self.successResultOf(log.lose("a")), 0)
        self.assertEqual((log.open_sources(), log.open_sessions()), (set(), []))
        self.assertEqual(self.told(log), [*BEGUN, LOST])
        (end,) = self.successResultOf(log.search(limit=1)).events
        like = events.end(self.clock.seconds(), "agent_lost")
        self.assertEqual({**end, "uid": ""}, {**like, "uid": ""})

    def test_comes_back(self) -> None:
        """Who was only cut off goes on: the end is taken back, and what follows is numbered behind it."""
        for restart in (False, True):
            log = self.log()
            sid = str(restart)
            events = session(sid)
            self.ship(log, events.start(NOW))

            def again(log: AuditLog, restart: bool = restart) -> AuditLog:
                if not restart:
                    return log
                self.crash()
                return self.log()

            for number in range(3):
                log = again(log)
                self.successResultOf(log.lose("a"))
                log = again(log)
                self.ship(log, events.query(NOW, b"select 1"), events.query(NOW, b"select 2"))
                log = again(log)
                self.assertEqual([found.next_ei for found in log.open_sessions("a")], [1 + 4 * (number + 1)])
            self.ship(log, events.end(NOW, "client"))
            log = again(log)
            late = [LOST, ("reopened", ""), ("query", "select 1"), ("query", "select 2")]
            self.assertEqual(self.told(log, sid), [("start", ""), *late, *late, *late, ("end", "client")])
            self.assertEqual(log.open_sessions(), [])
            self.assertEqual(log._state.sessions.kept(), {})
        self.whole()

    def test_reopened(self) -> None:
        """It names the end that it takes back, and is found like the session's other events."""
        log = self.log()
        events = self.begin(log)
        self.successResultOf(log.lose("a"))
        self.ship(log, events.query(NOW, b"select 2"))
        query, reopened, end, *_ = self.successResultOf(log.search(limit=10)).events
        self.assertEqual((reopened["revokes"], reopened["code"]), (end["uid"], "TDB91I"))
        for name in ("user", "sid", "db_service", "db_name", "db_user", "server_id", "cluster_name"):
            self.assertEqual(reopened[name], query[name])
        self.assertEqual((query["recorded_ei"], query["ei"]), (2, 4))
        self.successResultOf(log.lose("a"))
        (again,) = self.successResultOf(log.search(limit=1)).events
        self.assertEqual({**again, "ei": 0, "uid": ""}, {**end, "ei": 0, "uid": ""})

    def test_sent_again(self) -> None:
        """What auth had before it made up the end is still a duplicate, and reopens nothing."""
        log = self.log()
        self.begin(log)
        self.successResultOf(log.lose("a"))
        self.assertEqual(self.successResultOf(log.receive("a", self.sent)), self.seq)
        self.assertEqual(self.told(log), [*BEGUN, LOST])

    def test_only_an_end_comes(self) -> None:
        log = self.log()
        events = self.begin(log)
        self.successResultOf(log.lose("a"))
        self.ship(log, events.end(NOW, "client"))
        self.assertEqual(self.told(log), [*BEGUN, LOST, ("reopened", ""), ("end", "client")])

    def test_began_anew(self) -> None:
        """An agent that lives again says with which number it began; what began before that is over for good."""
        log = self.log()
        self.begin(log)
        self.seq += 1000
        later = session("2")
        began = self.seq + 1
        self.ship(log, later.start(NOW))
        self.assertEqual(self.successResultOf(log.lose("a", before=began)), 1)
        self.assertEqual(self.told(log), [*BEGUN, LOST])
        self.assertEqual([found.sid for found in log.open_sessions()], ["2"])
        for _ in range(2):
            self.assertEqual(self.successResultOf(log.lose("a", before=began)), 0)
            self.assertEqual(set(log._state.sessions.kept()), {"2"})
            self.crash()
            log = self.log()
        self.assertEqual(self.told(log), [*BEGUN, LOST])
        self.assertEqual(self.successResultOf(log.lose("b", before=began)), 0)

    def test_lost_then_began_anew(self) -> None:
        """Auth had made up the end; the rest of the spool comes with the restart, and then the end that holds."""
        log = self.log()
        events = self.begin(log)
        self.successResultOf(log.lose("a"))
        self.ship(log, events.query(NOW, b"select 2"))
        self.successResultOf(log.lose("a", before=self.seq + 1))
        self.assertEqual(self.told(log), [*BEGUN, LOST, ("reopened", ""), ("query", "select 2"), LOST])
        self.assertEqual(log.open_sessions(), [])

    def test_in_flight(self) -> None:
        """Whatever waits to be written when the end is made up, before it and behind it, is numbered right."""
        for ends_itself in (False, True):
            thread = Thread()
            log = self.log(thread)
            sid = f"flight-{ends_itself}"
            events = session(sid)
            waiting = []
            for made in (events.start(NOW), events.query(NOW, b"select 1"), None, events.query(NOW, b"select 2"), None):
                if made is None:
                    waiting.append(log.lose("a"))
                    continue
                self.seq += 1
                waiting.append(log.receive("a", [(self.seq, made)]))
                if len(waiting) == 1:
                    thread.step()
            if ends_itself:
                self.seq += 1
                waiting.append(log.receive("a", [(self.seq, events.end(NOW, "client"))]))
            while thread.work:
                thread.step()
            for done in waiting:
                self.successResultOf(done)
            found = self.successResultOf(log.search(limit=100)).events
            numbers = [event["ei"] for event in reversed(found) if event["sid"] == sid]
            self.assertEqual(numbers, list(range(8 if ends_itself else 6)))
            self.opened = None
            log.close()
            thread.finish()

    def test_failed_write(self) -> None:
        """An end that could not be written is not there, and is made up later."""
        log = self.log()
        events = self.begin(log)

        def broken(*args: object) -> int:
            raise OSError(28, "No space left on device")

        with MonkeyPatcher((os, "write", broken)):
            self.failureResultOf(log.lose("a"), AuditUnavailable)
        self.flushLoggedErrors(OSError)
        self.assertEqual(self.told(log), BEGUN)
        self.successResultOf(log.lose("a"))
        batch = [(self.seq + 1, events.query(NOW, b"select 2"))]
        with MonkeyPatcher((os, "write", broken)):
            self.failureResultOf(log.receive("a", batch), AuditUnavailable)
        self.flushLoggedErrors(OSError)
        self.successResultOf(log.receive("a", batch))
        self.assertEqual(self.told(log), [*BEGUN, LOST, ("reopened", ""), ("query", "select 2")])

    def test_own_numbers(self) -> None:
        """Auth's own records are numbered without a gap among all these."""
        log = self.log()
        log.emit([{"sid": "", "n": 1}, {"sid": "", "n": 2}])
        events = self.begin(log)
        self.successResultOf(log.lose("a"))
        self.ship(log, events.end(NOW))
        log.emit([{"sid": "", "n": 3}])
        lines = [logfile.record(line) for path in self.directory.glob("*.jsonl") for line in path.open("rb")]
        self.assertEqual([line["seq"] for line in lines if line and line["source"] == OWN], [1, 2, 3, 4, 5])


class BoundTests(SynchronousTestCase):
    """Nobody fills auth's memory."""

    def test_many(self) -> None:
        """Of one source so many are followed; ends make room, and other sources have their own."""
        self.patch(sessions_module, "MAX_SESSIONS", 3)
        sessions = Sessions()
        made = [session(str(number)) for number in range(5)]
        for number, events in enumerate(made):
            sessions.take("a", number, events.start(NOW))
        self.assertEqual([found.sid for found in sessions.open("a")], ["0", "1", "2"])
        sessions.take("b", 1, session("x").start(NOW))
        self.assertEqual(len(sessions.open()), 4)
        sessions.take("a", 6, made[4].end(NOW))
        self.assertEqual(len(sessions.open("a")), 3)
        sessions.take("a", 7, made[0].end(NOW))
        sessions.take("a", 8, session("new").start(NOW))
        self.assertEqual([found.sid for found in sessions.open("a")], ["1", "2", "new"])
        self.assertEqual(Sessions(sessions.kept()).kept(), sessions.kept())

    def test_large(self) -> None:
        """What is kept of a session is bounded, whatever was sent."""
        sessions = Sessions()
        start = dict(session("1").start(NOW))
        sessions.take(
            "a", 1, {**start, "user": "u" * 100_000, "db_name": ["x"] * 1000, "parameters": {"x": "y" * 10_000}}
        )
        sessions.take("a", 1, {**start, "sid": "s" * 100_000})
        self.assertLess(len(str(sessions.kept())), 2000)
        self.assertEqual(len(sessions.open()), 1)

    def test_numbers(self) -> None:
        """A number that is none, or has no end, breaks nothing."""
        sessions = Sessions()
        sessions.take("a", 1, session("1").start(NOW))
        (end,) = sessions.losses("a", None, NOW, lambda: "u")
        sessions.take(*end)
        for ei in (None, "1", True, -1, 1 << 53, 10**4300 - 1, 1.5, []):
            event = {"sid": "1", "event": "db.session.query", "ei": ei}
            sessions.take("a", 2, event)
            self.assertEqual(list(sessions.numbered([("a", 2, event)], NOW, lambda: "u")), [("a", 2, event)])
