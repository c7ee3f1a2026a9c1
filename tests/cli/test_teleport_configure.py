"""``teleport db configure``: files for flags, the IAM policy, attaching it, and the walk through the guide's steps."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import ssl
import struct
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.cli import teleport
from teleport_db.config import check, parse
from teleport_db.config.model import Address, Amazon, Database
from teleport_db.db import awslookup
from teleport_db.db.aws import Session, Sessions
from teleport_db.db.awsbundle import BundleFiles
from teleport_db.db.awscheck import Check, allows
from teleport_db.db.awslookup import allowed_to_connect, identity_of
from teleport_db.errors import UsageError
from tests import aws
from tests.aws import ACCOUNT, REGION
from tests.net.material import Material
from tests.rds import RDS

CLUSTER = f"main.cluster-abcdefghijkl.{REGION}.rds.amazonaws.com:5432"


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        aws.use(self, aws.environment(self.directory))
        self.patch(teleport.sys, "stdin", io.StringIO())  # type: ignore[attr-defined]

    def run_program(self, *words: str, fails: int = 0) -> str:
        """The output of a command in this process, or its complaint: one or two lines."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = teleport.main(["db", "configure", *words])
        self.assertEqual(code, fails, (words, out.getvalue(), err.getvalue()))
        self.assertLessEqual(len(err.getvalue().splitlines()), 2)
        self.assertNotIn(aws.SECRET, out.getvalue() + err.getvalue())
        return out.getvalue() + err.getvalue()

    def file(self, text: str) -> str:
        path = self.directory / "db.yaml"
        path.write_text(text)
        return str(path)


class CreateTests(Case):
    """``create``: what it prints is a configuration."""

    def test_database(self) -> None:
        """Every flag reaches its key."""
        text = self.run_program(
            *("create", "--name=aurora", f"--uri={CLUSTER}", '--labels=env=dev,team="a, b",v=[1m:/bin/uname -r]'),
            *("--token=/t", "--proxy=proxy.example.com:3080", "--ca-pin=sha256:" + "0" * 64, "--nodename=n"),
            *("--data-dir=/d", "--ca-cert=/ca.pem"),
        )
        config = parse(text, "created")
        check(config)
        [database] = config.db.databases
        self.assertEqual((database.name, str(database.uri), database.ca_cert_file), ("aurora", CLUSTER, "/ca.pem"))
        self.assertEqual(database.aws.region, REGION)
        self.assertEqual(dict(database.static_labels), {"env": "dev", "team": "a, b"})
        self.assertEqual(database.dynamic_labels["v"].command, ("/bin/uname", "-r"))
        shared = config.teleport
        self.assertEqual((shared.auth_token, shared.nodename, shared.data_dir), ("/t", "n", "/d"))
        self.assertEqual(str(shared.auth_servers[0]), "proxy.example.com:3080")
        self.assertTrue(config.db.enabled and not config.auth.enabled and not config.proxy.enabled)

    def test_discovery(self) -> None:
        """Regions and tags; without tags, every database."""
        config = parse(self.run_program("create", "--rds-discovery=us-west-1,us-east-1", "--rds-tags=env=dev"), "")
        check(config)
        [matcher] = config.db.aws
        self.assertEqual((matcher.regions, dict(matcher.tags)), (("us-west-1", "us-east-1"), {"env": ("dev",)}))
        self.assertEqual(
            dict(parse(self.run_program("create", "--rds-discovery=us-west-1"), "").db.aws[0].tags), {"*": ("*",)}
        )

    def test_output(self) -> None:
        """Into a file that is not there yet, with what to do next."""
        path = self.directory / "new.yaml"
        words = ("create", "--name=one", "--uri=db.example.com:5432", f"--output={path}")
        self.assertIn(f"teleport start --config={path}", self.run_program(*words))
        self.assertIsNone(parse(path.read_text(), "").db.databases[0].amazon)
        self.run_program(*words, fails=1)

    def test_refused(self) -> None:
        for words, said in (
            ((), "give --name and --uri"),
            (("--name=one",), "--db-uri is missing"),
            (("--name=One", "--uri=a:1"), "--db-name"),
            (("--rds-discovery=mars",), "not an AWS region"),
            (("--name=one", f"--uri={CLUSTER}", "--aws-region=us-east-1"), "is in us-west-1"),
            (("--rds-discovery=us-west-1", "--rds-tags=x"), "--rds-tags"),
        ):
            self.assertIn(said, self.run_program("create", *words, fails=2))


class CloudCase(Case):
    """With an account of moto's: an instance, and a cluster of Aurora's."""

    def setUp(self) -> None:
        super().setUp()
        self.moto = aws.moto(self)
        rds = self.moto.client("rds")
        rds.create_db_instance(
            DBInstanceIdentifier="one",
            DBInstanceClass="db.t3.micro",
            Engine="postgres",
            AllocatedStorage=20,
            EnableIAMDatabaseAuthentication=True,
            MasterUsername="master",
            MasterUserPassword="not-a-secret",
        )
        self.instance_id = rds.describe_db_instances(DBInstanceIdentifier="one")["DBInstances"][0]["DbiResourceId"]
        self.iam = self.moto.client("iam")

    def create_cluster(self) -> dict[str, Any]:
        """A cluster ``main`` of the instance ``main-1``."""
        rds = self.moto.client("rds")
        created: dict[str, Any] = rds.create_db_cluster(
            DBClusterIdentifier="main",
            Engine="aurora-postgresql",
            EnableIAMDatabaseAuthentication=True,
            MasterUsername="master",
            MasterUserPassword="not-a-secret",
        )["DBCluster"]
        rds.create_db_instance(
            DBInstanceIdentifier="main-1",
            DBInstanceClass="db.t3.medium",
            Engine="aurora-postgresql",
            DBClusterIdentifier="main",
        )
        return created

    def address(self, name: str) -> str:
        return f"--uri={name}.abc.{REGION}.rds.amazonaws.com:5432"


class PolicyTests(CloudCase):
    """``aws print-iam``: the policy of the guide."""

    def resources(self, *words: str) -> list[str]:
        document = json.loads(self.run_program("aws", "print-iam", *words))
        [statement] = document["Statement"]
        self.assertEqual(
            (document["Version"], statement["Effect"], statement["Action"]), ("2012-10-17", "Allow", ["rds-db:connect"])
        )
        found: list[str] = statement["Resource"]
        return found

    def test_instance(self) -> None:
        """``db-`` and its account."""
        arn = f"arn:aws:rds-db:{REGION}:{ACCOUNT}:dbuser:{self.instance_id}"
        self.assertTrue(self.instance_id.startswith("db-"))
        self.assertEqual(self.resources(self.address("one")), [f"{arn}/*"])
        self.assertEqual(
            self.resources(self.address("one"), "--db-user=alice", "--db-user=bob"), [f"{arn}/alice", f"{arn}/bob"]
        )

    def test_cluster(self) -> None:
        """``cluster-``, also for an instance of the cluster and for its readers."""
        cluster = self.create_cluster()
        wanted = [f"arn:aws:rds-db:{REGION}:{ACCOUNT}:dbuser:{cluster['DbClusterResourceId']}/*"]
        self.assertIn(":dbuser:cluster-", wanted[0])
        for uri in (
            f"--uri={cluster['Endpoint']}:5432",
            f"--uri={cluster['ReaderEndpoint']}:5432",
            self.address("main-1"),
        ):
            self.assertEqual(self.resources(uri), wanted)

    def test_file(self) -> None:
        """All databases of a configuration, or one of them."""
        cluster = self.create_cluster()
        aws_section = f"{{region: {REGION}, rds: {{cluster_id: main}}}}"
        path = self.file(
            f"""\
db_service:
  databases:
  - {{name: one, protocol: postgres, uri: "one.abc.{REGION}.rds.amazonaws.com:5432"}}
  - {{name: alias, protocol: postgres, uri: "db.example.com:5432", aws: {aws_section}}}
  - {{name: other, protocol: postgres, uri: "other.example.com:5432"}}
"""
        )
        self.assertEqual(len(self.resources(f"--config={path}")), 2)
        [alias] = self.resources(f"--config={path}", "--name=alias")
        self.assertIn(cluster["DbClusterResourceId"], alias)
        self.assertIn(
            "no database of Amazon's", self.run_program("aws", "print-iam", f"-c{path}", "--name=other", fails=1)
        )

    def test_without_aws(self) -> None:
        """Who knows the resource id and the account need not ask anybody."""
        aws.use(self, aws.environment(self.directory, credentials=False))
        said = self.resources(self.address("x"), "--resource-id=db-ABC", "--account-id=111122223333")
        self.assertEqual(said, [f"arn:aws:rds-db:{REGION}:111122223333:dbuser:db-ABC/*"])

    def test_refused(self) -> None:
        """What is not there, what is not told, no credentials, nobody there."""
        ask = ("aws", "print-iam")
        self.assertIn(f"no instance nine in {REGION}", self.run_program(*ask, self.address("nine"), fails=1))
        uri = f"--uri=nine.cluster-abc.{REGION}.rds.amazonaws.com:5432"
        self.assertIn("no cluster nine", self.run_program(*ask, uri, fails=1))
        own = ("--uri=db.example.com:5432", f"--aws-region={REGION}")
        self.assertIn("--resource-id", self.run_program(*ask, *own, fails=2))
        self.assertIn("which database?", self.run_program(*ask, fails=2))
        os.environ["AWS_ENDPOINT_URL"] = aws.NOWHERE
        self.assertIn("AWS could not be reached", self.run_program(*ask, self.address("one"), fails=1))
        aws.use(self, aws.environment(self.directory, self.moto.url, credentials=False))
        self.assertIn("there are no AWS credentials", self.run_program(*ask, self.address("one"), fails=1))


class BootstrapTests(CloudCase):
    """``bootstrap``: the policy made, and attached."""

    def attached(self, kind: str, name: str) -> dict[str, Any]:
        """The document of the one policy that is attached."""
        listed = getattr(self.iam, f"list_attached_{kind}_policies")(**{f"{kind.title()}Name": name})
        [policy] = listed["AttachedPolicies"]
        version = self.iam.get_policy(PolicyArn=policy["PolicyArn"])["Policy"]["DefaultVersionId"]
        answer = self.iam.get_policy_version(PolicyArn=policy["PolicyArn"], VersionId=version)
        document: dict[str, Any] = answer["PolicyVersion"]["Document"]
        return document

    def test_user(self) -> None:
        """Named, and confirmed beforehand; what was allowed stays so when more is added, however often."""
        self.patch(awslookup, "MAX_VERSIONS", 2)
        self.iam.create_user(UserName="teleport")
        words = ("bootstrap", "--attach-to-user=teleport", "--confirm")
        self.assertIn("is attached to the user teleport", self.run_program(*words, self.address("one")))
        first = self.attached("user", "teleport")["Statement"][0]["Resource"]
        for user in ("a", "b", "c"):
            self.run_program(*words, self.address("one"), f"--db-user={user}")
        resources = self.attached("user", "teleport")["Statement"][0]["Resource"]
        self.assertEqual(resources[0], first[0])
        self.assertEqual(len(resources), 4)
        self.run_program(*words, self.address("one"))
        self.assertEqual(self.attached("user", "teleport")["Statement"][0]["Resource"], resources)

    def test_role(self) -> None:
        """By name, by ARN, or because the agent assumes it."""
        for name, flag in (
            ("r1", "--attach-to-role=r1"),
            ("r2", f"--attach-to-role=arn:aws:iam::{ACCOUNT}:role/r2"),
            ("r3", f"--assume-role-arn=arn:aws:iam::{ACCOUNT}:role/r3"),
        ):
            self.iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
            self.run_program("bootstrap", "--confirm", self.address("one"), flag)
            self.assertIn(self.instance_id, self.attached("role", name)["Statement"][0]["Resource"][0])

    def test_present_identity(self) -> None:
        """Nobody named: whose credentials these are."""
        self.iam.create_user(UserName="moto")  # as whom moto takes everybody
        self.run_program("bootstrap", "--confirm", self.address("one"))
        self.assertIn(self.instance_id, self.attached("user", "moto")["Statement"][0]["Resource"][0])

    def test_manual(self) -> None:
        """Everything to do, and nothing done."""
        said = self.run_program("bootstrap", "--manual", self.address("one"), "--attach-to-user=teleport")
        for words in (
            f":dbuser:{self.instance_id}/*",
            "aws iam create-policy --policy-name teleport-database-access",
            f"aws iam attach-user-policy --user-name teleport --policy-arn arn:aws:iam::{ACCOUNT}:policy/",
            "GRANT rds_iam TO alice;",
        ):
            self.assertIn(words, said)
        self.assertEqual(self.iam.list_policies(Scope="Local")["Policies"], [])

    def test_not_confirmed(self) -> None:
        """Without a terminal there is nobody to ask, so nothing is changed."""
        said = self.run_program("bootstrap", self.address("one"), "--attach-to-user=teleport", fails=2)
        self.assertIn("nothing was changed", said)
        self.assertEqual(self.iam.list_policies(Scope="Local")["Policies"], [])
        self.assertIn("not both", self.run_program("bootstrap", "--attach-to-user=a", "--attach-to-role=b", fails=2))


class CheckTests(CloudCase):
    """``aws check``: the guide's steps."""

    def setUp(self) -> None:
        super().setUp()
        ca = Material("Amazon RDS CA")
        (self.directory / "ca.pem").write_text(ca.pem)
        pair = self.directory / "pair.pem"
        pair.write_bytes(ca.pair("rds", "localhost"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        backend = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(backend.close)
        threading.Thread(target=self.backend, args=(backend,), daemon=True).start()
        secrets = {aws.KEY: aws.SECRET}
        self.rds = RDS(context, secrets=secrets, backend=backend.getsockname()[:2], region=REGION, iam=("alice",))
        self.addCleanup(self.rds.close)

    @staticmethod
    def backend(listener: socket.socket) -> None:
        """A database that lets in whoever comes so far."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    client.recv(1024)
                    client.sendall(struct.pack("!cii", b"R", 8, 0) + b"Z\0\0\0\5I")
                    client.recv(1024)

    def steps(self, *words: str, fails: int = 0, **keys: str) -> dict[str, tuple[str, str]]:
        """State and text of each step."""
        aws_section = keys.pop("aws", f"{{region: {REGION}, rds: {{instance_id: one}}}}")
        more = "".join(f", {key}: {value}" for key, value in keys.items())
        path = self.file(
            f"""\
teleport: {{data_dir: {self.directory}}}
db_service:
  databases:
  - {{name: one, protocol: postgres, uri: "localhost:{self.rds.port}", aws: {aws_section}{more}}}
"""
        )
        said = self.run_program("aws", "check", f"--config={path}", "--format=json", *words, fails=fails)
        return {one["step"]: (one["state"], one["text"]) for one in json.loads(said)}

    def allow(self) -> None:
        self.iam.create_user(UserName="moto")
        self.run_program("bootstrap", "--confirm", self.address("one"))

    def test_all_there(self) -> None:
        """Every step is, the login too."""
        self.allow()
        found = self.steps("--db-user=alice", ca_cert_file=f"{self.directory}/ca.pem")
        self.assertEqual({state for state, _ in found.values()}, {"ok"}, found)
        self.assertEqual(
            list(found),
            [
                *("AWS credentials", "identity", "clock", "database", "IAM authentication"),
                *("policy", "certificates", "TLS", "login"),
            ],
        )
        self.assertIn("alice", found["login"][1])

    def test_text(self) -> None:
        """A table for people; without a user no login is tried."""
        self.allow()
        path = self.file(
            f"""\
db_service:
  rds_ca_url: https://127.0.0.1:9
  databases:
  - {{name: database, protocol: postgres, uri: "one.abc.{REGION}.rds.amazonaws.com:5432"}}
"""
        )
        out = self.run_program("aws", "check", f"--config={path}", f"--data-dir={self.directory}", fails=1)
        self.assertEqual(out.splitlines()[0].split(), ["Database", "Step", "State", "Found,", "or", "to", "do"])
        self.assertRegex(out, r"\ndatabase IAM authentication +ok +switched on\n")
        self.assertRegex(out, r"\ndatabase certificates +MISSING ")

    def test_missing(self) -> None:
        """Which one, and what to do."""
        self.iam.create_user(UserName="moto")
        ca = f"{self.directory}/ca.pem"
        found = self.steps("--db-user=carol", fails=1, ca_cert_file=ca)
        self.assertEqual(found["policy"][0], "MISSING")
        self.assertIn("teleport db configure bootstrap", found["policy"][1])
        self.assertIn('GRANT rds_iam TO "carol"', found["login"][1])
        self.rds.ahead = 16 * 60.0
        self.assertIn("its clock", self.steps("--db-user=alice", fails=1, ca_cert_file=ca)["login"][1])
        (self.directory / "ca.pem").write_text(Material("somebody else").pem)
        found = self.steps("--db-user=alice", fails=1, ca_cert_file=ca)
        self.assertIn("certificate", found["TLS"][1].lower())
        self.assertEqual(found["login"][0], "skipped")

    def test_clock(self) -> None:
        """A clock that is not AWS's."""
        database = Database("one", Address("localhost", 1), aws=Amazon(REGION))
        for ahead, said in ((1000.0, "ahead of"), (-1000.0, "behind")):
            found = Check(
                database,
                database.aws,
                sessions=Sessions(),
                files=BundleFiles(str(self.directory), fetch=lambda url: b""),
                read_file=lambda path: b"",
                now=lambda ahead=ahead: time.time() + ahead,  # type: ignore[misc]
            )
            [clock] = [step for step in found.steps() if step.title == "clock"]
            self.assertEqual(clock.state, "MISSING")
            self.assertIn(said, clock.text)

    def test_not_enabled(self) -> None:
        self.moto.client("rds").modify_db_instance(DBInstanceIdentifier="one", EnableIAMDatabaseAuthentication=False)
        found = self.steps(fails=1, ca_cert_file=f"{self.directory}/ca.pem")
        self.assertEqual(found["IAM authentication"][0], "MISSING")
        self.assertEqual(found["login"], ("skipped", "give --db-user to have a login tried"))

    def test_not_there(self) -> None:
        """No instance, no server, no credentials: what rests on it is skipped."""
        self.rds.close()
        ca = f"{self.directory}/ca.pem"
        found = self.steps(fails=1, ca_cert_file=ca, aws=f"{{region: {REGION}, rds: {{instance_id: nine}}}}")
        self.assertIn("no instance nine", found["database"][1])
        self.assertEqual(found["policy"][0], "skipped")
        self.assertIn("cannot be reached", found["TLS"][1])
        aws.use(self, aws.environment(self.directory, self.moto.url, credentials=False))
        found = self.steps(fails=1, ca_cert_file=ca)
        self.assertIn("there are none", found["AWS credentials"][1])
        self.assertEqual(found["identity"][0], "skipped")

    def test_bundle(self) -> None:
        """Without a file of its own, the region's; where it cannot be had, the name of the file to put there."""
        target = self.directory / "aws" / f"{REGION}-bundle.pem"
        target.parent.mkdir()
        target.write_text((self.directory / "ca.pem").read_text())
        found = self.steps(fails=1)
        self.assertEqual((found["certificates"], found["TLS"][0]), (("ok", str(target)), "ok"))


class PolicyLogicTests(SynchronousTestCase):
    """Policies read by hand, where IAM's simulation may not be asked."""

    def test_allows(self) -> None:
        arn = "arn:aws:rds-db:us-west-1:123456789012:dbuser:db-ABC/alice"

        def statement(effect: str = "Allow", action: Any = "rds-db:connect", resource: Any = "*", **more: Any) -> Any:
            return {"Statement": [{"Effect": effect, "Action": action, "Resource": resource} | more]}

        for documents, expected in (
            ([], False),
            ([{}], False),
            ([statement()], True),
            ([statement(action=["RDS-DB:Connect"], resource=[arn])], True),
            ([statement(action="rds-db:*", resource=arn.replace("alice", "*"))], True),
            ([statement(action="rds:*")], False),
            ([statement(resource=arn.replace("alice", "bob"))], False),
            ([statement(resource=arn.replace("alice", "[a]lice"))], False),
            ([statement(), statement("Deny", resource=arn)], False),
            ([{"Statement": {"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"}}], True),
            ([{"Statement": {"Effect": "Allow", "Action": "*", "NotResource": arn}}], False),
        ):
            self.assertEqual(allows(documents, "rds-db:connect", arn), expected, documents)

    def test_simulated(self) -> None:
        """IAM's simulation is asked about the role behind a session."""
        import boto3
        from botocore.stub import Stubber

        iam = boto3.session.Session("a", "b", region_name=REGION).client("iam")
        identity = identity_of(f"arn:aws:sts::{ACCOUNT}:assumed-role/teleport/i-0abc")
        asked = {
            "PolicySourceArn": f"arn:aws:iam::{ACCOUNT}:role/teleport",
            "ActionNames": ["rds-db:connect"],
            "ResourceArns": ["arn"],
        }
        for decision, expected in (("allowed", True), ("implicitDeny", False), ("explicitDeny", False)):
            answer = {"EvaluationResults": [{"EvalActionName": "rds-db:connect", "EvalDecision": decision}]}
            with Stubber(iam) as stub:
                stub.add_response("simulate_principal_policy", answer, asked)
                session = Session(None, REGION, 0.0, {"iam": iam})
                self.assertEqual(allowed_to_connect(session, identity, "arn"), expected)

    def test_identities(self) -> None:
        """Users and roles by their ARNs; to the account's owner nothing can be attached."""
        for arn, kind, name in (
            (f"arn:aws:iam::{ACCOUNT}:user/a/b/teleport", "user", "teleport"),
            (f"arn:aws-cn:iam::{ACCOUNT}:role/teleport", "role", "teleport"),
            (f"arn:aws:sts::{ACCOUNT}:assumed-role/teleport/i-0abc", "role", "teleport"),
        ):
            found = identity_of(arn)
            self.assertEqual((found.kind, found.name, found.account), (kind, name, ACCOUNT))
        for arn in (f"arn:aws:iam::{ACCOUNT}:root", "arn", f"arn:aws:sts::{ACCOUNT}:federated-user/x"):
            self.assertRaises(UsageError, identity_of, arn)
