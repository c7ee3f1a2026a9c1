"""Reads a host's shipment of audit events: each is decoded once, and goes into the log as the bytes that came.

::

    {"events":[{"seq":7,"event":{...}},{"seq":8,"event":{...}}]}

That is what agents and proxies send, to the byte.  The same as any other JSON is taken as well, and encoded anew.
"""

from __future__ import annotations

import json
import re
from typing import Any

from teleport_db.audit.logfile import RawEvent
from teleport_db.auth import body as fields
from teleport_db.net import answers

#: Events of one shipment.
MAX_EVENTS = 2000

Shipment = list[tuple[int, dict[str, Any]]]

_BEGIN, _NEXT, _END = '{"events":[', "},", "}]}"
_ENTRY = re.compile(r'\{"seq":([0-9]{1,18}),"event":')
#: White space that breaks a line of the log, or may hide a name from being counted.
_SPACES = ("\n", "\r", '" ', '"\t')

_decode = json.JSONDecoder().raw_decode


def _is_plain(raw: str, event: dict[str, Any]) -> bool:
    """Whether each name comes once, as in all JSON that an encoder makes.

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


def read_shipment(content: bytes) -> Shipment:
    """The events of a body, with their numbers; BadRequest for what is none."""
    found = _as_sent(content) if content.isascii() else None
    return _any(content) if found is None else found


def _as_sent(content: bytes) -> Shipment | None:
    text, at = content.decode("ascii"), len(_BEGIN)
    found: Shipment = []
    if not text.startswith(_BEGIN):
        return None
    while len(found) < MAX_EVENTS:
        entry = _ENTRY.match(text, at)
        if entry is None:
            return None
        try:
            event, end = _decode(text, entry.end())
        except (ValueError, RecursionError):
            return None
        raw = text[entry.end() : end]
        if type(event) is not dict:
            return None
        found.append((int(entry[1]), RawEvent(event, raw) if _is_plain(raw, event) else event))
        if text.startswith(_NEXT, end):
            at = end + len(_NEXT)
        elif end == len(text) - len(_END) and text.endswith(_END):
            return found
        else:
            return None
    return None


def _any(content: bytes) -> Shipment:
    entries = fields.objects(answers.json_object(content), "events", limit=MAX_EVENTS)
    return [(fields.whole(entry, "seq"), fields.mapping(entry.get("event"), "event")) for entry in entries]
