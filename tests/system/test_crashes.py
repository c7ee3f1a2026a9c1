"""kill -9 of each process: everything comes back alone, and what psql saw complete is in the audit log."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.support import Process, World, metrics_world, shared, until


def build() -> World:
    """alice at her database."""
    return metrics_world()


class CrashTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.alice = self.world.person("alice")
        self.service = self.alice.service("aurora")

    def running(self, name: str) -> Process:
        """The process of this name that runs."""
        return next(process for process in self.world.processes if process.name == name and process.code is None)

    def load(self, label: str, statements: int = 5000) -> Process:
        """A psql with many statements, each with a text of its own."""
        script = self.alice.home / f"{label}.sql"
        script.write_text("".join(f"SELECT '{label}-{number:05d}';\n" for number in range(statements)))
        return self.world.start(
            label,
            *self.world.client("psql"),
            *("-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), self.service),
            environment=self.alice.environment,
        )

    def seen(self, process: Process, label: str) -> list[str]:
        """The results that psql printed whole."""
        return [
            line for line in process.said.splitlines() if line.startswith(f"{label}-") and len(line) == len(label) + 6
        ]

    def under_load(self, label: str, crash: Callable[[], None]) -> list[str]:
        """Crash something while psql runs statements; those it saw complete."""
        psql = self.load(label)
        until(lambda: len(self.seen(psql, label)) > 200, "some statements to complete")
        crash()
        psql.wait()
        seen = self.seen(psql, label)
        self.assertLess(len(seen), 5000, "psql was done before the crash")
        return seen

    def until_works(self) -> None:
        """Wait until a new session works."""
        until(lambda: self.alice.psql(self.service, "SELECT 1", fails=None).code == 0, "a session to work again")

    def assertRecorded(self, label: str, seen: list[str]) -> None:
        """Everything seen is in the log, once, and each session is numbered without a gap."""

        def recorded() -> list[dict[str, Any]] | None:
            events = self.world.events()
            queries = {event.get("db_query") for event in events}
            return events if all(f"SELECT '{text}';" in queries for text in seen) else None

        events = until(recorded, f"{len(seen)} statements in the audit log")
        ours = [event for event in events if str(event.get("db_query", "")).startswith(f"SELECT '{label}-")]
        texts = [event["db_query"] for event in ours]
        self.assertEqual(len(texts), len(set(texts)), "a statement was recorded twice")
        done = {
            (event["sid"], event["statement_id"])
            for event in events
            if event["event"] == "db.session.result" and event["success"]
        }
        ended = {event["db_query"] for event in ours if (event["sid"], event["statement_id"]) in done}
        self.assertFalse([text for text in seen if f"SELECT '{text}';" not in ended], "complete, and without a result")
        numbers: dict[str, list[int]] = {}
        sessions = {event["sid"] for event in ours}
        for event in events:
            if event.get("sid") in sessions:
                numbers.setdefault(event["sid"], []).append(event["ei"])
        for sid, found in numbers.items():
            self.assertEqual(sorted(found), list(range(len(found))), sid)

    def assertEnded(self, label: str) -> None:
        """The session that was killed with its agent gets an end, the last of its numbers, and no other has it."""
        queries = [event for event in self.world.events() if f"'{label}-" in str(event.get("db_query"))]
        (sid,) = {event["sid"] for event in queries}
        (end,) = self.world.until_recorded(sid=sid, event="db.session.end")
        self.assertEqual(end["reason"], "agent_lost")
        numbers = [event["ei"] for event in self.world.events(sid=sid)]
        self.assertEqual(numbers, list(range(len(numbers))))
        self.assertEqual(numbers[-1], end["ei"])

    def test_auth_and_proxy(self) -> None:
        """auth and proxy are killed under load: a restart is all it takes."""

        def crash() -> None:
            self.running("auth").kill()

        seen = self.under_load("first", crash)
        self.world.start_auth()
        self.until_works()
        self.assertRecorded("first", seen)
        self.assertIn("alice", self.world.tctl("users", "ls").out)
        self.assertIn("Logged in as: alice", self.alice.tsh("status").out)

    def test_agent(self) -> None:
        """The agent is killed under load and comes back without a token."""

        def crash() -> None:
            self.running("aurora").kill()

        seen = self.under_load("second", crash)
        self.world.agent("aurora").until_up()
        self.until_works()
        self.assertRecorded("second", seen)
        self.assertEnded("second")
        self.world.until_recorded(event="service.start", services=["db"], after_crash=True)

    def test_running_query(self) -> None:
        """The agent is killed in the middle of a query: psql hears of it, PostgreSQL stops it in time."""
        script = self.alice.home / "long.sql"
        script.write_text("SELECT pg_sleep(60);\n")
        psql = self.world.start(
            "long",
            *self.world.client("psql"),
            "-X",
            "-f",
            str(script),
            self.service,
            environment=self.alice.environment,
        )
        active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%' AND state = 'active'"
        until(lambda: self.world.postgres.sql(active) == "1", "the query to run")
        self.running("aurora").kill()
        self.assertNotEqual(psql.wait(), 0)
        self.assertIn("SSL error: unexpected eof while reading", psql.said, "as when a server's process is killed")
        self.world.agent("aurora").until_up()
        self.until_works()
        self.world.postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%'"
        )

    def test_everything(self) -> None:
        """All of it at once, PostgreSQL too."""

        def crash() -> None:
            for name in ("auth", "aurora"):
                self.running(name).kill()
            self.world.postgres.halt(crash=True)

        seen = self.under_load("third", crash)
        self.world.postgres.resume()
        agent = self.world.agent("aurora")
        self.world.start_auth()
        agent.until_up()
        self.until_works()
        self.assertRecorded("third", seen)

    def test_clean_stop(self) -> None:
        """SIGTERM ends the agent with 0, tells its sessions why, and every start has its end."""
        psql = self.load("fourth", 200000)
        until(lambda: len(self.seen(psql, "fourth")) > 50, "some statements to complete")
        agent = self.running("aurora")
        self.assertEqual(agent.stop(), 0)
        psql.wait()
        self.assertIn("the agent of this database is shutting down", psql.said)
        (query,) = self.world.until_recorded(db_query=f"SELECT '{self.seen(psql, 'fourth')[0]}';")
        self.world.until_recorded(sid=query["sid"], event="db.session.end")
        self.assertNotIn("aurora", self.world.tctl("db", "ls").out)
        self.world.agent("aurora").until_up()
        self.until_works()

    def test_nothing_readable(self) -> None:
        """What the processes keep, only their user can read."""
        for name in ("data", "aurora"):
            directory = self.world.directory / name
            self.assertEqual(os.stat(directory).st_mode & 0o077, 0, name)
