"""Takes a host's shipment of audit events apart, and decodes none of what it has most of: statements' events.

::

    {"events":[{"seq":7,"event":{"ei":3,"event":"db.session.query",...}},{"seq":8,"event":{...}}]}

That is what agents and proxies send, to the byte.  Most of it are runs of statements' events; such a run stays in the
bytes it came in, and what is done with it is done once for all of it.  :func:`pure_split` has a compiled twin, which
stands in for it where that was built.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from math import isfinite
from typing import Any, Final, NamedTuple

import attrs

__all__ = ["Found", "Run", "ShippedStatement", "has_numbers", "is_plain", "pure_split", "split"]

#: An event with its number and its JSON; or a run of statements' events of the plain kind, whose numbers follow each
#: other and which say the same host and cluster: the first number, where in the content each begins and ends (two
#: native 64-bit numbers), of each session the ``ei`` of its last event, the host, the cluster.
Found = tuple[int, bytes] | tuple[int, bytes, dict[str, int], str, str]

#: Of a statement's event: session, number in the session, host, cluster.
_Said = tuple[str, int, str, str]

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


@attrs.frozen
class Run:
    """Events of statements, not decoded, each as a :class:`ShippedStatement`'s.

    :param content: what they came in; ``places``: where in it, see :data:`Found`.
    :param first: the number of the first; those of the others follow one by one.
    :param newest: of each session the ``ei`` of its last event.
    """

    content: bytes
    places: bytes
    first: int
    newest: dict[str, int]
    server_id: str
    cluster_name: str

    @property
    def count(self) -> int:
        """How many there are, one at least."""
        return len(self.places) // 16

    @property
    def last(self) -> int:
        """The number of the last."""
        return self.first + self.count - 1

    def one_by_one(self) -> Iterator[tuple[int, ShippedStatement]]:
        """Each with its number."""
        places = array("q", self.places)
        for number in range(self.count):
            raw = self.content[places[2 * number] : places[2 * number + 1]]
            event = json.loads(raw)
            kind, sid, ei = event["event"], event["sid"], event["ei"]
            yield self.first + number, ShippedStatement(raw, kind, sid, ei, self.server_id, self.cluster_name)


def pure_split(content: bytes, most: int) -> list[Found] | None:
    """What a shipment has, as it is sent; None for any other JSON, and for what is none.

    :param most: entries that it may have.
    """
    if not content.isascii():
        return None
    text, at = content.decode("ascii"), len(_BEGIN)
    found: list[tuple[int, int, int, _Said | None]] = []
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
        found.append((int(entry[1]), entry.end(), end, _said(text[entry.end() : end], event)))
        if text.startswith(_NEXT, end):
            at = end + len(_NEXT)
        elif end == len(text) - len(_END) and text.endswith(_END):
            return list(_runs(content, found))
        else:
            return None
    return None


def _runs(content: bytes, entries: list[tuple[int, int, int, _Said | None]]) -> Iterator[Found]:
    places, first, newest, of = array("q"), 0, dict[str, int](), ("", "")
    for seq, begin, end, said in entries:
        if places and (said is None or seq != first + len(places) // 2 or said[2:] != of):
            yield first, places.tobytes(), newest, *of
            places = array("q")
        if said is None:
            yield seq, content[begin:end]
            continue
        if not places:
            first, newest, of = seq, {}, said[2:]
        places.extend((begin, end))
        newest[said[0]] = said[1]
    if places:
        yield first, places.tobytes(), newest, *of


def _said(raw: str, event: dict[str, Any]) -> _Said | None:
    kind, code, sid, ei = event.get("event"), event.get("code"), event.get("sid"), event.get("ei")
    host, cluster = event.get("server_id"), event.get("cluster_name")
    if (
        isinstance(kind, str)
        and kind in STATEMENTS
        and all(_is_short(text) for text in (code, sid, host, cluster))
        and type(ei) is int
        and 0 <= ei < MAX_EI
        and len(event) <= MAX_NAMES
        and dict not in map(type, event.values())
        and has_numbers(event)
        and is_plain(raw, event)
    ):
        return sid, ei, host, cluster  # type: ignore[return-value] # mypy does not follow all()
    return None


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
