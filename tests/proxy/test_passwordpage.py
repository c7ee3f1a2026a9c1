"""Changing the password in the browser of somebody without scripts, and in that of somebody else."""

from __future__ import annotations

from urllib.parse import urlencode

from teleport_db.errors import AccessDenied, ConnectionTrouble, LimitExceeded
from tests.proxy.web import CODE, OLD, RECOVERY, TOKEN, Answer, WebCase

PATH = "/web/password"
GOOD = {
    "username": "alice",
    "old_password": OLD,
    "otp": CODE,
    "password": "correct horse",
    "password_again": "correct horse",
}


class PasswordPageTests(WebCase):
    """The form and its answers."""

    def test_form(self) -> None:
        """Nothing is filled in; browsers and password stores are told which field is which; nothing runs."""
        page = self.get(PATH).page
        self.assertEqual(list(page.fields), ["csrf", "username", "old_password", "otp", "password", "password_again"])
        told = {name: has.get("autocomplete") for name, has in page.fields.items()}
        self.assertEqual((told["old_password"], told["password"]), ("current-password", "new-password"))
        self.assertEqual(page.find("script") + page.find("style"), [])
        self.assertTrue(self.get("/").page.find("a", href=PATH))
        for name, attributes in page.fields.items():
            if name != "csrf":
                self.assertEqual(len(page.find("label", **{"for": attributes["id"]})), 1)

    def test_second_factors(self) -> None:
        """A code is asked for as the cluster asks for one."""
        self.assertIn("required", self.get(PATH).page.fields["otp"])
        self.api.second_factor = "optional"
        page = self.get(PATH).page
        self.assertNotIn("required", page.fields["otp"])
        self.assertIn("Leave it empty if you have none", page.text)
        self.api.second_factor = "off"
        self.assertNotIn("otp", self.get(PATH).page.fields)
        self.assertEqual(self.fill(PATH, **{**GOOD, "otp": ""}).status, 200)

    def test_done(self) -> None:
        """What was typed goes to auth, with the visitor's address."""
        answer = self.fill(PATH, **{**GOOD, "username": " alice ", "otp": "123 456"})
        self.assertEqual(answer.status, 200)
        self.assertIn("The password of alice is changed.", answer.page.text)
        self.assertIn("Logins that are open go on until they expire", answer.page.text)
        body = {"user": "alice", "old": OLD, "otp": CODE, "password": "correct horse", "client_address": "127.0.0.1"}
        self.assertEqual(self.api.calls[-1], ("POST", "/v1/password", body))

    def assert_again(self, answer: Answer, status: int, words: str, field: str = "") -> None:
        """The form again: with what was wrong and who it was, and without anything secret."""
        self.assertEqual(answer.status, status)
        page = answer.page
        self.assertIn(words, page.text)
        self.assertEqual(page.fields["username"]["value"], "alice")
        marked = [name for name in page.fields if "aria-invalid" in page.fields[name]]
        self.assertEqual(marked, [field] if field else [])
        for typed in ("old_password", "otp", "password", "password_again"):
            self.assertNotIn("value", page.fields[typed])

    def test_security_row_8_one_answer(self) -> None:
        """Who is unknown and what is wrong are one answer in status and body, the name that was typed aside."""
        wrong = "The user name, the password or the one-time code is wrong."
        answers = [self.fill(PATH, **{**GOOD, **change}) for change in ({"old_password": "x"}, {"otp": "000000"})]
        for answer in answers:
            self.assert_again(answer, 401, wrong)
        unknown = self.fill(PATH, **{**GOOD, "username": "nobody"})
        self.assertEqual((unknown.status, unknown.body.replace(b"nobody", b"alice")), (401, answers[0].body))

    def test_rules(self) -> None:
        """What auth does not take, and what does not even go there."""
        self.assert_again(self.fill(PATH, **{**GOOD, "password_again": "x"}), 400, "not the same", "password_again")
        self.assert_again(self.fill(PATH, **{**GOOD, "old_password": ""}), 400, "are needed")
        self.assertNotIn("POST", [method for method, _, _ in self.api.calls])
        short = self.fill(PATH, **{**GOOD, "password": "x", "password_again": "x"})
        self.assert_again(short, 400, "at least 8 characters", "password")

    def test_refusals(self) -> None:
        """Auth's other refusals stand above the form; when auth is away nobody knows."""
        values = {**self.get(PATH).page.values, **GOOD}
        call = self.api.call
        for error, status, words in (
            (LimitExceeded("too many failed logins from your address"), 429, "Too many failed logins"),
            (AccessDenied("user 'alice' is locked"), 403, "is locked"),
            (ConnectionTrouble("no", detail="10.1.2.3"), 503, "may be changed already"),
        ):

            def failing(method: str, *rest: object, error: Exception = error, **more: object) -> object:
                self.api.failure = error if method == "POST" else None
                return call(method, *rest, **more)  # type: ignore[arg-type]

            self.api.call = failing  # type: ignore[method-assign,assignment]
            answer = self.ask("POST", PATH, urlencode(values).encode())
            self.assertEqual(answer.status, status)
            self.assertIn(words, answer.page.text)
            self.assertNotIn("10.1.2.3", answer.page.text)

    def test_security_row_29_forged(self) -> None:
        """A form of another site, or without our cookie, does not reach auth."""
        values = {**self.get(PATH).page.values, **GOOD}
        body = urlencode(values).encode()
        self.assertEqual(self.ask("POST", PATH, body, origin="https://evil.example").status, 403)
        self.cookies.clear()
        answer = self.ask("POST", PATH, body)
        self.assert_again(answer, 403, "Please fill it in again")
        self.assertNotIn("POST", [method for method, _, _ in self.api.calls])

    def test_escaped(self) -> None:
        """What was typed as a name is text."""
        answer = self.fill(PATH, **{**GOOD, "username": '"><script>'})
        self.assertNotIn(b"<script", answer.body)
        self.assertEqual(self.ask("DELETE", PATH).status, 405)


class RecoveryCodeTests(WebCase):
    """After an invite."""

    def test_shown(self) -> None:
        """The page shows them once, where there is a device, and nobody keeps it."""
        typed = {"password": "correct horse", "password_again": "correct horse"}
        answer = self.fill(f"/web/invite/{TOKEN}", **typed, otp=CODE)
        for code in RECOVERY:
            self.assertIn(code, answer.page.text)
        self.assertIn("they are not shown again", answer.page.text)
        self.assertEqual(answer.header("cache-control"), "no-store")
        self.api.invites[TOKEN] = "invite"
        self.api.second_factor = "optional"
        answer = self.fill(f"/web/invite/{TOKEN}", **typed, otp="")
        self.assertNotIn("recovery", answer.page.text)
