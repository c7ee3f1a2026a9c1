"""A sink that is a file, for whoever reads and rotates it.

::

    stat PATH ── another file than ours, or none ──▶ open it, or make it, 0600
    what we wrote and nobody acknowledged? ──▶ go on behind it
    append ──▶ fsync ──▶ cursor {place, the file's inode and size}

A file that was moved away is left as it is, and the next batch begins a new one: whoever rotates it needs to signal
nobody.  What a crash or a full disk left half written is completed, so that the file has each line once; after a
rotation in that very moment, or a write of somebody else's, some lines come twice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred

from teleport_db.audit.shipping import ThreadHook
from teleport_db.audit.sinks.reading import Batch, Place, State
from teleport_db.audit.sinks.target import NotTaken, go_nowhere
from teleport_db.certs.files import sync_directory
from teleport_db.config.sinks import FileSink

#: Bytes of a batch, and seconds that lines wait for others to come along.
BATCH, GATHER = 1 << 20, 1.0


class FileTarget:
    """One file.

    :param in_thread: where it is written.
    """

    max_bytes, max_records, gather = BATCH, BATCH, GATHER

    def __init__(self, sink: FileSink, *, in_thread: ThreadHook) -> None:
        self._path, self._in_thread = Path(sink.path), in_thread
        self._fd = -1
        self.state: State = {}
        self.go_back: Callable[[Place], None] = go_nowhere

    def send(self, batch: Batch) -> Deferred[None]:
        """See :class:`~teleport_db.audit.sinks.target.Target`."""
        return self._in_thread(lambda: self._send(batch.data))

    def close(self) -> Deferred[None]:
        """See :class:`~teleport_db.audit.sinks.target.Target`."""
        return self._in_thread(self._close)

    # In the thread.

    def _send(self, data: bytes) -> None:
        try:
            self._append(data)
        except OSError as error:
            self._close()
            raise NotTaken(f"{self._path}: {(error.strerror or str(error)).lower()}") from error

    def _append(self, data: bytes) -> None:
        self._open()
        found = os.fstat(self._fd)
        if self.state and (self.state["device"], self.state["inode"]) != (found.st_dev, found.st_ino):
            # So that what of this batch is in the new file after a failure is known to be ours.
            self.state = {"device": found.st_dev, "inode": found.st_ino, "size": found.st_size}
        data, known = self._rest(data, found)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        os.fsync(self._fd)
        self.state = {"device": found.st_dev, "inode": found.st_ino, "size": known + len(data)}

    def _rest(self, data: bytes, found: os.stat_result) -> tuple[bytes, int]:
        """What of a batch is to be written, and how large the file is before that, as far as it is known."""
        size, known = found.st_size, self.state.get("size", 0)
        # Before the first cursor is kept, what stands at the beginning may be what a crash left of the first batch.
        if size > known:
            written = os.pread(self._fd, min(size - known, len(data)), known)
            if data.startswith(written):
                return data[len(written) :], known + len(written)
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            return b"\n" + data, size  # somebody else's half line
        return data, size

    def _open(self) -> None:
        """Have the file open that is at the path now."""
        if self._fd >= 0:
            here = os.fstat(self._fd)
            try:
                there = os.stat(self._path)
            except FileNotFoundError:
                there = None
            if there is not None and (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                return
            self._close()
        new = not self._path.exists()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        self._fd = os.open(self._path, flags, 0o600)
        opened = os.fstat(self._fd)
        if not stat.S_ISREG(opened.st_mode):
            raise OSError(0, "not a plain file")
        if opened.st_nlink > 1:
            raise OSError(0, "a hard link: the file has other names too")
        if new:
            sync_directory(self._path.parent)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
