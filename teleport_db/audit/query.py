"""What is looked for in the audit log, and whether an event is it.  The index finds candidates by the same words.

A text is found by its words: runs of letters, digits and underscores, in any case.  ``drop table users`` finds
events that have all three, in any order; ``us*`` finds what begins so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import attrs

_WORD = re.compile(r"\w+")
_WANTED = re.compile(r"\w+\*?")

#: Fields that are found by their own criteria, that nobody would remember, or that say what was looked for before.
_NOT_TEXT = frozenset(
    {
        "criteria",
        "ei",
        "event",
        "code",
        "time",
        "uid",
        "sid",
        "user",
        "cluster_name",
        "server_id",
        "recorded_by",
        "revokes",
    }
    | {"db_service", "db_protocol", "db_uri", "db_name", "db_user", "sqlstate", "sha256"}
)

#: Characters of a word that count.
MAX_WORD = 64


def words(text: str) -> set[str]:
    """The words of a text, as they are kept: ASCII, lower case, other letters by their numbers."""
    if text.isascii():
        return {word[:MAX_WORD] for word in _WORD.findall(text.lower())}
    return {_spelt(word) for word in _WORD.findall(text.casefold())}


def _spelt(word: str) -> str:
    # No tokenizer of a database's may know other letters, or fold them otherwise, than this module does.
    word = word[:MAX_WORD]
    return word if word.isascii() else "".join(c if c.isascii() else f"_{ord(c):x}_" for c in word)


def wanted_words(text: str) -> tuple[tuple[str, bool], ...]:
    """The words that are looked for, each with whether it is only how one begins."""
    found = dict.fromkeys(
        (_spelt(word.rstrip("*")), word.endswith("*")) for word in _WANTED.findall(text.casefold()) if word != "*"
    )
    return tuple(found)


def event_words(event: Mapping[str, Any]) -> set[str]:
    """The words of all that an event says in texts of its own."""
    return words("\n".join(_texts(event)))


def _texts(event: Mapping[str, Any]) -> Iterator[str]:
    for name, value in event.items():
        if name not in _NOT_TEXT:
            if type(value) is str:
                yield value
            elif type(value) in (list, dict):
                yield from _inner(value)


def _inner(value: Any) -> Iterator[str]:
    waiting = [value]  # no recursion: an event may be as deep as JSON is read
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


_second = ("", 0)


def milliseconds(time: object) -> int:
    """An event's time in milliseconds since the epoch; 0 for what is none."""
    global _second  # noqa: PLW0603 - the last second: reading a time costs as much as the rest of an event
    if not isinstance(time, str):
        return 0
    if len(time) == 24 and time[23] == "Z" and time[19] == "." and time[20:23].isdigit():
        known, seconds = _second
        if time[:19] != known:
            try:
                seconds = int(datetime.fromisoformat(time[:19] + "+00:00").timestamp())
            except ValueError:
                return 0
            _second = (time[:19], seconds)
        return seconds * 1000 + int(time[20:23])
    try:
        return max(0, int(datetime.fromisoformat(time).timestamp() * 1000))
    except (ValueError, OverflowError):
        return 0


@attrs.frozen
class Query:
    """Criteria, all of which an event must meet; None is none.

    :param event: its name; ``code``, ``user``, ``db_service``, ``db_name``, ``db_user``, ``sid``, ``sqlstate``
        are compared with the fields of these names.
    :param text: see the module.
    :param since: seconds since the epoch of the oldest wanted, by the event's own time.
    :param until: the same of the newest, which is not included.
    """

    event: str | None = None
    code: str | None = None
    user: str | None = None
    db_service: str | None = None
    db_name: str | None = None
    db_user: str | None = None
    sid: str | None = None
    sqlstate: str | None = None
    text: str | None = None
    since: float | None = None
    until: float | None = None

    @property
    def fields(self) -> dict[str, str]:
        """The criteria that are compared with a field."""
        found = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def oldest(self) -> int:
        """Milliseconds since the epoch."""
        return 0 if self.since is None else round(self.since * 1000)

    @property
    def newest(self) -> int:
        """The same; not included."""
        return 1 << 62 if self.until is None else round(self.until * 1000)

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether an event meets all of them."""
        if not self.fields.items() <= event.items():
            return False
        if not self.oldest <= milliseconds(event.get("time")) < self.newest:
            return False
        return self.text is None or _has(event_words(event), wanted_words(self.text))


def _has(words: set[str], wanted: tuple[tuple[str, bool], ...]) -> bool:
    return all(
        any(word.startswith(start) for word in words) if is_start else start in words for start, is_start in wanted
    )


#: The fields that are compared, each with an index.
FIELDS = ("event", "code", "user", "db_service", "db_name", "db_user", "sid", "sqlstate")
