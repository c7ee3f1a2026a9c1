"""Rotation, packing, retention, checkpoints: killed at any point, the log verifies and goes on."""

from __future__ import annotations

import errno
import gzip
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

import teleport_db
from teleport_db.audit import blocks, logfile, packing
from teleport_db.audit.blocks import BlockFile, DamagedFile
from teleport_db.audit.checkpoints import key_files
from teleport_db.audit.housekeeping import RETENTION, remove
from teleport_db.audit.log import CHECKPOINT_SECONDS, LOOK_SECONDS, AuditLog
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.pace import FEW, GATHER, QUIET, Growth
from teleport_db.audit.packing import Packing
from teleport_db.audit.query import Query
from teleport_db.audit.verifying import verify
from teleport_db.config.model import AuditFiles
from teleport_db.errors import AuditUnavailable
from tests.audit.samples import pack
from tests.audit.test_log import DAY, LogCase, Thread

#: Small files, each packed, and the oldest removed.
KEEPING = AuditFiles(max_file=2000, retention=3 * DAY, compress=True)
SHORT = AuditFiles(max_file=2000, retention=DAY, compress=True)

#: Writes, rotates, packs and removes for as long as it lives; killed at its argument's point.
WRITER = """
import os, signal, sys
from twisted.internet.task import Clock
from teleport_db.audit.log import AuditLog
from teleport_db.config.model import AuditFiles
directory, wanted, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
def at(name):
    global times
    if name == wanted:
        times -= 1
        if not times:
            os.kill(os.getpid(), signal.SIGKILL)
clock = Clock()
clock.advance(1764000000)
log = AuditLog(directory, clock=clock, keeping=AuditFiles(max_file=2000, retention=86400), at=at)
number = log._state.last.get("host", 0)
clock.advance(3600 * number)
log.start()
while True:
    number += 1
    clock.advance(3600)
    log.receive("host", [(number, {"n": number, "pad": "x" * 300})]).addCallback(
        lambda ack: (sys.stdout.write(f"{ack}\\n"), sys.stdout.flush())
    )
"""

POINTS = (
    *("key made", "written", "synced", "key overwritten", "file made"),
    *("packed", "renamed", "retention recorded", "file removed"),
)


class Crash(BaseException):
    """Ends what is done where it stands."""


class Crasher:
    """Raises at the nth time that a point is passed, and from then on: who is dead does not pass it."""

    def __init__(self, point: str, times: int) -> None:
        self.point, self.times = point, times

    def __call__(self, name: str) -> None:
        if name == self.point:
            self.times = max(0, self.times - 1)
            if not self.times:
                raise Crash(name)


def until_crash(function: Callable[[], Any]) -> Deferred[Any]:
    """A thread that is never heard of again once what it does has crashed."""
    try:
        return succeed(function())
    except Crash:
        return Deferred()
    except Exception:
        return fail()


class KeepingCase(LogCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(os, "fsync", lambda fd: None)  # what is killed here is never more than a process

    def write(self, log: AuditLog, count: int, *, step: float = 3600, first: int = 1) -> None:
        for number in range(first, first + count):
            self.clock.advance(step)
            self.successResultOf(log.receive("host", [(number, {"n": number, "time": "x", "pad": "x" * 300})]))

    def numbers(self, log: AuditLog) -> list[int]:
        """Of the source's events that are there, oldest first."""
        return [number for number in reversed(self.all(log, limit=10_000)) if isinstance(number, int)]


class CheckpointTests(KeepingCase):
    """When there is one, and which keys there are."""

    def checkpoints(self) -> int:
        return self.whole().checkpoints

    def test_time(self) -> None:
        """A minute after what was written; none while nothing is."""
        log = self.log()
        log.emit([{"n": 1}])
        self.assertEqual((self.checkpoints(), self.whole().unsigned), (1, 1))
        self.clock.advance(CHECKPOINT_SECONDS)
        self.assertEqual((self.checkpoints(), self.whole().unsigned), (2, 0))
        self.clock.advance(10 * CHECKPOINT_SECONDS)
        self.assertEqual(self.checkpoints(), 2)

    def test_count(self) -> None:
        """After so many lines."""
        log = self.log()
        log.receive("host", [(number, {"n": number}) for number in range(1, 25_001)])
        log.receive("host", [(25_001, {})])
        self.assertEqual((self.checkpoints(), self.whole().unsigned), (2, 0))

    def test_asked(self) -> None:
        """One that vouches for all there is; no second one for the same."""
        log = self.log()
        self.assertIsNone(self.successResultOf(log.checkpoint()))
        log.emit([{"n": 1}])
        first = self.successResultOf(log.checkpoint())
        assert first is not None
        self.assertEqual((first.number, first.count, self.successResultOf(log.checkpoint())), (2, 2, first))

    def test_keys(self) -> None:
        """One key, the next checkpoint's, which nobody else can read; that of the last is gone."""
        log = self.log()
        seeds = set()
        for number in range(1, 5):
            log.emit([{"n": number}])
            self.successResultOf(log.checkpoint())
            (known,) = key_files(self.directory / "keys")
            self.assertEqual(known[0], log.position.checkpoint.number + 1)  # type: ignore[union-attr]
            self.assertEqual(known[1].stat().st_mode & 0o777, 0o600)
            seeds.add(known[1].read_bytes())
        self.assertEqual(len(seeds), 4)

    def test_lost_key(self) -> None:
        """The log goes on, and verifying says what happened."""
        self.log().emit([{"n": 1}])
        self.shut()
        for _, path in key_files(self.directory / "keys"):
            path.unlink()
        log = self.log()
        log.emit([{"n": 2}])
        self.successResultOf(log.checkpoint())
        finding = verify(self.directory).finding
        assert finding is not None
        self.assertIn("the key was lost", finding.what)

    def test_failed_write(self) -> None:
        """A checkpoint that could not be written is made again, with the same keys."""
        log = self.log()
        for name in ("write", "fsync"):

            def broken(*args: object) -> int:
                raise OSError(28, "No space left on device")

            log.emit([{"n": 1}])
            with MonkeyPatcher((os, name, broken)):
                self.failureResultOf(log.checkpoint(), AuditUnavailable)
            self.flushLoggedErrors(OSError)
            log.emit([{"n": 2}])
            self.successResultOf(log.checkpoint())
            self.whole()


class RotationTests(KeepingCase):
    """Files follow each other."""

    def test_size(self) -> None:
        """The next file when one is full; the chain goes on through them, after a restart too."""
        log = self.log(keeping=AuditFiles(max_file=2000))
        self.write(log, 20, step=1)
        log = self.log(keeping=AuditFiles(max_file=2000))
        self.write(log, 5, step=1, first=21)
        names = [file.name for file in logfile.files(self.directory)]
        self.assertEqual(names[:2], ["2025-11-24.jsonl", "2025-11-24.0002.jsonl"])
        self.assertGreater(len(names), 5)
        self.assertEqual(self.numbers(log), list(range(1, 26)))
        self.assertEqual(self.whole().events, 25)

    def test_failed(self) -> None:
        """A next file that cannot be begun leaves the one there is."""
        log = self.log(keeping=AuditFiles(max_file=1000))
        self.write(log, 3, step=1)
        before = logfile.files(self.directory)

        def broken(*args: object) -> int:
            raise OSError(28, "No space left on device")

        with MonkeyPatcher((os, "write", broken)):
            self.failureResultOf(log.receive("host", [(4, {"n": 4})]), AuditUnavailable)
        self.flushLoggedErrors(OSError)
        self.assertEqual(logfile.files(self.directory), before)
        self.write(log, 3, step=1, first=4)
        self.assertEqual(self.whole().events, 6)

    def test_packed(self) -> None:
        """Closed files are packed; gzip reads them, and so do verifying, searching and starting anew."""
        log = self.log(keeping=AuditFiles(max_file=2000, compress=True))
        log.start()
        self.write(log, 30, step=1)
        plain = sorted(path.name for path in self.directory.glob("*.jsonl"))
        packed = sorted(self.directory.glob("*.jsonl.gz"))
        self.assertEqual(len(plain), 1)
        self.assertGreater(len(packed), 4)
        for path in packed:
            self.assertTrue(gzip.decompress(path.read_bytes()).endswith(b'"}\n'))
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        (self.directory / "state.json").unlink(missing_ok=True)
        self.crash()
        log = self.log(keeping=AuditFiles(max_file=2000))
        self.assertEqual(self.numbers(log), list(range(1, 31)))
        self.assertEqual(self.successResultOf(log.receive("host", [(30, {"n": 30})])), 30)
        self.assertEqual(self.whole().events, 30)

    def test_retention(self) -> None:
        """What is too old goes, at most an hour late; the rest verifies, and the log says what it did."""
        log = self.log(keeping=KEEPING)
        log.start()
        self.write(log, 200)
        report = self.whole()
        self.assertGreater(report.begins, 50)
        there = self.numbers(log)
        self.assertEqual(there, list(range(there[0], 201)))
        self.assertLess(200 - there[0], 24 * 3 + 12)
        said = self.successResultOf(log.search(Query(event=RETENTION), limit=1)).events[0]
        self.assertEqual((said["code"], said["count"]), ("TAL00I", report.begins))
        self.clock.advance(30 * DAY)
        self.clock.advance(LOOK_SECONDS)
        self.assertLessEqual(len(logfile.files(self.directory)), 2)
        events = self.whole().events
        for _ in range(10):
            self.clock.advance(LOOK_SECONDS)
        self.assertEqual(self.whole().events, events)
        log = self.log(keeping=KEEPING)
        self.write(log, 5, first=201)
        self.whole()

    def test_not_retention(self) -> None:
        """Files that somebody else removed are missing."""
        log = self.log(keeping=KEEPING)
        log.start()
        self.write(log, 100)
        file = logfile.files(self.directory)[0]
        (self.directory / file.packed_name).unlink()
        finding = verify(self.directory).finding
        assert finding is not None
        self.assertIn("no retention record", finding.what)

    def test_record_of_retention(self) -> None:
        """The record that says what was removed: changed, taken out, or made for other files."""
        log = self.log(keeping=KEEPING)
        log.start()
        self.write(log, 100)
        self.shut()
        self.assertIsNone(verify(self.directory).finding)
        for file in logfile.files(self.directory):
            lines = list(file.lines(self.directory))
            at = [number for number, line in enumerate(lines) if b'"audit.retention"' in line]
            packed = (self.directory / file.packed_name).exists()
            for number in at:
                for changed in (lines[number].replace(b'"count":', b'"count":1', 1), b""):
                    copy = Path(self.mktemp())
                    shutil.copytree(self.directory, copy)
                    (copy / file.packed_name).unlink(missing_ok=True)
                    (copy / file.name).write_bytes(b"".join([*lines[:number], changed, *lines[number + 1 :]]))
                    finding = verify(copy).finding
                    assert finding is not None
                    self.assertEqual(finding.file, file.name, packed)
                    self.assertIn(finding.line, (number + 1, number + 2))

    def test_older_checkpoint(self) -> None:
        """One that was kept of what is removed by now cannot be compared, and that is said."""
        log = self.log(keeping=KEEPING)
        log.start()
        self.write(log, 3)
        old = self.successResultOf(log.checkpoint())
        self.write(log, 150, first=4)
        new = self.successResultOf(log.checkpoint())
        assert old is not None
        assert new is not None
        self.assertIsNone(verify(self.directory, kept=[new]).finding)
        finding = verify(self.directory, kept=[old, new]).finding
        assert finding is not None
        self.assertIn("nothing to compare", finding.what)


class PackingTests(LogCase):
    """The pace of packing, and who may come in between."""

    def begun(self, *, files: int = 3) -> tuple[Packing, Growth, Thread, list[float]]:
        """Packing of closed files of ten members each, its thread, and its rests as multiples of the work."""
        self.directory.mkdir()
        for number in range(1, files + 2):
            (self.directory / LogFile("2025-11-24", number).name).write_bytes(b"x" * (blocks.BLOCK * 10))
        growth, thread, rests, ticks = Growth(self.clock), Thread(), [], itertools.count()
        packing = Packing(
            self.directory,
            growth=growth,
            clock=self.clock,
            in_thread=thread,
            elapsed=lambda: next(ticks) / 1000,
            used=None,
        )
        packing._work.wait = lambda seconds: rests.append(round(seconds * 1000, 1))
        packing.notify()
        self.clock.advance(GATHER)
        return packing, growth, thread, rests

    def left(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def finish(self, thread: Thread) -> None:
        while thread.work:
            thread.step()
            self.clock.advance(0)

    def test_growing(self) -> None:
        """While the log grows there is a rest behind each member, 99 times as long."""
        _, growth, thread, rests = self.begun()
        growth.add(FEW)
        self.finish(thread)
        self.assertEqual(len(rests), 33)
        self.assertTrue(all(98 < rest <= 99 for rest in rests), rests)
        self.assertEqual(len([name for name in self.left() if name.endswith(".gz")]), 3)
        self.assertEqual(len(self.left()), 4)

    def test_much(self) -> None:
        """The more waits, the shorter; too much, and there is none."""
        self.patch(packing, "MOST", 30 * blocks.BLOCK)
        _, growth, thread, rests = self.begun(files=4)
        growth.add(FEW)
        self.finish(thread)
        self.assertEqual(rests, [33.0] * 11 + [66.0] * 11 + [99.0] * 11)  # none while three wait behind the first
        self.assertEqual(len(self.left()), 5)

    def test_quiet(self) -> None:
        """Else there is none."""
        _, growth, thread, rests = self.begun()
        growth.add(FEW)
        self.clock.advance(QUIET)
        self.finish(thread)
        self.assertEqual((rests, len(self.left())), ([], 4))

    def test_urgent(self) -> None:
        """Who needs the thread has it behind the member under way; then the packing goes on where it was."""
        packing, growth, thread, rests = self.begun(files=1)
        growth.add(FEW)
        told: list[str] = []

        def wait(seconds: float) -> None:
            rests.append(seconds)
            if len(rests) == 3:
                packing.urgent(lambda: told.append("done"))

        packing._work.wait = wait
        thread.step()
        self.assertEqual((len(rests), told), (3, []))
        thread.step()
        self.assertEqual(told, ["done"])
        self.clock.advance(0)
        self.finish(thread)
        self.assertEqual(len(rests), 11)
        self.assertEqual(self.left(), ["2025-11-24.0002.jsonl", "2025-11-24.jsonl.gz"])

    def test_removed(self) -> None:
        """A file that retention removes while it is being packed does not come back."""
        packing, growth, thread, rests = self.begun(files=2)
        growth.add(FEW)
        packing._work.wait = lambda seconds: packing._work._hurry.set()
        thread.step()
        self.assertIn(".2025-11-24.jsonl.gz.tmp", self.left())
        remove(self.directory, (LogFile("2025-11-24"),))
        packing._work._hurry.clear()
        packing._work.wait = rests.append
        self.clock.advance(0)
        self.finish(thread)
        self.assertEqual(self.left(), ["2025-11-24.0002.jsonl.gz", "2025-11-24.0003.jsonl"])

    def test_stopped(self) -> None:
        """Closing does not wait for a file: what is begun is given up, the plain one stays, another start packs it."""
        packing, growth, thread, _ = self.begun(files=1)
        growth.add(FEW)
        stopped: list[Any] = []
        packing._work.wait = lambda seconds: stopped or stopped.append(packing.stop())
        thread.step()
        thread.finish()
        self.successResultOf(stopped[0])
        self.clock.advance(10)
        self.assertEqual((thread.work, self.left()), ([], ["2025-11-24.0002.jsonl", "2025-11-24.jsonl"]))
        self.assertEqual((self.directory / "2025-11-24.jsonl").stat().st_size, blocks.BLOCK * 10)

    def test_failing(self) -> None:
        """A disk that is full, at any member or at the end: the plain file stays, and the next look packs it."""
        for times in range(1, 12):
            self.directory = Path(self.mktemp())
            packing, _, thread, _ = self.begun(files=1)
            left = times

            def member(content: bytes, real: Callable[[bytes], bytes] = blocks.member) -> bytes:
                nonlocal left
                left -= 1
                if not left:
                    raise OSError(errno.ENOSPC, "full")
                return real(content)

            def no_sync(fd: int) -> None:
                raise OSError(errno.ENOSPC, "full")

            broken = MonkeyPatcher((blocks, "member", member), *([(os, "fsync", no_sync)] if times > 10 else []))
            broken.runWithPatches(self.finish, thread)
            self.assertEqual(len(self.flushLoggedErrors(OSError)), 1, times)
            self.assertEqual(self.left(), ["2025-11-24.0002.jsonl", "2025-11-24.jsonl"])
            packing.notify()
            self.clock.advance(GATHER)
            self.finish(thread)
            self.assertEqual(self.left(), ["2025-11-24.0002.jsonl", "2025-11-24.jsonl.gz"])


class CrashTests(KeepingCase):
    """At each named point."""

    def test_points(self) -> None:
        """In memory, the first times that each is passed."""
        for point in POINTS:
            for times in (1, 3):
                self.directory = Path(self.mktemp())
                crasher = Crasher(point, times)
                log = self.log(until_crash, keeping=SHORT, at=crasher, pack_thread=until_crash)
                acknowledged = 0
                log.start()
                for number in range(1, 300):
                    self.clock.advance(3600)
                    done = log.receive("host", [(number, {"n": number, "pad": "x" * 300})])
                    if done.called:
                        acknowledged = self.successResultOf(done)
                    if not crasher.times:
                        break
                self.flushLoggedErrors(Crash)
                self.assertEqual(crasher.times, 0, (point, times))
                self.opened = log
                self.crash()
                self.assertIsNone(verify(self.directory).finding, (point, times))
                log = self.log(keeping=SHORT)
                log.start()
                last = log._state.last.get("host", 0)
                self.assertIn(last, (acknowledged, acknowledged + 1), (point, times))
                self.write(log, 10, first=last + 1)
                there = self.numbers(log)
                self.assertEqual(there, list(range(there[0], last + 11)), (point, times))
                self.assertIsNone(verify(self.directory).finding, (point, times))

    def test_killed(self) -> None:
        """A process that is killed -9 at each point in turn, on one log."""
        environment = {**os.environ, "PYTHONPATH": str(Path(teleport_db.__file__).parent.parent)}
        said = 0
        for point in POINTS:
            child = subprocess.run(
                [sys.executable, "-c", WRITER, self.directory, point, "3"],
                capture_output=True,
                env=environment,
                text=True,
                timeout=60,
                check=False,
            )
            self.assertEqual(child.returncode, -signal.SIGKILL, child.stderr)
            said = max([said, *map(int, child.stdout.split())])
            report = verify(self.directory)
            self.assertIsNone(report.finding, point)
            log = self.log()
            there = self.numbers(log)
            self.assertEqual(there, list(range(there[0], there[-1] + 1)))
            self.assertGreaterEqual(there[-1], said)
            self.crash()


class BlockTests(SynchronousTestCase):
    """Files that are packed in members."""

    def test_any_place(self) -> None:
        """Any range is what it was, gzip agrees, and a change is seen."""
        source = random.Random(7)
        self.patch(blocks, "BLOCK", 64)
        for size in (0, 1, 63, 64, 65, 127, 128, 1000):
            plain, packed = Path(self.mktemp()), Path(self.mktemp())
            content = source.randbytes(size // 2) + b"a" * (size - size // 2)
            plain.write_bytes(content)
            pack(plain, packed)
            if size:
                self.assertEqual(gzip.decompress(packed.read_bytes()), content)
            file = BlockFile(packed)
            self.addCleanup(file.close)
            self.assertEqual((file.size, b"".join(file.pieces())), (size, content))
            for _ in range(50):
                begin, length = source.randrange(size + 10), source.randrange(size + 10)
                self.assertEqual(file.read(begin, length), content[begin : begin + length])
                self.assertEqual(b"".join(file.pieces(begin)), content[begin:])

    def test_damaged(self) -> None:
        """Cut anywhere, it is refused."""
        plain, packed = Path(self.mktemp()), Path(self.mktemp())
        plain.write_bytes(b"abc\n" * 100)
        pack(plain, packed)
        data = packed.read_bytes()
        for cut in range(1, len(data)):
            packed.write_bytes(data[:cut])
            self.assertRaises(DamagedFile, BlockFile, packed)
