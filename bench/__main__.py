"""Select-only transactions by turns: straight to PostgreSQL, and through the proxy and the agent.

Both ways use TLS with a client certificate.  A machine's absolute figures drift by a factor of two within
minutes, so the ratio of two neighbouring runs is what counts: the median of the rounds' ratios, and the
interquartile range.  Everything runs on this machine and shares its cores.

The way through the proxy is the demo's: a PostgreSQL, ``teleport start``, a user, ``tsh login``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from teleport_db.certs.authority import Authority
from teleport_db.certs.keys import new_key, pem, private_pem

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "script"))

from demo import SERVICE, Demo, Failed
from postgres import PostgresServer, Unavailable, temporary_directory

DAY = 86400.0


class Bench:
    """A running system, and pgbench on both ways to its database."""

    def __init__(self, demo: Demo, arguments: argparse.Namespace) -> None:
        self.demo = demo
        self.arguments = arguments

    def prepare(self) -> None:
        """Start everything, as the demo does, and fill pgbench's tables."""
        authority = Authority.create("db_client", "bench", now=time.time())
        self.demo.more_authorities = authority.certificate_pem
        with contextlib.redirect_stdout(io.StringIO()):
            self.demo.start_teleport()
            self.demo.certify()
            self.demo.login(*self.demo.invite())
        key = new_key()
        certificate = authority.issue(key.public_key(), common_name="alice", now=time.time(), ttl=DAY, server=False)
        self._write("direct.crt", pem(certificate))
        self._write("direct.key", private_pem(key))
        postgres = self.demo.postgres
        local = f"host={postgres.socket_directory} port={postgres.port} user=alice dbname={SERVICE}"
        self._pgbench(local, "-i", "-q", "-s", str(self.arguments.scale), as_server=True)

    def _write(self, name: str, data: bytes) -> None:
        with open(os.open(self.demo.directory / name, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(data)

    def ways(self) -> dict[str, str]:
        """Name -> connection string."""
        here = self.demo.directory
        direct = (
            f"host=localhost hostaddr=127.0.0.1 port={self.demo.postgres.port} user=alice dbname={SERVICE} "
            f"sslmode=require sslcert={here}/direct.crt sslkey={here}/direct.key gssencmode=disable"
        )
        return {"direct": direct, "proxy": self.demo.service("alice")}

    def measure(self, connection: str) -> float:
        """Transactions a second, without the time to connect."""
        options = ("-n", "-S", "-c", str(self.arguments.clients), "-j", "2", "-T", str(self.arguments.seconds))
        said = self._pgbench(connection, *options, "-M", self.arguments.protocol)
        found = re.search(r"tps = ([\d.]+) \(without initial", said)
        if found is None:
            raise Failed(f"pgbench said no tps: {said}")
        return float(found.group(1))

    def _pgbench(self, connection: str, *options: str, as_server: bool = False) -> str:
        installation = self.demo.postgres.installation
        program = installation.program("pgbench")
        if not os.path.exists(program):
            program = shutil.which("pgbench") or program
        account = self.demo.postgres.account
        environment = {**self.demo.environment, "LD_LIBRARY_PATH": str(installation.libraries or "")}
        said = subprocess.run(
            [program, *options, connection],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **(account.popen() if as_server and account else {}),
        )
        if said.returncode:
            raise Failed(f"pgbench failed: {said.stderr.strip()[-800:]}")
        return said.stdout


def rounds(bench: Bench) -> list[dict[str, float]]:
    """The figures of each round, the ways in turn and each first in every other round."""
    ways, figures = bench.ways(), []
    for connection in ways.values():
        bench.measure(connection)
    for number in range(bench.arguments.rounds):
        order = list(ways) if number % 2 == 0 else list(reversed(ways))
        figure = {name: bench.measure(ways[name]) for name in order}
        figure["ratio"] = figure["proxy"] / figure["direct"]
        figures.append(figure)
        print(
            f"round {number + 1:2}: direct {figure['direct']:8.0f} tps, proxy {figure['proxy']:8.0f} tps, "
            f"ratio {figure['ratio']:.3f}",
            flush=True,
        )
    return figures


def summary(figures: list[dict[str, float]]) -> dict[str, float]:
    """Median of the ratios and their quartiles."""
    ratios = [figure["ratio"] for figure in figures]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {"ratio": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--clients", type=int, default=8, help="connections at a time (default: 8)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of both ways (default: 7)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a run (default: 5)")
    parser.add_argument("--scale", type=int, default=5, help="pgbench's scale (default: 5)")
    parser.add_argument("--protocol", choices=("simple", "extended", "prepared"), default="simple")
    parser.add_argument("--postgres", choices=("wheel", "system", "any"), default="any")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    return parser.parse_args(argv)


def main() -> int:
    """The exit status."""
    arguments = parse()
    with contextlib.ExitStack() as stack:
        try:
            settings = {"max_connections": str(arguments.clients + 50), "shared_buffers": "128MB"}
            postgres = PostgresServer(arguments.postgres, settings=settings)
            stack.callback(postgres.stop)
            postgres.start()
            directory = temporary_directory("teleport-bench-")
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            demo = Demo(directory, postgres)
            stack.callback(demo.stop)
            bench = Bench(demo, arguments)
            bench.prepare()
            figures = rounds(bench)
        except Unavailable as trouble:
            print(trouble, file=sys.stderr)
            return 1
        except Failed as trouble:
            print(f"{trouble}\n\nThe last lines of teleport's log:\n{demo.said()}", file=sys.stderr)
            return 1
        found = summary(figures)
        print(
            f"select-only, {arguments.clients} clients, {arguments.protocol}: "
            f"ratio {found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f}), "
            f"PostgreSQL {postgres.installation.version()}, Python {platform.python_version()}, {os.cpu_count()} cores"
        )
        if arguments.json:
            Path(arguments.json).write_text(
                json.dumps({**vars(arguments), **found, "rounds": figures}, indent=1) + "\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
