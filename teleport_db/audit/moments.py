"""Moments as events have them."""

from __future__ import annotations

import time

_second = (0, "1970-01-01T00:00:00.")


def timestamp(now: float) -> str:
    """Seconds since the epoch as RFC 3339, UTC, with milliseconds: ``2026-11-22T16:05:00.125Z``."""
    global _second  # noqa: PLW0603 - the last second's text: time.gmtime costs more than the rest of an event
    thousandths = int(now * 1000)
    seconds = thousandths // 1000
    known, text = _second
    if seconds != known:
        text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(seconds))
        _second = (seconds, text)
    return f"{text}{thousandths - seconds * 1000:03d}Z"
