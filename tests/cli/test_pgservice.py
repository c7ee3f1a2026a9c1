"""The service file: what is ours changes, what is not stays as it was, byte for byte."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.cli import pgservice
from teleport_db.errors import UsageError

SETTINGS = {
    "host": "teleport.example.com",
    "port": "3080",
    "user": "",
    "dbname": "",
    "sslmode": "verify-full",
    "sslrootcert": "/h/certs.pem",
    "sslcert": "/h/aurora-x509.pem",
    "sslkey": "/h/alice",
    "gssencmode": "disable",
}

SECTION = """\
[root-aurora]
host=teleport.example.com
port=3080
sslmode=verify-full
sslrootcert=/h/certs.pem
sslcert=/h/aurora-x509.pem
sslkey=/h/alice
gssencmode=disable
"""

OTHERS = """\
# by hand

[metrics]
  host = 10.0.0.1
# a comment with [brackets] and root-aurora
port=5433

# about the last one
[other]
dbname=x
"""


class UpdateTests(SynchronousTestCase):
    """Writing our section."""

    def test_empty(self) -> None:
        """A new file has the section alone."""
        self.assertEqual(pgservice.update("", "root-aurora", SETTINGS), SECTION)

    def test_appended(self) -> None:
        """Others stay in front of it."""
        self.assertEqual(pgservice.update(OTHERS, "root-aurora", SETTINGS), f"{OTHERS}\n{SECTION}")

    def test_no_newline_at_the_end(self) -> None:
        """A last line without its end does not swallow the header."""
        self.assertEqual(pgservice.update("[a]\nhost=b", "root-aurora", SETTINGS), f"[a]\nhost=b\n\n{SECTION}")

    def test_again(self) -> None:
        """The same settings again change nothing."""
        once = pgservice.update(OTHERS, "root-aurora", SETTINGS)
        self.assertEqual(pgservice.update(once, "root-aurora", SETTINGS), once)

    def test_in_the_middle(self) -> None:
        """A section between others is written where it was."""
        text = f"[a]\nhost=b\n\n{SECTION}\n{OTHERS}"
        changed = pgservice.update(text, "root-aurora", {**SETTINGS, "user": "bob"})
        self.assertEqual(changed, text.replace("port=3080\n", "port=3080\nuser=bob\n"))

    def test_default_goes(self) -> None:
        """A user of the last login is gone when this one names none."""
        text = pgservice.update("", "root-aurora", {**SETTINGS, "user": "bob"})
        self.assertEqual(pgservice.update(text, "root-aurora", SETTINGS), SECTION)

    def test_keys_of_the_person(self) -> None:
        """A key and a comment that somebody put into our section stay there."""
        text = SECTION + "# slow network\nconnect_timeout=30\n"
        changed = pgservice.update(text, "root-aurora", {**SETTINGS, "port": "443"})
        self.assertEqual(changed, text.replace("3080", "443"))

    def test_twice(self) -> None:
        """Of two sections of our name, libpq reads the first; the other one goes."""
        changed = pgservice.update(f"{SECTION}\n[x]\nport=1\n\n[root-aurora]\nhost=old\n", "root-aurora", SETTINGS)
        self.assertEqual(changed.count("[root-aurora]"), 1)
        self.assertNotIn("old", changed)
        self.assertIn("[x]\nport=1\n", changed)

    def test_line_breaks(self) -> None:
        """No value can add a line, a section or a key."""
        for value in ("a\nhost=evil", "a\r", " a", "a\t", "a\u2028b", "\x1b[0m"):
            with self.assertRaises(UsageError):
                pgservice.update("", "root-aurora", {**SETTINGS, "user": value})


class RemoveTests(SynchronousTestCase):
    """Taking our section out."""

    def test_added_and_removed(self) -> None:
        """What was there before is there after."""
        for text in ("", OTHERS, "[a]\nhost=b\n", "# only a comment\n"):
            changed = pgservice.remove(pgservice.update(text, "root-aurora", SETTINGS), "root-aurora")
            self.assertEqual(changed.rstrip("\n"), text.rstrip("\n"))

    def test_middle(self) -> None:
        """The sections around stay, an empty line between them."""
        text = f"[a]\nhost=b\n\n{SECTION}\n# of c\n[c]\nhost=d\n"
        self.assertEqual(pgservice.remove(text, "root-aurora"), "[a]\nhost=b\n\n# of c\n[c]\nhost=d\n")

    def test_comments_stay(self) -> None:
        """A comment inside the section is somebody's."""
        self.assertIn("# mine", pgservice.remove(f"{SECTION}# mine\n", "root-aurora"))

    def test_other_names(self) -> None:
        """Only the very name is ours."""
        text = "[root-aurora2]\nhost=a\n[root-auror]\nhost=b\n[xroot-aurora]\nhost=c\n"
        self.assertEqual(pgservice.remove(text, "root-aurora"), text)

    def test_read(self) -> None:
        """What libpq would read."""
        self.assertEqual(pgservice.read(OTHERS + SECTION, "root-aurora"), {k: v for k, v in SETTINGS.items() if v})
        self.assertIsNone(pgservice.read(OTHERS, "root-aurora"))

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                [
                    "",
                    " ",
                    "# c",
                    "  # [x]",
                    "[a]",
                    "[root-aurora]",
                    " [b] ",
                    "host=x",
                    "port = 1",
                    "ldap://x",
                    "é=1",
                    "[",
                ]
            ),
            max_size=12,
        )
    )
    def test_others_survive(self, lines: list[str]) -> None:
        """Whatever the file: others' sections and every comment survive an update and a removal."""
        text = "\n".join(lines)

        def others(text: str) -> list[str]:
            kept, section = [], ""
            for line in text.split("\n"):
                bare = line.strip()
                if bare.startswith("[") and "]" in bare:
                    section = bare[1 : bare.index("]")]
                if bare and (bare.startswith("#") or section != "root-aurora"):
                    kept.append(line)
            return kept

        changed = pgservice.update(text, "root-aurora", SETTINGS)
        self.assertEqual(others(changed), others(text))
        read = pgservice.read(changed, "root-aurora") or {}
        self.assertEqual({key: read.get(key, "") for key in SETTINGS}, SETTINGS)
        removed = pgservice.remove(changed, "root-aurora")
        self.assertIsNone(pgservice.read(removed, "root-aurora"))
        self.assertEqual(others(removed), others(text))


class FileTests(SynchronousTestCase):
    """The file on disk."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp()).absolute()
        self.patch(os, "environ", {**os.environ, "PGSERVICEFILE": str(self.file)})

    def test_new(self) -> None:
        """A new file is its owner's alone."""
        pgservice.change(lambda text: pgservice.update(text, "root-aurora", SETTINGS))
        self.assertEqual(self.file.read_text(), SECTION)
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)

    def test_mode_and_link(self) -> None:
        """Permissions stay, and a link stays a link."""
        target = self.file.with_name(self.file.name + "-dotfiles")
        target.write_bytes(b"# caf\xe9\r\n[x]\r\nhost=y\r\n")
        target.chmod(0o644)
        self.file.symlink_to(target)
        pgservice.change(lambda text: pgservice.update(text, "root-aurora", SETTINGS))
        self.assertTrue(self.file.is_symlink())
        self.assertEqual(stat.S_IMODE(target.stat().st_mode), 0o644)
        self.assertTrue(target.read_bytes().startswith(b"# caf\xe9\r\n[x]\r\nhost=y\r\n"))

    def test_untouched(self) -> None:
        """Nothing to do writes nothing, not even an empty file."""
        pgservice.change(lambda text: pgservice.remove(text, "root-aurora"))
        self.assertFalse(self.file.exists())

    def test_libpq_reads_it(self) -> None:
        """libpq itself takes the section: it goes on to look for the certificate that it names."""
        if shutil.which("psql") is None:
            self.skipTest("psql is not on the PATH")
        self.file.write_text(OTHERS)
        pgservice.change(
            lambda text: pgservice.update(
                text, "root-aurora", {**SETTINGS, "host": "127.0.0.1", "port": "1", "sslrootcert": "/nowhere/certs.pem"}
            )
        )
        command = ["psql", "service=root-aurora"]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
        self.assertIn("127.0.0.1", done.stderr)
        self.assertNotIn("service", done.stderr.replace("is the server running", ""))
