"""The index finds what a walk through the files finds, page by page, also while events come in."""

from __future__ import annotations

import itertools
import sqlite3
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.python.monkey import MonkeyPatcher

from teleport_db.audit import finding, index, indexing, logfile
from teleport_db.audit.finding import Page
from teleport_db.audit.index import BREATH, BREATH_ROWS, NAME
from teleport_db.audit.log import AuditLog
from teleport_db.audit.pace import BREATH as BREATH_SECONDS
from teleport_db.audit.pace import GATHER, QUIET
from teleport_db.audit.query import Query, event_words, milliseconds, wanted_words
from teleport_db.config.model import AuditFiles
from teleport_db.errors import AuditUnavailable
from tests.audit.test_log import DAY, LogCase, Thread

TEXTS = ("select one", "SELECT Two from users", "drop table users_old", "naïve Ünï-cödé", "", "x" * 300, "a'b\"c")
USERS, SIDS = ("alice", "bob", "\ud800odd"), ("s1", "s2", "s3")


def events() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Events of a few users and sessions, statements among them, in any order of times."""
    common = {
        "time": st.integers(0, 50).map(lambda n: f"2025-11-24T16:00:{n:02d}.{n:03d}Z"),
        "user": st.sampled_from(USERS),
        "sid": st.sampled_from(SIDS),
        "db_service": st.sampled_from(("db1", "db2")),
    }
    query = st.fixed_dictionaries(
        {
            "event": st.just("db.session.query"),
            "code": st.just("TDB02I"),
            "statement_id": st.integers(0, 3),
            "db_query": st.sampled_from(TEXTS),
            **common,
        }
    )
    result = st.fixed_dictionaries(
        {
            "event": st.just("db.session.result"),
            "code": st.just("TDB10I"),
            "statement_id": st.integers(0, 3),
            "success": st.booleans(),
            **common,
        },
        optional={"sqlstate": st.sampled_from(("42P01", "23505")), "error": st.sampled_from(TEXTS)},
    )
    other = st.fixed_dictionaries(
        {"event": st.sampled_from(("db.session.end", "user.login")), "code": st.just("T"), **common},
        optional={"reason": st.sampled_from(TEXTS), "deep": st.just([{"a": ["table deep"]}, None, 5])},
    )
    return st.lists(st.one_of(query, result, other), max_size=40)


def queries() -> st.SearchStrategy[Query]:
    """Criteria of all kinds, alone and together."""
    return st.builds(
        Query,
        event=st.none() | st.sampled_from(("db.session.query", "db.session.result", "user.login")),
        user=st.none() | st.sampled_from((*USERS, "nobody")),
        sid=st.none() | st.sampled_from(SIDS),
        sqlstate=st.none() | st.sampled_from(("42P01", "99999")),
        text=st.none() | st.sampled_from(("select", "users*", "ünï", "TABLE users_old", "deep", "xx*", "ünï* cödé")),
        since=st.none() | st.integers(0, 50).map(lambda n: milliseconds("2025-11-24T16:00:00.000Z") / 1000 + n),
        until=st.none() | st.integers(0, 50).map(lambda n: milliseconds("2025-11-24T16:00:00.000Z") / 1000 + n),
    )


def walked(recorded: list[dict[str, Any]], query: Query, *, joined: bool) -> list[dict[str, Any]]:
    """What is to be found, newest first, by looking at everything."""
    partner: dict[int, int] = {}
    pending: dict[tuple[str, int], int] = {}
    for number, event in enumerate(recorded):
        if event["event"] == "db.session.end":
            pending = {key: value for key, value in pending.items() if key[0] != event["sid"]}
        elif event["event"] == "db.session.query":
            pending[event["sid"], event["statement_id"]] = number
        elif event["event"] == "db.session.result":
            known = pending.pop((event["sid"], event["statement_id"]), None)
            if known is not None:
                partner[number], partner[known] = known, number
    found, state = [], query.sqlstate
    if joined and state is not None and (query.text or query.event):
        query = attrs.evolve(query, sqlstate=None)
    else:
        state = None
    for number, event in reversed(list(enumerate(recorded))):
        other = recorded[partner[number]] if number in partner else {}
        if not query.matches(event) or (
            state is not None and state not in (event.get("sqlstate"), other.get("sqlstate"))
        ):
            continue
        if joined and number in partner:
            if event["event"] == "db.session.query":
                found.append({**event, "result": other})
            elif not query.matches(other):
                found.append({**other, "result": event})
        else:
            found.append(event)
    return found


class PropertyTests(LogCase):
    """Any events, any criteria."""

    def pages(self, log: AuditLog, query: Query, limit: int, **more: bool) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after = None
        while True:
            page: Page = self.successResultOf(log.search(query, limit=limit, after=after, **more))
            found += page.events
            if page.next is None or (more.get("oldest_first") and not page.events):
                return found
            after = page.next

    def test_index_finds_what_a_walk_finds(self) -> None:
        """Newest first, oldest first, joined; in pages of any size; before and after it is made anew."""

        @settings(max_examples=60, deadline=None)
        @given(events(), st.lists(queries(), min_size=3, max_size=3), st.integers(1, 7), st.integers(1, 20))
        def check(recorded: list[dict[str, Any]], wanted: list[Query], limit: int, cut: int) -> None:
            self.tearDownLog()
            log = self.log(keeping=AuditFiles(max_file=2000))
            for number, event in enumerate(recorded, 1):
                log.receive("host", [(number, event)])
                if number % cut == 0:
                    log.search(limit=1)
            for anew in (False, True):
                if anew:
                    self.crash()
                    (self.directory / NAME).unlink()
                    log = self.log()
                for query in wanted:
                    for joined in (False, True):
                        expected = walked(recorded, query, joined=joined)
                        self.assertEqual(self.pages(log, query, limit, joined=joined), expected)
                    expected = walked(recorded, query, joined=False)[::-1]
                    self.assertEqual(self.pages(log, query, limit, oldest_first=True), expected)

        with MonkeyPatcher(
            (finding, "FEW", 3),
            (finding, "FREQUENT", 5),
            (finding, "CHUNK", 2),
            (finding, "MAX_BYTES", 1000),
            (index, "BLOCK", 4),
        ):
            check()

    def tearDownLog(self) -> None:
        """Each example has a directory of its own."""
        if self.opened is not None:
            self.crash()
        self.directory = self.directory.with_name(f"log{self.examples}")
        self.examples += 1

    examples = 0

    def test_words(self) -> None:
        """Words are runs of letters, digits and underscores, in any case; others' alphabets as well."""
        event = {
            "db_query": "SELECT naïve, users_old FROM Straße",
            "event": "x",
            "list": ["Ω", {"a": "été"}],
            "user": "bob",
        }
        for text in ("select", "users_old", "users*", "STRASSE", "ω", "ÉTÉ select", "naïve", "na*"):
            self.assertTrue(Query(text=text).matches(event), text)
        for text in ("users", "bob", "sel", "x", "select nothing", "ete"):
            self.assertFalse(Query(text=text).matches(event), text)
        self.assertEqual(wanted_words("* -- ;"), ())
        self.assertTrue(all(word.isascii() for word in event_words(event)))

    def test_times(self) -> None:
        """Milliseconds; what is no time is 0."""
        self.assertEqual(milliseconds("2025-11-24T16:00:00.125Z"), 1_764_000_000_125)
        self.assertEqual(milliseconds("2025-11-24T17:00:00+01:00"), 1_764_000_000_000)
        for bad in ("", None, 5, "yesterday", "9999-99-99T99:99:99.999Z", "2025-11-24T16:00:00.12xZ"):
            self.assertEqual(milliseconds(bad), 0)


class IndexTests(LogCase):
    """What becomes of the file."""

    def fill(self, log: AuditLog, count: int, first: int = 1) -> None:
        for number in range(first, first + count):
            self.clock.advance(DAY / 10)
            log.receive("host", [(number, {"n": number, "event": "user.login", "user": f"u{number % 3}"})])

    def test_pages_while_events_come(self) -> None:
        """No gap and no duplicate among those that were there; those that come are behind, oldest first."""
        log = self.log()
        self.fill(log, 30)
        seen, after, number = [], None, 30
        while True:
            page = self.successResultOf(log.search(Query(user="u1"), limit=3, after=after))
            seen += [event["n"] for event in page.events]
            number += 1
            self.fill(log, 1, first=number)
            after = page.next
            if after is None:
                break
        self.assertEqual(seen, list(range(28, 0, -3)))
        followed, after, upto = [], 0, 0
        while number < 60 or not upto:
            page = self.successResultOf(log.search(limit=4, after=after, oldest_first=True))
            followed += [event["n"] for event in page.events]
            assert page.next is not None
            after, upto = page.next, len(page.events) < 4
            number += 1
            self.fill(log, 1, first=number)
        self.assertEqual(followed, list(range(1, len(followed) + 1)))

    def test_large(self) -> None:
        """A page of large events ends before its limit, in either direction; none is left out."""
        log = self.log()
        sizes = [50_000] * 250 + [100] * 50
        log.receive("host", [(n, {"n": n, "event": "x", "pad": "x" * size}) for n, size in enumerate(sizes, 1)])
        for oldest_first in (False, True):
            seen, after, lengths = [], None, []
            while True:
                page = self.successResultOf(log.search(limit=10_000, after=after, oldest_first=oldest_first))
                seen += [event["n"] for event in page.events]
                lengths.append(sum(len(event["pad"]) for event in page.events))
                if not page.full:
                    break
                after = page.next
            self.assertEqual(seen, sorted(range(1, 301), reverse=not oldest_first))
            self.assertEqual(len(lengths), 3)
            self.assertLess(max(lengths), finding.MAX_BYTES + 50_000)
        page = self.successResultOf(log.search(limit=10))
        self.assertTrue(page.full)

    def test_parts(self) -> None:
        """As a row, a text in parts is its first, unless a later one is what is looked for."""
        log = self.log()
        parts = [{"n": n, "event": "db.session.postgres.statements.bind", "part": n, "data": f"w{n}"} for n in range(5)]
        log.receive("host", list(enumerate(parts, 1)))
        for query, expected in ((Query(), [0]), (Query(text="w3"), [3]), (Query(text="w*"), [4, 3, 2, 1, 0])):
            page = self.successResultOf(log.search(query, limit=10, joined=True))
            self.assertEqual([event["n"] for event in page.events], expected)
        self.assertEqual(self.all(log), [4, 3, 2, 1, 0])

    def test_words_and_state(self) -> None:
        """As rows, statements are found by their words and what came of them together."""
        log = self.log()
        made: list[dict[str, Any]] = []
        for number in range(40):
            shared = {"sid": f"s{number % 3}", "statement_id": number, "user": f"u{number % 2}"}
            made.append({"event": "db.session.query", "n": number, "db_query": f"drop table t{number % 5}", **shared})
            state = {"sqlstate": "42501"} if number % 4 == 0 else {}
            made.append({"event": "db.session.result", "n": number, "success": not state, **state, **shared})
        log.receive("host", list(enumerate(made, 1)))
        for few in (1000, 0):
            self.patch(finding, "FEW", few)
            for query, expected in (
                (Query(text="drop", sqlstate="42501"), range(36, -1, -4)),
                (Query(text="t3", sqlstate="42501"), (28, 8)),
                (Query(text="t3", sqlstate="42501", user="u1"), ()),
                (Query(event="db.session.query", sqlstate="42501", user="u0"), range(36, -1, -4)),
                (Query(event="db.session.result", sqlstate="42501"), range(36, -1, -4)),
                (Query(sqlstate="42501"), range(36, -1, -4)),
                (Query(text="drop", sqlstate="99999"), ()),
            ):
                page = self.successResultOf(log.search(query, limit=100, joined=True))
                self.assertEqual([event["n"] for event in page.events], list(expected), query)
                self.assertTrue(all(event["result"]["sqlstate"] == "42501" for event in page.events))
            self.assertEqual(self.all(log, text="drop", sqlstate="42501"), [])

    def test_damaged(self) -> None:
        """One that is damaged, of another version or of another log is made anew."""
        log = self.log()
        self.fill(log, 20)
        whole = self.all(log)
        for damage in range(4):
            self.shut()
            path = self.directory / NAME
            if damage == 0:
                path.write_bytes(b"nothing")
            elif damage == 1:
                path.write_bytes(path.read_bytes()[:4096] + b"\x00" * 8192)
            else:
                database = sqlite3.connect(path)
                database.execute("PRAGMA user_version = 99" if damage == 2 else f"UPDATE meta SET chain = '{'0' * 64}'")
                database.commit()
                database.close()
            self.assertEqual(self.all(self.log()), whole, damage)
            modes = {each.name: each.stat().st_mode & 0o777 for each in self.directory.glob(f"{NAME}*")}
            self.assertEqual(set(modes.values()), {0o600}, modes)

    def test_retention(self) -> None:
        """What is removed is not found; sums and words of the rest are right."""
        keeping = AuditFiles(max_file=500, retention=2 * DAY, compress=True)
        log = self.log(keeping=keeping)
        log.start()
        self.fill(log, 100)
        found = self.all(log, event="user.login")
        self.assertEqual(found, list(range(100, 100 - len(found), -1)))
        self.assertLess(len(found), 40)
        self.assertEqual(self.all(log, text="nothing"), [])
        there = {
            event for file in logfile.files(self.directory) for event in file.lines(self.directory) if b'"n"' in event
        }
        self.assertEqual(len(there), len(found))

    def test_far_behind(self) -> None:
        """Who asks while much is missing hears how much; the next time there is less."""
        log = self.log()
        log.receive("host", [(number, {"n": number}) for number in range(1, 5001)])
        ticks = iter(range(0, 1000, 10))
        log._indexing._elapsed = lambda: next(ticks)
        page = self.successResultOf(log.search(limit=1))
        self.assertEqual((page.events, page.behind > 0, page.total), ([], True, 5001))
        for _ in range(5):
            page = self.successResultOf(log.search(limit=1))
        self.assertEqual([event["n"] for event in page.events], [5000])

    def test_unusable(self) -> None:
        """An index that cannot be written stops no event, and is said to who asks."""
        log = self.log()
        self.fill(log, 3)

        def broken(*args: object) -> int:
            raise sqlite3.OperationalError("disk I/O error")

        self.patch(index.Index, "step", broken)
        self.fill(log, 3, first=4)
        self.failureResultOf(log.search(limit=1), AuditUnavailable)
        self.flushLoggedErrors(sqlite3.OperationalError)

    def rests(self, log: AuditLog) -> list[float]:
        """Milliseconds of the rests of its index, each of whose bits of work takes one; they are not waited for."""
        rests: list[float] = []
        work, ticks = log._indexing._work, itertools.count()
        work.elapsed = lambda: next(ticks) / 1000
        work.wait = lambda seconds: rests.append(round(seconds * 1000, 1))
        return rests

    def test_own_pace(self) -> None:
        """While the log grows some lines, then a rest 49 times as long; without growth a breath; none for who asks."""
        log = self.log()
        rests = self.rests(log)
        log.receive("host", [(number, {"n": number}) for number in range(1, 2001)])
        self.clock.advance(GATHER)
        self.assertEqual(log._indexing._index and log._indexing._index.place.count, 2001)
        self.assertEqual(rests, [49.0] * (2000 // BREATH + 2000 // BREATH_ROWS + 6))
        rests.clear()
        self.clock.advance(QUIET)
        log.receive("host", [(number, {"n": number}) for number in range(2001, 2091)])
        self.clock.advance(GATHER)
        self.assertEqual(log._indexing._index and log._indexing._index.place.count, 2091)
        self.assertEqual(
            rests, [BREATH_SECONDS * 1000] * (90 // BREATH + 90 // BREATH_ROWS + 2)
        )  # the reactor's thread is let in between
        rests.clear()
        log.receive("host", [(number, {"n": number}) for number in range(2091, 4001)])
        self.assertEqual(self.all(log, limit=1), [4000])
        self.assertEqual(rests, [])

    def test_hopeless(self) -> None:
        """So far behind that who asks is told so anyway it takes less of the machine."""
        self.patch(indexing, "HOPELESS", 1000)
        log = self.log()
        rests = self.rests(log)
        log.receive("host", [(number, {"n": number}) for number in range(1, 2001)])
        self.clock.advance(GATHER)
        self.assertEqual(set(rests[: 1000 // BREATH]), {199.0})
        self.assertEqual(rests[-1], 49.0)

    def test_now_and_then(self) -> None:
        """Lines that come one by one do not hold up what is to be caught up with."""
        log = self.log()
        log.receive("host", [(number, {"n": number}) for number in range(1, 2001)])
        self.assertTrue(log._growth)
        for number in range(2001, 2100):
            self.clock.advance(0.5)
            log.receive("host", [(number, {"n": number})])
            self.assertEqual(bool(log._growth), number <= 2002)
        self.clock.advance(-3600)
        log.receive("host", [(2100, {})])
        self.assertFalse(log._growth)

    def test_urgent(self) -> None:
        """Who asks in the middle of a rest: what is begun goes on without one."""
        log = self.log()
        rests = self.rests(log)
        thread = Thread()
        work = log._indexing._work
        work._in_thread = thread
        answers: list[Any] = []

        def wait(seconds: float) -> None:
            rests.append(seconds)
            if len(rests) == 3:
                log.search(limit=1).addCallback(answers.append)

        work.wait = wait
        log.receive("host", [(number, {"n": number}) for number in range(1, 401)])
        self.clock.advance(GATHER)
        thread.step()
        self.assertEqual(len(rests), 3)
        thread.finish()
        self.assertEqual([event["n"] for event in answers[0].events], [400])
        self.assertFalse(work._hurry.is_set())


class SessionTests(LogCase):
    """The list of sessions."""

    def test_rows(self) -> None:
        """Who, where, how many statements, when it ended; refused ones are none."""
        log = self.log()
        shared = {"user": "alice", "db_service": "aurora", "db_name": "shop", "db_user": "bob"}

        def event(sid: str, name: str, **more: Any) -> dict[str, Any]:
            return {"event": f"db.session.{name}", "sid": sid, "time": "2025-11-24T16:00:00.000Z", **shared, **more}

        sent = [
            event("s1", "start", success=True),
            event("s2", "start", success=False),
            event("s3", "start", success=True, user="bob"),
            event("s1", "query", statement_id=1),
            event("s1", "result", statement_id=1, success=False),
            event("s1", "query", statement_id=2, part=0),
            event("s1", "query", statement_id=2, part=1),
            event("s1", "end", reason="client"),
        ]
        for number, each in enumerate(sent, 1):
            log.receive("host", [(number, each)])
            if number % 3 == 0:
                log.search(limit=1)
        rows, following = self.successResultOf(log.recorded_sessions(limit=10))
        self.assertEqual([(row["sid"], row["user"]) for row in rows], [("s3", "bob"), ("s1", "alice")])
        self.assertIsNone(following)
        (row,) = self.successResultOf(log.recorded_sessions(user="alice", limit=10))[0]
        self.assertEqual((row["statements"], row["errors"], row["reason"]), (2, 1, "client"))
        first, following = self.successResultOf(log.recorded_sessions(limit=1))
        second, _ = self.successResultOf(log.recorded_sessions(limit=1, after=following))
        self.assertEqual([first[0]["sid"], second[0]["sid"]], ["s3", "s1"])
