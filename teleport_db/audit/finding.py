"""Finds events in the audit log: candidates from the index, the events from the files, the last word here.

A statement is two events, ``db.session.query`` before it runs and ``db.session.result`` after it; joined they are
one row, the query with the result as its ``result``.  A row stands where its query does; where the result alone is
looked for (by its SQLSTATE, say), it stands where that does.
"""

# ruff: noqa: S608 - what is put into a statement are names and numbers of this package's own

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import attrs

from teleport_db.audit import logfile
from teleport_db.audit.blocks import BlockFile
from teleport_db.audit.index import Index
from teleport_db.audit.logfile import PlainFile
from teleport_db.audit.query import FIELDS, Query, wanted_words

Event = dict[str, Any]

#: Rows of one field's index that are read for a text whose words are in more events than ``FREQUENT``.
FEW, FREQUENT = 10_000, 20_000

#: How much longer it takes to read an event and look at its words than to look at a row of the index.
READING = 15

#: Files that are kept open, and candidates of one question to the database.
OPEN_FILES, CHUNK = 16, 256

#: Bytes of the log's lines with which a page is full, however few those are; one event more at most.
MAX_BYTES = 4 << 20


@attrs.frozen
class Page:
    """What was found.

    :param next: where to go on: ``after`` of the next call; None when there is nothing more.
    :param full: as many as were asked for, or as large as a page may be: there may be more by now.
    :param behind: lines of the log that the index does not have yet, out of ``total``; nothing was looked for then.
    :param upto: lines of the log that were looked at: what has come since begins behind them.
    """

    events: list[Event]
    next: int | None = None
    full: bool = False
    upto: int = 0
    behind: int = 0
    total: int = 0


@attrs.frozen
class _Row:
    id: int
    file: int
    offset: int
    size: int
    partner: int | None


_COLUMNS = ", ".join(f"e.{field.name}" for field in attrs.fields(_Row))


def _either(state: int) -> str:
    """The rows that have this SQLSTATE, and their partners."""
    having = f"FROM events WHERE sqlstate = {state}"
    return f"SELECT id {having} UNION SELECT partner {having} AND partner IS NOT NULL"


def _one_of_two(state: int) -> str:
    """The condition that a row or its partner has it, where those that have are not gathered."""
    return f" AND (e.sqlstate = {state} OR (SELECT p.sqlstate FROM events p WHERE p.id = e.partner) = {state})"


class Finder:
    """Looks things up in an index, in its thread."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._opened: OrderedDict[str, PlainFile | BlockFile] = OrderedDict()

    def page(
        self,
        query: Query,
        *,
        limit: int,
        after: int | None = None,
        oldest_first: bool = False,
        joined: bool = False,
    ) -> Page:
        """At most ``limit`` events and about :data:`MAX_BYTES`, the newest first unless said.

        :param after: the ``next`` of the page before.
        """
        events: list[Event] = []
        upto, size = self._index.place.count, 0
        state = None
        if joined and query.sqlstate is not None and (query.text, query.event, query.code) != (None, None, None):
            # One event of a row has the SQLSTATE, the other what else is looked for.
            query, state = attrs.evolve(query, sqlstate=None), query.sqlstate
        for row in self._candidates(query, after, oldest_first, state):
            event = self._event(row)
            if event is None or not query.matches(event):
                continue
            shown, more = self._joined(query, row, event, state) if joined else (event, 0)
            if shown is not None:
                events.append(shown)
                size += row.size + more
                if len(events) == limit or size >= MAX_BYTES:
                    return Page(events, row.id, full=True, upto=upto)
        return Page(events, max(after or 0, upto) if oldest_first else None, upto=upto)

    def _joined(self, query: Query, row: _Row, event: Event, state: str | None) -> tuple[Event | None, int]:
        """The row of two events, None where it comes elsewhere; and the size of the other's line.

        Of a long text that is not looked for the first part is the row.

        :param state: the SQLSTATE that one of the two has to have.
        """
        if query.text is None and type(event.get("part")) is int and event["part"] > 0:
            return None, 0
        partner = None if row.partner is None else self._row(row.partner)
        other = None if partner is None else self._event(partner)
        if state is not None and state not in (event.get("sqlstate"), (other or {}).get("sqlstate")):
            return None, 0
        if partner is None or other is None:
            return event, 0
        if event["event"] == "db.session.query":
            return {**event, "result": other}, partner.size
        return None if query.matches(other) else {**other, "result": event}, partner.size

    # Candidates

    def _candidates(self, query: Query, after: int | None, oldest_first: bool, state: str | None) -> Iterator[_Row]:
        """Rows that may be what is looked for, and all that are, in order.

        :param state: the SQLSTATE that they or their partners have to have.
        """
        names = self._numbers(query)
        pair = None if state is None else self._numbers(Query(sqlstate=state))
        low, high = self._bounds(query)
        if oldest_first:
            low = max(low, 0 if after is None else after + 1)
        elif after is not None:
            high = min(high, after - 1)
        if names is None or low > high or (state is not None and pair is None):
            return
        best = min(names, key=lambda field: self._uses(field, names[field]), default=None)
        often = None if best is None else self._uses(best, names[best])
        words = () if query.text is None else wanted_words(query.text)
        conditions = "".join(f" AND e.{field} = {number}" for field, number in names.items())
        if query.since is not None or query.until is not None:
            conditions += f" AND e.time >= {query.oldest} AND e.time < {query.newest}"
        either, source = "", ""
        if pair is not None:
            uses = 2 * self._uses("sqlstate", pair["sqlstate"])
            either = _one_of_two(pair["sqlstate"])
            if uses <= FEW and (often is None or uses < often):
                often, source = uses, f"({_either(pair['sqlstate'])}) x CROSS JOIN events e ON e.id = x.id"
        match = " AND ".join(f'"{word}"{"*" if start else ""}' for word, start in words)
        tables = self._word_tables(low, high, oldest_first) if words else []
        if words and self._rarer(match, tables, often):
            for table, first, last in tables:
                by_words = f"{table} CROSS JOIN events e ON e.id = {table}.rowid"
                more = f" AND {table} MATCH '{match}'{conditions}{either}"
                yield from self._chunks(by_words, f"{table}.rowid", more, (first, last), oldest_first=oldest_first)
            return
        if not source:
            count = self._index.place.count
            by = f"INDEXED BY events_{best}" if often is not None and often * 4 < count else "NOT INDEXED"
            source, conditions = f"events e {by}", conditions + either
        yield from self._chunks(source, "e.id", conditions, (low, high), oldest_first=oldest_first)

    def _rarer(self, match: str, tables: list[tuple[str, int, int]], often: int | None) -> bool:
        """Whether to go by the words rather than by the field that is the rarest, in ``often`` events."""
        if often is None:
            return True
        found = 0
        for table, _, _ in tables:
            statement = f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {table} MATCH '{match}' LIMIT ?)"
            found += self._index.database.execute(statement, (FREQUENT - found,)).fetchone()[0]
            if found >= FREQUENT:
                return often > FEW
        return found < often * READING

    def _chunks(
        self, source: str, key: str, conditions: str, reach: tuple[int, int], *, oldest_first: bool
    ) -> Iterator[_Row]:
        low, high = reach
        order = "" if oldest_first else "DESC"
        statement = (
            f"SELECT {_COLUMNS} FROM {source} WHERE {key} BETWEEN ? AND ?{conditions} ORDER BY {key} {order} LIMIT ?"
        )
        size = CHUNK
        while low <= high:
            rows = [_Row(*row) for row in self._index.database.execute(statement, (low, high, size))]
            yield from rows
            if len(rows) < size:
                return
            low, high = (rows[-1].id + 1, high) if oldest_first else (low, rows[-1].id - 1)

    def _word_tables(self, low: int, high: int, oldest_first: bool) -> list[tuple[str, int, int]]:
        """The tables of words, each with the lines to look for in it."""
        files = self._index.database.execute("SELECT number, first FROM files ORDER BY first").fetchall()
        ranges = [(number, first, behind - 1) for (number, first), (_, behind) in pairwise([*files, (0, high + 1)])]
        found = [
            (f"words_{int(number)}", max(low, first), min(high, last))
            for number, first, last in ranges
            if first <= high and last >= low
        ]
        return found if oldest_first else found[::-1]

    def _numbers(self, query: Query) -> dict[str, int] | None:
        """The numbers of the names that are looked for; None when one of them is nowhere in the log."""
        found = {}
        for field, value in query.fields.items():
            stored = value.encode("utf-8", "backslashreplace").decode()
            row = self._index.database.execute("SELECT id FROM names WHERE value = ?", (stored,)).fetchone()
            if row is None:
                return None
            found[field] = int(row[0])
        return found

    def _uses(self, field: str, name: int) -> int:
        statement = "SELECT number FROM uses WHERE field = ? AND name = ?"
        row = self._index.database.execute(statement, (FIELDS.index(field), name)).fetchone()
        return 0 if row is None else int(row[0])

    def _bounds(self, query: Query) -> tuple[int, int]:
        """The lines between which events of the times that are wanted can be."""
        if query.since is None and query.until is None:
            return 0, self._index.place.count
        statement = "SELECT min(first), max(last) FROM blocks WHERE newest >= ? AND oldest < ?"
        low, high = self._index.database.execute(statement, (query.oldest, query.newest)).fetchone()
        return (1, 0) if low is None else (int(low), int(high))

    # Reading

    def _row(self, line: int) -> _Row | None:
        row = self._index.database.execute(f"SELECT {_COLUMNS} FROM events e WHERE id = ?", (line,)).fetchone()
        return None if row is None else _Row(*row)

    def _event(self, row: _Row) -> Event | None:
        """The event of a row; None when the log has no such line there any more."""
        try:
            name = self._index.name_of(row.file)
            made = logfile.record(self._open(name).read(row.offset, row.size))
        except (OSError, ValueError, KeyError):
            return None
        return None if made is None else made["event"]

    def _open(self, name: str) -> PlainFile | BlockFile:
        known = self._opened.get(name)
        if known is None:
            file = logfile.named(name)
            if file is None:
                raise FileNotFoundError(name)
            known = self._opened[name] = file.open(self._index.directory)
            if len(self._opened) > OPEN_FILES:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(name)
        return known

    def sessions(
        self, *, user: str | None, limit: int, after: int | None = None, sid: str | None = None
    ) -> tuple[list[Event], int | None]:
        """Sessions, the newest first, and where to go on.

        :param user: only this one's; ``sid``: only this one.
        """
        given = [("user", user), ("sid", sid)]
        conditions = "".join(f" AND {name} = ?" for name, value in given if value is not None)
        cursor = self._index.database.execute(
            "SELECT sid, first, user, db_service, db_name, db_user, started, ended, reason, statements, errors"
            f" FROM sessions WHERE first < ?{conditions} ORDER BY first DESC LIMIT ?",
            (1 << 62 if after is None else after, *(value for _, value in given if value is not None), limit),
        )
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
        return found, found[-1]["first"] if len(found) == limit else None

    def close(self) -> None:
        """Close the files."""
        while self._opened:
            with contextlib.suppress(OSError):
                self._opened.popitem()[1].close()
