"""What a sink is made of from outside: the other side, and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from teleport_db.audit.sinks.reading import Batch, Place, State
from teleport_db.audit.writing import Position
from teleport_db.errors import TeleportDBError


class NotTaken(TeleportDBError):
    """The other side did not take a batch.

    :param wait: seconds that it asked for.
    :param too_large: a smaller batch may be taken.
    """

    status = 503
    code = "sink"

    def __init__(self, public: str, *, wait: float = 0.0, too_large: bool = False, detail: str = "") -> None:
        super().__init__(public, detail=detail)
        self.wait, self.too_large = wait, too_large


class Target(Protocol):
    """The other side.

    :ivar max_bytes: of the log in a batch; ``max_records``: in a batch.
    :ivar gather: seconds that lines wait for others to come along.
    :ivar state: what it wants to have kept with the cursor, and finds again.
    :ivar go_back: set by whoever uses it; called when what was sent behind a place may not have arrived.
    """

    max_bytes: int
    max_records: int
    gather: float
    state: State
    go_back: Callable[[Place], None]

    def send(self, batch: Batch) -> Deferred[None]:
        """Fires when the other side has the batch; fails with a TeleportDBError, or what else went wrong."""

    def close(self) -> Deferred[None]:
        """Nothing is sent any more; nothing is under way."""


class Log(Protocol):
    """What sinks need of the audit log."""

    directory: Path

    @property
    def position(self) -> Position:
        """The end of what is durable."""

    def changed(self) -> Deferred[None]:
        """Fires when there is more."""

    def emit(self, events: Sequence[Any]) -> Deferred[None]:
        """Keep events of the auth server's own."""


#: Told of what the audit log should know: the event, its code, and more fields.
Tell = Callable[..., None]


def go_nowhere(place: Place) -> None:
    """A ``go_back`` before anybody has set one."""
