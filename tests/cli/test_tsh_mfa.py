"""``tsh mfa``, ``tsh passwd``, and databases that want a code for each session, as processes."""

from __future__ import annotations

import json

import segno

from teleport_db.cli.tsh_mfa import picture_of
from tests.cli.fakecluster import DEVICE, RECOVERY, SECRET
from tests.cli.support import CommandTestCase

URI = f"otpauth://totp/Teleport:alice%40root?secret={SECRET}"


class MFATests(CommandTestCase):
    """Devices."""

    def setUp(self) -> None:
        super().setUp()
        self.login()

    def test_first(self) -> None:
        """The first device takes the password, is shown as picture and as text, and brings recovery codes."""
        self.assertIn("tsh mfa add", self.succeeds(self.tsh("mfa", "ls")))
        said = self.succeeds(self.tsh("mfa", "add", "--name=phone", stdin="correct horse\n654321\n"))
        self.assertIn(URI, said)
        self.assertIn(picture_of(URI, colour=False), said)
        self.assertIn('Device "phone" has been added.', said)
        for code in RECOVERY:
            self.assertIn(f"  {code}\n", said)
        self.assertEqual([device["name"] for device in self.cluster.devices], ["phone"])

    def test_another(self) -> None:
        """Another one takes a code; the codes that there are stay."""
        self.cluster.devices = [dict(DEVICE)]
        self.fails(self.tsh("mfa", "add", stdin="000000\n654321\n"), "the otp is wrong")
        self.fails(self.tsh("mfa", "add", stdin="123456\n000000\n"), "does not fit")
        said = self.succeeds(self.tsh("mfa", "add", "--name=new", stdin="123456\n654321\n"))
        self.assertNotIn("recovery", said.lower())

    def test_terminal(self) -> None:
        """At a terminal the first code may be mistyped, and nothing that is typed is seen."""
        answers = ("correct horse", "111111", "654321")
        code, seen = self.at_terminal("tsh", "mfa", "add", answers=answers)
        self.assertEqual(code, 0, seen)
        self.assertIn("Password of Teleport user alice:", seen)
        self.assertEqual(seen.count("Code that the new device shows:"), 2)
        self.assertIn("does not fit", seen)
        self.assertIn("\x1b[30;107m", seen)
        for typed in answers:
            self.assertNotIn(typed, seen)

    def test_no_picture(self) -> None:
        """A terminal without such letters gets the text alone."""
        said = self.succeeds(self.tsh("mfa", "add", stdin="correct horse\n654321\n", PYTHONIOENCODING="ascii"))
        self.assertIn(f"  Key: {SECRET}\n  URI: {URI}\n", said)

    def test_ls(self) -> None:
        """Names and times, for people and for programs."""
        self.cluster.devices = [dict(DEVICE), {**DEVICE, "name": "evil\x1b[2J"}]
        lines = self.succeeds(self.tsh("mfa", "ls")).splitlines()
        self.assertEqual(lines[0].split(), ["Name", "Type", "Added", "Last", "Used"])
        self.assertNotIn("\x1b", "".join(lines))
        self.assertEqual(lines[-1], "Recovery codes left: 8")
        facts = json.loads(self.succeeds(self.tsh("mfa", "ls", "--format=json")))
        self.assertEqual(facts["devices"][0], DEVICE)

    def test_rm(self) -> None:
        """A code of any device removes one."""
        self.cluster.devices = [dict(DEVICE), {**DEVICE, "name": "new"}]
        self.fails(self.tsh("mfa", "rm", "new"), "a one-time code is needed", code=2)
        self.assertIn('Device "new" has been removed.', self.succeeds(self.tsh("mfa", "rm", "new", stdin="123456\n")))
        self.assertEqual(self.cluster.calls[-1][2], {"name": "new", "otp": "123456"})
        self.fails(self.tsh("mfa", "rm", "new"), "you have no device new; see tsh mfa ls")
        self.cluster.second_factor = "otp"
        self.fails(self.tsh("mfa", "rm", "otp"), "this is your last device, and logging in takes one")
        self.cluster.second_factor = "optional"
        self.succeeds(self.tsh("mfa", "rm", "otp", stdin="123456\n"))

    def test_recovery_codes(self) -> None:
        """New ones are shown once."""
        self.cluster.devices = [dict(DEVICE)]
        said = self.succeeds(self.tsh("mfa", "recovery-codes", stdin="123456\n"))
        for code in RECOVERY:
            self.assertIn(code, said)

    def test_nobody(self) -> None:
        """Who is not logged in is told so."""
        self.succeeds(self.tsh("logout"))
        for words in (["mfa", "ls"], ["mfa", "add"], ["mfa", "rm", "x"], ["mfa", "recovery-codes"], ["passwd"]):
            self.fails(self.tsh(*words), "not logged in")

    def test_picture(self) -> None:
        """The picture is the QR code, dark modules as ink, with a border around."""
        lines = picture_of(URI, colour=False).split("\n")
        rows = []
        for line in lines:
            rows += [[letter in "▀█" for letter in line], [letter in "▄█" for letter in line]]
        expected = [[bool(module) for module in row] for row in segno.make(URI, error="l").matrix_iter(border=2)]
        self.assertEqual(rows[: len(expected)], expected)
        self.assertFalse(any(any(row) for row in rows[len(expected) :]))


class PasswordTests(CommandTestCase):
    """``tsh passwd``."""

    def setUp(self) -> None:
        super().setUp()
        self.login()

    def test_changed(self) -> None:
        """Old, new, new; the login goes on."""
        typed = "correct horse\nbattery staple\nbattery staple\n"
        said = self.succeeds(self.tsh("passwd", stdin=typed))
        self.assertEqual(said, "The password of alice is changed. Logins that are open go on until they expire.\n")
        self.assertEqual(self.cluster.passwords["alice"], "battery staple")
        self.assertEqual(self.cluster.calls[-1][2], {"old": "correct horse", "password": "battery staple"})
        self.succeeds(self.tsh("db", "ls"))

    def test_code(self) -> None:
        """A code is asked for where there is a device, as logging in asks for one."""
        self.cluster.second_factor, self.cluster.devices = "optional", [dict(DEVICE)]
        arguments = ("correct horse", "123456", "battery staple", "battery staple")
        code, seen = self.at_terminal("tsh", "passwd", answers=arguments)
        self.assertEqual(code, 0, seen)
        self.assertIn("One-time code, or a recovery code:", seen)
        self.assertEqual(self.cluster.calls[-1][2]["otp"], "123456")

    def test_refused(self) -> None:
        """What is wrong is said before anything is sent, or by auth."""
        before = len(self.cluster.calls)
        self.fails(self.tsh("passwd", stdin="correct horse\nbattery staple\nother\n"), "not the same", code=2)
        self.fails(self.tsh("passwd", stdin="correct horse\nshort\nshort\n"), "at least 8", code=2)
        self.fails(self.tsh("passwd"), "a password is needed", code=2)
        self.assertEqual({method for method, _, _ in self.cluster.calls[before:]}, {"GET"})
        self.fails(self.tsh("passwd", stdin="x\nbattery staple\nbattery staple\n"), "is wrong")


class SessionMFATests(CommandTestCase):
    """A role asks for a code at each login to a database."""

    def setUp(self) -> None:
        super().setUp()
        self.login()
        self.cluster.session_mfa = 60.0

    def certificates(self) -> int:
        """How often a certificate was asked for with a code."""
        return sum("otp" in (body or {}) for _, path, body in self.cluster.calls if path == "/v1/certificates/user")

    def test_login(self) -> None:
        """The role is named, the code is asked for, and how long it lasts is said."""
        result = self.tsh("db", "login", "aurora", stdin="123456\n")
        self.assertIn("good for one minute", self.succeeds(result))
        self.assertEqual(result.err, 'role "careful" asks for a one-time code at each login to a database\n')
        result = self.tsh("db", "login", "metrics", stdin="000000\n")
        self.assertEqual((result.code, result.err.splitlines()[1:]), (1, ["ERROR: the otp is wrong"]))
        code, seen = self.at_terminal("tsh", "db", "login", "metrics", answers=("123456",))
        self.assertEqual(code, 0, seen)
        self.assertIn("One-time code for metrics:", seen)

    def test_connect(self) -> None:
        """connect gets its certificate right before it runs psql, which gets the rest of the input."""
        psql = self.home / "bin" / "psql"
        psql.parent.mkdir()
        psql.write_text('#!/bin/sh\necho "$@"; cat\n')
        psql.chmod(0o755)
        self.environment["PATH"] = f"{psql.parent}:{self.environment['PATH']}"
        said = self.succeeds(self.tsh("db", "connect", "aurora", stdin="123456\nSELECT 1;\n"))
        self.assertEqual(said, "service=root-aurora\nSELECT 1;\n")
        self.assertEqual(self.certificates(), 1)
        said = self.succeeds(self.tsh("db", "connect", "aurora", stdin="123456\nSELECT 2;\n"))
        self.assertEqual(said, "service=root-aurora\nSELECT 2;\n", "the code is never SQL")
        # With most of the minute left the same certificate does at a terminal, and no code is asked for.
        psql.write_text('#!/bin/sh\necho "$@"\n')
        code, seen = self.at_terminal("tsh", "db", "connect", "aurora", answers=())
        self.assertEqual((code, seen.strip()), (0, "service=root-aurora"))
        self.cluster.session_mfa = 15.0
        self.succeeds(self.tsh("db", "login", "aurora", stdin="123456\n"))
        self.succeeds(self.tsh("db", "connect", stdin="123456\nSELECT 3;\n"))
        self.assertEqual(self.certificates(), 4)

    def test_begins_to_ask(self) -> None:
        """A certificate of before is renewed when a role begins to ask; without auth it is used as it is."""
        self.cluster.session_mfa = 0.0
        self.succeeds(self.tsh("db", "login", "aurora"))
        self.cluster.session_mfa = 60.0
        psql = self.home / "psql"
        psql.write_text("#!/bin/sh\ncat\n")
        psql.chmod(0o755)
        self.environment["PATH"] = f"{psql.parent}:{self.environment['PATH']}"
        self.assertEqual(self.succeeds(self.tsh("db", "connect", "aurora", stdin="123456\nSELECT 1;\n")), "SELECT 1;\n")
        self.assertEqual(self.certificates(), 1)
        self.cluster.session_mfa = 0.0
        self.succeeds(self.tsh("db", "login", "aurora"))
        self.cluster.close()
        self.assertEqual(self.succeeds(self.tsh("db", "connect", "aurora", stdin="SELECT 2;\n")), "SELECT 2;\n")

    def test_login_again(self) -> None:
        """``tsh login`` asks for no codes of databases: they are logged out of, in words."""
        self.succeeds(self.tsh("db", "login", "aurora", stdin="123456\n"))
        result = self.tsh("login", stdin="correct horse\n")
        self.succeeds(result)
        self.assertIn('WARNING: logged out of database aurora: role "careful" asks for', result.err)

    def test_expired(self) -> None:
        """When the minute is over, the command that helps is named."""
        self.cluster.now -= 61.0
        self.succeeds(self.tsh("db", "login", "aurora", stdin="123456\n"))
        self.fails(self.tsh("db", "env", "aurora"), "has expired, run: tsh db login aurora")
