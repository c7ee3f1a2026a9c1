"""Replication connections in a whole cluster in memory: COPY both ways, its commands in the log, its ends."""

from teleport_db.pgwire.messages import error_response, message, ready_for_query
from tests.cluster import ANSWER
from tests.db.test_session import AgentCase
from tests.pgwire.wire import COPY_DONE, copy_data, query


class ReplicationTests(AgentCase):
    """COPY both ways, where a role names replication."""

    def setUp(self) -> None:
        super().setUp()
        self.agent.allow(db_names=["*", "replication"])
        self.client = self.cluster.session(replication="database")
        self.agent.database.answer = None
        (self.server,) = self.agent.database.logins
        self.say(query(b"START_REPLICATION SLOT s LOGICAL 0/0"))
        self.answer(message(b"W", b"\0\0\0"))

    def say(self, data: bytes) -> None:
        """The client says it, and the server hears it."""
        self.client.write(data)
        self.cluster.settle()
        self.assertTrue(self.server.received.endswith(data))

    def answer(self, data: bytes) -> None:
        """... and the other way round."""
        self.server.transport.write(data)
        self.cluster.settle()
        self.assertTrue(self.client.heard.endswith(data))

    def test_both_ways(self) -> None:
        """Each side speaks when it likes, until each has said that it is done; commands are recorded, data is not."""
        for _ in range(3):
            self.answer(copy_data(b"w" + bytes(30_000)) * 3 + copy_data(b"k"))
            self.say(copy_data(b"r" + bytes(33)))
        self.say(COPY_DONE)
        self.answer(COPY_DONE + message(b"C", b"COPY 0\0") * 2 + ready_for_query())
        self.say(query(b"IDENTIFY_SYSTEM"))
        self.answer(ANSWER)
        asked = [event["db_query"] for event in self.spool.events if event["event"] == "db.session.query"]
        self.assertEqual(asked, ["START_REPLICATION SLOT s LOGICAL 0/0", "IDENTIFY_SYSTEM"])
        self.client.tls.loseConnection()
        self.assertForgotten(self.agent)

    def test_server_gives_up(self) -> None:
        """An error in the middle: what the client had still under way is nothing, and its next command counts."""
        self.say(copy_data(b"r") * 3)
        self.answer(copy_data(b"w") + error_response("ERROR", "58P01", "that is gone") + ready_for_query())
        self.say(copy_data(b"r") + query(b"START_REPLICATION SLOT t LOGICAL 0/0"))
        self.answer(message(b"W", b"\0\0\0") + copy_data(b"w"))
        self.say(copy_data(b"r"))
        self.client.tls.loseConnection()
        self.assertForgotten(self.agent)

    def test_cut(self) -> None:
        """A role that names it no more ends what streams, and says so between two messages."""
        self.answer(copy_data(b"w"))
        self.agent.allow()
        for session in list(self.agent.sessions):
            session.reconsider()
        self.refused(self.client, "57P01", "replication")
        self.assertForgotten(self.agent)
