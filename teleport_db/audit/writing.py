"""Appending to the newest file of the audit log, in the thread that writes.

::

    full, or another day ─▶ the next file, which begins with a checkpoint ─┐
    batch ─▶ lines, chained ─▶ [checkpoint, when one is due] ─▶ write ─▶ fsync ─▶ [the old key is destroyed]

A batch is on the disk whole or is taken back; only then is the place in the log another one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from teleport_db.audit import logfile
from teleport_db.audit.appending import AppendOnly
from teleport_db.audit.checkpoints import Checkpoint, Point, SigningKeys, no_point
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.sessions import Record
from teleport_db.audit.shipped import Run
from teleport_db.certs.files import sync_directory

#: The file with the number of lines that the whole log has.
TIP = "tip"

#: Lines that are made at once, in little more than a tenth of a millisecond: other threads wait that long.
SOME = 128

#: Lines after which a checkpoint is due, however short the time was.
CHECKPOINT_EVERY = 10_000


@attrs.frozen
class Position:
    """A place in the log: behind its last line.

    :param chain: of the last line.
    :param count: lines before it in the whole log, those that retention has removed included.
    :param checkpoint: the newest one.
    :param unsigned: lines behind that.
    :param file: the newest one, with its ``size`` in bytes.
    """

    chain: str = ""
    count: int = 0
    checkpoint: Checkpoint | None = None
    unsigned: int = 0
    file: LogFile = attrs.field(default=LogFile(""))
    size: int = 0

    def behind(self, line: bytes, chain: str, checkpoint: Checkpoint | None = None) -> Position:
        """The place behind one more line."""
        size = self.size + len(line)
        if checkpoint is None:
            return Position(chain, self.count + 1, self.checkpoint, self.unsigned + 1, self.file, size)
        return Position(chain, self.count + 1, checkpoint, 0, self.file, size)


def no_breath() -> None:
    """Where there is no other thread."""


class Writer:
    """The newest file.  One thread at a time uses it.

    :param position: the end of the log; its file is made when it is not there.
    :param max_file: bytes from which on the next file is begun.
    :param breathe: called between some lines and the next, to let other threads go on.
    """

    def __init__(
        self,
        directory: Path,
        position: Position,
        keys: SigningKeys,
        *,
        max_file: int,
        at: Point = no_point,
        breathe: Callable[[], object] = no_breath,
    ):
        self._breathe = breathe
        self._unbroken = 0  # lines since a breath
        self._directory, self._keys, self._max_file, self._at = directory, keys, max_file, at
        self.position = position
        self._file = AppendOnly(directory / position.file.name)
        self._tip = os.open(directory / TIP, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, records: Sequence[Record], now: float, *, sign: bool = False) -> Position:
        """Append and sync; returns the new end of the log.

        :param now: seconds since the epoch.
        :param sign: with a checkpoint, if there is anything that has none yet.

        OSError when it is not written; the log ends then where it did.
        """
        place = self._place(now)
        turning = place.file != self.position.file
        file = self._begin(place.file) if turning else self._file
        before = file.size
        try:
            lines, place = self._lines(place, records, now, sign)
            file.write(b"".join(lines))
            self._at("written")
            file.sync()
            if turning:
                sync_directory(self._directory)
        except OSError:
            file.undo(before)
            if turning:
                file.close()
                with contextlib.suppress(OSError):
                    file.path.unlink()
            raise
        self._at("synced")
        if turning:
            self._file.close()
            self._file = file
        # Not synced: one that is too old is no harm, and none is newer than the log.
        os.pwrite(self._tip, b"%020d\n" % place.count, 0)
        signed = place.checkpoint is not self.position.checkpoint
        self.position = place
        if signed:
            self._keys.advance()
        return place

    def _place(self, now: float) -> Position:
        """Where to write: in the file there is, or at the beginning of the next."""
        place = self.position
        day = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}"
        if place.size and (day > place.file.day or place.size >= self._max_file):
            return attrs.evolve(place, file=place.file.following(day), size=0)
        return place

    def _begin(self, file: LogFile) -> AppendOnly:
        begun = AppendOnly(self._directory / file.name)
        self._at("file made")
        if begun.size:  # left by a write that failed: nobody was told of it
            begun.truncate(0)
        return begun

    def _lines(
        self, place: Position, records: Sequence[Record], now: float, sign: bool
    ) -> tuple[list[bytes], Position]:
        lines: list[bytes] = []
        count = sum(event.count if isinstance(event, Run) else 1 for _, _, event in records)
        due = place.unsigned + count >= CHECKPOINT_EVERY or (sign and place.unsigned + count > 0)
        head = place.size == 0  # what comes before it may be gone one day
        if head:
            place = self._sign(place, lines, now)
        chain, begun = place.chain, len(lines)
        for source, seq, event in records:
            if isinstance(event, Run):
                some, chain = self._run(source, event, chain)
                lines += some
                continue
            text, chain = logfile.line(source, seq, event, chain)
            lines.append(text)
            self._made(1)
        size = place.size + sum(map(len, lines[begun:]))
        place = attrs.evolve(place, chain=chain, count=place.count + count, unsigned=place.unsigned + count, size=size)
        if due and not head:
            place = self._sign(place, lines, now)
        return lines, place

    def _run(self, source: str, run: Run, chain: str) -> tuple[list[bytes], str]:
        lines, begin = [], 0
        while begin < run.count:
            end = min(begin + SOME - self._unbroken, run.count)
            some, chain = logfile.run_lines(source, run, begin, end, chain)
            lines.append(some)
            self._made(end - begin)
            begin = end
        return lines, chain

    def _made(self, count: int) -> None:
        """Breathe once for so many lines, and not for each of many short runs: all sources wait for a batch."""
        self._unbroken += count
        if self._unbroken >= SOME:
            self._unbroken = 0
            self._breathe()

    def _sign(self, place: Position, lines: list[bytes], now: float) -> Position:
        checkpoint, chain = self._keys.checkpoint(place.count, place.chain, now)
        lines.append(checkpoint.line)
        return place.behind(checkpoint.line, chain, checkpoint)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        os.close(self._tip)


def known_count(directory: Path) -> int:
    """How many lines the log had when the last one was written, for who finds fewer; 0 when that is not known."""
    with contextlib.suppress(OSError, ValueError):
        return int((directory / TIP).read_bytes()[:20])
    return 0
