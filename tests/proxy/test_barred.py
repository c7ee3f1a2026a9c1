"""A proxy and the agents that it does not know any more."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import AuthenticationFailed
from teleport_db.identity import DatabaseRoute, Identity
from teleport_db.proxy.barred import Barred
from tests.cluster import CLUSTER, Cluster


def removed(name: str) -> dict[str, Any]:
    return {"type": "put", "kind": "removed_host", "name": name, "resource": {}}


def locked(**spec: Any) -> dict[str, Any]:
    return {"type": "put", "kind": "lock", "name": "l", "resource": {"metadata": {"name": "l"}, "spec": spec}}


class BarredTests(SynchronousTestCase):
    """Who is refused."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.changes = 0
        self.barred = Barred(clock=self.clock, changed=self.change)

    def change(self) -> None:
        self.changes += 1

    def refuses(self, name: str) -> bool:
        try:
            self.barred.check(Identity("host", name, CLUSTER, roles=("db",)))
        except AuthenticationFailed:
            return True
        return False

    def test_removed(self) -> None:
        self.barred.apply({"reset": True, "changes": [removed("a")]})
        self.assertEqual([self.refuses("a"), self.refuses("b")], [True, False])
        self.barred.apply({"changes": [removed("b"), {"type": "delete", "kind": "removed_host", "name": "a"}]})
        self.assertEqual([self.refuses("a"), self.refuses("b")], [False, True])
        self.barred.apply({"reset": True, "changes": []})
        self.assertFalse(self.refuses("b"))

    def test_locked(self) -> None:
        """A lock of a host, until it ends; locks of others are no matter here."""
        self.barred.apply({"changes": [locked(target={"server_id": "a"}, expires="1970-01-01T00:01:00Z")]})
        self.assertEqual([self.refuses("a"), self.refuses("b")], [True, False])
        self.clock.advance(60)
        self.assertFalse(self.refuses("a"))
        self.barred.apply({"changes": [locked(target={"user": "a"})]})
        self.assertFalse(self.refuses("a"))

    def test_told(self) -> None:
        """An answer without changes is no change; one that cannot be read changes nothing."""
        self.barred.apply({"changes": []})
        self.assertEqual(self.changes, 0)
        self.assertRaises(KeyError, self.barred.apply, {"changes": [removed("a"), {"kind": "lock"}]})
        self.assertEqual((self.changes, self.refuses("a")), (0, False))
        self.barred.apply({"changes": [removed("a")]})
        self.assertEqual(self.changes, 1)


class TunnelTests(SynchronousTestCase):
    """The tunnels of those who are refused."""

    def test_dropped(self) -> None:
        """The tunnel is closed with its sessions, and the others stay."""
        cluster = Cluster()
        cluster.agent("agent-1")
        client = cluster.session()
        cluster.agent("agent-2", services=("other",))
        barred = Barred(clock=cluster.clock, changed=lambda: cluster.router.drop(barred.check))
        barred.apply({"changes": [removed("agent-1")]})
        cluster.settle()
        self.assertTrue(client.gone)
        self.assertEqual(cluster.router.agents, 1)
        self.assertEqual(len(cluster.router.endpoints_for(DatabaseRoute(CLUSTER, "other"))), 1)
