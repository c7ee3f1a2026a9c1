"""What is said of a sink that fails: in the program's log at once, in the audit log when it lasts."""

from __future__ import annotations

import attrs
from twisted.logger import Logger

from teleport_db.audit.events import timestamp
from teleport_db.audit.sinks.target import Tell
from teleport_db.errors import TeleportDBError

#: Seconds of failing after which the audit log has an event of it.
FAILING = 300.0

#: Characters of what is said of an error.
MAX_WORDS = 500

#: Seconds after which the program's log says again why a sink fails.
SAY_AGAIN = 3600.0

#: The events: it has failed for so long; it works again; it was to be sent lines that were gone.
FAILED, RECOVERED, GAP = "audit.sink.failing", "audit.sink.recovered", "audit.sink.gap"


@attrs.define
class Troubles:
    """Those of one sink.

    There is one event of each trouble that lasts, and one of its end: an event that cannot be sent makes no others.

    :param tell: see :data:`~teleport_db.audit.sinks.target.Tell`.
    :ivar error: why nothing goes out now; "" when nothing is wrong.
    :ivar since: seconds since the epoch.
    """

    log = Logger()

    name: str
    tell: Tell
    error: str = ""
    since: float = 0.0
    _said: float = 0.0
    _told: bool = False

    def failed(self, error: Exception, now: float, behind: int) -> None:
        """It does not work.

        :param behind: lines of the log that it lacks.
        """
        words, detail = self._words(error)
        words = " ".join(words.split())[:MAX_WORDS]
        again = bool(self.error)
        if not again:
            self.since, self._told = now, False
        if not again or words != self.error or now - self._said >= SAY_AGAIN:
            self._said = now
            self.log.warn(
                "sink {name} does not take the audit log: {error} {detail}",
                name=self.name,
                error=words,
                detail=detail,
                behind=behind,
            )
        self.error = words
        if not self._told and now - self.since >= FAILING:
            self._told = True
            self.tell(FAILED, sink=self.name, error=words, since=timestamp(self.since), lines=behind)

    def _words(self, error: Exception) -> tuple[str, str]:
        """For people, and for the program's log only."""
        if isinstance(error, TeleportDBError):
            return str(error), error.detail
        if isinstance(error, OSError):
            return f"{error.filename or 'a file'}: {error.strerror or error}", ""
        self.log.failure("sink {name} failed", name=self.name)
        return f"unexpected {type(error).__name__}; the log of the auth server has more", ""

    def over(self, now: float) -> None:
        """It works."""
        if not self.error:
            return
        lasted = now - self.since
        self.log.info("sink {name} is back after {lasted:.0f} seconds", name=self.name, lasted=lasted)
        if self._told:
            self.tell(RECOVERED, sink=self.name, seconds=round(lasted))
        self.error, self._told = "", False
