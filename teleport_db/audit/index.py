"""The index of the audit log: an SQLite file beside it, made of it, and made again when it is not there.

::

    lines behind the index's place ─▶ rows, words, sessions ─┐ one transaction
                                      the new place          ─┘

It never holds an event, only where in the files each is; what is found is read from the log.  One thread uses it.
"""

# ruff: noqa: S608 - what is put into a statement are names and numbers of this package's own

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
from twisted.logger import Logger

from teleport_db.audit import logfile, schema
from teleport_db.audit.checkpoints import read_checkpoint
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.query import FIELDS, event_words, milliseconds
from teleport_db.audit.sessionrows import Pending, SessionRows

#: Names whose numbers are remembered.
MAX_NAMES = 50_000

#: Lines of which the oldest and the newest time are kept.
BLOCK = 1024

#: Lines that are read between two breaths, and rows that are written.
BREATH, BREATH_ROWS = 5, 20

#: The name of the file.
NAME = "index.sqlite"

_SID = schema.COLUMNS.index("sid")
_INSERT = f"INSERT INTO events VALUES ({', '.join('?' * len(schema.COLUMNS))})"


@attrs.frozen
class Place:
    """How far the index has come: behind a line of the log.

    :param count: lines of the whole log before it; ``chain``: of the last of them.
    """

    file: str = ""
    offset: int = 0
    count: int = 0
    chain: str = ""


class Index:
    """The index of the log in a directory.

    Opening it makes it anew where it is not there, cannot be read, or speaks of another log.
    """

    log = Logger()

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / NAME
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self.log.warn("the audit log's index is made anew: {error}", error=str(error))
            self.remove()
            self._open()

    def _open(self) -> None:
        # SQLite gives the files beside it the same mode.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        self.database = schema.connect(os.fspath(self.path))
        try:
            self._load()
            if not self._fits(self.place):
                raise sqlite3.DatabaseError("it is of another log")
        except BaseException:
            self.database.close()
            raise

    def _load(self) -> None:
        """Read again what is remembered of the tables."""
        self.place = Place(*self.database.execute("SELECT file, offset, count, chain FROM meta").fetchone())
        self._files: dict[str, int] = dict(self.database.execute("SELECT name, number FROM files"))
        self._file_names = {number: name for name, number in self._files.items()}
        self._names: dict[str, int] = {}
        self._sessions, self._pending = SessionRows(), Pending(self.database)
        last = self.database.execute("SELECT first, last, oldest, newest FROM blocks ORDER BY first DESC LIMIT 1")
        self._block: tuple[int, int, int, int] | None = last.fetchone()

    def _fits(self, place: Place) -> bool:
        """Whether the line before the place is still there."""
        file = logfile.named(place.file)
        if file is None:
            return place == Place()
        try:
            with contextlib.closing(file.open(self.directory)) as opened:
                return opened.read(place.offset - 67, 67) == f'{place.chain}"}}\n'.encode()
        except (OSError, ValueError):
            return False

    def name_of(self, number: int) -> str:
        """The file of a number; KeyError when it is gone."""
        return self._file_names[number]

    def remove(self) -> None:
        """Delete the files; the index is closed."""
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(f"{NAME}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    # Writing

    def step(self, newest: tuple[LogFile, int], limit: int, breathe: Callable[[], object] | None = None) -> int:
        """Take at most ``limit`` lines more; how many there were.

        :param newest: the log's newest file and its bytes that are durable: nothing behind is read.
        :param breathe: called every :data:`BREATH` lines and :data:`BREATH_ROWS` rows, to let other threads go on.
        """
        here, taken = logfile.named(self.place.file), 0
        with self.transaction():
            for file in logfile.files(self.directory):
                if taken >= limit or file > newest[0]:
                    break
                if here is None or file >= here:
                    offset = self.place.offset if file == here else 0
                    end = newest[1] if file == newest[0] else 1 << 62
                    taken += self._take(file, offset, end, limit - taken, breathe)
        return taken

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done within is done, the place included, or nothing."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
            place = attrs.astuple(self.place)
            self.database.execute("UPDATE meta SET file = ?, offset = ?, count = ?, chain = ?", place)
            self.database.execute("COMMIT")
        except BaseException:
            self.database.execute("ROLLBACK")
            self._load()
            raise

    def _take(
        self, file: LogFile, offset: int, end: int, limit: int, breathe: Callable[[], object] | None = None
    ) -> int:
        """Take lines of one file."""
        count, chain, taken = self.place.count, self.place.chain, 0
        rows: list[list[int | None]] = []
        texts: list[tuple[int, str]] = []
        uses: dict[tuple[int, int], int] = {}
        number = self._file_number(file, count) if offset < end else 0
        for line in file.lines(self.directory, offset):
            if taken == limit or offset + len(line) > end or not line.endswith(b"\n"):
                break
            checkpoint = read_checkpoint(line)
            if checkpoint is not None:
                count = checkpoint.count
            count, taken = count + 1, taken + 1
            if breathe is not None and taken % BREATH == 0:
                breathe()
            record = logfile.record(line) if checkpoint is None else None
            if record is not None:
                self._add(record["event"], [count, number, offset, len(line)], rows, texts, uses)
            chain, offset = line[-67:-3].decode("ascii", "replace"), offset + len(line)
        if taken:
            self._flush(number, rows, texts, uses, breathe)
            self.place = Place(file.name, offset, count, chain)
        return taken

    def _add(
        self,
        event: Mapping[str, Any],
        row: list[int | None],
        rows: list[list[int | None]],
        texts: list[tuple[int, str]],
        uses: dict[tuple[int, int], int],
    ) -> None:
        line = row[0]
        assert line is not None
        row.append(milliseconds(event.get("time")))
        for field, name in enumerate(FIELDS):
            value = event.get(name)
            known = self._name(value) if isinstance(value, str) and value else None
            if known is not None:
                uses[field, known] = uses.get((field, known), 0) + 1
            row.append(known)
        row.append(self._pending.take(row[_SID], line, event))
        rows.append(row)
        words = event_words(event)
        if words:
            texts.append((line, " ".join(words)))
        self._sessions.take(line, event)

    def _flush(
        self,
        number: int,
        rows: list[list[int | None]],
        texts: list[tuple[int, str]],
        uses: dict[tuple[int, int], int],
        breathe: Callable[[], object] | None,
    ) -> None:
        def write(sql: str, rows: Iterable[Sequence[Any]]) -> None:
            # Each row lets go of the interpreter for so short a time that nobody who waits for it can have it.
            left = iter(rows)
            while some := list(islice(left, BREATH_ROWS)):
                self.database.executemany(sql, some)
                if breathe is not None:
                    breathe()

        write(_INSERT, rows)
        write(f"INSERT INTO words_{number} (rowid, text) VALUES (?, ?)", texts)
        write(
            "INSERT INTO uses VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = number + excluded.number",
            ((field, name, times) for (field, name), times in uses.items()),
        )
        self._pending.flush(write)
        self._sessions.flush(write)
        if rows:
            self._blocks(rows)

    def _blocks(self, rows: list[list[int | None]]) -> None:
        times: list[int] = [row[4] or 0 for row in rows]
        first, last, oldest, newest = rows[0][0] or 0, rows[-1][0] or 0, min(times), max(times)
        known = self._block
        if known is not None and last - known[0] < BLOCK:
            first, oldest, newest = known[0], min(known[2], oldest), max(known[3], newest)
        self._block = (first, last, oldest, newest)
        self.database.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)", self._block)

    def _file_number(self, file: LogFile, count: int) -> int:
        known = self._files.get(file.name)
        if known is None:
            made = self.database.execute("INSERT INTO files (name, first) VALUES (?, ?)", (file.name, count + 1))
            known = self._files[file.name] = int(made.lastrowid or 0)
            self._file_names[known] = file.name
            schema.make_words(self.database, known)
        return known

    def _name(self, value: str) -> int:
        known = self._names.get(value)
        if known is None:
            stored = value.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no text for SQLite
            self.database.execute("INSERT OR IGNORE INTO names (value) VALUES (?)", (stored,))
            (known,) = self.database.execute("SELECT id FROM names WHERE value = ?", (stored,)).fetchone()
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            self._names[value] = known
        return int(known)

    # Retention

    def forget(self, file: LogFile) -> None:
        """The log's oldest file is now this one: nothing of those before it is found any more."""
        number = self._files.get(file.name)
        if number is None:
            return
        with self.transaction():
            execute = self.database.execute
            (first,) = execute("SELECT first FROM files WHERE number = ?", (number,)).fetchone()
            old = execute("SELECT number FROM files WHERE first < ?", (first,)).fetchall()
            gone = FIELDS.index("sid")
            execute(
                "UPDATE uses SET number = number - ifnull((SELECT count(*) FROM events WHERE id < ? AND sid = name), 0)"
                " WHERE field = ? AND name IN (SELECT sid FROM events WHERE id < ?)",
                (first, gone, first),
            )
            execute("DELETE FROM names WHERE id IN (SELECT name FROM uses WHERE field = ? AND number <= 0)", (gone,))
            execute("DELETE FROM uses WHERE field = ? AND number <= 0", (gone,))
            for table, column in (("events", "id"), ("blocks", "last"), ("pending", "id"), ("sessions", "first")):
                execute(f"DELETE FROM {table} WHERE {column} < ?", (first,))
            execute("DELETE FROM files WHERE first < ?", (first,))
            for (each,) in old:
                execute(f"DROP TABLE words_{int(each)}")
        self._load()
