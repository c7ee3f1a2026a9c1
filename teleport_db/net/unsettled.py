"""Connections that have not yet said who they are, counted by address."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress

#: Connections of one address that have not yet said who they are.
MAX_UNSETTLED = 256


class Unsettled:
    """The connections of each address, the oldest first.

    :param limit: of one address.
    """

    def __init__(self, limit: int = MAX_UNSETTLED) -> None:
        self._limit = limit
        self._of: dict[str, dict[Any, None]] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each address that has any."""
        return {host: len(connections) for host, connections in self._of.items()}

    def full(self, address: IAddress) -> bool:
        """Whether there is no room for one more."""
        return len(self._of.get(_host(address), ())) >= self._limit

    def add(self, address: IAddress, connection: Any) -> None:
        """One more has not yet said who it is."""
        self._of.setdefault(_host(address), {})[connection] = None

    def remove(self, address: IAddress, connection: Any) -> None:
        """One has said who it is, or is gone; once or again."""
        host = _host(address)
        connections = self._of.get(host, {})
        connections.pop(connection, None)
        if not connections:
            self._of.pop(host, None)

    def oldest(self, address: IAddress) -> Any:
        """The one that has waited longest; there must be one."""
        return next(iter(self._of[_host(address)]))


def _host(address: IAddress) -> str:
    return str(getattr(address, "host", address))
