"""Who read what of the audit log, in the audit log.

A reader that asks the same again, as who turns pages or follows does, is told of once in ten minutes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from twisted.internet.interfaces import IReactorTime

from teleport_db.auth.recorder import Recorder

#: Seconds in which the same question of the same reader is not recorded again.
SAME_SECONDS = 600.0

#: Questions that are remembered.
MAX_KNOWN = 10_000


class Reads:
    """Records reads.

    :param clock: seconds since the epoch.
    """

    def __init__(self, recorder: Recorder, *, clock: IReactorTime) -> None:
        self._recorder = recorder
        self._clock = clock
        self._known: OrderedDict[str, float] = OrderedDict()

    async def record(self, event: str, *, by: str, **asked: Any) -> None:
        """Somebody is about to read; fails with AuditUnavailable, and then nothing is to be shown."""
        now, key = self._clock.seconds(), f"{event}\0{by}\0{asked}"
        if now < self._known.get(key, 0.0):
            return
        await self._recorder.record(event, user=by, **asked)
        self._known.pop(key, None)
        self._known[key] = now + SAME_SECONDS
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
