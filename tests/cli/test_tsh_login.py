"""``tsh login``, ``status`` and ``logout``, as processes."""

from __future__ import annotations

import json
import stat
import time

import yaml
from cryptography.hazmat.primitives import serialization

from tests.cli.support import CommandTestCase


class LoginTests(CommandTestCase):
    """A login leaves exactly the files that other tools look for."""

    def test_files(self) -> None:
        """Key, certificate, authority and profile are there, for their owner's eyes only."""
        said = self.login()
        self.assertIn("Logged in as: alice", said)
        self.assertIn("Cluster:      root", said)
        home = self.home / ".tsh"
        files = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
        expected = {
            "current-profile",
            "localhost.yaml",
            "keys/localhost/alice",
            "keys/localhost/alice-x509.pem",
            "keys/localhost/certs.pem",
        }
        self.assertEqual(files - {".lock"}, expected)
        for name in expected:
            self.assertEqual(stat.S_IMODE((home / name).stat().st_mode), 0o600, name)
        self.assertEqual(stat.S_IMODE(home.stat().st_mode), 0o700)
        self.assertEqual((home / "keys/localhost/certs.pem").read_bytes(), self.cluster.host_ca.certificate_pem)
        self.assertTrue((home / "keys/localhost/alice").read_text().startswith("-----BEGIN PRIVATE KEY-----"))

    def test_key_stays(self) -> None:
        """The private key that is in the file was never sent."""
        self.login()
        key = (self.home / ".tsh/keys/localhost/alice").read_bytes()
        private = serialization.load_pem_private_key(key, None)
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        sent = next(body for method, path, body in self.cluster.calls if path == "/webapi/login")
        self.assertEqual(sent["public_key"], public.decode())
        self.assertEqual(set(sent), {"user", "password", "otp", "public_key", "ttl"})
        self.assertEqual((sent["otp"], sent["ttl"]), (None, 12 * 3600))

    def test_shortened(self) -> None:
        """Which role has a login end sooner than it was asked to."""
        self.assertNotIn("Shortened", self.login())
        self.cluster.shortened = 'role "dev" allows 1h0m0s (max_session_ttl)'
        self.assertIn('\n  Shortened:    role "dev" allows 1h0m0s (max_session_ttl)\n', self.login())

    def test_profile_is_yaml(self) -> None:
        """Any YAML reader takes the profile."""
        self.login()
        profile = yaml.safe_load((self.home / ".tsh/localhost.yaml").read_text())
        self.assertEqual(profile["web_proxy_addr"], self.cluster.address)
        self.assertEqual((profile["user"], profile["cluster"], profile["insecure"]), ("alice", "root", False))

    def test_teleport_home(self) -> None:
        """``TELEPORT_HOME`` takes the place of ``~/.tsh``."""
        self.environment["TELEPORT_HOME"] = str(self.home / "elsewhere")
        self.login()
        self.assertTrue((self.home / "elsewhere/current-profile").exists())
        self.assertFalse((self.home / ".tsh").exists())

    def test_untrusted(self) -> None:
        """A web certificate of nobody known stops the login before a password is asked for."""
        result = self.tsh(
            "login", f"--proxy={self.cluster.address}", stdin="correct horse\n", SSL_CERT_FILE="/dev/null"
        )
        self.fails(result, "cannot be trusted", "--insecure", "SSL_CERT_FILE")
        self.assertEqual(self.cluster.calls, [])

    def test_other_name(self) -> None:
        """So does one of another name."""
        address = f"127.0.0.2:{self.cluster.port}"
        result = self.tsh("login", f"--proxy={address}", stdin="correct horse\n")
        self.assertEqual(result.code, 1)
        self.assertEqual(self.cluster.calls, [])

    def test_insecure(self) -> None:
        """``--insecure`` logs in to a proxy whose certificate nobody vouches for, and is remembered for psql only."""
        self.environment["SSL_CERT_FILE"] = "/dev/null"
        self.login("--insecure")
        self.succeeds(self.tsh("db", "login", "aurora"))
        self.assertIn("sslmode=verify-ca\n", (self.home / ".pg_service.conf").read_text())
        self.fails(self.tsh("login", stdin="correct horse\n"), "cannot be trusted")

    def test_wrong_password(self) -> None:
        """A wrong password is one line, and no files."""
        result = self.tsh("login", f"--proxy={self.cluster.address}", stdin="wrong\n")
        self.fails(result, "password")
        self.assertFalse((self.home / ".tsh/current-profile").exists())

    def test_no_password(self) -> None:
        """An empty input is a wrong call."""
        self.fails(self.tsh("login", f"--proxy={self.cluster.address}"), "password is needed", code=2)

    def test_no_proxy(self) -> None:
        """Nobody knows where to log in at first."""
        self.fails(self.tsh("login"), "--proxy", code=2)

    def test_proxy_away(self) -> None:
        """A proxy that is not there is named."""
        self.fails(self.tsh("login", "--proxy=127.0.0.1:1", stdin="x\n"), "127.0.0.1:1")

    def test_other_cluster(self) -> None:
        """A cluster other than the proxy's is refused."""
        result = self.tsh("login", f"--proxy={self.cluster.address}", "leaf", stdin="correct horse\n")
        self.fails(result, "leaf", code=2)

    def test_again(self) -> None:
        """Who logged in before need not say where and as whom again."""
        self.login()
        before = (self.home / ".tsh/keys/localhost/alice").read_text()
        self.succeeds(self.tsh("login", "--ttl=1h", stdin="correct horse\n"))
        self.assertNotEqual((self.home / ".tsh/keys/localhost/alice").read_text(), before)

    def test_again_renews_databases(self) -> None:
        """The certificates of databases follow the new key."""
        self.login()
        self.succeeds(self.tsh("db", "login", "aurora", "--db-user=bob", "--db-name=shop"))
        certificate = self.home / ".tsh/keys/localhost/alice-db/root/aurora-x509.pem"
        before = certificate.read_text()
        service = (self.home / ".pg_service.conf").read_text()
        self.login()
        self.assertNotEqual(certificate.read_text(), before)
        self.assertEqual((self.home / ".pg_service.conf").read_text(), service)
        self.assertIn("psql", self.succeeds(self.tsh("db", "config", "--format=cmd", "aurora")))

    def test_again_without_database(self) -> None:
        """A database that is gone is logged out of, with a warning."""
        self.login()
        self.succeeds(self.tsh("db", "login", "aurora"))
        self.cluster.databases = []
        result = self.tsh("login", stdin="correct horse\n")
        self.succeeds(result)
        self.assertIn("WARNING: logged out of database aurora", result.err)
        self.assertNotIn("root-aurora", (self.home / ".pg_service.conf").read_text())

    def test_terminal(self) -> None:
        """At a terminal the password is asked for and not shown."""
        code, seen = self.at_terminal(
            "tsh", "login", f"--proxy={self.cluster.address}", "--user=alice", answers=("correct horse",)
        )
        self.assertEqual(code, 0, seen)
        self.assertIn("Password of Teleport user alice", seen)
        self.assertNotIn("correct horse", seen)

    def test_hostile_cluster_name(self) -> None:
        """A proxy cannot choose where files are written."""
        self.cluster.identity = lambda name, **_: self._evil(name)  # type: ignore[method-assign,assignment]
        result = self.tsh("login", f"--proxy={self.cluster.address}", stdin="correct horse\n")
        self.fails(result, "file's name")

    def _evil(self, name: str) -> object:
        from teleport_db.identity import Identity

        return Identity(kind="user", name=name, cluster="../../evil", usage="login")


class SecondFactorTests(CommandTestCase):
    """The code goes with the password."""

    second_factor = "otp"

    def test_piped(self) -> None:
        """One line the password, one the code."""
        result = self.tsh("login", f"--proxy={self.cluster.address}", stdin="correct horse\n123456\n")
        self.assertIn("alice", self.succeeds(result))

    def test_wrong(self) -> None:
        """A wrong code, or none, is refused."""
        for code in ("000000\n", ""):
            result = self.tsh("login", f"--proxy={self.cluster.address}", stdin=f"correct horse\n{code}")
            self.fails(result, "wrong")

    def test_terminal(self) -> None:
        """A prompt each."""
        arguments = ("login", f"--proxy={self.cluster.address}", "--user=alice")
        code, seen = self.at_terminal("tsh", *arguments, answers=("correct horse", "123456"))
        self.assertEqual(code, 0, seen)
        self.assertIn("One-time code", seen)


class PublicAddressTests(CommandTestCase):
    """psql is sent where the certificate has the name it connects to."""

    proxy_names = ("127.0.0.1",)

    def test_public_address(self) -> None:
        """The proxy's certificate has no ``localhost``, so its public address is written for psql."""
        self.cluster.proxy_address = f"127.0.0.1:{self.cluster.port}"
        self.login()
        self.succeeds(self.tsh("db", "login", "aurora"))
        self.assertIn("\nhost=127.0.0.1\n", (self.home / ".pg_service.conf").read_text())


class StatusTests(CommandTestCase):
    """Who is logged in, and until when."""

    def test_nobody(self) -> None:
        """Nobody is: exit code 1 and what to type."""
        for arguments in (["status"], ["db", "ls"], ["db", "login", "x"], ["db", "logout"], ["db", "env"]):
            self.fails(self.tsh(*arguments), "not logged in", "tsh login --proxy=")

    def test_status(self) -> None:
        """The facts, for people and for programs."""
        self.login("--ttl=2h")
        said = self.succeeds(self.tsh("status"))
        self.assertIn(f"https://{self.cluster.address}", said)
        self.assertIn("valid for 1h59m", said)
        facts = json.loads(self.succeeds(self.tsh("status", "--format=json")))
        self.assertEqual((facts["user"], facts["cluster"], facts["roles"]), ("alice", "root", ["access"]))
        self.assertEqual(yaml.safe_load(self.succeeds(self.tsh("status", "--format=yaml")))["expired"], False)

    def test_expired(self) -> None:
        """An expired login says when it ended and what to type."""
        self.cluster.login_ttl = 1
        self.login()
        time.sleep(max(0, self.cluster.now + 1.05 - time.time()))
        command = f"run: tsh login --proxy={self.cluster.address}"
        self.assertEqual(self.tsh("status").code, 1)
        self.fails(self.tsh("db", "ls"), "your login expired at", command)
        self.fails(self.tsh("db", "login", "aurora"), "your login expired at", command)

    def test_logout(self) -> None:
        """Nothing secret stays; logging out twice is no error."""
        self.login()
        self.succeeds(self.tsh("db", "login", "aurora"))
        self.assertIn("Logged out alice", self.succeeds(self.tsh("logout")))
        left = [path.name for path in (self.home / ".tsh").rglob("*") if path.is_file()]
        self.assertEqual(left, [".lock"])
        self.assertEqual((self.home / ".pg_service.conf").read_text().strip(), "")
        self.succeeds(self.tsh("logout"))
        self.fails(self.tsh("status"), "not logged in")
