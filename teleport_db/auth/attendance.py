"""Which agents are up, as the audit log tells it: an event when one comes, one when it goes.

::

    /attendance/HOST-ID  {"databases": [NAME, ...]}      from instance.up until instance.down

An agent is up from its first announcement until it says that it stops (``left``), is removed (``removed``), or has
not been heard of for as long as an agent that is lost (``lost``).  It is stored, so a restart of auth is no news.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from twisted.internet.defer import DeferredLock

from teleport_db.audit.codes import FAILURE_CODES
from teleport_db.auth.recorder import Recorder
from teleport_db.errors import NotFound
from teleport_db.interfaces import IBackend

PREFIX = "/attendance/"
UP, DOWN = "instance.up", "instance.down"


class Attendance:
    """Tells of agents that come and go.

    An event is kept before what is stored says so: a crash between the two tells of it twice, never not at all.
    """

    def __init__(self, backend: IBackend, recorder: Recorder) -> None:
        self._backend = backend
        self._recorder = recorder
        self._known: dict[str, list[str]] = {}
        self._turns = DeferredLock()

    async def up(self, host_id: str, databases: Iterable[str]) -> None:
        """An agent announces these databases."""
        names = sorted(databases)
        if self._known.get(host_id) == names:
            return
        async with self._turns:
            try:
                await self._backend.get(PREFIX + host_id)
            except NotFound:
                await self._recorder.record(UP, user=host_id, server_id=host_id, databases=names)
            await self._backend.put(PREFIX + host_id, {"databases": names})
            self._known[host_id] = names

    async def down(self, host_id: str, reason: str) -> None:
        """It is there no more; nothing where it was not."""
        async with self._turns:
            self._known.pop(host_id, None)
            try:
                item = await self._backend.get(PREFIX + host_id)
            except NotFound:
                return
            code = FAILURE_CODES[DOWN] if reason == "lost" else ""
            about = {"user": host_id, "server_id": host_id, "databases": item.value["databases"]}
            await self._recorder.record(DOWN, code, reason=reason, **about)
            await self._backend.delete(item.key)

    async def silent(self, heard: Container[str]) -> None:
        """Only these agents are heard of."""
        for item in await self._backend.range(PREFIX):
            host_id = item.key.removeprefix(PREFIX)
            if host_id not in heard:
                await self.down(host_id, "lost")
