"""``tctl audit export``: the audit log as JSON lines or CSV, to a file or to S3.

::

    page ─▶ FILE, synced ─▶ FILE.cursor {"after", "bytes", "query"}     again from the start of the loop
    page ─▶ ... 8 MiB ─▶ part of a multipart upload ─▶ KEY.cursor       S3: the cursor is an object as well

The cursor says what is in the output: an export that was killed cuts off what stands behind it, or uploads a part
once more, and goes on there.  So the output has each event once.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from teleport_db.api.http import Client
from teleport_db.cli.auditquery import Event, ask, filter_arguments, filters
from teleport_db.cli.exporting import FileTarget, S3Target, Target
from teleport_db.cli.output import clean
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tctl_session import client
from teleport_db.errors import UsageError

#: Events of one page.
PAGE = 5000

#: The columns of CSV: fields of events.
COLUMNS = (
    *("time", "event", "code", "user", "cluster_name", "sid", "ei", "uid", "db_service", "db_name", "db_user"),
    *("statement_id", "db_query", "db_query_parameters", "success", "sqlstate", "rows", "affected_records"),
    *("duration_ms", "command_tag", "error", "message", "reason", "addr.remote"),
)


def export_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl audit export``."""
    parser.add_argument("--out", required=True, metavar="FILE", help="a file, or s3://BUCKET/KEY")
    filter_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="begin anew, whatever is there")
    parser.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="what to write (default: jsonl)")


def export(arguments: Arguments) -> None:
    """Write the events that the flags choose, the oldest first; go on where an export before was interrupted."""
    query = {**filters(arguments), "format": arguments.format}
    # A length of time back is another moment at each call; what was said is what must be the same.
    said = {**query, "since": arguments.since, "until": arguments.until}
    target = _target(arguments.out)
    begun = target.begin(said, overwrite=arguments.overwrite)
    query = {**query, **{name: begun.get(name, query[name]) for name in ("since", "until")}}
    with client(arguments) as api:
        count = _copy(api, target, query, begun)
    print(f"{count} events were written to {clean(arguments.out)}.")


def _target(out: str) -> Target:
    if not out.startswith("s3://"):
        return FileTarget(out)
    bucket, _, key = out.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise UsageError("--out: s3://BUCKET/KEY")
    return S3Target(bucket, key)


def _copy(api: Client, target: Target, query: dict[str, Any], begun: dict[str, Any]) -> int:
    form = query["format"]
    asked = {name: value for name, value in query.items() if name != "format"}
    count = int(begun.get("events", 0))
    if form == "csv" and not count:
        target.write(_csv([COLUMNS]), None)
    progress = _Progress()
    for events, after in () if begun.get("complete") else _pages(api, asked, int(begun.get("after", 0))):
        count += len(events)
        data = _csv(map(_cells, events)) if form == "csv" else _lines(events)
        target.write(data, {"after": after, "events": count, "since": query["since"], "until": query["until"]})
        progress.show(count)
    target.finish()
    progress.end()
    return count


def _pages(api: Client, query: dict[str, Any], after: int) -> Iterator[tuple[list[Event], int]]:
    """Pages up to what the log has by the time of the last: each with where the next begins."""
    while True:
        answer = ask(api, {**query, "order": "oldest", "limit": PAGE, "after": after})
        events, after = answer.get("events", []), int(answer.get("next") or after)
        yield events, after
        if not answer.get("more"):
            return


def _lines(events: list[Event]) -> bytes:
    return "".join(f"{json.dumps(event, separators=(',', ':'))}\n" for event in events).encode("ascii")


def _csv(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cells(event: Event) -> list[str]:
    return [_cell(event.get(name)) for name in COLUMNS]


def _cell(value: Any) -> str:
    """A field as text; one that a spreadsheet would take for a formula has a quote before it."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


class _Progress:
    def __init__(self) -> None:
        self._next = time.monotonic() + 1
        self._said = False

    def show(self, count: int) -> None:
        """So many events are written."""
        if sys.stderr.isatty() and time.monotonic() >= self._next:
            self._next, self._said = time.monotonic() + 0.5, True
            print(f"\r{count} events", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._said:
            print(file=sys.stderr)
