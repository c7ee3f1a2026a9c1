"""Group commit: one sync for all that came before it, none running beside another."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.commits import GroupCommit
from teleport_db.audit.spool import Spool
from teleport_db.errors import AuditUnavailable


class CommitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.spool = Spool(Path(self.mktemp()), now=lambda: 1.0)
        self.addCleanup(self.spool.close)
        self.running: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.commits = GroupCommit(self.spool, self.in_thread)
        self.told: list[tuple[str, AuditUnavailable | None]] = []

    def in_thread(self, function: Callable[[], Any]) -> Deferred[Any]:
        self.running.append((function, Deferred()))
        return self.running[-1][1]

    def finish(self) -> None:
        """The sync in the thread is done."""
        function, done = self.running.pop(0)
        done.callback(function())

    def append(self, name: str) -> None:
        self.spool.append([{"n": name}])
        self.commits.synced(lambda error: self.told.append((name, error)))

    def test_together(self) -> None:
        """Those before a sync go on with it; those that came while it ran share the next."""
        for name in "abc":
            self.append(name)
        self.assertEqual((len(self.running), self.told), (1, []))
        self.finish()
        self.assertEqual(self.told, [("a", None)])
        self.append("d")
        self.assertEqual(len(self.running), 1)
        self.finish()
        self.assertEqual([name for name, _ in self.told], ["a", "b", "c"])
        self.finish()
        self.assertEqual([name for name, _ in self.told], ["a", "b", "c", "d"])
        self.assertEqual((self.running, self.spool.synced), ([], self.spool.last))

    def test_no_descriptor(self) -> None:
        """Where the process has no file to open left, who waits is told, and later ones find nothing lost."""
        self.append("a")
        self.finish()
        self.spool._next_segment()  # a closed one, and a name that the directory may not have yet
        real = os.dup, os.open

        def none(*_: object, **__: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        for name in ("dup", "open"):
            self.patch(os, name, none)
            self.append("c")
            self.assertEqual((self.running, self.told[-1][0]), ([], "c"))
            self.assertIn("Too many open files", self.told[-1][1].detail if self.told[-1][1] else "")
            os.dup, os.open = real
        self.append("d")
        self.finish()
        self.assertEqual((self.told[-1], self.spool.synced), (("d", None), self.spool.last))
        self.assertEqual(self.spool._behind, [])

    def test_nothing_new(self) -> None:
        """What is on the disk already waits for nothing."""
        self.append("a")
        self.finish()
        self.commits.synced(lambda error: self.told.append(("again", error)))
        self.assertEqual([name for name, _ in self.told], ["a", "again"])
        self.assertEqual(self.running, [])
        self.successResultOf(self.commits.sync())

    def test_fails(self) -> None:
        """Nobody goes on, and nothing is appended to a disk that lost something."""
        self.append("a")
        self.append("b")
        synced = self.commits.sync()
        self.running.pop()[1].errback(OSError(5, "Input/output error"))
        self.assertEqual([(name, type(error)) for name, error in self.told], [(n, AuditUnavailable) for n in "ab"])
        self.failureResultOf(synced, AuditUnavailable)
        self.assertRaises(AuditUnavailable, self.spool.append, [{}])

    def test_cancelled(self) -> None:
        """Who gives up waiting does not keep others from it."""
        self.spool.append([{}])
        synced = self.commits.sync()
        synced.addErrback(lambda _: None)
        synced.cancel()
        self.append("a")
        self.finish()
        self.finish()
        self.assertEqual(self.told, [("a", None)])
