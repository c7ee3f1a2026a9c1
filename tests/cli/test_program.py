"""The frame of all commands: words, flags in any order, help, completion, exit codes, and how little is imported."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.cli import completion, tctl, teleport, tsh
from teleport_db.cli.program import Program
from teleport_db.errors import UsageError

PROGRAMS = (tsh.PROGRAM, tctl.PROGRAM, teleport.PROGRAM)
ROOT = Path(__file__).resolve().parents[2]


def called(program: Program, *argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = program.main(list(argv))
        except SystemExit as exited:  # argparse's own, after --help
            code = int(exited.code or 0)
    return code, out.getvalue(), err.getvalue()


class FindTests(SynchronousTestCase):
    """The command in a command line."""

    def test_words(self) -> None:
        """Global flags may stand anywhere; their values are no words."""
        for argv, words, rest in (
            (["db", "ls"], "db ls", []),
            (["--proxy", "db", "db", "ls", "-v"], "db ls", ["--proxy", "db", "-v"]),
            (["-i", "login", "status"], "status", ["-i", "login"]),
            (["db", "--insecure", "login", "ls"], "db login", ["--insecure", "ls"]),
            (["login", "--proxy=x", "status"], "login", ["--proxy=x", "status"]),
        ):
            command, left, _ = tsh.PROGRAM.find(argv)
            assert command is not None
            self.assertEqual((command.words, left), (words, rest))

    def test_unknown(self) -> None:
        """An unknown word names those there are; one of Teleport's says why it is not here."""
        for argv, said in (
            (["dbs"], "unknown command 'dbs'"),
            (["db", "lss"], "tsh db has"),
            (["db"], "a command is missing"),
            (["ssh", "host"], "SSH is not part"),
        ):
            with self.assertRaises(UsageError) as raised:
                tsh.PROGRAM.find(argv)
            self.assertIn(said, str(raised.exception))


class HelpTests(SynchronousTestCase):
    """Every command explains itself."""

    def test_every_command(self) -> None:
        """``--help`` has a sentence and an example that begins with the program and parses."""
        for program in PROGRAMS:
            for name, command in program.commands.items():
                code, out, _ = called(program, *name.split(), "--help")
                self.assertEqual(code, 0)
                self.assertIn("example:", out)
                self.assertIn(program.name, command.example.splitlines()[0])
                self.assertTrue(command.summary[0].islower())

    def test_examples_parse(self) -> None:
        """The first line of each example is a command line that is understood."""
        import shlex

        for program in PROGRAMS:
            for name, command in program.commands.items():
                line = command.example.splitlines()[0].replace('eval "$(', "").replace(')"', "").rstrip("\\ ")
                words = [word for word in shlex.split(line) if "EDITOR" not in word]
                self.assertEqual(words[0], program.name)
                found, rest, _ = program.find(words[1:])
                assert found is not None
                self.assertEqual(found.words, name)
                program.parser(found, found.load()[0]).parse_intermixed_args(rest)

    def test_overviews(self) -> None:
        """All commands of a program, and those of a group."""
        for argv in ([], ["--help"], ["help"]):
            code, out, _ = called(tsh.PROGRAM, *argv)
            self.assertEqual(code, 0)
            self.assertIn("db login", out)
        code, out, _ = called(tctl.PROGRAM, "users", "--help")
        self.assertEqual(code, 0)
        self.assertIn("users reset", out)
        self.assertNotIn("tokens", out)

    def test_version(self) -> None:
        """As a word and as a flag."""
        for argv in (["version"], ["--version"]):
            self.assertTrue(called(teleport.PROGRAM, *argv)[1].startswith("teleport v0."))


class ErrorTests(SynchronousTestCase):
    """Two lines at most, and the exit codes."""

    def test_wrong_calls(self) -> None:
        """2, and where to read more."""
        for argv in (
            ["nope"],
            ["db", "login"],
            ["db", "ls", "--nope"],
            ["db", "ls", "extra"],
            ["db", "ls", "--format=x"],
        ):
            code, out, err = called(tsh.PROGRAM, *argv)
            self.assertEqual((code, out), (2, ""))
            self.assertTrue(err.startswith("ERROR: "))
            self.assertIn("--help", err)
            self.assertLessEqual(len(err.splitlines()), 2)

    def test_no_abbreviations(self) -> None:
        """A flag that is written half today is another one tomorrow."""
        self.assertEqual(called(tsh.PROGRAM, "db", "ls", "--verb")[0], 2)

    def test_unexpected(self) -> None:
        """A fault of the program is a line, and a traceback only under ``--debug``."""
        self.patch(Program, "run", lambda self, argv: 1 / 0)
        code, _, err = called(tsh.PROGRAM, "status")
        self.assertEqual(code, 1)
        self.assertIn("ZeroDivisionError", err)
        self.assertEqual(len(err.splitlines()), 1)
        with self.assertRaises(ZeroDivisionError):
            tsh.PROGRAM.main(["--debug", "status"])

    def test_interrupted(self) -> None:
        """Control-C is no traceback."""

        def interrupt(self: Program, argv: list[str]) -> int:
            raise KeyboardInterrupt

        self.patch(Program, "run", interrupt)
        self.assertEqual(called(tsh.PROGRAM, "status")[::2], (1, "ERROR: interrupted\n"))

    def test_hostile_text(self) -> None:
        """An error that came from elsewhere cannot write to the terminal."""

        def fail(self: Program, argv: list[str]) -> int:
            raise UsageError("a\x1b[31m\nb\nc")

        self.patch(Program, "run", fail)
        self.assertEqual(called(tsh.PROGRAM, "x")[2], "ERROR: a\\x1b[31m\n       b\n")


class CompletionTests(SynchronousTestCase):
    """Scripts for shells."""

    def test_table(self) -> None:
        """What may follow what."""
        table = completion.words(tsh.PROGRAM)
        self.assertIn("db", table[""])
        self.assertEqual(table["db"], ["ls", "login", "logout", "env", "config", "connect"])
        self.assertIn("--db-user", table["db login"])
        self.assertIn("--format=json", table["db ls"])

    def complete(self, *words: str) -> list[str]:
        """What bash offers for the last of ``words``."""
        bash = shutil.which("bash")
        if bash is None:
            self.skipTest("there is no bash")
        program = next(program for program in PROGRAMS if program.name == words[0])
        quoted = " ".join(f"'{word}'" for word in words)
        script = completion.script(program, "bash") + (
            f"\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}\n_{program.name}_complete\n"
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run([bash, "--norc", "-c", script], capture_output=True, text=True, check=True, cwd="/")
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_bash(self) -> None:
        """bash itself runs it."""
        self.assertEqual(self.complete("tsh", "lo"), ["login", "logout"])
        self.assertEqual(self.complete("tsh", "db", "con"), ["config", "connect"])
        self.assertEqual(self.complete("tsh", "db", "login", "--db-"), ["--db-name", "--db-user"])
        self.assertIn("--overwrite", self.complete("tctl", "auth", "sign", "--o"))
        self.assertEqual(self.complete("teleport", "start", "--db-u"), ["--db-uri"])

    def test_zsh(self) -> None:
        """zsh takes the script, where it is installed."""
        script = completion.script(tctl.PROGRAM, "zsh")
        self.assertTrue(script.startswith("#compdef tctl\n"))
        zsh = shutil.which("zsh")
        if zsh is not None:
            subprocess.run([zsh, "-n"], input=script, text=True, check=True, capture_output=True)


class ImportTests(SynchronousTestCase):
    """The person at the terminal waits for every import."""

    HEAVY = ("twisted", "cryptography", "yaml", "attr", "OpenSSL", "zope", "argon2")

    def imported(self, module: str, *names: str) -> list[str]:
        code = f"import sys, {', '.join((module, *names))}\nprint(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        return sorted({name.partition(".")[0] for name in done.stdout.split()} & set(self.HEAVY))

    def test_fast_commands(self) -> None:
        """Listing, status, and everything without a key to make, need nothing but the standard library."""
        modules = ("tsh_db", "tsh_connect", "tsh_login", "tctl_status", "tctl_users", "tctl_tokens", "tctl_resources")
        names = [f"teleport_db.cli.{name}" for name in modules]
        self.assertEqual(self.imported("teleport_db.cli.tsh", "teleport_db.cli.tctl", *names), [])
        self.assertEqual(self.imported("teleport_db.cli.teleport", "teleport_db.api.http"), [])
