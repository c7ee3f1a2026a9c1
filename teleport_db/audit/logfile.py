"""The files of the audit log and their lines: names, making, reading.

::

    2026-11-22.jsonl.gz        the first of its day, closed and packed (teleport_db.audit.blocks)
    2026-11-22.0002.jsonl      the next, since the first one was full: the newest file is plain

    {"checkpoint":{...},"chain":"SHA-256"}                          the first line of each file, and some between
    {"source":"HOST-ID","seq":7,"event":{...},"chain":"SHA-256"}    an event

``chain`` is the SHA-256 of the chain of the line before and of this line's own bytes up to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from teleport_db.audit.blocks import BlockFile, DamagedFile
from teleport_db.audit.events import encode
from teleport_db.audit.shipped import Run, ShippedStatement

__all__ = [
    "DamagedFile",
    "LogFile",
    "RawEvent",
    "chain_run",
    "chained",
    "files",
    "line",
    "pure_chain_run",
    "record",
    "run_lines",
]

#: How a checkpoint's line begins; no other line does.
CHECKPOINT = b'{"checkpoint":'

_NAME = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.(\d{4,9}))?\.jsonl")
_PIECE = 1 << 18


class RawEvent(dict[str, Any]):
    """A decoded event that is written as the JSON it came as; it is not changed.

    :param raw: that JSON: ASCII, on one line, no name in it twice.
    """

    __slots__ = ("raw",)

    def __init__(self, fields: dict[str, Any], raw: str) -> None:
        super().__init__(fields)
        self.raw = raw


def line(source: str, seq: int, event: Mapping[str, Any] | ShippedStatement, chain: str) -> tuple[bytes, str]:
    """The line of an event and its chain value, given that of the line before."""
    if type(event) is ShippedStatement:
        encoded = event.json
    else:
        encoded = (event.raw if type(event) is RawEvent else encode(event)).encode("ascii")  # type: ignore[arg-type]
    return chained(b'%b%d,"event":%b' % (_head(source), seq, encoded), chain)


def run_lines(source: str, run: Run, begin: int, end: int, chain: str) -> tuple[bytes, str]:
    """The lines of some events of a run, ``end`` not included, and the chain value of the last of them."""
    return chain_run(_head(source), run.first, run.content, run.places, begin, end, chain)


def pure_chain_run(  # noqa: PLR0917 - as its twin
    head: bytes, first: int, content: bytes, places: bytes, begin: int, end: int, chain: str
) -> tuple[bytes, str]:
    """The lines of some events of a run, and the chain value of the last.

    :param head: of each line, up to its number.
    :param first: the number of the run's first event; for ``content`` and ``places`` see
        :data:`~teleport_db.audit.shipped.Found`.
    :param begin: the first of them within the run; ``end`` is behind the last.
    :param chain: of the line before.

    ValueError for what is in no such run.
    """
    at = array("q", places[: len(places) // 16 * 16])
    if first < 0 or not 0 <= begin <= end <= len(at) // 2 or len(chain) > 64:
        raise ValueError("there is no such run")
    lines = []
    for number in range(begin, end):
        start, stop = at[2 * number], at[2 * number + 1]
        if not 0 <= start <= stop <= len(content):
            raise ValueError("an event is not in the content")
        text, chain = chained(b'%b%d,"event":%b' % (head, first + number, content[start:stop]), chain)
        lines.append(text)
    return b"".join(lines), chain


def _head(source: str) -> bytes:
    return b'{"source":%b,"seq":' % json.dumps(source).encode("ascii")


def chained(body: bytes, chain: str) -> tuple[bytes, str]:
    """A whole line, and its chain value, of an object that lacks its end."""
    chain = hashlib.sha256(chain.encode("ascii") + body).hexdigest()
    return b'%b,"chain":"%b"}\n' % (body, chain.encode("ascii")), chain


def record(line: bytes) -> dict[str, Any] | None:
    """What an event's line with its end says, or None for what is none."""
    try:
        made = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(made, dict):
        return None
    fits = isinstance(made.get("source"), str) and isinstance(made.get("seq"), int)
    return made if fits and isinstance(made.get("event"), dict) else None


@attrs.frozen(order=True)
class LogFile:
    """One file, packed or not; files are ordered as they were written.

    :param day: as ``2026-11-22``, UTC, of its first line.
    :param number: from 1 on, within its day.
    """

    day: str
    number: int = 1

    @property
    def name(self) -> str:
        """The name while it is not packed, by which it is known."""
        return f"{self.day}.jsonl" if self.number == 1 else f"{self.day}.{self.number:04d}.jsonl"

    @property
    def packed_name(self) -> str:
        """The name once it is packed."""
        return f"{self.name}.gz"

    def following(self, day: str) -> LogFile:
        """The file behind this one; a clock that goes back does not go back to an old day."""
        return LogFile(day) if day > self.day else LogFile(self.day, self.number + 1)

    def open(self, directory: Path) -> PlainFile | BlockFile:
        """To read it; it may be packed at any moment.  OSError, and DamagedFile."""
        with contextlib.suppress(FileNotFoundError):
            return PlainFile(directory / self.name)
        with contextlib.suppress(FileNotFoundError):
            return BlockFile(directory / self.packed_name)
        return PlainFile(directory / self.name)

    def content_size(self, directory: Path) -> int:
        """Bytes of its lines; 0 for what cannot be read."""
        with contextlib.suppress(DamagedFile), contextlib.closing(self.open(directory)) as file:
            return file.size
        return 0

    def lines(self, directory: Path, offset: int = 0) -> Iterator[bytes]:
        """All lines from ``offset`` on, each with its end; the last may have none."""
        with contextlib.closing(self.open(directory)) as file:
            rest = b""
            for piece in file.pieces(offset):
                first, end, behind = piece.partition(b"\n")
                if not end:
                    rest += piece
                    continue
                yield rest + first + end
                *lines, rest = behind.split(b"\n")
                for text in lines:
                    yield text + b"\n"
            if rest:
                yield rest


class PlainFile:
    """A file that is not packed, read as a :class:`BlockFile` is.

    Without a buffer, which would hold more than was asked for: behind the last durable line may stand what is taken
    back, and something else a moment later.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; fewer at the end."""
        return os.pread(self._fd, size, offset)

    def pieces(self, offset: int = 0) -> Iterator[bytes]:
        """All of it from ``offset`` on."""
        while piece := os.pread(self._fd, _PIECE, offset):
            yield piece
            offset += len(piece)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def files(directory: Path) -> list[LogFile]:
    """The log's files, the oldest first; one that is there plain and packed comes once."""
    found = set()
    for path in directory.iterdir():
        fits = _NAME.fullmatch(path.name.removesuffix(".gz"))
        if fits:
            found.add(LogFile(fits[1], int(fits[2] or 1)))
    return sorted(found)


def named(name: str) -> LogFile | None:
    """The file of a :attr:`LogFile.name`."""
    fits = _NAME.fullmatch(name)
    return LogFile(fits[1], int(fits[2] or 1)) if fits else None


try:
    from teleport_db._speed import chain_run
except ImportError:  # it was installed without a compiler
    chain_run = pure_chain_run
