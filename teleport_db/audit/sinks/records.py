"""Which lines of the log a sink gets, and in which form."""

from __future__ import annotations

import json
import re

from teleport_db.audit import logfile
from teleport_db.audit.logfile import CHECKPOINT
from teleport_db.config.sinks import LOG, Sink

#: How the line of an event begins, and the event in it: as this program makes them, so that they need no decoding.
_HEAD = re.compile(rb'\{"source":"(?:[^"\\]|\\.)*","seq":\d+,"event":(?=\{"ei":\d+,"event":"([A-Za-z0-9_.-]{1,64})")')
#: What stands behind the event: ``,"chain":"`` and 64 digits, ``"}``.
_TAIL, _CHAIN_MARK = 76, b',"chain":"'


class DamagedLine(ValueError):
    """A line that is neither an event's nor a checkpoint."""


def chain_of(line: bytes) -> str:
    """The chain value at the end of a line without its end; "" for what has none."""
    if line[-_TAIL : -_TAIL + len(_CHAIN_MARK)] != _CHAIN_MARK:
        return ""
    return line[-_TAIL + len(_CHAIN_MARK) : -2].decode("ascii", "replace")


def ending(chain: str) -> bytes:
    """How the line with this chain value ends."""
    return b'%s%s"}\n' % (_CHAIN_MARK, chain.encode("ascii", "replace"))


def split(line: bytes) -> tuple[str, bytes]:
    """The name and the JSON of the event in a line without its end; DamagedLine for what has none."""
    head = _HEAD.match(line)
    if head is not None and chain_of(line):
        return head[1].decode("ascii"), line[head.end() : -_TAIL]
    record = logfile.record(line + b"\n")
    if record is None:
        raise DamagedLine
    event = record["event"]
    return str(event.get("event", "")), json.dumps(event, separators=(",", ":")).encode("ascii")


class Selection:
    """What one sink gets of the log.

    :ivar everything: whether that is every line as it is.
    """

    def __init__(self, sink: Sink) -> None:
        self._whole = sink.format == LOG
        self._wanted = re.compile("|".join(map(_expression, sink.events))) if sink.events else None
        self.everything = self._whole and self._wanted is None

    def __call__(self, line: bytes) -> bytes | None:
        """The record of a line, both without their ends; None when the sink gets none.  DamagedLine."""
        if line.startswith(CHECKPOINT):
            return line if self._whole else None
        name, event = split(line)
        if self._wanted is not None and not self._wanted.fullmatch(name):
            return None
        return line if self._whole else event


def _expression(glob: str) -> str:
    return ".*".join(map(re.escape, glob.split("*")))
