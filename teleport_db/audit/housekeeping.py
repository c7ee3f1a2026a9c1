"""What is done with files of the audit log that are closed: packed, and one day removed.

::

    packed     2026-11-22.jsonl ─▶ .2026-11-22.jsonl.gz.tmp, synced ─▶ 2026-11-22.jsonl.gz ─▶ the plain one goes
    removed    audit.retention {count, chain} is in the log ─▶ the files before that line go, the oldest first
    held       a sink has not read the file ─▶ it stays, and audit.retention.held says so

A file begins with a checkpoint, so what is left verifies without what was removed; and the record in the log, which
later checkpoints vouch for, says that it was retention that removed it, and up to which line.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from teleport_db.audit import logfile
from teleport_db.audit.blocks import Packer
from teleport_db.audit.checkpoints import Checkpoint, Point, no_point, read_checkpoint
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.query import milliseconds
from teleport_db.certs.files import sync_directory

#: The event that says what retention removed.
RETENTION = "audit.retention"

#: The event that says what it would have removed.
HELD = "audit.retention.held"


@attrs.frozen
class Expired:
    """Files to remove.

    :param oldest: the one that is the oldest then, and its first line.
    """

    files: tuple[LogFile, ...]
    oldest: LogFile
    head: Checkpoint


def held(found: Expired | None, needed: LogFile | None) -> tuple[LogFile, ...]:
    """Those among them that somebody has not read, from the oldest file on that is ``needed``."""
    if found is None or needed is None:
        return ()
    return tuple(file for file in found.files if file >= needed)


def head(directory: Path, file: LogFile) -> Checkpoint | None:
    """The checkpoint a file begins with; None when it has none."""
    line = next(file.lines(directory), b"")
    return read_checkpoint(line)


def expired(directory: Path, now: float, retention: float, *, needed: LogFile | None = None) -> Expired | None:
    """Which files' time has come; what a file holds is older than the beginning of the next.

    :param now: seconds since the epoch; ``retention``: seconds, 0 for never.
    :param needed: this one and what follows stay.
    """
    files, found = logfile.files(directory), None
    if not retention:
        return None
    for number, following in enumerate(files[1:], 1):
        begun = head(directory, following)
        if begun is None or milliseconds(begun.time) > (now - retention) * 1000:
            break
        if needed is not None and files[number - 1] >= needed:
            break
        found = Expired(tuple(files[:number]), following, begun)
    return found


def remove(directory: Path, files: tuple[LogFile, ...], *, at: Point = no_point) -> None:
    """Remove files, the oldest first, so that a crash leaves no gap."""
    for file in files:
        for name in (file.name, file.packed_name, _temporary(file)):
            (directory / name).unlink(missing_ok=True)
        sync_directory(directory)
        at("file removed")


def unpacked(directory: Path) -> list[LogFile]:
    """Closed files that are plain, or plain as well."""
    return [file for file in logfile.files(directory)[:-1] if (directory / file.name).exists()]


def _temporary(file: LogFile) -> str:
    return f".{file.packed_name}.tmp"


class PackedFile:
    """A closed file that is being packed, a member at a time; killed anywhere, the plain or the packed one is whole.

    Retention may remove it meanwhile, in the same thread.
    """

    def __init__(self, directory: Path, file: LogFile, *, at: Point = no_point) -> None:
        self._directory, self.file, self._at = directory, file, at
        self._plain, self._temporary = directory / file.name, directory / _temporary(file)
        self._packer = Packer(self._plain, self._temporary)

    def pack(self) -> bool:
        """One member; False when the packed file has taken the plain one's place, or both were removed."""
        if self._packer.pack():
            return True
        self._at("packed")
        if not self._plain.exists():
            self.abandon()
            return False
        self._packer.close()
        self._temporary.rename(self._directory / self.file.packed_name)
        sync_directory(self._directory)
        self._at("renamed")
        self._plain.unlink()
        sync_directory(self._directory)
        return False

    def abandon(self) -> None:
        """Leave the plain file as it is."""
        self._packer.close()
        self._temporary.unlink(missing_ok=True)
