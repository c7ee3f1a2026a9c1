"""Reads a host's shipment of audit events: each goes into the log as the bytes that came, wherever that is safe.

What hosts send is taken apart as it is (:mod:`teleport_db.audit.shipped`).  The same as any other JSON is taken as
well, and encoded anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from teleport_db.audit.logfile import RawEvent
from teleport_db.audit.shipped import Run, has_numbers, is_plain, split
from teleport_db.auth import body as fields
from teleport_db.errors import BadRequest
from teleport_db.net import answers

#: Events of one shipment.
MAX_EVENTS = 2000

Shipment = list[tuple[int, Mapping[str, Any] | Run]]


def read_shipment(content: bytes) -> Shipment:
    """The events of a body with their numbers, runs with that of their first; BadRequest for what is none."""
    entries = split(content, MAX_EVENTS)
    if entries is None:
        return _any(content)
    found: Shipment = []
    for entry in entries:
        if len(entry) == 2:
            seq, raw = entry
            found.append((seq, _decoded(raw.decode("ascii"))))
        else:
            first, places, newest, host, cluster = entry
            found.append((first, Run(content, places, first, newest, host, cluster)))
    return found


def _decoded(raw: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("an event is no JSON that can be read") from None
    event = _with_numbers(event)
    return RawEvent(event, raw) if is_plain(raw, event) else event


def _any(content: bytes) -> Shipment:
    entries = fields.objects(answers.json_object(content), "events", limit=MAX_EVENTS)
    return [
        (fields.whole(entry, "seq"), _with_numbers(fields.mapping(entry.get("event"), "event"))) for entry in entries
    ]


def _with_numbers(event: dict[str, Any]) -> dict[str, Any]:
    if not has_numbers(event):
        raise BadRequest("an event has a number that is none in JSON, or of hundreds of digits")
    return event
