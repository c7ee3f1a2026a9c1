"""What a backend promises, held against the SQLite one."""

import os
import signal
import sqlite3
import subprocess
import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.python.filepath import FilePath
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from teleport_db.errors import AlreadyExists, BadRequest, ConnectionTrouble, NotFound, RevisionConflict
from teleport_db.interfaces import Change, IBackend
from teleport_db.storage.sqlite import SWEEP_INTERVAL, SQLiteBackend, _open
from tests.storage import crash_child


class BackendCase(TestCase):
    """A backend in a directory of its own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.path = os.path.join(self.mktemp(), "storage", "state.sqlite")
        self.backend = self.open()

    def open(self, **options: Any) -> SQLiteBackend:
        backend = SQLiteBackend(self.path, reactor=reactor, clock=self.clock, **options)
        self.addCleanup(backend.close)
        return backend


class KeysTests(BackendCase):
    """Keys, values and revisions."""

    def test_interface(self) -> None:
        """It is an IBackend."""
        verifyObject(IBackend, self.backend)

    async def test_create_get(self) -> None:
        """What was created is read back with its revision."""
        made = await self.backend.create("/role/a", {"x": [1, "é", None]})
        self.assertEqual(await self.backend.get("/role/a"), made)
        self.assertEqual(made.value, {"x": [1, "é", None]})
        self.assertEqual(await self.backend.revision(), made.revision)

    async def test_missing(self) -> None:
        """A key that is not there is NotFound for everybody but put and create."""
        for call in (
            lambda: self.backend.get("/a"),
            lambda: self.backend.delete("/a"),
            lambda: self.backend.compare_and_swap("/a", 1, {}),
        ):
            await self.assertFailure(call(), NotFound)

    async def test_create_twice(self) -> None:
        """The second create is refused and changes nothing."""
        await self.backend.create("/a", {"n": 1})
        await self.assertFailure(self.backend.create("/a", {"n": 2}), AlreadyExists)
        self.assertEqual((await self.backend.get("/a")).value, {"n": 1})

    async def test_revisions_grow(self) -> None:
        """Each write, a delete too, makes a larger revision."""
        first = await self.backend.put("/a", {})
        second = await self.backend.put("/a", {})
        await self.backend.delete("/a")
        third = await self.backend.put("/b", {})
        self.assertLess(first.revision, second.revision)
        self.assertLess(second.revision + 1, third.revision)

    async def test_compare_and_swap(self) -> None:
        """Only the revision that was read is replaced."""
        first = await self.backend.put("/a", {"n": 1})
        second = await self.backend.compare_and_swap("/a", first.revision, {"n": 2})
        await self.assertFailure(self.backend.compare_and_swap("/a", first.revision, {"n": 3}), RevisionConflict)
        self.assertEqual(await self.backend.get("/a"), second)
        await self.assertFailure(self.backend.delete("/a", first.revision), RevisionConflict)
        await self.backend.delete("/a", second.revision)
        await self.assertFailure(self.backend.get("/a"), NotFound)

    async def test_one_of_many_swaps(self) -> None:
        """Of fifty swaps at once one wins."""
        first = await self.backend.put("/a", {"n": -1})
        results = await DeferredList(
            [self.backend.compare_and_swap("/a", first.revision, {"n": n}) for n in range(50)], consumeErrors=True
        )
        self.assertEqual([ok for ok, _ in results].count(True), 1)

    async def test_two_processes(self) -> None:
        """The database decides, not this process's memory: two backends on one file agree."""
        other = self.open()
        first = await self.backend.put("/a", {"n": 0})
        results = await DeferredList(
            [
                backend.compare_and_swap("/a", first.revision, {"n": n})
                for n, backend in enumerate([self.backend, other] * 10)
            ],
            consumeErrors=True,
        )
        self.assertEqual([ok for ok, _ in results].count(True), 1)
        self.assertEqual(await self.backend.get("/a"), await other.get("/a"))

    async def test_range(self) -> None:
        """A range is what starts with the prefix, in order, wildcards of SQL being ordinary text."""
        for key in ("/a/2", "/a/1", "/a", "/a/%", "/b/1", "/a/é", "/a_1"):
            await self.backend.put(key, {"k": key})
        self.assertEqual([item.key for item in await self.backend.range("/a/")], ["/a/%", "/a/1", "/a/2", "/a/é"])

    async def test_bounds(self) -> None:
        """A key or a value that is too large, or no key at all, is refused."""
        for key, value in (("a", {}), ("/" + "a" * 1024, {}), ("/a", {"v": "x" * (1 << 20)})):
            await self.assertFailure(self.backend.put(key, value), BadRequest)

    async def test_modes(self) -> None:
        """Nobody else can read the file, nor what SQLite puts beside it."""
        await self.backend.put("/a", {})
        directory = os.path.dirname(self.path)
        self.assertEqual(os.stat(directory).st_mode & 0o777, 0o700)
        for name in os.listdir(directory):
            self.assertEqual(os.stat(os.path.join(directory, name)).st_mode & 0o777, 0o600, name)

    async def test_mode_of_a_copy(self) -> None:
        """A file that everybody could read, as a copy put back may be, is closed to them."""
        path = self.mktemp()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.chmod(path, 0o644)
        _open(path, 1.0).close()
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)

    async def test_closed(self) -> None:
        """A closed backend finished what it was asked for and takes nothing more."""
        pending = [self.backend.put(f"/{n}", {}) for n in range(20)]
        await self.backend.close()
        await gatherResults(pending)
        await self.assertFailure(self.backend.get("/1"), ConnectionTrouble)
        again = self.open()
        self.assertEqual(len(await again.range("/")), 20)


class ExpiryTests(BackendCase):
    """Items that end."""

    async def test_expired(self) -> None:
        """From its expiry on an item is not there, whether it was swept or not."""
        item = await self.backend.put("/a", {}, self.clock.seconds() + 2)
        self.assertEqual(await self.backend.range("/a"), [item])
        self.clock.advance(2)
        self.assertEqual(await self.backend.range("/a"), [])
        await self.assertFailure(self.backend.get("/a"), NotFound)
        await self.assertFailure(self.backend.compare_and_swap("/a", item.revision, {}), NotFound)
        await self.assertFailure(self.backend.delete("/a"), NotFound)
        await self.backend.create("/a", {"new": True})

    async def test_sweep(self) -> None:
        """The sweep tells the watchers."""
        await self.backend.put("/a", {}, self.clock.seconds() + 1)
        told: Deferred[Change] = Deferred()
        self.backend.watch("/", told.callback)
        self.clock.advance(SWEEP_INTERVAL)
        change = await told
        self.assertEqual((change.key, change.item), ("/a", None))
        self.assertEqual(change.revision, await self.backend.revision())


class WatchTests(BackendCase):
    """Who watches is told of every write, in order."""

    async def test_order(self) -> None:
        """Changes come in the order of their revisions, before the writer has its answer."""
        changes: list[Change] = []
        stop = self.backend.watch("/a/", changes.append)
        writes = [self.backend.put(f"/a/{n}", {"n": n}) for n in range(10)] + [self.backend.delete("/a/3")]
        await self.backend.put("/b/1", {})
        await gatherResults(writes)
        self.assertEqual([change.key for change in changes], [f"/a/{n}" for n in range(10)] + ["/a/3"])
        self.assertIsNone(changes[-1].item)
        self.assertEqual([c.revision for c in changes], sorted(c.revision for c in changes))
        stop()
        await self.backend.put("/a/9", {})
        self.assertEqual(len(changes), 11)

    async def test_refused_writes_are_silent(self) -> None:
        """What was refused is no change."""
        changes: list[Change] = []
        await self.backend.put("/a", {})
        self.backend.watch("/", changes.append)
        await self.assertFailure(self.backend.create("/a", {}), AlreadyExists)
        self.assertEqual(changes, [])

    async def test_failing_listener(self) -> None:
        """A listener that fails spoils neither the write nor the other listeners."""
        changes: list[Change] = []

        def broken(change: Change) -> None:
            raise ValueError("no")

        self.backend.watch("/", broken)
        self.backend.watch("/", changes.append)
        await self.backend.put("/a", {})
        self.assertEqual(len(changes), 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class LockTests(BackendCase):
    """Another program holds the file."""

    async def test_locked(self) -> None:
        """While the file is locked the reactor ticks on, reads answer, and writes wait their turn."""
        await self.backend.put("/a", {"n": 1})
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        write = self.backend.put("/a", {"n": 2})
        for _ in range(5):
            await deferLater(reactor, 0.01)
        self.assertEqual((await self.backend.get("/a")).value, {"n": 1})
        self.assertFalse(write.called)
        other.execute("COMMIT")
        await write
        self.assertEqual((await self.backend.get("/a")).value, {"n": 2})
        other.close()

    async def test_locked_too_long(self) -> None:
        """Past the limit the write is refused in words, and the next one works."""
        backend = self.open(lock_timeout=0.05)
        await backend.put("/a", {"n": 1})
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        error = await self.assertFailure(backend.put("/a", {"n": 2}), ConnectionTrouble)
        self.assertIn("locked", error.public)
        other.execute("ROLLBACK")
        other.close()
        await backend.put("/a", {"n": 3})

    async def test_not_a_database(self) -> None:
        """A file that is no database is refused in words."""
        os.makedirs(os.path.dirname(self.path))
        FilePath(self.path).setContent(b"something else entirely" * 100)
        await self.assertFailure(self.backend.get("/a"), ConnectionTrouble)


class CrashTests(BackendCase):
    """kill -9."""

    async def test_killed(self) -> None:
        """Whatever was answered before the kill is there after it, and the file still works."""
        for answered in (1, 40):
            self.path, numbers = self.kill_after(answered)
            backend = self.open()
            found = {item.value["number"] for item in await backend.range("/n/")}
            self.assertLessEqual(set(numbers), found)
            self.assertLessEqual(len(found), len(numbers) + 1)
            await backend.put("/after", {})

    def kill_after(self, answered: int) -> tuple[str, list[int]]:
        """Let a child write, kill it after so many answers; the file, and the numbers it saw answered."""
        path = os.path.abspath(f"{self.path}.{answered}")
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(crash_child.__file__))))
        command = [sys.executable, "-m", "tests.storage.crash_child", path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(answered)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        return path, [int(line) for line in lines if line.endswith(b"\n")]
