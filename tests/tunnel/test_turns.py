"""Tunnels and streams where the reactor says when a turn ends: all is as where a timed call stands in for that."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.interfaces import ITurns
from tests.tunnel import support, test_protocol, test_stream
from tests.tunnel.turns import Turns

TESTS = SynchronousTestCase


def turning(case: type[SynchronousTestCase]) -> type[SynchronousTestCase]:
    """The same tests, with such a clock."""

    def set_up(self: Any) -> None:
        case.setUp(self)
        self.patch(support, "Clock", Turns)
        self.patch(test_protocol, "Clock", Turns)

    return type(f"{case.__name__}InTurns", (case,), {"setUp": set_up, "__module__": __name__})


def cases(module: Any) -> dict[str, type[SynchronousTestCase]]:
    made = [turning(case) for case in vars(module).values() if isinstance(case, type) and issubclass(case, TESTS)]
    return {case.__name__: case for case in made if case.__name__ != f"{TESTS.__name__}InTurns"}


globals().update(cases(test_protocol) | cases(test_stream))


class TurnsTests(TESTS):
    """The clock itself."""

    def test_interface(self) -> None:
        """It is what the tunnel asks for."""
        self.assertTrue(verifyObject(ITurns, Turns()))
        self.assertTrue(set(cases(test_protocol)).isdisjoint(cases(test_stream)))
