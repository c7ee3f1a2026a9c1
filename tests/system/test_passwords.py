"""A server that wants passwords, through the whole system: psql, what it reads, and what the agent's log says."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.support import STATIC_TOKEN, World, closing_on_failure, shared

SECRET = "correct-horse-battery-staple"
HBA = """\
hostssl all alice all scram-sha-256
hostssl all bob   all md5
hostssl all carol all password
hostssl all all   all cert
"""


def build() -> World:
    """auth and proxy, an agent with passwords for some, alice who may be anybody."""
    with closing_on_failure(World()) as world:
        world.start_auth()
        world.certify()
        pems = ((world.directory / f"server.{end}").read_bytes() for end in ("crt", "key", "cas"))
        world.postgres.use_tls(*pems, hba=HBA)
        for user in ("alice", "bob", "carol", "dave", "erin"):
            world.postgres.sql(f"CREATE ROLE {user} LOGIN PASSWORD '{SECRET}'")
        world.file("password", f"{SECRET}\n").chmod(0o600)
        world.file(
            "db.yaml",
            f"""\
teleport:
  data_dir: {world.directory}/agent
  auth_token: {STATIC_TOKEN}
  auth_servers: ["localhost:{world.web}"]
db_service:
  enabled: yes
  databases:
  - name: aurora
    protocol: postgres
    uri: localhost:{world.postgres.port}
    credentials:
      users:
        alice: {{password_file: {world.directory}/password}}
        bob: {{password_env: PASSWORD_OF_BOB}}
        carol: {{password_file: {world.directory}/password}}
        erin: {{password_file: {world.directory}/missing}}
auth_service: {{enabled: no}}
proxy_service: {{enabled: no}}
""",
        )
        world.passwords_agent = world.start(  # type: ignore[attr-defined]
            *("agent", "teleport", "start", "--debug", "--insecure", "--config=db.yaml"),
            environment={"PASSWORD_OF_BOB": SECRET},
        ).until_up()
        world.until_served("aurora")
        alice = world.person("alice").invited("--db-names=postgres", "--db-users=alice,bob,carol,dave,erin")
        alice.login()
        alice.tsh("db", "login", "--db-name=postgres", "aurora")
    return world


class PasswordTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.alice = self.world.person("alice")
        self.agent = self.world.passwords_agent

    def ask(self, user: str, *, fails: bool = False) -> str:
        """What psql says as this database user."""
        said = self.alice.psql(self.alice.service("aurora", user), "SELECT current_user", fails=fails)
        return said.text.strip()

    def test_everybody(self) -> None:
        """The methods scram-sha-256, md5 and password; from files and the environment."""
        for user in ("alice", "bob", "carol"):
            self.assertEqual(self.ask(user), user)
        self.agent.until_said(f"with the password in {self.world.directory}/password")
        self.agent.until_said("with the password in environment variable PASSWORD_OF_BOB")
        self.assertNotIn(SECRET, self.agent.said)

    def test_wrong(self) -> None:
        """psql reads PostgreSQL's words, the log has the credential, nobody has the secret; a new file is enough."""
        file = self.world.directory / "password"
        self.addCleanup(file.write_text, f"{SECRET}\n")
        file.write_text("wrong-horse-battery-staple\n")
        for user in ("alice", "carol"):
            said = self.ask(user, fails=True)
            self.assertIn(f'FATAL:  password authentication failed for user "{user}"', said)
            self.assertNotIn(str(file), said)
            self.agent.until_said(
                f'password authentication failed for user "{user}" (shown to the database: the password in {file})'
            )
            [event] = self.world.until_recorded(event="db.session.start", success=False, db_user=user)
            self.assertIn("password authentication failed", event["error"])
        file.write_text(f"{SECRET}\n")
        self.assertEqual(self.ask("alice"), "alice")
        self.assertNotIn("horse-battery", self.agent.said)

    def test_none(self) -> None:
        """Who has no password here, and one that cannot be read: in words."""
        self.assertIn('no password for database user "dave"', self.ask("dave", fails=True))
        said = self.ask("erin", fails=True)
        self.assertIn('the password of database user "erin" for database service "aurora" cannot be used', said)
        self.assertIn("No such file or directory", said)
        self.assertNotIn(str(self.world.directory), said)
        self.agent.until_said(f"No such file or directory {self.world.directory}/missing")
