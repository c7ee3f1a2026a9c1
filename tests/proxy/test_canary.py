"""A canary in everything that a client and a database say: no log has it, at any level, in any form."""

from __future__ import annotations

from base64 import b64encode

from twisted.logger import LogEvent, eventAsJSON, eventAsText, globalLogPublisher

from teleport_db.pgwire.messages import error_response, message
from tests.cluster import DatabaseSession, answer_queries
from tests.pgwire.wire import bind, close, copy_data, execute, function_call, parse, query
from tests.proxy.test_frontend import FrontendCase

CANARY = b"canary7391"

#: What a client sends that has SQL, values or passwords in it: well-formed, too early, broken, cut short.
SENT = {
    "query": query(b"select '" + CANARY + b"'"),
    "undecodable": query(b"\xff" + CANARY),
    "extended": parse(b"s" + CANARY, b"select " + CANARY) + bind(b"", b"s" + CANARY, (), [CANARY]) + execute(b""),
    "function": function_call(957, [CANARY]),
    "large": query(CANARY * 20_000),
    "large values": bind(b"", b"", (), [CANARY * 20_000]),
    "names": close(b"S", CANARY) + execute(CANARY),
    "copy": copy_data(CANARY) + message(b"f", CANARY + b"\0"),
    "password": message(b"p", CANARY + b"\0"),
    "unknown": message(b"z", CANARY),
    "no end": message(b"Q", CANARY),
    "unreadable": message(b"B", CANARY),
    "impossible length": b"Q\0\0\0\1" + CANARY,
    "half": query(CANARY * 9)[:-20],
}


def failing(session: DatabaseSession, data: bytes) -> None:
    """A database that repeats what it was told in its error, and then breaks the protocol."""
    session.transport.write(error_response("ERROR", "42601", (b"syntax error at " + CANARY).decode()))
    session.transport.write(b"\xff\0\0\0\x09" + CANARY)


class CanaryTests(FrontendCase):
    def setUp(self) -> None:
        super().setUp()
        self.logged: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: LogEvent) -> None:
        """Both forms of a log: a line, and all fields of an event."""
        self.logged += [eventAsText(event), eventAsJSON(event)]

    def test_security_row_26_canary(self) -> None:
        """Whatever a client sends in a session, and whatever the database makes of it."""
        agent = self.cluster.agent()
        for answer in (answer_queries, failing):
            agent.database.answer = answer
            for what, data in SENT.items():
                before = len(self.logged)
                client = self.cluster.session()
                client.write(data)
                self.cluster.settle()
                client.tls.loseConnection()
                self.cluster.settle()
                self.assertForgotten(agent)
                said = "\n".join(self.logged[before:])
                self.assertIn("session", said, what)
                for form in (CANARY.decode(), CANARY.hex(), b64encode(CANARY)[:12].decode()):
                    self.assertNotIn(form, said, what)
        recorded = "\n".join(str(dict(event)) for event in agent.spool.events)
        self.assertIn(CANARY.decode(), recorded)
