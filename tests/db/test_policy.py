"""The agent's knowledge of roles, users, locks and registered databases."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.db.policy import Policy, Standing
from teleport_db.errors import AccessDenied, AgentOffline, AuthenticationFailed
from teleport_db.identity import DatabaseRoute, Identity
from tests.cluster import dev_role, put_user


def put(name: str, **allow: Any) -> dict[str, Any]:
    resource = dev_role(**allow)
    resource["metadata"]["name"] = name
    return {"type": "put", "kind": "role", "name": name, "resource": resource}


class PolicyTests(SynchronousTestCase):
    """What is known."""

    def setUp(self) -> None:
        self.policy = Policy()
        self.policy.apply({"reset": True, "changes": [put("dev"), put("ops")]})

    def names(self) -> list[str]:
        return [name for name in ("dev", "new", "only", "ops") if self.has(name)]

    def has(self, name: str) -> bool:
        try:
            return bool(self.policy.roles([name]))
        except AccessDenied:
            return False

    def test_never_heard(self) -> None:
        self.assertRaises(AgentOffline, Policy().roles, [])

    def test_changes(self) -> None:
        self.policy.apply({"changes": [put("new"), {"type": "delete", "kind": "role", "name": "dev"}]})
        self.assertEqual(self.names(), ["new", "ops"])

    def test_reset(self) -> None:
        """A snapshot is all there is."""
        self.policy.apply({"reset": True, "changes": [put("only")]})
        self.assertEqual(self.names(), ["only"])

    def test_other_kinds(self) -> None:
        self.policy.apply({"changes": [{"type": "put", "kind": "surprise", "name": "dev"}]})
        self.assertEqual(self.names(), ["dev", "ops"])

    def test_unreadable_role(self) -> None:
        """A role that cannot be read is not used in its last form: that may have allowed more."""
        broken = put("dev")
        broken["resource"]["spec"]["surprise"] = 1
        self.policy.apply({"changes": [broken]})
        self.assertRaises(AccessDenied, self.policy.roles, ["dev"])
        self.assertEqual(len(self.policy.roles(["ops"])), 1)

    def test_all_or_nothing(self) -> None:
        """An answer that breaks off in the middle leaves what was known."""
        self.assertRaises(
            KeyError, self.policy.apply, {"reset": True, "changes": [put("new"), {"kind": "role", "type": "put"}]}
        )
        self.assertEqual(self.names(), ["dev", "ops"])

    def test_missing(self) -> None:
        error = self.assertRaises(AccessDenied, self.policy.roles, ["dev", "gone"])
        self.assertIn('"gone"', str(error))


def put_lock(name: str, target: dict[str, str], **spec: str) -> dict[str, Any]:
    resource = {"kind": "lock", "version": "v2", "metadata": {"name": name}, "spec": {"target": target, **spec}}
    return {"type": "put", "kind": "lock", "name": name, "resource": resource}


def put_database(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"protocol": "postgres", "uri": "db.example:5432", **spec}
    resource = {"kind": "db", "version": "v3", "metadata": {"name": name, "labels": {"env": "test"}}, "spec": spec}
    return {"type": "put", "kind": "db", "name": name, "resource": resource}


class StandingTests(SynchronousTestCase):
    """What holds for a user now."""

    #: What the certificate says is of the time when it was signed.
    alice = Identity(
        "user",
        "alice",
        "c",
        roles=("ops",),
        traits={"db_names": ["old"]},
        usage="database",
        route=DatabaseRoute("c", "aurora"),
    )

    def setUp(self) -> None:
        self.policy = Policy()
        changes = [put("dev"), put("ops"), put_user("alice", ("dev",), db_names=["main"])]
        self.policy.apply({"reset": True, "changes": changes})

    def standing(self, now: float = 0.0) -> Standing:
        return self.policy.standing(self.alice, host_id="agent-1", now=now)

    def test_present(self) -> None:
        """The user's record of now counts, not the certificate's copy."""
        standing = self.standing()
        self.assertEqual([role.name for role in standing.roles], ["dev"])
        self.assertEqual(standing.traits, {"db_names": ("main",)})

    def test_never_heard(self) -> None:
        self.assertRaises(AgentOffline, Policy().standing, self.alice, host_id="agent-1", now=0.0)

    def test_deleted(self) -> None:
        self.policy.apply({"changes": [{"type": "delete", "kind": "user", "name": "alice"}]})
        error = self.assertRaises(AuthenticationFailed, self.standing)
        self.assertEqual(str(error), 'user "alice" is not in this cluster any more')

    def test_namesake(self) -> None:
        """What was signed before a user was made was somebody else's, who has been removed."""
        change = put_user("alice", ("dev",))
        change["resource"]["spec"]["created"] = 1000
        self.policy.apply({"changes": [change]})
        self.policy.standing(self.alice, host_id="agent-1", now=2000.0, signed=1000.0)
        with self.assertRaisesRegex(AuthenticationFailed, 'user "alice" was removed'):
            self.policy.standing(self.alice, host_id="agent-1", now=2000.0, signed=999.0)

    def test_role_missing(self) -> None:
        self.policy.apply({"changes": [put_user("alice", ("dev", "gone"))]})
        self.assertRaises(AccessDenied, self.standing)

    def test_locked(self) -> None:
        """A lock of the user, of a role of now, of this agent or of the service stops; others do not."""
        for target in ({"user": "alice"}, {"role": "dev"}, {"server_id": "agent-1"}, {"db": "aurora"}):
            self.setUp()
            self.policy.apply({"changes": [put_lock("l", target, message="on leave")]})
            self.assertIn("is locked: on leave", str(self.assertRaises(AuthenticationFailed, self.standing)))
            self.policy.apply({"changes": [{"type": "delete", "kind": "lock", "name": "l"}]})
            self.standing()
        for target in ({"user": "bob"}, {"role": "ops"}, {"server_id": "agent-2"}, {"db": "metrics"}):
            self.policy.apply({"changes": [put_lock("l", target)]})
            self.standing()

    def test_lock_expires(self) -> None:
        self.policy.apply({"changes": [put_lock("l", {"user": "alice"}, expires="1970-01-01T00:01:00Z")]})
        self.assertRaises(AuthenticationFailed, self.standing, 59.0)
        self.standing(60.0)

    def test_removed(self) -> None:
        """An agent that was removed from the cluster lets nobody in."""
        self.policy.apply({"changes": [{"type": "put", "kind": "removed_host", "name": "agent-2", "resource": {}}]})
        self.standing()
        self.assertFalse(self.policy.removed("agent-1"))
        self.policy.apply({"changes": [{"type": "put", "kind": "removed_host", "name": "agent-1", "resource": {}}]})
        self.assertIn("removed from the cluster", str(self.assertRaises(AuthenticationFailed, self.standing)))
        self.assertTrue(self.policy.removed("agent-1"))

    def test_snapshot(self) -> None:
        """What is known can be told to another policy, as auth would tell it."""
        lock = put_lock("l", {"user": "alice"})
        self.policy.apply({"changes": [lock, {"type": "delete", "kind": "role", "name": "ops"}]})
        other = Policy()
        other.apply(self.policy.snapshot())
        self.assertRaises(AccessDenied, other.roles, ["ops"])
        self.assertRaises(AuthenticationFailed, other.standing, self.alice, host_id="agent-1", now=0.0)
        other.apply({"changes": [{"type": "delete", "kind": "lock", "name": "l"}]})
        self.assertEqual(other.standing(self.alice, host_id="agent-1", now=0.0).traits, {"db_names": ("main",)})

    def test_databases(self) -> None:
        """Registered databases, those that can be read, by name."""
        self.policy.apply({"changes": [put_database("b"), put_database("a"), put_database("c", uri="no port")]})
        self.assertEqual([database.name for database in self.policy.databases], ["a", "b"])
        self.policy.apply({"changes": [{"type": "delete", "kind": "db", "name": "a"}]})
        self.assertEqual([database.name for database in self.policy.databases], ["b"])
