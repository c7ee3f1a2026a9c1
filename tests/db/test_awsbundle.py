"""The certificates of Amazon's authorities: fetched once, kept, refreshed, and what is said when they cannot be had."""

from __future__ import annotations

import os
import ssl
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.db import awsbundle
from teleport_db.db.awsbundle import (
    DAY,
    READ_SECONDS,
    REFRESH_SECONDS,
    RETRY_SECONDS,
    BundleFiles,
    Bundles,
    fetch_https,
)
from teleport_db.errors import DatabaseUnreachable
from tests.cluster import NOW, authority
from tests.net.material import Material
from tests.net.material import authority as network

REGION = "us-west-1"


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.directory = Path(self.mktemp()) / "aws"
        self.fetched: list[str] = []
        self.answer: bytes | Exception = authority("db").certificate_pem
        self.files = BundleFiles(str(self.directory), fetch=self.fetch, now=self.clock.seconds)
        self.bundles = Bundles(self.files, in_thread=maybeDeferred, clock=self.clock)

    @property
    def path(self) -> Path:
        return self.directory / f"{REGION}-bundle.pem"

    def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def pem(self) -> bytes:
        return self.successResultOf(self.bundles.pem(REGION))

    def put(self, pem: bytes, age: float = 0.0) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(pem)
        os.utime(self.path, (NOW - age, NOW - age))


class BundleTests(Case):
    def test_fetched_once(self) -> None:
        """From Amazon's place for the region, into a file that the next agent finds."""
        self.assertEqual(self.pem(), authority("db").certificate_pem)
        self.assertEqual(self.fetched, ["https://truststore.pki.rds.amazonaws.com/us-west-1/us-west-1-bundle.pem"])
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o644)
        os.utime(self.path, (NOW, NOW))
        self.clock.advance(READ_SECONDS)
        self.pem()
        other = Bundles(self.files, in_thread=maybeDeferred, clock=self.clock)
        self.assertEqual(self.successResultOf(other.pem(REGION)), self.answer)
        self.assertEqual(len(self.fetched), 1)

    def test_shared(self) -> None:
        """Sessions that wait at once wait for one fetch."""
        waiting: list[Deferred[Any]] = []

        def in_thread(*_: Any) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        bundles = Bundles(self.files, in_thread=in_thread, clock=self.clock)
        asked = [bundles.pem(REGION) for _ in range(3)]
        waiting[0].callback(None)
        waiting[1].callback(b"pem")
        self.assertEqual([self.successResultOf(one) for one in asked], [b"pem"] * 3)
        self.assertEqual(len(waiting), 2)

    def test_by_hand(self) -> None:
        """A file that somebody has put there is used without any way out."""
        self.put(authority("db").certificate_pem)
        self.answer = OSError(0, "no network")
        self.pem()
        self.assertEqual(self.fetched, [])

    def test_failed(self) -> None:
        """The words name the address, the reason, and the file to put there."""
        self.answer = OSError(0, "no network")
        said = str(self.failureResultOf(self.bundles.pem(REGION), DatabaseUnreachable).value)
        for words in ("us-west-1/us-west-1-bundle.pem: no network", f"put that file to {self.path}", "ca_cert_file"):
            self.assertIn(words, said)
        self.answer = authority("db").certificate_pem
        self.pem()

    def test_no_certificates(self) -> None:
        """What is no bundle is not kept, and a broken file is fetched again."""
        for answer in (b"<html>", b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
            self.answer = answer
            self.failureResultOf(self.bundles.pem(REGION), DatabaseUnreachable)
            self.assertFalse(self.path.exists())
        self.put(b"half of a bun")
        self.answer = authority("db").certificate_pem
        self.assertEqual(self.pem(), self.answer)

    def test_unknown_partition(self) -> None:
        """A region whose bundle nobody knows of wants an address."""
        failure = self.failureResultOf(self.bundles.pem("us-iso-east-1"), DatabaseUnreachable)
        self.assertIn("db_service.rds_ca_url", str(failure.value))
        mirror = BundleFiles(str(self.directory), base="https://m/rds", fetch=self.fetch, now=self.clock.seconds)
        mirror.fetch("us-iso-east-1")
        self.assertEqual(self.fetched, ["https://m/rds/us-iso-east-1/us-iso-east-1-bundle.pem"])


class RefreshTests(Case):
    def test_old(self) -> None:
        """An old file is used while a new one is fetched; the next session has that."""
        self.put(authority("host").certificate_pem, age=REFRESH_SECONDS + 1)
        self.assertEqual(self.pem(), authority("host").certificate_pem)
        os.utime(self.path, (NOW, NOW))
        self.clock.advance(READ_SECONDS)
        self.assertEqual(self.pem(), authority("db").certificate_pem)
        self.assertEqual(len(self.fetched), 1)

    def test_fails(self) -> None:
        """Offline the old one goes on being used; a fetch is tried once an hour."""
        self.put(authority("host").certificate_pem, age=REFRESH_SECONDS + 1)
        self.answer = OSError(0, "no network")
        for _ in range(3):
            self.assertEqual(self.pem(), authority("host").certificate_pem)
            self.clock.advance(READ_SECONDS)
        self.assertEqual(len(self.fetched), 1)
        self.clock.advance(RETRY_SECONDS)
        self.pem()
        self.assertEqual(len(self.fetched), 2)
        self.assertEqual(self.path.read_bytes(), authority("host").certificate_pem)

    def test_expiry(self) -> None:
        """A certificate that will end soon is a reason as well, once a day."""
        self.put(authority("db").certificate_pem, age=DAY + 1)
        self.patch(awsbundle, "EXPIRY_SECONDS", 100 * 365 * DAY)
        self.pem()
        self.assertEqual(len(self.fetched), 1)
        found = self.files.read(REGION)
        assert found is not None

    def test_expired(self) -> None:
        """A file whose certificates have all ended is none."""
        self.put(authority("db").certificate_pem)
        self.clock.rightNow = NOW + 100 * 365 * DAY
        self.assertIsNone(self.files.read(REGION))

    def test_thread_fails(self) -> None:
        """A fault in the thread reaches the session."""
        calls = iter([succeed(None), fail(RuntimeError("broken"))])
        bundles = Bundles(self.files, in_thread=lambda *_: next(calls), clock=self.clock)
        self.failureResultOf(bundles.pem(REGION), RuntimeError)


class _Answers(BaseHTTPRequestHandler):
    """What a web server may say."""

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/bundle.pem")
            self.end_headers()
            return
        body = {"/bundle.pem": b"the bundle", "/large": b"x" * (awsbundle.MAX_BUNDLE + 1)}.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr."""


class FetchTests(SynchronousTestCase):
    """Over HTTPS from a server of this process."""

    def setUp(self) -> None:
        self.trusted = Path(self.mktemp())
        self.trusted.write_text(network().pem)
        for name, value in (("SSL_CERT_FILE", str(self.trusted)), ("NO_PROXY", "*"), ("no_proxy", "*")):
            self.addCleanup(self.restore, name, os.environ.get(name))
            os.environ[name] = value
        self.server = HTTPServer(("127.0.0.1", 0), _Answers)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = Path(self.mktemp())
        pair.write_bytes(network().pair("server", "127.0.0.1"))
        context.load_cert_chain(pair)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    def restore(self, name: str, value: str | None) -> None:
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.server.server_address[1]}{path}"

    def test_fetched(self) -> None:
        self.assertEqual(fetch_https(self.url("/bundle.pem")), b"the bundle")

    def test_refused(self) -> None:
        """Another status, a way elsewhere, too much: each a reason."""
        for path, said in (("/missing", "status 404"), ("/redirect", "status 302"), ("/large", "larger than")):
            self.assertIn(said, str(self.assertRaises(OSError, fetch_https, self.url(path)).strerror))

    def test_not_verified(self) -> None:
        """A server that nobody vouches for is not asked."""
        self.trusted.write_text(Material("somebody else").pem)
        self.assertIn(
            "CERTIFICATE_VERIFY_FAILED", str(self.assertRaises(OSError, fetch_https, self.url("/bundle.pem")))
        )

    def test_away(self) -> None:
        self.assertIn("refused", str(self.assertRaises(OSError, fetch_https, "https://127.0.0.1:9/x")).lower())
