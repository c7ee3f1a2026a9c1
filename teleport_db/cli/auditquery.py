"""Asking the audit log from the command line: the flags, the pages, a statement and its result as a row."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from teleport_db.api.http import Client
from teleport_db.cli.output import clean, timestamp
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.values import seconds
from teleport_db.errors import UsageError

Event = dict[str, Any]

#: Events asked for at a time; the server sends fewer where they are large.
PAGE = 1000

#: Characters of an event that are shown where there is no terminal: a statement may have millions.
LONGEST = 2000

#: Flag -> parameter of the call.
_FLAGS = {
    "event": "event",
    "code": "code",
    "user": "user",
    "db": "db_service",
    "db_name": "db_name",
    "db_user": "db_user",
    "session": "sid",
    "sqlstate": "sqlstate",
}


def filter_arguments(parser: Parser, *, text: bool = True) -> None:
    """Declare the flags that choose events."""
    parser.add_argument("--event", metavar="NAME", help="only events of this type, as db.session.query")
    parser.add_argument("--code", metavar="CODE", help="only events with this code, as TDB00W")
    parser.add_argument("--user", metavar="NAME", help="only events of this Teleport user")
    parser.add_argument("--db", metavar="NAME", help="only events of this database service")
    parser.add_argument("--db-name", metavar="NAME", help="only events of this database inside a server")
    parser.add_argument("--db-user", metavar="NAME", help="only events of this database user")
    parser.add_argument("--session", metavar="ID", help="only events of this session")
    parser.add_argument("--sqlstate", metavar="CODE", help="only statements that ended with this SQLSTATE, as 42P01")
    if text:
        parser.add_argument("--text", metavar="WORDS", help="only events with all these words; us* for how one begins")
    parser.add_argument("--since", metavar="TIME", help="from this time on: RFC 3339, or a length of time back, as 24h")
    parser.add_argument("--until", metavar="TIME", help="before this time")


def filters(arguments: Arguments) -> dict[str, Any]:
    """Those flags as parameters of the call."""
    found = {name: getattr(arguments, flag) for flag, name in _FLAGS.items()}
    return {
        **found,
        "text": getattr(arguments, "text", None),
        "since": when("--since", arguments.since),
        "until": when("--until", arguments.until),
    }


def when(flag: str, text: str | None) -> str | None:
    """A point in time as RFC 3339: given so, or as a length of time before now."""
    if text is None:
        return None
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return timestamp(time.time() - seconds(flag, text))
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ask(client: Client, query: dict[str, Any]) -> dict[str, Any]:
    """One page; while the index is made, say how far it is and ask again."""
    said = False
    while True:
        answer = client.call("GET", "/v1/audit", query=query)
        indexing = answer.get("indexing")
        if not isinstance(indexing, dict):
            if said:
                print(file=sys.stderr)
            return answer
        total = max(int(indexing.get("total", 0)), 1)
        done = 100 * (total - int(indexing.get("missing", 0))) // total
        print(f"\rthe index of the audit log is being made: {done} %", end="", file=sys.stderr, flush=True)
        said = True


def pages(client: Client, query: dict[str, Any], limit: int, after: int | None) -> Iterator[tuple[list[Event], Any]]:
    """Pages until ``limit`` events are there or no more: each with where to go on."""
    left = limit
    while left > 0:
        answer = ask(client, {**query, "limit": min(left, PAGE), "after": after})
        events, after = answer.get("events", []), answer.get("next")
        left -= len(events)
        yield events, after
        if after is None or not events:
            return


def positive(flag: str, value: int) -> int:
    """A number of a flag, at least 1."""
    if value < 1:
        raise UsageError(f"{flag}: at least 1")
    return value


HEADERS = ("Time", "Event", "Code", "User", "Database", "Rows", "Took", "State", "Details")


def row(event: Event) -> list[str]:
    """An event as the cells of :data:`HEADERS`; a statement with its result."""
    found = event.get("result")
    result: Event = found if isinstance(found, dict) else event if event.get("event") == "db.session.result" else {}
    database = " ".join(str(event[key]) for key in ("db_service", "db_name") if event.get(key))
    return [
        str(event.get("time", "")),
        str(event.get("event", "")),
        str(event.get("code", "")),
        str(event.get("user", "")),
        database,
        rows_of(result),
        took(result),
        state_of(result),
        details(event),
    ]


def rows_of(result: Event) -> str:
    """How many rows came, or were changed."""
    count = result.get("rows") or result.get("affected_records")
    return "" if not result else str(count or 0)


def took(result: Event) -> str:
    """How long a statement ran, as ``1.5ms`` or ``12.3s``."""
    given = result.get("duration_ms")
    if isinstance(given, bool) or not isinstance(given, int | float):
        return ""
    return f"{given:.1f}ms" if given < 1000 else f"{given / 1000:.1f}s"


def state_of(result: Event) -> str:
    """``ok``, or the SQLSTATE."""
    if not result:
        return ""
    return "ok" if result.get("success") else str(result.get("sqlstate") or "failed")


#: What of an event about no statement is told, as far as it has it.
_ABOUT = (
    *("name", "services", "changes", "criteria", "session_id", "databases", "node_name", "cert_type", "usage", "names"),
    *("db_user", "target", "roles", "spec", "traits", "uses", "count", "files", "second_factor", "after_crash"),
)


def _about(event: Event) -> str:
    """What was done to what, in a few words; where it came from when there is nothing else."""
    told = [
        f"{key}={_short(event[key])}"
        for key in _ABOUT
        if event.get(key) and not str(event.get("event")).startswith("db.")
    ]
    return " ".join(told) or str(event.get("name") or event.get("addr.remote") or "")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}:{_short(value[key])}" for key in value)
    if isinstance(value, list):
        return ",".join(_change(one) if isinstance(one, dict) else str(one) for one in value)
    return "yes" if value is True else str(value)


def _change(change: dict[str, Any]) -> str:
    """A key of a configuration that is another."""
    return f"{change.get('key')}:{change.get('from')}->{change.get('to')}"


def details(event: Event) -> str:
    """What there is to read in an event, on one line."""
    texts = ("db_query", "query", "error", "message", "reason", "command_tag", "statement_name", "portal_name")
    said = next((event[key] for key in texts if event.get(key)), "") or _about(event)
    for name in ("db_query_parameters", "parameters", "function_args"):
        if isinstance(event.get(name), list) and event[name]:
            said = f"{said} -- {', '.join(map(str, event[name]))}"
    return clean(str(said))
