"""Events that are too long for who they are sent to."""

from __future__ import annotations

import json

#: The mark of an event whose texts were cut: how many bytes of its JSON are missing.
CUT = "cut_bytes"

#: Texts of an event that are never cut, in bytes of JSON.
_SHORT = 128


def shortened(event: bytes, limit: int) -> bytes:
    """An event of at most so many bytes: its longest texts are cut, and :data:`CUT` says how much is missing.

    Still longer when it has many texts, each of them short; as it is when it is no object.
    """
    if len(event) <= limit:
        return event
    try:
        fields = json.loads(event)
    except (ValueError, RecursionError):
        return event
    if not isinstance(fields, dict):
        return event
    before = fields.pop(CUT, 0)
    whole = len(event) + (before if isinstance(before, int) else 0)
    while True:
        made = json.dumps({**fields, CUT: whole}, separators=(",", ":")).encode("ascii")
        size = {name: len(json.dumps(value)) for name, value in fields.items() if isinstance(value, str | list | dict)}
        longest = max(size, key=size.__getitem__, default=None)
        if len(made) <= limit or longest is None or size[longest] <= _SHORT:
            fields[CUT] = whole - len(made)
            return json.dumps(fields, separators=(",", ":")).encode("ascii")
        value = fields[longest]
        text = value if isinstance(value, str) else json.dumps(value)
        # A character may stand for twelve bytes of JSON: by halves at most, never to nothing at once.
        keep = max(len(text) * (size[longest] - (len(made) - limit)) // size[longest] - 8, len(text) // 2)
        fields[longest] = text[:keep] + "..." if keep > _SHORT // 4 else "..."
