"""Invites and resets in the browser of somebody without scripts, and in that of somebody else."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import segno
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from teleport_db.auth import passwords
from teleport_db.errors import AccessDenied, AuthenticationFailed, ConnectionTrouble, LimitExceeded, RemoteProtocolError
from teleport_db.proxy import markup
from tests.proxy.web import CODE, HOST, SECRET, TOKEN, Answer, WebCase

INVITE, RESET = f"/web/invite/{TOKEN}", f"/web/reset/{'r' * 32}"
GOOD = {"password": "correct horse", "password_again": "correct horse", "otp": CODE}


class FormTests(WebCase):
    """What is shown."""

    def test_invite(self) -> None:
        """The form names the user, asks for the password twice and shows the code to scan."""
        answer = self.get(INVITE)
        self.assertEqual(answer.status, 200)
        page = answer.page
        self.assertEqual(list(page.fields), ["csrf", "username", "password", "password_again", "otp"])
        self.assertEqual(page.fields["username"]["value"], "alice")
        self.assertIn("required", page.fields["otp"])
        self.assertIn(SECRET, page.text)
        self.assertIn("until 03:04 UTC on 2 January 2030", page.text)
        uri = f"otpauth://totp/Teleport:alice@example?secret={SECRET}&issuer=x"
        (picture,) = page.find("img", **{"class": "qr"})
        self.assertEqual(picture["src"], segno.make(uri, error="m").svg_data_uri(border=4))
        self.assertTrue(page.find("a", href=uri))

    def test_reset(self) -> None:
        """A reset is the same with other words."""
        page = self.get(RESET).page
        self.assertIn("Reset your password", page.text)
        done = self.fill(RESET, **GOOD)
        self.assertEqual(done.status, 200)
        self.assertEqual(self.api.calls[-1][:2], ("POST", "/v1/invites/" + "r" * 32))

    def test_no_script(self) -> None:
        """Nothing is inline, nothing is foreign, nothing runs."""
        for path in ("/", INVITE, "/nowhere"):
            page = self.get(path).page
            self.assertEqual(page.find("script") + page.find("style"), [])
            for _, attributes in page.tags:
                self.assertEqual([name for name in attributes if name.startswith("on") or name == "style"], [])
                for name in ("src", "href", "action"):
                    target = attributes.get(name, "/")
                    self.assertTrue(target.startswith(("/", "data:", "otpauth:")) or not target, target)

    def test_labels(self) -> None:
        """Every field has a label, and what describes it exists; the phone is told of its width."""
        for answer in (self.get(INVITE), self.fill(INVITE, **{**GOOD, "otp": "1"})):
            page = answer.page
            for name, attributes in page.fields.items():
                if name != "csrf":
                    self.assertEqual(len(page.find("label", **{"for": attributes["id"]})), 1)
                    for described in attributes.get("aria-describedby", "").split():
                        self.assertIn(described, [has.get("id") for _, has in page.tags])
            self.assertEqual(page.find("meta", name="viewport")[0]["content"], "width=device-width, initial-scale=1")
        self.assertEqual(page.fields["password"]["autocomplete"], "new-password")

    def test_second_factors(self) -> None:
        """Off asks for no code; optional takes none for an answer."""
        self.api.second_factor = "off"
        page = self.get(INVITE).page
        self.assertNotIn("otp", page.fields)
        self.assertEqual(page.find("img", **{"class": "qr"}), [])
        self.api.second_factor = "optional"
        page = self.get(INVITE).page
        self.assertNotIn("required", page.fields["otp"])
        self.assertIn("optional", page.text)
        self.assertEqual(self.fill(INVITE, **{**GOOD, "otp": ""}).status, 200)
        self.assertEqual(
            self.api.calls[-1][2], {"password": "correct horse", "otp": None, "client_address": "127.0.0.1"}
        )

    def test_hint_is_true(self) -> None:
        """What the page promises of passwords is what auth holds to."""
        self.assertEqual((markup.MIN_PASSWORD, markup.MAX_PASSWORD), (passwords.MIN_LENGTH, passwords.MAX_LENGTH))

    def test_others(self) -> None:
        """The first page, the style and the icon."""
        page = self.get("/").page
        self.assertIn(f"tsh login --proxy={HOST}:3080", page.text)
        style = page.find("link", rel="stylesheet")[0]["href"]
        self.assertEqual(self.get(style).header("content-type"), "text/css; charset=utf-8")
        for path in ("/favicon.ico", page.find("link", rel="icon")[0]["href"]):
            self.assertEqual(self.get(path).header("content-type"), "image/svg+xml")


class RedeemTests(WebCase):
    """What is sent."""

    def test_done(self) -> None:
        """The password and the code go to auth; then the link is over."""
        answer = self.fill(INVITE, **{**GOOD, "otp": " 123 456 "})
        self.assertEqual(answer.status, 200)
        self.assertIn("The password of alice is set.", answer.page.text)
        self.assertIn(f"tsh login --proxy={HOST}:3080 --user=alice", answer.page.text)
        self.assertEqual(
            self.api.calls[-1],
            (
                "POST",
                f"/v1/invites/{TOKEN}",
                {"password": "correct horse", "otp": CODE, "client_address": "127.0.0.1"},
            ),
        )
        again = self.get(INVITE)
        self.assertEqual(again.status, 404)
        self.assertIn("used already", again.page.text)
        self.assertIn("tctl users reset", again.page.text)

    def assert_again(self, answer: Answer, status: int, words: str, field: str) -> None:
        """The form is there again, with what was wrong, and without what was typed."""
        self.assertEqual(answer.status, status)
        page = answer.page
        self.assertIn(words, page.text)
        self.assertTrue(page.find("div", role="alert"))
        self.assertIn("password_again", page.fields)
        self.assertEqual(
            [name for name in page.fields if "aria-invalid" in page.fields[name]], [field] if field else []
        )
        for typed in ("password", "password_again", "otp"):
            self.assertNotIn("value", page.fields[typed])
        self.assertEqual(self.fill(INVITE, **GOOD).status, 200)

    def test_rules(self) -> None:
        """A short password is refused in words, and the link still counts."""
        answer = self.fill(INVITE, password="short", password_again="short", otp=CODE)
        self.assert_again(answer, 400, "A password has at least 8 characters and at most 1024.", "password")

    def test_different(self) -> None:
        answer = self.fill(INVITE, **{**GOOD, "password_again": "correct house"})
        self.assert_again(answer, 400, "not the same", "password_again")

    def test_wrong_code(self) -> None:
        answer = self.fill(INVITE, **{**GOOD, "otp": "000000"})
        self.assert_again(answer, 400, "The one-time code does not fit", "otp")

    def test_any_characters(self) -> None:
        """A password arrives as it was typed, blanks at its ends and all."""
        password = " pässwörd & 密码 <%41>+ "
        self.fill(INVITE, password=password, password_again=password, otp=CODE)
        self.assertEqual(self.api.calls[-1][2]["password"], password)

    def test_used_meanwhile(self) -> None:
        """Somebody else used the link while the form was open."""
        values = self.get(INVITE).page.values
        del self.api.invites[TOKEN]
        answer = self.ask("POST", INVITE, urlencode({**values, **GOOD}).encode())
        self.assertEqual(answer.status, 404)
        self.assertIn("used already", answer.page.text)

    def test_other_purpose(self) -> None:
        """An invite is no reset, neither to look at nor to use."""
        path = f"/web/reset/{TOKEN}"
        values = self.get(INVITE).page.values
        self.assertEqual(self.get(path).status, 404)
        answer = self.ask("POST", path, urlencode({**values, **GOOD}).encode())
        self.assertEqual(answer.status, 404)
        self.assertIn(TOKEN, self.api.invites)

    def test_limit(self) -> None:
        """Auth has too much to do: the form stays."""
        values = self.get(INVITE).page.values
        call = self.api.call

        def failing(method: str, *args: Any, **kwargs: Any) -> Deferred[dict[str, Any]]:
            self.api.failure = LimitExceeded("too many wait already") if method == "POST" else None
            return call(method, *args, **kwargs)

        self.api.call = failing  # type: ignore[method-assign]
        answer = self.ask("POST", INVITE, urlencode({**values, **GOOD}).encode())
        self.assertEqual(answer.status, 429)
        self.assertIn("Too many wait already.", answer.page.text)
        self.assertEqual(answer.page.find("input", **{"aria-invalid": "true"}), [])

    def test_gone_browser(self) -> None:
        """A browser that goes away cancels the call, and nothing is logged."""
        values = self.get(INVITE).page.values
        cancelled: list[Any] = []
        self.api.waiting = Deferred(cancelled.append)
        body = urlencode({**values, **GOOD}).encode()
        head = f"POST {INVITE} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        head += f"Cookie: __Host-csrf={values['csrf']}\r\nContent-Length: {len(body)}\r\n\r\n"
        with self.assertRaises(IndexError):  # there is no answer yet
            self.raw(head.encode() + body)
        self.wire.cut()
        self.assertEqual(len(cancelled), 1)


class ForgeryTests(WebCase):
    """Forms of other sites."""

    def test_cookie(self) -> None:
        """The cookie is bound to the host, and scripts and other sites cannot have it."""
        (cookie,) = self.get(INVITE).headers["set-cookie"]
        name, *attributes = cookie.split("; ")
        self.assertRegex(name, r"\A__Host-csrf=[A-Za-z0-9_-]{43}\Z")
        self.assertEqual(attributes, ["Path=/", "Secure", "HttpOnly", "SameSite=Strict"])
        self.assertNotIn("set-cookie", self.get(INVITE).headers)  # two windows share one

    def test_forged(self) -> None:
        """Without the cookie, without the field or with another: the form again, and auth not asked."""
        values = {**self.get(INVITE).page.values, **GOOD}
        jar = dict(self.cookies)
        for cookies, csrf in (({}, values["csrf"]), (jar, ""), (jar, "x" * 43), (jar, "é"), ({"__Host-csrf": ""}, "")):
            self.cookies = dict(cookies)
            answer = self.ask("POST", INVITE, urlencode({**values, "csrf": csrf}).encode())
            self.assertEqual(answer.status, 403)
            self.assertIn("password_again", answer.page.fields)
        self.assertEqual([method for method, _, _ in self.api.calls if method == "POST"], [])

    def test_strange_cookie(self) -> None:
        """A cookie that we never set is not repeated in the page."""
        self.cookies = {"__Host-csrf": '"><b>'}
        answer = self.get(INVITE)
        self.assertNotIn(b"<b>", answer.body)
        self.assertIn("set-cookie", answer.headers)

    def test_origin(self) -> None:
        """Only our own pages send forms."""
        values = {**self.get(INVITE).page.values, **GOOD}
        body = urlencode(values).encode()
        for origin in (
            "null",
            "",
            "https://evil.example",
            f"http://{HOST}:3080",
            f"https://{HOST}",
            f"https://{HOST}:3081",
            f"https://{HOST}:3080.evil.example",
            f"https://{HOST}:3080/",
            f"https://evil@{HOST}:3080",
        ):
            answer = self.ask("POST", INVITE, body, origin=origin)
            self.assertEqual(answer.status, 403, origin)
            self.assertIn("another site", answer.page.text)
        self.assertEqual(self.ask("POST", INVITE, body, origin=None, sec_fetch_site="cross-site").status, 403)
        self.assertEqual(self.ask("POST", INVITE, body, origin=None, sec_fetch_site="same-site").status, 403)
        self.assertIn(TOKEN, self.api.invites)
        self.assertEqual(self.ask("POST", INVITE, body, origin=None, sec_fetch_site="same-origin").status, 200)

    def test_default_port(self) -> None:
        """Browsers leave out 443 in one place or the other."""
        for host, origin in (
            (HOST, f"https://{HOST}"),
            (f"{HOST}:443", f"https://{HOST}"),
            (HOST.upper(), f"https://{HOST}"),
        ):
            self.api.invites[TOKEN] = "invite"
            values = {**self.get(INVITE, host=host).page.values, **GOOD}
            self.assertEqual(self.ask("POST", INVITE, urlencode(values).encode(), host=host, origin=origin).status, 200)

    def test_forms(self) -> None:
        """What is no form, or more than one, is refused; fields in the address do not count."""
        csrf = self.get(INVITE).page.values["csrf"]
        good = urlencode({**GOOD, "csrf": csrf}).encode()
        for body, kind in (
            (good, "text/plain"),
            (good, "multipart/form-data; boundary=x"),
            (good, ""),
            (good + b"&password=another+one", None),
            (good + b"&x=%ff", None),
            (good + b"&x=\xff", None),
            (good + b"&x" * 20, None),
            (good + b"&x=" + b"y" * 40000, None),
        ):
            headers = {} if kind is None else {"content_type": kind}
            answer = self.ask("POST", INVITE, body, **headers)
            self.assertEqual(answer.status, 400, body[-40:])
            answer.page
        answer = self.ask("POST", f"{INVITE}?{urlencode({**GOOD, 'csrf': csrf})}", b"")
        self.assertIn(answer.status, (400, 403))
        answer = self.ask("POST", f"{INVITE}?password=", urlencode({**GOOD, "csrf": csrf}).encode())
        self.assertEqual(answer.status, 200)


class GuardTests(WebCase):
    """Addresses, hosts, methods, headers: everything that a request may be besides polite."""

    def assert_secure(self, answer: Answer) -> None:
        self.assertIn("default-src 'none'", answer.header("content-security-policy"))
        self.assertIn("frame-ancestors 'none'", answer.header("content-security-policy"))
        self.assertNotIn("unsafe", answer.header("content-security-policy"))
        self.assertEqual(answer.header("x-content-type-options"), "nosniff")
        self.assertEqual(answer.header("x-frame-options"), "DENY")
        self.assertNotIn("server", answer.headers)
        self.assertEqual(answer.header("referrer-policy"), "same-origin")
        self.assertRegex(answer.header("strict-transport-security"), r"max-age=\d{8}")

    def test_headers(self) -> None:
        """Every answer carries them, whatever it is."""
        for method, path, host in (
            ("GET", "/", HOST),
            ("GET", INVITE, HOST),
            ("GET", "/web/invite/unknown", HOST),
            ("GET", "/nowhere", HOST),
            ("GET", "/%ff", HOST),
            ("GET", "/", "evil.example"),
            ("DELETE", "/", HOST),
            ("GET", "/web/style.css", HOST),
            ("GET", "/webapi/ping", HOST),
            ("GET", "/webapi/%ff", HOST),
            ("GET", "/webapi/nowhere", HOST),
            ("PUT", "/webapi/login", HOST),
            ("GET", "/webapi/ping", "!"),
        ):
            answer = self.ask(method, path, host=host)
            self.assert_secure(answer)
            if path != "/web/style.css":
                self.assertEqual(answer.header("cache-control"), "no-store")
        self.api.failure = ConnectionTrouble()
        self.assert_secure(self.get(INVITE))
        self.assert_secure(self.get("/webapi/ping"))

    def test_hosts(self) -> None:
        """Pages answer to the proxy's names, with or without a port, and to the address that was dialled."""
        for host in (
            HOST,
            f"{HOST}:3080",
            f"{HOST}.",
            HOST.upper(),
            f"{HOST}:",
            "other.example.com",
            "[::1]:3080",
            "127.0.0.1",
        ):
            self.assertEqual(self.get("/", host=host).status, 200, host)
        for host in ("evil.example", f"{HOST}.evil.example", "10.0.0.1", "[::2]", "localhost", "192.0.2.1:3080"):
            answer = self.get("/", host=host)
            self.assertEqual(answer.status, 421, host)
            self.assertIn("public_addr", answer.page.text)
        for bad in (
            "",
            " ",
            f"{HOST}:port",
            f"{HOST}/x",
            f"a@{HOST}",
            "a" * 64,
            "a." * 200 + "a",
            "..",
            "<b>",
            "ü",
            "[::1",
        ):
            answer = self.get("/", host=bad)
            self.assertEqual(answer.status, 400, bad)
            answer.page
        self.assertEqual(self.raw(b"GET / HTTP/1.1\r\n\r\n").status, 400)
        self.assertEqual(self.raw(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nHost: {HOST}\r\n\r\n".encode()).status, 400)

    def test_unknown(self) -> None:
        """There is a page for what there is no page for, and no redirection to anywhere."""
        for path in [
            *("/nowhere", "/web", "/web/invite", "/web/invite/", f"{INVITE}/", f"{INVITE}/more"),
            *("//evil.example/", "/web//invite/x", "/%ff", "/web/invite/%ff", "/web/invite/a%2fb", "/../etc/passwd"),
            *("/webapi", "/WEB/style.css", f"https://evil.example{INVITE}"),
        ]:
            answer = self.get(path)
            self.assertEqual(answer.status, 404, path)
            self.assertIn("Nothing here", answer.page.text)
            self.assertNotIn("location", answer.headers)
        self.assertEqual(self.api.calls, [])

    def test_methods(self) -> None:
        """What cannot be done to a page is said, with what can."""
        answer = self.ask("DELETE", INVITE)
        self.assertEqual((answer.status, answer.header("allow")), (405, "GET, HEAD, POST"))
        self.assertIn("does not work here", answer.page.text)
        for method, path in (("POST", "/"), ("OPTIONS", "/"), ("PROPFIND", "/"), ("TRACE", INVITE)):
            self.assertEqual(self.ask(method, path).status, 405, method)
        head, get = self.ask("HEAD", INVITE), self.get(INVITE)
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.header("content-length"), get.header("content-length"))

    def test_queries(self) -> None:
        """Whatever is behind the question mark, the page is the same."""
        plain = self.get(INVITE).body
        for query in ("", "a", "a=b&a=c", "%ff", "=&=", "?" * 50, "<script>", "utm_source=mail", "token=x"):
            answer = self.get(f"{INVITE}?{query}")
            self.assertEqual((answer.status, answer.body), (200, plain), query)

    def test_tokens(self) -> None:
        """Whatever a token is made of, it stays one segment of auth's path, and does not come back unescaped."""
        for token in ("a?b", "a#b", "a%2fb", "..", ".", "<b>\"'&", "a b", "a\r\nX: y", "密", "a;b", "%", "x" * 5000):
            self.api.calls.clear()
            self.api.invites = {token: "invite"}
            path = f"/web/invite/{quote(token, safe='')}"
            answer = self.get(path)
            self.assertEqual(self.api.calls, [("GET", f"/v1/invites/{quote(token, safe='')}", None)])
            self.assertEqual(answer.page.find("form")[0]["action"], path)
            self.assertNotIn(b"<b>", answer.body)
            self.api.invites = {}
            answer = self.get(path)
            self.assertEqual(answer.status, 404)
            self.assertNotIn(b"<b>", answer.body)

    def test_escaped(self) -> None:
        """A user's name is text, in the form, in the picture's address and in the command."""
        self.api.user = "<script>alert(1)</script>\"'; rm -rf /"
        for answer in (self.get(INVITE), self.fill(INVITE, **GOOD)):
            self.assertNotIn(b"<script", answer.body)
        self.assertIn("""--user='<script>alert(1)</script>"'"'"'; rm -rf /'""", answer.page.text)

    def test_auth_away(self) -> None:
        """Who cannot do anything about it is told to come again, and nothing of the inside."""
        for error in (
            ConnectionTrouble("the connection to auth.example failed", detail="10.1.2.3"),
            AuthenticationFailed("expected auth.example"),
            AccessDenied("locked"),
            RemoteProtocolError("no answer of the API"),
        ):
            values = self.get(INVITE).page.values
            self.api.failure = error
            answers = [self.get(INVITE), self.ask("POST", INVITE, urlencode({**values, **GOOD}).encode())]
            self.api.failure = None
            for answer in answers:
                self.assertEqual(answer.status, 503)
                self.assertEqual(answer.header("retry-after"), "30")
                self.assertIn("does not answer", answer.page.text)
                self.assertTrue(answer.page.find("a", href=""))
                self.assertNotIn(str(error), answer.page.text)
                self.assertNotIn("10.1.2.3", answer.page.text)
        self.assertEqual(self.get("/").status, 200)

    def test_lost_answer(self) -> None:
        """When the answer to the password is lost, nobody knows; the page says what that means."""
        call = self.api.call

        def failing(method: str, *args: Any, **kwargs: Any) -> Deferred[dict[str, Any]]:
            called = call(method, *args, **kwargs)
            return called.addCallback(lambda answer: Failure(ConnectionTrouble()) if method == "POST" else answer)

        values = self.get(INVITE).page.values
        self.api.call = failing  # type: ignore[method-assign]
        answer = self.ask("POST", INVITE, urlencode({**values, **GOOD}).encode())
        self.assertEqual(answer.status, 503)
        self.assertIn("Your password may be set already", answer.page.text)

    def test_fault(self) -> None:
        """A fault of ours is logged with an id, which is all that the page tells."""
        self.api.failure = RuntimeError("secret")
        answer = self.get(INVITE)
        self.assertEqual(answer.status, 500)
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertRegex(answer.page.text, "id [0-9a-f]{12}")
