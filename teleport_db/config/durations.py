"""Lengths of time as people write them: ``1h30m``, ``90s``, ``8760h``.

The form is that of Go's ``time.ParseDuration`` and ``Duration.String``, which the files and flags of
Teleport use; negative lengths have no meaning here and are refused.
"""

from __future__ import annotations

import re
from fractions import Fraction

#: Nanoseconds in each unit.
UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # MICRO SIGN
    "μs": 10**3,  # GREEK SMALL LETTER MU, which Go takes as well
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}

#: The longest length taken, in seconds: two hundred years.
LONGEST = 200 * 366 * 86400

_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h)")
_BARE = re.compile(r"[0-9]+(\.[0-9]*)?")


def parse_duration(text: str) -> float:
    """Seconds of ``text``.

    :raises ValueError: with a sentence for whoever wrote it.
    """
    if text == "0":
        return 0.0
    total = Fraction(0)
    at = 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            break
        total += Fraction(part[1] if part[1][-1] != "." else part[1][:-1]) * UNITS[part[2]]
        at = part.end()
    if at < len(text) or not text:
        hint = f"; did you mean {text}s?" if len(text) < 12 and _BARE.fullmatch(text) else ""
        raise ValueError(f"not a length of time: {text[:40]!r} (examples: 1h30m, 90s, 8760h){hint}")
    seconds = total / 10**9
    if seconds > LONGEST:
        raise ValueError(f"too long a time: {text[:40]!r}")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """``seconds`` in the form that :func:`parse_duration` reads: ``30h0m0s``, ``1m30s``, ``1.5s``, ``0s``."""
    nanoseconds = round(seconds * 10**9)
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    whole, fraction = divmod(rest, 10**9)
    text = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".") if fraction else str(whole)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{text}s"
    return f"{minutes}m{text}s" if minutes else f"{text}s"
