"""When a session's time is over: idle, expired, too many."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.access import Limits
from teleport_db.db.limits import SessionLimits, certificate_end, words
from teleport_db.pgwire.messages import message, ready_for_query
from tests.cluster import alice, certificate_of
from tests.db.test_session import AgentCase

READY = ready_for_query()


class WordsTests(SynchronousTestCase):
    def test_words(self) -> None:
        for seconds, said in (
            (1, "1 second"),
            (90, "90 seconds"),
            (600, "10 minutes"),
            (3600, "1 hour"),
            (0.5, "0.5 seconds"),
        ):
            self.assertEqual(words(seconds), said)


class SessionLimitsTests(SynchronousTestCase):
    def test_idle(self) -> None:
        """The clock starts when the session comes to rest."""
        limits = SessionLimits(Limits(client_idle_timeout=60.0), 1e9, 0.0)
        self.assertIsNone(limits.check(59.0, heard=0, idle=True))
        self.assertIsNone(limits.check(70.0, heard=1, idle=True))
        self.assertIsNone(limits.check(500.0, heard=1, idle=False))
        self.assertIsNone(limits.check(559.0, heard=1, idle=True))
        self.assertIn("idle for 1 minute", str(limits.check(560.0, heard=1, idle=True)))

    def test_whose(self) -> None:
        """A cut says which limit it was, and of which role."""
        whose = {"client_idle_timeout": "dev", "disconnect_expired_cert": "ops"}
        limits = Limits(client_idle_timeout=60.0, disconnect_expired_cert=True, set_by=whose)
        self.assertEqual(
            str(SessionLimits(limits, 1e9, 0.0).check(60.0, heard=0, idle=True)),
            "this session was idle for 1 minute, which is all that"
            ' role "dev" allows (client_idle_timeout); connect again',
        )
        self.assertEqual(
            str(SessionLimits(limits, 10.0, 0.0).check(10.0, heard=0, idle=True)),
            'the certificate of this session has expired, and role "ops" ends it then (disconnect_expired_cert);'
            " log in again: tsh login, tsh db login",
        )

    def test_no_limit(self) -> None:
        limits = SessionLimits(Limits(), 10.0, 0.0)
        self.assertIsNone(limits.check(1e9, heard=0, idle=True))

    def test_expired(self) -> None:
        limits = SessionLimits(Limits(disconnect_expired_cert=True), 10.0, 0.0)
        self.assertIsNone(limits.check(9.9, heard=0, idle=False))
        self.assertIn("has expired", str(limits.check(10.0, heard=0, idle=False)))


class LimitedSessionTests(AgentCase):
    """The limits in force."""

    def limit(self, **defaults: Any) -> None:
        self.agent.policy.apply({"changes": [], "session_defaults": defaults})

    def after(self, seconds: float) -> None:
        """Time passes; the agent looks twice a second."""
        self.cluster.clock.advance(seconds)
        for session in list(self.agent.sessions):
            session.check_limits(self.cluster.clock.seconds())
        self.cluster.settle()

    def test_security_row_16_idle(self) -> None:
        """An idle session is ended with words, a busy one is not."""
        self.limit(client_idle_timeout=30.0)
        self.agent.database.answer = None
        client = self.cluster.session()
        client.query()
        self.cluster.settle()
        for _ in range(3):
            self.after(20.0)
        self.assertFalse(client.gone)
        self.agent.database.logins[-1].transport.write(message(b"C", b"SELECT 1\0") + READY)
        self.cluster.settle()
        for _ in range(3):
            self.after(20.0)
        self.refused(client, "57P01", "idle for 30 seconds, which is all that this cluster allows")

    def test_security_row_16_expired(self) -> None:
        """At its certificate's end a session is ended, when that is wanted."""
        client = self.cluster.session()
        left = certificate_end(certificate_of(alice())) - self.cluster.clock.seconds()
        self.limit(disconnect_expired_cert=True)
        self.agent.sessions[0].reconsider()
        self.after(left - 1.0)
        self.assertFalse(client.gone)
        self.after(1.0)
        self.refused(client, "57P01", "expired")

    def test_too_many(self) -> None:
        """One more session than the roles allow is refused; when one ends there is room again."""
        role = {
            "kind": "role",
            "version": "v3",
            "metadata": {"name": "dev"},
            "spec": {
                "options": {"max_db_connections": 2},
                "allow": {"db_labels": {"*": "*"}, "db_names": ["*"], "db_users": ["app"]},
            },
        }
        self.agent.policy.apply({"changes": [{"type": "put", "kind": "role", "name": "dev", "resource": role}]})
        first = self.cluster.session()
        self.cluster.session()
        self.refused(
            self.attempt(),
            "53300",
            'you have 2 sessions open at this agent, which is all that role "dev" allows (max_db_connections)',
        )
        first.wire.cut()
        self.cluster.settle()
        self.cluster.session()
