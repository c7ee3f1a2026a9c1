"""Measure the system: by turns straight to PostgreSQL, and through the proxy and the agent.

Everything runs on this machine and shares its cores, over TLS with a client certificate on every hop.  Absolute
figures drift by a factor of two within minutes, so what counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import teleport_db
import twisted
from bench import footprint, peers, profiling, table
from bench.system import DIRECT, PROXY, System, Trouble, running
from bench.workloads import BY_NAME, WORKLOADS, Workload
from tests import postgres

UNAUDITED = "unaudited"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="example: python -m bench --workload select-c8 --rounds 3 --compare before.json",
    )
    names = [*BY_NAME, *footprint.ALL, "idle"]
    parser.add_argument(
        "--workload", action="append", metavar="NAME", choices=names, help=f"only this; repeatable: {', '.join(names)}"
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of all ways (default: 7)")
    parser.add_argument("--seconds", type=int, default=3, help="length of a run of pgbench (default: 3)")
    parser.add_argument("--clients", type=int, help="clients of the select-only row, in place of 1, 8 and 32")
    parser.add_argument("--postgres", choices=("wheel", "system", "any"), default="any")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        choices=[*peers.ALL, "all"],
        help="run this beside it, where it is installed; repeatable",
    )
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: bench-DATE.json)")
    parser.add_argument("--compare", metavar="FILE", help="say what moved since these figures")
    parser.add_argument("--profile", metavar="FILE.svg", help="a flame graph of each process between, by py-spy")
    return parser.parse_args(argv)


class Bench:
    """One run: what was asked for, and the figures so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.rows: dict[str, table.Row] = {}
        self.figures: list[footprint.Figure] = []
        self.before: dict[str, Any] = json.loads(Path(arguments.compare).read_text()) if arguments.compare else {}
        self.version = ""

    def wanted(self, name: str) -> bool:
        """Whether it was asked for."""
        return not self.arguments.workload or name in self.arguments.workload

    @property
    def workloads(self) -> list[Workload]:
        """Those of the rounds that were asked for."""
        clients = self.arguments.clients
        if clients is None:
            return [workload for workload in WORKLOADS if self.wanted(workload.name)]
        return [BY_NAME["select-c8"].with_clients(clients)]

    def run(self) -> None:
        """All that was asked for."""
        small = [name for name in footprint.ALL if self.wanted(name) and self.arguments.clients is None]
        if self.workloads or small:
            with running(self.arguments.postgres) as system:
                system.seconds = self.arguments.seconds
                self.version = system.postgres.installation.version()
                self._rounds(system)
                for name in small:
                    self._footprint(footprint.ALL[name](system))
        if self.wanted("idle") and self.arguments.clients is None:
            self._footprint(footprint.idle(self.arguments.postgres))

    def _rounds(self, system: System) -> None:
        with contextlib.ExitStack() as stack:
            beside = peers.started(self.arguments.against, system, stack)
            if self.arguments.profile:
                stack.enter_context(profiling.profiled(system, self.arguments.profile))
            if self.workloads:
                print(table.HEADING, flush=True)
            for workload in self.workloads:
                ways = {DIRECT: system.conninfo(DIRECT), PROXY: system.conninfo(PROXY)}
                if workload.against == UNAUDITED:
                    system.add_agent(UNAUDITED, name=UNAUDITED, program="bench.unaudited")
                    system.until_served(UNAUDITED)
                    system.log_in(UNAUDITED)
                    ways = {UNAUDITED: system.conninfo(PROXY, UNAUDITED), PROXY: ways[PROXY]}
                elif not workload.difference:
                    ways |= beside
                row = table.measure(
                    workload, ways, self.arguments.rounds, lambda one, info: one.measure(system, info), progress
                )
                self.rows[workload.name] = row
                clear()
                print(table.line(row), flush=True)

    def _footprint(self, figures: Iterator[footprint.Figure]) -> None:
        for figure in figures:
            self.figures.append(figure)
            target = f"≤ {figure.target:g}" if figure.target else ""
            verdict = "" if not figure.target else "  met" if figure.value <= figure.target else "  missed"
            words = f"  {figure.note}" if figure.note else ""
            print(f"{figure.title:48}{figure.value:10.2f} {figure.unit:10}{target:>8}{verdict}{words}", flush=True)

    def close(self) -> None:
        """Write the figures, say on what they were taken and what moved."""
        about = {
            "teleport_db": teleport_db.__version__,
            "python": platform.python_version(),
            "twisted": twisted.__version__,
            "postgresql": self.version,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "rounds": self.arguments.rounds,
            "seconds": self.arguments.seconds,
        }
        print(", ".join(f"{name} {value}" for name, value in about.items()))
        for name, row in self.rows.items():
            said = table.moved(row, self.before["rows"][name]) if name in self.before.get("rows", {}) else ""
            if said:
                print(f"moved: {said}")
        file = Path(self.arguments.json or time.strftime("bench-%Y%m%d-%H%M%S.json"))
        figures = {figure.name: {"value": figure.value, "unit": figure.unit} for figure in self.figures}
        rows = {name: row.json() for name, row in self.rows.items()}
        file.write_text(json.dumps({"about": about, "rows": rows, "figures": figures}, indent=1) + "\n")
        print(f"written to {file}")


def progress(number: int, found: dict[str, float]) -> None:
    """A round is done: on a terminal, a line that the next one overwrites."""
    if sys.stderr.isatty():
        shown = ", ".join(f"{way} {value:.0f}" for way, value in found.items())
        print(f"\r\033[Kround {number}: {shown}", end="", file=sys.stderr, flush=True)


def clear() -> None:
    """Remove what :func:`progress` left."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def main() -> int:
    """The exit status."""
    bench = Bench(parse())
    try:
        bench.run()
    except (postgres.Unavailable, Trouble) as trouble:
        print(trouble, file=sys.stderr)
        return 1
    finally:
        if bench.rows or bench.figures:
            bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
