"""A naive PostgreSQL for tests: it answers frontend messages, and knows which texts it ran."""

from __future__ import annotations

import struct

from teleport_db.pgwire.messages import error_response, message, ready_for_query

ERROR = error_response("ERROR", "42601", "as tested")
ABSENT = error_response("ERROR", "34000", "no such portal")


class Server:
    """Takes whole messages one by one; postgres.c as far as names, skipping and COPY go.

    A text that begins with ``bad`` fails to be prepared or run, ``worse`` is prepared and fails when it runs,
    ``copy`` wants CopyData, ``copy early`` and fails before it reads any, ``begin`` and ``commit`` do that;
    every other gives one row.

    :ivar ran: the texts that it ran, in order.
    """

    def __init__(self) -> None:
        self.statements: dict[bytes, bytes] = {}
        self.portals: dict[bytes, bytes] = {}
        self.ran: list[bytes] = []
        self.skipping = False
        self.block = False
        self.copying = ""

    def take(self, wire: bytes) -> bytes:
        """One message; what is answered."""
        kind, body = wire[:1], wire[5:]
        if self.copying:
            return self._in_copy(kind, body)
        if self.skipping and kind != b"S":
            return b""
        return {
            b"Q": self._query,
            b"P": self._parse,
            b"B": self._bind,
            b"E": self._execute,
            b"D": self._describe,
            b"C": self._close,
            b"S": self._sync,
        }.get(kind, lambda body: b"")(body)

    def _error(self, error: bytes = ERROR) -> bytes:
        self.skipping = True
        return error

    def _ready(self) -> bytes:
        if not self.block:
            self.portals.clear()
        return ready_for_query(b"T" if self.block else b"I")

    def _run(self, sql: bytes) -> bytes | None:
        """None for an error."""
        self.ran.append(sql)
        if sql.startswith((b"bad", b"worse")):
            return None
        if sql.startswith(b"begin"):
            self.block = True
            return message(b"C", b"BEGIN\0")
        if sql.startswith(b"commit"):
            self.block = False
            self.portals.clear()
            return message(b"C", b"COMMIT\0")
        return message(b"D", b"\0\0") + message(b"C", b"SELECT 1\0")

    def _query(self, body: bytes) -> bytes:
        sql = body[:-1]
        self.statements.pop(b"", None)
        self.portals.pop(b"", None)
        if not sql:
            self.ran.append(sql)
            return message(b"I") + self._ready()
        if sql == b"copy early":
            self.ran.append(sql)
            return message(b"G", b"\0\0\0") + ERROR + self._ready()
        if sql.startswith(b"copy"):
            self.ran.append(sql)
            self.copying = "simple"
            return message(b"G", b"\0\0\0")
        return (self._run(sql) or ERROR) + self._ready()

    def _parse(self, body: bytes) -> bytes:
        name, sql, _ = body.split(b"\0", 2)
        name = name[:63]
        if not name:
            self.statements.pop(b"", None)
        if name in self.statements or sql.startswith(b"bad"):
            return self._error()
        self.statements[name] = sql
        return message(b"1")

    def _bind(self, body: bytes) -> bytes:
        portal, name, _ = body.split(b"\0", 2)
        portal, name = portal[:63], name[:63]
        if name not in self.statements or (portal and portal in self.portals):
            return self._error()
        self.portals[portal] = self.statements[name]
        return message(b"2")

    def _execute(self, body: bytes) -> bytes:
        portal = body[:-5][:63]
        if portal not in self.portals:
            return self._error(ABSENT)
        sql = self.portals[portal]
        if sql == b"copy early":
            self.ran.append(sql)
            return message(b"G", b"\0\0\0") + self._error()
        if sql.startswith(b"copy"):
            self.ran.append(sql)
            self.copying = "extended"
            return message(b"G", b"\0\0\0")
        return self._run(sql) or self._error()

    def _describe(self, body: bytes) -> bytes:
        names: dict[bytes, bytes] = self.statements if body[:1] == b"S" else self.portals
        if body[1:-1][:63] not in names:
            return self._error()
        return (message(b"t", struct.pack(">HI", 1, 23)) if body[:1] == b"S" else b"") + message(b"n")

    def _close(self, body: bytes) -> bytes:
        (self.statements if body[:1] == b"S" else self.portals).pop(body[1:-1][:63], None)
        return message(b"3")

    def _sync(self, body: bytes) -> bytes:
        self.skipping = False
        return self._ready()

    def _in_copy(self, kind: bytes, body: bytes) -> bytes:
        if kind in (b"S", b"H"):
            return b""
        how, failed = self.copying, kind == b"f" or (kind == b"d" and body.startswith(b"bad"))
        if kind == b"d" and not failed:
            return b""
        assert kind in (b"d", b"c", b"f"), kind
        self.copying = ""
        if how == "simple":
            return (ERROR if failed else message(b"C", b"COPY 2\0")) + self._ready()
        return self._error() if failed else message(b"C", b"COPY 2\0")
