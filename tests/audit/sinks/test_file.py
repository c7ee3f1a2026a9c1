"""A file sink: each line once, whoever moves the file and whatever ends the process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.monkey import MonkeyPatcher

from teleport_db.audit.shipping import ThreadHook, inline
from teleport_db.audit.sinks.file import FileTarget
from teleport_db.audit.sinks.reading import Cursor
from teleport_db.config.sinks import FileSink
from tests.audit.sinks.support import SinkCase


class Killed(BaseException):
    """Ends a process where it stands."""


def dying(function: Callable[[], Any]) -> Deferred[Any]:
    """A thread that is not heard of again once it was killed."""
    try:
        return succeed(function())
    except Killed:
        return Deferred()
    except Exception:
        return fail()


class FileCase(SinkCase):
    def setUp(self) -> None:
        super().setUp()
        self.out = Path(self.mktemp())
        self.out.mkdir()
        self.path = self.out / "audit.jsonl"
        self.start()

    def start(self, in_thread: ThreadHook = inline) -> None:
        """A process that begins."""
        sink = FileSink(name="one", path=str(self.path))
        self.begin(sink, FileTarget(sink, in_thread=in_thread), in_thread=in_thread)
        self.clock.advance(1)

    def add(self, count: int = 3, size: int = 10) -> None:
        self.write(count, size)
        for _ in range(4):
            self.clock.advance(1)

    def exact(self, *paths: Path) -> None:
        """The files together are the log."""
        self.assertEqual(b"".join(path.read_bytes() for path in paths or (self.path,)), self.lines())


class FileTests(FileCase):
    def test_copy(self) -> None:
        """A copy of the log that nobody else reads."""
        self.add()
        self.add()
        self.exact()
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)

    def test_restart(self) -> None:
        """The next process goes on."""
        self.add()
        self.start()
        self.add()
        self.exact()

    def test_moved(self) -> None:
        """A file that is moved away is followed by a new one; one that is removed too."""
        self.add()
        moved = self.path.with_suffix(".1")
        self.path.rename(moved)
        self.add()
        self.exact(moved, self.path)
        self.path.unlink()
        before = self.lines()
        self.add()
        self.assertEqual(before + self.path.read_bytes(), self.lines())

    def test_copied_and_truncated(self) -> None:
        """logrotate's ``copytruncate``: what follows begins at the beginning."""
        self.add()
        before = self.path.read_bytes()
        os.truncate(self.path, 0)
        self.add()
        self.assertEqual(before + self.path.read_bytes(), self.lines())

    def test_modes(self) -> None:
        """A file that is there already keeps its mode and what it has."""
        self.end()
        self.path.write_bytes(b"somebody's half line")
        self.path.chmod(0o640)
        self.start()
        self.add()
        self.assertEqual(self.path.read_bytes(), b"somebody's half line\n" + self.lines())
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o640)

    def test_refused(self) -> None:
        """What is no plain file is not written to: a link, a pipe, a directory; and one that is not there says so."""
        self.add()
        for make, words in (
            (lambda: os.symlink("/dev/null", self.path), "too many levels of symbolic links"),
            (lambda: os.mkfifo(self.path), "(not a plain file|no such device)"),
            (self.path.mkdir, "(is a directory|not a plain file)"),
        ):
            self.path.unlink(missing_ok=True)
            make()
            self.add(1)
            assert self.delivery is not None
            self.assertRegex(self.delivery.status()["error"], f"^{self.path}: {words}")
        self.path.rmdir()
        self.path = self.out / "nowhere" / "audit.jsonl"
        self.start()
        self.add(1)
        self.assertIn("no such file", self.delivery.status()["error"])

    def test_killed(self) -> None:
        """At each write, sync and move of the cursor, before, within and after: each line once."""
        for point in ("write", "part", "fsync", "rename"):
            for nth in range(1, 5):
                self.killed(point, nth)
                self.start()
                self.add(1)
                self.exact()

    def test_killed_at_first(self) -> None:
        """Also before there ever was a cursor."""
        for point in ("part", "fsync", "rename"):
            self.setUp()
            self.killed(point, 1)
            self.start()
            self.add(1)
            self.exact()

    def killed(self, point: str, nth: int) -> None:
        """A process that ends at the nth time of this."""
        left = [nth]

        def now() -> bool:
            left[0] -= 1
            return left[0] == 0

        def write(fd: int, data: bytes) -> int:
            if point == "write" and now():
                raise Killed
            if point == "part" and now():
                real_write(fd, bytes(data)[: len(data) // 2])
                raise Killed
            return real_write(fd, data)

        def fsync(fd: int) -> None:
            if point == "fsync" and now():
                raise Killed

        def rename(old: Any, new: Any) -> None:
            if point == "rename" and now():
                raise Killed
            real_rename(old, new)

        self.start(dying)
        real_write, real_rename = os.write, os.rename
        target = self.delivery._target  # type: ignore[union-attr]
        for _ in range(nth + 1):
            # The log itself lives on.
            self.write(2, size=200)
            with MonkeyPatcher((os, "write", write), (os, "fsync", fsync), (os, "rename", rename)):
                self.clock.advance(1)
        assert isinstance(target, FileTarget)
        target._close()
        self.delivery._running.cancel()  # type: ignore[union-attr]
        self.delivery = None

    def test_full(self) -> None:
        """A full disk: what was written stays, and is completed when there is room."""
        self.add()
        real, room = os.write, [100]

        def write(fd: int, data: bytes) -> int:
            if fd != self.delivery._target._fd:  # type: ignore[union-attr]
                return real(fd, data)
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = real(fd, bytes(data)[: room[0]])
            room[0] -= written
            return written

        with MonkeyPatcher((os, "write", write)):
            self.add()
            assert self.delivery is not None
            self.assertIn("no space left on device", self.delivery.status()["error"])
            room[0] = 50
            self.clock.advance(60)
        for _ in range(3):
            self.clock.advance(60)
        self.assertEqual(self.delivery.status()["state"], "ok")
        self.exact()

    def test_full_after_rotation(self) -> None:
        """A line that was half written to a new file is completed there."""
        self.add()
        moved = self.path.with_suffix(".1")
        self.path.rename(moved)
        real, calls = os.write, [0]

        def write(fd: int, data: bytes) -> int:
            if fd != self.delivery._target._fd:  # type: ignore[union-attr]
                return real(fd, data)
            calls[0] += 1
            if calls[0] == 1:
                return real(fd, bytes(data)[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

        with MonkeyPatcher((os, "write", write)):
            self.add()
        for _ in range(3):
            self.clock.advance(60)
        self.assertGreater(calls[0], 1)
        self.exact(moved, self.path)

    def test_hard_link(self) -> None:
        """A file with another name is not written to."""
        self.end()
        other = self.out / "other"
        other.write_bytes(b"other\n")
        os.link(other, self.path)
        self.start()
        self.add(1)
        assert self.delivery is not None
        self.assertIn("a hard link", self.delivery.status()["error"])
        self.assertEqual(other.read_bytes(), b"other\n")

    def test_others_write(self) -> None:
        """What somebody else has put behind our lines is neither taken for ours nor joined to them."""
        self.add()
        with open(self.path, "ab") as file:
            file.write(b"half a line of another")
        before = self.path.read_bytes()
        written = self.lines()
        self.add()
        self.assertEqual(self.path.read_bytes(), before + b"\n" + self.lines()[len(written) :])

    def test_cursor(self) -> None:
        """The cursor has the file's own place."""
        self.add()
        kept = Cursor.of(self.directory, "one").load()
        assert kept is not None
        self.assertEqual(kept[1]["size"], self.path.stat().st_size)
