"""Hears of changes in the cluster by a long poll of auth, for ever.

::

    GET /v1/watch                     everything
    GET /v1/watch?since=REVISION      what came since: at once, or when it comes, or nothing after a while
    failed                            asked for everything again, after a while
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.api.client import Call

log = Logger()

#: Seconds auth may keep a poll waiting.
POLL_SECONDS = 50

#: Seconds beyond these after which a poll has failed.
GRACE_SECONDS = 15.0

#: Seconds between polls that failed: the first, and the most.
RETRY_SECONDS = (1.0, 15.0)


def _cancelled(reason: Failure) -> None:
    reason.trap(CancelledError)


class Watcher:
    """Keeps something current.

    :param call: the API client's ``call``.
    :param kinds: what to hear of.
    :param apply: takes an answer over; what it raises makes the answer a failed one.
    :param lost: told of each poll that failed.
    :param poll_seconds: how long auth may keep a poll waiting.
    :param uniform: ``random.uniform``, for the jitter.
    """

    def __init__(
        self,
        call: Call,
        kinds: Sequence[str],
        apply: Callable[[Mapping[str, Any]], None],
        *,
        clock: IReactorTime,
        lost: Callable[[], None] = lambda: None,
        poll_seconds: int = POLL_SECONDS,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._call = call
        self._kinds = ",".join(kinds)
        self._apply = apply
        self._clock = clock
        self._lost = lost
        self._poll_seconds = poll_seconds
        self._uniform = uniform
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        """Begin to watch; the first answer is the whole state."""
        self._running = Deferred.fromCoroutine(self._watch())
        self._running.addErrback(_cancelled)

    def stop(self) -> None:
        """End the watch; what is known stays."""
        if self._running is not None:
            self._running.cancel()

    def retry_now(self) -> None:
        """Auth can be reached again: do not wait for the rest of the delay."""
        if self._running is not None:
            self.stop()
            self.start()

    async def _watch(self) -> None:
        since: int | None = None
        wait = RETRY_SECONDS[0]
        while True:
            query: dict[str, Any] = {"kinds": self._kinds}
            if since is not None:
                query |= {"since": since, "timeout": self._poll_seconds}
            try:
                answer = await self._call("GET", "/v1/watch", query=query, timeout=self._poll_seconds + GRACE_SECONDS)
                since = int(answer["revision"])
                self._apply(answer)
                wait = RETRY_SECONDS[0]
            except CancelledError:
                raise
            except Exception as error:
                log.info("changes cannot be watched just now: {error}", error=error)
                self._lost()
                since = None
                await deferLater(self._clock, self._uniform(0.0, wait))
                wait = min(wait * 2, RETRY_SECONDS[1])
