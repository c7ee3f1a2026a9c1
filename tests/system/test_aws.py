"""Amazon's databases through the whole system: psql, tokens, what is said when one is refused, and discovery.

The agents' AWS is moto's server of this process; their RDS is :mod:`tests.rds`, a real PostgreSQL that takes IAM
tokens only.  Nothing leaves the machine.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests import aws, postgres
from tests.net.material import Material
from tests.rds import RDS, BundleServer
from tests.system.support import STATIC_TOKEN, Process, Said, World, closing_on_failure, shared

ROLE = f"arn:aws:iam::{aws.ACCOUNT}:role/teleport"
DISCOVERED = f"found-{aws.REGION}-{aws.ACCOUNT}"


class AWSWorld(World):
    """A cluster with two agents for Amazon's databases: one from the guide's flags, one from a file."""

    def __init__(self) -> None:
        super().__init__()
        self.environment = {name: value for name, value in self.environment.items() if not name.startswith("AWS_")}
        self.closing: list[Any] = []
        self.moto = aws.Moto()
        self.closing.append(self.moto)
        amazon, stranger = Material("Amazon RDS CA"), Material("somebody else")
        self.file("amazon.pem", amazon.pem)
        self.file("stranger.pem", stranger.pem)
        self.environment |= aws.environment(self.directory, self.moto.url)
        self.environment["SSL_CERT_FILE"] = str(self.directory / "amazon.pem")
        self.rds, self.impostor = (self.front(ca) for ca in (amazon, stranger))
        self.bundles = BundleServer(self.tls(amazon), amazon.pem.encode)
        self.closing.append(self.bundles)

    def tls(self, ca: Material) -> ssl.SSLContext:
        """A server's context for localhost."""
        path = self.directory / "pair.pem"
        path.write_bytes(ca.pair("rds", "localhost"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        path.unlink()
        return context

    def front(self, ca: Material) -> RDS:
        """A stand-in for RDS."""
        found = RDS(
            self.tls(ca),
            secrets={aws.KEY: aws.SECRET},
            backend=("127.0.0.1", self.postgres.port),
            region=aws.REGION,
            iam=("alice", "bob"),
        )
        self.closing.append(found)
        return found

    def close(self) -> None:
        """Stop everything."""
        super().close()
        for one in self.closing:
            one.close()

    def from_flags(self) -> Process:
        """The guide's command of a database service, with the stand-in's address and authority."""
        return self.agent(
            "aurora",
            *(f"--token={STATIC_TOKEN}", "--insecure", f"--db-aws-region={aws.REGION}", "--labels=env=dev"),
            f"--db-ca-cert={self.directory}/amazon.pem",
            uri=f"localhost:{self.rds.port}",
        )

    def from_file(self) -> Process:
        """Databases by what is special about each, and discovery."""
        databases = "".join(
            f"""\
  - name: {name}
    protocol: postgres
    uri: localhost:{rds.port}
    aws: {{region: {aws.REGION}{more}}}
"""
            for name, rds, more in (
                ("bundled", self.rds, ""),
                ("impostor", self.impostor, ""),
                ("role", self.rds, f", assume_role_arn: '{ROLE}', external_id: outside"),
            )
        )
        self.file(
            "db.yaml",
            f"""\
teleport:
  data_dir: {self.directory}/second
  auth_token: {STATIC_TOKEN}
  auth_servers: ["localhost:{self.web}"]
db_service:
  enabled: yes
  rds_ca_url: {self.bundles.url}
  databases:
{databases}
  aws:
  - {{types: [rds], regions: [{aws.REGION}], tags: {{env: dev}}, period: 1s}}
auth_service: {{enabled: no}}
proxy_service: {{enabled: no}}
""",
        )
        return self.start("second", "teleport", "start", "--debug", "--insecure", "--config=db.yaml")


def build() -> AWSWorld:
    """The agents, and alice who may be anybody."""
    with closing_on_failure(AWSWorld()) as world:
        world.start_auth()
        world.postgres.no_tls(hba="host all all 127.0.0.1/32 trust\n")
        world.postgres.sql("CREATE ROLE rds_iam; CREATE USER alice; CREATE USER bob; CREATE USER carol;")
        world.postgres.sql("GRANT rds_iam TO alice")
        agents = world.from_flags(), world.from_file()
        world.agents = tuple(agent.until_up() for agent in agents)  # type: ignore[attr-defined]
        world.until_served("aurora", "bundled", "impostor", "role")
        alice = world.person("alice").invited("--db-names=postgres", "--db-users=alice,bob,carol")
        alice.login()
        for name in ("aurora", "bundled", "impostor", "role"):
            alice.tsh("db", "login", "--db-name=postgres", name)
    return world  # type: ignore[no-any-return]


class AmazonTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.rds: RDS = self.world.rds
        self.alice = self.world.person("alice")

    def ask(self, service: str = "aurora", user: str = "alice", *, fails: bool = False) -> Said:
        return self.alice.psql(self.alice.service(service, user), "SELECT current_user, 6 * 7", fails=fails)

    @contextlib.contextmanager
    def believing(self, **values: Any) -> Iterator[None]:
        """Meanwhile the stand-in believes something else of itself."""
        before = {name: getattr(self.rds, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self.rds, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self.rds, name, value)

    def secret(self) -> None:
        """No token and no key is in what processes wrote."""
        logs = "".join(agent.said for agent in self.world.agents)
        for words in ("X-Amz-Signature", aws.SECRET):
            self.assertNotIn(words, logs)

    def test_guide(self) -> None:
        """psql, with the guide's commands; the token is signed for what was dialled."""
        self.assertEqual(self.ask().out, "alice|42\n")
        self.assertIn(f"localhost:{self.rds.port}/?Action=connect&DBUser=alice".encode(), self.rds.heard[-1])
        self.assertEqual(self.ask(user="bob").out, "bob|42\n")
        self.world.agents[0].until_said(f"with an IAM token for {aws.REGION}")
        self.secret()

    def test_bundle(self) -> None:
        """Amazon's certificates are fetched once, and kept where the agent finds them again."""
        self.assertEqual(self.ask("bundled").out, "alice|42\n")
        self.assertEqual(self.ask("bundled", "bob").out, "bob|42\n")
        self.assertEqual(self.world.bundles.paths, [f"/{aws.REGION}/{aws.REGION}-bundle.pem"])
        kept = self.world.directory / "second" / "aws" / f"{aws.REGION}-bundle.pem"
        self.assertIn("BEGIN CERTIFICATE", kept.read_text())

    def test_refused(self) -> None:
        """Another host, another user, another region, 16 minutes later, another account: RDS's words and ours."""
        for values in (
            {"host": "other.example"},
            {"user": "bob"},
            {"region": "eu-west-1"},
            {"ahead": 16 * 60.0},
            {"secrets": {aws.KEY: "another"}},
        ):
            before = len(self.rds.refused)
            with self.believing(**values):
                said = self.ask(fails=True)
            self.assertIn('FATAL:  PAM authentication failed for user "alice"', said.err)
            self.assertIn("HINT:  Amazon does not take the IAM token", said.err)
            self.assertIn(f"rds-db:connect on this database in {aws.REGION}", said.err)
            self.assertEqual(len(self.rds.refused), before + 1, values)
        self.assertEqual(self.ask().out, "alice|42\n")
        events = self.world.until_recorded(event="db.session.start", success=False, db_service="aurora")
        self.assertIn("needs rds-db:connect", events[0]["error"])
        self.secret()

    def test_without_rds_iam(self) -> None:
        """A user to whom nobody granted rds_iam is asked for another kind of password."""
        said = self.ask(user="carol", fails=True)
        self.assertIn('GRANT rds_iam TO "carol"', said.err)
        [event, *_] = self.world.until_recorded(event="db.session.start", success=False, db_user="carol")
        self.assertIn("GRANT rds_iam", event["error"])

    def test_impostor(self) -> None:
        """A server that Amazon's authority does not vouch for hears nothing: no token, not even a name."""
        said = self.ask("impostor", fails=True)
        self.assertIn("does not trust the server", said.err)
        self.assertIn(f"Amazon's bundle for {aws.REGION}", said.err)
        self.assertGreater(self.world.impostor.connections, 0)
        self.assertEqual(b"".join(self.world.impostor.heard), b"")
        [event, *_] = self.world.until_recorded(event="db.session.start", success=False, db_service="impostor")
        self.assertIn("does not trust the server", event["error"])

    def test_role(self) -> None:
        """A role is taken, and its credentials sign; the stand-in knows them not, and says what RDS would."""
        said = self.ask("role", fails=True)
        self.assertIn("PAM authentication failed", said.err)
        self.assertIn("unknown access key", self.rds.refused[-1])
        self.assertIn(b"X-Amz-Security-Token", self.rds.heard[-1])

    def test_discovery(self) -> None:
        """An instance that AWS has is listed, and gone when AWS has it no more."""
        rds = self.world.moto.client("rds")
        rds.create_db_instance(
            DBInstanceIdentifier="found",
            DBInstanceClass="db.t3.micro",
            Engine="postgres",
            MasterUsername="master",
            MasterUserPassword="not-a-secret",
            AllocatedStorage=20,
            EnableIAMDatabaseAuthentication=True,
            Tags=[{"Key": "env", "Value": "dev"}],
        )
        self.world.until_served(DISCOVERED)
        listed = self.alice.tsh("db", "ls", "--format=json").json()
        [found] = [one for one in listed if one["name"] == DISCOVERED]
        self.assertEqual((found["labels"]["env"], found["labels"]["endpoint-type"]), ("dev", "instance"))
        rds.delete_db_instance(DBInstanceIdentifier="found", SkipFinalSnapshot=True)
        self.world.agents[1].until_said(f"database service {DISCOVERED} is gone")
        self.assertEqual(self.ask().out, "alice|42\n")


class UnreachableTests(SynchronousTestCase):
    """Agents without an AWS."""

    skip = postgres.skip

    def test_nobody_there(self) -> None:
        """No credentials, and a role with nobody to give it: psql and the audit log have the words."""
        world = shared(build)
        environment = {"AWS_ENDPOINT_URL": aws.NOWHERE, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        world.processes.remove(world.agents[1])
        world.agents[1].stop()
        with_role = world.start(
            *("third", "teleport", "start", "--debug", "--insecure", "--config=db.yaml"),
            environment={"AWS_ENDPOINT_URL": aws.NOWHERE},
        ).until_up()
        world.until_served("role")
        alice = world.person("alice")
        said = alice.psql(alice.service("role", "alice"), "SELECT 1", fails=True)
        self.assertIn('no IAM token for database service "role": AWS could not be reached', said.err)
        with_role.stop()
        bare = world.start(
            *("fourth", "teleport", "start", "--debug", "--insecure", "--config=db.yaml"), environment=environment
        ).until_up()
        world.until_served("bundled")
        said = alice.psql(alice.service("bundled", "alice"), "SELECT 1", fails=True)
        self.assertIn("there are no AWS credentials on this agent's machine", said.err)
        bare.until_said("databases cannot be discovered")
        [event, *_] = world.until_recorded(event="db.session.start", success=False, db_service="bundled")
        self.assertIn("there are no AWS credentials", event["error"])
