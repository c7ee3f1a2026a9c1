"""Every way a session ends: the client sees what it would see directly, and no socket is left after a second."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import time
from pathlib import Path
from typing import Any

from teleport_db.pgwire.messages import SYNC, TERMINATE
from tests.pgwire.wire import bind, execute, parse, query, startup
from tests.postgres import Unavailable
from tests.system.raw import Raw, rows, split
from tests.system.support import until
from tests.system.versions import Base

SLEEP = query(b"SELECT pg_sleep(60)")
#: A state in /proc/net/tcp.
LISTEN = "0A"


def sockets(pids: list[int], ports: set[int]) -> set[tuple[int, int]]:
    """Connected TCP sockets of these processes that have one of these ports, as local and remote port."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
        if fields[9] in inodes and fields[3] != LISTEN and ports & {local, remote}:
            found.add((local, remote))
    return found


class Endings:
    """Below run against each server."""

    world: Any
    server: Any
    session: Any
    connect: Any
    assertEqual: Any
    assertTrue: Any
    version: int
    ports: set[int]

    def held(self) -> set[tuple[int, int]]:
        """What the cluster holds open of the sessions on :attr:`ports`."""
        return sockets([self.world.auth.pid, self.world.agent_process.pid], self.ports)

    def assertGone(self) -> None:
        """Within a second nobody holds a socket of a session's."""
        before = time.monotonic()
        until(lambda: not self.held(), lambda: f"sockets to go: {self.held()}", seconds=10)
        gone = time.monotonic() - before
        asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'"
        until(lambda: self.server.sql(asked) == "0", "the server's sessions to end", seconds=10)
        self.assertTrue(gone < 1.0, gone)

    def compare(self, does: Any, *, sockets_gone: bool = True) -> Any:
        """Do the same directly and through the proxy; what was seen."""
        seen = []
        for direct in (True, False):
            raw = self.session(direct=direct)
            self.ports = {raw.port, self.server.port}
            seen.append((does(raw), raw.end))
            raw.close()
            if not direct and sockets_gone:
                self.assertGone()
        self.assertEqual(seen[1], seen[0])
        return seen[1]

    def test_terminate(self) -> None:
        """Terminate, idle and behind a query."""
        for before in (b"", query(b"SELECT 1"), query(b"BEGIN"), parse(b"", b"SELECT 1") + SYNC):

            def does(raw: Raw, before: bytes = before) -> bytes:
                raw.send(before + TERMINATE)
                return raw.rest()

            self.assertEqual(self.compare(does)[1], "closed")

    def test_half_close(self) -> None:
        """A client that says no more than its last query gets its answer, and then the end."""
        for data in (
            query(b"SELECT pg_sleep(0.3), 'half'"),
            parse(b"", b"SELECT repeat('half', 500000)") + bind(b"", b"") + execute(b"") + SYNC,
            query(b"SELECT 1") + TERMINATE,
            b"",
            b"Q\0\0\0",
        ):

            def does(raw: Raw, data: bytes = data) -> bytes:
                raw.send(data)
                raw.half_close()
                return raw.rest()

            self.compare(does)

    def test_half_close_without_notify(self) -> None:
        """FIN without close_notify, which may be an attacker's: the session ends at once, here as there."""
        for direct in (True, False):
            raw = self.session(direct=direct)
            self.ports = {raw.port, self.server.port}
            raw.ask(query(b"SELECT 1"))
            raw.half_close(notify=False)
            with contextlib.suppress(ssl.SSLError):  # PostgreSQL 18 sends an alert
                self.assertEqual(raw.rest(), b"")
        self.assertGone()

    def test_reset(self) -> None:
        """RST, idle and with a result on its way."""
        for data in (b"", query(b"SELECT repeat('x', 1000) FROM generate_series(1, 100000)")):

            def does(raw: Raw, data: bytes = data) -> None:
                raw.send(data)
                if data:
                    raw.read(100000)
                raw.reset()

            self.compare(does)

    def test_closed(self) -> None:
        """The client's process is gone while a query runs: the server is not asked to go on longer than directly."""

        def does(raw: Raw) -> None:
            raw.send(query(b"SELECT pg_sleep(0.5)"))
            raw.close()

        self.compare(does, sockets_gone=False)
        time.sleep(0.5)
        self.assertGone()

    def test_terminated_backend(self) -> None:
        """pg_terminate_backend: 57P01 in the server's words; idle, within a query, within a transaction."""
        for before, running in ((b"", b""), (query(b"BEGIN"), b""), (b"", SLEEP)):

            def does(raw: Raw, before: bytes = before, running: bytes = running) -> bytes:
                if before:
                    raw.ask(before)
                [[pid]] = rows(raw.ask(query(b"SELECT pg_backend_pid()")))
                assert pid is not None
                raw.send(running)
                if running:
                    self.until_active(int(pid))
                self.server.sql(f"SELECT pg_terminate_backend({int(pid)})")
                return raw.rest()

            heard, _ = self.compare(does)
            self.assertTrue(b"C57P01\0" in heard, heard)

    def until_active(self, pid: int) -> None:
        asked = f"SELECT state FROM pg_stat_activity WHERE pid = {pid} AND query LIKE '%pg_sleep%'"
        until(lambda: self.server.sql(asked) == "active", "the query to run")

    def test_half_close_before_login(self) -> None:
        """A client that says its last word before it is let in hears what it would hear directly."""
        asked = startup((b"user", b"alice"), (b"database", b"metrics"))
        for data in (b"", asked[:20], asked, asked + query(b"SELECT 'early'"), asked + TERMINATE):
            seen = []
            for direct in (True, False):
                raw = self.connect(direct=direct)
                self.ports = {raw.port, self.server.port}
                raw.send(data)
                raw.half_close()
                heard = [message for message in split(raw.rest()) if message[0] != b"K"]
                seen.append((heard, raw.end))
                raw.close()
            self.assertEqual(seen[1], seen[0])
            self.assertGone()

    def pair(self, *, direct: bool) -> tuple[list[Raw], int]:
        """An idle session and a busy one, and the busy one's process."""
        idle, busy = self.session(direct=direct), self.session(direct=direct)
        [[pid]] = rows(busy.ask(query(b"SELECT pg_backend_pid()")))
        busy.send(SLEEP)
        self.until_active(int(pid or b""))
        return [idle, busy], int(pid or b"")

    def test_stopped_server(self) -> None:
        """The server stops, fast, at once, by a kill: what an idle session and a busy one hear, and how it ends."""
        for way in ("fast", "immediate", "kill"):
            pairs = [self.pair(direct=direct)[0] for direct in (True, False)]
            self.ports = {raw.port for raw in pairs[1]} | {self.server.port}
            try:
                if way == "kill":
                    os.kill(self.postmaster(), signal.SIGKILL)
                self.server.halt(crash=way == "immediate")
                seen = [[(split(raw.rest()), raw.end) for raw in pair] for pair in pairs]
                self.assertEqual(seen[1], seen[0], way)
                self.assertTrue(any(b"57P0" in body for _, body in seen[1][0][0]), seen)
                self.assertEqual(seen[1][0][1], "cut" if way == "immediate" else "closed")
                until(lambda: not self.held(), lambda: f"sockets to go: {self.held()}")
            finally:
                until(self.resumed, "the server to start again")
            self.session().close()

    def postmaster(self) -> int:
        return int((self.server.directory / "data" / "postmaster.pid").read_text().splitlines()[0])

    def resumed(self) -> bool:
        """A server does not start as long as processes of a killed one are left."""
        with contextlib.suppress(Unavailable):
            self.server.resume()
            return True
        return False

    def test_killed_backend(self) -> None:
        """A server's process is killed: its session ends without a word, the others are told, and all are cut."""
        seen = []
        for direct in (True, False):
            (idle, busy), pid = self.pair(direct=direct)
            self.ports = {idle.port, busy.port, self.server.port}
            os.kill(pid, signal.SIGKILL)
            seen.append([(split(raw.rest()), raw.end) for raw in (idle, busy)])
            until(lambda: not self.held(), lambda: f"sockets to go: {self.held()}")
            until(self.answers, "the server to recover")
        self.assertEqual(seen[1], seen[0])
        self.assertEqual(seen[1][1], ([], "cut"))

    def answers(self) -> bool:
        with contextlib.suppress(RuntimeError):
            return bool(self.server.sql("SELECT 1") == "1")
        return False


class WheelTests(Endings, Base):
    """PostgreSQL 18."""

    source = "wheel"


class SystemTests(Endings, Base):
    """The machine's own PostgreSQL."""

    source = "system"
