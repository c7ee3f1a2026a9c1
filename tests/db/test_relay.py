"""The byte path: recorded first, whole, and where a word of ours may stand."""

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.db.relay import BackendRelay, FrontendRelay
from teleport_db.errors import AuditUnavailable, TeleportDBError
from teleport_db.pgwire.frontend import Query, Statement
from teleport_db.pgwire.messages import message, ready_for_query


class FrontendTests(SynchronousTestCase):
    """From the client to the database."""

    def setUp(self) -> None:
        self.journal: list[tuple[str, object]] = []
        self.full = False
        self.relay = FrontendRelay(
            record=self.record,
            forward=lambda data: self.journal.append(("forward", data)),
            failed=lambda error: self.journal.append(("failed", type(error))),
        )

    def record(self, statements: Sequence[Statement]) -> None:
        if self.full:
            raise AuditUnavailable
        self.journal.append(("record", list(statements)))

    def test_order(self) -> None:
        """However two queries are divided, each is recorded before its last byte goes on."""
        wire = message(b"Q", b"one\0") + message(b"S") + message(b"Q", b"two\0")
        for cut in range(len(wire)):
            self.setUp()
            self.relay.receive(wire[:cut])
            self.relay.receive(wire[cut:])
            gone, recorded = b"", 0
            for what, value in self.journal:
                if what == "record":
                    assert isinstance(value, list)
                    recorded += len(value)
                else:
                    assert isinstance(value, bytes)
                    gone += value
                    self.assertGreaterEqual(recorded, gone.count(b"one\0") + gone.count(b"two\0"))
            self.assertEqual((gone, recorded), (wire, 2))

    def test_full(self) -> None:
        """What cannot be recorded does not go on."""
        self.full = True
        self.relay.receive(message(b"Q", b"one\0"))
        self.assertEqual(self.journal, [("failed", AuditUnavailable)])

    def test_unaudited(self) -> None:
        self.relay.receive(message(b"S"))
        self.assertEqual(self.journal, [("forward", message(b"S"))])

    def test_malformed(self) -> None:
        self.relay.receive(message(b"Q", b"one\0") + b"!!!!!")
        ((what, error),) = self.journal
        assert isinstance(error, type)
        self.assertEqual(what, "failed")
        self.assertTrue(issubclass(error, TeleportDBError))

    def test_statements(self) -> None:
        self.relay.receive(message(b"Q", b"one\0"))
        self.assertEqual(self.journal[0], ("record", [Query(b"one")]))


class BackendTests(SynchronousTestCase):
    """From the database to the client."""

    def test_untouched(self) -> None:
        gone: list[bytes] = []
        relay = BackendRelay(gone.append)
        for data in (b"x", message(b"D", b"abc"), b""):
            relay.receive(data)
        self.assertEqual(gone, [b"x", message(b"D", b"abc"), b""])

    def test_between_messages(self) -> None:
        """At every cut of two answers, True is said only where a message ends."""
        answer = message(b"T", b"abc") + message(b"D", bytes(20)) + message(b"C", b"SELECT 1\0") + ready_for_query()
        wire, ends, position = answer * 2, {0}, 0
        while position < len(wire):
            position += 1 + int.from_bytes(wire[position + 1 : position + 5], "big")
            ends.add(position)
        for first in range(len(wire) + 1):
            for second in range(first, len(wire) + 1):
                relay = BackendRelay(lambda data: None)
                if first:
                    relay.receive(wire[:first])
                if second > first:
                    relay.receive(wire[first:second])
                if relay.between_messages:
                    self.assertIn(second, ends, (first, second))
                elif first in (0, len(answer), len(wire)):
                    self.assertNotIn(second, ends, (first, second))

    def test_nothing_kept_when_idle(self) -> None:
        relay = BackendRelay(lambda data: None)
        relay.receive(bytes(60000) + ready_for_query(b"T"))
        self.assertEqual(relay._chunk, b"")
        self.assertTrue(relay.between_messages)
