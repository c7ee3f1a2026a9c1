"""Replication through the proxy, with PostgreSQL's own programs, for whom a role names it and for nobody else."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.pgwire.wire import COPY_DONE, query
from tests.system.raw import Raw, context, error, kinds, rows
from tests.system.support import Said, until
from tests.system.versions import Base

ROLE = """\
kind: role
version: v3
metadata:
  name: replicator
spec:
  allow:
    db_labels: {"*": "*"}
    db_names: [replication, metrics]
    db_users: [alice]
"""


class Replication:
    """Below run against each server."""

    world: Any
    alice: Any
    server: Any
    settings: dict[str, str]
    source: str
    version: int
    addCleanup: Any
    assertEqual: Any
    assertIn: Any
    assertTrue: Any

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.robert = self.world.person("robert")
        if not self.robert.password:
            role = self.world.file("replicator.yaml", ROLE)
            self.world.tctl("create", "-f", str(role))
            self.robert.invited("--roles=replicator").login()
        self.robert.tsh("db", "login", "--db-user=alice", "--db-name=metrics", self.source)

    def program(self, name: str, *words: str, database: str = "") -> list[str]:
        """A program's command for a replication connection of Robert's."""
        return [*self.client(name), "-d", self.robert.service(self.source, database=database), *words]

    def client(self, name: str) -> list[str]:
        installation = self.server.installation
        libraries = installation.libraries
        extra = [] if libraries is None else ["env", f"LD_LIBRARY_PATH={libraries}"]
        return [*extra, installation.program(name)]

    def run_to_end(self, command: list[str]) -> Said:
        done = subprocess.run(
            command, env=self.robert.environment, capture_output=True, text=True, timeout=60, check=False
        )
        said = Said(done.returncode, done.stdout, done.stderr)
        self.assertEqual(said.code, 0, said.text)
        return said

    @contextlib.contextmanager
    def running(self, command: list[str]) -> Any:
        """A program that streams until it is interrupted; its end is a clean one."""
        with subprocess.Popen(
            command, env=self.robert.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield process
                process.send_signal(signal.SIGINT)
                said, _ = process.communicate(timeout=30)
                self.assertEqual(process.returncode, 0, said)
            finally:
                process.kill()

    def recorded(self, beginning: str) -> dict[str, Any]:
        """The event of a replication command of Robert's."""

        def found() -> list[dict[str, Any]]:
            events = self.world.events(event="db.session.query", user="robert", db_service=self.source)
            return [event for event in events if event["db_query"].startswith(beginning)]

        events = until(found, lambda: f"{beginning} in the log")
        return events[0]

    def clean(self, path: Path) -> Path:
        """A directory that is not there yet."""
        assert not path.exists()
        return path

    def test_base_backup(self) -> None:
        """pg_basebackup copies the whole server, its log beside it on a second connection, and the copy verifies."""
        into = self.clean(self.robert.home / f"backup-{self.source}")
        self.run_to_end(self.program("pg_basebackup", "-D", str(into), "-X", "stream", "-c", "fast"))
        self.assertEqual((into / "PG_VERSION").read_text().strip(), str(self.version))
        self.assertTrue((into / "pg_wal").is_dir())
        self.run_to_end([*self.client("pg_verifybackup"), str(into)])
        self.assertEqual(self.recorded("BASE_BACKUP")["db_user"], "alice")
        self.recorded("START_REPLICATION")
        [start, *_] = self.world.until_recorded(
            event="db.session.start", user="robert", db_service=self.source, success=True
        )
        self.assertEqual(start["parameters"]["replication"], "true")

    def test_receive_wal(self) -> None:
        """pg_receivewal follows the server's log through a slot, and the server hears how far it is."""
        into = self.clean(self.robert.home / f"wal-{self.source}")
        into.mkdir()
        slot = ("--slot=received", "-D", str(into))
        self.run_to_end(self.program("pg_receivewal", *slot, "--create-slot"))
        try:
            # Without --synchronous it reports when a segment is whole.
            with self.running(self.program("pg_receivewal", *slot, "--synchronous")):
                flushed = "SELECT flush_lsn >= '{0}' FROM pg_stat_replication WHERE application_name = 'pg_receivewal'"
                wanted = self.server.sql(
                    "CREATE TABLE received AS SELECT generate_series(1, 50000) n; SELECT pg_current_wal_flush_lsn()"
                ).split()[-1]
                until(lambda: self.server.sql(flushed.format(wanted)) == "t", "the log to be received")
                self.assertTrue(list(into.glob("*.partial")))
        finally:
            self.server.sql("DROP TABLE IF EXISTS received")
            self.run_to_end(self.program("pg_receivewal", "--slot=received", "--drop-slot"))
        self.recorded('START_REPLICATION SLOT "received"')

    def test_receive_changes(self) -> None:
        """pg_recvlogical reads the changes of one database as they are made."""
        out = self.clean(self.robert.home / f"changes-{self.source}")
        slot = ("--slot=changes", "-P", "test_decoding")
        self.run_to_end(self.program("pg_recvlogical", *slot, "--create-slot", database="metrics"))
        try:
            with self.running(self.program("pg_recvlogical", *slot, "--start", "-f", str(out), database="metrics")):
                self.server.sql(
                    "CREATE TABLE changed (n int PRIMARY KEY); INSERT INTO changed VALUES (15), (18)",
                    database="metrics",
                )
                until(lambda: out.exists() and "n[integer]:18" in out.read_text(), "the changes to come")
        finally:
            self.server.sql("DROP TABLE IF EXISTS changed", database="metrics")
            self.run_to_end(self.program("pg_recvlogical", *slot, "--drop-slot", database="metrics"))
        self.assertEqual(self.recorded('START_REPLICATION SLOT "changes" LOGICAL')["db_name"], "metrics")

    def test_both_ways(self) -> None:
        """COPY BOTH by hand: the client ends it, and the connection takes commands again; SQL too, and an error."""
        raw = Raw(self.world.web).secure(context(self.robert.settings(self.source)))
        self.addCleanup(raw.close)
        self.assertEqual(raw.startup(user="alice", database="metrics", replication="database")[-1][0], b"Z")
        [[_, _, place, _]] = rows(raw.ask(query(b"IDENTIFY_SYSTEM")))
        raw.send(query(b"START_REPLICATION PHYSICAL " + (place or b"")))
        self.assertEqual(raw.until(b"W")[-1][0], b"W")
        self.assertIn((raw.message() or (b"", b""))[1][:1], (b"k", b"w"))
        raw.send(COPY_DONE)
        said = kinds(raw.until(b"Z"))
        self.assertTrue(said.endswith(b"cCCZ"), said)
        self.assertEqual(rows(raw.ask(query(b"SELECT 'after'"))), [[b"after"]])
        self.assertEqual(error(raw.ask(query(b"START_REPLICATION SLOT nowhere LOGICAL 0/0")))["C"], "42704")
        self.assertEqual(rows(raw.ask(query(b"SELECT 'still'"))), [[b"still"]])

    def test_refused(self) -> None:
        """Whose roles do not name it replicates nothing, be every database allowed."""
        into = str(self.alice.home)
        command = [*self.client("pg_receivewal"), "-d", self.alice.service(self.source), "-D", into, "-n"]
        done = subprocess.run(
            command, env=self.alice.environment, capture_output=True, text=True, timeout=60, check=False
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("replication connections", done.stderr)


class WheelTests(Replication, Base):
    """PostgreSQL 18."""

    source = "wheel"


class SystemTests(Replication, Base):
    """The machine's own PostgreSQL."""

    source = "system"
