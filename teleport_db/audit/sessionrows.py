"""What the audit log's index knows of statements and sessions: which result belongs to which query, and sums."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

#: Runs a statement once for each row, as ``executemany`` does.
WriteMany = Callable[[str, Iterable[tuple[Any, ...]]], None]

#: Statements without a result that are remembered; a session that is over has none.
MAX_PENDING = 100_000


class Pending:
    """Statements that have begun: whose result a result is.

    :param database: with the tables of :mod:`teleport_db.audit.schema`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._of: dict[int, dict[int, int]] = {}
        self._count = 0
        for sid, statement, line in database.execute("SELECT sid, statement, id FROM pending"):
            self._of.setdefault(sid, {})[statement] = line
            self._count += 1
        self._added: dict[tuple[int, int], int] = {}
        self._removed: list[tuple[int, int]] = []
        self._ended: list[tuple[int]] = []
        self._partners: list[tuple[int, int]] = []

    def take(self, sid: int | None, line: int, event: Mapping[str, Any]) -> int | None:
        """The line of the query whose result this event is, if it is one.

        :param sid: the number of the session's name.
        """
        name, statement = event.get("event"), event.get("statement_id")
        if sid is None:
            return None
        if name == "db.session.end":
            if sid in self._of:
                self._count -= len(self._of.pop(sid))
                self._ended.append((sid,))
                self._added = {key: value for key, value in self._added.items() if key[0] != sid}
        elif type(statement) is int and 0 <= statement < 1 << 53:
            if name == "db.session.query" and not event.get("part"):
                if self._count < MAX_PENDING:
                    self._of.setdefault(sid, {})[statement] = self._added[sid, statement] = line
                    self._count += 1
            elif name == "db.session.result":
                return self._result(sid, statement, line)
        return None

    def _result(self, sid: int, statement: int, line: int) -> int | None:
        own = self._of.get(sid)
        query = None if own is None else own.pop(statement, None)
        if own is None or query is None:
            return None
        if not own:
            del self._of[sid]
        self._count -= 1
        if self._added.pop((sid, statement), None) is None:
            self._removed.append((sid, statement))
        self._partners.append((line, query))
        return query

    def flush(self, write: WriteMany) -> None:
        """Write what has changed; the rows of ``events`` are written."""
        write("UPDATE events SET partner = ? WHERE id = ?", self._partners)
        write("DELETE FROM pending WHERE sid = ? AND statement = ?", self._removed)
        write("DELETE FROM pending WHERE sid = ?", self._ended)
        write("INSERT OR REPLACE INTO pending VALUES (?, ?, ?)", ((*key, line) for key, line in self._added.items()))
        self._partners, self._removed, self._ended, self._added = [], [], [], {}


@attrs.define
class _Session:
    first: int
    fields: tuple[str, str, str, str]
    started: str | None = None
    ended: str | None = None
    reason: str | None = None
    reopened: bool = False
    statements: int = 0
    errors: int = 0


_UPSERT = """
INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    started = ifnull(started, excluded.started),
    ended = CASE WHEN ? THEN excluded.ended ELSE ifnull(excluded.ended, ended) END,
    reason = CASE WHEN ? THEN excluded.reason ELSE ifnull(excluded.reason, reason) END,
    statements = statements + excluded.statements, errors = errors + excluded.errors
"""


class SessionRows:
    """One row a session that was let in."""

    def __init__(self) -> None:
        self._changed: dict[str, _Session] = {}

    def take(self, line: int, event: Mapping[str, Any]) -> None:
        """An event of the log."""
        sid, name = event.get("sid"), event.get("event")
        if not isinstance(sid, str) or not isinstance(name, str) or not name.startswith("db.session."):
            return
        if name == "db.session.start" and event.get("success") is not True:
            return
        row = self._changed.get(sid)
        if row is None:
            user, service, db_name, db_user = (
                str(event.get(field, "")) for field in ("user", "db_service", "db_name", "db_user")
            )
            row = self._changed[sid] = _Session(line, (user, service, db_name, db_user))
        if name == "db.session.start":
            row.started = str(event.get("time", ""))
        elif name in {"db.session.query", "db.session.postgres.function"}:
            row.statements += not event.get("part")
        elif name == "db.session.result":
            row.errors += event.get("success") is False
        elif name == "db.session.end":
            row.ended, row.reason = str(event.get("time", "")), str(event.get("reason", ""))
        elif name == "db.session.reopened":
            row.ended, row.reason, row.reopened = None, None, True

    def flush(self, write: WriteMany) -> None:
        """Write what has changed."""
        write(
            _UPSERT,
            (
                (
                    *(_text(sid), row.first, *map(_text, row.fields), row.started, row.ended, row.reason),
                    *(row.statements, row.errors, row.reopened, row.reopened),
                )
                for sid, row in self._changed.items()
            ),
        )
        self._changed = {}


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()
