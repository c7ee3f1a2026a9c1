"""Finds what was changed in the audit log, and says where first.

::

    the oldest file's first line ─▶ line by line: its chain follows from the line before ─▶ the newest line
        │ a checkpoint: where to begin      │ a checkpoint: signed by the key that the one before named,
        ▼                                   ▼ speaks of this place and of this chain
    nothing before it, or audit.retention   kept elsewhere: the very line is there

What an edit, a cut, a swap leaves is a line that does not follow.  Who makes all lines behind it anew leaves
checkpoints that no key has signed.  Who cuts off the end leaves a key, a state or a tip that knows more of the log
than there is, unless those are changed as well: that shows against a checkpoint kept elsewhere only.

It reads, and changes nothing; auth may be at work meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from os import PathLike, fspath
from pathlib import Path

import attrs

from teleport_db.audit import logfile
from teleport_db.audit.checkpoints import Checkpoint, key_files, public_of, read_checkpoint
from teleport_db.audit.housekeeping import RETENTION
from teleport_db.audit.logfile import CHECKPOINT, LogFile
from teleport_db.audit.recovery import kept_state
from teleport_db.audit.writing import TIP, known_count
from teleport_db.errors import NotFound

#: Lines between two calls for progress.
PROGRESS_EVERY = 20_000

_END = b',"chain":"'


@attrs.frozen
class Finding:
    """What is wrong, and where first.

    :param line: counted from 1; 0 for a file as a whole.
    :param uid: of the event in that line, with its ``time``; "" for what is none.
    """

    what: str
    file: str
    line: int = 0
    uid: str = ""
    time: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        event = f" (event {self.uid} of {self.time})" if self.uid or self.time else ""
        return f"{where}{event}: {self.what}"


@attrs.define
class Report:
    """What verifying found.

    :param begins: lines before the oldest that is there, which retention has removed.
    :param unsigned: lines behind the newest checkpoint.
    :param finding: None when all is as it was written.
    """

    files: int = 0
    events: int = 0
    checkpoints: int = 0
    begins: int = 0
    unsigned: int = 0
    newest: Checkpoint | None = None
    finding: Finding | None = None


class _Bad(Exception):
    """:param what: is wrong with the line that is looked at."""


class _Walk:
    """Follows the chain."""

    def __init__(self, directory: Path, kept: Iterable[Checkpoint]) -> None:
        self.directory = directory
        self.report = Report()
        self.chain, self.count = "", 0
        self.last: Checkpoint | None = None
        self.kept = {checkpoint.count: checkpoint for checkpoint in kept}
        self.removed: tuple[int, str] | None = None  # what a record of retention must name
        self.file, self.number, self.text = "", 0, b""

    # One line

    def checkpoint(self, line: bytes) -> None:
        found = read_checkpoint(line)
        if found is None or not found.is_genuine:
            raise _Bad("a checkpoint whose signature is not its key's")
        if self.report.checkpoints + self.report.events == 0 and found.count:
            self._begin(found)
        if found.count != self.count:
            raise _Bad(
                f"here line {found.count + 1} of the log should stand, and {self.count} lines come before it:"
                " something is missing, doubled, or in another's place"
            )
        if found.previous != self.chain:
            since = "the beginning" if self.last is None else f"checkpoint {self.last.number}"
            raise _Bad(f"lines between {since} and checkpoint {found.number} are not those it was signed for")
        if self.last is not None and (found.number, found.key) != (self.last.number + 1, self.last.next):
            raise _Bad(
                f"checkpoint {found.number} is not signed by the key that checkpoint {self.last.number} named:"
                " the key was lost, or the log from there on is somebody's making"
            )
        self.last = self.report.newest = found
        self.report.checkpoints += 1

    def _begin(self, found: Checkpoint) -> None:
        """The oldest line there is stands in the middle of the log."""
        self.chain, self.count = found.previous, found.count
        self.report.begins, self.removed = found.count, (found.count, found.previous)
        older = [checkpoint for count, checkpoint in self.kept.items() if count < found.count]
        if older:
            raise _Bad(
                f"checkpoint {older[0].number}, kept elsewhere, is of line {older[0].count + 1}, and the log begins"
                f" with line {found.count + 1}: there is nothing to compare it with any more"
            )

    def retention(self, line: bytes) -> None:
        record = logfile.record(line)
        event = {} if record is None else record["event"]
        if event.get("event") == RETENTION and (event.get("count"), event.get("chain")) == self.removed:
            self.removed = None

    def walk(self, file: LogFile, newest: bool, step: Callable[[int], None]) -> None:
        """All lines of a file; raises _Bad."""
        sha256, retention, kept = hashlib.sha256, f'"{RETENTION}"'.encode(), self.kept
        self.file, self.number = file.name, 0
        size = 0
        for line in file.lines(self.directory):
            self.number, self.text = self.number + 1, line
            is_checkpoint = line.startswith(CHECKPOINT)
            if self.number == 1 and self.last is not None and not is_checkpoint:
                raise _Bad("a file begins with a checkpoint, and this one does not")
            if not line.endswith(b"\n") and newest:
                break  # being written
            if is_checkpoint:
                self.checkpoint(line)
            elif retention in line:
                self.retention(line)
            body, _, rest = line.rpartition(_END)
            chain = sha256(self.chain.encode() + body).hexdigest()
            if rest != f'{chain}"}}\n'.encode():
                raise _Bad("the line was changed, or what stood before it was: it does not follow")
            if self.count in kept and kept[self.count].line != line:
                raise _Bad(f"checkpoint {kept[self.count].number}, kept elsewhere, is another line than this")
            self.chain = chain
            self.count += 1
            size += len(line)
            if is_checkpoint:
                self.report.unsigned = 0
            else:
                self.report.events += 1
                self.report.unsigned += 1
            if self.number % PROGRESS_EVERY == 0:
                step(size)
                size = 0
        step(size)

    def bad(self, what: str) -> Finding:
        """What is wrong with the line that is looked at."""
        record = logfile.record(self.text) or {}
        event = record.get("event", {})
        return Finding(what, self.file, self.number, str(event.get("uid", "")), str(event.get("time", "")))


def verify(
    directory: str | PathLike[str],
    *,
    kept: Iterable[Checkpoint] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Follow the chain through all files.

    :param kept: checkpoints that were kept elsewhere.
    :param progress: called now and then with the bytes that were read, and with all there are.

    NotFound when there is no log.
    """
    place = Path(directory)
    kept = list(kept)
    with contextlib.suppress(FileNotFoundError):
        for again in range(3):
            witnesses = _witnesses(place)
            files = logfile.files(place)
            walk = _Walk(place, kept)
            if files:
                try:
                    walk.report.finding = _follow(walk, files, witnesses, progress)
                except FileNotFoundError:
                    if again < 2:  # retention removed it meanwhile
                        continue
                    walk.report.finding = walk.bad("the file is gone")
                return walk.report
            if any(count for count, _ in witnesses.lines) or witnesses.key > 1 or kept:
                return attrs.evolve(walk.report, finding=Finding("all files of the log are gone", fspath(place)))
            break
    raise NotFound(f"there is no audit log in {place}")


def _follow(
    walk: _Walk, files: list[LogFile], witnesses: _Witnesses, progress: Callable[[int, int], None]
) -> Finding | None:
    sizes = [file.content_size(walk.directory) for file in files]
    total, done = sum(sizes), 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        progress(min(done, total), total)

    try:
        for file in files:
            walk.walk(file, file == files[-1], step)
            walk.report.files += 1
        walk.text = b""
        return _end(walk, files, witnesses)
    except _Bad as error:
        return walk.bad(str(error))
    except logfile.DamagedFile as error:
        walk.number += 1
        walk.text = b""
        return walk.bad(f"the packed file was changed: {error}")


def _end(walk: _Walk, files: list[LogFile], witnesses: _Witnesses) -> Finding | None:
    """Whether the log ends where it did, and begins where it may."""
    missing = [checkpoint for count, checkpoint in walk.kept.items() if count >= walk.count]
    if missing:
        raise _Bad(
            f"the log ends with line {walk.count}, and checkpoint {missing[0].number}, kept elsewhere, was line"
            f" {missing[0].count + 1}: the end was cut off"
        )
    for count, witness in witnesses.lines:
        if count > walk.count:
            raise _Bad(f"the log ends with line {walk.count}, and {witness} knows of line {count}: the end was cut off")
    if walk.removed is not None:
        said = "files before it are missing, and no retention record says that they were removed"
        return Finding(said, files[0].name, 1)
    number = 0 if walk.last is None else walk.last.number
    if witnesses.key > number + 1:
        raise _Bad(f"the newest checkpoint is {number}, and the key is that of {witnesses.key}: the end was cut off")
    public = witnesses.keys.get(number + 1, "")
    if walk.last is not None and public and public != walk.last.next:
        raise _Bad(f"the key for the next checkpoint is not the one that checkpoint {number} named: it was replaced")
    return None


@attrs.frozen
class _Witnesses:
    """What else knows how long the log is.

    :param lines: how many, and who says so.
    :param key: the number of the checkpoint that the oldest key will sign; 0 without one.
    :param keys: the public key of each key that is there and can be read.
    """

    lines: list[tuple[int, str]]
    key: int
    keys: dict[int, str]


def _witnesses(directory: Path) -> _Witnesses:
    """To be read before the log is, which grows."""
    found = []
    state = kept_state(directory)
    if state is not None:
        found.append((state.position.count, "state.json"))
    found.append((known_count(directory), TIP))
    keys = key_files(directory / "keys")
    public = {number: public_of(path) for number, path in keys}
    return _Witnesses(found, keys[0][0] if keys else 0, public)
