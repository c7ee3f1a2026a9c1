"""Which statements run, and what comes of them: as a naive server has it, and case by case."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import RemoteProtocolError
from teleport_db.pgwire import names
from teleport_db.pgwire.executions import MAX_OWED, Executions
from teleport_db.pgwire.frontend import FrontendScanner
from teleport_db.pgwire.messages import SYNC, error_response, message, ready_for_query
from teleport_db.pgwire.outcomes import sqlstate_of
from teleport_db.pgwire.prepared import MAX_TAGS, CommitFailed, Execution, Recorded, Refused, deallocated
from teleport_db.pgwire.statements import Bind, Parse, StatementPart
from teleport_db.pgwire.walk import BackendWalk
from tests.pgwire.model import ERROR, Server
from tests.pgwire.test_properties import PROPERTY
from tests.pgwire.wire import COPY_DONE, bind, close, copy_data, execute, function_call, parse, query

READY = ready_for_query()
SELECT = message(b"C", b"SELECT 1\0")
COPYING = message(b"G", b"\0\0\0")
PARSED, BOUND, CLOSED, NO_DATA = message(b"1"), message(b"2"), message(b"3"), message(b"n")


def describe(kind: bytes, name: bytes) -> bytes:
    return message(b"D", kind + name + b"\0")


def text(execution: Execution) -> bytes | None:
    """What the record would say was run."""
    if execution.portal is None:
        return execution.sql
    return None if execution.portal.prepared is None else execution.portal.prepared.sql


class Both:
    """Both directions of a session, as a relay drives them."""

    def __init__(self) -> None:
        self.executions = Executions()
        self.scanner, self.walk = FrontendScanner(), BackendWalk()
        self.waiting: list[bytes] = []
        self.made: list[Execution] = []
        self.texts: list[bytes | None] = []
        self.recorded: list[Recorded] = []
        self.done: list[Execution | Refused | CommitFailed] = []
        self.base = 0

    def client(self, *wires: bytes) -> bytes:
        """Messages of the client; those that go on to the database."""
        self.waiting += wires
        gone = b""
        while self.waiting:
            wire = self.waiting[0]
            released, messages = self.scanner.feed(wire)
            if self.executions.sent(messages, self.scanner.ends, base=self.base) < len(messages):
                break  # it is fed again: here a chunk is a message
            self.base += len(released)
            gone += released
            self.waiting.pop(0)
            self._take()
        return gone

    def server(self, data: bytes) -> None:
        self.executions.answered(self.walk.feed(data))
        self._take()

    def _take(self) -> None:
        for one in self.executions.made:
            if isinstance(one, Execution):
                self.made.append(one)
                self.texts.append(text(one))
            else:
                self.recorded.append(one)
        self.done += self.executions.done
        self.executions.made.clear()
        self.executions.done.clear()

    @property
    def results(self) -> list[Execution]:
        return [one for one in self.done if isinstance(one, Execution)]


NAMES = st.sampled_from([b"", b"a", b"b", b"x" * 63 + b"1", b"x" * 63 + b"2"])
TEXTS = st.builds(
    lambda word, number: b"%s %d" % (word, number),
    st.sampled_from([b"select", b"select", b"select", b"worse", b"bad", b"begin", b"commit"]),
    st.integers(0, 99),
)
COPY = st.sampled_from(
    [
        query(b"copy 1") + copy_data(b"x") + COPY_DONE,
        query(b"copy 1") + copy_data(b"x") + message(b"f", b"no\0"),
        query(b"copy 1") + copy_data(b"bad") + copy_data(b"x") + COPY_DONE,
        query(b"copy 1") + SYNC + copy_data(b"x") + SYNC + COPY_DONE,
        query(b"copy 1") + SYNC + copy_data(b"bad") + SYNC + COPY_DONE,
        query(b"copy early") + SYNC + copy_data(b"x") + SYNC + COPY_DONE,
        parse(b"", b"copy 1") + bind(b"", b"") + execute(b"") + copy_data(b"x") + COPY_DONE + SYNC,
        parse(b"", b"copy 1") + bind(b"", b"") + execute(b"") + SYNC + copy_data(b"x") + COPY_DONE + SYNC,
        parse(b"", b"copy 1") + bind(b"", b"") + execute(b"") + SYNC + copy_data(b"bad") + COPY_DONE + SYNC,
        parse(b"", b"copy early") + bind(b"", b"") + execute(b"") + SYNC + copy_data(b"x") + COPY_DONE + SYNC,
    ]
)
WIRES = st.one_of(
    st.builds(parse, NAMES, TEXTS),
    st.builds(parse, NAMES, TEXTS),
    st.builds(bind, NAMES, NAMES),
    st.builds(bind, NAMES, NAMES),
    st.builds(execute, NAMES),
    st.builds(execute, NAMES),
    st.builds(close, st.sampled_from([b"S", b"P"]), NAMES),
    st.builds(describe, st.sampled_from([b"S", b"P"]), NAMES),
    st.builds(query, TEXTS | st.just(b"")),
    st.just(SYNC),
    st.just(SYNC),
    st.just(message(b"H")),
    COPY,
)


def divided(wires: list[bytes]) -> list[bytes]:
    """Each message on its own."""
    found = []
    whole = b"".join(wires)
    while whole:
        end = 1 + int.from_bytes(whole[1:5], "big")
        found.append(whole[:end])
        whole = whole[end:]
    return found


class ModelTests(SynchronousTestCase):
    """Whatever a client sends, and however answers lag behind."""

    @PROPERTY
    @given(st.lists(WIRES, max_size=40), st.randoms(use_true_random=False))
    def test_like_the_server(self, wires: list[bytes], chance: random.Random) -> None:
        """What ran has the text that ran, in order; what did not run says so; each has one result."""
        both, server = Both(), Server()
        # A COPY in a batch that failed is skipped, and a client would not send its data; so batches are ended first.
        # Nor would it run that COPY again, without data: so its unnamed names are taken over.
        other = parse(b"", b"select 0") + bind(b"", b"") + SYNC
        to_send = divided([SYNC + wire + other if b"copy " in wire else wire for wire in wires] + [SYNC, SYNC])
        on_the_way, answers = b"", b""
        while to_send or on_the_way or answers:
            turn = chance.random()
            if turn < 0.4 and to_send:
                count = chance.randint(1, 6)
                on_the_way += both.client(*to_send[:count])
                del to_send[:count]
            elif turn < 0.7 and on_the_way:
                end = 1 + int.from_bytes(on_the_way[1:5], "big")
                answers += server.take(on_the_way[:end])
                on_the_way = on_the_way[end:]
            elif answers:
                size = chance.randint(1, len(answers))
                both.server(answers[:size])
                answers = answers[size:]
                on_the_way += both.client()
            elif not (to_send or on_the_way):
                break
        self.assertEqual(both.waiting, [])
        self.assertTrue(both.executions.idle)
        self.assertEqual(sorted(one.id for one in both.results), [one.id for one in both.made])
        ran = []
        for one, said in zip(both.made, both.texts, strict=True):
            if not one.skipped and one.sqlstate != "34000":
                ran.append(said)
        self.assertEqual(ran, server.ran)
        for one in both.results:
            self.assertEqual(one.success, not one.sqlstate)
            self.assertFalse(one.lost)
        known = both.executions.names
        self.assertEqual({name: one.sql for name, one in known.statements.confirmed.items()}, server.statements)
        self.assertEqual((known.statements.pending, known.portals.pending), ({}, {}))
        kept = [*known.statements.confirmed.values(), *known.portals.confirmed.values()]
        self.assertEqual(known.held, sum(one.cost for one in kept))


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.both = Both()

    def prepare(self, name: bytes, sql: bytes) -> None:
        """A statement that the server has agreed to."""
        self.both.client(parse(name, sql), SYNC)
        self.both.server(PARSED + READY)

    def result(self) -> Execution:
        """The one result so far."""
        (one,) = self.both.results
        return one


class TextTests(Case):
    """The text is that of the statement which the server runs."""

    def test_simple(self) -> None:
        self.both.client(query(b"select 1"))
        self.assertEqual((self.both.made[0].id, self.both.texts), (1, [b"select 1"]))
        self.assertFalse(self.both.executions.idle)

    def test_batch(self) -> None:
        """Within its batch a Parse counts before it was answered."""
        self.both.client(parse(b"s", b"one"), bind(b"p", b"s", [0], [b"5"]), execute(b"p", 7), SYNC)
        (made,) = self.both.made
        assert made.portal is not None
        self.assertEqual((self.both.texts, made.portal_name, made.limit), ([b"one"], b"p", 7))
        self.assertEqual((made.portal.statement, made.portal.bind), (b"s", Bind(b"p", b"s", (0,), (b"5",))))

    def test_row_6_parse_of_a_name_in_use(self) -> None:
        """It fails, and Execute runs the old text, now and later."""
        self.prepare(b"s", b"old")
        self.both.client(parse(b"s", b"new"), bind(b"", b"s"), execute(b""), SYNC)
        self.both.server(ERROR + READY)
        self.assertTrue(self.result().skipped)
        self.both.client(bind(b"", b"s"), execute(b""), SYNC)
        self.assertEqual(self.both.texts, [b"new", b"old"])

    def test_row_6_beyond_a_sync(self) -> None:
        """Who needs a name whose answer has not come waits for it, and gets the text that runs."""
        for answer, expected in ((PARSED, b"new"), (ERROR, b"old")):
            self.setUp()
            if answer is ERROR:
                self.prepare(b"s", b"old")
            self.both.client(parse(b"s", b"new"), SYNC)
            self.assertEqual(self.both.client(bind(b"", b"s"), execute(b""), SYNC), b"")
            self.both.server(answer)
            self.assertEqual(self.both.client(), bind(b"", b"s") + execute(b"") + SYNC)
            self.assertEqual(self.both.texts, [expected])

    def test_names_are_cut(self) -> None:
        """The server compares 63 bytes of a name, and so two long ones may be one."""
        self.prepare(b"x" * 63 + b"1", b"evil")
        self.both.client(parse(b"x" * 63 + b"2", b"harmless"), SYNC)
        self.both.server(ERROR + READY)
        self.both.client(bind(b"", b"x" * 63 + b"2"), execute(b""))
        self.assertEqual(self.both.texts, [b"evil"])

    def test_closed(self) -> None:
        self.prepare(b"s", b"old")
        self.both.client(close(b"S", b"s"), bind(b"", b"s"), execute(b""), SYNC)
        self.assertEqual(self.both.texts, [None])

    def test_sql_made(self) -> None:
        """What SQL prepared has a name and no text."""
        self.both.client(query(b"prepare s as select 1"))
        self.both.server(message(b"C", b"PREPARE\0") + READY)
        self.both.client(bind(b"", b"s"), execute(b""), SYNC)
        _, made = self.both.made
        assert made.portal is not None
        self.assertEqual((made.portal.prepared, made.portal.statement, made.doubtful), (None, b"s", False))

    def test_sql_takes_a_name_over(self) -> None:
        """A name from before a PREPARE is doubtful; one from after it, and the unnamed one, are not."""
        self.prepare(b"s", b"old")
        for sql in (b"deallocate s; PREPARE s AS drop table t", b"/**/Declare c cursor for select 1"):
            self.both.client(query(sql))
            self.both.server(message(b"C", b"X\0") + READY)
        self.both.client(bind(b"", b"s"), execute(b""))
        self.both.client(parse(b"t", b"new"), bind(b"", b"t"), execute(b""))
        self.both.client(parse(b"", b"new"), bind(b"", b""), execute(b""))
        self.assertEqual([one.doubtful for one in self.both.made[2:]], [True, False, False])

    def test_cursor_takes_a_name_over(self) -> None:
        self.prepare(b"d", b"declare c cursor for select 1")
        self.prepare(b"s", b"select 2")
        self.both.client(bind(b"c", b"s"), bind(b"", b"d"), execute(b""), execute(b"c"), SYNC)
        self.assertEqual([one.doubtful for one in self.both.made], [False, True])

    def test_prepared_transactions_take_nothing_over(self) -> None:
        self.prepare(b"s", b"old")
        self.both.client(query(b"PREPARE TRANSACTION 'x'"), query(b"select prepared from declared"))
        self.both.client(bind(b"", b"s"), execute(b""))
        self.assertFalse(self.both.made[-1].doubtful)

    def test_deallocated(self) -> None:
        """What SQL drops is forgotten, once the server has done it."""
        for sql, tag in ((b'DEALLOCATE "S"', b"DEALLOCATE\0"), (b"discard all", b"DISCARD ALL\0")):
            self.setUp()
            self.prepare(b"S", b"one")
            self.prepare(b"", b"two")
            self.both.client(parse(b"", sql), bind(b"", b""), execute(b""), SYNC)
            self.both.server(PARSED + BOUND)
            self.assertIn(b"S", self.both.executions.names.statements.confirmed)
            self.both.server(message(b"C", tag) + READY)
            self.assertEqual(list(self.both.executions.names.statements.confirmed), [b""])

    def test_deallocate_is_read_exactly(self) -> None:
        for sql, name in (
            (b"DEALLOCATE a", b"a"),
            (b" deallocate prepare Ab1 ; ", b"ab1"),
            (b'deallocate "A ""b"', b'A "b'),
            (b"deallocate all", b""),
            (b"deallocate a; drop table t", b""),
            (b"select 1", b""),
        ):
            self.assertEqual(deallocated(sql), name)

    def test_described_types(self) -> None:
        """What the server says of parameters fills what the Parse left open."""
        self.both.client(parse(b"s", b"one", [0, 25]), describe(b"S", b"s"), SYNC)
        self.both.server(PARSED + message(b"t", b"\0\3\0\0\0\x17\0\0\0\x14\0\0\0\x10") + NO_DATA + READY)
        self.assertEqual(self.both.executions.names.statements.confirmed[b"s"].types, (23, 25, 16))
        self.assertTrue(self.both.executions.idle)


class OutcomeTests(Case):
    """Each execution has one result."""

    def test_counts(self) -> None:
        """Rows as they came, records as the tag has them, bytes each way."""
        wires = parse(b"", b"insert"), bind(b"", b""), execute(b"")
        self.both.client(*wires, SYNC)
        row = message(b"D", b"\0\1\0\0\0\1x")
        answer = PARSED + BOUND + row * 3 + message(b"C", b"INSERT 0 5\0")
        self.both.server(answer + READY)
        one = self.result()
        self.assertEqual((one.success, one.tags, one.affected, one.rows), (True, (b"INSERT 0 5",), 5, 3))
        self.assertEqual((one.sent, one.received), (len(b"".join(wires)), len(answer)))

    def test_several_statements(self) -> None:
        """One result for a Query, with every tag up to a bound, and the last error."""
        self.both.client(query(b"a;b;c"))
        self.both.server(message(b"C", b"UPDATE 2\0") * (MAX_TAGS + 5))
        self.assertEqual(self.both.results, [])
        self.both.server(error_response("ERROR", "22012", "zero"))
        one = self.result()
        self.both.server(READY)
        self.assertEqual(self.both.results, [one])
        self.assertEqual((len(one.tags), one.completed), (MAX_TAGS, MAX_TAGS + 5))
        self.assertEqual((one.affected, one.success, one.sqlstate), (2 * (MAX_TAGS + 5), False, "22012"))

    def test_nothing_to_run(self) -> None:
        self.both.client(query(b""), parse(b"", b""), bind(b"", b""), execute(b""), SYNC)
        self.both.server(message(b"I") + READY + PARSED + BOUND + message(b"I") + READY)
        self.assertEqual([(one.success, one.tags) for one in self.both.results], [(True, ()), (True, ())])

    def test_suspended(self) -> None:
        """A portal that is read in pieces: an execution each, with the one text."""
        self.both.client(query(b"begin"), parse(b"", b"one"), bind(b"p", b""), execute(b"p", 5), SYNC)
        self.both.server(message(b"C", b"BEGIN\0") + ready_for_query(b"T"))
        self.both.server(PARSED + BOUND + message(b"s") + ready_for_query(b"T"))
        self.both.client(execute(b"p", 5), SYNC)
        self.both.server(SELECT + ready_for_query(b"T"))
        self.assertEqual(self.both.texts[1:], [b"one", b"one"])
        self.assertEqual([one.suspended for one in self.both.results], [False, True, False])

    def test_row_6_skip_to_sync(self) -> None:
        """After an error nothing runs up to the Sync, a Query included, and each says why."""
        wires = parse(b"", b"bad"), bind(b"", b""), execute(b""), query(b"simple"), execute(b"")
        self.both.client(*wires)
        self.both.server(ERROR)
        self.both.client(execute(b""), query(b"late"))
        self.assertEqual(len(self.both.results), 3)
        self.both.client(SYNC, query(b"after"))
        self.both.server(READY + SELECT + READY)
        self.assertEqual([one.skipped for one in self.both.results], [True] * 5 + [False])
        self.assertEqual({one.sqlstate for one in self.both.results}, {"42601", ""})
        self.assertTrue(self.both.executions.idle)

    def test_refused_before_anybody_ran_it(self) -> None:
        self.both.client(parse(b"s", b"bad"), describe(b"S", b"s"), SYNC)
        self.both.server(ERROR + READY)
        (refused,) = self.both.done
        assert isinstance(refused, Refused)
        self.assertEqual((refused.name, refused.prepared.sql, refused.sqlstate), (b"s", b"bad", "42601"))

    def test_commit_fails(self) -> None:
        """An error of the Sync itself is the last execution's."""
        self.both.client(parse(b"", b"one"), bind(b"", b""), execute(b""), SYNC)
        self.both.server(PARSED + BOUND + SELECT + error_response("ERROR", "23503", "deferred") + READY)
        result, failed = self.both.done
        assert isinstance(result, Execution) and isinstance(failed, CommitFailed)
        self.assertEqual((result.success, failed.id, failed.sqlstate), (True, result.id, "23503"))
        self.assertTrue(self.both.executions.idle)

    def test_function_call(self) -> None:
        self.both.client(function_call(957, [b"x"]), function_call(1, []))
        self.both.server(message(b"V", b"\0\0\0\1x") + READY + ERROR + READY)
        self.assertEqual([one.success for one in self.both.results], [True, False])
        made = self.both.made[0]
        assert made.function is not None
        self.assertEqual(made.function.oid, 957)

    def test_lost(self) -> None:
        """The session ends: what ran has no other result, what had an error keeps that."""
        self.both.client(query(b"one"), query(b"two"))
        self.both.server(message(b"D", b"\0\0") * 2 + error_response("FATAL", "57P01", "bye"))
        self.both.executions.lost()
        self.both._take()
        self.assertEqual([(one.sqlstate, one.lost) for one in self.both.results], [("57P01", False), ("", True)])
        self.assertEqual(self.both.results[0].rows, 2)

    def test_error_without_a_cause(self) -> None:
        """FATAL while nothing is asked for is nobody's result."""
        self.both.server(error_response("FATAL", "57P01", "bye"))
        self.assertEqual(self.both.done, [])

    def test_sqlstates(self) -> None:
        for body, sqlstate in (
            (b"SERROR\0VERROR\0C42P01\0Mno\0\0", "42P01"),
            (b"SERROR\0C42\0\0", "XX000"),
            (b"C\xff\xff\xff\xff\xff\0", "XX000"),
            (b"", "XX000"),
        ):
            self.assertEqual(sqlstate_of(body), sqlstate)


class CopyTests(Case):
    def test_in_and_out(self) -> None:
        """Rows from the tag, bytes as they went."""
        data = copy_data(b"1\t2\n") * 2
        self.both.client(query(b"copy t from stdin"))
        self.both.server(COPYING)
        self.both.client(data, COPY_DONE)
        self.both.server(message(b"C", b"COPY 2\0") + READY)
        self.both.client(query(b"copy t to stdout"))
        out = message(b"H", b"\0\0\0") + data + message(b"c") + message(b"C", b"COPY 2\0")
        self.both.server(out + READY)
        first, second = self.both.results
        self.assertEqual((first.rows, first.affected), (2, 2))
        self.assertEqual(first.sent, len(query(b"copy t from stdin") + data + COPY_DONE))
        self.assertEqual(
            (second.rows, second.sent, second.received), (2, len(query(b"copy t to stdout")), len(out) + 6)
        )

    def test_swallowed_sync(self) -> None:
        """libpq sends a Sync with the Execute, which the COPY swallows, and one behind its end."""
        self.both.client(parse(b"", b"copy t from stdin"), bind(b"", b""), execute(b""), SYNC)
        self.both.server(PARSED + BOUND + COPYING)
        self.both.client(copy_data(b"x"), COPY_DONE, SYNC)
        self.both.server(message(b"C", b"COPY 1\0") + READY)
        self.assertTrue(self.both.executions.idle)
        self.assertEqual(self.result().affected, 1)

    def failed(self, *answers: bytes) -> None:
        """Such a COPY fails."""
        self.setUp()
        self.both.client(parse(b"", b"copy t from stdin"), bind(b"", b""), execute(b""), SYNC)
        self.both.server(PARSED + BOUND + COPYING + ERROR)
        self.both.client(copy_data(b"x"), COPY_DONE, SYNC)
        self.both.server(b"".join(answers))
        self.assertTrue(self.both.executions.idle)

    def test_failed(self) -> None:
        """Whether its first Sync was swallowed or answered, what follows is understood."""
        for answers in ((READY,), (READY, READY)):
            self.failed(*answers)
            self.both.client(parse(b"", b"next"), bind(b"", b""), execute(b""), SYNC)
            self.both.server(PARSED + BOUND + SELECT + READY)
            self.assertEqual([one.success for one in self.both.results], [False, True])

    def test_late_ready(self) -> None:
        """The second ReadyForQuery comes when more was sent already."""
        self.failed(READY)
        self.both.client(parse(b"", b"next"), bind(b"", b""), execute(b""), SYNC)
        self.both.server(READY + PARSED + BOUND + SELECT + READY)
        self.assertEqual([one.success for one in self.both.results], [False, True])
        self.assertTrue(self.both.executions.idle)

    def test_not_ended(self) -> None:
        """Who sends something else where nobody can tell whether it runs, ends the session."""
        for wires in ((parse(b"", b"evil"),), (COPY_DONE, parse(b"", b"evil")), (query(b"evil"),)):
            self.setUp()
            self.both.client(parse(b"", b"copy t from stdin"), bind(b"", b""), execute(b""), SYNC)
            self.both.server(PARSED + BOUND + COPYING + ERROR)
            self.assertRaises(RemoteProtocolError, self.both.client, *wires)
        self.setUp()
        wires = parse(b"", b"copy"), bind(b"", b""), execute(b""), SYNC, COPY_DONE, parse(b"", b"evil"), SYNC
        self.both.client(*wires)
        self.assertRaises(RemoteProtocolError, self.both.server, PARSED + BOUND + COPYING + ERROR)


class LargeTests(Case):
    """Messages of more than 64 KiB come in parts, under the id of what they are."""

    def test_query(self) -> None:
        self.both.client(query(b"x" * 150_000))
        (one,) = self.both.made
        self.assertEqual({part.number for part in self.both.recorded}, {one.id})
        self.assertEqual((self.both.texts, one.sql), ([None], None))
        self.both.server(SELECT + READY)
        self.assertEqual(self.result().id, one.id)

    def test_parse_and_bind(self) -> None:
        """The executions refer to them."""
        self.both.client(parse(b"s", b"PassWord" * 10_000), bind(b"p", b"s", [], [b"x" * 70_000]), execute(b"p"), SYNC)
        (one,) = self.both.made
        assert one.portal is not None and one.portal.prepared is not None
        prepared, last = one.portal.prepared, self.both.recorded[1].message
        assert isinstance(last, StatementPart)
        self.assertEqual((prepared.number, one.portal.number, one.id), (1, 2, 3))
        self.assertEqual((prepared.sql, prepared.length, prepared.sha256), (None, last.total_length, last.sha256))
        self.assertEqual(one.portal.bind, None)
        self.assertEqual([part.secret for part in self.both.recorded], [False, False, True, True])

    def test_words_across_parts(self) -> None:
        self.prepare(b"s", b"old")
        for cut in range(8):
            self.both.client(query(b" " * (65536 - cut) + b"prepare s as select 1" + b" " * 5000))
            self.both.client(bind(b"", b"s"), execute(b""))
            self.assertTrue(self.both.made[-1].doubtful)

    def test_names_without_end(self) -> None:
        for wire in (parse(b"n" * 70_000, b"x"), bind(b"n" * 70_000, b"x"), bind(b"x", b"n" * 70_000)):
            self.setUp()
            self.assertRaises(RemoteProtocolError, self.both.client, wire)


class BoundTests(Case):
    """What a session costs has an end."""

    def test_texts(self) -> None:
        """Texts beyond the bound are recorded with their Parse, once, and executions refer to it."""
        big = b"x" * 60_000
        count = names.MAX_HELD // len(big) + 3
        for number in range(count):
            self.prepare(b"%d" % number, big + b"%d" % number)
        self.assertEqual(len(self.both.recorded), 3)
        self.assertLessEqual(self.both.executions.names.held, names.MAX_HELD)
        last = b"%d" % (count - 1)
        self.both.client(bind(b"", last), execute(b""), SYNC)
        one = self.both.made[-1]
        assert one.portal is not None and one.portal.prepared is not None
        recorded = self.both.recorded[-1]
        self.assertEqual((one.portal.prepared.sql, one.portal.prepared.number), (None, recorded.number))
        self.assertEqual(recorded.message, Parse(last, big + last))
        self.both.client(bind(b"", b"0"), execute(b""), SYNC)
        self.assertEqual(self.both.texts[-1], None)  # there is no room for one more beside it
        portal = self.both.made[-1].portal
        assert portal is not None and portal.prepared is not None
        self.assertEqual(portal.prepared.length, len(big) + 1)

    def test_portals(self) -> None:
        self.prepare(b"", b"x")
        for number in range(names.MAX_HELD // 60_000 + 3):
            self.both.client(bind(b"%d" % number, b"", [], [b"v" * 60_000]))
        self.assertTrue(self.both.recorded)
        self.assertLessEqual(self.both.executions.names.held, names.MAX_HELD)

    def test_names(self) -> None:
        """So many names are kept; statements and portals beyond them have their own record."""
        for number in range(names.MAX_NAMES + 5):
            self.both.client(parse(b"%d" % number, b"x"), SYNC)
            self.both.server(PARSED + READY)
        self.assertEqual(len(self.both.executions.names.statements.confirmed), names.MAX_NAMES)
        self.assertEqual(len(self.both.recorded), 5)
        self.both.client(bind(b"", b"%d" % (names.MAX_NAMES + 1)), execute(b""), SYNC)
        self.assertEqual(self.both.texts, [None])

    def test_owed(self) -> None:
        """A client that never waits is made to; in a batch that has failed it need not."""
        self.prepare(b"", b"x")
        self.both.client(bind(b"", b""))
        wires = [execute(b"")] * (MAX_OWED + 10)
        self.both.client(*wires)
        self.assertEqual(len(self.both.waiting), 11)
        self.both.server(BOUND + SELECT * 100)
        self.both.client()
        self.assertEqual(self.both.waiting, [])
        self.both.server(ERROR)
        self.both.client(*wires)
        self.assertEqual(self.both.waiting, [])
        self.assertLessEqual(len(self.both.executions.owed), MAX_OWED)
