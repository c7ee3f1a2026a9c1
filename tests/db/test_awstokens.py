"""IAM tokens: signed for what is dialled, used again for less than their life, and what is said when there are none."""

from __future__ import annotations

import datetime
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.config.model import Address, Amazon, Database
from teleport_db.db.aws import CLOCK, Session, Sessions, Source, code_of, explain
from teleport_db.db.awsbundle import BundleFiles, Bundles
from teleport_db.db.awstokens import AWS_SECONDS, KEEP_SECONDS, AmazonCredentials, advice
from teleport_db.db.backend import DatabaseRefused
from teleport_db.errors import AuthenticationFailed, DatabaseUnreachable, TeleportDBError
from teleport_db.interfaces import ICredentialSource
from tests import aws, sigv4
from tests.cluster import authority

HOST = "main.cluster-abcdefghijkl.us-west-1.rds.amazonaws.com"
AURORA = Database("aurora", Address(HOST, 5432), ca_cert_file="/ca.pem")
ROLE = f"arn:aws:iam::{aws.ACCOUNT}:role/teleport"


class Case(SynchronousTestCase):
    """A source of tokens with keys of the environment and nobody to ask."""

    def setUp(self) -> None:
        aws.use(self, aws.environment(self.mktemp()))
        self.clock = Clock()
        self.clock.rightNow = datetime.datetime.now(datetime.UTC).timestamp()
        self.in_thread: Any = maybeDeferred
        self.fetched: list[str] = []
        self.directory = Path(self.mktemp())
        self.source = self.make()

    def make(self) -> AmazonCredentials:
        files = BundleFiles(str(self.directory), fetch=self.fetch, now=self.clock.seconds)
        return AmazonCredentials(
            in_thread=self.call_in_thread,
            read_file=lambda path: authority("db").certificate_pem,
            bundles=Bundles(files, in_thread=maybeDeferred, clock=self.clock),
            clock=self.clock,
        )

    def call_in_thread(self, *call: Any) -> Any:
        return self.in_thread(*call)

    def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        return authority("db").certificate_pem

    def ask(self, user: str = "alice", database: Database = AURORA) -> Any:
        return self.successResultOf(self.source.credentials_for(database, user))

    def refused(self, database: Database = AURORA) -> str:
        failure = self.failureResultOf(self.source.credentials_for(database, "alice"), DatabaseUnreachable)
        self.assertNotIn(aws.SECRET, str(failure.value) + failure.value.detail)
        return str(failure.value)

    def verify(self, token: bytes, **other: Any) -> dict[str, str]:
        wanted: dict[str, Any] = {
            "secrets": {aws.KEY: aws.SECRET},
            "host": HOST,
            "port": 5432,
            "user": "alice",
            "region": "us-west-1",
            "now": datetime.datetime.now(datetime.UTC).timestamp(),
        }
        return sigv4.verify(token.decode(), **wanted | other)


class TokenTests(Case):
    def test_interface(self) -> None:
        verifyObject(ICredentialSource, self.source)

    def test_signed(self) -> None:
        """A token is good for its host, port, user and region until it is 15 minutes old, and for nothing else."""
        token = self.ask().password
        self.assertEqual(self.verify(token)["X-Amz-Expires"], "900")
        now = datetime.datetime.now(datetime.UTC).timestamp()
        for other, said in (
            ({"host": "other.example"}, "not for other.example"),
            ({"port": 5433}, "5433"),
            ({"user": "bob"}, "DBUser is 'alice'"),
            ({"region": "us-east-1"}, "not for us-east-1"),
            ({"now": now + 16 * 60}, "seconds ago"),
            ({"now": now - 16 * 60}, "seconds ago"),
            ({"secrets": {aws.KEY: "another"}}, "signature"),
            ({"secrets": {}}, "unknown access key"),
        ):
            self.assertIn(said, str(self.assertRaises(sigv4.Refused, self.verify, token, **other)))
        for part, forged in ((b"DBUser=alice", b"DBUser=bob"), (b"X-Amz-Expires=900", b"X-Amz-Expires=899")):
            user = "bob" if b"bob" in forged else "alice"
            self.assertRaises(sigv4.Refused, self.verify, token.replace(part, forged), user=user)

    def test_odd_users(self) -> None:
        """A database user may have any letters."""
        for user in ("al ice", "a+b@c", "älice", "a/b&c=d%"):
            self.verify(self.ask(user).password, user=user)

    def test_temporary(self) -> None:
        """Keys that come with a session token sign it too."""
        os.environ["AWS_SESSION_TOKEN"] = "temporary/+="
        self.assertEqual(self.verify(self.ask().password)["X-Amz-Security-Token"], "temporary/+=")

    def test_shown(self) -> None:
        """What is shown when: a password and nothing else; the token does not print."""
        found = self.ask()
        self.assertEqual((found.methods, found.name), (("password",), "an IAM token for us-west-1"))
        self.assertNotIn("X-Amz-Signature", repr(found))

    def test_kept(self) -> None:
        """Used again for ten minutes: for the same host, port and user only."""
        first = self.ask().password
        self.clock.advance(KEEP_SECONDS - 1)
        other = attrs.evolve(AURORA, uri=Address(HOST, 5433))
        self.verify(self.ask(database=other).password, port=5433)
        self.verify(self.ask("bob").password, user="bob")
        os.environ["AWS_ACCESS_KEY_ID"] = "AKIAOTHEROTHEROTHER0"
        self.assertEqual(self.ask().password, first)
        self.clock.advance(901)
        self.assertIn(b"AKIAOTHEROTHEROTHER0", self.ask().password)

    def test_credentials_end(self) -> None:
        """Credentials that end before the token would sign each login's own."""
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=14)
        os.environ["AWS_CREDENTIAL_EXPIRATION"] = soon.isoformat()
        sessions = Sessions(now=self.clock.seconds)
        self.assertFalse(sessions.token(Source("us-west-1"), HOST, 5432, "alice").lasting)
        sessions.forget(Source("us-west-1"))
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        os.environ["AWS_CREDENTIAL_EXPIRATION"] = later.isoformat()
        self.assertTrue(sessions.token(Source("us-west-1"), HOST, 5432, "alice").lasting)

    def test_threads(self) -> None:
        """Sessions that want the same at once share one token; boto3 is called in a thread only."""
        waiting: list[tuple[Deferred[Any], Any]] = []

        def in_thread(*call: Any) -> Deferred[Any]:
            waiting.append((Deferred(), call))
            return waiting[-1][0]

        self.in_thread = in_thread
        asked = [self.source.credentials_for(AURORA, "alice") for _ in range(3)]
        [(result, (function, *words))] = waiting
        result.callback(function(*words))
        self.assertEqual(len({self.successResultOf(one).password for one in asked}), 1)

    def test_no_answer(self) -> None:
        """An AWS that hangs ends in words."""
        self.in_thread = lambda *_: Deferred()
        asked = self.source.credentials_for(AURORA, "alice")
        self.clock.advance(AWS_SECONDS)
        self.assertIn("did not answer", str(self.failureResultOf(asked, DatabaseUnreachable).value))


class ImportTests(SynchronousTestCase):
    def test_late(self) -> None:
        """boto3 takes a third of a second to import: services and commands begin without it."""
        modules = ("services", "services.discovery", "cli.teleport_start", "cli.teleport_aws", "cli.tsh", "cli.tctl")
        lines = [*(f"import teleport_db.{module}" for module in modules), "import sys"]
        lines.append("print([name for name in sys.modules if name.startswith(('boto', 's3transfer'))])")
        said = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
        self.assertEqual(said.stdout, "[]\n")


class AuthorityTests(Case):
    """What the server's certificate is verified with."""

    def test_own(self) -> None:
        """The owner's file wins, or what came with the resource."""
        self.ask()
        self.ask(database=attrs.evolve(AURORA, ca_cert_file="", ca_cert=authority("db").certificate_pem.decode()))
        self.assertEqual(self.fetched, [])

    def test_bundle(self) -> None:
        """Else the region's bundle, also where a name of one's own leads there."""
        self.ask(database=attrs.evolve(AURORA, ca_cert_file=""))
        own = Database("own", Address("db.example.com", 5432), aws=Amazon(region="eu-west-1"))
        self.ask(database=own)
        self.assertEqual(
            [url.rsplit("/")[-1] for url in self.fetched], ["us-west-1-bundle.pem", "eu-west-1-bundle.pem"]
        )

    def test_names(self) -> None:
        """Proxies have public certificates; theirs, and those for custom endpoints, are for all names beside."""
        for host, wildcard, public in (
            (HOST, False, False),
            ("one.abc.us-west-1.rds.amazonaws.com", False, False),
            ("own.cluster-custom-abc.us-west-1.rds.amazonaws.com", True, False),
            ("pool.proxy-abc.us-west-1.rds.amazonaws.com", True, True),
        ):
            found = self.ask(database=Database("d", Address(host, 5432)))
            roots = [ca["subject"] for ca in found.context.get_ca_certs()]
            ours = ssl.create_default_context(cadata=authority("db").certificate_pem.decode()).get_ca_certs()
            self.assertEqual((found.wildcard, roots == [ours[0]["subject"]]), (wildcard, not public), host)


class FailureTests(Case):
    def test_no_credentials(self) -> None:
        """Nobody gave the agent any; when somebody does, the next login works."""
        aws.use(self, aws.environment(self.mktemp(), credentials=False))
        said = self.refused()
        self.assertIn('no IAM token for database service "aurora": there are no AWS credentials', said)
        self.assertIn("AWS_ACCESS_KEY_ID", said)
        os.environ.update({"AWS_ACCESS_KEY_ID": aws.KEY, "AWS_SECRET_ACCESS_KEY": aws.SECRET})
        self.ask()

    def test_half_credentials(self) -> None:
        """An access key without its secret, and a profile that is not there."""
        del os.environ["AWS_SECRET_ACCESS_KEY"]
        self.assertIn("there are no AWS credentials", self.refused())
        os.environ["AWS_PROFILE"] = "missing"
        self.assertIn("there are no AWS credentials", self.refused())

    def test_unreachable(self) -> None:
        """A role to take, and nobody there to give it."""
        database = attrs.evolve(AURORA, aws=Amazon(assume_role_arn=ROLE))
        said = self.refused(database)
        self.assertIn("AWS could not be reached in us-west-1 (EndpointConnectionError)", said)

    def test_explained(self) -> None:
        """What services answer, in words."""
        from botocore.exceptions import ClientError, ReadTimeoutError

        def client_error(code: str, operation: str = "DescribeDBInstances", message: str = "arn:secret") -> Exception:
            return ClientError({"Error": {"Code": code, "Message": message}}, operation)

        source = Source("us-west-1", ROLE)
        for error, said in (
            (client_error("AccessDenied", "AssumeRole"), f"assume the role {ROLE}"),
            (client_error("AccessDenied"), "does not allow rds:DescribeDBInstances"),
            (client_error("AccessDenied", "GetUser"), "does not allow iam:GetUser"),
            (client_error("ExpiredToken"), "have expired: renew them"),
            (client_error("SignatureDoesNotMatch", message="Signature expired: 2026 is now earlier than"), CLOCK),
            (client_error("SignatureDoesNotMatch"), "secret access key"),
            (client_error("RequestTimeTooSkewed"), CLOCK),
            (client_error("InvalidClientTokenId"), "does not know the access key"),
            (client_error("Throttling"), "takes no more calls"),
            (client_error("OptInRequired"), "not enabled"),
            (client_error("Unheard"), "AWS refused (Unheard)"),
            (ReadTimeoutError(endpoint_url="x"), "could not be reached in us-west-1"),
            (RuntimeError("secret"), "AWS refused (RuntimeError)"),
        ):
            words = explain(error, source)
            self.assertIn(said, words)
            self.assertNotIn("secret" if "secret access" not in words else "arn:", words)
        self.assertEqual(code_of(RuntimeError()), "RuntimeError")


class RoleTests(SynchronousTestCase):
    """A role to take, of a real STS in all but its maker."""

    def setUp(self) -> None:
        self.aws = aws.moto(self)
        self.clock = Clock()
        self.clock.rightNow = datetime.datetime.now(datetime.UTC).timestamp()

    def test_assumed(self) -> None:
        """The token is signed by the role's credentials, which are taken anew before they end."""
        self.aws.client("iam").create_role(RoleName="teleport", AssumeRolePolicyDocument="{}")
        sessions = Sessions(now=self.clock.seconds)
        source = Source("us-west-1", ROLE, "an-external-id")
        first = sessions.get(source)
        token = sessions.token(source, HOST, 5432, "alice")
        self.assertTrue(token.lasting)
        given = first.boto.get_credentials()
        found = sigv4.verify(
            token.text,
            secrets={given.access_key: given.secret_key},
            host=HOST,
            port=5432,
            user="alice",
            region="us-west-1",
            now=self.clock.seconds(),
        )
        self.assertEqual(found["X-Amz-Security-Token"], given.token)
        self.assertIs(sessions.get(source), first)
        self.clock.advance(first.until - self.clock.seconds() - 600)
        self.assertFalse(sessions.token(source, HOST, 5432, "alice").lasting)
        self.clock.advance(600)
        self.assertIsNot(sessions.get(source), first)
        self.assertIsInstance(first, Session)


class AdviceTests(SynchronousTestCase):
    """A login that the database refuses."""

    def said(self, error: TeleportDBError) -> str:
        return advice(error, Amazon("us-west-1", resource_id="db-ABC"), "alice")

    def test_words(self) -> None:
        """Amazon has one sentence for all that can be wrong with a token; ours say what to look at."""
        refused = DatabaseRefused({"M": 'PAM authentication failed for user "alice"'}, b"")
        said = self.said(refused)
        for words in ("rds-db:connect on db-ABC in us-west-1", "clock", "aws check"):
            self.assertIn(words, said)
        for error in (
            AuthenticationFailed('the database asks for SASL (SCRAM-SHA-256) of user "alice"'),
            DatabaseRefused({"M": 'password authentication failed for user "alice"'}, b""),
        ):
            self.assertIn('GRANT rds_iam TO "alice"', self.said(error))
        self.assertEqual(self.said(DatabaseRefused({"M": 'database "x" does not exist'}, b"")), "")


class RefusedTests(Case):
    def test_not_shown_again(self) -> None:
        """A refused token and the credentials behind it are looked for anew."""
        first = self.ask()
        os.environ["AWS_ACCESS_KEY_ID"] = "AKIAOTHEROTHEROTHER0"
        assert first.advise is not None
        first.advise(DatabaseRefused({"M": 'database "x" does not exist'}, b""))
        self.assertEqual(self.ask().password, first.password)
        first.advise(DatabaseRefused({"M": 'PAM authentication failed for user "alice"'}, b""))
        self.assertIn(b"AKIAOTHEROTHEROTHER0", self.ask().password)
