"""The web side in front of a real auth server: TLS, HTTP, the API and the store are all real."""

from __future__ import annotations

import json

from twisted.internet.defer import gatherResults

from teleport_db.certs.keys import new_key, public_pem
from tests.proxy.live import LiveCase
from tests.proxy.web import Page

PASSWORD = "correct horse battery"


class LiveTests(LiveCase):
    """Invites and logins."""

    async def open(self, path: str) -> tuple[int, Page]:
        status, _, body = await self.ask("GET", path)
        return status, Page(body.decode())

    async def path(self, name: str = "alice") -> str:
        return (await self.link(name)).removeprefix(self.url)

    async def code_of(self, path: str, steps: int = 0) -> str:
        _, page = await self.open(path)
        return self.code(page.secret, steps)

    async def refused(self, path: str, words: str) -> None:
        """A link says why it does not work, to who looks and to who sends."""
        status, page = await self.open(path)
        self.assertEqual(status, 404)
        self.assertIn(words, page.text)
        status, _, body = await self.fill(path, password=PASSWORD, password_again=PASSWORD, otp="000000")
        self.assertEqual(status, 404)
        self.assertIn(words, Page(body.decode()).text)

    async def test_once(self) -> None:
        """Of ten at once, one sets the password."""
        path = await self.path()
        code = await self.code_of(path)
        passwords = [f"{PASSWORD} {number}" for number in range(10)]
        answers = await gatherResults(
            [self.fill(path, password=each, password_again=each, otp=code) for each in passwords]
        )
        taken = [each for each, (status, _, _) in zip(passwords, answers, strict=True) if status == 200]
        self.assertEqual(len(taken), 1)
        self.assertEqual({status for status, _, _ in answers}, {200, 404})
        await self.refused(path, "was used already")

    async def test_over(self) -> None:
        """An expired link says so for a week; a replaced one and one that never was say so too."""
        path = await self.path()
        await self.refused("/web/invite/0123", "unknown")
        made = await self.call("POST", "/v1/users/alice/reset", {})
        await self.refused(path, "newer link has taken the place")
        path = f"/web/reset/{made['token']}"
        self.assertEqual((await self.open(path))[0], 200)
        self.clock.advance(3601)
        await self.refused(path, "has expired")
        self.clock.advance(8 * 24 * 3600)
        await self.refused(path, "unknown")

    async def test_rules(self) -> None:
        """Auth's rules reach the page, and leave the link good."""
        path = await self.path()
        for password, words in (("short", "at least 8"), ("x" * 1025, "at most 1024")):
            code = await self.code_of(path)
            status, _, body = await self.fill(path, password=password, password_again=password, otp=code)
            self.assertEqual(status, 400)
            self.assertIn(words, Page(body.decode()).text)
        for code in ("", "12345", "abcdef", "１２３４５６"):
            status, _, _ = await self.fill(path, password=PASSWORD, password_again=PASSWORD, otp=code)
            self.assertEqual(status, 400)
        code = await self.code_of(path)
        self.assertEqual((await self.fill(path, password=PASSWORD, password_again=PASSWORD, otp=code))[0], 200)

    async def test_login(self) -> None:
        """What was set on the page logs in by the web API; the same code does not do so again."""
        path = await self.path()
        code, later = await self.code_of(path), await self.code_of(path, 1)
        await self.fill(path, password=PASSWORD, password_again=PASSWORD, otp=code)
        body = {"user": "alice", "password": PASSWORD, "public_key": public_pem(new_key()).decode(), "ttl": 3600}
        said = []
        for given in (code, later, later):
            data = json.dumps({**body, "otp": given}).encode()
            status, headers, answer = await self.ask(
                "POST", "/webapi/login", data, {"Content-Type": "application/json"}
            )
            said.append(status)
            self.assertIn("content-security-policy", headers)
        self.assertEqual(said, [401, 200, 401])
        self.assertEqual(json.loads(answer)["error"]["code"], "unauthenticated")

    async def test_away(self) -> None:
        """No auth: 503 on both sides."""
        path = await self.path()
        await self.auth_away()
        status, page = await self.open(path)
        self.assertEqual(status, 503)
        self.assertIn("does not answer", page.text)
        status, _, body = await self.ask("GET", "/webapi/ping")
        self.assertEqual((status, json.loads(body)["error"]["code"]), (503, "unreachable"))

    async def test_too_large(self) -> None:
        """A form of more than anybody types is refused, one above the site's limit before it is read."""
        path = await self.path()
        for size, refused in ((20_000, 400), (100_000, 413)):
            status, _, _ = await self.fill(path, password="x" * size)
            self.assertEqual(status, refused)


class NoSecondFactorTests(LiveCase):
    """Second factors are off."""

    second_factor = "off"

    async def test_password_alone(self) -> None:
        path = (await self.link()).removeprefix(self.url)
        _, _, body = await self.ask("GET", path)
        self.assertNotIn("otp", Page(body.decode()).fields)
        self.assertEqual((await self.fill(path, password=PASSWORD, password_again=PASSWORD))[0], 200)
        await self.login(password=PASSWORD)


class OptionalTests(LiveCase):
    """Everybody may do without."""

    second_factor = "optional"

    async def test_without(self) -> None:
        path = (await self.link()).removeprefix(self.url)
        self.assertEqual((await self.fill(path, password=PASSWORD, password_again=PASSWORD, otp=""))[0], 200)
        await self.login(password=PASSWORD)
