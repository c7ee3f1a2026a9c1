"""Counts failed logins; five lock an account and a source address *together* for a while.

::

    /failures/HASH of the account/HASH of the source  {"count": n}     for twenty minutes after the last

An attempt is counted before the password is looked at and taken back when it was right, so fifty at once
get five tries between them.  The count is stored, by compare-and-swap, so it survives a restart.  Nobody
locks a user out from elsewhere, and an account that does not exist is counted like any other.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from teleport_db.errors import AlreadyExists, LimitExceeded, NotFound, RevisionConflict
from teleport_db.interfaces import IBackend

PREFIX = "/failures/"
#: Failures allowed, and seconds that they are remembered.
LIMIT, WINDOW = 5, 20 * 60.0


def source_of(address: str) -> str:
    """What counts as one source: an IPv4 address, or an IPv6 /64, which is what one customer gets."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _hash(text: str) -> str:
    # Who guesses may type anything as a name, a password too.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _below(account: str) -> str:
    return f"{PREFIX}{_hash(account)}/"


@attrs.define
class _Turn:
    lock: DeferredLock = attrs.field(factory=DeferredLock)
    waiting: int = 0


class Failures:
    """Attempts by account and source."""

    def __init__(self, backend: IBackend, *, clock: IReactorTime) -> None:
        self._backend = backend
        self._clock = clock
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def attempt(self, account: str, address: str) -> AsyncIterator[None]:
        """Count an attempt; leaving without an exception takes it and all before it back.

        One at a time for each account and source.  Raises LimitExceeded when there were too many.
        """
        key = _below(account) + _hash(source_of(address))
        turn = self._turns.setdefault(key, _Turn())
        turn.waiting += 1
        try:
            await turn.lock.acquire()
            try:
                await self._count(key)
                yield
                with contextlib.suppress(NotFound):
                    await self._backend.delete(key)
            finally:
                turn.lock.release()
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[key]

    async def forget(self, account: str) -> int:
        """Take back what failed for an account, from everywhere; how many sources had failed."""
        items = await self._backend.range(_below(account))
        for item in items:
            with contextlib.suppress(NotFound):
                await self._backend.delete(item.key)
        return len(items)

    async def _count(self, key: str) -> None:
        while True:
            now = self._clock.seconds()
            try:
                item = await self._backend.get(key)
            except NotFound:
                item = None
            if item is not None and item.value["count"] >= LIMIT:
                raise LimitExceeded("too many failed logins from your address; try again in 20 minutes")
            # Another auth server may count at the same time; then it is read again.
            with contextlib.suppress(AlreadyExists, RevisionConflict, NotFound):
                if item is None:
                    await self._backend.create(key, {"count": 1}, now + WINDOW)
                else:
                    value = {"count": item.value["count"] + 1}
                    await self._backend.compare_and_swap(key, item.revision, value, now + WINDOW)
                return
