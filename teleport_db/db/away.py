"""What an agent does while auth is away: for how long it lets sessions in by what it knew last.

::

    best_effort    new sessions for so long after auth was last heard of; the log and db.session.start say how old
                   what they were decided on is
    strict         no new session while auth is away

Running sessions go on in either case until they would end anyway.  What is known is kept on disk as well
(:class:`Kept`), so that an agent that starts while auth is away goes on as one that ran through, and no longer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.certs.files import read_secret, write_secret
from teleport_db.config.durations import format_duration
from teleport_db.errors import AgentOffline, ConfigError

log = Logger()

BEST_EFFORT, STRICT = "best_effort", "strict"

#: Seconds auth may keep a poll of a strict agent waiting: the sooner it is known that auth is away.
STRICT_POLL_SECONDS = 10


class AuthAway:
    """Knows when auth was last heard of.

    :param mode: :data:`BEST_EFFORT` or :data:`STRICT`.
    :param max_age: seconds, for the former.
    """

    def __init__(self, mode: str, max_age: float, *, clock: IReactorTime) -> None:
        self.mode = mode
        self._max_age = max_age
        self._clock = clock
        self._heard_at: float | None = None
        self._away = False

    def heard(self, at: float | None = None) -> bool:
        """Auth has answered, and whether it was away; or, with ``at`` (seconds since the epoch), had then."""
        back = self._away and at is None
        if back:
            log.info("the auth service is heard of again")
        self._heard_at = self._clock.seconds() if at is None else at
        self._away = at is not None
        return back

    def lost(self) -> None:
        """Auth has not answered."""
        if self._away or self._heard_at is None:
            return
        self._away = True
        if self.mode == STRICT:
            log.warn("the auth service cannot be reached; no new session is let in meanwhile (auth_away: strict)")
        else:
            log.warn(
                "the auth service cannot be reached; new sessions are let in by what was known last, for {most} at most"
                " (auth_away: best_effort)",
                most=format_duration(self._max_age),
            )

    def usable(self, heard_at: float) -> bool:
        """Whether what was known at that time may still decide."""
        return self.mode == BEST_EFFORT and 0 <= self._clock.seconds() - heard_at <= self._max_age

    def age(self) -> float | None:
        """How old what is known is, in seconds; None while auth is there."""
        return self._clock.seconds() - self._heard_at if self._away and self._heard_at is not None else None

    def admit(self) -> None:
        """AgentOffline when no new session may be let in."""
        if not self._away or self._heard_at is None:
            return
        if self.mode == STRICT:
            raise AgentOffline(
                "the auth service cannot be reached, and this agent lets nobody in meanwhile (auth_away: strict);"
                " try again in a moment"
            )
        if not self.usable(self._heard_at):
            raise AgentOffline(
                f"the auth service was not heard of for longer than {format_duration(self._max_age)}, and what this"
                " agent knew then does not let anybody in any more (auth_away_max_age); ask an administrator"
            )


class Kept:
    """What a watch said, in a file of mode 0600, and in another when that was last true.

    :param path: of the directory; the files are made in it.
    :param in_thread: runs a function off the reactor's thread.
    """

    def __init__(self, path: str, *, in_thread: Callable[..., Deferred[Any]]) -> None:
        self._path = path
        self._in_thread = in_thread
        self._wanted: tuple[Mapping[str, Any] | None, float] | None = None
        self._writing = False

    def save(self, known: Mapping[str, Any] | None, heard_at: float) -> None:
        """Keep this, or with None what was kept before, as known at that time; later calls overtake earlier ones.

        :param known: nobody changes it any more.
        """
        if known is None and self._wanted is not None:
            known = self._wanted[0]
        self._wanted = known, heard_at
        if not self._writing:
            self._next()

    def _next(self) -> None:
        if self._wanted is None:
            self._writing = False
            return
        wanted, self._wanted = self._wanted, None
        self._writing = True
        self._in_thread(self._write, *wanted).addErrback(_not_kept).addCallback(lambda _: self._next())

    def _write(self, known: Mapping[str, Any] | None, heard_at: float) -> None:
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        if known is not None:
            write_secret(self._file("known.json"), json.dumps(known).encode())
        # The time last: a copy without it is taken for older than it is.
        write_secret(self._file("heard"), repr(heard_at).encode())

    def _file(self, name: str) -> str:
        return os.path.join(self._path, name)

    def load(self) -> tuple[Mapping[str, Any], float] | None:
        """What was kept and when it was true; None when there is nothing that can be used."""
        try:
            known, heard_at = json.loads(read_secret(self._file("known.json"))), float(read_secret(self._file("heard")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, ConfigError) as error:
            log.warn("what was known of the cluster cannot be read again: {error}", error=error)
            return None
        return (known, heard_at) if isinstance(known, dict) else None


def _not_kept(reason: Failure) -> None:
    log.warn("what is known of the cluster was not kept: {reason}", reason=reason.getErrorMessage())
