"""A clock that knows the end of a turn, as the reactor of ``teleport start`` does."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from zope.interface import implementer

from teleport_db.interfaces import ITurns


@implementer(ITurns)
class Turns(Clock):
    """Each step of time is a turn: timed calls, then its end."""

    def __init__(self) -> None:
        super().__init__()
        self.ending: list[Callable[[], object]] = []

    def at_turns_end(self, call: Callable[[], object]) -> None:
        self.ending.append(call)

    def advance(self, amount: float) -> None:
        super().advance(amount)
        ending, self.ending = self.ending, []
        for call in ending:
            call()
