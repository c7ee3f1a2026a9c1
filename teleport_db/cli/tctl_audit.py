"""``tctl audit ls``, ``search``, ``tail``: what happened."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from teleport_db.cli.auditquery import (
    HEADERS,
    LONGEST,
    Event,
    ask,
    details,
    filter_arguments,
    filters,
    pages,
    positive,
    row,
)
from teleport_db.cli.output import clean, cut, emit_each, format_argument, table, to_json_line
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tctl_session import client
from teleport_db.errors import UsageError

FORMATS = ("text", "json", "yaml", "jsonl")

#: Characters of details where there is no terminal, and at least.
DETAILS, LEAST = 80, 20

#: Seconds that the auth server holds a call back when nothing happens; less than the client waits.
WAIT = 20


def ls_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl audit ls``."""
    _listing_arguments(parser)
    filter_arguments(parser)
    _form_arguments(parser)


def ls(arguments: Arguments) -> None:
    """Print events, the newest first."""
    _listing(arguments, filters(arguments))


def search_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl audit search``."""
    parser.add_argument("words", nargs="+", metavar="WORD", help="words that all are in it; us* for how one begins")
    _listing_arguments(parser)
    filter_arguments(parser, text=False)
    _form_arguments(parser)


def search(arguments: Arguments) -> None:
    """Print events that have all the words, the newest first."""
    text = " ".join(arguments.words)
    if not any(character.isalnum() or character == "_" for character in text):
        raise UsageError("WORD: letters, digits and underscores are looked for")
    _listing(arguments, {**filters(arguments), "text": text})


def _listing_arguments(parser: Parser) -> None:
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many rows (default: 100)")
    parser.add_argument("--after", type=int, metavar="N", help="go on where a listing before has ended")


def _form_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--raw", action="store_true", help="a statement and its result as the two events they are (--format=text)"
    )
    format_argument(parser, FORMATS)


def _listing(arguments: Arguments, query: dict[str, Any]) -> None:
    limit = positive("--limit", arguments.limit)
    if arguments.format == "text" and not arguments.raw:
        query["joined"] = "1"
    following: Any = None

    def events() -> Iterator[Event]:
        nonlocal following
        for page, after in pages(api, query, limit, arguments.after):
            following = after
            yield from page

    with client(arguments) as api:
        if arguments.format == "text":
            print(_table(events()))
        else:
            emit_each(events(), arguments.format)
    if following is not None:
        print(f"there may be more: --after={int(following)}", file=sys.stderr)


def _table(events: Iterable[Event]) -> str:
    """The table; columns that nothing is in are left out, and texts end with the terminal."""
    # Of a long statement no more is held than can be shown.
    rows = [[cut(clean(cell), LONGEST) for cell in row(event)] for event in events]
    here = [
        number for number, header in enumerate(HEADERS) if header == "Details" or any(cells[number] for cells in rows)
    ]
    if not rows:
        here = [0, 1, 2, 3, 4, 8]
    width = DETAILS
    if sys.stdout.isatty():
        before = sum(max([len(HEADERS[n]), *(len(cells[n]) for cells in rows)]) + 1 for n in here[:-1])
        width = max(shutil.get_terminal_size().columns - before, LEAST)
    for cells in rows:
        cells[-1] = cut(cells[-1], width)
    return table([HEADERS[n] for n in here], [[cells[n] for n in here] for cells in rows])


def tail_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl audit tail``."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")
    parser.add_argument("-n", "--limit", type=int, default=10, metavar="N", help="begin so many back (default: 10)")
    filter_arguments(parser)
    parser.add_argument("--format", choices=("text", "jsonl"), default="text", help="how to print it (default: text)")


def tail(arguments: Arguments) -> None:
    """Print the newest events, the oldest of them first, and what follows."""
    query = filters(arguments)
    if arguments.limit < 0 or arguments.limit > 10_000:
        raise UsageError("--limit: between 0 and 10000")
    with client(arguments) as api:
        show = to_json_line if arguments.format == "jsonl" else _line
        after = int(ask(api, {**query, "limit": 1}).get("last", 0))
        newest = pages(api, query, arguments.limit, after + 1)
        _print([show(event) for events, _ in newest for event in events][::-1])
        while arguments.follow:
            answer = ask(api, {**query, "limit": 1000, "order": "oldest", "after": after, "wait": WAIT})
            _print(map(show, answer.get("events", [])))
            after = answer.get("next") or after


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)
    sys.stdout.flush()


def _line(event: Event) -> str:
    """One event on one line, for people."""
    time, name, _, user, database, rows, took, state, _ = row(event)
    outcome = ", ".join(filter(None, [state, f"{rows} rows" if rows else "", took]))
    text = clean("  ".join(filter(None, [time, name, user, database, outcome, details(event)])))
    return cut(text, shutil.get_terminal_size().columns if sys.stdout.isatty() else LONGEST)
