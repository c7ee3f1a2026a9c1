"""Twisted's reactor on Linux, with a shorter way from a socket that has something to read to its transport.

Twisted makes a context for the log around each event: a dozen calls, a sixth of the processor time of a query that only
passes through.  The transports of :mod:`teleport_db.net.tcp` do without.  And what is to be done at the end of a turn,
as the one write of a tunnel, needs no timed call, which costs as much again::

    epoll ──▶ only to be read, and one of ours ──▶ doRead ────┬──▶ the next event ... ──▶ the end of the turn
         └──▶ anything else ───────────────────▶ Twisted's way ┘

All else is Twisted's, and so is what happens to an exception.  ``teleport start`` installs it; under ``twistd``, and
where there is no epoll, all works the same with whatever reactor there is.
"""

# mypy: disallow-untyped-calls=False
# (Twisted's reactors have no annotations.)

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.python import log
from zope.interface import implementer

from teleport_db.interfaces import ITurns
from teleport_db.net.tcp import AtOnce


@implementer(ITurns)
class Reactor(EPollReactor):
    """The epoll reactor."""

    def __init__(self) -> None:
        self._ending: list[Callable[[], object]] = []
        super().__init__()

    def at_turns_end(self, call: Callable[[], object]) -> None:
        """As :class:`~teleport_db.interfaces.ITurns` has it."""
        self._ending.append(call)

    def _end_turn(self) -> None:
        ending, self._ending = self._ending, []
        for call in ending:
            try:
                call()
            except BaseException:
                log.err()

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, up to ``timeout`` seconds, and hand them on."""
        if self._ending:  # asked for by a call that was timed or came from a thread, or as the last turn ended
            timeout = 0.0
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, len(self._selectables))
        except InterruptedError:
            return
        selectables, only_in = self._selectables, self._POLL_IN
        for fd, event in events:
            selectable = selectables.get(fd)
            if event != only_in or not isinstance(selectable, AtOnce):
                if selectable is not None:  # else an event before this one has closed it
                    log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)
                continue
            try:
                why = selectable.doRead()
            except BaseException as error:
                why = error
                log.callWithLogger(selectable, log.err)
            if why:
                self._disconnectSelectable(selectable, why, True)
        if self._ending:
            self._end_turn()

    doIteration = doPoll


def install() -> None:
    """Install it, unless there is a reactor already."""
    if "twisted.internet.reactor" not in sys.modules:
        reactor: Any = Reactor()
        installReactor(reactor)
