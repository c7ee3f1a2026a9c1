"""Agents that were removed: their certificates, which nobody can take back, are refused from then on.

::

    /removed_host/ID  {"by", "at"}     as long as a certificate of the host's may last; it gets no new one

For a moment it may still ship what it has recorded, so that the sessions that end with it have their last events.
Proxies and agents hear of them by their watch.
"""

from __future__ import annotations

import contextlib
from typing import Any

from twisted.internet.interfaces import IReactorTime

from teleport_db.api.resources import Resource
from teleport_db.auth.followed import Followed
from teleport_db.auth.joining import HOSTS
from teleport_db.auth.presence import Presence
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.signing import HOST_TTL
from teleport_db.auth.tokens import PREFIX as TOKENS
from teleport_db.errors import AccessDenied, BadRequest, NotFound
from teleport_db.identity import Identity
from teleport_db.interfaces import IBackend, Item

PREFIX = "/removed_host/"
#: Seconds in which a host that was removed may still ship its events.
LAST_WORDS_SECONDS = 5.0
REMOVED = "this host was removed from the cluster; to come back it joins anew, with a new key and a new token"


def resource_of(item: Item) -> Resource:
    """A removal as hosts hear of it."""
    return Resource("db_server", item.key.removeprefix(PREFIX), {}, item.revision)


class Removals(Followed[float]):
    """Knows who was removed, and when, in seconds since the epoch."""

    def __init__(self, backend: IBackend, recorder: Recorder, presence: Presence, *, clock: IReactorTime) -> None:
        super().__init__(backend, PREFIX)
        self._recorder = recorder
        self._presence = presence
        self._clock = clock

    def _read(self, name: str, item: Item) -> float:
        return float(item.value["at"])

    def check(self, identity: Identity, *, shipping: bool = False) -> None:
        """Raise AccessDenied when this host was removed.

        :param shipping: it only wants to say what it has recorded.
        """
        removed_at = self._known.get(identity.name) if identity.kind == "host" else None
        if removed_at is None or (shipping and self._clock.seconds() - removed_at < LAST_WORDS_SECONDS):
            return
        raise AccessDenied(REMOVED)

    def check_id(self, host_id: str) -> None:
        """The same by a host's id."""
        if host_id in self._known:
            raise AccessDenied(REMOVED)

    # The API: ``kind: db_server``.

    async def list(self) -> list[Resource]:
        """The agents that are there, each with what it serves."""
        found = []
        for host_id, value, expires in await self._presence.servers():
            spec: dict[str, Any] = {"hostname": await self._name(host_id), "databases": value}
            found.append(Resource("db_server", host_id, spec, expires=expires))
        return found

    async def get(self, host_id: str) -> Resource:
        """One; NotFound."""
        for resource in await self.list():
            if resource.name == host_id:
                return resource
        raise NotFound(f"there is no db_server/{host_id[:64]} just now")

    async def _name(self, host_id: str) -> str:
        try:
            return str((await self._backend.get(HOSTS + host_id)).value["name"])
        except NotFound:
            return ""

    async def delete(self, host_id: str, *, by: str) -> None:
        """Remove an agent: what its certificate opened is closed, and it opens nothing more."""
        try:
            host = await self._backend.get(HOSTS + host_id)
        except NotFound:
            if not any(host_id == known for known, _, _ in await self._presence.servers()):
                raise NotFound(f"there is no db_server/{host_id[:64]}") from None
            raise BadRequest(
                "this agent runs in the auth server's own process: switch db_service off in its configuration"
            ) from None
        if "db" not in host.value["roles"]:
            raise BadRequest(f"{host_id[:64]} is no agent of databases")
        # First nothing is let in any more; what is left after a crash is only what it had announced.
        now = self._clock.seconds()
        await self._backend.put(PREFIX + host_id, {"by": by, "at": now}, now + HOST_TTL)
        if host.value["token"] is not None:
            with contextlib.suppress(NotFound):
                await self._backend.delete(TOKENS + host.value["token"])
        with contextlib.suppress(NotFound):
            await self._backend.delete(host.key)
        await self._presence.forget(host_id, "removed")
        await self._recorder.record("instance.remove", user=by, name=host_id, server_id=host_id)
