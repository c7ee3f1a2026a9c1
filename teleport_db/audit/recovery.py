"""What follows from the lines of the audit log, and how a start finds it again.

``state.json`` has all of it up to a place in the files, so that a start reads what was written behind that and no
more; without the file everything is read.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from twisted.logger import Logger

from teleport_db.audit import logfile
from teleport_db.audit.appending import AppendOnly
from teleport_db.audit.checkpoints import Checkpoint, from_kept, kept_fields, read_checkpoint
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.sessions import Sessions
from teleport_db.audit.shipped import Run, ShippedStatement
from teleport_db.audit.writing import Position, known_count
from teleport_db.certs.files import sync_directory

log = Logger()

#: The name of the file, and what it is written as.
STATE, VERSION = "state.json", 3

_CHAIN = re.compile(rb',"chain":"([0-9a-f]{64})"\}\n\Z')


@attrs.define
class State:
    """What follows from the lines.

    :param last: the newest number of each source.
    """

    position: Position = attrs.field(factory=Position)
    last: dict[str, int] = attrs.field(factory=dict)
    sessions: Sessions = attrs.field(factory=Sessions)

    def take(self, source: str, seq: int, event: Mapping[str, Any] | ShippedStatement | Run) -> None:
        """A line was written, or those of a run."""
        if type(event) is Run:
            seq = event.last
        if seq > self.last.get(source, 0):
            self.last[source] = seq
        self.sessions.take(source, seq, event)

    def kept(self) -> bytes:
        """All of it, for ``state.json``."""
        place = self.position
        return json.dumps(
            {
                "v": VERSION,
                "file": place.file.name,
                "size": place.size,
                "chain": place.chain,
                "count": place.count,
                "unsigned": place.unsigned,
                "checkpoint": kept_fields(place.checkpoint),
                "last": self.last,
                "sessions": self.sessions.kept(),
            }
        ).encode()


def kept_state(directory: Path) -> State | None:
    """What ``state.json`` has, or None when it is not there or cannot be used."""
    try:
        kept = json.loads((directory / STATE).read_bytes())
        file = logfile.named(kept["file"])
        if kept["v"] != VERSION or file is None:
            return None
        checkpoint: Checkpoint | None = from_kept(kept["checkpoint"])
        place = Position(
            str(kept["chain"]), int(kept["count"]), checkpoint, int(kept["unsigned"]), file, int(kept["size"])
        )
        return State(place, dict(kept["last"]), Sessions(kept["sessions"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def recover(directory: Path, now: float) -> State:
    """The state of the log, read from its files; what stands behind the last whole line is cut off.

    :param now: seconds since the epoch, for the name of a first file.
    """
    files = logfile.files(directory)
    state = kept_state(directory)
    if state is None or not _fits(directory, files, state.position):
        state = State()
    begin = state.position
    for file in files:
        if file < begin.file:
            continue
        offset = begin.size if file == begin.file else 0
        state.position = attrs.evolve(state.position, file=file, size=offset)
        _replay(directory, file, state)
    day = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}"
    if not files:
        state.position = attrs.evolve(state.position, file=LogFile(day), size=0)
    elif not (directory / files[-1].name).exists():
        state.position = attrs.evolve(state.position, file=files[-1].following(day), size=0)
    _cut(directory, state.position)
    if known_count(directory) > state.position.count:
        log.error(
            "the audit log ends with line {count}, and line {known} was written: its end was cut off",
            count=state.position.count,
            known=known_count(directory),
        )
    return state


def _fits(directory: Path, files: list[LogFile], place: Position) -> bool:
    """Whether the files still have the place."""
    if place.file not in files:
        return False
    with contextlib.closing(place.file.open(directory)) as file:
        return file.size >= place.size


def _replay(directory: Path, file: LogFile, state: State) -> None:
    """Take the lines of a file behind the state's place."""
    place = state.position
    for line in file.lines(directory, place.size):
        if not line.endswith(b"\n"):
            break
        chain = _CHAIN.search(line)
        checkpoint = read_checkpoint(line)
        if checkpoint is not None:
            place = attrs.evolve(place, count=checkpoint.count)  # what retention has removed counts too
        else:
            record = logfile.record(line)
            if record is None:
                log.warn("the audit log has a damaged line: {path}:{offset}", path=file.name, offset=place.size)
            else:
                state.take(record["source"], record["seq"], record["event"])
        place = place.behind(line, chain[1].decode() if chain else place.chain, checkpoint)
    state.position = place


def _cut(directory: Path, place: Position) -> None:
    file = AppendOnly(directory / place.file.name)
    try:
        if file.size > place.size:
            log.warn("{size} bytes behind the last whole line were cut off", size=file.size - place.size)
            file.truncate(place.size)
        file.sync()
    finally:
        file.close()
    sync_directory(directory)
