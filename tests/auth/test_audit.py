"""Who reads the audit log through the API, and what comes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from teleport_db.audit.log import AuditLog
from teleport_db.auth.reads import SAME_SECONDS
from teleport_db.errors import AccessDenied, AuditUnavailable, BadRequest, NotFound
from tests.audit.samples import session
from tests.auth.support import NOW, AuthCase


class AuditCase(AuthCase):
    """An auth server with a real audit log: sessions of alice and bob."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.log = AuditLog(self.mktemp(), clock=self.clock)
        self.addCleanup(self.log.close)
        self.server.audit = self.log
        self.server.recorder._audit = self.log
        for name, roles in (("alice", ["access"]), ("bob", ["access"]), ("carol", ["auditor"])):
            await self.call("POST", "/v1/users", {"name": name, "roles": roles})
        number = 0
        for user in ("alice", "bob"):
            events = session(f"sid-{user}", user=user)
            for event in (events.start(NOW), events.end(NOW + 1, "client")):
                number += 1
                await self.log.receive("host", [(number, event)])

    def by(self, name: str) -> bytes:
        return self.user(name, ("auditor",) if name == "carol" else ("access",))


class EventTests(AuditCase):
    """``GET /v1/audit``."""

    async def test_who(self) -> None:
        """The auditor, from anywhere, and the local administrator; nobody else."""
        for caller in (b"admin", self.by("carol")):
            answer = await self.call("GET", "/v1/audit", by=caller, query={"user": "alice", "event": "db.session.end"})
            self.assertEqual([event["sid"] for event in answer["events"]], ["sid-alice"])
        for caller in (self.by("alice"), self.proxy, self.host("db")):
            await self.assertFailure(self.call("GET", "/v1/audit", by=caller), AccessDenied)
            await self.assertFailure(self.call("POST", "/v1/audit/checkpoint", {}, by=caller), AccessDenied)

    async def test_criteria(self) -> None:
        """Every parameter chooses; pages go on behind each other."""
        for query, count in (
            ({"db_service": "aurora"}, 4),
            ({"db_name": "test", "db_user": "bob"}, 4),
            ({"sid": "sid-bob"}, 2),
            ({"code": "TDB00I"}, 2),
            ({"sqlstate": "42P01"}, 0),
            ({"text": "client"}, 2),
            ({"since": NOW + 1, "event": "db.session.end"}, 2),
            ({"until": "2027-01-15T08:00:00Z", "event": "db.session.end"}, 0),
        ):
            answer = await self.call("GET", "/v1/audit", query=query)
            self.assertEqual(len(answer["events"]), count, query)
        seen: list[Any] = []
        after: Any = ""
        while after is not None:
            answer = await self.call("GET", "/v1/audit", query={"limit": 3, "after": after, "order": "oldest"})
            seen += answer["events"]
            after = answer["next"] if len(answer["events"]) == 3 else None
        whole = await self.call("GET", "/v1/audit")
        self.assertEqual(seen[::-1], whole["events"])
        self.assertEqual((answer["more"], whole["more"]), (False, False))
        self.assertTrue((await self.call("GET", "/v1/audit", query={"limit": 3}))["more"])
        for query in (
            {"order": "random"},
            {"joined": "2"},
            {"text": "--"},
            {"limit": 0},
            {"after": "x"},
            {"since": "x"},
        ):
            await self.assertFailure(self.call("GET", "/v1/audit", query=query), BadRequest)

    async def test_read(self) -> None:
        """Who reads is recorded, with what was asked for: once, also of many pages, and again later."""
        before = self.log.position.count
        for query in ({"user": "bob"}, {"user": "bob", "limit": 1, "after": 3}, {"text": "client"}):
            await self.call("GET", "/v1/audit", by=self.by("carol"), query=query)
        self.clock.advance(SAME_SECONDS)
        await self.call("GET", "/v1/audit", by=self.by("carol"), query={"user": "bob"})
        await self.call("GET", "/v1/audit", query={"user": "bob"})
        await self.call("GET", "/v1/sessions/sid-bob/events", by=self.by("carol"))
        page = await self.log.search(limit=100, oldest_first=True, after=before)
        self.assertEqual(
            [(event["code"], event["user"], event.get("criteria", event.get("session_id"))) for event in page.events],
            [
                ("TAL03I", "carol", {"user": "bob"}),
                ("TAL03I", "carol", {"text": "client"}),
                ("TAL03I", "carol", {"user": "bob"}),
                ("TAL03I", "admin", {"user": "bob"}),
                ("T2012I", "carol", "sid-bob"),
            ],
        )

    async def test_unrecorded(self) -> None:
        """What cannot be recorded is not shown."""
        self.server.recorder._audit = self.audit
        self.audit.failure = AuditUnavailable()
        for path in ("/v1/audit", "/v1/sessions/sid-bob/events"):
            await self.assertFailure(self.call("GET", path), AuditUnavailable)

    async def test_wait(self) -> None:
        """A call can wait for what comes next, for as long as it says."""
        last = (await self.call("GET", "/v1/audit", query={"limit": 1}))["last"]
        query = {"order": "oldest", "after": last, "wait": 20}
        waiting = self.call("GET", "/v1/audit", query=query)
        self.assertNoResult(waiting)
        await self.log.emit([{"event": "x", "n": 1}])
        answer = await waiting
        self.assertEqual([event["n"] for event in answer["events"]], [1])
        waiting = self.call("GET", "/v1/audit", query={**query, "after": answer["next"]})
        self.clock.advance(19)
        self.assertNoResult(waiting)
        self.clock.advance(1)
        again = await waiting
        self.assertEqual(again["events"], [])
        self.assertGreaterEqual(again["next"], answer["next"])

    async def test_checkpoint(self) -> None:
        """The auditor gets one to keep elsewhere."""
        answer = await self.call("POST", "/v1/audit/checkpoint", {}, by=self.by("carol"))
        newest = self.log.position.checkpoint
        assert newest is not None
        self.assertEqual(answer["checkpoint"].encode() + b"\n", newest.line)
        self.assertEqual(self.log.position.unsigned, 0)

    async def test_sinks(self) -> None:
        """How far each sink is, for who may list events."""
        state = {"name": "siem", "state": "ok", "behind": 3}
        self.server.sinks = lambda: [state]
        answer = await self.call("GET", "/v1/audit/sinks", by=self.by("carol"))
        self.assertEqual(answer, {"sinks": [state], "last": self.log.position.count})
        for caller in (self.by("alice"), self.proxy, self.host("db")):
            await self.assertFailure(self.call("GET", "/v1/audit/sinks", by=caller), AccessDenied)

    def assertNoResult(self, deferred: Deferred[Any]) -> None:
        self.assertFalse(deferred.called)


class SessionTests(AuditCase):
    """``GET /v1/sessions``."""

    async def test_list(self) -> None:
        """One's own; all for the auditor, who can choose."""
        for name, query, wanted in (
            ("alice", {}, ["sid-alice"]),
            ("alice", {"user": "bob"}, ["sid-alice"]),
            ("carol", {}, ["sid-bob", "sid-alice"]),
            ("carol", {"user": "bob"}, ["sid-bob"]),
            ("carol", {"limit": 1}, ["sid-bob"]),
        ):
            answer = await self.call("GET", "/v1/sessions", by=self.by(name), query=query)
            self.assertEqual([found["sid"] for found in answer["sessions"]], wanted)
        await self.assertFailure(self.call("GET", "/v1/sessions", by=self.proxy), AccessDenied)

    async def test_events(self) -> None:
        """One's own session, any for the auditor; whether another's exists is not told."""
        for name, sid in (("alice", "sid-alice"), ("carol", "sid-alice"), ("carol", "sid-bob")):
            answer = await self.call("GET", f"/v1/sessions/{sid}/events", by=self.by(name))
            self.assertEqual([event["event"] for event in answer["events"]], ["db.session.start", "db.session.end"])
            self.assertEqual((answer["session"]["sid"], answer["next"]), (sid, None))
        page = await self.call("GET", "/v1/sessions/sid-bob/events", by=self.by("bob"), query={"limit": 1})
        rest = await self.call(
            "GET", "/v1/sessions/sid-bob/events", by=self.by("bob"), query={"limit": 1, "after": page["next"]}
        )
        self.assertEqual([event["ei"] for event in page["events"] + rest["events"]], [0, 1])
        for name, sid in (("alice", "sid-bob"), ("alice", "nothing"), ("carol", "nothing")):
            await self.assertFailure(self.call("GET", f"/v1/sessions/{sid}/events", by=self.by(name)), NotFound)
