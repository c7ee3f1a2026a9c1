"""A cluster whose auth, proxy and agent are a process each, started with a fuse."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from tests import postgres
from tests.system.crash.fuse import POINTS
from tests.system.crash.ledger import Ledger
from tests.system.support import STATIC_TOKEN, STRICT, Process, World, closing_on_failure, until

AGENT, AUTH, PROXY = "agent", "auth", "proxy"
VICTIMS = (AGENT, AUTH, PROXY)
assert set(VICTIMS) == set(POINTS)
#: The database service; alice's sessions are recorded as usual, carol's role is strict.
SERVICE, PEOPLE = "aurora", ("alice", "carol")

AUTH_FILE = """\
teleport: {{nodename: auth, data_dir: {directory}/data}}
auth_service:
  enabled: yes
  cluster_name: test
  listen_addr: 127.0.0.1:{auth}
  tokens: ["proxy,node,database:{token}"]
  audit: {{max_file: 256KiB, sinks: [{{name: copy, type: file, path: {directory}/copy.jsonl}}]}}
proxy_service: {{enabled: no, public_addr: "localhost:{web}"}}
"""

PROXY_FILE = """\
teleport:
  nodename: proxy
  data_dir: {directory}/proxy
  auth_token: {token}
  auth_servers: ["localhost:{auth}"]
auth_service: {{enabled: no}}
proxy_service:
  enabled: yes
  web_listen_addr: 127.0.0.1:{web}
  tunnel_listen_addr: 127.0.0.1:{tunnel}
  public_addr: localhost:{web}
"""

#: log_statement: what the server ran is in its own log.
DATABASE = """\
CREATE USER alice; CREATE USER carol; CREATE DATABASE metrics OWNER alice; GRANT alice TO carol;
ALTER USER alice SET log_statement = 'all'; ALTER USER carol SET log_statement = 'all';
ALTER SYSTEM SET log_line_prefix = '@%c@'; SELECT pg_reload_conf();
"""
TABLES = "CREATE TABLE written (word text); CREATE TABLE copied (n int, word text)"


class Apart(World):
    """Three processes, PostgreSQL, and people who are logged in.

    :param spares: agents beside the one that is killed, which serve the same database.
    """

    def __init__(self, spares: int = 0) -> None:
        super().__init__()
        self._spares = [f"spare{number}" for number in range(spares)]
        self.running: dict[str, Process] = {}
        #: Of all clients that there ever were here.
        self.ledger = Ledger()
        places = {"directory": self.directory, "auth": self.auth_port, "web": self.web, "tunnel": self.tunnel}
        self.file("auth.yaml", AUTH_FILE.format(token=STATIC_TOKEN, **places))
        self.file("proxy.yaml", PROXY_FILE.format(token=STATIC_TOKEN, **places))

    def build(self) -> None:
        """Start everything and log everybody in."""
        for victim in (AUTH, PROXY):
            self.begin(victim).until_up()
        self.certify()
        self.postgres.sql(DATABASE)
        self.postgres.sql(TABLES, database="metrics", user="alice")
        self.begin(AGENT).until_up()
        for spare in self._spares:
            self.start(spare, "teleport", "start", *self._agent(spare)).until_up()
        self.until_served(SERVICE, agents=1 + len(self._spares))
        self.tctl("create", "-f", str(self.file("strict.yaml", STRICT)))
        for name, roles in zip(PEOPLE, ("access", "access,strict"), strict=True):
            person = self.person(name).invited("--db-names=metrics", f"--db-users={name}")
            self.tctl("users", "update", name, f"--set-roles={roles}")
            person.login()
            person.tsh("db", "login", f"--db-user={name}", "--db-name=metrics", SERVICE)

    def begin(self, victim: str, point: str = "", passes: int = 0) -> Process:
        """Start one of the three, with a fuse that burns at once or when it is told to."""
        words = {
            AUTH: ["--config=auth.yaml"],
            PROXY: ["--config=proxy.yaml", "--insecure"],
            AGENT: self._agent(SERVICE),
        }[victim]
        orders = [point, str(passes)] if point else []
        process = self.start(
            *(victim, "python", "-m", "tests.system.crash.fuse", victim, str(self._orders(victim)), *orders),
            *("--", "start", *words),
        )
        self.running[victim] = process
        return process

    def _agent(self, data: str) -> list[str]:
        """Flags of an agent with this data directory."""
        return [
            *("--roles=db", f"--auth-server=localhost:{self.web}", f"--token={STATIC_TOKEN}", "--insecure"),
            *(f"--data-dir={self.directory}/{data}", f"--nodename={data}", f"--db-name={SERVICE}"),
            *("--db-protocol=postgres", f"--db-uri=localhost:{self.postgres.port}"),
        ]

    def _orders(self, victim: str) -> Path:
        return self.directory / f"{victim}.orders"

    def order(self, victim: str, point: str, passes: int) -> None:
        """Have the process end at the point, when it has come there so many times; now if there is none."""
        self._orders(victim).write_text(f"{point} {passes}\n")
        self.running[victim].signal(signal.SIGUSR1)

    # The spools.

    def spools(self) -> list[Path]:
        """The agent's, those of the spares, and the proxy's."""
        agents = [self.directory / name / "spool" / "db" for name in (SERVICE, *self._spares)]
        return [*agents, self.directory / "proxy" / "spool" / "proxy"]

    def newest(self) -> list[int]:
        """The last number of each spool."""
        return [newest_number(spool) for spool in self.spools()]

    def acknowledged(self) -> list[int]:
        """The last number of each spool that auth has."""
        return [acknowledged_number(spool) for spool in self.spools()]

    def until_shipped(self) -> None:
        """Wait until auth has everything that is in the spools now."""
        newest = self.newest()

        def shipped() -> bool:
            return all(last <= known for last, known in zip(newest, self.acknowledged(), strict=True))

        until(shipped, lambda: f"the spools to be shipped: {newest} is in them, {self.acknowledged()} acknowledged")


def newest_number(spool: Path) -> int:
    """The last number in a spool's files, of whole lines."""
    segments = sorted(path for path in spool.glob("*.jsonl") if path.stem.isdigit())
    if not segments:
        return 0
    return int(segments[-1].stem) - 1 + segments[-1].read_bytes().count(b"\n")


def acknowledged_number(spool: Path) -> int:
    """What its file says of it; what was before the first segment counts as acknowledged."""
    with contextlib.suppress(OSError, ValueError):
        known = int((spool / "acknowledged").read_bytes()[:20] or b"0")
        first = min(int(path.stem) for path in spool.glob("*.jsonl") if path.stem.isdigit())
        return max(known, first - 1)
    return 0


def build(spares: int = 0) -> Apart:
    """The cluster, up."""
    if postgres.skip:
        raise AssertionError(postgres.skip)
    with closing_on_failure(Apart(spares)) as world:
        world.build()
    return world
