"""The lines of a process's log: whatever is in an event, it moves no cursor and begins no line of its own.

Names and errors that others sent are in many events.  Each place that logs one could be careful; here nothing is left
to care for.  Of an event's lines all but the first are indented, as Twisted does, so that a traceback is one event.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TextIO

from twisted.logger import FileLogObserver, LogEvent, formatEventAsClassicLogText, formatTime


def text_observer(output: TextIO) -> FileLogObserver:
    """Writes events as lines of text."""
    return FileLogObserver(output, _line)


@lru_cache(maxsize=1)
def _second(when: int) -> str:
    return formatTime(when)


def _line(event: LogEvent) -> str | None:
    """An event as text, its control and formatting characters spelled out; None for one that says nothing.

    Its time is spelled once a second, for that takes longer than all else of it.
    """
    text = formatEventAsClassicLogText(event, lambda when: "-" if when is None else _second(int(when)))
    if text is None or all(map(str.isprintable, text.split("\n"))):
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)
