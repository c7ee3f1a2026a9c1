"""Roles as a person meets them: what psql says, what tctl explains, what replicates and what does not."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.support import STATIC_TOKEN, Person, Said, World, closing_on_failure, run, shared

ROLES = """\
kind: role
version: v3
metadata: {name: developer}
spec:
  allow:
    db_labels: {env: test}
    db_names: [metrics]
    db_users: [alice, app]
---
kind: role
version: v3
metadata: {name: backup}
spec:
  options: {max_db_connections: 2, client_idle_timeout: 8h, max_session_ttl: 2h}
  allow:
    db_labels: {env: test}
    db_names: [replication, metrics]
    db_users: [keeper]
"""

EXPECTATIONS = """\
kind: access_test
version: v1
spec:
  expect:
  - allow: {user: alice, db: aurora, db_user: [alice, app], db_name: metrics}
  - deny: {user: alice, db: aurora, db_user: [keeper, postgres], db_name: metrics}
  - allow: {user: keeper, db: aurora, db_user: keeper, replication: yes}
"""


def build() -> World:
    """auth and proxy, an agent; alice, who develops, and keeper, who keeps copies."""
    with closing_on_failure(World()) as world:
        world.logins = {}
        world.start_auth()
        world.certify()
        files = ((world.directory / f"server.{end}").read_bytes() for end in ("crt", "key", "cas"))
        rules = [f"hostssl {what} all {net} cert\n" for what in ("all", "replication") for net in ("::/0", "0.0.0.0/0")]
        world.postgres.use_tls(*files, hba="".join(rules))
        world.postgres.sql(
            "CREATE USER app; CREATE USER alice IN ROLE app; CREATE USER keeper REPLICATION; CREATE DATABASE metrics;"
        )
        world.agent("aurora", f"--token={STATIC_TOKEN}", "--insecure", "--labels=env=test").until_up()
        world.until_served("aurora")
        world.tctl("create", "-f", str(world.file("roles.yaml", ROLES)))
        for name, role in (("alice", "developer"), ("keeper", "backup")):
            person = world.person(name).invited(f"--roles={role}")
            world.logins[name] = person.login().out
            person.tsh("db", "login", f"--db-user={name}", "--db-name=metrics", "aurora")
    return world


class AccessTests(SynchronousTestCase):
    """One cluster for all of it."""

    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.alice, self.keeper = self.world.person("alice"), self.world.person("keeper")

    def explained(self, user: str, db_user: str, *more: str, fails: bool = False) -> Said:
        return self.world.tctl("access", "explain", user, "--db=aurora", f"--db-user={db_user}", *more, fails=fails)

    def test_refusal(self) -> None:
        """psql, tctl access explain and a test of roles say the same; the log has each role's say."""
        words = (
            'access to db "aurora" as user "postgres" denied: role "developer" does not allow database user '
            '"postgres"; ask an administrator for "postgres" in db_users of it'
        )
        said = self.alice.psql(self.alice.service("aurora", "postgres"), "SELECT 1", fails=True)
        self.assertIn(f"FATAL:  {words}", said.err)
        self.assertIn(f"Refused: {words}", self.explained("alice", "postgres", "--db-name=metrics", fails=True).out)
        (event,) = self.world.until_recorded(event="db.session.start", user="alice", success=False)
        self.assertIn('role "developer": database user "postgres" is not in it', event["error"])
        self.assertIn("\nAllowed.\n", self.explained("alice", "alice", "--db-name=metrics").out)
        listed = self.world.tctl("access", "ls", "alice").out
        self.assertRegex(listed, r"aurora +env=test +alice, app +metrics")
        self.assertRegex(self.alice.tsh("db", "ls", "-v").out, r"aurora .* alice,app +metrics +env=test")
        file = str(self.world.file("expectations.yaml", EXPECTATIONS))
        self.assertEqual(self.world.tctl("access", "test", "-f", file).out, "All 5 expectations hold.\n")
        # From elsewhere, a user asks about himself and nobody else.
        hers = {"environment": self.alice.environment}
        remote = ("tctl", f"--proxy=localhost:{self.world.web}", "access")
        self.assertEqual(self.world.run(*remote, "ls", "alice", **hers).out, listed)
        self.assertIn('"read" on "user"', self.world.run(*remote, "ls", "keeper", fails=True, **hers).err)

    def test_row_07_other_users(self) -> None:
        """PGOPTIONS becomes whom the role names, and nobody else."""
        command = (self.alice.service("aurora"), "SELECT current_user")
        self.alice.environment["PGOPTIONS"] = "-c role=app"
        self.addCleanup(self.alice.environment.pop, "PGOPTIONS")
        self.assertEqual(self.alice.psql(*command).out, "app\n")
        self.alice.environment["PGOPTIONS"] = "--role=keeper"
        said = self.alice.psql(*command, fails=True)
        self.assertIn('does not allow database user "keeper", to which the connection\'s parameters would', said.err)

    def test_row_04_replication(self) -> None:
        """A base backup with its WAL, for whom the role says replication; for nobody else."""
        self.backup(self.keeper)
        self.assertTrue((self.keeper.home / "copy" / "backup_manifest").exists())
        said = self.backup(self.alice, fails=True)
        self.assertIn('role "developer" does not allow replication connections; ask', said.err)
        self.world.until_recorded(event="db.session.start", user="keeper", success=True)

    def backup(self, person: Person, *, fails: bool = False) -> Said:
        words = self.world.client("pg_basebackup")
        words += ["--checkpoint=fast", "--wal-method=stream", "-D", "copy", "-d", person.service("aurora")]
        return run(words, cwd=person.home, environment=person.environment, fails=fails)

    def test_limits(self) -> None:
        """Each says whose it is: of the login, and of the sessions."""
        self.assertIn('Shortened:    role "backup" allows 2h0m0s (max_session_ttl)', self.world.logins["keeper"])
        service = self.keeper.service("aurora")
        nested = f"\\! {' '.join(self.world.client('psql'))} -X '{service}' -c 'SELECT 1'"
        first = f"SELECT pg_sleep(0);\n\\! {' '.join(self.world.client('psql'))} -X '{service}' -f inner.sql\n"
        (self.keeper.home / "inner.sql").write_text(f"SELECT 2;\n{nested}\n")
        (self.keeper.home / "outer.sql").write_text(first)
        said = self.keeper.psql(service, "", "-f", "outer.sql")
        self.assertIn(
            'you have 2 sessions open at this agent, which is all that role "backup" allows (max_db_connections)',
            said.err,
        )
