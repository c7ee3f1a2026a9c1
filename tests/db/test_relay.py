"""The byte path: recorded first, whole, in order, and where a word of ours may stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.db.relay import MAX_UNSYNCED, BackendRelay, FrontendRelay, Gate
from teleport_db.errors import AuditUnavailable, RemoteProtocolError, TeleportDBError
from teleport_db.pgwire.executions import MAX_OWED
from teleport_db.pgwire.express import Express
from teleport_db.pgwire.messages import SYNC, error_response, message, ready_for_query
from teleport_db.pgwire.prepared import Execution
from tests.pgwire.wire import bind, copy_data, execute, parse, query

READY = ready_for_query()
COMPLETE = message(b"C", b"SELECT 1\0")
ANSWER = message(b"T", b"abc") + message(b"D", bytes(20)) + COMPLETE + READY


class RelayCase(SynchronousTestCase):
    """Both relays of a session, and a journal of what they do."""

    def setUp(self) -> None:
        self.journal: list[tuple[str, Any]] = []
        self.full = self.durable = False
        self.waiting: list[Callable[[AuditUnavailable | None], None]] = []
        self.executions = Express()
        self.relay = FrontendRelay(
            self.executions,
            record=self.record,
            begins=self.begins,
            forward=lambda data: self.journal.append(("forward", data)),
            failed=lambda error: self.journal.append(("failed", type(error))),
            shut=lambda shut: self.journal.append(("shut", shut)),
            durable=lambda: self.durable,
            synced=self.waiting.append,
        )
        self.backend = BackendRelay(
            self.executions,
            record=self.record,
            ends=self.ends,
            forward=lambda data: self.journal.append(("client", data)),
            failed=lambda error: self.journal.append(("failed", type(error))),
            answered=self.relay.go_on,
        )

    def record(self) -> None:
        made, done = self.executions.made, self.executions.done
        self.executions.made, self.executions.done = [], []
        if self.full:
            raise AuditUnavailable
        if made:
            self.journal.append(("record", [one.sql for one in made if isinstance(one, Execution)]))
        if done:
            self.journal.append(("result", [one.id for one in done if isinstance(one, Execution)]))

    def begins(self, one: Execution) -> None:
        if self.full:
            raise AuditUnavailable
        self.journal.append(("record", [one.sql]))

    def ends(self, one: Execution) -> None:
        if self.full:
            raise AuditUnavailable
        self.journal.append(("result", [one.id]))

    def gone(self, what: str = "forward") -> bytes:
        return b"".join(value for kind, value in self.journal if kind == what)


class FrontendTests(RelayCase):
    """From the client to the database."""

    def test_order(self) -> None:
        """However two queries are divided, each is recorded before its last byte goes on."""
        wire = query(b"one") + SYNC + query(b"two")
        for cut in range(len(wire)):
            self.setUp()
            self.relay.receive(wire[:cut])
            self.relay.receive(wire[cut:])
            gone, recorded = b"", 0
            for what, value in self.journal:
                if what == "record":
                    recorded += len(value)
                else:
                    gone += value
                    self.assertGreaterEqual(recorded, gone.count(b"one\0") + gone.count(b"two\0"))
            self.assertEqual((gone, recorded), (wire, 2))

    def test_one_write(self) -> None:
        """What one chunk brings is recorded at once, and goes on at once."""
        wire = query(b"one") + query(b"two") + copy_data(b"x")
        self.relay.receive(wire)
        self.assertEqual(self.journal, [("record", [b"one", b"two"]), ("forward", wire)])

    def test_full(self) -> None:
        """What cannot be recorded does not go on."""
        self.full = True
        self.relay.receive(query(b"one"))
        self.assertEqual(self.journal, [("failed", AuditUnavailable)])

    def test_malformed(self) -> None:
        self.relay.receive(query(b"one") + b"!!!!!")
        ((what, error),) = self.journal
        self.assertEqual(what, "failed")
        self.assertTrue(issubclass(error, TeleportDBError))

    def test_row_6_waits_for_a_name(self) -> None:
        """In one chunk with the Sync before it, or later: it and all behind it wait for the answer."""
        first, second = parse(b"s", b"new") + SYNC, bind(b"", b"s") + execute(b"") + SYNC
        wire = first + second + query(b"behind")
        for cut in range(len(wire)):
            self.setUp()
            self.relay.receive(wire[:cut])
            self.relay.receive(wire[cut:])
            self.assertEqual(self.gone(), first[: len(self.gone())])
            self.relay.receive(query(b"late"))
            self.assertNotIn(b"behind", self.gone())
            self.backend.receive(message(b"1") + READY)
            self.assertEqual(self.gone(), wire + query(b"late"))
            self.assertEqual(self.journal[-1], ("shut", False))
            texts = [text for what, found in self.journal if what == "record" for text in found]
            self.assertEqual(texts, [None, b"behind", b"late"])

    def test_waits_again(self) -> None:
        """Several that wait for one another."""
        wire = b"".join(parse(b"%d" % n, b"x") + SYNC + bind(b"", b"%d" % n) + execute(b"") + SYNC for n in range(3))
        self.relay.receive(wire)
        for _ in range(3):
            self.backend.receive(message(b"1") + READY)
            self.backend.receive(message(b"2") + message(b"C", b"SELECT 1\0") + READY)
        self.assertEqual(self.gone(), wire)
        self.assertTrue(self.backend.idle)

    def test_owed(self) -> None:
        """A client that never waits is not read on; what came is not lost."""
        wire = parse(b"", b"x") + bind(b"", b"") + execute(b"") * (MAX_OWED + 50)
        self.relay.receive(wire)
        self.assertLess(len(self.gone()), len(wire))
        self.assertIn(("shut", True), self.journal)
        self.backend.receive(message(b"1") + message(b"2") + message(b"C", b"SELECT 1\0") * 100)
        self.assertEqual(self.gone(), wire)

    def test_last_word(self) -> None:
        """The end of what the client says stays behind all that waits."""
        ended: list[bytes] = []
        self.relay.receive(parse(b"s", b"new") + SYNC + bind(b"", b"s") + execute(b"") + SYNC)
        self.relay.end(lambda: ended.append(self.gone()))
        self.assertEqual(ended, [])
        self.backend.receive(message(b"1") + READY)
        self.assertTrue(ended[0].endswith(execute(b"") + SYNC))
        self.relay.end(lambda: ended.append(b"at once"))
        self.assertEqual(ended[1], b"at once")


class DurableTests(RelayCase):
    """Where a record must be on the disk first."""

    def setUp(self) -> None:
        super().setUp()
        self.durable = True

    def test_in_order(self) -> None:
        """Nothing overtakes a statement that waits, and each waits for its own record only."""
        pieces = [query(b"one"), copy_data(b"x"), query(b"two"), SYNC]
        self.relay.receive(message(b"H"))
        for piece in pieces:
            self.relay.receive(piece)
        self.assertEqual(self.gone(), message(b"H"))
        self.waiting.pop(0)(None)
        self.assertEqual(self.gone(), message(b"H") + pieces[0] + pieces[1])
        self.waiting.pop(0)(None)
        self.assertEqual(self.gone(), message(b"H") + b"".join(pieces))
        self.relay.receive(copy_data(b"y"))
        self.assertTrue(self.gone().endswith(copy_data(b"y")))

    def test_fails(self) -> None:
        """A record that may not be on the disk ends the session."""
        self.relay.receive(query(b"one"))
        self.waiting.pop()(AuditUnavailable())
        self.assertEqual(self.journal[-1], ("failed", AuditUnavailable))
        self.assertEqual(self.gone(), b"")

    def test_slow_disk(self) -> None:
        """A client is not read without end."""
        self.relay.receive(query(b"one"))
        for _ in range(MAX_UNSYNCED // 60_000 + 1):
            self.relay.receive(copy_data(b"x" * 60_000))
        self.assertEqual(self.journal[-1], ("shut", True))
        self.waiting.pop()(None)
        self.assertEqual(self.journal[-1], ("shut", False))

    def test_over(self) -> None:
        """A sync that ends after the session does nothing."""
        self.relay.receive(query(b"one"))
        self.relay.stop()
        self.waiting.pop()(None)
        self.assertEqual(self.gone(), b"")


class BackendTests(RelayCase):
    """From the database to the client."""

    def test_untouched(self) -> None:
        chunks = [message(b"N", b"x"), message(b"D", b"abc")[:3], message(b"D", b"abc")[3:]]
        for data in chunks:
            self.backend.receive(data)
        self.assertEqual(self.journal, [("client", data) for data in chunks])

    def test_recorded_first(self) -> None:
        """However an answer is divided, the result is recorded before its end is seen."""
        for cut in range(len(ANSWER)):
            self.setUp()
            self.relay.receive(query(b"one"))
            self.backend.receive(ANSWER[:cut])
            self.backend.receive(ANSWER[cut:])
            self.assertEqual([what for what, _ in self.journal[-2:]], ["result", "client"])
            self.assertEqual(self.gone("client"), ANSWER)

    def test_full(self) -> None:
        """A result that cannot be recorded is not seen, and what was seen before it ended or did not."""
        rows = len(ANSWER) - len(COMPLETE + READY)
        for cut, seen in ((0, 0), (3, 3), (rows, rows), (rows + len(COMPLETE), rows)):
            self.setUp()
            self.relay.receive(query(b"one"))
            self.backend.receive(ANSWER[:cut])
            whole = self.backend.between_messages
            self.full = True
            self.backend.receive(ANSWER[cut:])
            self.assertEqual(self.journal[-1], ("failed", AuditUnavailable))
            self.assertEqual(self.gone("client"), ANSWER[:seen])
            self.assertEqual(self.backend.between_messages, whole)

    def test_last_word(self) -> None:
        """Wherever the server's buffer ends, the client sees no statement complete that has no result yet."""
        rows = len(ANSWER) - len(COMPLETE + READY)
        for more in range(len(READY)):
            self.setUp()
            self.relay.receive(query(b"one"))
            end = rows + len(COMPLETE) + more
            self.backend.receive(ANSWER[:end])
            self.assertEqual(self.gone("client"), ANSWER[:rows])
            self.assertTrue(self.backend.between_messages)
            self.backend.receive(ANSWER[end:])
            self.assertEqual(self.journal[-2:], [("result", [1]), ("client", ANSWER[rows:])])

    def test_ends_before_it_is_ready(self) -> None:
        """What a database says last is there for who ends the session, once; what came of the Query is unknown."""
        self.relay.receive(query(b"one"))
        self.backend.receive(COMPLETE)
        self.backend.lost()
        (one,) = self.executions.done
        assert isinstance(one, Execution)
        self.assertEqual((one.lost, one.tags), (True, (b"SELECT 1",)))
        self.assertEqual([self.backend.last_word(), self.backend.last_word()], [COMPLETE, b""])

    def test_not_the_last_word(self) -> None:
        """What the server says behind it brings it on: a notice, another statement; of an Execute it is the last."""
        for said in (message(b"N", b"hint"), ANSWER):
            self.setUp()
            self.relay.receive(query(b"one;two"))
            self.backend.receive(COMPLETE)
            self.assertEqual(self.gone("client"), b"")
            self.backend.receive(said)
            self.assertEqual(self.gone("client"), COMPLETE + said)
        self.setUp()
        self.relay.receive(parse(b"", b"one") + bind(b"", b"") + execute(b"") + SYNC)
        self.backend.receive(message(b"1") + message(b"2") + COMPLETE)
        self.assertEqual([what for what, _ in self.journal[-2:]], ["result", "client"])

    def test_error_first(self) -> None:
        """The server sends an error at once, and is ready later: the result is recorded before the error is seen."""
        self.relay.receive(query(b"one"))
        wrong = error_response("ERROR", "22012", "division by zero")
        self.backend.receive(COMPLETE + wrong)
        self.assertEqual(self.journal[-2:], [("result", [1]), ("client", COMPLETE + wrong)])
        self.backend.receive(READY)
        self.assertEqual(self.journal[-1], ("client", READY))
        self.backend.lost()
        self.assertEqual(self.executions.done, [])

    def test_nonsense(self) -> None:
        """A hostile server ends its session; what it said with it is not passed on."""
        self.backend.receive(message(b"D", b"abc") + b"D\0\0\0\1")
        self.assertEqual(self.journal, [("failed", RemoteProtocolError)])

    def test_between_messages(self) -> None:
        """At every cut of two answers, True is said exactly where a message ends."""
        wire, ends, position = ANSWER * 2, {0}, 0
        while position < len(wire):
            position += 1 + int.from_bytes(wire[position + 1 : position + 5], "big")
            ends.add(position)
        for first in range(len(wire) + 1):
            for second in range(first, len(wire) + 1, 5):
                self.setUp()
                self.backend.receive(wire[:first])
                self.backend.receive(wire[first:second])
                self.assertEqual(self.backend.between_messages, second in ends)

    def test_idle(self) -> None:
        """Whether the database works on something: the answer to a first statement is not that to the second."""
        self.assertTrue(self.backend.idle)
        self.relay.receive(query(b"one") + query(b"two"))
        self.assertFalse(self.backend.idle)
        self.backend.receive(ANSWER + message(b"D", b"row"))
        self.assertFalse(self.backend.idle)
        self.backend.receive(message(b"C", b"SELECT 1\0") + READY)
        self.assertTrue(self.backend.idle)

    def test_lost(self) -> None:
        """A session that ends leaves nothing open."""
        self.relay.receive(query(b"one"))
        self.backend.receive(message(b"D", bytes(100)))
        self.backend.lost()
        (one,) = self.executions.done
        assert isinstance(one, Execution)
        self.assertEqual((one.lost, one.rows, one.received), (True, 1, 105))


class Transport:
    """Notes how it is paced."""

    def __init__(self) -> None:
        self.paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False


class GateTests(SynchronousTestCase):
    def test_both(self) -> None:
        """It flows when neither side holds it back."""
        transport = Transport()
        gate = Gate(transport)
        verifyObject(IPushProducer, gate)
        gate.shut(True)
        gate.pauseProducing()
        gate.resumeProducing()
        self.assertTrue(transport.paused)
        gate.pauseProducing()
        gate.shut(False)
        self.assertTrue(transport.paused)
        gate.resumeProducing()
        self.assertFalse(transport.paused)
        gate.shut(False)
        self.assertFalse(transport.paused)
