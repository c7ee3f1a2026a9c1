"""The short way of the common exchanges leaves what the long way leaves: the same events, the same bytes, in order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.events import encode
from teleport_db.config.model import Address, Database
from teleport_db.db.record import SessionRecord
from teleport_db.db.relay import BackendRelay, FrontendRelay
from teleport_db.errors import AuditUnavailable
from teleport_db.pgwire import express
from teleport_db.pgwire.express import Express
from teleport_db.pgwire.messages import SYNC, message
from teleport_db.pgwire.prepared import Execution
from teleport_db.pgwire.simple import pure_bound, pure_ending, pure_query_text
from teleport_db.pgwire.walk import Answer
from tests.pgwire.model import ERROR, Server
from tests.pgwire.wire import bind, execute, parse, query

PORTAL = message(b"D", b"P\0")
NAMES = [b"", b"s1", b"s2"]
TEXTS = [
    *(b"select 1", b"select 'x'", b"bad", b"worse", b"begin", b"commit", b"", b"\xff no text"),
    *(b"prepare s1 as select 1", b"alter role x password 'y'", b"select 'U&' || token", b"declare c cursor for q"),
]


#: What a hostile server may say at any time.
UNASKED = [
    *(message(b"D", b"\0\0") * 5, message(b"C", b"SELECT 9\0"), message(b"Z", b"I"), message(b"Z", b"T")),
    *(message(b"1"), message(b"2") + message(b"D", b"\0\0"), message(b"T", b"\0\0"), ERROR, message(b"S", b"a\0b\0")),
]


class LongWay(Express):
    """The same without the short way."""

    def begun(self, chunk: bytes, base: int) -> Execution | None:
        return None

    def ended(self, answers: Sequence[Answer]) -> Execution | None:
        return None


class ShortWay(Express):
    """One that counts how often it is taken to its end."""

    taken = 0

    def ended(self, answers: Sequence[Answer]) -> Execution | None:
        one = super().ended(answers)
        self.taken += one is not None
        return one


class Rig:
    """Both relays of a session between a client and a naive server; ``journal`` is all that anybody saw."""

    def __init__(self, executions: Express) -> None:
        self.journal: list[tuple[str, Any]] = []
        self.events: list[str] = []
        self.full = False
        self.moment = 0.0
        self.server = Server()
        self.asked, self.answer = b"", b""
        record = SessionRecord(
            self.append,
            append_one=self.append_one,
            clock=Clock(),
            new_uid=lambda: "uid",
            cluster="root",
            server_id="agent",
            sid="sid",
            client_address="127.0.0.1:5000",
            monotonic=lambda: self.moment,
        )
        record.database = Database("aurora", Address("localhost", 5432))
        self.executions, self.record = executions, record

        def write() -> None:
            record.statements(executions)

        self.frontend = FrontendRelay(
            executions, record=write, begins=record.begins, forward=self.forward, failed=self.failed
        )
        self.backend = BackendRelay(
            executions,
            record=write,
            ends=record.ends,
            forward=lambda data: self.journal.append(("client", data)),
            failed=self.failed,
            answered=self.frontend.go_on,
        )

    def append(self, events: Sequence[Mapping[str, Any] | bytes], *, closing: bool = False) -> None:
        if self.full and not closing:
            raise AuditUnavailable
        for event in events:
            self.journal.append(("event", event.decode() if isinstance(event, bytes) else encode(event)))

    def append_one(self, event: bytes) -> None:
        self.append((event,))

    def forward(self, data: bytes) -> None:
        self.journal.append(("server", data))
        self.asked += data

    def failed(self, error: Exception) -> None:
        self.journal.append(("failed", type(error).__name__))

    def serve(self) -> None:
        """The server takes what came whole."""
        while len(self.asked) >= 5 and len(self.asked) > (size := int.from_bytes(self.asked[1:5], "big")):
            wire, self.asked = self.asked[: size + 1], self.asked[size + 1 :]
            self.answer += self.server.take(wire)

    def say(self, share: float) -> None:
        """A part of what it has answered comes."""
        count = max(1, round(len(self.answer) * share))
        data, self.answer = self.answer[:count], self.answer[count:]
        if data:
            self.backend.receive(data)


def chunk(chance: random.Random) -> bytes:
    """What a client may send at once; mostly what takes the short way, or nearly does."""
    sql, name = chance.choice(TEXTS), chance.choice(NAMES)
    values = chance.choice(((), (b"1",), (None, b"x"), (b"\xff",), (b"postgres://u:password@h",)))
    formats = chance.choice(((), (), (0,), (0, 0), (1,), (0, 1)))
    bound = bind(b"", name, formats, values)
    kind = chance.randrange(9)
    if kind < 3:
        return query(sql)
    if kind < 5:
        return bound + PORTAL + execute(b"") + SYNC
    if kind < 7:
        parsed = parse(b"", sql, chance.choice(((), (), (23,))))
        return parsed + bind(b"", b"", formats, values) + PORTAL + execute(b"") + SYNC
    if kind == 7:
        return parse(name, sql) + SYNC
    return chance.choice(
        (
            bound + execute(b"") + SYNC,
            bind(b"p", name) + PORTAL + execute(b"p") + SYNC,
            bound + PORTAL + execute(b"", 1) + SYNC,
            bound + PORTAL + execute(b""),
            SYNC,
            message(b"H"),
            message(b"d", b"data") + message(b"c"),
            query(sql) + query(b"select 2"),
            message(b"C", b"S" + name + b"\0") + SYNC,
        )
    )


def play(rig: Rig, seed: int) -> list[tuple[str, Any]]:
    """A session; the same of every rig with this seed."""
    chance = random.Random(seed)
    divided, hostile = chance.random() < 0.3, chance.random() < 0.1
    for _ in range(chance.randint(1, 12)):
        wire = chunk(chance)
        cut = chance.randrange(len(wire)) if divided else len(wire)
        for part in (wire[:cut], wire[cut:]):
            rig.moment += 1
            if part:
                rig.frontend.receive(part)
        for _ in range(chance.choice((0, 1, 1, 1, 3))):
            rig.moment += 1
            rig.serve()
            if hostile and chance.random() < 0.3:
                where = chance.choice((0, 0, len(rig.answer), 5))
                rig.answer = rig.answer[:where] + chance.choice(UNASKED) + rig.answer[where:]
            rig.say(chance.choice((1, 1, 1, 0.5, 0.9)))
        if chance.random() < 0.05:
            rig.full = not rig.full
    rig.full = False
    rig.frontend.stop()
    rig.backend.lost()
    rig.record.lost(rig.executions)
    return rig.journal


def merged(journal: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Neighbouring bytes of one way as one."""
    made: list[tuple[str, Any]] = []
    for what, group in itertools.groupby(journal, lambda entry: entry[0]):
        found = [value for _, value in group]
        made += [(what, b"".join(found))] if what in ("client", "server") else [(what, value) for value in found]
    return made


class ExpressTests(SynchronousTestCase):
    seeds = 2000

    def test_both_ways(self) -> None:
        """Sessions of all kinds of chunks, divided, pipelined, failing, and cut off: nothing differs."""
        taken = 0
        for seed in range(self.seeds):
            executions = ShortWay()
            found = play(Rig(executions), seed)
            self.assertEqual(merged(found), merged(play(Rig(LongWay()), seed)), f"seed {seed}")
            taken += executions.taken
        self.assertGreater(taken, self.seeds // 2)

    def test_short(self) -> None:
        """The common exchanges do take the short way."""
        unnamed = parse(b"", b"select 1") + bind(b"", b"", (), (b"1",)) + PORTAL + execute(b"") + SYNC
        named = bind(b"", b"s1", (), (b"1",)) + PORTAL + execute(b"") + SYNC
        rig = Rig(Express())
        rig.frontend.receive(parse(b"s1", b"select 1") + SYNC)
        rig.serve()
        rig.say(1)
        for wire in (query(b"select 1"), named, unnamed, named):
            begun = rig.executions.begun(wire, 0)
            assert begun is not None
            rig.record.begins(begun)
            rig.forward(wire)
            rig.serve()
            answers = rig.backend._feed(rig.answer)
            rig.answer = b""
            self.assertIs(rig.executions.ended(answers), begun)
            self.assertTrue(rig.executions.idle)

    def test_switched_off(self) -> None:
        """Where every message is recorded, all goes the long way."""
        self.assertIsNone(Express(messages=True).begun(query(b"select 1"), 0))


class PureTests(ExpressTests):
    """Without the extension."""

    seeds = 500

    def setUp(self) -> None:
        self.patch(express, "query_text", pure_query_text)
        self.patch(express, "bound", pure_bound)
        self.patch(express, "ending", pure_ending)
