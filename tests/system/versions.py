"""One cluster in front of both PostgreSQLs that a machine may have: the wheel's 18 and its own 15.

::

    alice ── proxy ── agent ──┬── wheel     PostgreSQL 18
      │                       ├── system    PostgreSQL 15 on Debian 12
      │                       ├── down      nobody listens there
      │                       ├── hostile   a socket of ours, which says what a test wants
  │                       └── secret    the first of them again, with a wrong password
      └────── directly, with a certificate of the cluster's own authority ──▶ wheel, system
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs.keys import new_key, pem, private_pem
from teleport_db.pgwire.messages import SSL_REQUEST
from tests import postgres
from tests.system.raw import Raw, context
from tests.system.support import PATIENCE, STATIC_TOKEN, World, closing_on_failure, free_ports, shared

SOURCES = ("wheel", "system")
#: Whom alice may be in the databases.
USERS = "alice,postgres,ghost,secretive," + "x" * 63
HBA = "hostssl all secretive all scram-sha-256\nhostssl all,replication all all cert\n"
SET_UP = """\
CREATE ROLE alice LOGIN REPLICATION;
CREATE ROLE secretive LOGIN PASSWORD 'it is another one';
GRANT pg_read_server_files, pg_monitor, pg_signal_backend TO alice;
CREATE DATABASE metrics OWNER alice;
CREATE DATABASE alice OWNER alice;
CREATE DATABASE {long};
\\c metrics
GRANT EXECUTE ON FUNCTION pg_read_file(text) TO alice;
""".format(long="x" * 63)


class Hostile:
    """A database server that follows a script, in a thread."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.context: ssl.SSLContext | None = None
        #: What is said before TLS instead of ``S``.
        self.before = b""
        #: Speaks once the startup was read.
        self.speak: Callable[[ssl.SSLSocket], None] = lambda stream: None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            client.settimeout(PATIENCE)
            with client, contextlib.suppress(OSError):
                self._one(client)

    def _one(self, client: socket.socket) -> None:
        if client.recv(8) != SSL_REQUEST:
            return
        client.sendall(self.before or b"S")
        if self.before:
            client.recv(1)
            return
        assert self.context is not None
        with self.context.wrap_socket(client, server_side=True) as stream:
            stream.recv(65536)
            self.speak(stream)
            while stream.recv(65536):
                pass

    def close(self) -> None:
        """Listen no more."""
        self.listener.close()


class Versions(World):
    """The world of this module."""

    def __init__(self) -> None:
        super().__init__(with_postgres=False)
        self.servers: dict[str, Any] = {}
        self.hostile = Hostile()
        self.direct: dict[str, str] = {}
        (self.unused,) = free_ports(1)
        for source in SOURCES:
            if postgres.why_not(source) is None:
                with contextlib.suppress(postgres.Unavailable):
                    self.servers[source] = postgres.PostgresServer(source, settings={"wal_level": "logical"}).start()
        if not self.servers:
            raise SkipTest(postgres.why_not("any") or "no PostgreSQL starts here")
        self.postgres = next(iter(self.servers.values()))

    def close(self) -> None:
        """Stop everything."""
        self.hostile.close()
        servers = [server for server in self.servers.values() if server is not self.postgres]
        super().close()
        for server in servers:
            server.stop()

    def prepare(self) -> None:
        """Certificates, databases, the agent."""
        self.start_auth()
        self.tctl("auth", "sign", "--format=db", "--host=localhost,127.0.0.1", "--out=server", "--ttl=8760h")
        files = [(self.directory / f"server.{end}").read_bytes() for end in ("crt", "key", "cas")]
        for server in self.servers.values():
            server.use_tls(*files, hba=HBA)
            server.sql(SET_UP)
        self.hostile.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.hostile.context.load_cert_chain(self.directory / "server.crt", self.directory / "server.key")
        ports = {source: server.port for source, server in self.servers.items()}
        ports |= {"down": self.unused, "hostile": self.hostile.port, "secret": self.postgres.port}
        self.file("password", "not this one\n").chmod(0o600)
        databases = "".join(
            f"  - name: {name}\n    protocol: postgres\n    uri: localhost:{port}\n" for name, port in ports.items()
        )
        databases += f"    credentials: {{users: {{secretive: {{password_file: {self.directory}/password}}}}}}\n"
        self.file(
            "db.yaml",
            f"teleport:\n  data_dir: {self.directory}/agent\n  auth_token: {STATIC_TOKEN}\n"
            f'  auth_servers: ["localhost:{self.web}"]\n'
            f"auth_service: {{enabled: no}}\nproxy_service: {{enabled: no}}\n"
            f"db_service:\n  enabled: yes\n  databases:\n{databases}",
        )
        self.agent_process = self.start("agent", "teleport", "start", "--debug", "--insecure", "--config=db.yaml")
        self.agent_process.until_up()
        self.until_served(*ports)
        names = "metrics,alice,postgres," + "x" * 63
        alice = self.person("alice").invited(f"--db-names={names}", f"--db-users={USERS}")
        alice.login()
        for name in ports:
            alice.tsh("db", "login", "--db-user=alice", "--db-name=metrics", name)
        self.direct = self._direct()

    def events(self, **only: object) -> list[dict[str, Any]]:
        """As ``tctl audit ls`` has them, from the log's files: that is quicker."""
        files = sorted((self.directory / "data" / "audit").glob("*.jsonl"))
        lines = [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found = [json.loads(line)["event"] for line in lines if not line.startswith('{"checkpoint"')]
        return [event for event in found if all(event.get(key) == value for key, value in only.items())]

    def _direct(self) -> dict[str, str]:
        """Settings for a connection that goes to the database itself."""
        key = new_key()
        certificate = self.authority("db_client").issue(
            key.public_key(), common_name="alice", now=time.time(), ttl=3600.0, server=False
        )
        paths = {"sslcert": pem(certificate), "sslkey": private_pem(key)}
        for name, data in paths.items():
            path = self.directory / f"direct.{name}"
            path.write_bytes(data)
            path.chmod(0o600)
        root = self.directory / "direct.root"
        root.write_text(self.authority("db").certificate_pem.decode())
        return {"sslrootcert": str(root), **{name: str(self.directory / f"direct.{name}") for name in paths}}


def build() -> Versions:
    """The cluster."""
    with closing_on_failure(Versions()) as world:
        world.prepare()
    return world


class Base(SynchronousTestCase):
    """Tests against one of the servers.

    :cvar source: ``wheel`` or ``system``.
    """

    source = "wheel"
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        if self.source not in self.world.servers:
            raise SkipTest(postgres.why_not(self.source) or f"PostgreSQL of {self.source} does not start here")
        self.server = self.world.servers[self.source]
        self.alice = self.world.person("alice")
        self.settings = self.alice.settings(self.source)
        self.version = int(self.server.installation.version().split(".")[0])

    def connect(self, *, direct: bool = False, certificate: bool = True, service: str = "") -> Raw:
        """TLS to the proxy, or to the server itself."""
        if direct:
            raw, settings = Raw(self.server.port), self.world.direct
        else:
            raw, settings = Raw(self.world.web), self.alice.settings(service or self.source)
        self.addCleanup(raw.close)
        return raw.secure(_context(tuple(settings.items()), certificate))

    def session(self, *, direct: bool = False, version: int = 3 << 16, **parameters: str) -> Raw:
        """A session of alice's in metrics."""
        raw = self.connect(direct=direct)
        said = raw.startup(version, **{"user": "alice", "database": "metrics", **parameters})
        self.assertEqual(said[-1][0], b"Z", said)
        return raw

    def both(self) -> Iterator[Raw]:
        """The same session directly and through the proxy."""
        for direct in (True, False):
            yield self.session(direct=direct)


_contexts: dict[Any, ssl.SSLContext] = {}


def _context(settings: tuple[tuple[str, str], ...], certificate: bool) -> ssl.SSLContext:
    made = _contexts.get((settings, certificate))
    if made is None:
        made = _contexts[settings, certificate] = context(dict(settings), certificate=certificate)
    return made


def direct_settings(world: Versions, server: Any) -> Mapping[str, str]:
    """libpq's settings of a direct connection."""
    return {**world.direct, "host": "localhost", "port": str(server.port), "sslmode": "verify-full"}
