"""Whatever is done to the log's files is found, and the first bad event is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit import logfile
from teleport_db.audit.checkpoints import Checkpoint, SigningKeys, read_checkpoint, read_kept
from teleport_db.audit.events import make_event
from teleport_db.audit.log import AuditLog
from teleport_db.audit.recovery import STATE
from teleport_db.audit.verifying import Finding, Report, verify
from teleport_db.audit.writing import TIP
from teleport_db.config.model import AuditFiles
from teleport_db.errors import ConfigError, NotFound
from tests.audit.samples import NOW, pack

EVENTS = 40


class TamperCase(SynchronousTestCase):
    """A log of some files, two of them packed, with checkpoints between; each test has a copy."""

    def setUp(self) -> None:
        self.whole = Path(self.mktemp())
        self.kept: list[Checkpoint] = []
        clock = Clock()
        clock.advance(NOW)
        log = AuditLog(self.whole, clock=clock, keeping=AuditFiles(max_file=3000))
        for number in range(EVENTS):
            event = make_event("user.login", uid=f"u{number}", time=clock.seconds(), cluster_name="root", pad="x" * 100)
            self.successResultOf(log.receive("host", [(number + 1, event)]))
            if number % 7 == 3:
                kept = self.successResultOf(log.checkpoint())
                assert kept is not None
                self.kept.append(kept)
            clock.advance(1)
        self.successResultOf(log.search(limit=1))
        self.successResultOf(log.close())
        self.files = logfile.files(self.whole)
        self.assertGreater(len(self.files), 4)
        for file in self.files[:2]:
            pack(self.whole / file.name, self.whole / file.packed_name)
            (self.whole / file.name).unlink()
        self.assertIsNone(verify(self.whole, kept=self.kept).finding)
        self.plain = self.files[2]

    def changed(self, change: Callable[[Path], object], *, witnesses: bool = True, keys: bool = True) -> Path:
        """A copy of the log, with a change.

        :param witnesses: the state and the tip are left; ``keys``: the key is.
        """
        copy = Path(self.mktemp())
        shutil.copytree(self.whole, copy)
        change(copy)
        if not witnesses:
            (copy / STATE).unlink()
            (copy / TIP).unlink()
        if not keys:
            shutil.rmtree(copy / "keys")
        return copy

    def found(self, change: Callable[[Path], object], **more: bool) -> Finding:
        """What verifying finds in a copy with a change."""
        finding = verify(self.changed(change, **more)).finding
        assert finding is not None
        return finding

    def lines(self, directory: Path, file: logfile.LogFile) -> list[bytes]:
        return list(file.lines(directory))

    def write(self, directory: Path, file: logfile.LogFile, lines: list[bytes]) -> None:
        if (directory / file.name).exists():
            (directory / file.name).write_bytes(b"".join(lines))
        else:
            (directory / "plain").write_bytes(b"".join(lines))
            pack(directory / "plain", directory / file.packed_name)
            (directory / "plain").unlink()

    def edit(self, file: logfile.LogFile, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
        return lambda directory: self.write(directory, file, change(self.lines(directory, file)))


def swapped(lines: list[bytes], one: int, other: int) -> list[bytes]:
    lines[one], lines[other] = lines[other], lines[one]
    return lines


class LineTests(TamperCase):
    """Each line of each kind of file."""

    def each(self, change: Callable[[list[bytes], int], list[bytes]]) -> None:
        """The change of any line is found at that line, or where it stood."""
        for file in (self.files[0], self.plain, self.files[-1]):
            lines = self.lines(self.whole, file)
            for number in range(len(lines)):
                if file == self.files[-1] and number == len(lines) - 1:
                    continue  # the very end has tests of its own
                finding = self.found(self.edit(file, lambda lines, number=number: change(lines, number)))  # type: ignore[misc]
                last = self.files[-1] == file
                self.assertIn(
                    finding.file, (file.name, self.files[min(self.files.index(file) + 1, len(self.files) - 1)].name)
                )
                if finding.file == file.name:
                    self.assertIn(finding.line, (number + 1, number + 2))
                else:
                    self.assertEqual((finding.line, number, last), (1, len(lines) - 1, False))

    def test_edited(self) -> None:
        """A byte of the content, which is still JSON."""

        def change(lines: list[bytes], number: int) -> list[bytes]:
            lines[number] = lines[number].replace(b"2025-", b"2024-", 1)
            return lines

        self.each(change)

    def test_any_bit(self) -> None:
        """Any bit of an event's line and of a checkpoint's; the line is named."""
        lines = self.lines(self.whole, self.plain)
        for number in (0, 2):
            for at in range(0, len(lines[number]), 7):
                line = bytearray(lines[number])
                line[at] ^= 1 << at % 8
                flipped = [*lines[:number], bytes(line), *lines[number + 1 :]]
                finding = self.found(self.edit(self.plain, lambda lines, flipped=flipped: flipped))  # type: ignore[misc]
                self.assertEqual(finding.file, self.plain.name)
                self.assertIn(finding.line, (number + 1, number + 2))

    def test_named(self) -> None:
        """The file, the line, the event's uid and time."""
        lines = self.lines(self.whole, self.plain)
        record = logfile.record(lines[2])
        assert record is not None
        finding = self.found(
            self.edit(
                self.plain,
                lambda lines: [*lines[:2], lines[2].replace(b"user.login", b"user.delete"), *lines[3:]],
            )
        )
        self.assertEqual((finding.file, finding.line, finding.uid), (self.plain.name, 3, record["event"]["uid"]))
        self.assertIn(record["event"]["uid"], str(finding))
        self.assertIn(f"{self.plain.name}:3", str(finding))

    def test_removed(self) -> None:
        self.each(lambda lines, number: lines[:number] + lines[number + 1 :])

    def test_doubled(self) -> None:
        self.each(lambda lines, number: [*lines[: number + 1], *lines[number:]])

    def test_moved(self) -> None:
        self.each(lambda lines, number: swapped(lines, number, number + 1) if lines[number + 1 :] else lines[:-1])

    def test_added(self) -> None:
        """Also a line that is nothing."""
        for added in (b"\n", b"{}\n", b"x", b'{"checkpoint":{}}\n', b'{"checkpoint":{}}'):
            self.each(lambda lines, number, added=added: [*lines[:number], added, *lines[number:]])  # type: ignore[misc]


class CutTests(TamperCase):
    """Ends, and whole files."""

    def test_files(self) -> None:
        """Each one removed, emptied, or changed with another."""
        for file in self.files:
            path = file.packed_name if (self.whole / file.packed_name).exists() else file.name
            self.found(lambda directory, path=path: (directory / path).unlink())  # type: ignore[misc]
            self.found(self.edit(file, lambda lines: []))
        for one, other in zip(self.files, self.files[1:], strict=False):
            both = (self.lines(self.whole, one), self.lines(self.whole, other))

            def swap(directory: Path, one: Any = one, other: Any = other, both: Any = both) -> None:
                self.write(directory, one, both[1])
                self.write(directory, other, both[0])

            finding = self.found(swap)
            self.assertIn((finding.file, finding.line), [(one.name, 1), (other.name, 1)])

    def test_last_lines(self) -> None:
        """The state, the tip, or the key know that there was more; each of them alone."""
        file = self.files[-1]
        for count in range(1, 4):
            cut = self.edit(file, lambda lines, count=count: lines[:-count])  # type: ignore[misc]
            self.assertIn("cut off", self.found(cut).what)
            self.assertIn("key", self.found(cut, witnesses=False).what)
            self.assertIn("cut off", self.found(cut, keys=False).what)
            copy = self.changed(cut, witnesses=False, keys=False)
            self.assertIsNone(verify(copy).finding)  # nobody knows here, but who kept a checkpoint does
            newest = verify(self.whole).newest
            assert newest is not None
            elsewhere = verify(copy, kept=[newest]).finding
            assert elsewhere is not None
            self.assertIn("kept elsewhere", elsewhere.what)

    def test_a_checkpoint(self) -> None:
        """Cutting one out of the middle, and making all lines behind it follow again."""
        file = self.plain
        at = next(n for n, line in enumerate(self.lines(self.whole, file)) if n and read_checkpoint(line))

        def change(directory: Path) -> None:
            lines = self.lines(directory, file)
            previous = self.chain(lines[at - 1])
            self.write(directory, file, lines[:at] + self.chained(lines[at + 1 :], previous))

        finding = self.found(change)
        self.assertEqual((finding.file, finding.line), (self.files[3].name, 1))

    def test_all(self) -> None:
        """All files, and the whole directory."""

        def change(directory: Path) -> None:
            for file in self.files:
                for name in (file.name, file.packed_name):
                    (directory / name).unlink(missing_ok=True)

        self.found(change)
        empty = self.changed(change, witnesses=False, keys=False)
        self.assertRaises(NotFound, verify, empty)
        self.assertIsNotNone(verify(empty, kept=self.kept).finding)

    def test_packed(self) -> None:
        """Any byte of a packed file; its file is named."""
        name = self.files[1].packed_name
        size = (self.whole / name).stat().st_size
        for at in range(0, size, 97):

            def flip(directory: Path, at: int = at) -> None:
                data = bytearray((directory / name).read_bytes())
                data[at] ^= 0x10
                (directory / name).write_bytes(bytes(data))

            copy = self.changed(flip)
            finding = verify(copy).finding
            if finding is None:  # of gzip's header: the operating system, the time
                self.assertEqual(self.lines(copy, self.files[1]), self.lines(self.whole, self.files[1]))
                self.assertLess(at, 10)
            else:
                self.assertEqual(finding.file, self.files[1].name)
        self.found(lambda directory: (directory / name).write_bytes((self.whole / name).read_bytes()[: size // 2]))

    @staticmethod
    def chain(line: bytes) -> str:
        return str(json.loads(line)["chain"])

    @staticmethod
    def chained(lines: list[bytes], chain: str) -> list[bytes]:
        """Lines as somebody who knows the form would make them follow."""
        made = []
        for line in lines:
            body = line.rpartition(b',"chain":"')[0]
            chain = hashlib.sha256(chain.encode() + body).hexdigest()
            made.append(body + f',"chain":"{chain}"}}\n'.encode())
        return made


class RootTests(TamperCase):
    """Who may write all files, and knows the program."""

    def rewritten(self, directory: Path, *, sign: bool) -> None:
        """The log without its fifth event, all that follows made anew, up to the last line."""
        keys = None
        chain, count = "", 0
        for file in self.files:
            made = []
            for line in self.lines(directory, file):
                checkpoint = read_checkpoint(line)
                if b'"uid":"u5"' in line:
                    continue
                if checkpoint is not None and sign:
                    if keys is None:
                        (directory / "forged").mkdir()
                        keys = SigningKeys(directory / "forged" / "keys", None)
                    forged, chain = keys.checkpoint(count, chain, NOW)
                    keys.advance()
                    made.append(forged.line)
                else:
                    (text,) = CutTests.chained([line], chain)
                    chain = CutTests.chain(text)
                    made.append(text)
                count += 1
            self.write(directory, file, made)
        if keys is not None:
            shutil.rmtree(directory / "keys")
            shutil.move(directory / "forged" / "keys", directory / "keys")

    def test_chained_anew(self) -> None:
        """No key of before is left, so the next checkpoint does not fit, and says between which lines it was."""
        finding = self.found(lambda directory: self.rewritten(directory, sign=False), witnesses=False)
        self.assertIn("line", finding.what)
        self.assertLess(self.files.index(logfile.named(finding.file)), 2)  # type: ignore[arg-type]

    def test_signed_anew(self) -> None:
        """Signed from the beginning by other keys, it shows against any checkpoint that was kept elsewhere."""
        copy = self.changed(lambda directory: self.rewritten(directory, sign=True), witnesses=False)
        self.assertIsNone(verify(copy).finding)  # what the documentation says of a live root
        for kept in self.kept:
            finding = verify(copy, kept=[kept]).finding
            assert finding is not None
            self.assertIn("kept elsewhere", finding.what)

    def test_signed_from_now_on(self) -> None:
        """The key there is signs what comes, and nothing that was."""
        (key,) = (self.whole / "keys").glob("*.key")
        newest = verify(self.whole).newest
        assert newest is not None
        keys = SigningKeys(self.whole / "keys", newest)
        self.assertEqual(keys.number, int(key.stem))
        forged, _ = keys.checkpoint(self.kept[0].count, self.kept[0].previous, NOW)
        self.assertNotEqual(forged.key, self.kept[0].key)


class WitnessTests(TamperCase):
    """What stands beside the files: the state, the tip, the key."""

    def test_key(self) -> None:
        """Another key in the place of the one that the newest checkpoint named."""
        (key,) = (self.whole / "keys").glob("*.key")
        finding = self.found(lambda directory: (directory / "keys" / key.name).write_text("ab" * 32))
        self.assertIn("replaced", finding.what)

    def test_damaged(self) -> None:
        """Any byte of them, or all: nothing is said of lines that were not changed, and nothing breaks."""
        (key,) = (self.whole / "keys").glob("*.key")
        for name in (STATE, TIP, f"keys/{key.name}"):
            data = (self.whole / name).read_bytes()
            step = max(1, len(data) // 40)
            for changed in (
                b"",
                b"[]",
                b"\xff" * 9,
                *(bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]]) for at in range(0, len(data), step)),
            ):
                finding = verify(
                    self.changed(lambda copy, name=name, changed=changed: (copy / name).write_bytes(changed))
                ).finding  # type: ignore[misc]
                self.assertTrue(
                    finding is None or "cut off" in finding.what or "replaced" in finding.what, (name, changed)
                )

    def test_replayed(self) -> None:
        """The whole directory of some time ago, which is in order by itself, and older than what was kept."""
        log = AuditLog(self.whole, clock=Clock())
        self.successResultOf(log.close())
        older = self.changed(lambda copy: None)
        log = AuditLog(self.whole, clock=Clock())
        self.successResultOf(log.receive("host", [(EVENTS + 1, {"event": "user.login", "uid": "later"})]))
        newer = self.successResultOf(log.checkpoint())
        self.successResultOf(log.close())
        assert newer is not None
        self.assertIsNone(verify(older, kept=self.kept).finding)
        finding = verify(older, kept=[*self.kept, newer]).finding
        assert finding is not None
        self.assertIn("the end was cut off", finding.what)
        self.assertIsNone(verify(self.whole, kept=[*self.kept, newer]).finding)


class KeptTests(TamperCase):
    """Files of checkpoints that were kept elsewhere."""

    def test_read(self) -> None:
        text = b"\n".join(kept.line.rstrip() for kept in self.kept)
        self.assertEqual(read_kept(text, "kept"), self.kept)
        for bad in (b"", b"\n", b"{}", text.replace(b'"count":', b'"count":1', 1), text + b"\nx"):
            self.assertRaises(ConfigError, read_kept, bad, "kept")

    def test_report(self) -> None:
        """How much there is, and how much of it no checkpoint vouches for."""
        report: Report = verify(self.whole)
        self.assertEqual((report.events, report.files, report.unsigned, report.begins), (EVENTS, len(self.files), 0, 0))
        seen: list[tuple[int, int]] = []
        verify(self.whole, progress=lambda done, total: seen.append((done, total)))
        self.assertEqual(seen[-1][0], seen[-1][1])
        self.assertEqual(seen, sorted(seen))
