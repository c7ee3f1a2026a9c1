"""Commands as people run them: processes with a home of their own, against a cluster in this one."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from tests.cli.fakecluster import FakeCluster

ROOT = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


class CommandTestCase(SynchronousTestCase):
    """A cluster, a home, and a way to run commands in it."""

    second_factor = "off"
    proxy_names: tuple[str, ...] = ("localhost", "127.0.0.1")

    def setUp(self) -> None:
        self.cluster = FakeCluster(second_factor=self.second_factor, proxy_names=self.proxy_names)
        self.addCleanup(self.cluster.close)
        self.home = Path(self.mktemp()).resolve()
        self.home.mkdir()
        self.environment = {
            "HOME": str(self.home),
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(ROOT),
            "SSL_CERT_FILE": self.cluster.web_ca_file,
            "USER": "alice",
            "LC_ALL": "C.UTF-8",
        }
        self.cluster.put(
            {
                "kind": "user",
                "version": "v2",
                "metadata": {"name": "alice"},
                "spec": {"roles": ["access"], "traits": {"db_users": ["alice"]}},
            }
        )
        self.cluster.databases = [
            {
                "name": "aurora",
                "description": "AWS Aurora",
                "protocol": "postgres",
                "uri": "aurora.example.com:5432",
                "labels": {"env": "dev"},
                "agents": 1,
                "users": ["alice"],
                "names": ["postgres"],
            },
            {
                "name": "metrics",
                "description": "",
                "protocol": "postgres",
                "uri": "metrics.example.com:5432",
                "labels": {},
                "agents": 2,
                "users": ["*"],
                "names": ["*"],
            },
        ]

    def run_program(self, program: str, *arguments: str, stdin: str = "", **environment: str) -> Result:
        """Run ``teleport``, ``tctl`` or ``tsh``; no terminal, ``stdin`` piped in."""
        done = subprocess.run(
            [sys.executable, "-m", f"teleport_db.cli.{program}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**self.environment, **environment},
            cwd=self.home,
            timeout=60,
            check=False,
        )
        self.assertNotIn("Traceback", done.stderr)
        self.assertLessEqual(len(done.stderr.splitlines()), 4, done.stderr)
        return Result(done.returncode, done.stdout, done.stderr)

    def tsh(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        """Run ``tsh``."""
        return self.run_program("tsh", *arguments, stdin=stdin, **environment)

    def succeeds(self, result: Result) -> str:
        """The output of a command that ended well."""
        self.assertEqual(result.code, 0, result)
        return result.out

    def fails(self, result: Result, *said: str, code: int = 1) -> str:
        """The complaint of a command that did not: one or two lines that have the words ``said``."""
        self.assertEqual(result.code, code, result)
        self.assertTrue(result.err.startswith("ERROR: "), result.err)
        self.assertLessEqual(len(result.err.splitlines()), 2)
        for words in said:
            self.assertIn(words, result.err)
        return result.err

    def login(self, *arguments: str) -> str:
        """Log alice in."""
        return self.succeeds(
            self.tsh("login", f"--proxy={self.cluster.address}", "--user=alice", *arguments, stdin="correct horse\n")
        )

    def at_terminal(self, program: str, *arguments: str, answers: tuple[str, ...]) -> tuple[int, str]:
        """Run a command at a terminal and type each answer once a prompt is there; code and all output."""
        pid, terminal = pty.fork()
        if pid == 0:  # pragma: no cover - the child
            try:
                os.chdir(self.home)
                os.execve(
                    sys.executable,
                    [sys.executable, "-m", f"teleport_db.cli.{program}", *arguments],
                    self.environment,
                )
            finally:
                os._exit(127)
        seen, fresh, waiting = b"", b"", list(answers)
        try:
            while select.select([terminal], [], [], 20)[0]:
                try:
                    data = os.read(terminal, 4096)
                except OSError:  # Linux: the other side of the terminal is closed
                    break
                seen += data
                fresh += data
                if waiting and fresh.rstrip().endswith((b":", b"]")):
                    fresh = b""
                    os.write(terminal, waiting.pop(0).encode() + b"\n")
            else:
                os.kill(pid, signal.SIGKILL)
        finally:
            os.close(terminal)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), seen.decode()
