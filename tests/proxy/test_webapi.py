"""What tsh and joining processes ask the proxy, and what it passes on."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from teleport_db.errors import (
    AccessDenied,
    AuthenticationFailed,
    BadRequest,
    ConnectionTrouble,
    LimitExceeded,
    RemoteProtocolError,
)
from teleport_db.proxy.web import web_site
from tests.proxy.web import HOST, Answer, WebCase

LOGIN = {"user": "alice", "password": "correct horse", "otp": "123456", "public_key": "PEM", "ttl": 3600}


class APICase(WebCase):
    def assert_error(self, answer: Answer, status: int, code: str, words: str = "") -> None:
        self.assertEqual(answer.status, status)
        self.assertEqual(list(answer.json), ["error"])
        error = answer.json["error"]
        self.assertEqual(sorted(error), ["code", "message"])
        self.assertEqual(error["code"], code)
        self.assertIn(words, error["message"])


class WebAPITests(APICase):
    """The side of the web certificate."""

    def test_ping(self) -> None:
        """The version is the proxy's own, and the address the one that people write."""
        answer = self.get("/webapi/ping?x=%ff&x")
        self.assertEqual(
            answer.json,
            {"cluster": "example", "version": "1.2.3", "second_factor": "otp", "proxy_address": f"{HOST}:3080"},
        )
        self.assertEqual(answer.header("cache-control"), "no-store")
        self.assertEqual(self.ask("HEAD", "/webapi/ping").body, b"")

    def test_cas(self) -> None:
        self.assertEqual(sorted(self.get("/webapi/cas").json), ["cluster", "db", "db_client", "host", "user"])

    def test_login(self) -> None:
        """What the client sent, and where it came from, which it cannot say itself."""
        answer = self.send_json("/webapi/login", LOGIN)
        self.assertEqual(answer.json["said"], {**LOGIN, "client_address": "127.0.0.1"})
        self.send_json("/webapi/login", {"user": "bob"}, x_forwarded_for="192.0.2.1")
        self.assertEqual(self.api.calls[-1][2], {"user": "bob", "otp": None, "client_address": "127.0.0.1"})
        self.assert_error(
            self.send_json("/webapi/login", {**LOGIN, "client_address": "::1"}), 400, "bad_request", "client_address"
        )

    def test_bodies(self) -> None:
        """What is no object of JSON does not reach auth."""
        for body in (b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 60000, b'{"a":1}'):
            self.assert_error(self.send_json("/webapi/login", body), 400, "bad_request")
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", None):
            self.assert_error(
                self.send_json("/webapi/login", LOGIN, content_type=kind), 415, "bad_request", "application/json"
            )
        self.assertEqual(self.api.calls, [])
        self.assertEqual(
            self.send_json("/webapi/login", LOGIN, content_type="Application/JSON; charset=utf-8").status, 200
        )

    def test_other_sites(self) -> None:
        """A browser cannot be made to log somebody in by another site's page."""
        self.assert_error(self.send_json("/webapi/login", LOGIN, origin="https://evil.example"), 403, "forbidden")
        self.assert_error(self.send_json("/webapi/login", LOGIN, origin="null"), 403, "forbidden")
        self.assert_error(self.send_json("/webapi/login", LOGIN, sec_fetch_site="cross-site"), 403, "forbidden")
        self.assertEqual(self.api.calls, [])
        preflight = self.ask("OPTIONS", "/webapi/login", origin="https://evil.example")
        self.assertEqual(preflight.status, 403)
        self.assertFalse([name for name in preflight.headers if name.startswith("access-control")])

    def test_hosts(self) -> None:
        """tsh may come by any name; it is the certificate that it checks."""
        self.assertEqual(self.get("/webapi/ping", host="proxy-of-a-container:3080").status, 200)
        self.assert_error(self.get("/webapi/ping", host="<b>"), 400, "bad_request")

    def test_refusals(self) -> None:
        """Auth's refusals keep their class and their words."""
        for error in (
            AuthenticationFailed("the password is wrong"),
            LimitExceeded("later"),
            AccessDenied("locked"),
            BadRequest("no key"),
        ):
            self.api.failure = error
            answer = self.send_json("/webapi/login", LOGIN)
            self.assert_error(answer, error.status, error.code, error.public)

    def test_auth_away(self) -> None:
        """503 when there is no auth, whose ever fault that is; the detail stays here."""
        self.api.failure = ConnectionTrouble("no connection", detail="10.1.2.3")
        for answer in (self.send_json("/webapi/login", LOGIN), self.get("/webapi/ping")):
            self.assert_error(answer, 503, "unreachable")
            self.assertNotIn(b"10.1.2.3", answer.body)
        self.api.failure = RemoteProtocolError("no answer of the API")
        self.assert_error(self.send_json("/webapi/login", LOGIN), 503, "unreachable")
        self.api.failure = AuthenticationFailed("the certificate of the proxy expired")
        self.assert_error(self.get("/webapi/ping"), 503, "unreachable")

    def test_fault(self) -> None:
        """A fault of ours has an id, and that is all that is told."""
        self.api.failure = RuntimeError("secret")
        self.assert_error(self.get("/webapi/ping"), 500, "internal", "internal error, id ")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_unknown(self) -> None:
        """Errors of this side are JSON, whatever they are."""
        for path in ("/webapi/", "/webapi/nothing", "/webapi/ping/", "/webapi//ping", "/webapi/%ff", "/webapi/join"):
            self.assert_error(self.get(path), 404, "not_found")
        answer = self.get("/webapi/login")
        self.assert_error(answer, 405, "bad_request")
        self.assertEqual(answer.header("allow"), "POST")

    def test_gone_client(self) -> None:
        """Who goes away cancels the call; nothing is logged."""
        cancelled: list[Any] = []
        self.api.waiting = Deferred(cancelled.append)
        with self.assertRaises(IndexError):
            self.get("/webapi/ping")
        self.wire.cut()
        self.assertEqual(len(cancelled), 1)


class JoinTests(APICase):
    """The side of ``teleport-join``."""

    def setUp(self) -> None:
        super().setUp()
        self.join = web_site(self.webapi.join_resource(), reactor=self.site.reactor)

    def test_join(self) -> None:
        """A join goes to auth as it is."""
        body = {"token": "t", "roles": ["db"], "public_key": "PEM", "name": "n", "names": []}
        self.assertEqual(self.send_json("/webapi/join", body, self.join).json["said"], body)
        self.assertEqual(self.ask("GET", "/webapi/cas", site=self.join).json["cluster"], "example")
        self.assert_error(self.send_json("/webapi/join", {"admin": True}, self.join), 400, "bad_request", "admin")

    def test_nothing_else(self) -> None:
        """No page and no login stands behind this door."""
        for path in ("/", "/web/invite/x", "/webapi/ping"):
            self.assert_error(self.ask("GET", path, site=self.join), 404, "not_found")
        self.assert_error(self.send_json("/webapi/login", LOGIN, self.join), 404, "not_found")
        self.assert_error(self.ask("GET", "/webapi/join", site=self.join), 405, "bad_request")
