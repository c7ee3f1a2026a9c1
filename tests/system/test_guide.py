"""The guide's walk-through: auth and proxy from a file, agents that join by token, people, psql."""

from __future__ import annotations

import os
import re
import shlex

from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.support import STATIC_TOKEN, World, closing_on_failure, failing, shared, until

DYNAMIC = "[1m:/bin/echo up]"


def build() -> World:
    """auth and proxy, two database services by agents of their own, alice."""
    with closing_on_failure(World()) as world:
        world.start_auth()
        world.certify()
        world.postgres.sql("CREATE USER alice; CREATE USER bob; CREATE DATABASE metrics OWNER alice;")
        pin = world.status()["ca_pins"][0]
        world.file("token", STATIC_TOKEN + "\n")
        aurora = world.agent(
            "aurora", f"--token={STATIC_TOKEN}", f"--ca-pin={pin}", f'--labels=env=test,team="a b",state={DYNAMIC}'
        )
        second = world.agent("second", f"--token={world.directory}/token", "--insecure", "--labels=env=prod")
        aurora.until_up()
        second.until_up()
        world.until_served("aurora", "second")
        alice = world.person("alice").invited("root", "--db-names=postgres,metrics", "--db-users=alice")
        alice.login()
        alice.tsh("db", "login", "aurora")
    return world


class GuideTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.alice = self.world.person("alice")

    def test_query(self) -> None:
        """psql reaches the database as the user and the database it names."""
        said = self.alice.psql(self.alice.service("aurora", "alice", "metrics"), "SELECT current_user, 6 * 7")
        self.assertEqual(said.out, "alice|42\n")

    def test_tsh_status(self) -> None:
        """tsh status names the user, the cluster, the roles and the databases."""
        said = self.alice.tsh("status", "--format=json").json()
        self.assertEqual((said["user"], said["cluster"], said["roles"]), ("alice", "test", ["access"]))
        self.assertIn("aurora", said["databases"])
        self.assertIn("Logged in as: alice", self.alice.tsh("status").out)

    def test_list(self) -> None:
        """tsh db ls has static and dynamic labels, and ``>`` at what is logged in."""

        def listed() -> str:
            text = self.alice.tsh("db", "ls").out
            return text if "state=up" in text else ""

        lines = until(listed, "the dynamic label").splitlines()
        self.assertEqual(lines[0].split(), ["Name", "Description", "Labels", "Connect"])
        self.assertRegex(lines[1], r"^-+ -+ -+ -+$")
        rows = [line for line in lines if "aurora" in line]
        self.assertEqual(len(rows), 1)
        self.assertTrue(rows[0].startswith("> aurora"), rows)
        self.assertIn("env=test,state=up,team=a b", rows[0])
        verbose = self.alice.tsh("db", "ls", "-v").out
        headers = verbose.splitlines()[0].split()
        self.assertEqual(headers, ["Name", "Description", "Protocol", "URI", "Users", "Names", "Labels", "Connect"])
        self.assertIn(f"localhost:{self.world.postgres.port}", verbose)

    def test_administrators_list(self) -> None:
        """tctl db ls has name, protocol, address and labels."""
        lines = self.world.tctl("db", "ls").out.splitlines()
        self.assertEqual(lines[0].split(), ["Name", "Protocol", "Address", "Labels"])
        self.assertTrue(any(line.split()[:2] == ["aurora", "postgres"] for line in lines), lines)

    def test_tctl_status(self) -> None:
        """tctl status prints the cluster, the authorities and the pin."""
        said = self.world.tctl("status").out
        self.assertRegex(said, r"Cluster:?\s+test")
        self.assertIn(self.world.status()["ca_pins"][0], said)

    def test_several_databases(self) -> None:
        """Several databases are logged in at once, and logged out of one by one or all."""
        alice = self.alice
        alice.tsh("db", "login", "--db-user=alice", "--db-name=metrics", "second")
        self.addCleanup(alice.tsh, "db", "login", "aurora")
        self.assertEqual(alice.psql(alice.service("second"), "SELECT current_database()").out, "metrics\n")
        self.assertEqual(alice.psql(alice.service("aurora", "alice", "postgres"), "SELECT 1").out, "1\n")
        settings = alice.settings("second")
        found = [settings[key] for key in ("user", "dbname", "gssencmode")]
        self.assertEqual(found, ["alice", "metrics", "disable"])
        self.assertIn('Logged out of database "second"', alice.tsh("db", "logout", "second").out)
        refused = alice.tsh("db", "logout", "second", fails=True)
        self.assertEqual((refused.code, refused.errors), (1, ["ERROR: you are not logged in to database second"]))
        self.assertEqual(alice.psql(alice.service("aurora", "alice", "postgres"), "SELECT 1").out, "1\n")
        alice.tsh("db", "logout")
        self.assertEqual(alice.settings("aurora"), {})

    def test_environment(self) -> None:
        """tsh db env makes psql work without a service file; tsh db config and connect do too."""
        alice = self.alice
        alice.tsh("db", "login", "--db-user=alice", "--db-name=metrics", "aurora")
        self.addCleanup(alice.tsh, "db", "login", "aurora")
        lines = alice.tsh("db", "env", "aurora").out.splitlines()
        pairs = [shlex.split(line)[1].partition("=") for line in lines]
        variables = {key: value for key, _, value in pairs}
        before = dict(alice.environment)
        alice.environment |= variables
        try:
            said = alice.psql("application_name=env", "SELECT current_database()")
        finally:
            alice.environment = before
        self.assertEqual(said.out, "metrics\n")
        command = alice.tsh("db", "config", "--format=cmd", "aurora").out
        self.assertTrue(command.startswith('psql "service=test-aurora'), command)
        facts = alice.tsh("db", "config", "--format=json", "aurora").json()
        self.assertEqual((facts["user"], facts["database"], facts["port"]), ("alice", "metrics", self.world.web))
        for name in ("ca", "cert", "key"):
            self.assertTrue(os.path.exists(facts[name]), name)
        (alice.home / "bin").mkdir(exist_ok=True)
        psql = alice.home / "bin" / "psql"
        psql.write_text(f'#!/bin/sh\nexec {shlex.join(self.world.client("psql"))} "$@"\n')
        psql.chmod(0o755)
        alice.environment["PATH"] = f"{psql.parent}{os.pathsep}{alice.environment['PATH']}"
        said = alice.tsh("db", "connect", "aurora", typed="SELECT 'through ' || current_user;\n")
        self.assertIn("through alice", said.out)

    def test_recorded(self) -> None:
        """A session is in the audit log: start, query, end, with the fields of compat.md."""
        alice = self.alice
        alice.psql(alice.service("aurora", "alice", "metrics"), "SELECT 'recorded once'")
        (query,) = self.world.until_recorded(event="db.session.query", db_query="SELECT 'recorded once'")
        expected = {
            "code": "TDB02I",
            "user": "alice",
            "cluster_name": "test",
            "db_service": "aurora",
            "db_protocol": "postgres",
            "db_uri": f"localhost:{self.world.postgres.port}",
            "db_name": "metrics",
            "db_user": "alice",
        }
        self.assertEqual({key: query.get(key) for key in expected}, expected)
        self.assertRegex(query["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        until(lambda: self.world.events(sid=query["sid"], event="db.session.end"), "the end of the session")
        session = self.world.events(sid=query["sid"])
        kinds = [event["event"] for event in sorted(session, key=lambda event: event["ei"])]
        self.assertEqual(kinds, ["db.session.start", "db.session.query", "db.session.result", "db.session.end"])

    def test_found_again(self) -> None:
        """By its words, as a session of one's own, replayed; and the log with it is what was written."""
        alice, world = self.alice, self.world
        alice.psql(alice.service("aurora", "alice", "metrics"), "SELECT 'found again', no_such_column", fails=True)
        (query,) = world.until_recorded(event="db.session.query", db_query="SELECT 'found again', no_such_column")
        until(lambda: world.events(sid=query["sid"], event="db.session.end"), "the end of the session")
        shown = world.tctl("audit", "search", "no_such_column").out.splitlines()
        self.assertEqual(len(shown), 3, shown)
        self.assertIn(" 42703 ", shown[2])
        listed = alice.tsh("sessions", "ls", "--format=json").json()
        self.assertEqual([found["errors"] for found in listed if found["sid"] == query["sid"]], [1])
        self.assertIn("-> 42703", alice.tsh("play", query["sid"]).out)
        (world.directory / "kept").write_text(world.tctl("audit", "checkpoint").out)
        said = world.tctl("audit", "verify", f"--checkpoint={world.directory}/kept").out
        self.assertIn("The audit log is whole", said)

    def test_token_works_once(self) -> None:
        """The command that tctl tokens add prints joins; with another data directory it is refused."""
        world = self.world
        said = world.tctl(
            *("tokens", "add", "--type=db", "--db-name=dynamic", "--db-protocol=postgres"),
            f"--db-uri=localhost:{world.postgres.port}",
        )
        self.assertIn("This token will expire in 1h0m.", said.out)
        printed = re.search(r"  (teleport start(?:.*\\\n)*.*)", said.out)
        assert printed is not None, said.out
        words = shlex.split(printed.group(1).replace("\\\n", " "))
        agent = world.start("dynamic", *words, f"--data-dir={world.directory}/dynamic")
        self.addCleanup(agent.stop)
        agent.until_up()
        world.until_served("dynamic")
        self.assertEqual(os.stat(world.directory / "dynamic").st_mode & 0o077, 0)
        again = world.start("again", *words, f"--data-dir={world.directory}/again")
        self.assertEqual(again.wait(), 1)
        lines = [line for line in again.said.splitlines() if line.startswith("teleport: ")]
        self.assertEqual(len(lines), 1, again.said)
        self.assertIn("refused to let this process join", lines[0])
        # Joined is joined: the same data directory needs no token.
        agent.kill()
        words = [word for word in words if not word.startswith("--token")]
        back = world.start("dynamic", *words, f"--data-dir={world.directory}/dynamic")
        self.addCleanup(back.stop)
        back.until_up()

    def test_scope(self) -> None:
        """A token made for one database does not let its agent serve another one."""
        world = self.world
        token = world.tctl("tokens", "add", "--type=db", "--db-name=mine", "--format=json").json()["token"]
        agent = world.agent("mine", f"--token={token}", "--insecure", database="other")
        self.addCleanup(agent.stop)
        agent.until_said("presence could not be announced")
        self.assertNotIn("other", world.tctl("db", "ls").out)

    def test_tokens_listed(self) -> None:
        """tctl tokens ls shows a prefix of each token, and the static one never expires."""
        lines = self.world.tctl("tokens", "ls").out.splitlines()
        self.assertEqual(lines[0].split(), ["Token", "Type", "Labels", "Expiry", "Time", "(UTC)"])
        static = [line for line in lines if line.startswith("cbde")]
        self.assertEqual(len(static), 1)
        self.assertTrue(static[0].endswith("never"))
        self.assertNotIn(STATIC_TOKEN, "\n".join(lines))

    def test_from_file(self) -> None:
        """The database service of conf/db.yaml joins, with its paths and addresses replaced."""
        world = self.world
        world.seed(
            "db.yaml",
            {
                "/var/lib/teleport-db": f"{world.directory}/from-file",
                "teleport.example.com:3080": f"localhost:{world.web}",
                "postgres-aurora-instance-1.xxx.us-east-1.rds.amazonaws.com:5432": f"localhost:{world.postgres.port}",
                'name: "aurora"': 'name: "filed"',
                '# ca_pin: "sha256:..."': f'ca_pin: "{world.status()["ca_pins"][0]}"',
                "    aws:\n      region: us-east-1\n": "",
            },
        )
        agent = world.start("db-file", "teleport", "start", "--debug", "--config=db.yaml")
        self.addCleanup(agent.stop)
        agent.until_up()
        world.until_served("filed")
        self.alice.tsh("db", "login", "filed")
        self.addCleanup(self.alice.tsh, "db", "logout", "filed")
        self.assertEqual(self.alice.psql(self.alice.service("filed", "alice", "metrics"), "SELECT 1").out, "1\n")
        listed = self.alice.tsh("db", "ls").out
        self.assertIn("AWS Aurora instance of PostgreSQL 13.0", listed)

    def test_two_agents(self) -> None:
        """Two agents of one database: one row; when one is killed new sessions go through the other."""
        world, alice = self.world, self.alice
        agents = [
            world.agent(f"twin-{number}", f"--token={STATIC_TOKEN}", "--insecure", database="twin") for number in (1, 2)
        ]
        for agent in agents:
            self.addCleanup(agent.stop)
            agent.until_up()
        world.until_served("twin", agents=2)
        until(lambda: "twin" in alice.tsh("db", "ls").out, "the twins")
        rows = [line for line in alice.tsh("db", "ls").out.splitlines() if "twin" in line]
        self.assertEqual(len(rows), 1, rows)
        alice.tsh("db", "login", "twin")
        self.addCleanup(alice.tsh, "db", "logout", "twin")
        service = alice.service("twin", "alice", "metrics")
        self.assertEqual(alice.psql(service, "SELECT 1").out, "1\n")
        agents[0].kill()
        for _ in range(6):
            self.assertEqual(alice.psql(service, "SELECT 1").out, "1\n")
        rows = [line for line in alice.tsh("db", "ls").out.splitlines() if "twin" in line]
        self.assertEqual(len(rows), 1, rows)
        agents[1].kill()
        said = alice.psql(service, "SELECT 1", fails=True)
        self.assertIn('no agent of database service "twin"', said.err)

    def test_identity_file(self) -> None:
        """An identity file works where no login is."""
        world = self.world
        robot = world.person("robot")
        world.tctl("auth", "sign", "--format=file", "--user=alice", "--out=robot.pem", "--ttl=1h")
        self.assertEqual(os.stat(world.directory / "robot.pem").st_mode & 0o777, 0o600)
        file = str(world.directory / "robot.pem")
        proxy = f"--proxy=localhost:{world.web}"
        self.assertIn("aurora", robot.tsh("--identity", file, proxy, "db", "ls").out)
        robot.tsh("--identity", file, proxy, "db", "login", "--db-user=alice", "--db-name=metrics", "aurora")
        self.assertEqual(robot.psql(robot.service("aurora"), "SELECT current_user").out, "alice\n")
        self.assertEqual(robot.settings("aurora")["sslmode"], "verify-full")

    def test_role_change(self) -> None:
        """What tctl create and rm change counts for the next session; get shows it."""
        world = self.world
        role = world.file(
            "role.yaml",
            """\
kind: role
version: v3
metadata:
  name: developer
spec:
  allow:
    db_labels:
      env: ["test"]
    db_names: ["metrics"]
    db_users: ["bob"]
""",
        )
        self.assertIn("'developer'", world.tctl("create", "-f", str(role)).out)
        bob = world.person("bob").invited("--roles=developer")
        bob.login()
        listed = bob.tsh("db", "ls").out
        self.assertIn("aurora", listed)
        self.assertNotIn("second", listed)
        bob.tsh("db", "login", "aurora")
        service = bob.service("aurora", "bob", "metrics")
        self.assertEqual(bob.psql(service, "SELECT current_user").out, "bob\n")
        self.assertIn("db_names", world.tctl("get", "role/developer").out)
        role.write_text(role.read_text().replace('["metrics"]', '["other"]'))
        world.tctl("create", "--force", "-f", str(role))
        said = failing(lambda: bob.psql(service, "SELECT 1", fails=None))
        self.assertIn('role "developer" does not allow database "metrics"', said.err)
        users = world.tctl("users", "ls").out
        self.assertRegex(users, r"bob +developer")
        self.assertEqual(world.tctl("get", "user/bob", "--format=json").json()[0]["metadata"]["name"], "bob")
        world.tctl("users", "rm", "bob")
        self.assertNotIn("bob", world.tctl("users", "ls").out)
        said = failing(lambda: bob.tsh("db", "login", "aurora", fails=None))
        self.assertEqual(len(said.errors), 1, said.err)
        world.tctl("rm", "role/developer")

    def test_logout(self) -> None:
        """tsh logout leaves no key, no certificate and no section."""
        carol = self.world.person("carol").invited("--db-names=metrics", "--db-users=alice")
        carol.login()
        carol.tsh("db", "login", "second")
        self.assertEqual(carol.psql(carol.service("second", "alice", "metrics"), "SELECT 1").out, "1\n")
        carol.tsh("logout")
        left = [path.name for path in (carol.home / "tsh").rglob("*") if path.is_file()]
        self.assertEqual([name for name in left if name != ".lock"], [])
        self.assertEqual(carol.settings("second"), {})
        refused = carol.tsh("db", "ls", fails=True)
        self.assertEqual(refused.code, 1)
        self.assertIn("you are not logged in, run: tsh login --proxy=", refused.err)
