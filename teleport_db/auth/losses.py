"""Ends the sessions of agents that are lost, so that each start in the audit log has an end.

::

    heard of, every 15 s: presence, events ── silent for 45 s ── looked at every 5 s ──▶ AuditLog.lose
    heard of: "what I recorded before number N was in an earlier life, and you have it"  ──▶ AuditLog.lose(before=N)

So an end is made up at most 50 s after an agent was killed, and at once when the agent is back before that.  An
agent that was only cut off goes on; :mod:`teleport_db.audit.sessions` has the rule for what it sends then.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

log = Logger()

#: Seconds of silence after which an agent is lost; agents are heard of three times as often.
LOST_SECONDS = 45.0

#: Seconds between two looks.
LOOK_SECONDS = 5.0

#: Seconds that all agents have, beyond those above, to be heard of once auth has started.
START_SECONDS = 5.0


class OpenSessions(Protocol):
    """What of the audit log is needed; :class:`teleport_db.audit.log.AuditLog` has it."""

    def open_sources(self) -> set[str]:
        """Who has sessions without an end."""

    def lose(self, source: str, *, before: int | None = None) -> Deferred[int]:
        """End a source's sessions, those of before this number; fires with how many there were."""


class Losses:
    """Knows which agents are heard of.

    :param clock: seconds since the epoch.
    :param lost_after: seconds of silence.
    :param silent: told at each look who is heard of; everybody else is not.
    """

    def __init__(
        self,
        audit: OpenSessions,
        *,
        clock: IReactorTime,
        lost_after: float = LOST_SECONDS,
        silent: Callable[[Container[str]], Deferred[None]] = lambda heard: succeed(None),
    ) -> None:
        self._audit = audit
        self._silent = silent
        self._clock = clock
        self._lost_after = lost_after
        self._heard: dict[str, float] = {}
        self._all_heard = 0.0
        self._looked = 0.0
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def start(self) -> None:
        """Look from now on; nobody was heard of as yet, which says nothing."""
        self._looked = self._clock.seconds()
        self._all_heard = self._looked + START_SECONDS
        self._looking.start(LOOK_SECONDS, now=False).addErrback(
            lambda reason: log.failure("lost agents are not looked for any more", reason)
        )

    def stop(self) -> None:
        """Look no more."""
        if self._looking.running:
            self._looking.stop()

    def heard(self, source: str, *, began: int | None = None) -> None:
        """An agent said something.

        :param began: it has sent all that it recorded below this number, with which it began anew.
        """
        self._heard[source] = self._clock.seconds()
        if began is not None:
            self._lose(source, began)

    def _look(self) -> None:
        now = self._clock.seconds()
        if not 0 <= now - self._looked <= 3 * LOOK_SECONDS:
            # This process slept, or the clock was set: nobody could be heard of.
            self._all_heard = now + START_SECONDS
        self._looked = now
        silent_since = now - self._lost_after
        self._heard = {source: heard for source, heard in self._heard.items() if heard > silent_since}
        if self._all_heard <= silent_since:
            heard = set(self._heard)
            for source in self._audit.open_sources() - heard:
                self._lose(source, None)
            self._silent(heard).addErrback(
                lambda reason: log.warn("who is lost was not recorded: {reason}", reason=reason.getErrorMessage())
            )

    def _lose(self, source: str, before: int | None) -> None:
        def ended(count: int) -> None:
            if count:
                log.warn("{count} sessions of the agent {host} ended with it", count=count, host=source)

        def failed(reason: Failure) -> None:
            log.warn("sessions of a lost agent could not be ended as yet: {reason}", reason=reason.getErrorMessage())

        self._audit.lose(source, before=before).addCallbacks(ended, failed)
