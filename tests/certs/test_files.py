"""Secrets are there whole or not at all."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import teleport_db
from teleport_db.certs.files import read_secret, write_public, write_secret
from teleport_db.errors import ConfigError

#: Writes two secrets in turn for as long as it lives.
WRITER = """
import sys
from teleport_db.certs.files import write_secret
print("ready", flush=True)
while True:
    for byte in (b"a", b"b"):
        write_secret(sys.argv[1], byte * 300_000)
"""


class WriteTests(SynchronousTestCase):
    """One file, written well."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "key.pem"

    def test_modes(self) -> None:
        """Secrets are 0600 and the rest 0644, whatever the umask and whatever was there."""
        for umask in (0o000, 0o077, 0o022):
            before = os.umask(umask)
            try:
                write_secret(self.path, b"secret")
                self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
                write_public(self.path, b"public")
                self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o644)
            finally:
                os.umask(before)
        self.assertEqual(os.listdir(self.directory), ["key.pem"])

    def test_replaces_a_link(self) -> None:
        """The link goes, what it leads to stays."""
        target = self.directory / "target"
        target.write_bytes(b"kept")
        self.path.symlink_to(target)
        write_secret(self.path, b"secret")
        self.assertFalse(self.path.is_symlink())
        self.assertEqual((target.read_bytes(), read_secret(self.path)), (b"kept", b"secret"))

    def test_failure(self) -> None:
        """What cannot be written leaves the old file, and nothing beside it."""
        write_secret(self.path, b"old")
        self.patch(os, "rename", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
        self.assertRaises(OSError, write_secret, self.path, b"new")
        self.assertEqual(read_secret(self.path), b"old")
        self.assertEqual(os.listdir(self.directory), ["key.pem"])
        self.assertRaises(OSError, write_secret, self.directory / "no" / "such", b"new")

    def test_remains(self) -> None:
        """The remains of a killed writer are removed by the next, those of other names are not."""
        (self.directory / ".key.pem.0123456789abcdef.tmp").write_bytes(b"part")
        (self.directory / ".other.0123456789abcdef.tmp").write_bytes(b"part")
        write_secret(self.path, b"new")
        self.assertEqual(sorted(os.listdir(self.directory)), [".other.0123456789abcdef.tmp", "key.pem"])

    def test_read(self) -> None:
        """A secret that others can read is refused before it is used."""
        self.assertRaises(FileNotFoundError, read_secret, self.path)
        write_public(self.path, b"secret")
        with self.assertRaises(ConfigError) as caught:
            read_secret(self.path)
        self.assertIn("chmod 600", str(caught.exception))
        self.path.unlink()
        os.mkfifo(self.path, 0o600)
        self.assertRaises(ConfigError, read_secret, self.path)


class KillTests(SynchronousTestCase):
    """100 kills leave old or new."""

    def test_killed_while_writing(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        path = directory / "key.pem"
        write_secret(path, b"a" * 300_000)
        delays = random.Random(5)
        seen = set()
        environment = {**os.environ, "PYTHONPATH": str(Path(teleport_db.__file__).parent.parent)}
        for _ in range(20):
            children = [
                subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, env=environment)
                for _ in range(5)
            ]
            for child in children:
                assert child.stdout is not None
                child.stdout.readline()
            for child in children:
                time.sleep(delays.uniform(0, 0.004))
                child.send_signal(signal.SIGKILL)
                content = read_secret(path)
                self.assertIn(content, (b"a" * 300_000, b"b" * 300_000))
                seen.add(content[:1])
            for child in children:
                child.communicate()
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        write_secret(path, b"last")
        self.assertEqual(os.listdir(directory), ["key.pem"])
        self.assertEqual(seen, {b"a", b"b"})
