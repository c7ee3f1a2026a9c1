"""Runs of statements' events: the log is the same as if each of their events had come for itself."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

from teleport_db.audit import writing
from teleport_db.audit.events import encode
from teleport_db.audit.logfile import files
from teleport_db.audit.sessions import OWN
from teleport_db.audit.shipped import Run
from teleport_db.auth.shipment import read_shipment
from tests.audit.samples import NOW, session
from tests.audit.test_log import LogCase

SOURCES = ("a", "b")
#: What is done to the log: a source and what it ships, or one of :data:`OTHER`.
Deed = tuple[str, bytes]
OTHER = ("lose", "begin anew", "restart", "crash", "sign")


def deeds(chance: random.Random) -> list[Deed]:
    """Sessions of two sources, and what may befall them; what is sent may be sent again, or be of another's session."""
    made: list[Deed] = []
    known = {source: [(source + str(n), session(source + str(n))) for n in range(2)] for source in SOURCES}
    ends = dict.fromkeys(SOURCES, 0)
    sent: dict[str, list[str]] = {source: [] for source in SOURCES}
    for _ in range(chance.randrange(4, 14)):
        source = chance.choice(SOURCES)
        if made and chance.random() < 0.35:
            made.append((chance.choice(OTHER), source.encode()))
            continue
        for _ in range(chance.choice((1, 3, 6, 70))):
            mine = known[source] if chance.random() < 0.9 else known[SOURCES[source == "a"]]
            sent[source].append(event(chance, chance.choice(mine)[1]))
        first = chance.randrange(ends[source] + 1) if chance.random() < 0.3 else ends[source]
        ends[source] = len(sent[source])
        step = chance.choice((1, 1, 1, 2))  # behind numbers that do not follow each other others come late
        entries = [
            f'{{"seq":{number * step},"event":{text}}}' for number, text in enumerate(sent[source][first:], first + 1)
        ]
        made.append((source, f'{{"events":[{",".join(entries)}]}}'.encode()))
    return made


def event(chance: random.Random, of: Any) -> str:
    """One of a session, most often a statement's."""
    kind = chance.random()
    if kind < 0.1:
        return encode(of.start(NOW))
    if kind < 0.15:
        return encode(of.end(NOW, "client"))
    if kind < 0.2:
        return encode({"event": "user.login", "n": 1})
    if kind < 0.25:
        return '{"event":"db.session.query","sid":"a0","ei":3}'
    if kind < 0.252:
        return '{"event":"db.session.query", "sid":"a0","ei":3}'
    made: str = of.query(NOW, b'select "1" -- \xc3\xa9' * chance.choice((0, 1, 3))).json
    return made


class RunTests(LogCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(os, "fsync", lambda fd: None)  # no machine fails here

    def written(self, made: list[Deed], *, whole: bool) -> tuple[list[Any], list[Any], Any]:
        """What was answered, the lines, and what is known behind them.

        :param whole: whether runs come as such.
        """
        self.directory, uids = Path(self.mktemp()), itertools.count()
        self.clock.rightNow = NOW
        answers: list[Any] = []
        log = self.log(new_uid=lambda: f"uid{next(uids)}")
        for name, given in made:
            self.clock.advance(1)
            if name in SOURCES:
                events: Any = read_shipment(given)
                if not whole:
                    events = [
                        each for seq, one in events for each in (one.one_by_one() if type(one) is Run else [(seq, one)])
                    ]
                answers.append(self.successResultOf(log.receive(name, events)))
            elif name == "lose":
                answers.append(self.successResultOf(log.lose(given.decode())))
            elif name == "begin anew":
                last = log._state.last.get(given.decode(), 0)
                answers.append(self.successResultOf(log.lose(given.decode(), before=last)))
            elif name == "sign":
                self.successResultOf(log.checkpoint())
            else:
                self.shut() if name == "restart" else self.crash()
                log = self.log(new_uid=lambda: f"uid{next(uids)}")
        state = json.loads(log._state.kept())
        lines = [json.loads(line) for file in files(self.directory) for line in file.lines(self.directory)]
        self.whole()
        for text in (state, *lines):
            text.pop("chain")
        checkpoints = [line["checkpoint"]["count"] for line in lines if "checkpoint" in line]
        state.pop("checkpoint")
        state.pop("size")
        return answers, [[line for line in lines if "checkpoint" not in line], checkpoints], state

    def test_same(self) -> None:
        """Sessions that are lost, come back or are another's, what is sent twice, gaps, restarts: it is the same."""
        self.patch(writing, "CHECKPOINT_EVERY", 100)
        runs = 0
        for seed in range(120):
            made = deeds(random.Random(seed))
            self.assertEqual(self.written(made, whole=True), self.written(made, whole=False), seed)
            runs += sum(type(one) is Run for name, given in made if name in SOURCES for _, one in read_shipment(given))
        self.assertGreater(runs, 1000)

    def test_own(self) -> None:
        """Whoever sends as the log itself has its numbers given by it, one by one."""
        raw = session().query(NOW, b"select 1").json
        content = f'{{"events":[{{"seq":1,"event":{raw}}},{{"seq":2,"event":{raw}}}]}}'.encode()
        log = self.log()
        self.successResultOf(log.emit([{"n": 1}]))
        self.successResultOf(log.receive(OWN, read_shipment(content)))
        self.successResultOf(log.emit([{"n": 2}]))
        lines = [json.loads(line) for file in files(self.directory) for line in file.lines(self.directory)]
        self.assertEqual([line["seq"] for line in lines if "seq" in line], [1, 2, 3, 4])
        self.whole()

    def test_breaths(self) -> None:
        """Other threads go on between some lines and the next, however these came."""
        raw = session().query(NOW, b"select 1").json

        def run(first: int, last: int, step: int = 1) -> Any:
            entries = ",".join(f'{{"seq":{n},"event":{raw}}}' for n in range(first, last + 1, step))
            return read_shipment(f'{{"events":[{entries}]}}'.encode())

        log, breaths, lines = self.log(), [], 0
        log._writer._breathe = lambda: breaths.append(1)
        for events in (
            run(1, 300),  # one run
            [(n, {"n": n}) for n in range(301, 601)],  # none
            run(602, 1200, step=2),  # 300 runs, since their numbers do not follow each other
            run(1201, 1227),
            run(1228, 1228),
        ):
            self.successResultOf(log.receive("a", events))
            lines += sum(event.count if type(event) is Run else 1 for _, event in events)
            self.assertEqual(len(breaths), lines // writing.SOME)
        self.whole()
