"""A code for each session, through the whole system: what tsh asks for, what psql is told, what is recorded."""

from __future__ import annotations

import re
import subprocess
import time

import pyotp
from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.support import STATIC_TOKEN, STEP, World, closing_on_failure, failing, program, shared

ROLE = """\
kind: role
version: v3
metadata: {name: careful}
spec:
  options: {require_session_mfa: yes}
  allow:
    db_labels: {'*': '*'}
    db_names: ['*']
    db_users: ['*']
"""
ASKS = 'role "careful" asks for a one-time code at each login to a database'


def build() -> World:
    """auth and proxy, an agent, alice whose role wants codes and who has recovery codes for logging in."""
    with closing_on_failure(World()) as world:
        world.start_auth()
        world.certify()
        world.agent("aurora", f"--token={STATIC_TOKEN}", "--insecure").until_up()
        world.until_served("aurora")
        alice = world.person("alice")
        said = world.tctl("users", "add", "alice", "--db-names=postgres", "--db-users=postgres", "--format=json")
        page = alice.redeem(said.json()["url"])
        world.recovery = re.findall(r"\b[a-z2-9]{4}(?:-[a-z2-9]{4}){3}\b", page)  # type: ignore[attr-defined]
        alice.login()
        alice.tsh("db", "login", "--db-user=postgres", "--db-name=postgres", "aurora")
    return world


class SessionMFATests(SynchronousTestCase):
    """One story, told in order."""

    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.alice = self.world.person("alice")

    def test_story(self) -> None:
        """From a certificate without a code, by a second device, to a session with one, and to another password."""
        world, alice = self.world, self.alice
        world.tctl("create", str(world.file("careful.yaml", ROLE)))
        world.tctl("users", "update", "alice", "--set-roles=careful")
        # The certificate of before opens nothing any more; a robot gets none.
        said = failing(lambda: alice.psql(alice.service("aurora"), "SELECT 1", fails=None))
        self.assertIn(f"access denied: {ASKS}; run: tsh db connect aurora (or tsh db login aurora)", said.err)
        robot = world.tctl("auth", "sign", "--format=file", "--user=alice", "--out=robot.pem", fails=True)
        self.assertIn(f'role "careful" of user "alice" {ASKS[15:]}, which a program', robot.err)
        # Codes work once each, and none may be waited for: a second device has its own, the first of the step before.
        secret = self._second_device()
        psql = alice.home / "psql"
        psql.write_text(f'#!/bin/sh\nexec {subprocess.list2cmdline(world.client("psql"))} "$@"\n')
        psql.chmod(0o755)
        alice.environment["PATH"] = f"{alice.home}:{alice.environment['PATH']}"
        code = pyotp.TOTP(secret).generate_otp(int(time.time()) // STEP)
        connect = ("db", "connect", "--db-user=postgres", "--db-name=postgres", "aurora")
        said = alice.tsh(*connect, typed=f"{code}\nSELECT 'through ' || current_user;\n")
        self.assertIn("through postgres", said.out)
        self.assertEqual(said.errors[0], ASKS)
        [event] = world.until_recorded(event="cert.create", usage="database", mfa=True)
        self.assertEqual(event["user"], "alice")
        world.until_recorded(event="db.session.start", code="TDB00W", user="alice", success=False)
        said = alice.tsh("db", "login", "aurora", typed=f"{code}\n", fails=True)
        self.assertIn("the one-time code is wrong, or was used already", said.err)
        # Another password, proven by the old one and a recovery code; the login goes on.
        said = alice.tsh("passwd", typed=f"{alice.password}\n{world.recovery[1]}\nnew password\nnew password\n")
        alice.password = "new password"
        self.assertIn("Logins that are open go on", said.out)
        alice.tsh("db", "ls")
        proxy = (f"--proxy=localhost:{world.web}", "--user=alice", "--insecure")
        said = alice.tsh("login", *proxy, typed=f"{alice.password}\n{world.recovery[2]}\n")
        self.assertIn("you have 5 recovery codes left", said.out)

    def _second_device(self) -> str:
        """Add one by a recovery code; its secret."""
        tsh = [*program("tsh"), "mfa", "add", "--name=tablet"]
        with subprocess.Popen(
            tsh,
            cwd=self.alice.home,
            env=self.alice.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{self.world.recovery[0]}\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("  Key: "):
                    break
            secret = line.split()[1]
            process.stdin.write(pyotp.TOTP(secret).generate_otp(int(time.time()) // STEP - 1) + "\n")
            process.stdin.close()
            self.assertIn('Device "tablet" has been added.', process.stdout.read())
        return secret
