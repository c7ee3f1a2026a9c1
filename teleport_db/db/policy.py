"""What the agent knows of the cluster's roles, users and locks, kept current by a long poll.

While auth is away what was known last holds; an agent that never heard from auth decides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.access.limits import Limits, combined_options
from teleport_db.access.roles import Options, Role, parse_role
from teleport_db.api.client import Call
from teleport_db.errors import AccessDenied, AgentOffline, AuthenticationFailed, TeleportDBError
from teleport_db.identity import Identity

log = Logger()

#: Seconds auth may keep a poll waiting.
POLL_SECONDS = 50

#: Seconds between polls that failed: the first, and the most.
RETRY_SECONDS = (1.0, 15.0)


@attrs.frozen
class _Lock:
    """A lock; ``expires`` in seconds since the epoch, None for ever."""

    kind: str
    value: str
    message: str
    expires: float | None


@attrs.frozen
class Standing:
    """What holds for a user now, whatever the certificate said when it was signed."""

    roles: tuple[Role, ...]
    traits: Mapping[str, tuple[str, ...]]


class Policy:
    """The cluster's roles, users and locks, by their names."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {kind: {} for kind in _READERS}
        self._defaults = Options()
        self._heard = False

    @property
    def heard(self) -> bool:
        """Whether auth has ever said which roles there are."""
        return self._heard

    def apply(self, answer: Mapping[str, Any]) -> None:
        """Take over what a watch answered; with ``reset`` it is all there is."""
        reset = bool(answer.get("reset"))
        known = {kind: {} if reset else dict(values) for kind, values in self._known.items()}
        for change in answer.get("changes", ()):
            kind, name = change.get("kind"), change["name"]
            if kind not in known:
                continue
            known[kind].pop(name, None)
            if change["type"] == "delete":
                continue
            try:
                known[kind][name] = _READERS[kind](name, change["resource"])
            except TeleportDBError as error:
                # A role that cannot be read allows nothing; its denials are missed, so nobody may use it.
                log.error("{kind} {name} cannot be read and is not used: {error}", kind=kind, name=name, error=error)
        defaults = answer.get("session_defaults", {})
        limits = Options(
            client_idle_timeout=float(defaults.get("client_idle_timeout", 0)),
            disconnect_expired_cert=bool(defaults.get("disconnect_expired_cert", False)),
        )
        # All of it or nothing: an answer that breaks off in the middle leaves what was known.
        self._defaults = limits
        self._known, self._heard = known, True

    def standing(self, identity: Identity, *, host_id: str, now: float) -> Standing:
        """What holds for this user at this agent.

        :param now: seconds since the epoch.
        :raises AuthenticationFailed: the user is not there any more, or is locked.
        :raises AccessDenied: a role of the user's is not there: it may be one that denies.
        :raises AgentOffline: auth was never heard.
        """
        self._must_have_heard()
        user = self._known["user"].get(identity.name)
        if user is None:
            raise AuthenticationFailed(f'user "{identity.name}" is not in this cluster any more')
        names, traits = user
        self._check_locks({("user", identity.name), ("server_id", host_id), *(("role", name) for name in names)}, now)
        return Standing(self.roles(names), traits)

    def roles(self, names: Sequence[str]) -> tuple[Role, ...]:
        """The roles of these names; AccessDenied when one is not there."""
        self._must_have_heard()
        roles = self._known["role"]
        missing = [name for name in names if name not in roles]
        if missing:
            raise AccessDenied(
                f'access denied: your role "{missing[0]}" is not in the cluster any more; ask an administrator',
                reasons=[f"role {name} does not exist" for name in missing],
            )
        return tuple(roles[name] for name in names)

    def options(self, roles: Sequence[Role]) -> Limits:
        """The limits of these roles and the cluster's own, of each the strictest."""
        return combined_options([*roles, Role(name="", options=self._defaults)])

    def _must_have_heard(self) -> None:
        if not self._heard:
            raise AgentOffline("the agent has not heard from the auth service yet; try again in a moment")

    def _check_locks(self, targets: set[tuple[str, str]], now: float) -> None:
        for lock in self._known["lock"].values():
            if (lock.kind, lock.value) in targets and (lock.expires is None or now < lock.expires):
                why = f": {lock.message}" if lock.message else ""
                what = {"server_id": "the agent of this database"}.get(lock.kind, f'{lock.kind} "{lock.value}"')
                raise AuthenticationFailed(f"{what} is locked{why}; ask an administrator")


def _read_role(name: str, resource: Mapping[str, Any]) -> Role:
    return parse_role(resource, where=f"role/{name}")


def _read_user(name: str, resource: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    spec = resource["spec"]
    traits = {str(key): tuple(map(str, values)) for key, values in (spec.get("traits") or {}).items()}
    return tuple(map(str, spec.get("roles") or ())), traits


def _read_lock(name: str, resource: Mapping[str, Any]) -> _Lock:
    spec = resource["spec"]
    ((kind, value),) = spec["target"].items()
    expires = spec.get("expires")
    until = datetime.fromisoformat(expires).timestamp() if expires else None
    return _Lock(str(kind), str(value), str(spec.get("message") or ""), until)


#: How a resource of each kind that is watched is read.
_READERS: dict[str, Callable[[str, Mapping[str, Any]], Any]] = {
    "role": _read_role,
    "user": _read_user,
    "lock": _read_lock,
}


def _cancelled(reason: Failure) -> None:
    reason.trap(CancelledError)


class PolicyWatch:
    """Keeps a policy current.

    :param call: the API client's ``call``.
    :param heard: called once, when the policy is known for the first time.
    :param changed: called after each change.
    :param uniform: ``random.uniform``, for the jitter.
    """

    def __init__(
        self,
        policy: Policy,
        call: Call,
        *,
        clock: IReactorTime,
        heard: Callable[[], None] = lambda: None,
        changed: Callable[[], None] = lambda: None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._call = call
        self._clock = clock
        self._heard = heard
        self._changed = changed
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
            query: dict[str, Any] = {"kinds": ",".join(_READERS)}
            if since is not None:
                query |= {"since": since, "timeout": POLL_SECONDS}
            try:
                answer = await self._call("GET", "/v1/watch", query=query, timeout=POLL_SECONDS + 15.0)
                first = not self._policy.heard
                self._policy.apply(answer)
                if first:
                    self._heard()
                elif answer.get("changes") or answer.get("reset"):
                    self._changed()
                since, wait = int(answer["revision"]), RETRY_SECONDS[0]
            except CancelledError:
                raise
            except Exception as error:
                log.info("roles cannot be watched just now: {error}", error=error)
                since = None
                await deferLater(self._clock, self._uniform(0.0, wait))
                wait = min(wait * 2, RETRY_SECONDS[1])
