"""The last words of sessions on a disk without room: kept, and written when there is some again.

::

    statement ── no room ──▶ the session ends; its end ── no room ──▶ waits here ── room ──▶ spool

A session whose start was recorded has an end in the log, also where a full disk was what ended it.  An agent that
is killed with such ends loses them; auth makes ends up for those sessions then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from twisted.logger import Logger

from teleport_db.errors import AuditUnavailable

log = Logger()

#: Batches that wait at most, of one or two events each; what more comes is lost, and logged as that.
MAX_WAITING: Final = 5000


class Appendable(Protocol):
    """What of a spool is needed; :class:`teleport_db.audit.spool.Spool` has it."""

    def append(self, events: Sequence[Mapping[str, Any] | bytes], *, closing: bool = False) -> None:
        """Write events down; AuditUnavailable when they are not."""


class LastWords:
    """Writes what ends sessions into a spool, at once or later.

    :ivar waiting: what was not written yet, in its order.
    """

    def __init__(self, spool: Appendable) -> None:
        self._spool = spool
        self.waiting: deque[Sequence[Mapping[str, Any] | bytes]] = deque()

    def append(self, events: Sequence[Mapping[str, Any] | bytes]) -> None:
        """Write them behind those that wait, or have them wait; AuditUnavailable when there are too many of those."""
        self.waiting.append(events)
        error = self.write()
        if error is None:
            return
        if len(self.waiting) > MAX_WAITING:
            self.waiting.pop()
            raise error
        if len(self.waiting) == 1:
            log.error("ends of sessions wait until the spool can be written: {detail}", detail=error.detail)

    def write(self) -> AuditUnavailable | None:
        """Try again; the error if some of them still wait."""
        while self.waiting:
            try:
                self._spool.append(self.waiting[0], closing=True)
            except AuditUnavailable as error:
                return error
            self.waiting.popleft()
        return None
