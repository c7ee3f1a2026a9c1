"""The agent's audit records on its own disk, until the auth server has them.

::

    DIRECTORY/lock                          flock: one process has a spool
    DIRECTORY/acknowledged                  20 digits: the last number that was shipped
    DIRECTORY/00000001764000000000000.jsonl a segment, named by its first number
        {"seq":1764000000000000,"event":{"ei":0,"event":"db.session.start",...}}

A statement goes to the database after :meth:`Spool.append` has returned, so whatever ran is in the spool:
``os.write`` survives ``kill -9``, and ``fsync`` (each time, or by interval in a thread) survives the power
going.  What cannot be written ends the session.

Only what was synced is shipped, so that a number the auth server has seen is never given twice.  A new
spool begins at the time in microseconds for the same reason: one that was deleted must not come back with
numbers the auth server would take for duplicates.
"""

from __future__ import annotations

import json
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal

from teleport_db.audit.appending import AppendOnly, lock_directory
from teleport_db.audit.events import encode
from teleport_db.audit.spooled import Batch, whole
from teleport_db.certs.files import sync_directory
from teleport_db.errors import AuditUnavailable

#: Bytes that only the ends of sessions may still use of a full spool.
RESERVE: Final = 256 * 1024

Event = dict[str, Any]


class Spool:
    """A queue of events on disk with consecutive numbers.

    :param directory: made when it is not there; ConfigError when another process has it.
    :param max_bytes: more is refused.
    :param segment_bytes: a file is followed by the next from this size on, and freed whole.
    :param fsync: ``write`` syncs every append, ``interval`` leaves it to :meth:`begin_sync`.
    :param now: seconds since the epoch.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_bytes: int = 1 << 30,
        segment_bytes: int = 16 << 20,
        fsync: Literal["write", "interval"] = "interval",
        now: Callable[[], float] = time.time,
    ) -> None:
        self.directory = Path(directory)
        self._max, self._each = max_bytes, fsync == "write"
        self._segment_bytes = min(segment_bytes, max_bytes // 4)  # else a full spool could not be freed in parts
        self._reserve = min(RESERVE, max_bytes // 4)
        #: Bytes up to which one event is written without looking at anything else.
        self._simply = -1 if self._each else max_bytes - self._reserve
        self._lock = lock_directory(self.directory)
        try:
            self._broken = ""
            self._behind: list[AppendOnly] = []  # closed by a sync
            self._named = True  # the directory has the newest file's name on the disk
            self._cursor = (0, 0, 0)  # number, segment, offset: where the last read ended
            self._firsts = sorted(int(path.stem) for path in self.directory.glob("*.jsonl") if path.stem.isdigit())
            if not self._firsts:
                self._firsts = [int(now() * 1_000_000)]
            self._sizes = {first: self._path(first).stat().st_size for first in self._firsts[:-1]}
            self._file = AppendOnly(self._path(self._firsts[-1]))
            self.last = self._recover()
            self._file.sync()
            sync_directory(self.directory)
            self._total = sum(self._sizes.values()) + self._file.size
            self.synced = self.last
            self._acknowledged_fd = os.open(
                self.directory / "acknowledged", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            digits = os.pread(self._acknowledged_fd, 20, 0)
            first = self._firsts[0]
            self.acknowledged = max(first - 1, min(int(digits) if digits.isdigit() else 0, self.last))
        except BaseException:
            os.close(self._lock)
            raise

    def _path(self, first: int) -> Path:
        return self.directory / f"{first:023d}.jsonl"

    def _recover(self) -> int:
        """The last number; whatever stands behind the last whole record is cut off.

        A torn line is the record of a statement that never went on.  More than that is damage, and kept.
        """
        first = self._firsts[-1]
        data = self._file.path.read_bytes()
        position, number = 0, first - 1
        while (end := data.find(b"\n", position)) >= 0 and _record(data[position:end], number + 1) is not None:
            position, number = end + 1, number + 1
        if position < len(data):
            if b"\n" in data[position:]:
                damaged = AppendOnly(self.directory / f"damaged-{number + 1}")
                damaged.write(data[position:])
                damaged.sync()
                damaged.close()
            self._file.truncate(position)
        return number

    @property
    def pending(self) -> int:
        """How many events were not acknowledged yet."""
        return self.last - self.acknowledged

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._total

    def append(self, events: Sequence[Mapping[str, Any] | bytes], *, closing: bool = False) -> None:
        """Write events down, all or none, before this returns.

        :param events: or the JSON of each.
        :param closing: they end a session, and may use what is kept free for that.

        Raises AuditUnavailable when they are not written: the session must not go on.
        """
        number = self.last
        lines = []
        for event in events:
            number += 1
            encoded = event if isinstance(event, bytes) else encode(event).encode("ascii")
            lines.append(b'{"seq":%d,"event":%b}\n' % (number, encoded))
        data = b"".join(lines)
        if self._broken or self._total + len(data) > self._max - (0 if closing else self._reserve):
            raise AuditUnavailable(detail=self._broken or f"the spool in {self.directory} is full")
        try:
            if self._file.size >= self._segment_bytes:
                self._next_segment()
            self._file.write(data)
            self._total += len(data)
            self.last = number
            if self._each:
                self._sync_now()
        except OSError as error:
            raise AuditUnavailable(detail=f"the spool in {self.directory}: {error}") from error

    def append_one(self, event: bytes) -> None:
        """As :meth:`append`, for the JSON of one event: the way of nearly all of them."""
        number = self.last + 1
        data = b'{"seq":%d,"event":%b}\n' % (number, event)
        file, total = self._file, self._total + len(data)
        if total > self._simply or file.size >= self._segment_bytes:
            self.append((event,))
            return
        try:
            file.write(data)
        except OSError as error:
            raise AuditUnavailable(detail=f"the spool in {self.directory}: {error}") from error
        self._total, self.last = total, number

    def _sync_now(self) -> None:
        try:
            self._file.sync()
        except OSError as error:
            # The kernel may have dropped what it could not write and says so only once (fsyncgate, 2018).
            self.failed(error)
            raise
        self.synced = self.last

    def _next_segment(self) -> None:
        following = AppendOnly(self._path(self.last + 1))
        self._named = False
        self._sizes[self._firsts[-1]] = self._file.size
        if self._each:
            sync_directory(self.directory)
            self._named = True
            self._file.close()
        else:
            self._behind.append(self._file)
        self._firsts.append(self.last + 1)
        self._file = following

    def begin_sync(self) -> Callable[[], int]:
        """What to run in a thread: it syncs all that was appended until now and returns its last number.

        That goes to :meth:`end_sync`; an OSError of it goes to :meth:`failed`.  Raises OSError where there is no
        descriptor left to do it with, and then nothing is lost.
        """
        with ExitStack() as opened:
            number, fds = self.last, [self._file.duplicate()]
            opened.callback(os.close, fds[0])
            if not self._named:
                fds.append(os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                opened.callback(os.close, fds[1])
            # Nothing was changed until here: without descriptors the next sync has all of it to do.
            behind, self._behind, self._named = self._behind, [], True
            for file in behind:
                opened.callback(file.close)
            mine = opened.pop_all()

        def sync() -> int:
            with mine:
                for file in behind:
                    file.sync()
                for fd in fds:
                    os.fsync(fd)
            return number

        return sync

    def end_sync(self, number: int) -> None:
        """Everything up to ``number`` is on the disk and may be shipped."""
        self.synced = max(self.synced, number)

    def failed(self, error: Exception) -> None:
        """The disk lost something: nothing is appended any more."""
        self._simply = -1
        self._broken = f"the spool in {self.directory} cannot be trusted since a sync failed: {error}"

    def read(self, after: int, limit: int, *, max_bytes: int = 512 * 1024) -> Batch:
        """Synced events behind number ``after``, oldest first: at most ``limit``, and one at least.

        :param max_bytes: of JSON, so that a batch fits an HTTP body.

        Raises AuditUnavailable when the disk cannot be read or what is on it is not what was written.
        """
        after = max(after, self._firsts[0] - 1)
        parts: list[tuple[bytes, int]] = []
        count = size = 0
        try:
            while after + count < self.synced and count < limit and size < max_bytes:
                most = min(limit - count, self.synced - after - count)
                found, data, length = self._read(after + count, most, max_bytes - size, needed=not count)
                if not found:
                    break
                parts.append((data, length))
                count += found
                size += length
        except OSError as error:
            raise AuditUnavailable(detail=f"the spool in {self.directory}: {error}") from error
        data = parts[0][0] if len(parts) == 1 else b"".join(data[:length] for data, length in parts)
        return Batch(after + 1, data, count, size)

    def _read(self, after: int, most: int, max_bytes: int, *, needed: bool) -> tuple[int, bytes, int]:
        """Records of one segment: how many, what begins with them, and their bytes.

        :param needed: the first one, however long it is.
        """
        known, segment, offset = self._cursor
        if known != after or segment not in self._firsts:
            segment = self._firsts[bisect_right(self._firsts, after + 1) - 1]
            known, offset = segment - 1, 0
        with open(self._path(segment), "rb") as file:
            file.seek(offset)
            while known < after and (line := file.readline()):
                known, offset = known + 1, offset + len(line)
            data = file.read(max_bytes)
            if needed and data and b"\n" not in data:
                data += file.readline()
        if not data:
            if known + 1 not in self._firsts:
                raise AuditUnavailable(detail=f"record {known + 1} of {self.directory} is missing")
            self._cursor = (known, known + 1, 0)
            return self._read(after, most, max_bytes, needed=needed)
        count, size = whole(data, known + 1, most)
        if needed and not count:
            raise AuditUnavailable(detail=f"record {known + 1} of {self.directory} is damaged")
        self._cursor = (known + count, segment, offset + size)
        return count, data, size

    def acknowledge(self, number: int) -> None:
        """The auth server has everything up to ``number``: free the files that nobody needs."""
        self.acknowledged = max(self.acknowledged, min(number, self.last))
        try:
            # Not synced: an old number only ships again what the auth server knows to be duplicates.
            os.pwrite(self._acknowledged_fd, b"%020d" % self.acknowledged, 0)
            if self.acknowledged == self.last and self._file.size >= self._segment_bytes:
                self._next_segment()  # before the old one goes: its name keeps the number
            while len(self._firsts) > 1 and self._firsts[1] <= self.acknowledged + 1:
                if self._behind and self._behind[0].path == self._path(self._firsts[0]):
                    self._behind.pop(0).close()
                self._path(self._firsts[0]).unlink(missing_ok=True)
                self._total -= self._sizes.pop(self._firsts.pop(0))
        except OSError as error:
            raise AuditUnavailable(detail=f"the spool in {self.directory}: {error}") from error

    def close(self) -> None:
        """Let go of the directory."""
        for file in (*self._behind, self._file):
            file.close()
        os.close(self._acknowledged_fd)
        os.close(self._lock)


def _record(line: bytes, number: int) -> Event | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("seq") != number or not isinstance(record.get("event"), dict):
        return None
    event: Event = record["event"]
    return event
