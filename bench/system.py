"""The system that is measured: real processes on loopback, TLS with client certificates on every hop.

::

    pgbench, psql ──────────────────────── direct ───────────────────────▶ PostgreSQL
                  ── proxy ──▶ auth + proxy ══ tunnel ══▶ agent ──────────▶     "

Everything shares this machine's cores.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from teleport_db.certs.authority import Authority
from teleport_db.certs.keys import new_key, pem, private_pem
from tests import postgres
from tests.system.support import STATIC_TOKEN, Process, World

#: What is measured first, and what all else is compared with.
DIRECT, PROXY = "direct", "proxy"
#: The database service and the database inside the server.
SERVICE, DATABASE = "bench", "bench"
DAY = 86400.0

SETUP = """\
CREATE USER alice;
CREATE DATABASE bench OWNER alice;
"""


class Trouble(Exception):
    """A measurement cannot be made; the text says why."""


class System(World):
    """A cluster, its agents, PostgreSQL, and alice who connects to it.

    :param source: of PostgreSQL: ``wheel``, ``system`` or ``any``.
    :param connections: that PostgreSQL takes.
    """

    def __init__(self, source: str = "any", *, connections: int = 120, scale: int = 5) -> None:
        super().__init__(with_postgres=False)
        settings = {"max_connections": str(connections), "shared_buffers": "256MB", "max_wal_size": "4GB"}
        self.postgres = postgres.PostgresServer(source, settings=settings)
        self.postgres.start()
        self._scale = scale
        self._authority = Authority.create("db_client", "bench", now=time.time())
        self.agents: list[Process] = []
        #: Length of a run of pgbench.
        self.seconds = 3

    def build(self) -> None:
        """Start everything, log alice in, fill the tables."""
        self.start_auth()
        self.add_agent()
        self.certify()
        self.postgres.sql(SETUP)
        self.alice = self.person("alice").invited(f"--db-names={DATABASE}", "--db-users=alice")
        self.alice.login()
        self.until_served(SERVICE)
        self.log_in(SERVICE)
        self._identify()
        self.postgres.sql(
            "CREATE UNLOGGED TABLE wide AS SELECT repeat('x', 999) AS t FROM generate_series(1, 300000);"
            "CREATE UNLOGGED TABLE narrow AS SELECT repeat('y', 39) AS t FROM generate_series(1, 2000000);"
            "CREATE UNLOGGED TABLE sink (t text);",
            database=DATABASE,
            user="alice",
        )
        local = f"host={self.postgres.socket_directory} port={self.postgres.port} user=alice dbname={DATABASE}"
        self.pgbench(local, "-i", "-q", "-s", str(self._scale), inside=True)

    def start_auth(self) -> Process:
        """auth and proxy as installed: without ``--debug``, which costs."""
        replaced = {**self.addresses(), "0.0.0.0:3023": f"127.0.0.1:{self.ssh}"}
        replaced["teleport.example.com:3080"] = f"localhost:{self.web}"
        self.seed("auth-proxy.yaml", replaced)
        self.auth = self.start("auth", "teleport", "start", "--config=auth-proxy.yaml").until_up()
        return self.auth

    def add_agent(self, service: str = SERVICE, *, name: str = "", program: str = "teleport") -> Process:
        """Another agent.

        :param name: of its process and its data directory.
        :param program: in whose place something may stand that measures what auditing costs.
        """
        name = name or f"agent{len(self.agents)}"
        process = self.start(
            *(name, *([program, "start"] if program == "teleport" else ["python", "-m", program])),
            *("--roles=db", f"--auth-server=localhost:{self.web}", f"--token={STATIC_TOKEN}", "--insecure"),
            *(f"--data-dir={self.directory}/{name}", f"--nodename={name}", f"--db-name={service}"),
            *("--db-protocol=postgres", f"--db-uri=localhost:{self.postgres.port}"),
        )
        self.agents.append(process)
        return process.until_up()

    def log_in(self, service: str) -> None:
        """``tsh db login``."""
        self.alice.tsh("db", "login", "--db-user=alice", f"--db-name={DATABASE}", service)

    def _identify(self) -> None:
        """A certificate for the direct connections, as long-lived and of the same kind as the agent's."""
        key = new_key()
        public = key.public_key()
        made = self._authority.issue(public, common_name="alice", now=time.time(), ttl=DAY, server=False)
        self._secret("direct.crt", pem(made))
        self._secret("direct.key", private_pem(key))
        certificate, private, cas = ((self.directory / f"server.{end}").read_bytes() for end in ("crt", "key", "cas"))
        self.postgres.use_tls(certificate, private, cas + self.direct_authority)

    @property
    def direct_authority(self) -> bytes:
        """What vouches for the direct connections' certificate, PEM."""
        return self._authority.certificate_pem

    def _secret(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        return path

    # Ways to the database.

    def conninfo(self, way: str, service: str = SERVICE) -> str:
        """libpq's connection string."""
        if way == DIRECT:
            return self.at_port(self.postgres.port)
        settings = self.alice.settings(service)
        return " ".join(f"{key}={value}" for key, value in settings.items())

    def at_port(self, port: int, **more: object) -> str:
        """As :meth:`conninfo`, straight to what listens on a port of loopback."""
        here = self.directory
        words = {
            "host": "localhost",
            "hostaddr": "127.0.0.1",
            "port": port,
            "user": "alice",
            "dbname": DATABASE,
            "sslmode": "require",
            "sslcert": here / "direct.crt",
            "sslkey": here / "direct.key",
            "gssencmode": "disable",
            **more,
        }
        return " ".join(f"{key}={value}" for key, value in words.items())

    # Clients.

    def pgbench(self, conninfo: str, *options: str, inside: bool = False) -> str:
        """What pgbench says.

        :param inside: as the server's own user, who may use its local socket.
        """
        account = self.postgres.account
        said = subprocess.run(
            [*self._program("pgbench"), *options, conninfo],
            cwd="/" if inside else self.directory,
            env=self.alice.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **(account.popen() if inside and account else {}),
        )
        if said.returncode:
            raise Trouble(f"pgbench failed: {said.stderr.strip()[-800:]}")
        return said.stdout

    def _program(self, name: str) -> list[str]:
        words = self.client(name)
        if shutil.which(words[-1]) is None:
            raise Trouble(f"{name} is not installed (on Debian: apt-get install postgresql-client)")
        return words

    def timed(self, conninfo: str, sql: str) -> float:
        """Seconds that psql needs for one statement or one of its commands, without the connecting."""
        said = subprocess.run(
            [*self._program("psql"), "-X", "-v", "ON_ERROR_STOP=1", conninfo],
            input=f"\\timing on\n{sql}\n",
            cwd=self.directory,
            env=self.alice.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"^Time: ([\d.]+) ms", said.stdout, re.MULTILINE)
        if said.returncode or found is None:
            raise Trouble(f"psql failed: {said.stderr.strip()[-800:]}")
        return float(found.group(1)) / 1000

    def connect(self, conninfo: str) -> Any:
        """A connection of psycopg's."""
        try:
            import psycopg
        except ImportError as error:
            raise Trouble("psycopg is not installed: pip install 'teleport_db[test]'") from error
        return psycopg.connect(conninfo, autocommit=True)

    # What processes use.

    @property
    def middle(self) -> list[Process]:
        """The processes between client and database."""
        return [self.auth, *self.agents]

    def resident(self, field: str = "VmRSS") -> int:
        """Bytes of memory of the processes between client and database.

        :param field: of ``/proc/PID/status``: ``VmRSS`` now, ``VmHWM`` at most so far.
        """
        return sum(resident(process.pid, field) for process in self.middle)

    def forget_peaks(self) -> None:
        """From now on ``VmHWM`` counts anew."""
        for process in self.middle:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def resident(pid: int, field: str = "VmRSS") -> int:
    """A process's memory in bytes, by ``/proc/PID/status``."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise Trouble(f"this system does not tell {field} of a process")
    return int(found.group(1)) * 1024


@contextlib.contextmanager
def running(source: str, *, connections: int = 120, scale: int = 5) -> Iterator[System]:
    """A system that is up, and goes with its files."""
    system = System(source, connections=connections, scale=scale)
    try:
        system.build()
        yield system
    finally:
        system.close()
