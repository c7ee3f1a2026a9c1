"""Keys with JSON values and revisions in one SQLite file.

::

    reactor thread          writer thread (one connection)          reader thread (one connection)
    put(...)  ── queue ──▶  BEGIN IMMEDIATE
    put(...)  ── queue ──▶    each write decided in the database
                            COMMIT  (WAL, synchronous=FULL: one fsync for all that waited)
    watchers, answers  ◀──  callFromThread
    get(...)  ──────────────────────────────────────────── queue ──▶ SELECT of the last commit

Whoever holds the file's lock (a backup, an administrator's shell) makes the writer thread wait, never
the reactor, and readers go on.  An answer leaves only after COMMIT, so that nothing that was answered
is lost with ``kill -9``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.errors import (
    AlreadyExists,
    BadRequest,
    ConnectionTrouble,
    NotFound,
    RevisionConflict,
    TeleportDBError,
)
from teleport_db.interfaces import Change, IBackend, Item
from teleport_db.storage.worker import Job, Outcome, Worker

log = Logger()

#: Seconds between two looks for expired items.  They are invisible from the moment they expire; the
#: sweep frees their place and tells the watchers.
SWEEP_INTERVAL = 5.0
#: Seconds the writer waits for somebody else's lock before the write is refused.
LOCK_TIMEOUT = 60.0
#: Bytes of a key, and of a value as JSON.
MAX_KEY, MAX_VALUE = 1024, 1 << 20

#: Of the schema, kept in the file's own ``user_version``.
VERSION = 1
SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS items (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, revision INTEGER NOT NULL, expires REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_expires ON items (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS counter (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (1, 0);
PRAGMA user_version = 1;
COMMIT;
"""


@attrs.frozen
class _Written:
    """What a write answers with, and what it changed."""

    value: Any
    changes: tuple[Change, ...]


#: One write: decides and writes in the writer's transaction.
Write = Callable[[sqlite3.Connection], _Written]


def _open(path: str, lock_timeout: float) -> sqlite3.Connection:
    """A connection for one thread; the file is made 0600 and its name made durable."""
    directory = os.path.dirname(path) or "."
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    else:
        os.chmod(path, 0o600)  # it may be a copy that was put back; what SQLite puts beside it is alike
    connection = sqlite3.connect(path, timeout=lock_timeout, isolation_level=None)
    # WAL: readers never wait for the writer.  FULL: COMMIT returns when the log is on the disk
    # (https://www.sqlite.org/pragma.html#pragma_synchronous); NORMAL could lose the last commits.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        connection.executescript(SCHEMA)
    return connection


def _next_revision(connection: sqlite3.Connection) -> int:
    row = connection.execute("UPDATE counter SET revision = revision + 1 RETURNING revision").fetchone()
    return int(row[0])


def _item(row: tuple[str, str, int, float | None]) -> Item:
    return Item(key=row[0], value=json.loads(row[1]), revision=row[2], expires=row[3])


def _missed(connection: sqlite3.Connection, key: str, now: float) -> TeleportDBError:
    """Why a write found nothing to change."""
    row = connection.execute(
        "SELECT 1 FROM items WHERE key = ? AND (expires IS NULL OR expires > ?)", (key, now)
    ).fetchone()
    return NotFound(f"there is no {key}") if row is None else RevisionConflict(f"{key} was changed by somebody else")


def _transaction(connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[Outcome]:
    """All waiting writes in one commit; one that is refused changes nothing and spoils nothing."""
    outcomes: list[Outcome] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            try:
                outcomes.append(Outcome(value=job(connection)))
            except TeleportDBError as error:
                outcomes.append(Outcome(error=error))
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already; then there is nothing to roll back.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _each(connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[Outcome]:
    """Reads, one by one."""
    outcomes: list[Outcome] = []
    for job in jobs:
        try:
            outcomes.append(Outcome(value=job(connection)))
        except Exception as error:
            outcomes.append(Outcome(error=_translated(error)))
    return outcomes


def _translated(error: BaseException) -> BaseException:
    """A database's fault in this system's words; what the code itself raised stays as it is."""
    if isinstance(error, sqlite3.Error):
        busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        text = "the storage is locked by another program" if busy else "the storage could not be used"
        return ConnectionTrouble(text, detail=f"{type(error).__name__}: {error}")
    return error


@implementer(IBackend)
class SQLiteBackend:
    """An :class:`~teleport_db.interfaces.IBackend` in one file, for one process.

    :param path: of the file; it and its directory are made with modes 0600 and 0700.
    :param reactor: whose thread calls, and is called back.
    :param clock: seconds since the epoch for expiry; the reactor when None.
    :param lock_timeout: seconds a write waits for another program's lock.
    """

    def __init__(
        self,
        path: str,
        *,
        reactor: IReactorFromThreads,
        clock: IReactorTime | None = None,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        self.path = path
        self._clock: IReactorTime = IReactorTime(reactor) if clock is None else clock
        self._watchers: dict[object, tuple[str, Callable[[Change], None]]] = {}
        self._opened = threading.Event()
        self._writer = Worker(
            "sqlite-writer",
            reactor,
            open=lambda: self._open_first(lock_timeout),
            batch=_transaction,
            translate=_translated,
            answered=lambda written: self._tell(written.changes),
        )
        self._reader = Worker(
            "sqlite-reader",
            reactor,
            open=lambda: self._open_second(lock_timeout),
            batch=_each,
            translate=_translated,
        )
        self._sweeper: LoopingCall | None = None
        self._closed = False

    # The interface.

    def get(self, key: str) -> Deferred[Item]:
        now = self._clock.seconds()

        def read(connection: sqlite3.Connection) -> Item:
            row = connection.execute(
                "SELECT key, value, revision, expires FROM items WHERE key = ? AND (expires IS NULL OR expires > ?)",
                (key, now),
            ).fetchone()
            if row is None:
                raise NotFound(f"there is no {key}")
            return _item(row)

        return self._read(read)

    def range(self, prefix: str) -> Deferred[list[Item]]:
        now = self._clock.seconds()

        def read(connection: sqlite3.Connection) -> list[Item]:
            rows = connection.execute(
                "SELECT key, value, revision, expires FROM items"
                " WHERE key >= ? AND key < ? AND (expires IS NULL OR expires > ?) ORDER BY key",
                (prefix, prefix + "\U0010ffff", now),
            )
            return [_item(row) for row in rows]

        return self._read(read)

    def create(self, key: str, value: Mapping[str, Any], expires: float | None = None) -> Deferred[Item]:
        now = self._clock.seconds()

        def write(connection: sqlite3.Connection, text: str) -> Item:
            revision = _next_revision(connection)
            # An expired item that was not swept yet counts as gone.
            cursor = connection.execute(
                "INSERT INTO items VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET value = excluded.value, revision = excluded.revision, expires = excluded.expires"
                " WHERE items.expires <= ?",
                (key, text, revision, expires, now),
            )
            if cursor.rowcount != 1:
                raise AlreadyExists(f"{key} exists already")
            return Item(key, json.loads(text), revision, expires)

        return self._write(key, value, write)

    def put(self, key: str, value: Mapping[str, Any], expires: float | None = None) -> Deferred[Item]:
        def write(connection: sqlite3.Connection, text: str) -> Item:
            revision = _next_revision(connection)
            connection.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", (key, text, revision, expires))
            return Item(key, json.loads(text), revision, expires)

        return self._write(key, value, write)

    def compare_and_swap(
        self, key: str, revision: int, value: Mapping[str, Any], expires: float | None = None
    ) -> Deferred[Item]:
        now = self._clock.seconds()

        def write(connection: sqlite3.Connection, text: str) -> Item:
            new = _next_revision(connection)
            cursor = connection.execute(
                "UPDATE items SET value = ?, revision = ?, expires = ?"
                " WHERE key = ? AND revision = ? AND (expires IS NULL OR expires > ?)",
                (text, new, expires, key, revision, now),
            )
            if cursor.rowcount != 1:
                raise _missed(connection, key, now)
            return Item(key, json.loads(text), new, expires)

        return self._write(key, value, write)

    def delete(self, key: str, revision: int | None = None) -> Deferred[None]:
        now = self._clock.seconds()

        def write(connection: sqlite3.Connection) -> _Written:
            cursor = connection.execute(
                "DELETE FROM items WHERE key = ? AND (? IS NULL OR revision = ?) AND (expires IS NULL OR expires > ?)",
                (key, revision, revision, now),
            )
            if cursor.rowcount != 1:
                raise _missed(connection, key, now)
            return _Written(None, (Change(key, _next_revision(connection), None),))

        return self._submit(write)

    def watch(self, prefix: str, listener: Callable[[Change], None]) -> Callable[[], None]:
        mark = object()
        self._watchers[mark] = (prefix, listener)

        def stop() -> None:
            self._watchers.pop(mark, None)

        return stop

    def revision(self) -> Deferred[int]:
        return self._read(lambda connection: int(connection.execute("SELECT revision FROM counter").fetchone()[0]))

    # Life.

    def close(self) -> Deferred[None]:
        """Finish what was asked for, then close the file; later calls fail with ConnectionTrouble."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        self._closed = True
        if self._sweeper is not None and self._sweeper.running:
            self._sweeper.stop()
        await self._reader.stop()
        await self._writer.stop()

    # Inside.

    def _open_first(self, lock_timeout: float) -> sqlite3.Connection:
        try:
            return _open(self.path, lock_timeout)
        finally:
            self._opened.set()

    def _open_second(self, lock_timeout: float) -> sqlite3.Connection:
        # Only one connection may turn a new file to WAL.
        self._opened.wait()
        return _open(self.path, lock_timeout)

    def _begin(self) -> None:
        """With the first call: open the file, start to sweep."""
        if self._sweeper is None:
            self._sweeper = LoopingCall(self._sweep)
            self._sweeper.clock = self._clock
            self._sweeper.start(SWEEP_INTERVAL, now=False).addErrback(_sweep_ended)
            self._writer.submit(lambda connection: _Written(None, ())).addErrback(_not_opened)

    def _read(self, read: Callable[[sqlite3.Connection], Any]) -> Deferred[Any]:
        if self._closed:
            return fail(ConnectionTrouble("the storage is closed"))
        self._begin()
        return self._reader.submit(read)

    def _write(
        self, key: str, value: Mapping[str, Any], write: Callable[[sqlite3.Connection, str], Item]
    ) -> Deferred[Item]:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        if not key.startswith("/") or len(key.encode()) > MAX_KEY:
            return fail(BadRequest("this name cannot be stored"))
        if len(text) > MAX_VALUE:
            return fail(BadRequest("this is too large to be stored"))

        def job(connection: sqlite3.Connection) -> _Written:
            item = write(connection, text)
            return _Written(item, (Change(key, item.revision, item),))

        return self._submit(job)

    def _submit(self, write: Write) -> Deferred[Any]:
        if self._closed:
            return fail(ConnectionTrouble("the storage is closed"))
        self._begin()
        return self._writer.submit(write).addCallback(lambda written: written.value)

    def _tell(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for prefix, listener in list(self._watchers.values()):
                if change.key.startswith(prefix):
                    try:
                        listener(change)
                    except Exception:
                        log.failure("storage: a watcher of {prefix} failed", prefix=prefix)

    def _sweep(self) -> Deferred[None]:
        """Remove what has expired; waits for the result, so that sweeps never pile up."""
        return Deferred.fromCoroutine(self._swept()).addErrback(
            lambda failure: log.warn("storage: expired items stay: {why}", why=failure.getErrorMessage())
        )

    async def _swept(self) -> None:
        now = self._clock.seconds()
        found = "SELECT EXISTS (SELECT 1 FROM items WHERE expires <= ?)"
        if not await self._read(lambda connection: connection.execute(found, (now,)).fetchone()[0]):
            return

        def write(connection: sqlite3.Connection) -> _Written:
            rows = connection.execute("DELETE FROM items WHERE expires <= ? RETURNING key", (now,)).fetchall()
            return _Written(None, tuple(Change(row[0], _next_revision(connection), None) for row in rows))

        await self._submit(write)


def _sweep_ended(failure: Failure) -> None:
    log.failure("storage: the sweep of expired items stopped", failure)


def _not_opened(failure: Failure) -> None:
    log.error("storage: the file cannot be opened: {why}", why=failure.getErrorMessage())
