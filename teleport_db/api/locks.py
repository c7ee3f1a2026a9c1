"""Locks as hosts hear of them, and who was removed: what stops somebody now, whatever certificates say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import attrs

#: What a refusal calls the targets of locks.
WORDS = {"user": "user", "role": "role", "db": "database service", "server_id": "host"}


@attrs.frozen
class Lock:
    """A lock; ``expires`` in seconds since the epoch, None for ever."""

    kind: str
    value: str
    message: str = ""
    expires: float | None = None

    def stops(self, targets: set[tuple[str, str]], now: float) -> bool:
        """Whether it holds, and is for one of these."""
        return (self.kind, self.value) in targets and (self.expires is None or now < self.expires)

    @property
    def why(self) -> str:
        """``user "alice" is locked: on leave``."""
        said = f": {self.message}" if self.message else ""
        return f'{WORDS.get(self.kind, self.kind)} "{self.value}" is locked{said}'


def read_lock(name: str, resource: Mapping[str, Any]) -> Lock:
    """A lock of a watch's answer; KeyError, ValueError or TypeError for what is none."""
    spec = resource["spec"]
    ((kind, value),) = spec["target"].items()
    expires = resource.get("metadata", {}).get("expires") or spec.get("expires")
    until = datetime.fromisoformat(expires).timestamp() if expires else None
    return Lock(str(kind), str(value), str(spec.get("message") or ""), until)


def stopping(locks: Iterable[Lock], targets: set[tuple[str, str]], now: float) -> Lock | None:
    """The first lock that stops one of these now."""
    return next((lock for lock in locks if lock.stops(targets, now)), None)
