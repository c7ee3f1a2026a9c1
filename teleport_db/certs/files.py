"""Files that are there whole or not at all.

::

    open .NAME.xxxxxxxx.tmp (0600, exclusive, flock) -> write -> fsync -> rename -> fsync the directory

The lock tells the remains of a killed writer from the file of a living one: whoever writes the same name
next removes the former, so that kills do not leave copies of secrets lying about.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import stat
from pathlib import Path

from teleport_db.errors import ConfigError


def write_secret(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that only its owner reads, 0600; OSError when it cannot be."""
    _replace(Path(path), data, 0o600)


def write_public(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that everybody may read, 0644; OSError when it cannot be."""
    _replace(Path(path), data, 0o644)


def read_secret(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a secret.

    Raises ConfigError when others than its owner can get at it or it is no plain file, OSError
    (FileNotFoundError) when it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("not a plain file", source=os.fspath(path))
        if status.st_mode & 0o077:
            raise ConfigError("others than its owner can read this secret; chmod 600 it", source=os.fspath(path))
        return file.read()


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable: a rename is not, before this."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _replace(path: Path, data: bytes, mode: int) -> None:
    _remove_remains(path)
    fd, temporary = _open_temporary(path)
    try:
        try:
            os.fchmod(fd, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    finally:
        os.close(fd)
    sync_directory(path.parent)


def _open_temporary(path: Path) -> tuple[int, Path]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)  # another writer took it for remains, in the moment before the lock
            continue
        if os.fstat(fd).st_nlink:
            return fd, temporary
        os.close(fd)


def _remove_remains(path: Path) -> None:
    for name in glob.glob(f".{glob.escape(path.name)}.*.tmp", root_dir=path.parent, include_hidden=True):
        remains = path.with_name(name)
        with contextlib.suppress(OSError):
            fd = os.open(remains, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(remains)
            finally:
                os.close(fd)
