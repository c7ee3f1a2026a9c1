"""The agent's knowledge of roles, and the watch that keeps it."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.db.policy import RETRY_SECONDS, Policy, PolicyWatch, Standing
from teleport_db.errors import AccessDenied, AgentOffline, AuthenticationFailed, ConnectionTrouble
from teleport_db.identity import Identity
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


class StandingTests(SynchronousTestCase):
    """What holds for a user now."""

    #: What the certificate says is of the time when it was signed.
    alice = Identity("user", "alice", "c", roles=("ops",), traits={"db_names": ["old"]}, usage="login")

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

    def test_role_missing(self) -> None:
        self.policy.apply({"changes": [put_user("alice", ("dev", "gone"))]})
        self.assertRaises(AccessDenied, self.standing)

    def test_locked(self) -> None:
        """A lock of the user, of a role of now, or of this agent stops; others do not."""
        for target in ({"user": "alice"}, {"role": "dev"}, {"server_id": "agent-1"}):
            self.setUp()
            self.policy.apply({"changes": [put_lock("l", target, message="on leave")]})
            self.assertIn("is locked: on leave", str(self.assertRaises(AuthenticationFailed, self.standing)))
            self.policy.apply({"changes": [{"type": "delete", "kind": "lock", "name": "l"}]})
            self.standing()
        for target in ({"user": "bob"}, {"role": "ops"}, {"server_id": "agent-2"}):
            self.policy.apply({"changes": [put_lock("l", target)]})
            self.standing()

    def test_lock_expires(self) -> None:
        self.policy.apply({"changes": [put_lock("l", {"user": "alice"}, expires="1970-01-01T00:01:00Z")]})
        self.assertRaises(AuthenticationFailed, self.standing, 59.0)
        self.standing(60.0)


class WatchTests(SynchronousTestCase):
    """The long poll."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.policy = Policy()
        self.queries: list[dict[str, Any]] = []
        self.polls: list[Deferred[Any]] = []
        self.cancelled = 0
        self.watch = PolicyWatch(self.policy, self.call, clock=self.clock, uniform=lambda low, high: high)
        self.watch.start()

    def call(self, method: str, path: str, *, query: Any, timeout: float) -> Deferred[Any]:
        self.assertEqual((method, path), ("GET", "/v1/watch"))
        self.queries.append(query)
        self.polls.append(Deferred(lambda _: setattr(self, "cancelled", self.cancelled + 1)))
        return self.polls[-1]

    def test_polls(self) -> None:
        """The first answer is everything; each later poll asks for what came since."""
        self.assertNotIn("since", self.queries[0])
        self.polls[0].callback({"revision": 5, "reset": True, "changes": [put("dev")]})
        self.assertEqual(self.queries[1]["since"], 5)
        self.polls[1].callback({"revision": 6, "changes": [put("ops")]})
        self.assertEqual(self.queries[2]["since"], 6)
        self.assertEqual(len(self.policy.roles(["dev", "ops"])), 2)

    def test_auth_away(self) -> None:
        """The last known roles hold; the wait grows up to its most, then everything is asked anew."""
        self.polls[0].callback({"revision": 5, "reset": True, "changes": [put("dev")]})
        waits = []
        for _ in range(6):
            self.polls[-1].errback(ConnectionTrouble("away"))
            (call,) = self.clock.getDelayedCalls()
            waits.append(call.getTime() - self.clock.seconds())
            self.clock.advance(waits[-1])
            self.assertNotIn("since", self.queries[-1])
        self.assertEqual(waits, [1.0, 2.0, 4.0, 8.0, RETRY_SECONDS[1], RETRY_SECONDS[1]])
        self.assertEqual(len(self.policy.roles(["dev"])), 1)
        self.polls[-1].callback({"revision": 9, "reset": True, "changes": []})
        self.assertRaises(AccessDenied, self.policy.roles, ["dev"])

    def test_nonsense(self) -> None:
        """An answer that is none is asked for again, not now."""
        for answer in ({}, {"revision": "x"}, {"revision": 1, "changes": [1]}):
            self.polls[-1].callback(answer)
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
            self.clock.advance(RETRY_SECONDS[1])

    def test_stop(self) -> None:
        """A stop ends the poll, or the wait for the next one."""
        self.watch.stop()
        self.assertEqual((self.cancelled, self.clock.getDelayedCalls()), (1, []))
        self.setUp()
        self.polls[0].errback(ConnectionTrouble("away"))
        self.watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
