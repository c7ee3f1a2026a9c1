"""What was opened is closed in the opposite order, also when opening failed half way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

log = Logger()


class Closers:
    """Functions to call at the end, the newest first; each may answer with a Deferred."""

    def __init__(self) -> None:
        self._functions: list[Callable[[], Any]] = []

    def add(self, function: Callable[[], Any]) -> None:
        """Call this before all that were added earlier."""
        self._functions.append(function)

    async def close(self) -> None:
        """Call them all, whatever one of them raises."""
        while self._functions:
            try:
                closing = self._functions.pop()()
                if isinstance(closing, Deferred):
                    await closing
            except Exception:
                log.failure("something could not be closed")
