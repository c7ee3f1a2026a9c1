"""What one peer may cost."""

from __future__ import annotations

import attrs

from teleport_db.mux.frames import INITIAL_WINDOW, MAX_U32


def _window(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not INITIAL_WINDOW <= value <= MAX_U32:
        raise ValueError(f"a window has {INITIAL_WINDOW} to {MAX_U32} bytes, not {value}")


@attrs.frozen
class Limits:
    """Bounds of a session.  Those "an interval" are counted anew by :meth:`Session.new_interval`.

    :param streams: streams at a time, whoever opened them.
    :param window: bytes of one stream that may wait here for a slow reader, at least 256 KiB.
    :param backlog: streams opened here that the peer has not taken yet.
    :param pings: pings of the peer that are answered, an interval.
    :param resets: streams that the peer opens in vain, or resets itself, an interval (compare
        CVE-2023-44487, the same flood in HTTP/2).
    :param idle_frames: frames that say nothing, an interval.
    """

    streams: int = 1000
    window: int = attrs.field(default=2 * INITIAL_WINDOW, validator=_window)
    backlog: int = 256
    pings: int = 64
    resets: int = 5000
    idle_frames: int = 1000
