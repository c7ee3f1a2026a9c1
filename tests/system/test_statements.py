"""What is recorded of statements, against PostgreSQL's own log with ``log_statement = all``."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.support import STRICT, World, metrics_world, run, shared, until

#: A line that the server logged for a statement, behind a prefix with its session; more lines begin with a tab.
LINE = re.compile(
    r"^@(?P<session>[0-9a-f.]+)@LOG:  "
    r"(?:statement: |execute (?:fetch from )?[^:]*: |(?P<call>fastpath function call: ))(?P<text>.*(?:\n\t.*)*)",
    re.MULTILINE,
)


def build() -> World:
    """alice at her database, of a server that logs everything she runs."""
    return metrics_world(
        sql="ALTER USER alice SET log_statement = 'all'; ALTER SYSTEM SET log_line_prefix = '@%c@';"
        "SELECT pg_reload_conf();"
    )


class StatementTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.alice = self.world.person("alice")
        self.service = self.alice.service("aurora")
        self.begin()

    def begin(self) -> None:
        """What is in both logs by now does not count."""
        self.log_begins = len(self.world.postgres.log)
        self.known = {event.get("sid") for event in self.world.events()}

    def connect(self, **more: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(**self.alice.settings("aurora"), **more)

    def logged(self) -> list[list[str]]:
        """The statements of each session that the server has logged during this test."""
        sessions: dict[str, list[str]] = {}
        for found in LINE.finditer(self.world.postgres.log[self.log_begins :]):
            text = found["text"].replace("\n\t", "\n")
            if found["call"]:
                text = found["call"] + re.sub(r".*\(OID (\d+)\)", r"OID \1", text)
            sessions.setdefault(found["session"], []).append(text)
        return sorted(sessions.values())

    def ours(self) -> list[list[str]]:
        """The same of our log, once all sessions have ended."""

        def ended() -> list[dict[str, Any]] | None:
            events = [event for event in self.world.events() if event.get("sid", "") not in {"", *self.known}]
            ends = [event["sid"] for event in events if event["event"] == "db.session.end"]
            queries = {event["sid"] for event in events if event["event"] == "db.session.query"}
            return events if queries and set(ends) == {event["sid"] for event in events} else None

        events = until(ended, "the sessions in the audit log")
        self.check(events)
        not_run = {(event["sid"], event["statement_id"]) for event in events if event.get("skipped")}
        sessions: dict[str, list[str]] = {}
        for event in events:
            if event["event"] == "db.session.query" and (event["sid"], event.get("statement_id")) not in not_run:
                sessions.setdefault(event["sid"], []).append(event["db_query"])
        return sorted(sessions.values())

    def check(self, events: list[dict[str, Any]]) -> None:
        """Each session is numbered without a gap, and each query has one result, behind it."""
        numbers: dict[str, list[int]] = {}
        for event in events:
            numbers.setdefault(event["sid"], []).append(event["ei"])
        for found in numbers.values():
            self.assertEqual(found, list(range(len(found))))
        queries = [(event["sid"], event["statement_id"]) for event in events if event["event"] == "db.session.query"]
        results = [(event["sid"], event["statement_id"]) for event in events if event["event"] == "db.session.result"]
        self.assertEqual(sorted(queries), sorted(results))

    def compare(self) -> list[list[str]]:
        """Both logs have the same statements, in the same order in each session."""
        ours = self.ours()
        self.assertEqual(ours, self.logged())
        return ours

    def test_pgbench(self) -> None:
        """pgbench in its three modes, and a script of its own that pipelines 16 statements deep."""
        tool = self.world.client("pgbench")
        run([*tool, "-i", "-q", self.service], cwd=self.alice.home, environment=self.alice.environment)
        script = self.alice.home / "pipeline.sql"
        script.write_text("\\startpipeline\n" + "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n" * 16)
        with script.open("a") as more:
            more.write("\\endpipeline\n")
        script.write_text("\\set aid random(1, 1000)\n" + script.read_text())
        for mode in ("simple", "extended", "prepared"):
            self.ours()
            self.begin()
            words = ["-n", "-c", "3", "-t", "20", "-M", mode]
            words += ["-S"] if mode == "simple" else ["-f", str(script)]
            run([*tool, *words, self.service], cwd=self.alice.home, environment=self.alice.environment)
            found = self.compare()
            self.assertEqual(max(map(len, found)), 20 * (1 if mode == "simple" else 16), mode)

    def test_psycopg(self) -> None:
        """Prepared statements, a 16-deep pipeline with errors, cursors, COPY, large objects, row by row."""
        with self.connect(autocommit=True) as connection:
            connection.execute("CREATE TABLE psycopg_rows (n int PRIMARY KEY, t text)")
            with connection.cursor() as cursor:
                cursor.executemany("INSERT INTO psycopg_rows VALUES (%s, %s)", [(n, f"row {n}") for n in range(50)])
                with cursor.copy("COPY psycopg_rows FROM STDIN") as copy:
                    for number in range(100, 150):
                        copy.write_row((number, "copied"))
                with cursor.copy("COPY psycopg_rows TO STDOUT") as copy:
                    self.assertEqual(len(list(copy.rows())), 100)
            with connection.pipeline():
                found = [
                    connection.execute("SELECT t FROM psycopg_rows WHERE n = %s", (n,), prepare=True) for n in range(16)
                ]
            self.assertEqual([each.fetchone() for each in found], [(f"row {n}",) for n in range(16)])
            with self.assertRaises(psycopg.errors.DivisionByZero), connection.pipeline() as pipeline:
                for number in range(16):
                    connection.execute("SELECT 10 / %s", (number - 8,))
                    if number % 4 == 0:
                        pipeline.sync()
            with connection.transaction(), connection.cursor(name="declared") as cursor:
                cursor.itersize = 30
                cursor.execute("SELECT n FROM psycopg_rows")
                self.assertEqual(len(cursor.fetchall()), 100)
            with self.assertRaises(psycopg.errors.UniqueViolation):
                connection.execute("INSERT INTO psycopg_rows VALUES (1, 'again')")
            self.assertEqual(connection.execute("SELECT 1; SELECT 2").fetchone(), (1,))
            connection.execute("")
            connection.execute("SELECT %t::text", ("as it was typed",))
            connection.execute("SELECT %b::int4", (77,))
        self.compare()
        (typed,) = self.world.events(event="db.session.query", db_query_parameters=["as it was typed"])
        self.assertEqual((typed["db_query"], typed["code"]), ("SELECT $1::text", "TDB02I"))
        self.assertTrue(self.world.events(event="db.session.query", db_query_parameters=["77"]))

    def test_results(self) -> None:
        """What came of statements: rows, records, tags, SQLSTATEs, bytes."""
        with self.connect(autocommit=True) as connection:
            connection.execute("CREATE TABLE outcomes (n int)")
            connection.execute("INSERT INTO outcomes SELECT generate_series(1, 500)")
            connection.execute("SELECT n, repeat('x', 100) FROM outcomes")
            with self.assertRaises(psycopg.errors.UndefinedTable):
                connection.execute("SELECT * FROM outcomes_that_are_not_there")
            with connection.cursor() as cursor, cursor.copy("COPY outcomes FROM STDIN") as copy:
                copy.write("7\n" * 1000)
            with self.assertRaises(psycopg.errors.InvalidTextRepresentation):  # noqa: SIM117
                with connection.cursor() as cursor, cursor.copy("COPY outcomes FROM STDIN") as copy:
                    copy.write("no number\n")
        self.compare()
        sid = self.world.events(db_query="CREATE TABLE outcomes (n int)")[0]["sid"]
        results = self.world.events(event="db.session.result", sid=sid)
        self.assertEqual(
            [(event.get("command_tag"), event["affected_records"], event["rows"]) for event in results],
            [("CREATE TABLE", 0, 0), ("INSERT 0 500", 500, 0), ("SELECT 500", 500, 500), (None, 0, 0),
             ("COPY 1000", 1000, 1000), (None, 0, 0)],
        )  # fmt: skip
        self.assertEqual([event.get("sqlstate") for event in results], [None, None, None, "42P01", None, "22P02"])
        self.assertEqual([event["success"] for event in results], [True, True, True, False, True, False])
        self.assertGreater(results[2]["bytes_received"], 500 * 100)
        self.assertGreater(results[4]["bytes_sent"], 2000)

    def test_strict(self) -> None:
        """Statements of a strict role run when their record is on the disk; the log and the answers are the same."""
        role = self.world.file("strict.yaml", STRICT)
        self.world.tctl("create", "-f", str(role))
        self.world.tctl("users", "update", "alice", "--set-roles=access,strict")
        try:
            with self.connect(autocommit=True) as connection, connection.pipeline():
                found = [connection.execute("SELECT %s::int", (number,)) for number in range(200)]
            self.assertEqual([each.fetchone() for each in found], [(number,) for number in range(200)])
            self.compare()
        finally:
            self.world.tctl("users", "update", "alice", "--set-roles=access")

    def test_large_objects(self) -> None:
        """psql's large objects are function calls, each with its record and its result."""
        content = bytes(range(256)) * 300
        (self.alice.home / "object").write_bytes(content)
        self.alice.psql(self.service, "", "-c", "\\lo_import object", "-c", "\\lo_export :LASTOID back")
        self.assertEqual((self.alice.home / "back").read_bytes(), content)
        (found,) = self.compare()
        self.assertGreater(sum(text.startswith("fastpath function call: OID ") for text in found), 15)
