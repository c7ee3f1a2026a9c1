"""From the agent's spool to the auth server: in order, one batch in flight, until it is acknowledged.

::

    idle --notify--> a moment for more to come --> sync --> read --> send --> acknowledge --> idle
                                                    ^        ^  \\---- failure: wait with jitter, again ----/
                                                    |        \\----------- what else was synced ------------/
                                                    \\---- half a second, if there is more ----------------/

A batch whose acknowledgement was lost is sent again, and the auth server drops what it has.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from teleport_db.audit.commits import GroupCommit
from teleport_db.audit.spool import Spool
from teleport_db.audit.spooled import Batch
from teleport_db.errors import AuditUnavailable, BadRequest

#: Runs a function outside of the reactor's thread, as ``deferToThreadPool`` does.
ThreadHook = Callable[[Callable[[], Any]], "Deferred[Any]"]

#: Seconds that a first event waits for others to come along.
GATHER = 0.1

#: Seconds between two syncs while more comes: each holds up what is appended meanwhile.
SPACING = 0.5

#: Seconds before the first retry and between later ones at most; each is cut by a random factor.
FIRST_RETRY, LAST_RETRY = 1.0, 60.0


def inline(function: Callable[[], Any]) -> Deferred[Any]:
    """A :data:`ThreadHook` without a thread, for tests."""
    return maybeDeferred(function)


class Shipper:
    """Sends what is in a spool.

    :param send: takes a batch of numbers and events; fires with the last number that is durable at the
        auth server.
    :param clock: for gathering and for retries.
    :param batch: events at most.
    :param commits: syncs the spool, for others too; without it one is made.
    :param in_thread: where that one does.
    :param random: between 0 and 1.
    """

    log = Logger()

    def __init__(
        self,
        spool: Spool,
        send: Callable[[Batch], Deferred[int]],
        *,
        clock: IReactorTime,
        batch: int = 1000,
        commits: GroupCommit | None = None,
        in_thread: ThreadHook = inline,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._spool, self._send, self._clock, self._batch = spool, send, clock, batch
        self._commits = commits or GroupCommit(spool, in_thread)
        self._random = random
        self._running = False
        self._failures = 0
        self._timer: IDelayedCall | None = None
        self._round: Deferred[None] | None = None
        self._flushing: list[Deferred[None]] = []

    def start(self) -> None:
        """Ship what the spool holds from before, and from now on what comes."""
        self._running = True
        self._schedule(0)

    def notify(self) -> None:
        """There is something new.  Cheap: call it after every append."""
        if self._timer is None and self._round is None and self._running:
            self._schedule(GATHER)

    def flush(self) -> Deferred[None]:
        """Fires when all that the spool holds was acknowledged; cancel it to wait no longer."""
        flushed: Deferred[None] = Deferred(self._flushing.remove)
        self._flushing.append(flushed)
        if self._round is None:
            if self._timer is not None:
                self._timer.cancel()
            self._schedule(0)
        return flushed

    def stop(self) -> Deferred[None]:
        """Stop, cancelling what is in flight; fires when the spool is no longer used."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._round is None:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._round.addBoth(lambda _: stopped.callback(None))
        self._round.cancel()
        return stopped

    def retry_now(self) -> None:
        """The auth server can be reached again: do not wait for the rest of the delay."""
        if self._timer is not None and self._running:
            self._timer.cancel()
            self._schedule(0)

    def _schedule(self, delay: float) -> None:
        self._timer = self._clock.callLater(delay, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._round = Deferred.fromCoroutine(self._one_round())
        self._round.addBoth(self._ended)

    def _ended(self, outcome: Any) -> None:
        self._round = None
        if not self._spool.pending:
            flushing, self._flushing = self._flushing, []
            for flushed in flushing:
                flushed.callback(None)
        if self._running:
            if self._failures:
                longest = min(LAST_RETRY, FIRST_RETRY * 2 ** min(self._failures - 1, 10))
                self._schedule(longest * (0.5 + 0.5 * self._random()))
            elif self._spool.pending:
                waits = not self._flushing and self._spool.synced <= self._spool.acknowledged
                self._schedule(SPACING if waits else 0)

    async def _one_round(self) -> None:
        try:
            if self._spool.synced <= self._spool.acknowledged:
                await self._commits.sync()
            events = self._spool.read(self._spool.acknowledged, self._batch)
            if events:
                acknowledged = await self._deliver(events)
                if not events.first <= acknowledged:
                    raise AuditUnavailable(detail=f"the auth server has only events up to {acknowledged}")
                self._spool.acknowledge(min(acknowledged, events.last))
            self._failures = 0
        except CancelledError:
            raise
        except Exception as error:
            self._failures += 1
            self.log.warn(
                "audit events wait in the spool: {error} {detail}",
                error=str(error),
                detail=getattr(error, "detail", ""),
                pending=self._spool.pending,
            )

    async def _deliver(self, events: Batch) -> int:
        try:
            return await self._send(events)
        except BadRequest as error:
            # They went out as they are on the disk: see whether it has kept them.
            for number, event in events:
                try:
                    dict(event)
                except ValueError:
                    raise AuditUnavailable(detail=f"record {number} of the spool is damaged") from error
            raise
