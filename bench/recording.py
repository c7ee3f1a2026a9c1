"""What recording costs the agent: scan, tracking, both events, the spool's write, the walk; microseconds each.

::

    python -m bench.recording [--profile]

The two relays of a session run as in the agent, between a client and a database that are lists of bytes.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable

from teleport_db.audit.spool import Spool
from teleport_db.audit.uids import uid_source
from teleport_db.config.model import Address, Database
from teleport_db.db.record import SessionRecord
from teleport_db.db.relay import BackendRelay, FrontendRelay
from teleport_db.pgwire.express import Express
from teleport_db.pgwire.messages import SYNC, message, ready_for_query

SQL = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1"
ROW = message(b"T", b"\0\1abalance\0" + bytes(18)) + message(b"D", b"\0\1\0\0\0\5-1234")
DONE = message(b"C", b"SELECT 1\0") + ready_for_query()
BIND = b"\0\1\0\0\0\1" + struct.pack(">I", 4) + b"4711" + b"\0\0"


class Clock:
    """Of a reactor what is needed here."""

    def seconds(self) -> float:
        return time.time()


class Session:
    """Both relays of a session, its record and its spool."""

    def __init__(self, directory: str) -> None:
        self.spool = Spool(os.path.join(directory, "spool"))
        self.record = SessionRecord(
            self.spool.append,
            append_one=self.spool.append_one,
            clock=Clock(),  # type: ignore[arg-type]
            new_uid=uid_source(),
            cluster="root",
            server_id="5603cd43-1172-4f1f-8e35-2bf74dfecf15",
            sid="56335587-0157-4228-9556-aaa416741ef7",
            client_address="127.0.0.1:5000",
        )
        self.record.database = Database("aurora", Address("localhost", 5432))
        executions = Express()

        def record() -> None:
            self.record.statements(executions)

        def forward(data: bytes) -> None:
            pass

        def failed(error: Exception) -> None:
            raise error

        self.frontend = FrontendRelay(
            executions, record=record, begins=self.record.begins, forward=forward, failed=failed
        )
        self.backend = BackendRelay(
            executions,
            record=record,
            ends=self.record.ends,
            forward=forward,
            failed=failed,
            answered=self.frontend.go_on,
        )

    def ask(self, wire: bytes, answer: bytes) -> Callable[[], None]:
        """One exchange."""
        sent, answered = self.frontend.receive, self.backend.receive

        def exchange() -> None:
            sent(wire)
            answered(answer)

        return exchange


def exchanges(session: Session) -> dict[str, tuple[Callable[[], None], int]]:
    """What is measured, and how many statements are in it."""
    bound = message(b"B", b"\0s1\0" + BIND) + message(b"D", b"P\0") + message(b"E", b"\0\0\0\0\0")
    unnamed = message(b"P", b"\0" + SQL + b"\0\0\0") + message(b"B", b"\0\0" + BIND)
    unnamed += message(b"D", b"P\0") + message(b"E", b"\0\0\0\0\0") + SYNC
    session.ask(message(b"P", b"s1\0" + SQL + b"\0\0\0") + SYNC, message(b"1") + ready_for_query())()
    rows = message(b"D", b"\0\1\0\0\0\x20" + b"x" * 32) * 1000
    return {
        "simple query": (session.ask(message(b"Q", SQL.replace(b"$1", b"4711") + b"\0"), ROW + DONE), 1),
        "Bind, Execute": (session.ask(bound + SYNC, message(b"2") + ROW + DONE), 1),
        "Parse, Bind, Execute": (session.ask(unnamed, message(b"1") + message(b"2") + ROW + DONE), 1),
        "16 in a pipeline": (session.ask(bound * 16 + SYNC, (message(b"2") + ROW + DONE[:-6]) * 16 + DONE[-6:]), 16),
        "1,000 rows of 39 bytes": (session.ask(message(b"Q", SQL + b"\0"), ROW + rows + DONE), 1),
        "64 KB within a row": (lambda: session.backend.receive(b"x" * 65536), 1),
    }


def measure(exchange: Callable[[], None], count: int, rounds: int) -> float:
    """Seconds of processor time of one, in the best round."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(count):
            exchange()
        best = min(best, time.process_time() - began)
    return best / count


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="profile Parse, Bind, Execute instead")
    parser.add_argument("--count", type=int, default=3000)
    options = parser.parse_args()
    directory = tempfile.mkdtemp()
    try:
        session = Session(directory)
        found = exchanges(session)
        if options.profile:
            exchange, _ = found["Parse, Bind, Execute"]
            with cProfile.Profile() as profile:
                for _ in range(options.count):
                    exchange()
            profile.print_stats("tottime")
            return
        for name, (exchange, statements) in found.items():
            if name.startswith("64 KB"):
                session.backend.receive(struct.pack(">cI", b"D", 0x3FFFFFFF))
            seconds = measure(exchange, max(options.count // (10 * statements), 100), 10)
            print(f"{name:24} {seconds / statements * 1e6:8.2f} µs a statement")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
