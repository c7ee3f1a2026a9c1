"""What the agent knows of the cluster's roles, kept current by a long poll.

While auth is away the last known roles hold; an agent that never heard from auth decides nothing.
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

from teleport_db.access.roles import Role, parse_role
from teleport_db.errors import AccessDenied, AgentOffline, TeleportDBError

log = Logger()

#: Seconds auth may keep a poll waiting.
POLL_SECONDS = 50

#: Seconds between polls that failed: the first, and the most.
RETRY_SECONDS = (1.0, 15.0)

Call = Callable[..., "Deferred[dict[str, Any]]"]


class Policy:
    """The cluster's roles by name."""

    def __init__(self) -> None:
        self._roles: dict[str, Role] = {}
        self._heard = False

    @property
    def heard(self) -> bool:
        """Whether auth has ever said which roles there are."""
        return self._heard

    def apply(self, answer: Mapping[str, Any]) -> None:
        """Take over what a watch answered; with ``reset`` it is all there is."""
        roles = {} if answer.get("reset") else dict(self._roles)
        for change in answer.get("changes", ()):
            if change.get("kind") != "role":
                continue
            name = change["name"]
            if change["type"] == "delete":
                roles.pop(name, None)
                continue
            try:
                roles[name] = parse_role(change["resource"], where=f"role/{name}")
            except TeleportDBError as error:
                # A role that cannot be read allows nothing; its denials are missed, so nobody may use it.
                log.error("role {name} cannot be read and is not used: {error}", name=name, error=error)
                roles.pop(name, None)
        # All of it or nothing: an answer that breaks off in the middle leaves what was known.
        self._roles, self._heard = roles, True

    def roles(self, names: Sequence[str]) -> list[Role]:
        """The roles of these names.

        Raises AccessDenied when one is not there: it may be one that denies.
        Raises AgentOffline while auth was never heard.
        """
        if not self._heard:
            raise AgentOffline("the agent has not heard from the auth service yet; try again in a moment")
        missing = [name for name in names if name not in self._roles]
        if missing:
            raise AccessDenied(
                f'access denied: your role "{missing[0]}" is not in the cluster any more; log in again: tsh login',
                reasons=[f"role {name} does not exist" for name in missing],
            )
        return [self._roles[name] for name in names]


def _cancelled(reason: Failure) -> None:
    reason.trap(CancelledError)


class PolicyWatch:
    """Keeps a policy current.

    :param call: the API client's ``call``.
    :param heard: called once, when the policy is known for the first time.
    :param uniform: ``random.uniform``, for the jitter.
    """

    def __init__(
        self,
        policy: Policy,
        call: Call,
        *,
        clock: IReactorTime,
        heard: Callable[[], None] = lambda: None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._call = call
        self._clock = clock
        self._heard = heard
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
            query: dict[str, Any] = {"kinds": "role"}
            if since is not None:
                query |= {"since": since, "timeout": POLL_SECONDS}
            try:
                answer = await self._call("GET", "/v1/watch", query=query, timeout=POLL_SECONDS + 15.0)
                first = not self._policy.heard
                self._policy.apply(answer)
                if first:
                    self._heard()
                since, wait = int(answer["revision"]), RETRY_SECONDS[0]
            except CancelledError:
                raise
            except Exception as error:
                log.info("roles cannot be watched just now: {error}", error=error)
                since = None
                await deferLater(self._clock, self._uniform(0.0, wait))
                wait = min(wait * 2, RETRY_SECONDS[1])
