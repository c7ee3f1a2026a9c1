"""Events for tests."""

from __future__ import annotations

from typing import Any

from teleport_db.audit.events import SessionEvents
from teleport_db.audit.uids import uid_source

NOW = 1_764_000_000.125


def session(sid: str = "56335587-0157-4228-9556-aaa416741ef7", **changes: Any) -> SessionEvents:
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
    return SessionEvents(**{**fields, **changes})
