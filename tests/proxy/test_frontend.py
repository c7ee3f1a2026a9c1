"""PostgreSQL through a whole cluster: what the client hears, what the agent records, what stays behind."""

from twisted.trial.unittest import SynchronousTestCase

from tests.cluster import ANSWER, Cluster


class SessionTests(SynchronousTestCase):
    """From the first byte to the last."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.agent = self.cluster.agent()

    def test_session(self) -> None:
        """A client is let in, asks and is answered, and its session leaves nothing behind."""
        client = self.cluster.session()
        client.query(b"select 1")
        self.cluster.settle()
        self.assertTrue(client.heard.endswith(ANSWER))
        client.write(b"X\0\0\0\4")
        client.tls.loseConnection()
        self.cluster.settle()
        self.assertTrue(client.gone)
        events = self.agent.spool.events
        self.assertEqual(
            [event["event"] for event in events], ["db.session.start", "db.session.query", "db.session.end"]
        )
        self.assertEqual([event["ei"] for event in events], [0, 1, 2])
        self.assertEqual(len(self.cluster.gateway.sessions), 0)
        self.assertEqual(self.agent.sessions, [])
        self.assertEqual(self.cluster.timers(), [])
