"""What commands print: tables for people, JSON and YAML for programs.

Descriptions, labels and messages come from other machines.  In a table they cannot move the cursor,
change colours or add lines: whatever is no printable character is spelled out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

FORMATS = ("text", "json", "yaml")


def clean(text: str) -> str:
    """``text`` on one line, with control and formatting characters spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell, the headers underlined with dashes; no blanks at a line's end."""
    cells = [[clean(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    lines = [list(headers), ["-" * width for width in widths], *cells]
    return "\n".join(
        " ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def to_json(value: Any) -> str:
    """JSON with four blanks, letters as they are; what a terminal would obey is escaped as JSON does."""
    return _escaped(json.dumps(value, indent=4, ensure_ascii=False))


def to_json_line(value: Any) -> str:
    """The same on one line."""
    return _escaped(json.dumps(value, ensure_ascii=False))


def _escaped(text: str) -> str:
    # Outside of strings JSON has printable characters and new lines only.
    if all(map(str.isprintable, text.split("\n"))):
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def to_yaml(value: Any) -> str:
    """YAML in block style, keys in their order."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    def dump(*, letters: bool) -> str:
        return str(yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=letters, width=110))

    text = dump(letters=True)
    # YAML takes marks that turn the direction of writing for letters.
    return (text if all(map(str.isprintable, text.split("\n"))) else dump(letters=False)).removesuffix("\n")


def format_argument(
    parser: argparse.ArgumentParser, formats: Sequence[str] = FORMATS, *, default: str = "text"
) -> None:
    """Declare ``--format``."""
    parser.add_argument("--format", choices=formats, default=default, help=f"how to print it (default: {default})")


def emit(value: Any, form: str, text: Callable[[], str]) -> None:
    """Print ``value`` as JSON or YAML, or what ``text`` makes of it for people."""
    print(to_json(value) if form == "json" else to_yaml(value) if form == "yaml" else text())


def emit_each(values: Iterable[Any], form: str) -> None:
    """Print values as one JSON or YAML list, or one a line (``jsonl``), each as it comes: no more than one is held."""
    begun = False
    for value in values:
        if form == "json":
            shown = to_json(value).replace("\n", "\n    ")
            print(f"{',' if begun else '['}\n    {shown}", end="")
        else:
            print(to_json_line(value) if form == "jsonl" else to_yaml([value]))
        begun = True
    if form == "json":
        print("\n]" if begun else "[]")
    elif form == "yaml" and not begun:
        print("[]")


def cut(text: str, width: int) -> str:
    """``text`` in at most so many characters."""
    return text if len(text) <= width else text[: width - 3] + "..."


def labels(value: Mapping[str, object] | None) -> str:
    """``env=dev,team=a``, sorted by key."""
    return ",".join(f"{key}={value[key]}" for key in sorted(value)) if value else ""


def moment(seconds: float) -> str:
    """Seconds since the epoch as ``2026-01-31 09:00:00 UTC``."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def timestamp(seconds: float) -> str:
    """Seconds since the epoch in RFC 3339, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def duration(seconds: float) -> str:
    """Seconds as ``12h0m``, ``5m30s`` or ``9s``: as much as a person wants to know."""
    whole = max(int(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
