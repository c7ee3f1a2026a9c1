"""Refusals of a database that somebody knows more about than the database says."""

from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed

from teleport_db.errors import TeleportDBError
from teleport_db.interfaces import Credentials
from teleport_db.pgwire.messages import authentication, error_response
from tests.cluster import HOST, database_context
from tests.db.test_session import AgentCase

CLEARTEXT, MD5 = 3, 5


class AdviceTests(AgentCase):
    """Credentials whose source has something to add."""

    def setUp(self) -> None:
        super().setUp()
        self.heard: list[TeleportDBError] = []
        self.credentials = attrs.evolve(
            self.successResultOf(self.agent.credentials.credentials_for(None, "app")),
            password=b"hunter2",
            methods=("password",),
            name="a token",
            trust="ask its owner",
            advise=self.advise,
        )
        self.agent.credentials.credentials_for = self.give  # type: ignore[method-assign]

    def give(self, database: Any, user: str) -> "Deferred[Credentials]":
        return succeed(self.credentials)

    def advise(self, error: TeleportDBError) -> str:
        self.heard.append(error)
        return "" if "too many" in str(error) else "do this"

    def test_database_refuses(self) -> None:
        """Its words stay as they are and get a hint; the log has both."""
        self.agent.database.greeting = authentication(CLEARTEXT)
        self.agent.database.greeting += error_response("FATAL", "28000", "PAM authentication failed", "so", "its own")
        client = self.attempt()
        self.refused(client, "28000")
        self.assertEqual(
            (client.error["M"], client.error["D"], client.error["H"]), ("PAM authentication failed", "so", "do this")
        )
        (event,) = self.spool.events
        self.assertEqual(event["message"], "PAM authentication failed; do this")
        self.assertEqual(len(self.heard), 1)

    def test_nothing_to_add(self) -> None:
        """Then the database's message passes byte by byte."""
        self.agent.database.greeting = error_response("FATAL", "53300", "too many", "so", "its own")
        client = self.attempt()
        self.refused(client, "53300", "too many")
        self.assertEqual(client.error["H"], "its own")

    def test_agent_refuses(self) -> None:
        """What is not asked for as it should be: the sentence goes behind our own words."""
        self.agent.database.greeting = authentication(MD5, bytes(4))
        self.failed(self.attempt(), "28000", "an MD5 password", "; do this")

    def test_distrusted(self) -> None:
        """A server whose certificate does not verify: who gave the credentials says what to look at."""
        self.agent.database.context = database_context("other.example")
        self.failed(self.attempt(), "08006", "does not trust", HOST, "(ask its owner)")

    def test_closed(self) -> None:
        """A server that hangs up has no certificates to be wrong about here."""
        self.agent.database.greeting = b""
        client = self.attempt()
        self.agent.database.logins[0].transport.loseConnection()
        self.cluster.settle()
        self.assertNotIn("ssl_ca_file", client.error["M"])
        self.assertIn("do this", client.error["M"])
