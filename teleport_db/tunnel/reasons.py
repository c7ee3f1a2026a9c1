"""Why a stream or a tunnel ended, as Twisted carries it."""

from __future__ import annotations

from twisted.python.failure import Failure


def because(error: BaseException | None = None) -> Failure:
    """A failure of ``error``, or of the exception that is being handled."""
    return Failure(error)  # type: ignore[no-untyped-call]
