"""How an agent comes to know the cluster: from its disk, then from auth, and from then on by auth's changes.

::

    start       what an earlier life of this agent knew, when that is young enough
    a poll      everything, or what changed ──▶ policy, and disk ── changed ──▶ sessions are looked at anew
                for the first time, or again                     ── first ────▶ services are offered
    no answer   auth is away: AuthAway says what that means
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from teleport_db.api.client import Call
from teleport_db.api.watching import POLL_SECONDS, Watcher
from teleport_db.db.away import STRICT, STRICT_POLL_SECONDS, AuthAway, Kept
from teleport_db.db.policy import KINDS, Policy

log = Logger()


class Knowledge:
    """Keeps a policy current.

    :param call: the API client's ``call``.
    :param kept: where what is known is kept for the next start; nowhere when None.
    :param first: called when auth is heard of for the first time, or again, and may have forgotten this agent.
    :param changed: called before that, and after each change.
    :ivar policy: what is known.
    """

    def __init__(
        self,
        call: Call,
        *,
        cluster: str,
        host_id: str,
        away: AuthAway,
        kept: Kept | None,
        clock: IReactorTime,
        first: Callable[[], None],
        changed: Callable[[], None],
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.policy = Policy()
        self._whose = {"cluster": cluster, "host": host_id}
        self._host_id = host_id
        self._away = away
        self._kept = kept
        self._clock = clock
        self._first, self._changed = first, changed
        self._watch = Watcher(
            call,
            KINDS,
            self._heard,
            clock=clock,
            lost=away.lost,
            poll_seconds=STRICT_POLL_SECONDS if away.mode == STRICT else POLL_SECONDS,
            uniform=uniform,
        )

    def start(self) -> None:
        """Read what was kept, and watch."""
        self._remember()
        self._watch.start()

    def stop(self) -> None:
        """Hear no more; what is known stays."""
        self._watch.stop()

    def retry_now(self) -> None:
        """Auth can be reached again."""
        self._watch.retry_now()

    def _remember(self) -> None:
        found = None if self._kept is None else self._kept.load()
        if found is None:
            return
        known, heard_at = found
        ours = all(known.get(key) == value for key, value in self._whose.items())
        if not ours or not self._away.usable(heard_at):
            return
        try:
            self.policy.apply(known)
        except Exception as error:
            log.warn("what was known of the cluster cannot be used: {error}", error=error)
            return
        self._away.heard(heard_at)
        log.info("until the auth service is heard of, what was known last holds")
        self._changed()

    def _heard(self, answer: Mapping[str, Any]) -> None:
        first, news = not self.policy.heard, bool(answer.get("changes") or answer.get("reset"))
        self.policy.apply(answer)
        back = self._away.heard()
        if self._kept is not None:
            self._kept.save({**self.policy.snapshot(), **self._whose} if news else None, self._clock.seconds())
        if news:
            if self.policy.removed(self._host_id):
                log.error(
                    "this agent was removed from the cluster, and its certificate is good for nothing any more;"
                    " to join again, remove hosts/db.json from its data directory and give it a new token"
                )
            self._changed()
        if first or back:
            self._first()
