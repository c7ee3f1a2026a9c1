"""Certificates and tokens for databases: kept, renewed, shared by sessions that ask at once."""

from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.certs.keys import load_public, pem
from teleport_db.config.model import Amazon, Database, PasswordLogin, Secret
from teleport_db.config.values import Address
from teleport_db.db import kept
from teleport_db.db.credentials import ByKind, CertificateCredentials, Contexts
from teleport_db.errors import ConnectionTrouble, DatabaseUnreachable
from teleport_db.interfaces import ICredentialSource
from tests.cluster import NOW, authority

AURORA = Database("aurora", Address("db.example", 5432))
LIFE = 1000.0


class Case(SynchronousTestCase):
    """An auth server that signs when a test lets it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.calls: list[tuple[Any, ...]] = []
        self.pending: list[tuple[Deferred[Any], Any]] = []
        self.cancelled = 0
        self.waits = False
        self.source = CertificateCredentials(self.call, clock=self.clock, read_file=self.read)

    def read(self, path: str) -> bytes:
        if path != "/ca.pem":
            raise FileNotFoundError(2, "No such file or directory")
        return authority("db").certificate_pem

    def call(self, method: str, path: str, body: Any) -> Deferred[Any]:
        self.calls.append((method, path, body["service"], body["user"]))
        if not self.waits:
            return succeed(self.sign(body))
        result: Deferred[Any] = Deferred(lambda _: setattr(self, "cancelled", self.cancelled + 1))
        self.pending.append((result, body))
        return result

    def sign(self, body: Any) -> dict[str, Any]:
        now = self.clock.seconds()
        certificate = authority("db_client").issue(
            load_public(body["public_key"]), common_name=body["user"], now=now, ttl=LIFE, server=False
        )
        return {
            "certificate": pem(certificate).decode(),
            "db_ca": authority("db").certificate_pem.decode(),
            "expires": datetime.fromtimestamp(now + LIFE, UTC).isoformat(),
        }

    def ask(self, user: str = "app", database: Database = AURORA) -> Deferred[Any]:
        return self.source.credentials_for(database, user)


class CertificateTests(Case):
    """Self-hosted databases."""

    def test_interface(self) -> None:
        for source in (self.source, ByKind(self.source, self.source, self.source)):
            verifyObject(ICredentialSource, source)

    def test_kept(self) -> None:
        """One call a service and user, until the certificate grows old."""
        first = self.successResultOf(self.ask())
        self.clock.advance(LIFE * 0.79)
        self.assertIs(self.successResultOf(self.ask()), first)
        self.successResultOf(self.ask("other"))
        self.assertEqual(self.calls[0], ("POST", "/v1/certificates/database-client", "aurora", "app"))
        self.assertEqual(len(self.calls), 2)
        self.clock.advance(LIFE * 0.02)
        self.assertIsNot(self.successResultOf(self.ask()), first)

    def test_shared(self) -> None:
        """Sessions that ask at once share one call."""
        self.waits = True
        asked = [self.ask() for _ in range(3)]
        self.assertEqual(len(self.calls), 1)
        result, body = self.pending[0]
        result.callback(self.sign(body))
        self.assertEqual(len({id(self.successResultOf(one)) for one in asked}), 1)

    def test_first_leaves(self) -> None:
        """The first session that goes away does not take the others' credentials with it."""
        self.waits = True
        first, second = self.ask(), self.ask()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.cancelled, 0)
        result, body = self.pending[0]
        result.callback(self.sign(body))
        self.successResultOf(second)

    def test_all_leave(self) -> None:
        """The call ends with the last who waits; the next one begins anew."""
        self.waits = True
        for one in [self.ask(), self.ask()]:
            one.cancel()
            self.failureResultOf(one, CancelledError)
        self.assertEqual(self.cancelled, 1)
        self.waits = False
        self.successResultOf(self.ask())

    def test_failure(self) -> None:
        """Everybody who waits hears of it, and nothing is kept."""
        self.waits = True
        asked = [self.ask(), self.ask()]
        self.pending[0][0].errback(ConnectionTrouble("away"))
        for one in asked:
            self.failureResultOf(one, ConnectionTrouble)
        self.waits = False
        self.successResultOf(self.ask())

    def test_bounded(self) -> None:
        """Ever new users do not fill the memory; the longest unused goes first."""
        self.patch(kept, "MAX_KEPT", 3)
        for user in ("a", "b", "c", "a", "d"):
            self.successResultOf(self.ask(user))
        self.assertEqual([user for _, user in self.source.kept.keys], ["c", "a", "d"])  # type: ignore[misc]

    def test_own_ca(self) -> None:
        """A database with a CA of its own is verified with that; one that cannot be read is told of."""
        self.successResultOf(self.ask(database=Database("own", AURORA.uri, ca_cert_file="/ca.pem")))
        failure = self.failureResultOf(
            self.ask(database=Database("none", AURORA.uri, ca_cert_file="/none.pem")), DatabaseUnreachable
        )
        self.assertNotIn("/none.pem", str(failure.value))


class KindTests(SynchronousTestCase):
    """What the configuration chooses, and the contexts that all kinds make."""

    def test_contexts(self) -> None:
        """One context a service, as long as its authority stays the same."""
        contexts = Contexts()
        first = contexts.of("a", authority("db").certificate_pem)
        self.assertIs(contexts.of("a", authority("db").certificate_pem), first)
        self.assertIsNot(contexts.of("a", authority("host").certificate_pem), first)
        self.assertIsNot(contexts.of("b", None), contexts.of("a", None))
        self.assertRaises(DatabaseUnreachable, contexts.of, "a", b"no certificate")

    def test_kind(self) -> None:
        """The configuration chooses."""

        class Source:
            def __init__(self, name: str) -> None:
                self.name = name

            def credentials_for(self, database: Any, user: str) -> Deferred[Any]:
                return succeed(self.name)

        kinds = ByKind(Source("certificate"), Source("token"), Source("password"))
        self.assertEqual(self.successResultOf(kinds.credentials_for(AURORA, "app")), "certificate")
        database = Database("rds", AURORA.uri, aws=Amazon(region="eu-west-1"))
        self.assertEqual(self.successResultOf(kinds.credentials_for(database, "app")), "token")
        database = Database("old", AURORA.uri, credentials=PasswordLogin(Secret("/password")))
        self.assertEqual(self.successResultOf(kinds.credentials_for(database, "app")), "password")
