"""What the clients saw, what PostgreSQL ran and what the audit log has: whether they agree.

* What a client saw complete has one query and one result in the log, and the result says the same.
* What PostgreSQL ran is in the log, and ran once.
* The numbers of each source follow each other, and so do those of each session, which has a start and one end.
* A query lacks its result only where its agent was killed, and before the client saw anything of it.
* ``tctl audit verify`` finds nothing, the index has what the files have, and so has a sink, to the byte.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from teleport_db.audit import logfile
from tests.system.crash.apart import Apart
from tests.system.crash.ledger import OK
from tests.system.support import until

_TEXT, _PARAMETER = re.compile(r"\bt\d+x\b"), re.compile(r"\bp\d+x\b")
#: An entry of PostgreSQL's log; more lines of it begin with a tab.
_ENTRY = re.compile(r"^@[0-9a-f.]+@(LOG|DETAIL):  (.*(?:\n\t.*)*)", re.MULTILINE)
QUERY, RESULT = "db.session.query", "db.session.result"

Event = dict[str, Any]


def difference(copy: list[bytes], log: Iterable[bytes]) -> Iterator[str]:
    """Where a sink's copy, read before the log, first has something else; the log may have gone on since."""
    lines = iter(log)
    for number, theirs in enumerate(copy, 1):
        ours = next(lines, None)
        if theirs != ours:
            said = "the log has no more" if ours is None else f"the log's {ours[:200]!r}"
            yield f"the sink's line {number} is {theirs[:200]!r}, {said}"
            return


def _session_numbers(sid: str, events: list[Event]) -> Iterator[str]:
    numbers = [event["ei"] for event in events]
    if numbers != list(range(len(numbers))):
        first = next(place for place, number in enumerate(numbers) if place != number)
        yield f"session {sid}: event {first} has the number {numbers[first]}"
    names = Counter(event["event"] for event in events)
    if names["db.session.start"] != 1 or events[0]["event"] != "db.session.start":
        yield f"session {sid}: {names['db.session.start']} starts, the first event is {events[0]['event']}"
    if not events[0].get("success"):
        if len(events) != 1:
            yield f"session {sid}: was refused, and has {len(events)} events"
        return
    if names["db.session.end"] - names["db.session.reopened"] != 1 or events[-1]["event"] != "db.session.end":
        yield (
            f"session {sid}: {names['db.session.end']} ends, {names['db.session.reopened']} reopened;"
            f" the last event is {events[-1]['event']}"
        )


class Reckoning:
    """Reads the log as it grows, and compares."""

    def __init__(self, world: Apart) -> None:
        self._world, self._ledger = world, world.ledger
        self._directory = world.directory / "data" / "audit"
        self._place = (logfile.LogFile(""), 0)
        self.sources: dict[str, list[int]] = defaultdict(list)
        self.sessions: dict[str, list[Event]] = defaultdict(list)
        self.events = 0
        self._open: set[str] = set()
        self._uids: set[str] = set()
        self._twice: list[str] = []

    # Reading.

    def read(self) -> None:
        """Take what has come since."""
        for file in logfile.files(self._directory):
            known, offset = self._place
            if file < known:
                continue
            offset = offset if file == known else 0
            for line in file.lines(self._directory, offset):
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                made = json.loads(line)
                if "checkpoint" not in made:
                    self._take(made["source"], made["seq"], made["event"])
            self._place = (file, offset)

    def _take(self, source: str, seq: int, event: Event) -> None:
        self.events += 1
        self.sources[source].append(seq)
        if event["uid"] in self._uids:
            self._twice.append(event["uid"])
        self._uids.add(event["uid"])
        sid = event.get("sid")
        if not sid:
            return
        self.sessions[sid].append(event)
        if event["event"] == "db.session.end" or (event["event"] == "db.session.start" and not event["success"]):
            self._open.discard(sid)
        else:
            self._open.add(sid)

    def until_all(self) -> None:
        """Wait until the spools are empty and all sessions have ended, now that no client works."""
        self._world.until_shipped()

        def ended() -> bool:
            self.read()
            return not self._open

        until(ended, lambda: f"the ends of {len(self._open)} sessions: {sorted(self._open)[:3]}", seconds=70)
        self._world.until_shipped()
        self.read()

    # Comparing.

    def violations(self) -> list[str]:
        """All that does not agree, in words, once everything has come through."""
        self.until_all()
        said = self._world.tctl("audit", "verify", fails=None)
        verified = [f"tctl audit verify: {said.text.strip()}"] if said.code else []
        hung = [f"a client hung: {name}" for name in self._ledger.hung]
        return [*verified, *hung, *self.copied(), *self.compared()]

    def copied(self) -> Iterator[str]:
        """Whether the sink has each line of the log, once."""
        path = self._world.directory / "copy.jsonl"

        def log() -> Iterator[bytes]:
            for file in logfile.files(self._directory):
                yield from file.lines(self._directory)

        size = sum(map(len, log()))
        until(lambda: path.stat().st_size >= size, lambda: f"{size} bytes in the sink", seconds=70)
        yield from difference(path.read_bytes().splitlines(keepends=True), log())

    def compared(self) -> Iterator[str]:
        """What does not agree in that which was read."""
        yield from (f"the uid {uid} is there twice" for uid in self._twice)
        for source, numbers in self.sources.items():
            for before, number in pairwise(numbers):
                if number != before + 1:
                    yield f"source {source}: number {number} behind {before}"
        for sid, events in self.sessions.items():
            yield from _session_numbers(sid, events)
        started = sum(1 for events in self.sessions.values() if events[0].get("success"))
        if started < self._ledger.sessions:
            yield f"clients were let in {self._ledger.sessions} times, and the log has {started} starts"
        yield from self._statements()

    def _statements(self) -> Iterator[str]:
        queries: dict[str, list[Event]] = defaultdict(list)
        results: dict[tuple[str, int], list[Event]] = defaultdict(list)
        reasons: dict[str, str] = {}
        for sid, events in self.sessions.items():
            for event in events:
                if event["event"] == QUERY:
                    for word in words(event):
                        queries[word].append(event)
                elif event["event"] == RESULT:
                    results[sid, event["statement_id"]].append(event)
            reasons[sid] = str(events[-1].get("reason"))
        yield from self._seen(queries, results)
        for word, found in queries.items():
            if len(found) > 1:
                yield f"{word}: {len(found)} queries in the log"
            if word not in self._ledger.statements:
                yield f"{word}: in the log, and nobody sent it"
            sid = found[0]["sid"]
            came = len(results[sid, found[0]["statement_id"]])
            if came > 1 or (not came and reasons[sid] != "agent_lost"):
                yield f"{word}: {came} results, in session {sid} that ended because of {reasons[sid]}"
        ran = Counter(self._ran())
        for word, times in ran.items():
            if word not in queries:
                yield f"{word}: PostgreSQL ran it, and it is not in the log"
            if times > 1:
                yield f"{word}: PostgreSQL ran it {times} times"

    def _seen(self, queries: dict[str, list[Event]], results: dict[tuple[str, int], list[Event]]) -> Iterator[str]:
        for word, statement in list(self._ledger.statements.items()):
            seen, what = statement.seen, f"{word} ({statement.kind}, {statement.client})"
            if not seen:
                continue
            if word not in queries:
                yield f"{what}: seen {seen}, and not in the log"
                continue
            query = queries[word][0]
            came = results[query["sid"], query["statement_id"]]
            if not came:
                yield f"{what}: seen {seen}, and without a result in session {query['sid']}"
            elif (OK if came[0]["success"] else came[0].get("sqlstate")) != seen:
                yield f"{what}: seen {seen}, and the log has {came[0].get('sqlstate') or came[0]['success']}"

    def _ran(self) -> Iterator[str]:
        """The words of all executions in PostgreSQL's log."""
        for found in _ENTRY.finditer(self._world.postgres.log):
            pattern = _TEXT if found[1] == "LOG" else _PARAMETER
            yield from dict.fromkeys(pattern.findall(found[2]))

    def indexed(self) -> Iterator[str]:
        """Whether the index has all, in the order of the files."""
        path = self._world.directory / "exported.jsonl"
        self._world.tctl("audit", "export", f"--out={path}", "--overwrite", seconds=600)
        with path.open() as lines:
            uids = [json.loads(line)["uid"] for line in lines]
        if len(uids) != len(set(uids)):
            yield "the export has an event twice"
        self.read()  # the export itself may be an event
        missing = len(self._uids - set(uids))
        if missing > 2:
            yield f"the export lacks {missing} of {self.events} events"


def words(event: Event) -> list[str]:
    """By which the execution of a query's event is known: of its parameters, or else of its text."""
    given = [value for value in event.get("db_query_parameters", ()) if value]
    found = [word for value in given for word in _PARAMETER.findall(value)]
    return found or _TEXT.findall(event.get("db_query", ""))
