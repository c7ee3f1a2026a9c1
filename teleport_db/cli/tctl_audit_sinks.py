"""``tctl audit sinks``: where the audit log is sent on to, and how far each of those is."""

from __future__ import annotations

from typing import Any

from teleport_db.cli.output import emit, format_argument, table
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tctl_session import client

HEADERS = ("Name", "Type", "Target", "State", "Behind", "Sent", "Last Sent", "Error")


def sinks_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl audit sinks``."""
    parser.add_argument("--check", action="store_true", help="exit with status 1 when one of them fails")
    format_argument(parser)


def sinks(arguments: Arguments) -> int:
    """List the sinks; with ``--check`` the exit code says whether all of them work."""
    with client(arguments) as api:
        found: list[dict[str, Any]] = api.call("GET", "/v1/audit/sinks").get("sinks", [])
    emit(found, arguments.format, lambda: table(HEADERS, map(_row, found)) if found else "No sinks are configured.")
    return int(arguments.check and any(sink.get("state") == "failing" for sink in found))


def _row(sink: dict[str, Any]) -> list[object]:
    error = sink.get("error", "")
    return [
        *(sink.get(key, "") for key in ("name", "type", "target", "state", "behind", "sent", "last_sent")),
        f"since {sink.get('since', '?')}: {error}" if error else "",
    ]
