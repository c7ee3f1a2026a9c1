"""``tsh db``: databases seen, logged in to, connected to and logged out of, as processes."""

from __future__ import annotations

import json
import shutil
import ssl
import time

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from teleport_db.identity import DatabaseRoute, from_certificate
from tests.cli.support import CommandTestCase, Result


class DatabaseTests(CommandTestCase):
    """With a login."""

    def setUp(self) -> None:
        super().setUp()
        self.login()
        self.service = self.home / ".pg_service.conf"
        self.folder = self.home / ".tsh/keys/localhost"

    def db(self, *arguments: str, **environment: str) -> Result:
        return self.tsh("db", *arguments, **environment)

    def test_ls(self) -> None:
        """Name, Description, Labels, Connect; underlined."""
        lines = self.succeeds(self.db("ls")).splitlines()
        self.assertEqual(lines[0].split(), ["Name", "Description", "Labels", "Connect"])
        self.assertEqual(lines[1].split(), ["-" * 7, "-" * 11, "-" * 7, "-" * 7])
        self.assertEqual(lines[2].split(), ["aurora", "AWS", "Aurora", "env=dev"])

    def test_ls_verbose(self) -> None:
        """Protocol and URI as well, and the users and names one may use."""
        self.cluster.databases[0] |= {"users": ["alice", "bob"], "names": ["*"]}
        lines = self.succeeds(self.db("ls", "-v")).splitlines()
        headers = ["Name", "Description", "Protocol", "URI", "Users", "Names", "Labels", "Connect"]
        self.assertEqual(lines[0].split(), headers)
        self.assertRegex(lines[2], r"aurora\.example\.com:5432 +alice,bob +\* +env=dev")

    def test_ls_marks(self) -> None:
        """A database that is logged in carries ``>`` and its command."""
        self.succeeds(self.db("login", "aurora"))
        lines = self.succeeds(self.db("ls")).splitlines()
        self.assertTrue(lines[2].startswith("> aurora"))
        self.assertTrue(lines[2].endswith('psql "service=root-aurora"'))
        self.assertTrue(lines[3].startswith("metrics"))

    def test_ls_formats(self) -> None:
        """The same for programs."""
        as_json = json.loads(self.succeeds(self.db("ls", "--format=json")))
        self.assertEqual([(db["name"], db["logged_in"]) for db in as_json], [("aurora", False), ("metrics", False)])
        self.assertEqual(yaml.safe_load(self.succeeds(self.db("ls", "--format", "yaml"))), as_json)

    def test_ls_hostile(self) -> None:
        """A description cannot write to the terminal."""
        self.cluster.databases[0]["description"] = "\x1b]0;evil\x07\nmetrics2"
        said = self.succeeds(self.db("ls"))
        self.assertNotIn("\x1b", said)
        self.assertEqual(len(said.splitlines()), 4)

    def test_login_files(self) -> None:
        """The certificate has the route, for the key of the login, and lives no longer than the login."""
        self.succeeds(self.db("login", "--db-user=bob", "--db-name=shop", "aurora"))
        made = x509.load_pem_x509_certificate((self.folder / "alice-db/root/aurora-x509.pem").read_bytes())
        login = x509.load_pem_x509_certificate((self.folder / "alice-x509.pem").read_bytes())
        self.assertEqual(from_certificate(made).route, DatabaseRoute("root", "aurora", "bob", "shop"))
        self.assertEqual(made.public_key(), login.public_key())
        self.assertLessEqual(made.not_valid_after_utc, login.not_valid_after_utc)

    def test_login_service(self) -> None:
        """The section holds what libpq needs, and other sections are as they were."""
        self.service.write_text("# mine\n[x]\nhost=y\n")
        self.succeeds(self.db("login", "aurora", "--db-user=bob", "--db-name=shop"))
        expected = (
            "# mine\n[x]\nhost=y\n\n[root-aurora]\n"
            f"host=localhost\nport={self.cluster.port}\nuser=bob\ndbname=shop\nsslmode=verify-full\n"
            f"sslrootcert={self.folder}/certs.pem\nsslcert={self.folder}/alice-db/root/aurora-x509.pem\n"
            f"sslkey={self.folder}/alice\ngssencmode=disable\n"
        )
        self.assertEqual(self.service.read_text(), expected)

    def test_login_says_how_to_connect(self) -> None:
        """The command is ready when there is one user and one database to choose; else it shows what to fill in."""
        self.assertIn(
            'psql "service=root-aurora user=alice dbname=postgres"', self.succeeds(self.db("login", "aurora"))
        )
        said = self.succeeds(self.db("login", "metrics"))
        self.assertIn('psql "service=root-metrics user=<user> dbname=<database>"', said)

    def test_both_orders(self) -> None:
        """Flags before or behind the name, global ones before or behind the words."""
        for arguments in (
            ["--proxy=localhost", "db", "login", "--db-user=bob", "aurora"],
            ["db", "login", "aurora", "--db-user", "bob", "--proxy", "localhost"],
            ["db", "--proxy=localhost", "login", "aurora", "--db-user=bob"],
        ):
            self.service.unlink(missing_ok=True)
            self.succeeds(self.tsh(*arguments))
            self.assertIn("user=bob\n", self.service.read_text())

    def test_login_unknown(self) -> None:
        """A database that is not there, or is not to be seen, is exit code 1 and leaves nothing."""
        self.fails(self.db("login", "nope"), "nope", "tsh db ls")
        self.fails(self.db("login", "../../x"), "../../x")
        self.assertFalse(self.service.exists())

    def test_login_hostile_values(self) -> None:
        """A user's name cannot add lines to the service file."""
        self.fails(self.db("login", "aurora", "--db-user=a\nhost=evil"), "--db-user", code=2)
        self.assertFalse(self.service.exists())

    def test_pgservicefile(self) -> None:
        """``PGSERVICEFILE`` says where."""
        file = self.home / "elsewhere.conf"
        self.succeeds(self.db("login", "aurora", PGSERVICEFILE=str(file)))
        self.assertIn("[root-aurora]", file.read_text())
        self.assertFalse(self.service.exists())

    def test_several(self) -> None:
        """One can be logged in to several, and out of one."""
        self.succeeds(self.db("login", "aurora"))
        self.succeeds(self.db("login", "metrics"))
        self.fails(self.db("env"), "aurora, metrics", code=2)
        self.succeeds(self.db("logout", "aurora"))
        self.assertNotIn("aurora", self.service.read_text())
        self.assertIn("[root-metrics]", self.service.read_text())
        self.assertFalse((self.folder / "alice-db/root/aurora-x509.pem").exists())
        self.succeeds(self.db("env"))

    def test_logout_all(self) -> None:
        """Without a name all go; the login stays."""
        self.succeeds(self.db("login", "aurora"))
        self.succeeds(self.db("login", "metrics"))
        said = self.succeeds(self.db("logout"))
        self.assertIn("aurora", said)
        self.assertIn("metrics", said)
        self.assertEqual(self.service.read_text().strip(), "")
        self.succeeds(self.tsh("status"))

    def test_logout_of_nothing(self) -> None:
        """Logging out of what is not logged in is an error."""
        self.fails(self.db("logout", "aurora"), "aurora")
        self.fails(self.db("logout"), "any database")

    def test_env(self) -> None:
        """A shell gets libpq's variables."""
        self.succeeds(self.db("login", "aurora", "--db-user=o'neil"))
        lines = self.succeeds(self.db("env", "aurora")).splitlines()
        self.assertIn("export PGHOST=localhost", lines)
        self.assertIn(f"export PGPORT={self.cluster.port}", lines)
        self.assertIn("export PGSSLMODE=verify-full", lines)
        self.assertIn("export PGGSSENCMODE=disable", lines)
        self.assertIn("""export PGUSER='o'"'"'neil'""", lines)
        self.assertIn("export PGDATABASE=postgres", lines)
        unset = self.succeeds(self.db("env", "--unset")).splitlines()
        self.assertIn("unset PGSSLKEY", unset)

    def test_config(self) -> None:
        """Text, a command, JSON."""
        self.succeeds(self.db("login", "aurora", "--db-user=bob", "--db-name=shop"))
        said = self.succeeds(self.db("config"))
        self.assertIn("Host:     localhost\n", said)
        self.assertEqual(
            self.succeeds(self.db("config", "--format=cmd")), 'psql "service=root-aurora user=bob dbname=shop"\n'
        )
        facts = json.loads(self.succeeds(self.db("config", "aurora", "--format=json")))
        self.assertEqual((facts["port"], facts["user"], facts["database"]), (self.cluster.port, "bob", "shop"))
        self.assertTrue(facts["jdbc"].startswith(f"jdbc:postgresql://localhost:{self.cluster.port}/shop?user=bob"))

    def test_key_der(self) -> None:
        """The key in the form that JDBC reads."""
        self.succeeds(self.db("login", "aurora"))
        self.succeeds(self.db("config", f"--key-der={self.home}/key.der"))
        der = serialization.load_der_private_key((self.home / "key.der").read_bytes(), None)
        pem = serialization.load_pem_private_key((self.folder / "alice").read_bytes(), None)
        self.assertEqual(der.private_numbers(), pem.private_numbers())  # type: ignore[union-attr]
        self.assertEqual((self.home / "key.der").stat().st_mode & 0o777, 0o600)

    def test_not_logged_in_to_it(self) -> None:
        """What to type."""
        for command in ("env", "config"):
            self.fails(self.db(command, "aurora"), "tsh db login aurora")
            self.fails(self.db(command), "tsh db login NAME")

    def fake_psql(self) -> dict[str, str]:
        programs = self.home / "bin"
        programs.mkdir()
        (programs / "psql").write_text('#!/bin/sh\nprintf "args=%s count=%s\\n" "$*" $#\nexit 3\n')
        (programs / "psql").chmod(0o755)
        return {"PATH": f"{programs}:/usr/bin:/bin"}

    def test_connect(self) -> None:
        """psql takes the process's place, its exit code too; a login to the database is made when there is none."""
        path = self.fake_psql()
        result = self.db("connect", "--db-user=bob", "aurora", **path)
        self.assertEqual((result.code, result.out), (3, "args=service=root-aurora user=bob count=1\n"))
        self.assertIn("user=bob\n", self.service.read_text())
        calls = len(self.cluster.calls)
        self.assertEqual(self.db("connect", **path).out, "args=service=root-aurora count=1\n")
        # It asks whether a role wants a code by now, and no more.
        self.assertEqual([path for _, path, _ in self.cluster.calls[calls:]], ["/v1/mfa"])

    def test_connect_quotes(self) -> None:
        """A name with blanks and quotes is one name to libpq."""
        result = self.db("connect", "aurora", r"--db-name=it's a\b", **self.fake_psql())
        self.assertEqual(result.out, r"args=service=root-aurora dbname='it\'s a\\b' count=1" + "\n")

    def test_connect_without_psql(self) -> None:
        """It says what is missing."""
        self.fails(self.db("connect", "aurora", PATH="/nonexistent"), "psql", "tsh db config aurora")

    def test_psql_reaches_the_proxy(self) -> None:
        """The real psql trusts the proxy's certificate by the files of the login."""
        if shutil.which("psql") is None:
            self.skipTest("psql is not on the PATH")
        result = self.tsh("db", "connect", "aurora", "--db-name=postgres")
        self.assertEqual(result.code, 2)  # the fake has no PostgreSQL behind it
        self.assertNotIn("certificate", result.err)

    def test_refused_certificate(self) -> None:
        """A cluster that lost trust in the login says so in a line."""
        context = self.cluster.api
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(str(self.cluster.path / "auth.pem"))
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(cadata=self.cluster.web_ca.certificate_pem.decode())
        self.cluster.api = made
        self.fails(self.db("ls"), "refused the certificate")
        self.cluster.api = context

    def test_other_authority(self) -> None:
        """A server in the cluster's place that its authority does not know is not talked to."""
        self.cluster.api = self.cluster.web
        calls = len(self.cluster.calls)
        self.fails(self.db("ls"), "cannot be trusted")
        self.assertEqual(len(self.cluster.calls), calls)


class IdentityTests(CommandTestCase):
    """A robot with a file."""

    def setUp(self) -> None:
        super().setUp()
        self.cluster.make_admin(self.home / "data")
        self.file = self.home / "robot.pem"
        arguments = ("auth", "sign", "--format=file", "--user=alice", f"--out={self.file}", "--ttl=1h")
        self.succeeds(self.run_program("tctl", f"--data-dir={self.home}/data", *arguments))

    def test_file(self) -> None:
        """It lists, logs in to databases, and writes a section that uses the file's key."""
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.assertIn("aurora", self.succeeds(self.tsh("-i", str(self.file), "db", "ls")))
        self.succeeds(self.tsh("db", "login", "aurora", f"--identity={self.file}"))
        section = (self.home / ".pg_service.conf").read_text()
        self.assertIn(f"sslkey={self.file}\n", section)
        root = next(line for line in section.splitlines() if line.startswith("sslrootcert=")).partition("=")[2]
        with open(root, "rb") as file:
            self.assertEqual(file.read(), self.cluster.host_ca.certificate_pem)
        self.assertIn("> aurora", self.succeeds(self.tsh("-i", str(self.file), "db", "ls")))
        self.succeeds(self.tsh("-i", str(self.file), "db", "logout"))
        self.fails(self.tsh("db", "ls"), "not logged in")

    def test_beside_a_login(self) -> None:
        """What it gets stands beside what a login of the same user has, and does not go with its file."""
        login = self.home / ".tsh" / "keys" / "localhost" / "alice-db"
        self.succeeds(self.tsh("db", "login", "aurora", f"--identity={self.file}"))
        self.assertFalse(login.exists())
        beside = list(login.parent.glob("alice-identity-db/*/aurora-x509.pem"))
        self.assertEqual(len(beside), 1)

    def test_status(self) -> None:
        """Whose it is."""
        facts = json.loads(self.succeeds(self.tsh("status", "-i", str(self.file), "--format=json")))
        self.assertEqual((facts["user"], facts["proxy"]), ("alice", self.cluster.address))

    def test_expired(self) -> None:
        """The file's end is said in its own words."""
        arguments = ("auth", "sign", "--user=alice", f"--out={self.file}", "--ttl=1s", "--overwrite")
        self.succeeds(self.run_program("tctl", f"--data-dir={self.home}/data", *arguments))
        time.sleep(max(0, self.cluster.now + 1.05 - time.time()))
        self.fails(self.tsh("-i", str(self.file), "db", "ls"), "your certificate expired at", "tctl auth sign")

    def test_no_identity(self) -> None:
        """A file of something else, or none."""
        self.fails(self.tsh("-i", self.cluster.web_ca_file, "db", "ls"), "no identity file", code=2)
        self.fails(self.tsh("-i", "/nowhere", "db", "ls"), "/nowhere")
        self.fails(self.tsh("-i", str(self.file), "login", "--proxy=x"), "needs no login", code=2)
