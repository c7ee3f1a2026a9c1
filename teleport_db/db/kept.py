"""What is asked for at a cost and then kept for a while: one question at a time, shared by all who ask it meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

T = TypeVar("T")

#: Answers kept at most; a role may allow any database user, and each has one of its own.
MAX_KEPT = 1000


@attrs.frozen
class Answer(Generic[T]):
    """An answer, and until when it is given again: seconds since the epoch."""

    value: T
    until: float


class _Asked(Generic[T]):
    """A question under way, and who waits for it."""

    fetching: Deferred[Any] | None = None

    def __init__(self) -> None:
        self.waiting: list[Deferred[T]] = []

    def join(self) -> Deferred[T]:
        one: Deferred[T] = Deferred(self._leave)
        self.waiting.append(one)
        return one

    def _leave(self, one: Deferred[T]) -> None:
        if one in self.waiting:
            self.waiting.remove(one)
        if not self.waiting and self.fetching is not None:
            self.fetching.cancel()


class Answers(Generic[T]):
    """Answers by their key; the longest unused goes first when there are too many."""

    def __init__(self, *, clock: IReactorTime) -> None:
        self._clock = clock
        self._answers: dict[Hashable, Answer[T]] = {}
        self._asked: dict[Hashable, _Asked[T]] = {}

    @property
    def keys(self) -> list[Hashable]:
        """What there is an answer for, the longest unused first."""
        return list(self._answers)

    def get(self, key: Hashable, fetch: Callable[[], Awaitable[Answer[T]]]) -> Deferred[T]:
        """The kept answer, or what ``fetch`` gives; that is cancelled when nobody waits for it any more.

        Fails with what ``fetch`` raises; nothing of a failure is kept.
        """
        kept = self._answers.pop(key, None)
        if kept is not None and self._clock.seconds() < kept.until:
            self._answers[key] = kept
            return succeed(kept.value)
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = _Asked()
            waiting = asked.join()

            async def ask() -> Answer[T]:
                return await fetch()

            asked.fetching = Deferred.fromCoroutine(ask())
            asked.fetching.addBoth(self._fetched, key, asked)
            return waiting
        return asked.join()

    def forget(self, key: Hashable) -> None:
        """Ask anew the next time."""
        self._answers.pop(key, None)

    def _fetched(self, result: Answer[T] | Failure, key: Hashable, asked: _Asked[T]) -> None:
        if self._asked.get(key) is asked:
            del self._asked[key]
        if not isinstance(result, Failure):
            self._answers[key] = result
            while len(self._answers) > MAX_KEPT:
                del self._answers[next(iter(self._answers))]
        waiting, asked.waiting = asked.waiting, []
        for one in waiting:
            if isinstance(result, Failure):
                one.errback(result)
            else:
                one.callback(result.value)
