"""A file that only grows, by whole writes.

``os.write`` to a file opened O_APPEND is in the kernel's hands when it returns: a killed process loses
nothing of it.  A write that fails half way (a full disk) is cut off again, so that what follows does not
stand behind half a line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from teleport_db.errors import ConfigError


class AppendOnly:
    """One such file, 0600.

    :param path: made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = self._open()
        self.size = os.fstat(self._fd).st_size
        self._torn = False

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, data: bytes) -> None:
        """Append all of ``data`` or nothing; OSError when it cannot be."""
        if self._torn:
            self._repair()
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            self.undo(self.size)
            raise
        self.size += len(data)

    def _repair(self) -> None:
        """Cut the file back to its last whole write, with a new descriptor should the old one be gone."""
        fd = self._open()
        try:
            os.ftruncate(fd, self.size)
        except OSError:
            os.close(fd)
            raise
        if fd != self._fd:
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)
        self._torn = False

    def truncate(self, size: int) -> None:
        """Cut off what is behind ``size``."""
        os.ftruncate(self._fd, size)
        self.size = size

    def undo(self, size: int) -> None:
        """Take back what was written behind ``size``; before the next write if it cannot be done now."""
        self.size, self._torn = size, True
        with contextlib.suppress(OSError):
            self._repair()

    def sync(self) -> None:
        """fsync; OSError when the disk cannot be trusted any more."""
        os.fsync(self._fd)

    def duplicate(self) -> int:
        """A descriptor of its own for another thread to sync and close."""
        return os.dup(self._fd)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def lock_directory(directory: Path) -> int:
    """Make a directory, 0700 as all above it that are missing, and lock it for this process.

    Returns the descriptor that holds the lock; ConfigError when another process has it.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)  # parents=True would make those above with what the umask leaves
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise ConfigError(
            "another process has this directory; stop it, or give this one a data_dir of its own",
            source=os.fspath(directory),
        ) from None
    return fd
