"""The lines of the audit log's files: making, reading from the newest on, verifying."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any

from teleport_db.audit.events import encode
from teleport_db.errors import AuditUnavailable

Event = dict[str, Any]


def line(source: str, seq: int, event: Mapping[str, Any], chain: str) -> tuple[bytes, str]:
    """A line of the log and its chain value, given that of the line before."""
    body = f'{{"source":{json.dumps(source)},"seq":{seq},"event":{encode(event)}'.encode("ascii")
    chain = hashlib.sha256(chain.encode("ascii") + body).hexdigest()
    return body + f',"chain":"{chain}"}}\n'.encode("ascii"), chain


def record(line: bytes) -> dict[str, Any] | None:
    """What a line with its end says, or None for what is no whole line of the log."""
    try:
        made = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(made, dict):
        return None
    fits = isinstance(made.get("source"), str) and isinstance(made.get("seq"), int)
    return made if fits and isinstance(made.get("event"), dict) else None


def files(directory: Path) -> list[Path]:
    """The log's files, the oldest first."""
    return sorted(directory.glob("[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].jsonl"))


def newest_first(
    directory: Path, durable: tuple[Path, int], since: float | None, marks: Sequence[bytes], after: str | None
) -> Iterator[Event]:
    """Events with all ``marks`` in their line, and the one with uid ``after``; those on the disk only.

    :param durable: the newest file, and how much of it is synced.
    :param since: seconds since the epoch; files that can hold nothing as new are not read.
    """
    # An event is received after it happened; a day is for clocks that disagree.
    oldest = "" if since is None else f"{datetime.fromtimestamp(since, UTC) - timedelta(days=1):%Y-%m-%d}"
    last, size = durable
    cursor = None if after is None else f'"uid":{json.dumps(after)}'.encode()
    for path in reversed(files(directory)):
        if path.name > last.name:
            continue
        if path.name < oldest:
            return
        for text in _lines_backwards(path, size if path == last else path.stat().st_size):
            if all(mark in text for mark in marks) or (cursor is not None and cursor in text):
                made = record(text + b"\n")
                if made is not None:
                    yield made["event"]


def _lines_backwards(path: Path, size: int, block: int = 1 << 16) -> Iterator[bytes]:
    with open(path, "rb") as file:
        pieces: list[bytes] = []  # of one line, its end first
        while size > 0:
            start = max(0, size - block)
            file.seek(start)
            lines = file.read(size - start).split(b"\n")
            size = start
            if len(lines) > 1:
                yield lines[-1] + b"".join(reversed(pieces))
                yield from reversed(lines[1:-1])
                pieces = []
            pieces.append(lines[0])
        yield b"".join(reversed(pieces))


def verify(directory: str | PathLike[str], *, checkpoint: str | None = None) -> int:
    """Follow the chain through all files; returns how many lines there are.

    :param checkpoint: a value of :attr:`AuditLog.chain` kept elsewhere, which must come up.

    Raises AuditUnavailable that names the first line that does not follow from the one before.
    """
    chain, count, seen = "", 0, checkpoint in (None, "")
    for path in files(Path(directory)):
        with open(path, "rb") as file:
            for number, text in enumerate(file, 1):
                body, mark, rest = text.rpartition(b',"chain":"')
                chain = hashlib.sha256(chain.encode("ascii") + body).hexdigest()
                if not mark or rest != chain.encode("ascii") + b'"}\n':
                    raise AuditUnavailable(f"the audit log was changed at or before {path.name}:{number}")
                count += 1
                seen = seen or chain == checkpoint
    if not seen:
        raise AuditUnavailable("the audit log was cut: it does not contain the checkpoint")
    return count
