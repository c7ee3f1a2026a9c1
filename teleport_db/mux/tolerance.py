"""How much nonsense of one peer is borne.

Three floods cost a multiplexer more than they cost whoever sends them: pings, each of which wants an
answer; streams that are opened in vain (compare CVE-2023-44487, the same in HTTP/2); frames that say
nothing.  They are counted, an interval.  Frames for streams that are gone are different: they may have been
under way, so every stream that goes leaves a budget of what its peer may still have sent.
"""

from __future__ import annotations

from typing import Final

from teleport_db.errors import RemoteProtocolError
from teleport_db.mux.frames import INITIAL_WINDOW
from teleport_db.mux.limits import Limits

#: Frames beyond its window that a stream which is gone may still be sent: updates, a FIN, a RST.
_LATE_FRAMES: Final = 64


class Tolerance:
    """Counts, and raises RemoteProtocolError when it is too much."""

    __slots__ = ("_idle_frames", "_late", "_limits", "_pings", "_resets")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pings = self._resets = self._idle_frames = self._late = 0

    def new_interval(self) -> None:
        """What may be done so often an interval may be done again."""
        self._pings = self._resets = self._idle_frames = 0

    def ping(self) -> None:
        """The peer wants an answer."""
        self._pings += 1
        if self._pings > self._limits.pings:
            raise RemoteProtocolError("too many pings")

    def in_vain(self) -> None:
        """The peer opened a stream that was refused, or reset its own."""
        self._resets += 1
        if self._resets > self._limits.resets:
            raise RemoteProtocolError("too many streams were opened in vain")

    def idle(self) -> None:
        """A frame said nothing."""
        self._idle_frames += 1
        if self._idle_frames > self._limits.idle_frames:
            raise RemoteProtocolError("too many frames that say nothing")

    def gone(self, left: int = INITIAL_WINDOW) -> None:
        """A stream is gone whose peer could still send ``left`` bytes, each in a frame of its own, and credits."""
        window = self._limits.window
        most = (self._limits.streams + self._limits.resets) * (3 * window + _LATE_FRAMES)
        self._late = min(self._late + 2 * left + window + _LATE_FRAMES, most)

    def late(self, length: int) -> None:
        """A frame with a body of ``length`` bytes came for a stream that is gone."""
        self._late -= 1 + length
        if self._late < 0:
            raise RemoteProtocolError("too much was sent to streams that are gone")
