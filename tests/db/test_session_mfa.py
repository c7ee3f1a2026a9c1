"""Sessions for which a role wants a one-time code: what the agent takes, and how long what it took goes on."""

from __future__ import annotations

from typing import Any

from teleport_db.certs.tls import KeyPair
from teleport_db.identity import DatabaseRoute, Identity
from tests.cluster import CLUSTER, NOW, authority, certified, dev_role, put_user
from tests.db.test_session import AgentCase

LOGIN_ENDS = int(NOW) + 3600


def present_pair() -> KeyPair:
    """The certificate of alice who has typed a code: a minute long, of a login that ends in an hour."""
    route = DatabaseRoute(CLUSTER, "aurora")
    identity = Identity(
        "user", "alice", CLUSTER, ("dev",), usage="database", route=route, mfa=True, login_expires=LOGIN_ENDS
    )
    return certified(authority("user"), "alice", identity=identity, ttl=60.0)


class PresentTests(AgentCase):
    """require_session_mfa at the agent."""

    def ask(self, **options: Any) -> None:
        """Let role dev have these options."""
        role = dev_role()
        role["spec"]["options"] = options
        change = {"type": "put", "kind": "role", "name": "dev", "resource": role}
        self.agent.policy.apply({"reset": True, "changes": [change, put_user("alice")]})

    def open(self, pair: KeyPair | None = None) -> Any:
        client = self.cluster.client(pair)
        client.startup()
        self.cluster.settle()
        return client

    def test_without(self) -> None:
        """A certificate that was given without a code is refused, in words that name the command."""
        self.ask(require_session_mfa=True)
        client = self.open()
        self.assertEqual(client.error["C"], "42501")
        self.assertEqual(
            client.error["M"],
            'access denied: role "dev" asks for a one-time code at each login to a database; '
            "run: tsh db connect aurora (or tsh db login aurora)",
        )
        [start] = [event for event in self.agent.spool.events if event["event"] == "db.session.start"]
        self.assertIn("require_session_mfa", start["error"])

    def test_lives_on(self) -> None:
        """A session goes on when the minute of its certificate is over, and ends with the login where roles say so."""
        self.ask(require_session_mfa=True, disconnect_expired_cert=True)
        client = self.open(present_pair())
        self.assertEqual(client.messages[-1], (b"Z", b"I"))
        self.cluster.clock.advance(3599)
        self.sweep()
        client.query()
        self.cluster.settle()
        self.assertFalse(client.gone)
        self.cluster.clock.advance(1)
        self.sweep()
        self.assertIn("has expired", client.error["M"])

    def test_changed_meanwhile(self) -> None:
        """A role that begins to want codes ends the sessions that had none, and none of the others."""
        without, present = self.open(), self.open(present_pair())
        self.ask(require_session_mfa=True)
        for session in list(self.agent.sessions):
            session.reconsider()
        self.cluster.settle()
        self.assertIn("run: tsh db connect aurora", without.error["M"])
        self.assertEqual(present.messages[-1], (b"Z", b"I"))

    def sweep(self) -> None:
        """What the agent does twice a second."""
        for session in list(self.agent.sessions):
            session.check_limits(self.cluster.clock.seconds())
        self.cluster.settle()
