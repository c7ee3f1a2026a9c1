"""A service's certificates: asked for, kept, renewed, and what a lost answer leaves."""

import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs.keys import load_public, pem
from teleport_db.config.model import Config, Teleport
from teleport_db.errors import ConfigError, ConnectionTrouble
from teleport_db.services.hosts import CHECK_SECONDS, Host, HostCredentials, keep_id, load, obtain
from teleport_db.services.membership import become_member, credentials_path, read_token
from tests.cluster import CLUSTER, NOW, authority

LIFE = 24 * 3600.0


class HostCase(SynchronousTestCase):
    """An auth server that signs what it is asked to."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        self.path = os.path.join(self.directory, "hosts", "db.json")
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.asked: list[bytes] = []
        self.trouble: Exception | None = None

    async def issue(self, public_key: bytes) -> Mapping[str, Any]:
        self.asked.append(public_key)
        if self.trouble is not None:
            raise self.trouble
        now = self.clock.seconds()

        def sign(server: bool) -> str:
            certificate = authority("host").issue(
                load_public(public_key), common_name="h-1", now=now, ttl=LIFE, server=server
            )
            return pem(certificate).decode()

        return {
            "host_id": "h-1",
            "cluster": CLUSTER,
            "server_certificate": sign(True),
            "client_certificate": sign(False),
            "host_ca": authority("host").certificate_pem.decode(),
            "user_ca": authority("user").certificate_pem.decode(),
            "db_ca": authority("db").certificate_pem.decode(),
            "scope": ["aurora"],
            "expires": datetime.fromtimestamp(now + LIFE, UTC).isoformat(),
        }

    def obtain(self, path: str | None) -> HostCredentials:
        return self.successResultOf(Deferred.fromCoroutine(obtain(self.issue, path=path)))


class ObtainTests(HostCase):
    """Asked for and kept."""

    def test_kept(self) -> None:
        """What was got is read back; nobody else can read it."""
        held = self.obtain(self.path)
        self.assertEqual(load(self.path), held)
        self.assertEqual((held.scope, held.expires), (("aurora",), NOW + LIFE))
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertEqual(os.listdir(os.path.dirname(self.path)), ["db.json"])

    def test_secret(self) -> None:
        self.assertNotIn("PRIVATE", repr(self.obtain(None)))

    def test_in_memory(self) -> None:
        self.obtain(None)
        self.assertFalse(os.path.exists(self.directory))

    def test_lost_answer(self) -> None:
        """The key is kept from before the call, so that an answer that got lost can be had again."""
        self.trouble = ConnectionTrouble("cut")
        self.failureResultOf(Deferred.fromCoroutine(obtain(self.issue, path=self.path)), ConnectionTrouble)
        self.assertIsNone(load(self.path))
        self.trouble = None
        self.obtain(self.path)
        self.assertEqual(len(set(self.asked)), 1)
        self.obtain(self.path)
        self.assertEqual(len(set(self.asked)), 2)

    def test_unusable(self) -> None:
        """A file that is damaged is told of with its name."""
        os.makedirs(os.path.dirname(self.path))
        for content in (b"", b"{}", b"[]", b'"x"', b'{"key": 1}', b'{"key": "no PEM"}', b"\xff"):
            with open(self.path, "wb") as file:
                file.write(content)
            os.chmod(self.path, 0o600)
            error = self.assertRaises(ConfigError, load, self.path)
            self.assertIn(self.path, str(error))

    def test_half_life(self) -> None:
        """Half of the time from its (backdated) beginning to its end."""
        self.assertAlmostEqual(self.obtain(None).half_life(), NOW + LIFE / 2 - 30)

    def test_id(self) -> None:
        """An id stays; what is none is refused."""
        path = os.path.join(self.directory, "hosts", "db.id")
        first = keep_id(path)
        self.assertEqual(keep_id(path), first)
        with open(path, "w") as file:
            file.write("something")
        self.assertRaises(ConfigError, keep_id, path)


class RenewalTests(HostCase):
    """Renewed in time."""

    def setUp(self) -> None:
        super().setUp()
        self.host = Host(self.obtain(self.path), renew=self.issue, path=self.path, clock=self.clock)
        self.made = 0
        self.context = self.host.context("name", self.make)
        self.host.start()
        self.addCleanup(self.host.stop)

    def make(self, held: HostCredentials) -> Any:
        self.made += 1
        return self.made

    def test_renewed(self) -> None:
        """Not before half the life is over; then contexts are made anew, once, and the file is replaced."""
        self.assertEqual((self.context(), self.context()), (1, 1))
        self.clock.pump([CHECK_SECONDS] * 11)
        self.assertEqual(len(self.asked), 1)
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(len(self.asked), 2)
        self.assertEqual((self.context(), self.context()), (2, 2))
        self.assertEqual(load(self.path), self.host.credentials)
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(len(self.asked), 2)

    def test_trouble(self) -> None:
        """A renewal that fails is tried again; the old certificates stay in use, and the key is the same."""
        before = self.host.credentials
        self.trouble = ConnectionTrouble("away")
        self.clock.pump([CHECK_SECONDS] * 14)
        self.assertIs(self.host.credentials, before)
        self.assertGreater(len(self.asked), 2)
        self.assertEqual(len(set(self.asked[1:])), 1)
        self.trouble = None
        self.clock.advance(CHECK_SECONDS)
        self.assertIsNot(self.host.credentials, before)

    def test_stop(self) -> None:
        self.host.stop()
        self.host.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class MemberTests(HostCase):
    """A service that is not in auth's process."""

    def config(self, **settings: Any) -> Config:
        return Config(teleport=Teleport(nodename="node", data_dir=self.directory, **settings))

    def member(self, config: Config) -> Deferred[Host]:
        return Deferred.fromCoroutine(
            become_member(config, "db", door_role="proxy", names=[], renew=self.issue, reactor=self.clock)
        )

    def test_held(self) -> None:
        """Kept certificates are used without a token."""
        config = self.config()
        held = self.obtain(credentials_path(config, "db"))
        self.assertEqual(self.successResultOf(self.member(config)).credentials, held)

    def test_no_token(self) -> None:
        """Without certificates, or with expired ones, a token is needed."""
        config = self.config()
        self.failureResultOf(self.member(config), ConfigError)
        self.obtain(credentials_path(config, "db"))
        self.clock.advance(LIFE)
        failure = self.failureResultOf(self.member(config), ConfigError)
        self.assertIn("tctl tokens add", str(failure.value))

    def test_nowhere(self) -> None:
        """A cluster that cannot be reached is tried again, until nobody waits any more."""
        joining = self.member(self.config(auth_token="t-1"))
        for _ in range(5):
            self.assertNoResult(joining)
            (call,) = self.clock.getDelayedCalls()
            self.assertLessEqual(call.getTime() - self.clock.seconds(), 30)
            self.clock.advance(30)
        joining.cancel()
        self.failureResultOf(joining)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_token(self) -> None:
        """A token, or the path of a file with one."""
        self.assertEqual(read_token(self.config(auth_token="t-1")), "t-1")
        path = os.path.abspath(self.mktemp())
        self.assertRaises(ConfigError, read_token, self.config(auth_token=path))
        with open(path, "w") as file:
            file.write(" t-2\n")
        self.assertEqual(read_token(self.config(auth_token=path)), "t-2")
