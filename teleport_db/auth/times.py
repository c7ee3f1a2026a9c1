"""Times as the API writes them: RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from teleport_db.errors import BadRequest


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as ``2026-11-22T16:11:42Z``; parts of a second are cut off."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: str) -> float:
    """The reverse; any offset is understood, a time without one is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise BadRequest("a time is written as 2026-01-31T12:00:00Z") from error
