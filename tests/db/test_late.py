"""The ends of sessions on a disk without room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.spool import Spool
from teleport_db.db import late
from teleport_db.db.late import LastWords
from teleport_db.errors import AuditUnavailable

LARGE = {"pad": "x" * 3000}


class Disk:
    """A spool whose disk has room, or none."""

    def __init__(self) -> None:
        self.room = True
        self.written: list[Mapping[str, Any]] = []

    def append(self, events: Sequence[Mapping[str, Any]], *, closing: bool = False) -> None:
        if not self.room:
            raise AuditUnavailable(detail="no room")
        assert closing
        self.written += events


class LastWordsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = Disk()
        self.late = LastWords(self.disk)

    def test_room(self) -> None:
        """They are written at once."""
        self.late.append([{"n": 1}])
        self.assertEqual((self.disk.written, list(self.late.waiting)), ([{"n": 1}], []))

    def test_no_room(self) -> None:
        """They wait, and are written in their order when there is room, before what comes then."""
        self.disk.room = False
        self.late.append([{"n": 1}, {"n": 2}])
        self.late.append([{"n": 3}])
        self.assertIsInstance(self.late.write(), AuditUnavailable)
        self.assertEqual(self.disk.written, [])
        self.disk.room = True
        self.late.append([{"n": 4}])
        self.assertEqual([event["n"] for event in self.disk.written], [1, 2, 3, 4])
        self.assertIsNone(self.late.write())

    def test_too_many(self) -> None:
        """Memory is bounded."""
        self.patch(late, "MAX_WAITING", 2)
        self.disk.room = False
        for number in range(2):
            self.late.append([{"n": number}])
        self.assertRaises(AuditUnavailable, self.late.append, [{"n": 2}])
        self.disk.room = True
        self.assertIsNone(self.late.write())
        self.assertEqual([event["n"] for event in self.disk.written], [0, 1])

    def test_spool(self) -> None:
        """A spool's own bound is one: what waited is in it once something was shipped."""
        spool = Spool(self.mktemp(), max_bytes=10_000)
        self.addCleanup(spool.close)
        while True:
            try:
                spool.append([LARGE], closing=True)
            except AuditUnavailable:
                break
        words = LastWords(spool)
        words.append([LARGE])
        self.assertEqual(len(words.waiting), 1)
        last = spool.last
        spool.end_sync(spool.begin_sync()())
        spool.acknowledge(last)
        self.assertIsNone(words.write())
        self.assertEqual(spool.last, last + 1)
