"""Passwords from files and the environment, in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.config.model import Database, PasswordLogin, Secret
from teleport_db.config.values import Address
from teleport_db.db.backend import Backend, DatabaseRefused
from teleport_db.db.passwords import AT_ONCE, MAX_PASSWORD, PasswordCredentials
from teleport_db.errors import AuthenticationFailed, DatabaseUnreachable
from teleport_db.interfaces import Credentials, ICredentialSource
from teleport_db.pgwire.authentication import METHODS
from teleport_db.pgwire.messages import authentication, error_response
from tests.cluster import authority
from tests.pgwire.wire import startup


class PasswordTests(SynchronousTestCase):
    """What becomes of a database's ``credentials``."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        self.environment = {"BOB": "of bob", "EMPTY": ""}
        self.files = {"/ca.pem": authority("db").certificate_pem}
        self.db_ca = authority("db").certificate_pem
        self.source = self.make(execute)
        self.said: list[LogEvent] = []
        globalLogPublisher.addObserver(self.said.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.said.append)

    def make(self, in_thread: Callable[..., Any]) -> PasswordCredentials:
        def read_file(path: str) -> bytes:
            if path not in self.files:
                raise FileNotFoundError(2, "No such file or directory")
            return self.files[path]

        return PasswordCredentials(
            in_thread=in_thread, read_file=read_file, db_ca=lambda: self.db_ca, environment=self.environment
        )

    def write(self, data: bytes, name: str = "password", mode: int = 0o600) -> Secret:
        path = self.directory / name
        path.write_bytes(data)
        path.chmod(mode)
        return Secret(file=str(path))

    def database(self, default: Secret | None = None, **more: Any) -> Database:
        ca_cert_file = more.pop("ca_cert_file", "")
        login = PasswordLogin(default, **more)
        return Database("metrics", Address("db.test", 5432), ca_cert_file=ca_cert_file, credentials=login)

    def ask(self, database: Database, user: str = "alice") -> Credentials:
        return self.successResultOf(self.source.credentials_for(database, user))

    def refused(self, database: Database, user: str = "alice") -> DatabaseUnreachable:
        failure = self.failureResultOf(self.source.credentials_for(database, user), DatabaseUnreachable)
        assert isinstance(failure.value, DatabaseUnreachable)
        return failure.value

    def test_who_has_which(self) -> None:
        """A user's own before the default, and nobody without either; the name tells which it was."""
        verifyObject(ICredentialSource, self.source)
        database = self.database(self.write(b"of all\n"), users={"bob": Secret(env="BOB")})
        alice, bob = self.ask(database), self.ask(database, "bob")
        self.assertEqual((alice.password, bob.password), (b"of all", b"of bob"))
        self.assertEqual(alice.name, f"the password in {self.directory}/password")
        self.assertEqual(bob.name, "the password in environment variable BOB")
        self.assertNotIn("of all", repr(alice))
        asked = self.source.credentials_for(self.database(users={"bob": Secret(env="BOB")}), "alice")
        error = self.failureResultOf(asked, AuthenticationFailed).value
        self.assertIn('no password for database user "alice"', str(error))

    def test_read_each_time(self) -> None:
        """A password that was changed is changed at the next login."""
        database = self.database(self.write(b"old"))
        self.assertEqual(self.ask(database).password, b"old")
        self.write(b"new")
        self.assertEqual(self.ask(database).password, b"new")

    def test_one_line(self) -> None:
        """The line's end is not part of it, and everything else is."""
        for text, password in (
            (b"a", b"a"),
            (b"a\n", b"a"),
            (b"a\r\n", b"a"),
            (b" a b \n", b" a b "),
            (b"\xff\xe4\n", b"\xff\xe4"),
            (b"a" * MAX_PASSWORD + b"\r\n", b"a" * MAX_PASSWORD),
        ):
            self.assertEqual(self.ask(self.database(self.write(text))).password, password)

    def test_unusable(self) -> None:
        """Words for psql that say whose and why, without path or content; the path is in the log."""
        for text, words in (
            (b"", "is empty"),
            (b"\n", "is empty"),
            (b"secret\nmore\n", "more than one line"),
            (b"sec\0ret", "is no text"),
            (b"secret" * MAX_PASSWORD, "longer than"),
        ):
            error = self.refused(self.database(self.write(text)))
            self.assertIn('the password of database user "alice" for database service "metrics"', str(error))
            self.assertIn(words, str(error))
            self.assertNotIn("secret", str(error) + error.detail)
            self.assertNotIn(str(self.directory), str(error))
            self.assertEqual(error.detail, f"{self.directory}/password")
        self.assertIn("not set", str(self.refused(self.database(Secret(env="NONE")))))
        self.assertIn("is empty", str(self.refused(self.database(Secret(env="EMPTY")))))

    def test_unreadable(self) -> None:
        """A file that is not there, and what is no file: nobody waits for a pipe."""
        os.mkfifo(self.directory / "pipe")
        os.symlink("loop", self.directory / "loop")
        for name, words in (
            ("none", "No such file"),
            ("pipe", "not a regular file"),
            (".", "Is a directory"),
            ("loop", "symbolic links"),
        ):
            error = self.refused(self.database(Secret(file=f"{self.directory}/{name}")))
            self.assertIn(words, str(error))

    def test_everybody_reads(self) -> None:
        """That is said once a file."""
        for _ in range(2):
            self.ask(self.database(self.write(b"a", mode=0o644)))
            self.ask(self.database(self.write(b"b", "other", mode=0o640)))
        self.assertEqual(
            [event["path"] for event in self.said if "every user" in event["log_format"]],
            [f"{self.directory}/password"],
        )

    def test_methods(self) -> None:
        """Everything, unless the owner says what."""
        self.assertEqual(
            self.ask(self.database(self.write(b"a"))).methods, ("none", "password", "md5", "scram-sha-256")
        )
        database = self.database(self.write(b"a"), require_auth=("scram-sha-256",))
        self.assertEqual(self.ask(database).methods, ("scram-sha-256",))

    def test_authority(self) -> None:
        """The owner's file, else the cluster's own; a context is made once for what it trusts."""
        secret = self.write(b"a")
        context = self.ask(self.database(secret)).context
        self.assertIs(self.ask(self.database(secret)).context, context)
        self.db_ca = authority("host").certificate_pem
        self.assertIsNot(self.ask(self.database(secret)).context, context)
        self.ask(self.database(secret, ca_cert_file="/ca.pem"))
        error = self.refused(self.database(secret, ca_cert_file="/none.pem"))
        self.assertNotIn("/none.pem", str(error))
        self.files["/ca.pem"] = b"nonsense"
        self.assertIn("cannot be used", str(self.refused(self.database(secret, ca_cert_file="/ca.pem"))))

    def test_few_at_once(self) -> None:
        """Calculations wait for each other, so that nobody's take all threads."""
        running: list[tuple[Deferred[Any], Any]] = []

        def in_thread(function: Any, *args: Any) -> Deferred[Any]:
            if args:
                return execute(function, *args)
            done: Deferred[Any] = Deferred()
            running.append((done, function))
            return done

        self.source = self.make(in_thread)
        compute = self.ask(self.database(self.write(b"a"))).compute
        assert compute is not None
        results = [compute(lambda number=number: b"%d" % number) for number in range(4)]  # type: ignore[misc]
        self.assertEqual(len(running), AT_ONCE)
        while running:
            done, function = running.pop(0)
            self.assertLess(len(running), AT_ONCE)
            done.callback(function())
        self.assertEqual([self.successResultOf(result) for result in results], [b"0", b"1", b"2", b"3"])


class DerivingTests(SynchronousTestCase):
    """A login whose key is being derived elsewhere, and what happens to it meanwhile."""

    def begin(self) -> tuple[Backend, Deferred[Any], Callable[[], bytes], Deferred[bytes]]:
        """A login that waits for its key: the protocol, its result, the calculation and where that goes."""
        computing: list[tuple[Callable[[], bytes], Deferred[bytes]]] = []

        def compute(calculation: Callable[[], bytes]) -> Deferred[bytes]:
            computing.append((calculation, Deferred()))
            return computing[-1][1]

        backend = Backend()
        self.wire = StringTransport()
        backend.makeConnection(self.wire)
        credentials = Credentials(None, b"secret", methods=METHODS, name="the test's", compute=compute)
        raw = startup((b"user", b"bob"))
        login = backend.login(raw, credentials, key=(1, b"key!"), new_nonce=lambda: "nonce")
        backend.dataReceived(authentication(10, b"SCRAM-SHA-256\0\0"))
        self.wire.clear()
        backend.dataReceived(authentication(11, b"r=nonce+,s=c2FsdA==,i=4096"))
        [(calculation, result)] = computing
        return backend, login, calculation, result

    def test_goes_on(self) -> None:
        """The proof is sent when the key is there, and not before."""
        _, login, calculation, result = self.begin()
        self.assertEqual(self.wire.value(), b"")
        result.callback(calculation())
        self.assertIn(b",r=nonce+,p=", self.wire.value())
        self.assertNoResult(login)

    def test_refused_meanwhile(self) -> None:
        """A calculation whose login is over is not begun, and its result is of no use."""
        backend, login, calculation, result = self.begin()
        backend.dataReceived(error_response("FATAL", "57P01", "shutting down"))
        error = self.failureResultOf(login, DatabaseRefused).value
        self.assertEqual((str(error), error.detail), ("shutting down", "(shown to the database: the test's)"))
        self.assertEqual(calculation(), b"")
        result.callback(b"")
        self.assertEqual(self.wire.value(), b"")

    def test_lost_meanwhile(self) -> None:
        """The same where the connection goes, whether the calculation ends well or not."""
        for outcome in (b"k" * 32, Failure(RuntimeError())):
            backend, login, _, result = self.begin()
            backend.connectionLost()
            self.failureResultOf(login, DatabaseUnreachable)
            result.callback(outcome)  # type: ignore[arg-type]
            self.assertEqual(self.wire.value(), b"")

    def test_failed(self) -> None:
        """What goes wrong with the calculation ends the login."""
        _, login, _, result = self.begin()
        result.errback(Failure(RuntimeError("no threads left")))
        self.failureResultOf(login, RuntimeError)
