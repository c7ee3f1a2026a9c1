"""What is measured: each workload gives one figure for one way to the database.

The figures of the ways are taken by turns and compared within a round, for a machine's absolute figures drift by
a factor of two within minutes.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path

import attrs

from bench.system import DIRECT, SERVICE, System, Trouble

#: Bytes of the tables ``wide`` and ``narrow`` as COPY writes them.
WIDE, NARROW = 300_000 * 1000, 2_000_000 * 40


@attrs.frozen
class Workload:
    """One row of the table.

    :param measure: gives a figure, of a way's connection string.
    :param target: of the ratio to the direct way; at most, where less is better.
    :param difference: whether what the proxy adds to the direct figure counts, in the unit, and no ratio.
    :param service: of the proxy's way, and what the figure is compared with.
    """

    name: str
    title: str
    unit: str
    measure: Callable[[System, str], float]
    target: float
    difference: bool = False
    service: str = SERVICE
    against: str = DIRECT

    def with_clients(self, clients: int) -> Workload:
        """A select-only row with so many clients."""
        title = f"select-only, {clients} clients"
        return attrs.evolve(self, name=f"select-c{clients}", title=title, measure=tps("simple", clients))


def tps(protocol: str, clients: int, *more: str) -> Callable[[System, str], float]:
    """Select-only transactions a second, without the time to connect."""

    def measure(system: System, conninfo: str) -> float:
        options = ("-n", "-S", "-c", str(clients), "-j", "2", "-T", str(system.seconds), "-M", protocol, *more)
        return found_in(system.pgbench(conninfo, *options), r"tps = ([\d.]+) \(without initial")

    return measure


def connections(system: System, conninfo: str) -> float:
    """Connections a second of four clients, each with one query."""
    script = system.file("select.sql", "SELECT 1;\n")
    options = ("-n", "-C", "-c", "4", "-j", "2", "-T", str(system.seconds), "-f", str(script))
    return found_in(system.pgbench(conninfo, *options), r"tps = ([\d.]+) \(including reconnection")


def found_in(said: str, pattern: str) -> float:
    """The figure in a program's output."""
    found = re.search(pattern, said)
    if found is None:
        raise Trouble(f"pgbench said no figure: {said}")
    return float(found.group(1))


def latency(percentile: int) -> Callable[[System, str], float]:
    """Microseconds of a select-only transaction of one client."""

    def measure(system: System, conninfo: str) -> float:
        for old in system.directory.glob("latency.*"):
            old.unlink()
        tps("simple", 1, "-l", "--log-prefix=latency")(system, conninfo)
        taken = [int(line.split()[2]) for line in _only(system.directory, "latency.*").read_text().splitlines()]
        return float(statistics.quantiles(taken, n=100)[percentile - 1])

    return measure


def _only(directory: Path, pattern: str) -> Path:
    (path,) = directory.glob(pattern)
    return path


def copy_out(table: str, size: int) -> Callable[[System, str], float]:
    """MB/s of a table to a client that writes it nowhere."""

    def measure(system: System, conninfo: str) -> float:
        return size / 1e6 / system.timed(conninfo, f"\\copy {table} TO '/dev/null'")

    return measure


def copy_in(system: System, conninfo: str) -> float:
    """MB/s of rows of 1,000 bytes into an unlogged table."""
    rows = 150_000
    file = system.directory / "rows.txt"
    if not file.exists():
        file.write_text(f"{'x' * 999}\n" * rows)
    system.timed(conninfo, "TRUNCATE sink;")
    return rows * 1000 / 1e6 / system.timed(conninfo, f"\\copy sink FROM '{file}'")


WORKLOADS = (
    Workload("select-c1", "select-only, 1 client", "tps", tps("simple", 1), 0.28),
    Workload("select-c8", "select-only, 8 clients", "tps", tps("simple", 8), 0.33),
    Workload("select-c32", "select-only, 32 clients", "tps", tps("simple", 32), 0.30),
    Workload("prepared-c8", "prepared, 8 clients", "tps", tps("prepared", 8), 0.30),
    Workload("prepared-c32", "prepared, 32 clients", "tps", tps("prepared", 32), 0.25),
    Workload("latency-p50", "added latency, median", "µs", latency(50), 300, difference=True),
    Workload("latency-p99", "added latency, 99th percentile", "µs", latency(99), 1000, difference=True),
    Workload("connections", "connections, 4 clients", "1/s", connections, 0.50),
    Workload("copy-out-wide", "COPY OUT, rows of 1,000 bytes", "MB/s", copy_out("wide", WIDE), 0.45),
    Workload("copy-out-narrow", "COPY OUT, rows of 40 bytes", "MB/s", copy_out("narrow", NARROW), 0.85),
    Workload("copy-in", "COPY IN, rows of 1,000 bytes", "MB/s", copy_in, 0.65),
    Workload("audit", "auditing on against off, 32 clients", "tps", tps("simple", 32), 0.90, against="unaudited"),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
