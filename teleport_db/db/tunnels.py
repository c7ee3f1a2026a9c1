"""An agent's tunnels: how they are dialled again, and how calls of auth find one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.errors import ConnectionTrouble
from teleport_db.tunnel.endpoints import StreamClientEndpoint
from teleport_db.tunnel.protocol import TunnelProtocol

#: Seconds between attempts to dial a proxy: no less, no more.
RECONNECT_SECONDS = (1.0, 60.0)


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """Connects through whichever tunnel stands; for calls of the auth API."""

    def __init__(self, tunnels: Callable[[], Sequence[TunnelProtocol]]) -> None:
        self._tunnels = tunnels

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """A stream of the first tunnel; fails with ConnectionTrouble while there is none."""
        tunnels = self._tunnels()
        if not tunnels:
            failed: Deferred[Any] = Deferred()
            failed.errback(ConnectionTrouble("no proxy is connected just now"))
            return failed
        return StreamClientEndpoint(tunnels[0]).connect(protocolFactory)


def full_jitter(uniform: Callable[[float, float], float] = random.uniform) -> Callable[[int], float]:
    """A retry policy for ClientService: anywhere between the least and twice as much each time."""
    least, most = RECONNECT_SECONDS

    def delay(attempt: int) -> float:
        return uniform(least, min(most, least * 2 ** min(attempt, 16)))

    return delay


class AgentTunnel(TunnelProtocol):
    """A tunnel that tells its agent when it stands and when it is gone."""

    def __init__(
        self,
        *,
        opened: Callable[[TunnelProtocol], None],
        closed: Callable[[TunnelProtocol, Failure], None],
        **settings: Any,
    ) -> None:
        super().__init__(closed=lambda reason: closed(self, reason), **settings)
        self._opened = opened

    def connectionMade(self) -> None:
        super().connectionMade()
        self._opened(self)
