"""The log has what it acknowledged, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import teleport_db
from teleport_db.audit import log as log_module
from teleport_db.audit.events import make_event
from teleport_db.audit.log import AuditLog
from teleport_db.audit.query import Query
from teleport_db.audit.shipped import ShippedStatement
from teleport_db.audit.shipping import ThreadHook, inline
from teleport_db.audit.verifying import Report, verify
from teleport_db.errors import AuditUnavailable, BadRequest, ConfigError
from teleport_db.interfaces import IAuditLog
from tests.audit.samples import NOW, session

DAY = 24 * 3600

#: Says each number once it is acknowledged, for as long as it lives.
WRITER = """
import sys
from twisted.internet.task import Clock
from teleport_db.audit.log import AuditLog
clock = Clock()
clock.advance(1764000000)
log = AuditLog(sys.argv[1], clock=clock)
number = log._state.last.get("host", 0)
while True:
    number += 1
    log.receive("host", [(number, {"n": number, "pad": "x" * 500})]).addCallback(
        lambda ack: (sys.stdout.write(f"{ack}\\n"), sys.stdout.flush())
    )
"""


class Thread:
    """A thread that works when it is told to."""

    def __init__(self) -> None:
        self.work: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, function: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.work.append((function, done))
        return done

    def step(self) -> None:
        function, done = self.work.pop(0)
        maybeDeferred(function).chainDeferred(done)

    def finish(self) -> None:
        while self.work:
            self.step()


class LogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.clock = Clock()
        self.clock.advance(NOW)
        self.opened: AuditLog | None = None
        self.addCleanup(self.shut)

    def log(self, in_thread: ThreadHook = inline, **more: Any) -> AuditLog:
        """The log of this test, opened anew."""
        self.shut()
        self.opened = AuditLog(self.directory, clock=self.clock, in_thread=in_thread, **more)
        return self.opened

    def shut(self) -> None:
        if self.opened is not None:
            self.opened.close()
            self.opened = None

    def crash(self) -> None:
        """End as kill -9 would: what was not written is not, and the lock goes."""
        assert self.opened is not None
        self.opened._indexing.stop()
        self.opened._let_go()
        self.opened = None
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()

    def all(self, log: AuditLog, *, limit: int = 1000, after: int | None = None, **criteria: Any) -> list[Any]:
        found = self.successResultOf(log.search(Query(**criteria), limit=limit, after=after)).events
        return [event.get("n", event.get("uid")) for event in found]

    def whole(self) -> Report:
        """Verify the log; there is nothing wrong with it."""
        report = verify(self.directory)
        self.assertIsNone(report.finding)
        return report


class ReceiveTests(LogCase):
    """Batches of agents."""

    def test_interface(self) -> None:
        self.assertTrue(verifyObject(IAuditLog, self.log()))

    def test_lines(self) -> None:
        """Each is one JSON object in the file of its day."""
        log = self.log()
        self.assertEqual(self.successResultOf(log.receive("host", [(5, {"n": 5}), (6, {"n": 6})])), 6)
        head, *lines = (self.directory / "2025-11-24.jsonl").read_bytes().splitlines()
        self.assertIn("checkpoint", json.loads(head))
        made = [json.loads(line) for line in lines]
        self.assertEqual([(line["source"], line["seq"], line["event"]) for line in made],
                         [("host", 5, {"n": 5}), ("host", 6, {"n": 6})])  # fmt: skip

    def test_duplicates(self) -> None:
        """What was sent before is acknowledged and not written, by source, also after a restart."""
        log = self.log()
        log.receive("a", [(1, {"n": 1}), (2, {"n": 2})])
        self.assertEqual(self.successResultOf(log.receive("a", [(1, {"n": 1}), (2, {"n": 2}), (3, {"n": 3})])), 3)
        self.assertEqual(self.successResultOf(log.receive("b", [(1, {"n": 10})])), 1)
        for again in (self.shut, self.crash):
            again()
            log = self.log()
            self.assertEqual(self.successResultOf(log.receive("a", [(2, {"n": 2}), (3, {"n": 3})])), 3)
            self.assertEqual(self.all(log), [10, 3, 2, 1])
        self.assertEqual(self.successResultOf(log.receive("a", [(4, {"n": 4}), (4, {"n": 5}), (3, {"n": 6})])), 4)
        self.assertEqual(self.all(log), [4, 10, 3, 2, 1])

    def test_nothing(self) -> None:
        """An empty batch is acknowledged with what is known."""
        log = self.log()
        log.receive("a", [(7, {})])
        self.assertEqual(self.successResultOf(log.receive("a", [])), 7)
        self.assertIsNone(self.successResultOf(log.emit([])))

    def test_nonsense(self) -> None:
        for records in ([("1", {})], [(None, {})], [(True, {})], [(1, [])], [(-1, {})], [(0, {})]):
            self.failureResultOf(self.log().receive("a", records), BadRequest)

    def test_own_events(self) -> None:
        """They go on where they were after a restart."""
        self.successResultOf(self.log().emit([{"n": 1}, {"n": 2}]))
        self.successResultOf(self.log().emit([{"n": 3}]))
        self.assertEqual(self.all(self.log()), [3, 2, 1])

    def test_group_commit(self) -> None:
        """What comes while one batch is written is written together, with one fsync."""
        thread = Thread()
        log = self.log(thread)
        synced = []
        fsync = os.fsync
        self.patch(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
        first = log.receive("a", [(1, {"n": 1})])
        others = [log.receive("a", [(number, {"n": number})]) for number in range(2, 20)]
        own = log.emit([{"n": 20}])
        twice = log.receive("a", [(1, {"n": 1}), (19, {"n": 19})])
        self.assertEqual(len(thread.work), 1)
        self.assertNoResult(first)
        thread.step()
        self.assertEqual(self.successResultOf(first), 1)
        self.assertNoResult(others[0])
        self.assertNoResult(twice)
        thread.step()
        self.assertEqual([self.successResultOf(other) for other in others], list(range(2, 20)))
        self.assertEqual(self.successResultOf(twice), 19)
        self.successResultOf(own)
        self.assertEqual(
            [path for path in synced if path.endswith(".jsonl")],
            [str(log.directory.resolve() / "2025-11-24.jsonl")] * 2,
        )
        self.assertEqual(thread.work, [])
        self.opened = None
        closed = log.close()
        thread.finish()
        self.successResultOf(closed)

    def test_not_durable_is_not_found(self) -> None:
        """Nothing is shown that a crash could take back."""
        thread = Thread()
        log = self.log(thread)
        log.receive("a", [(1, {"n": 1})])
        found = log.search(limit=5)
        self.assertEqual(self.successResultOf(found).events, [])
        thread.finish()
        self.opened = None
        log.close()
        thread.finish()

    def test_failed_write(self) -> None:
        """Nobody is told it was kept; sent again, it is kept once."""
        for name in ("write", "fsync"):
            log = self.log()
            before = self.all(log)

            def broken(*args: object) -> int:
                raise OSError(28, "No space left on device")

            with MonkeyPatcher((os, name, broken)):
                failed = log.receive("a" + name, [(1, {"n": name})])
                self.failureResultOf(failed, AuditUnavailable)
            self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
            self.assertEqual(self.all(log), before)
            self.assertEqual(self.successResultOf(log.receive("a" + name, [(1, {"n": name})])), 1)
            self.assertEqual(self.all(log), [name, *before])
            self.assertEqual(self.all(self.log()), [name, *before])
        self.whole()

    def test_failed_write_of_a_group(self) -> None:
        """What waited behind a failed write is refused as well, for its numbers are behind."""
        thread = Thread()
        log = self.log(thread)
        first, second = log.receive("a", [(1, {"n": 1})]), log.receive("a", [(2, {"n": 2})])
        with MonkeyPatcher((os, "write", lambda *args: 1 // 0)):
            thread.step()
        self.failureResultOf(first, AuditUnavailable)
        self.failureResultOf(second, AuditUnavailable)
        self.flushLoggedErrors(ZeroDivisionError)
        both = log.receive("a", [(1, {"n": 1}), (2, {"n": 2})])
        thread.step()
        self.assertEqual(self.successResultOf(both), 2)
        self.opened = None
        log.close()
        thread.finish()

    def test_cancelled(self) -> None:
        """Who does not wait for the answer does not stop the log."""
        thread = Thread()
        log = self.log(thread)
        done = log.receive("a", [(1, {"n": 1})])
        done.addErrback(lambda _: None)
        done.cancel()
        thread.step()
        self.assertEqual(log._state.last, {"a": 1})
        self.opened = None
        log.close()
        thread.finish()

    def test_days(self) -> None:
        """A file a day; a clock that goes back stays with the newest."""
        log = self.log()
        log.emit([{"n": 1}])
        self.clock.advance(DAY)
        log.emit([{"n": 2}])
        self.clock.rightNow -= 2 * DAY
        log.emit([{"n": 3}])
        names = sorted(path.name for path in self.directory.glob("*.jsonl"))
        self.assertEqual(names, ["2025-11-24.jsonl", "2025-11-25.jsonl"])
        self.assertEqual(self.all(log), [3, 2, 1])
        self.assertEqual(self.all(self.log()), [3, 2, 1])
        self.assertEqual(self.whole().events, 3)

    def test_one_process(self) -> None:
        self.log()
        self.assertRaises(ConfigError, AuditLog, self.directory, clock=self.clock)

    def test_what_cannot_be_taken(self) -> None:
        """An event that nothing can be made of is refused with its batch, and the log goes on."""
        log = self.log()
        start = {"event": "db.session.start", "code": "TDB00I", "sid": "s", "ei": 0, "success": True}
        self.assertEqual(self.successResultOf(log.receive("host", [(1, start)])), 1)
        self.successResultOf(log.lose("host"))
        endless = b'{"ei":1,"rows":' + b"9" * 5000 + b"}"
        late = ShippedStatement(endless, "db.session.query", "s", 1, "host", "root")
        self.failureResultOf(log.receive("host", [(2, late)]), AuditUnavailable)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.successResultOf(log.receive("host", [(2, {"event": "x", "n": 2})])), 2)
        self.successResultOf(log.emit([{"event": "y"}]))


class RecoveryTests(LogCase):
    """After a crash."""

    def test_torn_anywhere(self) -> None:
        """Half a line was never acknowledged; it goes, and is taken when it is sent again."""
        self.log().receive("a", [(1, {"n": 1}), (2, {"n": 2})])
        self.crash()
        path = self.directory / "2025-11-24.jsonl"
        data = path.read_bytes()
        begin = data.index(b"\n", data.index(b"\n") + 1) + 1
        for cut in range(begin, len(data)):
            path.write_bytes(data[:cut])
            log = self.log()
            self.assertEqual(self.all(log), [1])
            self.assertEqual(self.successResultOf(log.receive("a", [(2, {"n": 2})])), 2)
            self.assertEqual(self.all(log), [2, 1])
            self.assertEqual(self.whole().events, 2)
            self.crash()

    def test_killed(self) -> None:
        """What was acknowledged is there after kill -9, once."""
        environment = {**os.environ, "PYTHONPATH": str(Path(teleport_db.__file__).parent.parent)}
        for wanted in (1, 5, 50):
            child = subprocess.Popen(
                [sys.executable, "-c", WRITER, self.directory], stdout=subprocess.PIPE, env=environment, text=True
            )
            assert child.stdout is not None
            for _ in range(wanted):
                said = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            child.communicate()
            numbers = self.all(self.log())[::-1]
            self.assertGreaterEqual(numbers[-1], said)
            self.assertEqual(numbers, list(range(1, numbers[-1] + 1)))
            self.crash()
        self.whole()

    def test_bounded_start(self) -> None:
        """A start reads what came since the state was kept, and nothing before."""
        self.patch(log_module, "STATE_EVERY", 1000)
        log = self.log()
        events = session()
        log.receive("a", [(1, events.start(NOW))])
        log.receive("a", [(number, {"n": number}) for number in range(2, 100)])
        self.clock.advance(DAY)
        log.receive("a", [(100, {"n": 100})])
        self.crash()
        state = json.loads((self.directory / "state.json").read_bytes())
        self.assertEqual((state["file"], state["last"]), ("2025-11-24.jsonl", {"a": 99}))
        damaged = self.directory / "2025-11-24.jsonl"
        data = damaged.read_bytes()
        damaged.write_bytes(b"x" * 500 + data[500:])  # nobody looks there any more
        log = self.log()
        self.assertEqual(log._state.last, {"a": 100})
        self.assertEqual(len(log.open_sessions()), 1)

    def test_no_state(self) -> None:
        """Without it, or with one that does not fit, everything is read."""
        log = self.log()
        log.receive("a", [(1, {"n": 1})])
        self.clock.advance(DAY)
        log.receive("a", [(2, {"n": 2})])
        self.shut()
        place = log.position
        state = self.directory / "state.json"
        kept = json.loads(state.read_bytes())
        for bad in (
            b"",
            b"{",
            b"[]",
            b"null",
            json.dumps({**kept, "v": 2}).encode(),
            json.dumps({"v": 3}).encode(),
            json.dumps({**kept, "size": 10**9}).encode(),
            json.dumps({**kept, "file": "x"}).encode(),
        ):
            state.write_bytes(bad)
            log = self.log()
            self.assertEqual((log._state.last, log.position), ({"a": 2}, place))
            self.crash()


class SessionTests(LogCase):
    """Each start gets an end."""

    def test_open_and_lost(self) -> None:
        """What an agent left open is known, across restarts, with what its end needs."""
        one, two, other = session("1"), session("2"), session("3")
        log = self.log()
        log.receive("a", [(1, one.start(NOW)), (2, one.query(NOW, b"select 1")), (3, two.start(NOW))])
        log.receive("b", [(1, other.start(NOW)), (2, session("4").start(NOW, success=False))])
        log.receive("a", [(4, two.end(NOW))])
        for _ in range(2):
            self.assertEqual([(s.sid, s.source, s.next_ei) for s in log.open_sessions("a")], [("1", "a", 2)])
            self.assertEqual({s.sid for s in log.open_sessions()}, {"1", "3"})
            self.crash()
            log = self.log()
        (lost,) = log.open_sessions("a")
        end = lost.lost(NOW + 60, uid="u")
        like = one.end(NOW + 60, "agent_lost")
        self.assertEqual({**end, "uid": ""}, {**like, "uid": ""})
        log.emit([end])
        self.assertEqual({s.sid for s in log.open_sessions()}, {"3"})

    def test_ended_for_it(self) -> None:
        """The auth server ends a session in the name of the agent that is lost."""
        log = self.log()
        log.receive("a", [(1, session("1").start(NOW))])
        (lost,) = log.open_sessions("a")
        self.successResultOf(log.emit([lost.lost(NOW + 60, uid="u")]))
        self.assertEqual(log.open_sessions(), [])
        self.assertEqual(self.log().open_sessions(), [])
        (end, _) = self.successResultOf(self.log().search(limit=5)).events
        self.assertEqual((end["event"], end["reason"], end["ei"]), ("db.session.end", "agent_lost", 1))

    def test_others_sessions(self) -> None:
        """An agent cannot end, or take over, what another has open."""
        log = self.log()
        log.receive("a", [(1, session("1").start(NOW))])
        log.receive("b", [(1, session("1").end(NOW)), (2, session("1").start(NOW))])
        self.assertEqual([s.source for s in log.open_sessions()], ["a"])

    def test_nonsense(self) -> None:
        """Events of any shape are kept, and break nothing."""
        log = self.log()
        odd = [
            {"sid": 5},
            {"sid": "1", "event": 5, "ei": 1},
            {"sid": "1", "event": "db.session.start", "ei": "x"},
            {"sid": "1", "event": "db.session.start", "ei": 1, "success": True},
            {"sid": "1", "ei": None},
        ]
        self.assertEqual(self.successResultOf(log.receive("a", list(enumerate(odd, 1)))), len(odd))
        self.assertEqual(len(log.open_sessions()), 1)


class SearchTests(LogCase):
    """The newest first."""

    def setUp(self) -> None:
        super().setUp()
        log = self.log()
        for day in range(3):
            log.emit(
                [
                    make_event(
                        "user.login" if n % 2 else "user.create",
                        uid=f"{day}-{n}",
                        time=self.clock.seconds(),
                        cluster_name="root",
                        user=f"u{n % 3}",
                        pad="é" * 3000,
                    )
                    for n in range(10)
                ]
            )
            self.clock.advance(DAY)
        self.uids = [f"{day}-{n}" for day in (2, 1, 0) for n in range(9, -1, -1)]

    def test_order_and_limit(self) -> None:
        assert self.opened is not None
        self.assertEqual(self.all(self.opened), self.uids)
        for limit in (1, 9, 10, 11, 30, 31):
            self.assertEqual(self.all(self.opened, limit=limit), self.uids[:limit])
        for limit in (0, -1, 10_001):
            self.failureResultOf(self.opened.search(limit=limit), BadRequest)

    def test_criteria(self) -> None:
        assert self.opened is not None
        logins = [uid for uid in self.uids if int(uid[-1]) % 2]
        self.assertEqual(self.all(self.opened, event="user.login"), logins)
        self.assertEqual(
            self.all(self.opened, event="user.login", user="u1"), [uid for uid in logins if int(uid[-1]) % 3 == 1]
        )
        self.assertEqual(self.all(self.opened, user='u1"'), [])

    def test_times(self) -> None:
        assert self.opened is not None
        self.assertEqual(self.all(self.opened, since=NOW + DAY), self.uids[:20])
        self.assertEqual(self.all(self.opened, until=NOW + DAY), self.uids[20:])
        self.assertEqual(self.all(self.opened, since=NOW + 1, until=NOW + DAY + 1), self.uids[10:20])
        self.assertEqual(self.all(self.opened, since=NOW + 3 * DAY), [])

    def test_pages(self) -> None:
        """Each page goes on behind the last, also when more was written meanwhile."""
        assert self.opened is not None
        logins = [uid for uid in self.uids if int(uid[-1]) % 2]
        seen: list[Any] = []
        after: int | None = None
        while True:
            page = self.successResultOf(self.opened.search(Query(event="user.login"), limit=4, after=after))
            seen += [event["uid"] for event in page.events]
            self.opened.emit([make_event("user.login", uid="new", time=NOW, cluster_name="root")])
            after = page.next
            if after is None:
                break
        self.assertEqual(seen, logins)
