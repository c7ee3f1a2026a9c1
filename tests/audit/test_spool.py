"""What ran is in the spool."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

import teleport_db
from teleport_db.audit.spool import Spool
from teleport_db.errors import AuditUnavailable, ConfigError
from tests.audit.samples import NOW, session

#: Says each number after it has appended it, for as long as it lives.
WRITER = """
import sys
from teleport_db.audit.spool import Spool
spool = Spool(sys.argv[1], segment_bytes=20_000)
while True:
    spool.append([{"n": spool.last + 1, "pad": "x" * 200}])
    sys.stdout.write(f"{spool.last}\\n")
    sys.stdout.flush()
"""


class SpoolCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.open: list[Spool] = []
        self.addCleanup(self.shut)

    def spool(self, **settings: Any) -> Spool:
        """The spool of this test, opened anew."""
        self.shut()
        self.open.append(Spool(self.directory, now=lambda: NOW, **settings))
        return self.open[-1]

    def shut(self) -> None:
        while self.open:
            self.open.pop().close()

    def fill(self, spool: Spool, count: int) -> None:
        for _ in range(count):
            spool.append([{"n": spool.last + 1}])

    def synced(self, spool: Spool) -> Spool:
        spool.end_sync(spool.begin_sync()())
        return spool

    def numbers(self, spool: Spool, after: int = 0) -> list[int]:
        events = spool.read(after, 10_000, max_bytes=1 << 30)
        self.assertEqual([number for number, _ in events], [event["n"] for _, event in events])
        return [number for number, _ in events]

    @property
    def segments(self) -> list[Path]:
        return sorted(self.directory.glob("*.jsonl"))


class QueueTests(SpoolCase):
    """Events go in, come out in order, and are freed."""

    def test_round_trip(self) -> None:
        """What is read is what was appended, each line plain JSON."""
        spool, events = self.spool(), session()
        made = [events.start(NOW), events.query(NOW, b"select '\xff\n'"), {"other": 1}]
        spool.append(made)
        self.assertEqual([event for _, event in self.synced(spool).read(0, 10)], made)
        lines = self.segments[0].read_bytes().splitlines()
        self.assertEqual([json.loads(line)["event"] for line in lines], made)

    def test_limits(self) -> None:
        """A batch is bounded in events and bytes, and never empty when there is something."""
        spool = self.spool()
        spool.append([{"n": spool.last + i + 1, "pad": "x" * 1000} for i in range(10)])
        self.synced(spool)
        self.assertEqual(len(spool.read(0, 3)), 3)
        self.assertEqual(len(spool.read(0, 100, max_bytes=2500)), 2)
        self.assertEqual(len(spool.read(0, 100, max_bytes=1)), 1)
        self.assertEqual(list(spool.read(spool.last, 100)), [])

    def test_torn(self) -> None:
        """A synced record of which a part is gone is said to be damaged, and what is before it can be read."""
        spool = self.spool()
        spool.append([{"n": 1}, {"n": 2}])
        self.synced(spool)
        path = next(spool.directory.glob("*.jsonl"))
        os.truncate(path, path.stat().st_size - 5)
        first = spool.read(0, 10)
        self.assertEqual([event["n"] for _, event in first], [1])
        self.assertRaises(AuditUnavailable, spool.read, first.last, 10)

    def test_only_synced(self) -> None:
        """What the power could take away is not shipped."""
        spool = self.spool()
        self.fill(spool, 3)
        self.assertEqual(list(spool.read(0, 10)), [])
        sync = spool.begin_sync()
        self.fill(spool, 2)
        spool.end_sync(sync())
        self.assertEqual(len(self.numbers(spool)), 3)
        self.assertEqual(len(self.numbers(self.synced(spool))), 5)
        each = self.spool(fsync="write")
        self.fill(each, 1)
        self.assertEqual(len(self.numbers(each)), 6)

    def test_segments(self) -> None:
        """Files follow each other; those that were acknowledged go, and nothing is lost at the seams."""
        for settings in ({"fsync": "interval"}, {"fsync": "write"}):
            spool = self.spool(segment_bytes=300, **settings)
            first = spool.last + 1
            self.fill(spool, 50)
            self.assertGreater(len(self.segments), 3)
            self.synced(spool)
            self.assertEqual(self.numbers(spool, first - 1), list(range(first, first + 50)))
            for after in range(first - 1, first + 50):
                self.assertEqual(self.numbers(spool, after), list(range(after + 1, first + 50)))
            spool.acknowledge(first + 25)
            self.assertEqual(spool.pending, 24)
            self.assertEqual(self.numbers(spool, first + 25), list(range(first + 26, first + 50)))
            self.assertEqual(spool.size, sum(path.stat().st_size for path in self.segments))
            spool.acknowledge(first + 1000)
            self.assertEqual((spool.pending, len(self.segments)), (0, 1))
            self.assertLess(spool.size, 400)

    def test_one(self) -> None:
        """One event alone is written as any other, in the same files, and is as durable."""
        for settings in ({"fsync": "interval"}, {"fsync": "write"}):
            spool = self.spool(segment_bytes=300, **settings)
            first = spool.last + 1
            for number in range(first, first + 40):
                if number % 3:
                    spool.append_one(b'{"n":%d}' % number)
                else:
                    self.fill(spool, 1)
            self.assertEqual(spool.synced == spool.last, spool._each)
            self.assertEqual(self.numbers(self.synced(spool), first - 1), list(range(first, first + 40)))
            self.assertEqual(spool.size, sum(path.stat().st_size for path in self.segments))
            self.assertLess(max(path.stat().st_size for path in self.segments), 400)
            self.assertEqual(self.spool(segment_bytes=300).last, first + 39)

    def test_freed_before_synced(self) -> None:
        """A file that was shipped and freed is not synced any more."""
        spool = self.spool(segment_bytes=100)
        self.fill(spool, 20)
        spool.acknowledge(spool.last - 1)
        self.synced(spool)
        self.assertEqual(self.numbers(spool, spool.last - 1), [spool.last])

    def test_numbers_go_on(self) -> None:
        """No number twice and none left out, also when all files were freed."""
        spool = self.spool(segment_bytes=10)
        self.fill(spool, 5)
        last = spool.last
        spool.acknowledge(last)
        spool = self.spool()
        self.assertEqual((spool.last, spool.pending), (last, 0))
        self.fill(spool, 1)
        self.assertEqual(spool.last, last + 1)
        self.assertEqual(self.numbers(self.synced(spool), spool.acknowledged), [last + 1])

    def test_new_spool(self) -> None:
        """One that was deleted does not come back with numbers of before."""
        first = self.spool().last
        self.assertEqual(first, int(NOW * 1e6) - 1)

    def test_acknowledged(self) -> None:
        """It is known after a restart; where it is not, everything ships again."""
        spool = self.spool()
        self.fill(spool, 5)
        spool.acknowledge(spool.last - 2)
        self.assertEqual(self.spool().pending, 2)
        for garbage in (b"", b"x" * 20, b"99999999999999999999", b"0" * 20):
            self.shut()
            (self.directory / "acknowledged").write_bytes(garbage)
            self.assertIn(self.spool().pending, (5, 0))

    def test_one_process(self) -> None:
        """A second one is told so in words."""
        self.spool()
        with self.assertRaises(ConfigError) as caught:
            Spool(self.directory)
        self.assertIn("another process", str(caught.exception))
        self.assertIn(str(self.directory), str(caught.exception))
        self.spool()

    def test_modes(self) -> None:
        """Nobody else reads what is in it."""
        self.fill(self.spool(), 1)
        self.assertEqual(self.directory.stat().st_mode & 0o777, 0o700)
        for path in self.directory.iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path)
        deep = self.directory / "spool" / "db"
        Spool(deep).close()
        self.assertEqual([path.stat().st_mode & 0o777 for path in (deep, deep.parent)], [0o700, 0o700])


class RecoveryTests(SpoolCase):
    """Its end is found, wherever it was cut."""

    def test_torn_anywhere(self) -> None:
        """A record that is not whole is dropped, and the next takes its number."""
        spool = self.spool()
        self.fill(spool, 3)
        last = spool.last
        self.shut()
        path = self.segments[0]
        data = path.read_bytes()
        begin = data.rindex(b"\n", 0, -1) + 1
        for cut in range(begin, len(data) + 1):
            path.write_bytes(data[:cut])
            spool = self.spool()
            self.assertEqual(spool.last, last if cut == len(data) else last - 1)
            self.fill(spool, 1)
            self.assertEqual(self.numbers(spool := self.synced(spool))[-1], spool.last)
            self.shut()

    def test_zeros_and_garbage(self) -> None:
        """What a crash of the machine may leave is cut off, and kept where it may be evidence."""
        spool = self.spool()
        self.fill(spool, 3)
        last = spool.last
        self.shut()
        path = self.segments[0]
        data = path.read_bytes()
        wrong = b'{"seq":1,"event":{}}\n'
        for tail in (b"\0" * 100, b"{", b"\xff\n", b"[]\n", b"{}\n", wrong, wrong[:10], data[:5] + b"\n" + data):
            path.write_bytes(data + tail)
            self.assertEqual(self.spool().last, last)
            self.shut()
            self.assertEqual(path.read_bytes(), data)
            if b"\n" in tail:
                self.assertTrue((self.directory / f"damaged-{last + 1}").read_bytes().endswith(tail))

    def test_damage_in_the_middle(self) -> None:
        """It is told, not skipped."""
        spool = self.spool(segment_bytes=100)
        self.fill(spool, 20)
        self.synced(spool)
        first = self.segments[0]
        first.write_bytes(b"x" + first.read_bytes()[1:])
        self.assertRaises(AuditUnavailable, spool.read, 0, 10)
        self.segments[2].unlink()
        self.assertRaises(AuditUnavailable, self.numbers, spool, spool._firsts[1])

    def test_killed(self) -> None:
        """kill -9 loses nothing that append returned for."""
        environment = {**os.environ, "PYTHONPATH": str(Path(teleport_db.__file__).parent.parent)}
        said = 0
        for wanted in (1, 7, 60, 300):
            child = subprocess.Popen(
                [sys.executable, "-c", WRITER, self.directory], stdout=subprocess.PIPE, env=environment, text=True
            )
            assert child.stdout is not None
            for _ in range(wanted):
                line = child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            rest = child.communicate()[0].splitlines()
            said = int(rest[-1] if rest and rest[-1].isdigit() and len(rest[-1]) == len(line.strip()) else line)
            spool = self.spool(segment_bytes=20_000)
            self.assertGreaterEqual(spool.last, said)
            numbers = self.numbers(spool)
            self.assertEqual(numbers, list(range(numbers[0], spool.last + 1)))
            self.shut()
        self.assertGreater(len(self.segments), 1)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond: EFBIG, after as much as fits."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class RefusalTests(SpoolCase):
    """No spool, no query."""

    def test_full(self) -> None:
        """A full spool refuses, leaves room for the ends of sessions, and takes more once some was freed."""
        spool = self.spool(max_bytes=40_000)
        event = {"pad": "x" * 500}
        with self.assertRaises(AuditUnavailable) as caught:
            for _ in range(100):
                spool.append([event])
        self.assertIn("full", caught.exception.detail)
        self.assertNotIn("full", str(caught.exception))
        self.assertEqual(caught.exception.sqlstate, "58030")
        self.assertLessEqual(spool.size, 30_000)
        spool.append([event], closing=True)
        with self.assertRaises(AuditUnavailable):
            for _ in range(100):
                spool.append([event], closing=True)
        self.assertLessEqual(spool.size, 40_000)
        self.synced(spool)
        spool.acknowledge(spool.last)
        spool.append([event])

    def test_full_for_one(self) -> None:
        """One event alone is refused as any other, and leaves the same room."""
        spool = self.spool(max_bytes=40_000)
        one = b'{"pad":"%b"}' % (b"x" * 500)
        with self.assertRaises(AuditUnavailable):
            for _ in range(100):
                spool.append_one(one)
        self.assertLessEqual(spool.size, 30_000)
        self.assertGreater(spool.size, 29_000)
        spool.append([one], closing=True)
        self.assertRaises(AuditUnavailable, spool.append_one, one)
        self.synced(spool)
        spool.acknowledge(spool.last)
        spool.append_one(one)
        last = spool.last
        with file_size_limit(100):
            self.assertRaises(AuditUnavailable, spool.append_one, one)
        spool.append_one(one)
        self.assertEqual(spool.last, last + 1)
        spool.failed(OSError(5, "Input/output error"))
        with self.assertRaises(AuditUnavailable) as caught:
            spool.append_one(one)
        self.assertIn("cannot be trusted", caught.exception.detail)

    def test_partial_write(self) -> None:
        """Half a record is cut off again, and the next follows the last whole one."""
        spool = self.spool()
        self.fill(spool, 2)
        last = spool.last
        with file_size_limit(spool.size + 10):
            for _ in range(2):
                self.assertRaises(AuditUnavailable, self.fill, spool, 1)
        self.assertEqual(spool.last, last)
        self.fill(spool, 1)
        self.assertEqual(len(self.numbers(self.synced(spool))), 3)
        self.assertEqual(len(self.numbers(self.spool())), 3)

    def test_bad_descriptor(self) -> None:
        """EBADF ends the session; the spool finds its file again, and never writes to another's."""
        spool = self.spool()
        self.fill(spool, 1)
        fd = spool._file._fd
        os.close(fd)
        self.assertRaises(AuditUnavailable, self.fill, spool, 1)
        self.fill(spool, 1)
        self.assertEqual(len(self.numbers(self.synced(spool))), 2)

    def test_input_output_error(self) -> None:
        """EIO of a write, and of what would repair it."""
        spool = self.spool()
        self.fill(spool, 1)

        def broken(*args: object) -> int:
            raise OSError(5, "Input/output error")

        with MonkeyPatcher((os, "write", broken), (os, "ftruncate", broken)):
            self.assertRaises(AuditUnavailable, self.fill, spool, 1)
            self.assertRaises(AuditUnavailable, self.fill, spool, 1)
        self.fill(spool, 1)
        self.assertEqual(len(self.numbers(self.synced(spool))), 2)

    def test_failed_sync(self) -> None:
        """After a failed fsync nobody knows what is on the disk."""
        spool = self.spool(fsync="write")

        def broken(fd: int) -> None:
            raise OSError(5, "Input/output error")

        with MonkeyPatcher((os, "fsync", broken)):
            self.assertRaises(AuditUnavailable, self.fill, spool, 1)
        self.assertRaises(AuditUnavailable, self.fill, spool, 1)
        self.assertEqual(list(spool.read(0, 10)), [])
        self.assertEqual(self.spool().pending, 1)

    def test_directory_gone(self) -> None:
        """When there is no room for another file, the one that is full stays the last."""
        spool = self.spool(segment_bytes=10)
        self.fill(spool, 1)
        self.directory.rename(f"{self.directory}-gone")
        self.assertRaises(AuditUnavailable, self.fill, spool, 1)
        Path(f"{self.directory}-gone").rename(self.directory)
        self.fill(spool, 1)
        self.assertEqual(len(self.numbers(self.synced(spool))), 2)

    def test_disk_full(self) -> None:
        """ENOSPC of a real file system, and what comes after there is room again."""
        self.directory.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", self.directory], capture_output=True, check=False
        )
        if mounted.returncode:
            raise unittest.SkipTest("mounting a tmpfs takes root")
        try:
            spool = self.spool()
            with self.assertRaises(AuditUnavailable) as caught:
                for _ in range(1000):
                    spool.append([{"n": spool.last + 1, "pad": "x" * 300}])
            self.assertIn("No space", caught.exception.detail)
            written = len(self.numbers(self.synced(spool)))
            self.assertGreater(written, 50)
            with self.assertRaises(AuditUnavailable):
                spool.append([{"n": spool.last + 1, "pad": "x" * 5000}])
            subprocess.run(["mount", "-o", "remount,size=1m", self.directory], check=True)
            self.fill(spool, 1)
            self.assertEqual(len(self.numbers(self.synced(spool))), written + 1)
        finally:
            self.shut()
            subprocess.run(["umount", "-l", self.directory], check=True)
