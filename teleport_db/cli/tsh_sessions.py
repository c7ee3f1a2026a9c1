"""``tsh sessions ls``, ``tsh play``: recorded sessions, one's own unless a role allows more."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from teleport_db.cli.auditquery import LONGEST, Event, details, positive, rows_of, state_of, took
from teleport_db.cli.output import clean, cut, duration, emit, emit_each, format_argument, table
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tsh_db import flags_login
from teleport_db.cli.values import seconds
from teleport_db.errors import NotFound, UsageError

#: Seconds that a pause of the session takes at most when it is replayed.
MAX_PAUSE = 3


def ls_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh sessions ls``."""
    parser.add_argument("--user", metavar="NAME", help="only sessions of this user (needs a role that lists sessions)")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (default: 50)")
    parser.add_argument("--after", type=int, metavar="N", help="go on where a listing before has ended")
    format_argument(parser)


def ls(arguments: Arguments) -> None:
    """List sessions, the newest first."""
    query = {"limit": min(positive("--limit", arguments.limit), 1000), "user": arguments.user, "after": arguments.after}
    with flags_login(arguments).credentials.client() as client:
        answer = client.call("GET", "/v1/sessions", query=query)
    found = answer.get("sessions", [])
    headers = ["Session", "Started", "Lasted", "User", "Database", "Statements", "Errors", "Ended"]
    emit(found, arguments.format, lambda: table(headers, map(_row, found)))
    if answer.get("next") is not None and arguments.format == "text":
        print(f"there may be more: --after={int(answer['next'])}", file=sys.stderr)


def _row(session: dict[str, Any]) -> list[object]:
    begun, ended = _moment(session.get("started")), _moment(session.get("ended"))
    lasted = duration(ended - begun) if begun and ended else ""
    where = " ".join(str(session[key]) for key in ("db_service", "db_name") if session.get(key))
    started = str(session.get("started", ""))[:19].replace("T", " ")
    over = session.get("reason") or "yes" if session.get("ended") else "open"
    counts = [session.get("statements", 0), session.get("errors", 0)]
    return [session.get("sid", ""), started, lasted, session.get("user", ""), where, *counts, over]


def play_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh play``."""
    parser.add_argument("session", metavar="SESSION", help="the session's id, see tsh sessions ls")
    parser.add_argument(
        "--speed", type=float, metavar="N", help="so many times as fast (1 at a terminal, else at once)"
    )
    parser.add_argument(
        "--max-pause", metavar="TIME", default=f"{MAX_PAUSE}s", help=f"longer pauses are cut (default: {MAX_PAUSE}s)"
    )
    format_argument(parser, ("text", "json", "yaml"))


def play(arguments: Arguments) -> None:
    """Replay a session's statements with their timing; as JSON or YAML, its events."""
    if arguments.speed is not None and not 0 < arguments.speed < 1e6:
        raise UsageError("--speed: more than 0")
    longest = seconds("--max-pause", arguments.max_pause)
    speed = arguments.speed or (1.0 if sys.stdout.isatty() else None)
    with flags_login(arguments).credentials.client() as client:
        if arguments.format == "text":
            session, events = _session(client, arguments.session, joined="1")
            replay(session, events, print, time.sleep, speed=speed, longest=longest)
        else:
            emit_each(_session(client, arguments.session)[1], arguments.format)


def _session(client: Any, sid: str, **query: str) -> tuple[dict[str, Any], Iterator[Event]]:
    """A session, and its events as they are asked for."""
    from urllib.parse import quote

    def page(after: int | None) -> Any:
        try:
            return client.call("GET", f"/v1/sessions/{quote(sid, safe='')}/events", query={"after": after, **query})
        except NotFound as error:
            raise NotFound(f"{clean(sid)}: {error}") from None

    def events(answer: Any) -> Iterator[Event]:
        yield from answer.get("events", [])
        while answer.get("next") is not None:
            answer = page(answer["next"])
            yield from answer.get("events", [])

    first = page(None)
    return first.get("session", {}), events(first)


def replay(
    session: dict[str, Any],
    events: Iterable[Event],
    show: Callable[[str], object],
    sleep: Callable[[float], object],
    *,
    speed: float | None,
    longest: float,
) -> None:
    """Show a session line by line.

    :param events: a statement with its result in it, where it has one.
    :param speed: how many times as fast as it was; None for at once.
    :param longest: seconds that a pause takes at most.
    """
    where = " ".join(str(session[key]) for key in ("db_service", "db_name") if session.get(key))
    show(
        clean(f"Session {session.get('sid', '')} of {session.get('user', '')}, {where} as {session.get('db_user', '')}")
    )
    begun = previous = None
    for event, lines in shown(events):
        at = _moment(event.get("time"))
        begun = begun or at
        if speed is not None and previous is not None and at > previous:
            sleep(min((at - previous) / speed, longest))
        previous = max(previous or 0.0, at)
        width = shutil.get_terminal_size().columns if speed is not None else LONGEST
        for number, line in enumerate(lines):
            show(cut(f"{_offset(at - (begun or at)) if number == 0 else '':>10}  {line}", width))


def shown(events: Iterable[Event]) -> Iterator[tuple[Event, list[str]]]:
    """The events that are shown, each with its lines: a statement, and below it what came of it."""
    for event in events:
        name, result = str(event.get("event", "")), event.get("result")
        if name == "db.session.start":
            yield event, [f"began, from {clean(str(event.get('addr.remote', '')))}"]
        elif name == "db.session.end":
            yield event, [f"ended: {clean(str(event.get('reason') or 'by the client'))}"]
        elif name == "db.session.query":
            yield event, [details(event), *([_outcome(result)] if isinstance(result, dict) else [])]
        else:
            short = name.removeprefix("db.session.").removeprefix("postgres.")
            yield event, [f"[{clean(short)}] {_outcome(event) if name == 'db.session.result' else details(event)}"]


def _outcome(result: Event) -> str:
    said = [str(result.get("command_tag") or f"{rows_of(result)} rows"), took(result)]
    if state_of(result) != "ok":
        said.insert(0, " ".join(filter(None, [state_of(result), str(result.get("error") or "")])))
    return "  -> " + clean(", ".join(filter(None, said)))


def _offset(seconds: float) -> str:
    minutes, rest = divmod(max(seconds, 0.0), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes:02d}:{rest:04.1f}"


def _moment(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
