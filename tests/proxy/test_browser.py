"""Invites with a real browser, scripts off, against a real auth server over real TLS.

``TELEPORT_DB_SCREENSHOTS=DIRECTORY`` keeps pictures of what was seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.proxy.chromium import MISSING, Chromium
from tests.proxy.live import LiveCase
from tests.proxy.web import Page

PHONE, DESKTOP = (390, 844), (1280, 900)
PASSWORD = "correct horse battery"


class BrowserTests(LiveCase):
    """What somebody sees who opens the link of an invite."""

    skip = MISSING or None
    timeout: ClassVar[float] = 90

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.browser = Chromium(reactor, self.mktemp())
        self.addCleanup(self.browser.close)
        await self.browser.open(*PHONE)

    async def seen(self, name: str) -> Page:
        """The page as it is, which must fit the phone; pictures of it if anybody wants some."""
        browser = self.browser
        directory = os.environ.get("TELEPORT_DB_SCREENSHOTS")
        for screen, size in (("phone", PHONE), ("desktop", DESKTOP)):
            for dark in (False, True) if directory else (False,):
                await browser.look(*size, dark=dark)
                self.assertLessEqual(await browser.width(), size[0])
                if directory:
                    path = os.path.join(directory, f"{name}-{screen}{'-dark' if dark else ''}.png")
                    await browser.screenshot(path)
        await browser.look(*PHONE)
        return Page(re.sub(r"<(meta|link|img|input)([^>]*)>", r"<\1\2/>", await browser.html()))

    def fill_form(self, path: str, **typed: str) -> Deferred[tuple[int, Mapping[str, str], bytes]]:
        """Send a form without the browser."""
        return super().fill(path, **typed)

    async def fill(self, password: str, again: str, code: str) -> None:  # type: ignore[override]
        await self.browser.type("#password", password)
        await self.browser.type("#password-again", again)
        await self.browser.type("#otp", code)
        await self.browser.submit("button")

    async def test_invite(self) -> None:
        """From the link, past two mistakes, to a password and a code that log in; then the link is over."""
        link = await self.link()
        await self.browser.go(link)
        page = await self.seen("invite")
        self.assertEqual(page.fields["username"]["value"], "alice")
        secret = page.secret
        code = self.code(secret)

        await self.fill(PASSWORD, "something else", code)
        self.assertIn("The two passwords are not the same.", (await self.seen("mismatch")).text)
        await self.fill(PASSWORD, PASSWORD, "000000" if code != "000000" else "111111")
        self.assertIn("The one-time code does not fit", (await self.seen("code")).text)
        await self.fill(PASSWORD, PASSWORD, f"{code[:3]} {code[3:]}")
        page = await self.seen("done")
        self.assertIn("The password of alice is set.", page.text)
        self.assertIn("tsh login --proxy=proxy.example.com:3080 --user=alice", page.text)

        codes = re.findall(r"\b[a-z2-9]{4}(?:-[a-z2-9]{4}){3}\b", page.text)
        self.assertEqual(len(codes), 8)
        answer = await self.proved(PASSWORD, self.code(secret, 1))
        self.assertEqual(answer["user"], "alice")
        self.assertEqual((await self.proved(PASSWORD, codes[0]))["recovery_codes"], 7)
        await self.browser.go(link)
        self.assertIn("This link was used already.", (await self.seen("used")).text)

    async def test_reset(self) -> None:
        """A reset works as an invite does; two windows of one link do not hinder each other."""
        await self.add_user()
        made = await self.call("POST", "/v1/users/alice/reset", {})
        link = f"{self.url}/web/reset/{made['token']}"
        await self.browser.go(link)
        await self.browser.go(link)
        secret = (await self.seen("reset")).secret
        await self.fill(PASSWORD, PASSWORD, self.code(secret))
        self.assertIn("The password of alice is set.", (await self.seen("reset-done")).text)
        await self.proved(PASSWORD, self.code(secret, 1))

    async def test_password(self) -> None:
        """From the first page to another password, past a wrong one, with a recovery code in capitals."""
        link = (await self.link()).removeprefix(self.url)
        secret = Page((await self.ask("GET", link))[2].decode()).secret
        _, _, body = await self.fill_form(link, password=PASSWORD, password_again=PASSWORD, otp=self.code(secret))
        codes = re.findall(r"\b[a-z2-9]{4}(?:-[a-z2-9]{4}){3}\b", Page(body.decode()).text)
        await self.browser.go(f"{self.url}/web/password")
        await self.seen("password")
        new = "battery staple correct"
        await self.change("not the password", new, codes[0])
        self.assertIn("The user name, the password or the one-time code is wrong.", (await self.seen("wrong")).text)
        await self.change(PASSWORD, new, codes[0].upper(), user="")
        self.assertIn("The password of alice is changed.", (await self.seen("changed")).text)
        await self.proved(new, self.code(secret, 1))

    async def change(self, old: str, new: str, code: str, user: str = "alice") -> None:
        """Fill in the page of the password; the user stands there from the second time on."""
        typed = {"#username": user, "#old-password": old, "#otp": code, "#password": new, "#password-again": new}
        for selector, text in typed.items():
            if text:
                await self.browser.type(selector, text)
        await self.browser.submit("button")

    async def test_errors(self) -> None:
        """An expired link, an address that is none, and auth away."""
        link = await self.link()
        self.clock.advance(3601)
        await self.browser.go(link)
        self.assertIn("This link has expired.", (await self.seen("expired")).text)
        await self.browser.go(self.url)
        self.assertIn("log in from a terminal", (await self.seen("root")).text)
        await self.browser.go(f"{self.url}/nowhere")
        self.assertIn("Nothing here", (await self.seen("nowhere")).text)
        await self.auth_away()
        await self.browser.go(link)
        self.assertIn("The cluster cannot be reached", (await self.seen("away")).text)

    async def test_policy(self) -> None:
        """The browser finds nothing in the page that the page's own policy forbids; it does look."""
        complaint = self.browser.event("Log.entryAdded")
        await self.browser.go(await self.link())
        await self.browser.call("Page.getLayoutMetrics")
        self.assertFalse(complaint.called)
        await self.browser.call("Emulation.setScriptExecutionDisabled", value=False)
        styled = "document.body.setAttribute('style', 'color: red')"
        await self.browser.call("Runtime.evaluate", expression=styled)
        self.assertIn("Content Security Policy", str(await complaint))
