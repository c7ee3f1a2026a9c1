"""One process with everything: from flags, from a file, under twistd; and a proxy with a certificate of one's own."""

from __future__ import annotations

import os
import signal
import time

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs.authority import Authority
from teleport_db.certs.keys import new_key, pem, private_pem
from tests import postgres
from tests.system.support import Process, World, closing_on_failure, shared

#: Only a file can say where to listen.
PORTS = """\
auth_service:
  listen_addr: 127.0.0.1:{auth}
proxy_service:
  web_listen_addr: 127.0.0.1:{web}
  tunnel_listen_addr: 127.0.0.1:{tunnel}
  public_addr: localhost:{web}
"""


class OneProcess(World):
    """A cluster that is started in different ways on one data directory."""

    def write_ports(self, more: str = "") -> str:
        """A file with the listen addresses only."""
        text = PORTS.format(auth=self.auth_port, web=self.web, tunnel=self.tunnel)
        return str(self.file("ports.yaml", text + more))

    def from_flags(self) -> Process:
        """As the guide's second step does it."""
        return self.start(
            "flags",
            *("teleport", "start", "--roles=proxy,auth,db", "--db-name=aurora", "--db-protocol=postgres"),
            *(f"--db-uri=localhost:{self.postgres.port}", f"--data-dir={self.directory}/data"),
            *("--cluster-name=test", f"--pid-file={self.directory}/pid", "-c", self.write_ports()),
        ).until_up()

    def stop_all(self) -> list[int]:
        """Stop what runs; the exit statuses."""
        running = [process for process in self.processes if process.code is None]
        return [process.stop() for process in running]


def build() -> OneProcess:
    """One process from flags, and alice."""
    with closing_on_failure(OneProcess()) as world:
        process = world.from_flags()
        world.until_served("aurora")
        world.certify()
        world.postgres.sql("CREATE USER alice")
        alice = world.person("alice").invited("root", "--db-names=postgres", "--db-users=alice")
        alice.login()
        alice.tsh("db", "login", "--db-user=alice", "--db-name=postgres", "aurora")
        process.stop()
    return world


class OneProcessTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.alice = self.world.person("alice")
        self.addCleanup(self.world.stop_all)

    def assertWorks(self) -> None:
        """psql gets through."""
        self.world.until_served("aurora")
        said = self.alice.psql(self.alice.service("aurora"), "SELECT current_user")
        self.assertEqual(said.out, "alice\n")

    def test_flags(self) -> None:
        """The guide's command; it ends with 0 and removes its file of the process's id."""
        process = self.world.from_flags()
        self.assertEqual((self.world.directory / "pid").read_text(), f"{process.pid}\n")
        self.assertWorks()
        self.assertEqual(self.world.stop_all(), [0])
        self.assertFalse((self.world.directory / "pid").exists())
        self.assertEqual(os.stat(self.world.directory / "data").st_mode & 0o077, 0)

    def test_file(self) -> None:
        """conf/teleport.yaml with its paths and addresses replaced."""
        world = self.world
        world.seed(
            "teleport.yaml",
            {
                **world.addresses(),
                "localhost:3080": f"localhost:{world.web}",
                'name: "postgres"': 'name: "aurora"',
                "localhost:5432": f"localhost:{world.postgres.port}",
            },
        )
        world.start("file", "teleport", "start", "--config=teleport.yaml").until_up()
        self.assertWorks()
        self.assertEqual(world.stop_all(), [0])

    def test_twistd(self) -> None:
        """The same services under twistd."""
        world = self.world
        file = world.write_ports(
            f"teleport:\n  data_dir: {world.directory}/data\n  nodename: test\n"
            f"db_service:\n  enabled: yes\n  databases:\n  - name: aurora\n    protocol: postgres\n"
            f"    uri: localhost:{world.postgres.port}\n"
        )
        world.start("twistd", "twistd", "-n", "--pidfile=", "teleport-db", "--config", file).until_up()
        self.assertWorks()
        # twistd ends by the signal that it was stopped with.
        self.assertEqual(world.stop_all(), [-signal.SIGTERM])

    def test_twistd_refuses(self) -> None:
        """A file that cannot be used, or a port that is taken, ends twistd with words and status 1."""
        world = self.world
        said = world.run("twistd", "-n", "--pidfile=", "teleport-db", "--config", "/nowhere.yaml", fails=True)
        self.assertEqual(said.code, 1)
        self.assertIn("/nowhere.yaml: No such file or directory; give a file with --config", said.text)
        file = world.file("bad.yaml", "auth_service:\n  lisen_addr: 127.0.0.1:1\n")
        said = world.run("twistd", "-n", "--pidfile=", "teleport-db", "--config", str(file), fails=True)
        self.assertIn(f"{file}:2: auth_service.lisen_addr: unknown key", said.text)
        world.from_flags()
        taken = world.write_ports(f"teleport:\n  data_dir: {world.directory}/other\n")
        second = world.start("twistd-second", "twistd", "-n", "--pidfile=", "teleport-db", "--config", taken)
        self.assertEqual(second.wait(), 1, second.said)
        self.assertIn("address already in use", second.said)

    def test_own_certificate(self) -> None:
        """With a certificate that clients trust nobody needs --insecure, and psql verifies in full."""
        world = self.world
        now = time.time()
        authority = Authority.create("host", "company", now=now)
        key = new_key()
        certificate = authority.issue(
            key.public_key(), common_name="localhost", now=now, ttl=3600.0, server=True, names=["localhost"]
        )
        trusted = world.file("company.pem", authority.certificate_pem.decode())
        world.file("web.pem", pem(certificate).decode())
        world.file("web.key", private_pem(key).decode())
        more = f"  https_cert_file: {world.directory}/web.pem\n  https_key_file: {world.directory}/web.key\n"
        file = world.write_ports(more)
        world.start(
            *("own", "teleport", "start", "--roles=proxy,auth", f"--data-dir={world.directory}/data"),
            *("--cluster-name=test", "-c", file),
        ).until_up()
        token = world.tctl("tokens", "add", "--type=db", "--format=json").json()["token"]
        agent = [
            *("teleport", "start", "--roles=db", f"--auth-server=localhost:{world.web}", f"--token={token}"),
            *("--db-name=aurora", f"--db-uri=localhost:{world.postgres.port}", f"--data-dir={world.directory}/joined"),
        ]
        world.start("joined", *agent, environment={"SSL_CERT_FILE": str(trusted)}).until_up()
        world.until_served("aurora")
        grace = world.person("grace").invited("--db-names=postgres", "--db-users=alice")
        refused = grace.login("--ttl=1h", fails=True)
        self.assertIn("SSL_CERT_FILE", refused.err)
        grace.environment["SSL_CERT_FILE"] = str(trusted)
        grace.login("--ttl=1h")
        grace.tsh("db", "login", "--db-user=alice", "--db-name=postgres", "aurora")
        self.assertEqual(grace.settings("aurora")["sslmode"], "verify-full")
        self.assertEqual(grace.psql(grace.service("aurora"), "SELECT 1").out, "1\n")

    def test_missing_certificate(self) -> None:
        """A certificate file that is not there is named."""
        world = self.world
        file = world.write_ports("  https_cert_file: /nowhere/web.pem\n  https_key_file: /nowhere/web.key\n")
        said = world.run(
            *(
                "teleport",
                "start",
                "--roles=proxy,auth",
                f"--data-dir={world.directory}/data",
                "--cluster-name=test",
                "-c",
                file,
            ),
            fails=True,
        )
        self.assertEqual(said.code, 1)
        lines = [line for line in said.err.splitlines() if line.startswith(("teleport: ", "ERROR: "))]
        self.assertEqual(len(lines), 1, said.err)
        self.assertIn("/nowhere/web", lines[0])

    def test_remote_administrator(self) -> None:
        """An administrator's tsh login lets tctl work from elsewhere; a plain user's does not."""
        self.world.from_flags()
        heidi = self.world.person("heidi").invited("--roles=access,editor,auditor")
        heidi.login()
        environment = heidi.environment
        proxy = f"--proxy=localhost:{self.world.web}"
        said = self.world.run("tctl", "users", "ls", proxy, environment=environment)
        self.assertIn("heidi", said.out)
        self.assertIn("user.login", self.world.run("tctl", "audit", "ls", proxy, environment=environment).out)
        refused = self.world.run("tctl", "users", "ls", proxy, environment=self.alice.environment, fails=True)
        self.assertEqual(refused.code, 1)
        self.assertEqual(len(refused.errors), 1, refused.err)
