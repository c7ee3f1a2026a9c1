"""Takes a host's shipment of audit events apart, and decodes none of what it has most of: statements' events.

::

    {"events":[{"seq":7,"event":{"ei":3,"event":"db.session.query",...}},{"seq":8,"event":{...}}]}

That is what agents and proxies send, to the byte.  :func:`pure_split` has a compiled twin, which stands in for it
where that was built.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any, Final, NamedTuple

__all__ = ["Entry", "ShippedStatement", "has_numbers", "is_plain", "pure_split", "split"]

#: What one entry says: its number, the event's JSON; and if that is a statement's event of the plain kind, its kind,
#: session, number in the session, host and cluster (else None each).
Entry = tuple[int, bytes, str | None, str | None, int | None, str | None, str | None]

#: The events of statements.
STATEMENTS: Final = frozenset({"db.session.query", "db.session.result"})

#: Of a whole number, about two hundred digits.
MAX_BITS: Final = 660

#: Characters of a session's id, a host and a cluster at most; names in one event at most; digits of a number.
MAX_FIELD, MAX_NAMES, MAX_EI = 512, 48, 10**15

_BEGIN, _NEXT, _END = '{"events":[', "},", "}]}"
_ENTRY = re.compile(r'\{"seq":([0-9]{1,18}),"event":(?=\{)')
#: White space that breaks a line of the log, or may hide a name from being counted.
_SPACES = ("\n", "\r", '" ', '"\t')

_decode = json.JSONDecoder().raw_decode


class ShippedStatement(NamedTuple):
    """A statement's event, not decoded: JSON in ASCII on one line, flat, each name in it once."""

    json: bytes
    kind: str
    sid: str
    ei: int
    server_id: str
    cluster_name: str

    def decoded(self) -> dict[str, Any]:
        """Its fields."""
        fields: dict[str, Any] = json.loads(self.json)
        return fields


def pure_split(content: bytes, most: int) -> list[Entry] | None:
    """The entries of a shipment as it is sent; None for any other JSON, and for what is none.

    :param most: that it may have.
    """
    if not content.isascii():
        return None
    text, at = content.decode("ascii"), len(_BEGIN)
    found: list[Entry] = []
    if not text.startswith(_BEGIN):
        return None
    while len(found) < most:
        entry = _ENTRY.match(text, at)
        if entry is None:
            return None
        try:
            event, end = _decode(text, entry.end())
        except (ValueError, RecursionError):
            return None
        found.append(_entry(int(entry[1]), text[entry.end() : end], event))
        if text.startswith(_NEXT, end):
            at = end + len(_NEXT)
        elif end == len(text) - len(_END) and text.endswith(_END):
            return found
        else:
            return None
    return None


def _entry(seq: int, raw: str, event: dict[str, Any]) -> Entry:
    kind, code, sid, ei = event.get("event"), event.get("code"), event.get("sid"), event.get("ei")
    host, cluster = event.get("server_id"), event.get("cluster_name")
    if (
        kind in STATEMENTS
        and all(_is_short(text) for text in (code, sid, host, cluster))
        and type(ei) is int
        and 0 <= ei < MAX_EI
        and len(event) <= MAX_NAMES
        and dict not in map(type, event.values())
        and has_numbers(event)
        and is_plain(raw, event)
    ):
        return seq, raw.encode("ascii"), kind, sid, ei, host, cluster
    return seq, raw.encode("ascii"), None, None, None, None, None


def _is_short(text: object) -> bool:
    return isinstance(text, str) and len(text) <= MAX_FIELD and "\\" not in text


def has_numbers(value: Any) -> bool:
    """Whether every number in it is one to all who read JSON: neither infinite nor of hundreds of digits."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if type(one) is dict:
            waiting += one.values()
        elif type(one) is list:
            waiting += one
        elif (type(one) is float and not isfinite(one)) or (type(one) is int and one.bit_length() > MAX_BITS):
            return False
    return True


def is_plain(raw: str, event: dict[str, Any]) -> bool:
    """Whether each name comes once, as in all JSON that an encoder makes, and all of it stands on one line.

    A name that comes twice means one thing here and perhaps another to whoever reads the log.  Names are told by
    what follows them; where a text looks like one, the event is encoded anew, which is slower and no less right.
    """
    names, waiting = len(event), [value for value in event.values() if type(value) in (dict, list)]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            names += len(value)
            waiting += value.values()
        elif type(value) is list:
            waiting += value
    return raw.count('":') == names and not any(space in raw for space in _SPACES)


try:
    from teleport_db._speed import split
except ImportError:  # it was installed without a compiler
    split = pure_split
