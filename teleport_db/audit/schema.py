"""The tables of the audit log's index.

Texts that repeat are numbered in ``names``, so that a row of ``events`` is a handful of small numbers: a walk
through a million of them takes less than a tenth of a second, and an index of one column little room.  ``words`` of
each file are a table of their own (FTS5, contentless), dropped with the file.
"""

# ruff: noqa: S608 - what is put into a statement are names and numbers of this package's own

from __future__ import annotations

import sqlite3
from typing import Final

from teleport_db.audit.query import FIELDS

#: Anything else is deleted and made anew.
VERSION: Final = 1

#: What a row of ``events`` has, in its order.
COLUMNS: Final = ("id", "file", "offset", "size", "time", *FIELDS, "partner")

_TABLES: Final = f"""
CREATE TABLE meta (file TEXT, offset INTEGER, count INTEGER, chain TEXT);
INSERT INTO meta VALUES ('', 0, 0, '');
CREATE TABLE names (id INTEGER PRIMARY KEY, value TEXT NOT NULL UNIQUE);
CREATE TABLE uses (field INTEGER, name INTEGER, number INTEGER, PRIMARY KEY (field, name)) WITHOUT ROWID;
CREATE TABLE files (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, first INTEGER NOT NULL);
CREATE TABLE blocks (first INTEGER PRIMARY KEY, last INTEGER, oldest INTEGER, newest INTEGER);
CREATE TABLE events (id INTEGER PRIMARY KEY, {", ".join(f"{name} INTEGER" for name in COLUMNS[1:])});
CREATE TABLE pending (sid INTEGER, statement INTEGER, id INTEGER, PRIMARY KEY (sid, statement)) WITHOUT ROWID;
CREATE TABLE sessions (
    sid TEXT PRIMARY KEY, first INTEGER NOT NULL, user TEXT, db_service TEXT, db_name TEXT, db_user TEXT,
    started TEXT, ended TEXT, reason TEXT, statements INTEGER NOT NULL, errors INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_first ON sessions (first);
CREATE INDEX sessions_user ON sessions (user, first);
"""


def connect(path: str) -> sqlite3.Connection:
    """The index in a file, which is made when it is not there; sqlite3.DatabaseError when it is none."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # what a crash takes back is read again from the log
        connection.execute("PRAGMA cache_size = -65536")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            if version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError("the index is of another version")
            _make(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(connection: sqlite3.Connection) -> None:
    indexes = [f"CREATE INDEX events_{name} ON events ({name}) WHERE {name} IS NOT NULL" for name in FIELDS]
    connection.executescript(f"BEGIN; {_TABLES} {'; '.join(indexes)}; PRAGMA user_version = {VERSION}; COMMIT;")


def make_words(connection: sqlite3.Connection, number: int) -> None:
    """The table of a file's words."""
    connection.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS words_{int(number)} USING fts5"
        """(text, content='', detail=none, columnsize=0, tokenize="ascii tokenchars '_'")"""
    )
