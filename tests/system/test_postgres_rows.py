"""What bites an access proxy, one test a row, against each PostgreSQL of this machine through real processes."""

from __future__ import annotations

import base64
import contextlib
import ssl
import struct
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from teleport_db.certs.authority import AuthorityKind
from teleport_db.certs.keys import load_private, new_key, pem, private_pem
from teleport_db.pgwire.messages import (
    FLUSH,
    GSSENC_REQUEST,
    SSL_REQUEST,
    SYNC,
    TERMINATE,
    authentication,
    cancel_request,
    error_response,
    message,
    startup_message,
)
from tests.pgwire.wire import COPY_DONE, bind, close, copy_data, execute, function_call, parse, query
from tests.pgwire.wire import startup as pairs
from tests.system.raw import Message, Raw, context, error, kinds, rows, split
from tests.system.support import until
from tests.system.versions import Base

LONG = "x" * 63
ALICE = (b"user", b"alice")
METRICS = (b"database", b"metrics")
V = struct.Struct(">I")


def untold(messages: list[Message]) -> list[Message]:
    """Messages without what no two sessions share: key data, and the process id of a notification."""
    return [
        (kind, b"" if kind == b"K" else body[4:] if kind == b"A" else body) for kind, body in messages if kind != b"K"
    ]


def memory(pid: int, name: str) -> int:
    """Bytes of memory of a process, as ``VmRSS`` or ``VmHWM`` (its peak)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(kilobytes) * 1024


class Rows:
    """The rows; below they are run against each server."""

    # What is used of the base.
    world: Any
    alice: Any
    server: Any
    settings: dict[str, str]
    source: str
    version: int
    connect: Any
    session: Any
    both: Any
    assertEqual: Any
    assertIn: Any
    assertNotIn: Any
    assertTrue: Any
    addCleanup: Any
    subTest: Any
    assertRaises: Any
    assertRaisesRegex: Any

    def login(self, *parameters: tuple[bytes, bytes], version: int = 3 << 16, **options: Any) -> list[Message]:
        """What a startup is answered with, names in any order and number."""
        raw = self.connect(**options)
        raw.send(pairs(*parameters, version=version))
        said: list[Message] = raw.until(b"Z")
        return said

    def assertRefused(self, said: list[Message], sqlstate: str, words: str = "") -> None:
        found = error(said)
        self.assertEqual(found.get("C"), sqlstate, said)
        self.assertIn(words, found["M"])

    def assertSame(self, *sent: bytes) -> list[Message]:
        """Each round is answered by the proxy as by the server; the answer to the last."""
        answers = []
        for raw in self.both():
            answers.append([raw.ask(each) for each in sent])
        direct, proxied = answers
        self.assertEqual([untold(each) for each in proxied], [untold(each) for each in direct])
        return proxied[-1]  # type: ignore[no-any-return]

    def recorded(self, **only: object) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.world.until_recorded(db_service=self.source, **only)
        return found

    def test_row_01_effective_names(self) -> None:
        """No database is the user's name: for the server, the roles and the log."""
        for parameters in ((ALICE,), (ALICE, (b"database", b""))):
            raw = self.connect()
            raw.send(pairs(*parameters))
            self.assertEqual(raw.until(b"Z")[-1][0], b"Z")
            self.assertEqual(rows(raw.ask(query(b"SELECT current_database()"))), [[b"alice"]])
        self.recorded(event="db.session.start", db_name="alice", success=True)
        carol = self.world.person("carol")
        if not carol.password:
            carol.invited("--db-names=metrics", "--db-users=alice").login()
        carol.tsh("db", "login", "--db-user=alice", self.source)
        raw = Raw(self.world.web).secure(context(carol.settings(self.source)))
        self.addCleanup(raw.close)
        self.assertRefused(raw.startup(user="alice"), "42501", 'database "alice"')

    def test_row_02_truncation(self) -> None:
        """A name that the server would cut is refused; the longest is not."""
        self.assertRefused(self.login(ALICE, (b"database", f"{LONG}-allowed".encode())), "42501", "71 bytes")
        self.assertRefused(self.login((b"user", f"{LONG}-allowed".encode()), METRICS), "42501", "71 bytes")
        self.assertEqual(self.login(ALICE, (b"database", LONG.encode()))[-1][0], b"Z")

    def test_row_03_duplicates(self) -> None:
        """Of two names the server takes the last; the proxy neither."""
        said = self.login(ALICE, (b"database", b"postgres"), METRICS, direct=True)
        self.assertEqual(said[-1][0], b"Z")
        for name, value in (METRICS, ALICE):
            self.assertRefused(self.login(ALICE, METRICS, (name, value)), "08P01", "twice")

    def test_row_04_replication(self) -> None:
        """The server streams to whom the proxy does not let replicate."""
        said = self.login(ALICE, METRICS, (b"replication", b"database"), direct=True)
        self.assertEqual(said[-1][0], b"Z")
        for value in (b"database", b"true", b"1", b"on"):
            said = self.login(ALICE, METRICS, (b"replication", value))
            self.assertRefused(said, "42501", "does not allow replication connections")
        self.assertEqual(self.login(ALICE, METRICS, (b"replication", b"false"))[-1][0], b"Z")
        self.recorded(event="db.session.start", success=False)

    def test_row_05_function_call(self) -> None:
        """A function called without SQL: relayed, and recorded with its arguments; and psql's large objects."""
        direct = self.session(direct=True)
        [[oid]] = rows(direct.ask(query(b"SELECT 'pg_read_file(text)'::regprocedure::oid")))
        assert oid is not None
        said = self.assertSame(function_call(int(oid), [b"PG_VERSION"], [0]))
        self.assertEqual(said[0][0], b"V")
        self.assertIn(str(self.version).encode(), said[0][1])
        self.recorded(event="db.session.query", function_oid=int(oid), db_query_parameters=["PG_VERSION"])
        content = bytes(range(256)) * 300
        (self.alice.home / "object").write_bytes(content)
        service = self.alice.service(self.source)
        self.alice.psql(service, "", "-c", "\\lo_import object", "-c", "\\lo_export :LASTOID back")
        self.assertEqual((self.alice.home / "back").read_bytes(), content)

    def test_row_06_parse_again(self) -> None:
        """A name that is in use is not prepared again, and what runs is the old SQL: the log can tell."""
        said = self.assertSame(
            parse(b"s", b"SELECT 'the old one'") + SYNC,
            parse(b"s", b"SELECT 'a new one'") + bind(b"", b"s") + execute(b"") + SYNC,
            bind(b"", b"s") + execute(b"") + SYNC,
        )
        self.assertEqual(rows(said), [[b"the old one"]])
        # After an error the server skips to Sync: a Parse in between makes nothing.
        said = self.assertSame(
            parse(b"t", b"SELECT wrong") + parse(b"u", b"SELECT 1") + SYNC,
            bind(b"", b"u") + execute(b"") + SYNC,
        )
        self.assertEqual(error(said)["C"], "26000")

    def test_row_07_startup_parameters(self) -> None:
        """Who would change the effective user to one of no role is refused; other settings take effect, recorded."""
        for name, value in (
            (b"options", b"-c role=stranger"),
            (b"options", b"--session-authorization=stranger"),
            (b"options", b"-c search_path=x -crole=stranger"),
            (b"role", b"stranger"),
            (b"ROLE", b"stranger"),
            (b"session_authorization", b"stranger"),
        ):
            said = self.login(ALICE, METRICS, (name, value))
            self.assertRefused(said, "42501", "to which the connection's parameters would change")
        # One that the roles allow is for PostgreSQL to decide on.
        said = self.login(ALICE, METRICS, (b"role", b"postgres"))
        self.assertRefused(said, "42501", 'permission denied to set role "postgres"')
        raw = self.session(options="-c search_path=elsewhere -c work_mem=1234kB", application_name="seventh")
        self.assertEqual(rows(raw.ask(query(b"SHOW search_path; SHOW work_mem"))), [[b"elsewhere"], [b"1234kB"]])
        until(lambda: any("search_path=elsewhere" in line for line in self._options()), "the parameters in the log")

    def _options(self) -> list[str]:
        events = self.recorded(event="db.session.start", success=True)
        return [event["parameters"].get("options", "") for event in events]

    def test_row_08_certificates(self) -> None:
        """Only a client's certificate of the databases' own authority opens the database."""
        settings = self.world.direct
        both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        cases = [("host", both), ("user", both[1:]), ("db", both), ("db_client", both[:1]), ("db_client", both[1:])]
        opened = []
        for case in cases:
            paths = self._certificate(*case)
            using = ssl.create_default_context(cafile=settings["sslrootcert"])
            using.load_cert_chain(*paths)
            with Raw(self.server.port) as raw, contextlib.suppress(OSError):
                if raw.secure(using).startup(user="alice", database="metrics")[-1:][0][0] == b"Z":
                    opened.append(case)
        self.assertEqual(opened, cases[-1:])
        # What `tctl auth sign` gives a server to trust is that authority and no other.
        [trusted] = [x509.load_pem_x509_certificate((self.world.directory / "server.cas").read_bytes())]
        self.assertEqual(trusted, self.world.authority("db_client").certificate)
        # And the databases' certificates do not open the proxy.
        raw = Raw(self.world.web)
        self.addCleanup(raw.close)
        using = ssl.create_default_context(cafile=self.settings["sslrootcert"])
        using.load_cert_chain(settings["sslcert"], settings["sslkey"])
        try:
            said_by_proxy = raw.secure(using).startup(user="alice", database="metrics")
        except ssl.SSLError as refused:
            said_by_proxy = []
            self.assertIn("unknown ca", str(refused).lower())
        self.assertEqual(said_by_proxy, [])

    def _certificate(self, kind: AuthorityKind, usages: Sequence[ObjectIdentifier]) -> list[Path]:
        """A certificate that names alice, of any of the cluster's authorities, for any use."""
        authority = self.world.authority(kind)
        key, issuer = new_key(), load_private(authority.key_pem)
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(authority.certificate.subject)
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alice")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(issuer, hashes.SHA256())
        )
        paths = [self.world.directory / f"eighth.{end}" for end in ("crt", "key")]
        paths[0].write_bytes(pem(certificate))
        paths[1].write_bytes(private_pem(key))
        return paths

    def test_row_09_versions(self) -> None:
        """3.x is negotiated as the server does it, unknown options too; other versions are refused in words."""
        for version, options in (
            (3 << 16, ()),
            (3 << 16 | 1, ()),
            (3 << 16 | 2, ()),
            (3 << 16 | 9999, ()),
            (3 << 16, ((b"_pq_.unheard", b"1"),)),
            (3 << 16 | 2, ((b"_pq_.a", b"1"), (b"_pq_.b", b""))),
            (3 << 16 | 9999, ((b"_pq_.test_protocol_negotiation", b"1"),)),
        ):
            answers = [self.login(ALICE, METRICS, *options, version=version, direct=direct) for direct in (True, False)]
            direct, proxied = answers
            self.assertEqual(untold(proxied), untold(direct), (version, options))
            self.assertEqual(kinds(proxied), kinds(direct))
            lengths = [[len(body) for kind, body in answer if kind == b"K"] for answer in answers]
            self.assertEqual(lengths[1], lengths[0])
            if options or version & 0xFFFF > 2:
                self.assertIn(b"v", kinds(proxied))
        for version in (2 << 16, 4 << 16, 1 << 16, 9 << 16 | 1):
            said = self.login(ALICE, METRICS, version=version)
            self.assertRefused(said, "08P01", f"protocol {version >> 16}.{version & 0xFFFF}")

    def _newest(self) -> int:
        return 3 << 16 | (2 if self.version >= 18 else 0)

    def test_row_10_encryption_requests(self) -> None:
        """One GSSENCRequest, one SSLRequest; what is glued behind either closes the connection."""
        world = self.world
        with Raw(world.web) as raw:
            raw.send(GSSENC_REQUEST)
            self.assertEqual(raw.read(1), b"N")
            said = raw.secure(context(self.settings)).startup(user="alice", database="metrics")
            self.assertEqual(said[-1][0], b"Z")
            self.assertEqual(rows(raw.ask(query(b"SELECT 10"))), [[b"10"]])
        hello = b"\x16\x03\x01\x00\x05hello"
        for glued in (
            SSL_REQUEST + hello,
            SSL_REQUEST + startup_message([ALICE, METRICS]),
            GSSENC_REQUEST + SSL_REQUEST,
            GSSENC_REQUEST + startup_message([ALICE, METRICS]),
            GSSENC_REQUEST + b"\0",
        ):
            with Raw(world.web) as raw:
                raw.send(glued)
                heard = raw.rest()
                self.assertRefused(split(heard), "08P01", "bytes behind")
        for first in (SSL_REQUEST, GSSENC_REQUEST):
            raw = self.connect()
            raw.send(first)
            self.assertRefused(raw.until(b"E"), "08P01", "inside TLS")
        with Raw(world.web) as raw:
            raw.send(GSSENC_REQUEST)
            self.assertEqual(raw.read(1), b"N")
            raw.send(GSSENC_REQUEST)
            self.assertRefused(raw.until(b"E"), "08P01", "a second time")
        with Raw(world.web) as raw:
            raw.send(SSL_REQUEST)
            self.assertEqual(raw.read(1), b"S")
            raw.send(GSSENC_REQUEST)
            self.assertEqual(raw.rest(), b"")
        with Raw(world.web) as raw:
            raw.secure(context(self.settings, alpn=("postgresql",)), ask=False)
            self.assertEqual(raw.alpn, "postgresql")
            self.assertEqual(raw.startup(user="alice", database="metrics")[-1][0], b"Z")
        # Behind SSLRequest, ALPN is PostgreSQL's or none; PostgreSQL itself looks at it since 17.
        for direct in (True, False) if self.version >= 17 else (False,):
            settings, port = (world.direct, self.server.port) if direct else (self.settings, world.web)
            for alpn in (("h2", "postgresql"), ("http/1.1",), ("h2", "postgres")):
                with Raw(port) as raw:
                    if "postgresql" in alpn:
                        raw.secure(context(settings, alpn=alpn))
                        self.assertEqual(raw.alpn, "postgresql")
                    else:
                        with self.assertRaisesRegex(ssl.SSLError, "(?i)no.application.protocol"):
                            raw.secure(context(settings, alpn=alpn))
        for alpn in ((), ("http/1.1",), ("h2", "postgres")):
            with Raw(world.web) as raw:
                # Without the name it is the web that answers, with its own certificate.
                using = context(self.settings, alpn=alpn)
                using.check_hostname, using.verify_mode = False, ssl.CERT_NONE
                raw.secure(using, ask=False)
                raw.send(startup_message([ALICE, METRICS]) + b"\r\n\r\n")
                self.assertNotIn(b"Z", kinds(split(raw.rest())))

    def test_row_11_cancel(self) -> None:
        """A cancel without a certificate, plain, in TLS and in direct TLS, ends one query of one session."""
        sleep = query(b"SELECT pg_sleep(60)")
        for version in {3 << 16, self._newest()}:
            victim, other = Raw(self.world.web), self.session()
            self.addCleanup(victim.close)
            said = victim.secure(context(self.settings)).startup(version, user="alice", database="metrics")
            key = next(body for kind, body in said if kind == b"K")
            pid, secret = V.unpack_from(key)[0], key[4:]
            self.assertEqual(len(secret), 4 if version == 3 << 16 else 32)
            [[own]] = rows(victim.ask(query(b"SELECT pg_backend_pid()")))
            self.assertNotIn(str(pid).encode(), (own,))
            other.send(sleep)
            for way in ("wrong", "plain", "tls", "direct"):
                victim.send(sleep)
                pids = int(own or b"0")
                self._until_active(pids)
                if way == "wrong":
                    wrong = secret[:-1] + bytes([secret[-1] ^ 1])
                    for attempt in (wrong, secret + b"\0" * 4, bytes(4)):
                        self._cancel("plain", pid, attempt)
                    self._cancel("plain", pids, secret)
                    self._cancel("plain", pid, secret)
                else:
                    self._cancel(way, pid, secret)
                self.assertEqual(error(victim.until(b"Z"))["C"], "57014", way)
            busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)%'"
            self.assertEqual(self.server.sql(f"{busy} AND pid <> pg_backend_pid()"), "1")
            other.close()
            self.server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
            )
        until(lambda: len(self.recorded(event="db.session.cancel")) >= 4, "the cancels in the log")

    def _until_active(self, pid: int) -> None:
        asked = f"SELECT state FROM pg_stat_activity WHERE pid = {pid} AND query LIKE '%pg_sleep%'"
        until(lambda: self.server.sql(asked) == "active", "the query to run")

    def _cancel(self, way: str, pid: int, secret: bytes) -> None:
        with Raw(self.world.web) as raw:
            if way != "plain":
                alpn = ("postgresql",) if way == "direct" else ()
                raw.secure(context(self.settings, certificate=False, alpn=alpn), ask=way == "tls")
            raw.send(cancel_request(pid, secret))
            self.assertEqual(raw.rest(), b"")

    def test_row_12_lengths(self) -> None:
        """The longest startup is taken, and impossible lengths are refused before anything is waited for."""
        for direct in (True, False):
            for size in (10_004, 10_005):
                empty = pairs(ALICE, METRICS, (b"application_name", b""))
                raw = self.connect(direct=direct)
                raw.send(pairs(ALICE, METRICS, (b"application_name", b"x" * (size - len(empty)))))
                said = raw.until(b"Z")
                self.assertEqual(kinds(said)[-1:] == b"Z", size == 10_004, (direct, size))
        for length in (0, 1, 2, 3, 4, 7, 10_005, 1 << 31, (1 << 32) - 1):
            for encrypted in (False, True):
                raw = self.connect() if encrypted else Raw(self.world.web)
                self.addCleanup(raw.close)
                raw.send(V.pack(length))
                self.assertRefused(raw.until(b"E"), "08P01", "impossible length")
                self.assertEqual(raw.rest(), b"")
        for kind in (b"Q", b"S", b"d", b"P"):
            for length in (0, 1, 3, 1 << 30, 1 << 31, (1 << 32) - 1):
                raw = self.session()
                raw.send(kind + V.pack(length))
                self.assertRefused(raw.until(b"E"), "08P01", "impossible length")
                self.assertEqual(raw.rest(), b"")
        self.session()

    def test_row_13_copy(self) -> None:
        """COPY both ways, broken off, failed, and FROM PROGRAM, which is a query in the log."""
        self.assertSame(
            query(b"CREATE TEMP TABLE thirteen (n int, t text)"),
            query(b"COPY thirteen FROM STDIN")
            + b"".join(copy_data(b"%d\trow\n" % n) for n in range(2000))
            + copy_data(b"9999\tdi")
            + copy_data(b"vided\n")
            + COPY_DONE,
            query(b"COPY thirteen TO STDOUT"),
            query(b"COPY thirteen FROM STDIN") + message(b"f", b"broken off\0"),
            query(b"COPY thirteen FROM STDIN") + copy_data(b"no number\n") + copy_data(b"1\tx\n") + COPY_DONE,
            query(b"COPY thirteen FROM PROGRAM 'echo thirteen'"),
            query(b"SELECT count(*), min(n), max(n) FROM thirteen"),
        )
        self.recorded(event="db.session.query", db_query="COPY thirteen FROM PROGRAM 'echo thirteen'")

    def test_row_13_in_order(self) -> None:
        """Pipelines, portals with limits, notices, notifications, large objects, a large value."""
        pipeline = b"".join(
            parse(b"", b"SELECT $1::int + %d" % n)
            + bind(b"", b"", (), [b"1"])
            + execute(b"")
            + (SYNC if n % 3 else b"")
            for n in range(1, 60)
        )
        for raw in self.both():
            raw.send(pipeline + SYNC)
            answers = [raw.until(b"Z") for _ in range(40)]
            self.assertEqual([int(row[0] or b"") for each in answers for row in rows(each)], list(range(2, 61)))
        series = parse(b"", b"SELECT generate_series(1, 25)") + bind(b"p", b"")
        said = self.assertSame(
            query(b"BEGIN"),
            series + (execute(b"p", 10) + FLUSH) * 3 + execute(b"p", 10) + close(b"P", b"p") + SYNC,
            query(b"DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two' USING HINT = 'h', DETAIL = 'd'; END $$"),
            query(b"COMMIT"),
            query(b"LISTEN thirteen; NOTIFY thirteen, 'a word'"),
            query(b"SELECT lo_from_bytea(424242, 'abc'); SELECT lo_get(424242); SELECT lo_unlink(424242)"),
            query(b"SELECT 1; SELECT 2; SELECT wrong; SELECT 3"),
            query(b""),
            query(b"SELECT repeat('0123456789abcdef', 100000)"),
            query(b"SELECT '" + b"y" * 300_000 + b"'"),
        )
        self.assertEqual(len(rows(said)[0][0] or b""), 300_000)
        # A notification of another session comes while nothing is asked.
        listening, speaking = self.session(), self.session(direct=True)
        listening.ask(query(b"LISTEN thirteen"))
        speaking.ask(query(b"NOTIFY thirteen, 'unasked'"))
        self.assertIn(b"thirteen\0unasked\0", (listening.message() or (b"", b""))[1])

    def test_row_13_large(self) -> None:
        """Messages of 32 MB each way, each one of its kind: whole, and neither process ever holds one."""
        size = 32 << 20
        processes = (self.world.auth.pid, self.world.agent_process.pid)
        raw = self.session()
        raw.ask(query(b"CREATE TEMP TABLE thirteen (t text)"))
        for pid in processes:
            # Peaks are counted anew: a password's hash takes 64 MB.
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = [memory(pid, "VmRSS") for pid in processes]
        for sent, expected in (
            (query(b"SELECT repeat('r', %d)" % size), b"r" * size),
            (query(b"SELECT length('" + b"q" * size + b"')"), b"%d" % size),
            (
                parse(b"", b"SELECT length($1::text)") + bind(b"", b"", (), [b"b" * size]) + execute(b"") + SYNC,
                b"%d" % size,
            ),
            (
                query(b"COPY thirteen FROM STDIN") + copy_data(b"c" * size + b"\n") + COPY_DONE,
                None,
            ),
            (query(b"SELECT length(t) FROM thirteen"), b"%d" % size),
            (query(b"SELECT t FROM thirteen"), b"c" * size),
        ):
            said = raw.ask(sent)
            self.assertEqual(error(said), {})
            self.assertTrue(expected is None or rows(said) == [[expected]])
        said = raw.ask(query(b"COPY thirteen TO STDOUT"))
        self.assertTrue((b"d", b"c" * size + b"\n") in said)
        grown = [memory(pid, "VmHWM") - known for pid, known in zip(processes, before, strict=True)]
        self.assertTrue(max(grown) < 24 << 20, grown)

    def test_row_14_hostile_server(self) -> None:
        """A server that breaks the protocol ends its own session, and nothing else."""
        other = self.session()
        iterations = b"r=%s,s=QSXCR+Q6sek8bf92,i=2147483648"

        def endless(stream: ssl.SSLSocket) -> None:
            for _ in range(64):
                stream.sendall(message(b"N", b"SNOTICE\0M" + b"x" * 60000 + b"\0\0"))

        def scram(stream: ssl.SSLSocket) -> None:
            stream.sendall(authentication(10, b"SCRAM-SHA-256\0\0"))
            first = stream.recv(65536)
            nonce = first.partition(b"r=")[2]
            stream.sendall(authentication(11, iterations % (nonce + b"server")))

        def said(data: bytes) -> Any:
            return lambda stream: stream.sendall(data)

        cases: list[tuple[bytes, Any, str, str]] = [
            (b"", said(b"R\xff\xff\xff\xff"), "08P01", ""),
            (b"", said(b"R\x00\x00\x00\x03"), "08P01", ""),
            (b"", said(b"E\x7f\xff\xff\xff"), "08P01", ""),
            (b"", said(b"D\x00\x00\x00\x04"), "08P01", ""),
            (b"", endless, "08P01", "1 MiB"),
            (b"", scram, "", ""),
            (b"", said(error_response("FATAL", "28P01", "its own words")), "28P01", "its own words"),
            (error_response("FATAL", "57P03", "forged words"), None, "08006", ""),
            (b"N", None, "08006", "TLS"),
            (b"Sglued", None, "08006", ""),
            (b"x", None, "08006", ""),
        ]
        for before, speak, sqlstate, words in cases:
            self.world.hostile.before = before
            self.world.hostile.speak = speak or (lambda stream: None)
            raw = self.connect(service="hostile")
            began = time.monotonic()
            found = error(raw.startup(user="alice", database="metrics"))
            case = (before, words, found)
            self.assertTrue(found.get("C") == sqlstate if sqlstate else found.get("C"), case)
            self.assertIn(words, found["M"], case)
            self.assertNotIn("forged", found["M"])
            self.assertTrue(time.monotonic() - began < 5.0, case)
        self.assertEqual(rows(other.ask(query(b"SELECT 14"))), [[b"14"]])
        self.assertEqual(self.world.agent_process.code, None)

    def test_row_15_words(self) -> None:
        """Unreachable, a wrong password, the server's own refusal: words, and a failed start in the log."""
        for service, user, sqlstate, words in (
            ("down", "alice", "08006", "down"),
            ("secret", "secretive", "28P01", 'password authentication failed for user "secretive"'),
            ("secret", "alice", "", "no password for database user"),
            (self.source, "ghost", "28000", 'role "ghost" does not exist'),
        ):
            said = self.connect(service=service).startup(user=user, database="metrics")
            self.assertTrue(not sqlstate or error(said)["C"] == sqlstate, said)
            self.assertIn(words, error(said)["M"])
            self.assertEqual(kinds(said), b"E")
            recorded = self.world.until_recorded(
                event="db.session.start", success=False, db_service=service, db_user=user
            )
            self.assertEqual(recorded[0]["code"], "TDB00W")
        said = self.connect(certificate=False).startup(user="alice", database="metrics")
        self.assertRefused(said, "28000", "tsh db login")

    def test_row_16_sql_is_bytes(self) -> None:
        """SQL in LATIN1 that no UTF-8 reader can read: relayed as it is, kept as base64."""
        sql = b"SELECT 'caf\xe9 \xff', 16 AS n%d" % self.version
        said = self.assertSame(query(b"SET client_encoding = 'LATIN1'"), query(sql))
        self.assertEqual(rows(said)[0][0], b"caf\xe9 \xff")
        said = self.assertSame(
            query(b"SET client_encoding = 'LATIN1'"),
            parse(b"", sql + b" || $1") + bind(b"", b"", (), [b"\xfc"]) + execute(b"") + SYNC,
            query(b"SELECT '\xe9'") + TERMINATE,
        )
        self.assertSame(query(b"SELECT '\xe9'"), parse(b"\xff\xfe", b"SELECT 1") + SYNC)
        until(lambda: sql in self._undecodable(), "the bytes in the log")

    def _undecodable(self) -> list[bytes]:
        events = self.recorded(event="db.session.query")
        return [base64.b64decode(event["db_query_base64"]) for event in events if "db_query_base64" in event]

    def test_row_17_errors_whole(self) -> None:
        """Errors and notices have every field they left the server with."""
        self.session(direct=True).ask(
            query(b"CREATE TABLE seventeen (n int CONSTRAINT positive CHECK (n > 0), PRIMARY KEY (n))")
        )
        said = self.assertSame(
            query(b"INSERT INTO seventeen VALUES (1); INSERT INTO seventeen VALUES (1)"),
            query(b"SELECT upper(12, 13)"),
            query(b"SELECT nothing FROM seventeen"),
            query(b"DO $$ BEGIN RAISE EXCEPTION 'x' USING DETAIL='d', HINT='h', ERRCODE='ZZ123', COLUMN='c'; END $$"),
            query(b"INSERT INTO seventeen VALUES (-1)"),
        )
        found = error(said)
        self.assertEqual((found["C"], found["n"], found["t"]), ("23514", "positive", "seventeen"))
        self.assertIn("Failing row contains (-1).", found["D"])


class WheelTests(Rows, Base):
    """PostgreSQL 18."""

    source = "wheel"


class SystemTests(Rows, Base):
    """The machine's own PostgreSQL."""

    source = "system"
