"""What auth refuses, in the audit log; as much of it as somebody could mean, and not what a loop would fill it with.

::

    the same refusal of the same caller    once in ten minutes, the next says how often it was meanwhile (``repeated``)
    refusals of one caller                 sixty a minute; strangers, of whom anybody can be many, are one caller
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.audit.codes import FAILURE_CODES
from teleport_db.auth.recorder import Recorder

#: Seconds in which the same refusal is not recorded again.
SAME_SECONDS = 600.0

#: Refusals of one caller, a minute.
A_MINUTE = 60

#: Refusals, and callers, that are remembered.
MAX_KNOWN = 10_000


@attrs.define
class _Known:
    """One refusal: until when it is not told again, and how often it was meanwhile."""

    until: float
    repeated: int = 0


@attrs.define
class _Caller:
    """How many refusals of a caller were recorded in this minute."""

    minute: float
    used: int = 0


class Refusals:
    """Records refusals.

    :param clock: seconds since the epoch.
    """

    def __init__(self, recorder: Recorder, *, clock: IReactorTime) -> None:
        self._recorder = recorder
        self._clock = clock
        self._known: OrderedDict[tuple[str, str, str], _Known] = OrderedDict()
        self._callers: OrderedDict[str, _Caller] = OrderedDict()

    async def record(self, event: str, error: str, *, caller: str, **fields: Any) -> None:
        """Keep one event of a failure, unless the same or too many of this caller's were kept just now.

        :param error: why, for whoever reads the log.
        :param caller: a name that the caller has proven; "" for a stranger.

        Fails with AuditUnavailable.
        """
        now = self._clock.seconds()
        key = (caller, event, f"{error}\0{fields}")
        known = self._known.pop(key, None)
        if known is not None and now < known.until:
            known.repeated += 1
            self._known[key] = known
            return
        if not self._allowed(caller, now):
            return
        self._known[key] = _Known(now + SAME_SECONDS)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        repeated = {"repeated": known.repeated} if known is not None and known.repeated else {}
        await self._recorder.record(event, FAILURE_CODES[event], success=False, error=error, **fields, **repeated)

    def _allowed(self, caller: str, now: float) -> bool:
        minute = now // 60
        counted = self._callers.pop(caller, None)
        if counted is None or counted.minute != minute:
            counted = _Caller(minute)
        self._callers[caller] = counted
        if len(self._callers) > MAX_KNOWN:
            self._callers.popitem(last=False)
        counted.used += 1
        return counted.used <= A_MINUTE
