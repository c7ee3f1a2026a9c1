"""Bad input, at every door: one clear line, the right exit status, the right SQLSTATE."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs.authority import Authority
from teleport_db.certs.keys import new_key, pem, private_pem
from teleport_db.identity import from_certificate
from tests import postgres
from tests.system.support import (
    STATIC_TOKEN,
    Process,
    Said,
    World,
    closing_on_failure,
    program,
    refusal,
    run,
    shared,
    until,
)

WRONG_PIN = "sha256:" + "0" * 64


def build() -> World:
    """auth and proxy, an agent of a database that runs and of one that does not, alice."""
    with closing_on_failure(World()) as world:
        world.start_auth()
        world.certify()
        world.postgres.sql("CREATE USER alice; CREATE DATABASE metrics OWNER alice;")
        (world.unused,) = (postgres.free_port(),)
        agents = [
            world.agent("aurora", f"--token={STATIC_TOKEN}", "--insecure"),
            world.agent("down", f"--token={STATIC_TOKEN}", "--insecure", uri=f"localhost:{world.unused}"),
        ]
        for agent in agents:
            agent.until_up()
        world.until_served("aurora", "down")
        alice = world.person("alice").invited("--db-names=metrics", "--db-users=alice,ghost")
        alice.login()
        for name in ("aurora", "down"):
            alice.tsh("db", "login", f"--db-user={alice.name}", "--db-name=metrics", name)
    return world


class Case(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.alice = self.world.person("alice")

    def assertOneLine(self, said: Said, code: int, *words: str) -> None:
        """A command ended with this status and one line, beside a second one that says where to look."""
        lines = said.errors
        self.assertEqual(said.code, code, said.text)
        self.assertLessEqual(len(lines), 2, said.err)
        self.assertTrue(lines[0].startswith("ERROR: "), said.err)
        for word in words:
            self.assertIn(word, said.err)
        self.assertNotIn("Traceback", said.text)

    def assertEnded(self, process: Process, *words: str) -> None:
        """A process ended with status 1 and one line for people."""
        self.assertEqual(process.wait(), 1, process.said)
        lines = [line for line in process.said.splitlines() if line.startswith(("teleport: ", "ERROR: "))]
        self.assertEqual(len(lines), 1, process.said)
        for word in words:
            self.assertIn(word, lines[0])
        self.assertNotIn("Traceback", process.said)

    def assertRefused(
        self, name: str, sqlstate: str, *words: str, user: str = "alice", database: str = "metrics"
    ) -> None:
        """A login is refused with this SQLSTATE and these words, to psql as well."""
        fields = refusal(self.alice.settings(name), user, database)
        self.assertEqual((fields.get("C"), fields.get("S")), (sqlstate, "FATAL"), fields)
        said = self.alice.psql(self.alice.service(name, user, database), "SELECT 1", fails=True)
        self.assertEqual(said.code, 2)
        for word in words:
            self.assertIn(word, fields["M"])
            self.assertIn(word, said.err)
        self.assertEqual(len(fields["M"].splitlines()), 1)


class StartTests(Case):
    def start(self, *flags: str) -> Said:
        return self.world.run("teleport", "start", f"--data-dir={self.world.directory}/never", *flags, fails=True)

    def test_unknown_key(self) -> None:
        """The file, the line, the key's path, and the key that was meant."""
        file = self.world.file("typo.yaml", 'auth_service:\n  enabled: "yes"\n  lisen_addr: 127.0.0.1:3025\n')
        said = self.start("-c", str(file))
        self.assertOneLine(said, 1, f"{file}:3: auth_service.lisen_addr", "did you mean listen_addr?")

    def test_bad_port(self) -> None:
        """A port beyond 65535, in a file and in a flag."""
        file = self.world.file("port.yaml", "proxy_service:\n  web_listen_addr: 127.0.0.1:70000\n")
        said = self.start("-c", str(file))
        self.assertOneLine(said, 1, f"{file}:2: proxy_service.web_listen_addr", "not a port between 1 and 65535")
        said = self.start("--roles=db", "--db-name=a", "--db-uri=localhost:0", "--auth-server=localhost:3080")
        self.assertOneLine(said, 2, "--db-uri: not a port between 1 and 65535: '0'")

    def test_missing_file(self) -> None:
        """A configuration file that is not there; a CA file that is not there."""
        self.assertOneLine(self.start("-c", "/nowhere/teleport.yaml"), 1, "/nowhere/teleport.yaml: No such file")
        self.assertOneLine(self.world.tctl("create", "-f", "/nowhere/role.yaml", fails=True), 1, "/nowhere/role.yaml")

    def test_bad_flags(self) -> None:
        """An unknown role, a missing address, a name that is none."""
        self.assertOneLine(self.start("--roles=proxi"), 2, "--roles: unknown role 'proxi' (did you mean proxy?)")
        self.assertOneLine(self.start("--roles=db", "--db-name=a"), 2, "--db-uri is missing")
        said = self.start("--roles=db", "--db-name=A_1", "--db-uri=localhost:5432")
        self.assertOneLine(said, 2, "--db-name: not a name for a database service: 'A_1'")

    def test_no_token(self) -> None:
        """An agent without a token and without certificates says how to get one."""
        self.assertEnded(self.world.agent("tokenless"), "--token", "tctl tokens add")

    def test_wrong_token(self) -> None:
        """A token that nobody gave out; it is not repeated."""
        agent = self.world.agent("wrong-token", "--token=not-a-real-token-1234", "--insecure")
        self.assertEnded(agent, "refused to let this process join")
        self.assertNotIn("not-a-real-token-1234", agent.said)

    def test_token_of_another_role(self) -> None:
        """A token for proxies lets no agent in."""
        token = self.world.tctl("tokens", "add", "--type=proxy", "--format=json").json()["token"]
        agent = self.world.agent("wrong-role", f"--token={token}", "--insecure")
        self.assertEnded(agent, "refused to let this process join")

    def test_wrong_pin(self) -> None:
        """A pin of another cluster."""
        agent = self.world.agent("wrong-pin", f"--token={STATIC_TOKEN}", f"--ca-pin={WRONG_PIN}")
        self.assertEnded(agent, "pin")

    def test_unverified(self) -> None:
        """With neither a pin nor --insecure a self-signed proxy is not joined."""
        agent = self.world.agent("unverified", f"--token={STATIC_TOKEN}")
        self.assertEnded(agent, "cannot be verified", "--ca-pin", "--insecure")

    def test_port_taken(self) -> None:
        """Who listens on a port that somebody else has."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            file = self.world.file(
                "taken.yaml",
                f"teleport:\n  data_dir: {self.world.directory}/taken\n"
                f"auth_service:\n  listen_addr: 127.0.0.1:{port}\nproxy_service:\n  enabled: no\n",
            )
            process = self.world.start("taken", "teleport", "start", "-c", str(file))
            self.assertEnded(process, f"cannot listen on 127.0.0.1:{port}: address already in use")


class LoginTests(Case):
    def attempt(self, name: str, password: str, code: str) -> Said:
        proxy = f"--proxy=localhost:{self.world.web}"
        return self.world.person(name).tsh(
            "login", proxy, f"--user={name}", "--insecure", typed=f"{password}\n{code}\n", fails=True
        )

    def test_wrong_password_and_code(self) -> None:
        """A wrong password, a wrong code, an unknown user: one answer."""
        dave = self.world.person("dave").invited("--db-names=metrics")
        code = dave.next_code()
        wrong = self.attempt("dave", "not the password", code)
        self.assertOneLine(wrong, 1)
        other = self.attempt("dave", dave.password, "000000" if code != "000000" else "000001")
        unknown = self.attempt("nobody-here", "whatever it is", "123456")
        self.assertEqual(wrong.err, other.err)
        self.assertEqual(wrong.err, unknown.err)
        dave.login()
        self.assertEqual(len(self.world.until_recorded(event="user.login", user="dave", success=True)), 1)
        self.assertEqual(len(self.world.events(event="user.login", user="dave", success=False)), 2)

    def test_code_works_once(self) -> None:
        """The code of a login is refused a second time."""
        erin = self.world.person("erin").invited("--db-names=metrics")
        erin.login()
        assert erin.codes is not None
        again = self.attempt("erin", erin.password, erin.codes.generate_otp(erin._step))
        self.assertOneLine(again, 1)

    def test_self_signed(self) -> None:
        """Without --insecure and SSL_CERT_FILE the self-signed proxy is not believed."""
        said = self.alice.login("--ttl=1h", fails=True)
        self.assertOneLine(said, 1, "SSL_CERT_FILE", "--insecure")

    def test_nobody_listens(self) -> None:
        """A proxy that is not there."""
        said = self.world.person("frank").tsh(
            *("login", f"--proxy=localhost:{self.world.unused}", "--insecure"), typed="x\n1\n", fails=True
        )
        self.assertOneLine(said, 1, f"localhost:{self.world.unused}")

    def test_unknown_database(self) -> None:
        """tsh db login of what is not there says where to look."""
        said = self.alice.tsh("db", "login", "nosuch", fails=True)
        self.assertOneLine(said, 1, "there is no database nosuch that you may connect to; see tsh db ls")


class SessionTests(Case):
    def test_no_certificate(self) -> None:
        """psql without a certificate is told what to run."""
        fields = refusal(self.alice.settings("aurora"), "alice", "metrics", certificate=False)
        self.assertEqual(fields["C"], "28000")
        bare = f"host=localhost port={self.world.web} user=alice dbname=metrics sslmode=require sslcert=/nowhere"
        said = self.alice.psql(bare, "SELECT 1", fails=True)
        self.assertIn("FATAL:  a client certificate is needed; run: tsh db login NAME", said.err)

    def test_no_route(self) -> None:
        """The certificate of the login itself leads to no database."""
        settings = self.alice.settings("aurora")
        login = {**settings, "sslcert": settings["sslkey"] + "-x509.pem"}
        fields = refusal(login, "alice", "metrics")
        self.assertEqual(fields["C"], "28000")
        self.assertIn("names no database service; run: tsh db login", fields["M"])

    def test_expired(self) -> None:
        """A certificate whose time has come is refused with words, not with a TLS alert."""
        world = self.world
        settings = self.alice.settings("aurora")
        mine = x509.load_pem_x509_certificate(Path(settings["sslcert"]).read_bytes())
        public_key = mine.public_key()
        assert isinstance(public_key, EllipticCurvePublicKey)
        old = world.authority("user").issue(
            public_key,
            common_name="alice",
            now=time.time() - 7200.0,
            ttl=3600.0,
            server=False,
            identity=from_certificate(mine),
        )
        path = world.file("expired.pem", pem(old).decode())
        fields = refusal({**settings, "sslcert": str(path)}, "alice", "metrics")
        self.assertEqual(fields["C"], "28000")
        self.assertIn("the certificate expired at", fields["M"])
        said = self.alice.psql(f"{self.alice.service('aurora')} sslcert={path}", "SELECT 1", fails=True)
        self.assertIn(f"FATAL:  {fields['M']}", said.err)

    def test_role(self) -> None:
        """What no role allows: the user, the database."""
        self.assertRefused("aurora", "42501", 'does not allow database user "postgres"', user="postgres")
        self.assertRefused("aurora", "42501", 'does not allow database "postgres"', database="postgres")
        self.world.until_recorded(event="db.session.start", code="TDB00W", db_user="postgres", success=False)

    def test_postgres_own_words(self) -> None:
        """A user whom PostgreSQL does not know: its own words and its own SQLSTATE."""
        self.assertRefused("aurora", "28000", 'role "ghost" does not exist', user="ghost")
        self.world.until_recorded(event="db.session.start", code="TDB00W", db_user="ghost")

    def test_database_down(self) -> None:
        """Nobody listens at the database's address."""
        self.assertRefused("down", "08006", "down")
        self.world.until_recorded(event="db.session.start", code="TDB00W", db_service="down")

    def test_wrong_name(self) -> None:
        """The database's certificate is for another host."""
        self.addCleanup(self.world.certify)
        self.world.certify("db.example.com")
        self.assertRefused("aurora", "08006", "db.example.com", "tctl auth sign --format=db")

    def test_wrong_authority(self) -> None:
        """The database's certificate is of an authority the agent does not know."""
        authority = Authority.create("db", "test", now=time.time())
        key = new_key()
        certificate = authority.issue(
            key.public_key(), common_name="localhost", now=time.time(), ttl=3600.0, server=True, names=["localhost"]
        )
        self.addCleanup(self.world.certify)
        self.world.postgres.use_tls(
            pem(certificate), private_pem(key), (self.world.directory / "server.cas").read_bytes()
        )
        self.assertRefused("aurora", "08006", "certificate")

    def test_not_trusted(self) -> None:
        """A database that does not know the cluster's authority: where to look."""
        other = Authority.create("db_client", "other", now=time.time())
        self.addCleanup(self.world.certify)
        files = ((self.world.directory / f"server.{end}").read_bytes() for end in ("crt", "key"))
        self.world.postgres.use_tls(*files, other.certificate_pem)
        self.assertRefused("aurora", "08006", "closed the connection during the login", "ssl_ca_file")

    def test_no_tls(self) -> None:
        """A database without TLS is not spoken to."""
        self.addCleanup(self.world.certify)
        self.world.postgres.no_tls()
        self.assertRefused("aurora", "08006", "TLS")

    def test_agent_offline(self) -> None:
        """The agent is gone; the service is known."""
        world = self.world
        agent = world.agent("gone", f"--token={STATIC_TOKEN}", "--insecure").until_up()
        world.until_served("gone")
        self.alice.tsh("db", "login", "gone")
        self.addCleanup(self.alice.tsh, "db", "logout", "gone")
        agent.kill()
        until(lambda: refusal(self.alice.settings("gone"), "alice", "metrics"), "the agent to be missed")
        self.assertRefused("gone", "08006", 'no agent of database service "gone"')

    def test_recorded(self) -> None:
        """Who was refused without saying who it is, joins, and calls: all of it is in the audit log."""
        world, alice, settings = self.world, self.alice, self.alice.settings("aurora")
        other = Authority.create("user", "other", now=time.time())
        key = new_key()
        mine = from_certificate(x509.load_pem_x509_certificate(Path(settings["sslcert"]).read_bytes()))
        forged = other.issue(
            key.public_key(), common_name="alice", now=time.time(), ttl=3600.0, server=False, identity=mine
        )
        certificate = world.file("forged.pem", pem(forged).decode())
        world.file("forged.key", private_pem(key).decode()).chmod(0o600)
        bare = f"host=localhost port={world.web} user=alice dbname=metrics sslrootcert={settings['sslrootcert']}"
        alice.psql(f"{bare} sslmode=disable gssencmode=disable", "SELECT 1", fails=True)
        keys = f"sslcert={certificate} sslkey={world.directory}/forged.key"
        alice.psql(f"{bare} sslmode=verify-full {keys}", "SELECT 1", fails=True)
        self.assertEqual(world.agent("stranger", "--token=another-that-is-none", "--insecure").wait(), 1)
        run([*program("tctl"), "tokens", "ls"], cwd=alice.home, environment=alice.environment, fails=True)
        found = [
            world.until_recorded(
                message="this proxy accepts encrypted connections only: use sslmode=require or better"
            ),
            world.until_recorded(message="the client's certificate is of no authority of this cluster"),
            world.until_recorded(event="instance.join", code="TJ002E"),
            world.until_recorded(event="auth", code="T3007W", user="alice", method="GET /v1/tokens"),
        ]
        for events in found:
            self.assertIn("127.0.0.1", events[0]["addr.remote"])
            self.assertTrue(events[0]["error"])
        self.assertTrue(world.events(event="service.start", services=["auth", "proxy"]))
        self.assertTrue(world.events(event="instance.up", databases=["aurora"]))

    def test_database_restarted(self) -> None:
        """A database that comes back is reached again, without anybody's doing."""
        self.world.postgres.halt()
        self.assertRefused("aurora", "08006", "aurora")
        self.world.postgres.resume()
        said = self.alice.psql(self.alice.service("aurora"), "SELECT 1")
        self.assertEqual(said.out, "1\n")


class FileTests(Case):
    def test_overwrite(self) -> None:
        """tctl auth sign writes over nothing unless told to; what it writes only its owner reads."""
        world = self.world
        words = ("auth", "sign", "--format=db", "--host=localhost", "--out=twice", "--ttl=1h")
        world.tctl(*words)
        for end in ("key", "crt", "cas"):
            self.assertEqual(os.stat(world.directory / f"twice.{end}").st_mode & 0o777, 0o600)
        self.assertOneLine(world.tctl(*words, fails=True), 1, "twice.key", "--overwrite")
