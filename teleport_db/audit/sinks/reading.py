"""Reads the log's files for one sink, in its thread, and keeps how far that sink is.

::

    DIRECTORY/sinks/NAME.json    {"v", "file", "offset", "line", "sent", "chain", "state"}

A batch is of one file, and of whole lines that are durable.  Files may be packed meanwhile; one that retention would
remove is kept for as long as a sink has not read it, so a file that is gone was removed while nobody knew of the sink.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.logger import Logger

from teleport_db.audit import logfile
from teleport_db.audit.blocks import BlockFile
from teleport_db.audit.housekeeping import head
from teleport_db.audit.logfile import LogFile, PlainFile
from teleport_db.audit.sinks.records import DamagedLine, Selection, chain_of, ending
from teleport_db.audit.writing import Position
from teleport_db.certs.files import write_secret

#: The directory of cursors, in the log's, and what they are written as.
DIRECTORY, VERSION = "sinks", 1

#: A cursor's part that a target keeps for itself.
State = Mapping[str, int]


@attrs.frozen
class Place:
    """How far a sink is: behind a line.

    :param offset: bytes, in the content of ``file``.
    :param line: lines before it in the whole log.
    :param sent: records that the sink got of them.
    :param chain: of the line before; "" for the beginning of a file.
    """

    file: LogFile
    offset: int = 0
    line: int = 0
    sent: int = 0
    chain: str = ""


@attrs.frozen
class Batch:
    """Records to send, each without an end of line.

    :param begin: from where on they are read, and behind which place the sink is when it has them: ``end``.
    :param first: the number of the first one, from 1 on, among all that the sink is sent.
    :param lost: lines before ``begin`` that were gone before the sink had read them.
    """

    records: Sequence[bytes]
    begin: Place
    end: Place
    first: int
    lost: int = 0

    @property
    def data(self) -> bytes:
        """All of it, each record on a line."""
        return b"\n".join([*self.records, b""])

    def halves(self) -> tuple[Batch, Batch]:
        """The same in two; the cursor may move behind the second only."""
        middle = len(self.records) // 2
        return (
            attrs.evolve(self, records=self.records[:middle]),
            attrs.evolve(self, records=self.records[middle:], first=self.first + middle),
        )


class DamagedCursor(ValueError):
    """There is a cursor, and nobody can tell what it says."""


@attrs.frozen
class Cursor:
    """The file with the place of one sink; every method blocks."""

    path: Path

    @classmethod
    def of(cls, directory: Path, name: str) -> Cursor:
        """That of a sink, in the log's directory."""
        return cls(directory / DIRECTORY / f"{name}.json")

    def load(self) -> tuple[Place, State] | None:
        """None when there is none; DamagedCursor, OSError."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            kept = json.loads(data)
            file = logfile.named(kept["file"])
            numbers = offset, line, sent = kept["offset"], kept["line"], kept["sent"]
            state = {str(name): int(value) for name, value in kept["state"].items()}
            if kept["v"] != VERSION or file is None or any(type(n) is not int or n < 0 for n in numbers):
                raise DamagedCursor(self.path)
            return Place(file, offset, line, sent, str(kept["chain"])), state
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedCursor(self.path) from error

    def keep(self, place: Place, state: State) -> None:
        """Write it, durable; OSError."""
        kept: dict[str, Any] = attrs.asdict(place, recurse=False)
        kept = {"v": VERSION, **kept, "file": place.file.name, "state": dict(state)}
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        write_secret(self.path, json.dumps(kept).encode())


class Reader:
    """The log, batch by batch; every method blocks, and one thread at a time calls them.

    :param max_bytes: of the log in one batch; a longer line comes alone.
    :param max_records: in one batch.
    """

    log = Logger()

    def __init__(self, directory: Path, selection: Selection, *, max_bytes: int, max_records: int) -> None:
        self._directory, self._selection = directory, selection
        self._max_bytes, self._max_records = max_bytes, max_records
        self._opened: tuple[LogFile, PlainFile | BlockFile] | None = None

    def fits(self, place: Place) -> bool:
        """Whether the log has that very line before this place; a file that is gone says nothing against it."""
        try:
            file = self._open(place.file)
        except FileNotFoundError:
            return any(place.file < other for other in logfile.files(self._directory))
        if not place.offset:
            return True
        wanted = ending(place.chain) if place.chain else b"\n"
        return file.read(max(place.offset - len(wanted), 0), min(len(wanted), place.offset)) == wanted

    def oldest(self) -> Place:
        """The beginning of what the log has."""
        file = min(logfile.files(self._directory))
        first = head(self._directory, file)
        return Place(file, line=first.count if first is not None else 0)

    def read(self, place: Place, end: Position) -> Batch:
        """What comes next, up to ``end``; without records when there is nothing for the sink in it.

        OSError, DamagedFile.
        """
        lost = 0
        while True:
            try:
                data = self._piece(place, end)
            except FileNotFoundError:
                if place.file >= end.file:
                    raise
                data = b""
            if data or place.file >= end.file:
                return attrs.evolve(self._batch(place, data), lost=lost)
            following = self._following(place, end)
            lost += max(following.line - place.line, 0)
            place = following

    def close(self) -> None:
        """Close what is open."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def _open(self, file: LogFile) -> PlainFile | BlockFile:
        if self._opened is None or self._opened[0] != file:
            self.close()
            self._opened = file, file.open(self._directory)
        return self._opened[1]

    def _following(self, place: Place, end: Position) -> Place:
        behind = (file for file in logfile.files(self._directory) if file > place.file)
        file = min(behind, default=end.file)
        first = head(self._directory, file)
        return Place(file, line=place.line if first is None else first.count, sent=place.sent)

    def _piece(self, place: Place, end: Position) -> bytes:
        """Whole lines from a place on; b"" at the end of a file."""
        file, size = self._open(place.file), self._max_bytes
        while True:
            wanted = min(size, end.size - place.offset) if place.file == end.file else size
            data = file.read(place.offset, wanted)
            whole = data.rfind(b"\n") + 1
            if whole or len(data) < size:
                # What a closed file has behind its last end of line nobody has written so.
                return data[:whole] or data
            size *= 2

    def _batch(self, place: Place, data: bytes) -> Batch:
        if not data:
            return Batch((), place, place, place.sent + 1)
        lines = data.removesuffix(b"\n").split(b"\n")
        if self._selection.everything:
            used = records = lines[: self._max_records]
        else:
            used, records = self._selected(place, lines)
        size = len(data) if len(used) == len(lines) else sum(map(len, used)) + len(used)
        end = Place(
            place.file, place.offset + size, place.line + len(used), place.sent + len(records), chain_of(used[-1])
        )
        return Batch(records, place, end, place.sent + 1)

    def _selected(self, place: Place, lines: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """The lines that were looked at, and the records among them."""
        records: list[bytes] = []
        for number, line in enumerate(lines):
            if len(records) >= self._max_records:
                return lines[:number], records
            try:
                record = self._selection(line)
            except DamagedLine:
                self.log.error(
                    "the audit log has a damaged line, which no sink can be sent: {file}, line {line} of the log",
                    file=place.file.name,
                    line=place.line + number + 1,
                )
                continue
            if record is not None:
                records.append(record)
        return lines, records


def pending(place: Place, end: Position) -> float:
    """Bytes of the log behind a place, about; infinite where it has another file since."""
    return end.size - place.offset if place.file == end.file else float("inf")
