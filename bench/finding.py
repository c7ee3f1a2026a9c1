"""How long it takes to find something in the audit log, and to verify it, as the log grows.

::

    .venv/bin/python -m bench.finding                        # 10,000, 100,000 and 1,000,000 events: some minutes
    .venv/bin/python -m bench.finding --events 10000

Sessions of a few users and databases, a statement and its result each, with words that are common, rare and nowhere.
Each question is asked of an index that was just opened, with the files packed; what the operating system has read
before it still has.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from twisted.internet.task import Clock

from teleport_db.audit import logfile
from teleport_db.audit.finding import Finder
from teleport_db.audit.housekeeping import PackedFile
from teleport_db.audit.index import NAME, Index
from teleport_db.audit.log import AuditLog
from teleport_db.audit.query import Query
from teleport_db.audit.verifying import verify
from teleport_db.config.model import AuditFiles
from tests.audit.samples import NOW, session

USERS, SERVICES, TABLES = 50, 20, 400

#: Statements of one session, and events of one batch.
STATEMENTS, BATCH = 50, 2000


def fill(directory: Path, count: int) -> None:
    """Write a log of about so many events; the oldest are ten days older than the newest."""
    clock = Clock()
    clock.advance(NOW)
    log = AuditLog(directory, clock=clock, keeping=AuditFiles(max_file=64 << 20))
    step, seq, batch = 10 * 86400 / count, 0, []
    for number in range(count // (2 * STATEMENTS + 2)):
        events = session(f"session-{number}", user=f"user{number % USERS}", db_service=f"db{number % SERVICES}")
        made = [
            events.start(clock.seconds(), success=True, client_address="192.0.2.1:5", roles=["access"], parameters={})
        ]
        for statement in range(STATEMENTS):
            one = number * STATEMENTS + statement
            sql = f"SELECT * FROM table{one % TABLES} WHERE id = {one} AND note = 'row {one % 7}'"  # noqa: S608
            made.append(events.query(clock.seconds(), sql.encode()))
            made.append(_result(events, clock.seconds(), statement + 1, failed=one % 100 == 99))
            clock.advance(2 * step)
        made.append(events.end(clock.seconds(), "client"))
        batch += made
        if len(batch) >= BATCH:
            log.receive("host", [(seq + n, event) for n, event in enumerate(batch, 1)])
            seq, batch = seq + len(batch), []
    log.receive("host", [(seq + n, event) for n, event in enumerate(batch, 1)])
    log.close()
    for file in logfile.files(directory)[:-1]:
        with contextlib.suppress(FileNotFoundError):
            packed = PackedFile(directory, file)
            while packed.pack():
                pass


def _result(events: object, now: float, statement: int, *, failed: bool) -> object:
    from teleport_db.audit.executions import ExecutionEvents
    from teleport_db.pgwire import prepared

    assert isinstance(events, ExecutionEvents)
    one = prepared.Execution(prepared.QUERY, statement, 80)
    if failed:
        one.sqlstate = "42P01"
    else:
        one.complete(b"SELECT 1")
    return events.outcome(now, one, 0.001)


def questions(count: int) -> list[tuple[Query, bool]]:
    """Each criterion alone, some together, words that are everywhere, rare and nowhere; and whether joined."""
    last = NOW + 10 * 86400
    number = count // (2 * STATEMENTS + 2) // 2
    rare = str(number * STATEMENTS)
    found = [
        Query(),
        Query(event="db.session.query"),
        Query(code="TDB10I"),
        Query(user="user7"),
        Query(db_service="db3"),
        Query(db_name="test"),
        Query(sid=f"session-{number}"),
        Query(sqlstate="42P01"),
        Query(sqlstate="99999"),
        Query(since=last - 3600),
        Query(until=NOW + 3600),
        Query(since=NOW + 86400, until=NOW + 90000, user="user9"),
        Query(text="select"),
        Query(text="table17"),
        Query(text=rare),
        Query(text="nothing"),
        Query(text="select nothing"),
        Query(text="table1* note"),
        Query(text="table399 table398"),
        Query(text="select", user="user11", sqlstate="42P01"),
        Query(text="select", sqlstate="42P01"),
        Query(text="table99", sqlstate="42P01"),
        Query(text="table17", sqlstate="42P01"),
        Query(text="table5", since=last - 86400, db_service="db5"),
    ]
    return [(query, joined) for query in found for joined in (False, True)]


def measure(count: int) -> list[str]:
    """One row of the table."""
    directory = Path(tempfile.mkdtemp(prefix="teleport-db-finding-"))
    try:
        fill(directory, count)
        for path in directory.glob(f"{NAME}*"):
            path.unlink()
        begun = time.monotonic()
        index = Index(directory)
        newest = logfile.files(directory)[-1]
        while index.step((newest, 1 << 62), 2000):
            pass
        indexing = time.monotonic() - begun
        lines = index.place.count
        index.close()
        took = [_ask(directory, query, joined) for query, joined in questions(count)]
        begun = time.monotonic()
        report = verify(directory)
        verifying = time.monotonic() - begun
        assert report.finding is None, report.finding
        content = sum(file.content_size(directory) for file in logfile.files(directory))
        packed = sum(path.stat().st_size for path in directory.glob("*.jsonl*"))
        size = (directory / NAME).stat().st_size
        return [
            f"{report.events:,} ({content >> 20} MiB, packed {packed >> 20} MiB)",
            f"{1000 * statistics.median(took):.1f} ms",
            f"{1000 * max(took):.0f} ms",
            f"{lines / indexing:,.0f} 1/s",
            f"{size / (1 << 20):.1f} MiB",
            f"{verifying:.2f} s",
        ]
    finally:
        shutil.rmtree(directory)


def _ask(directory: Path, query: Query, joined: bool) -> float:
    index = Index(directory)
    finder = Finder(index)
    begun = time.monotonic()
    finder.page(query, limit=100, joined=joined)
    took = time.monotonic() - begun
    finder.close()
    index.close()
    return took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.finding", description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    arguments = parser.parse_args()
    print("events | first page, median | longest | indexing | index | verifying")
    for count in arguments.events:
        print(" | ".join(measure(count)), flush=True)
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
