"""Events for tests."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from teleport_db.audit.blocks import Packer
from teleport_db.audit.events import EncodedEvent
from teleport_db.audit.executions import ExecutionEvents
from teleport_db.audit.uids import uid_source
from teleport_db.pgwire import prepared
from teleport_db.pgwire.prepared import Execution

NOW = 1_764_000_000.125


class Events(ExecutionEvents):
    """The events of a session, and simple queries by their text alone."""

    queries = 0

    def query(self, now: float, sql: bytes) -> EncodedEvent:
        """The next simple query."""
        self.queries += 1
        one = Execution(prepared.QUERY, self.queries, len(sql) + 6)
        one.sql = sql
        return self.execution(now, one)


def session(sid: str = "56335587-0157-4228-9556-aaa416741ef7", **changes: Any) -> Events:
    fields: dict[str, Any] = {
        "cluster_name": "root",
        "server_id": "5603cd43-1172-4f1f-8e35-2bf74dfecf15",
        "sid": sid,
        "user": "alice",
        "db_service": "aurora",
        "db_protocol": "postgres",
        "db_uri": "localhost:5432",
        "db_name": "test",
        "db_user": "bob",
        "new_uid": uid_source(),
    }
    return Events(**{**fields, **changes})


def pack(source: Path, target: Path) -> None:
    """All of a file at once."""
    with contextlib.closing(Packer(source, target)) as packer:
        while packer.pack():
            pass
