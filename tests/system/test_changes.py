"""What an administrator takes away is gone in seconds, running sessions included."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.support import Process, World, metrics_world, shared, until


def build() -> World:
    """Two people at one database."""
    return metrics_world("alice", "bob")


class ChangeTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)

    def sleeping(self, name: str) -> Process:
        """A psql of this person's that waits for a long statement."""
        person = self.world.person(name)
        psql = self.world.start(
            f"psql-{name}",
            *self.world.client("psql"),
            *("-X", "-c", f"SELECT pg_sleep(120) AS {name}", person.service("aurora")),
            environment=person.environment,
        )
        running = f"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%120) AS {name}'"
        until(lambda: self.world.postgres.sql(running).strip() == "1", "psql runs its statement")
        return psql

    def test_lock(self) -> None:
        """A lock ends the session with its message, and keeps new ones out until it is lifted."""
        psql = self.sleeping("alice")
        locked = self.world.tctl("lock", "--user=alice", "--message=on leave")
        psql.until_said('user "alice" is locked: on leave')
        self.assertEqual(psql.wait(), 2)
        alice = self.world.person("alice")
        refused = alice.psql(alice.service("aurora"), "SELECT 1", fails=True)
        self.assertIn('user "alice" is locked: on leave', refused.text)
        found = re.search(r"lock/[\w-]+", locked.text)
        assert found is not None, locked.text
        self.world.tctl("rm", found[0])

        def works() -> bool:
            return alice.psql(alice.service("aurora"), "SELECT 41 + 1", fails=None).out.strip() == "42"

        until(works, "the lock is lifted")
        (end,) = self.world.until_recorded(event="db.session.end", user="alice", reason=self.reason("alice"))
        self.assertEqual(end["code"], "TDB01I")

    def reason(self, name: str) -> str:
        return f'this session was ended: user "{name}" is locked: on leave; ask an administrator'

    def test_user_removed(self) -> None:
        """A user who is removed is out, and does not come in again with a certificate of before."""
        psql = self.sleeping("bob")
        bob = self.world.person("bob")
        self.world.tctl("users", "rm", "bob")
        psql.until_said('user "bob" is not in this cluster any more')
        self.assertEqual(psql.wait(), 2)
        refused = bob.psql(bob.service("aurora"), "SELECT 1", fails=True)
        self.assertIn('user "bob" is not in this cluster any more', refused.text)
