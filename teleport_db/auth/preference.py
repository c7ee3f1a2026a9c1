"""How users log in: the configuration's word, until ``cluster_auth_preference`` says otherwise."""

from __future__ import annotations

from teleport_db.api.resources import PREFERENCE_NAME, Resource
from teleport_db.auth import body as fields
from teleport_db.auth.recorder import Recorder
from teleport_db.errors import BadRequest, NotFound
from teleport_db.interfaces import IBackend

KEY = "/cluster_auth_preference/" + PREFERENCE_NAME
SECOND_FACTORS = ("off", "otp", "on", "optional")


class Preference:
    """One resource.

    :param configured: ``second_factor`` of the configuration, the default.
    """

    def __init__(self, backend: IBackend, recorder: Recorder, configured: str) -> None:
        self._backend = backend
        self._recorder = recorder
        self._configured = configured

    async def second_factor(self) -> str:
        """One of off, otp, on, optional."""
        return str((await self.get()).spec["second_factor"])

    async def get(self) -> Resource:
        """The stored resource, or what the configuration says."""
        try:
            item = await self._backend.get(KEY)
        except NotFound:
            spec = {"type": "local", "second_factor": self._configured}
            return Resource("cluster_auth_preference", PREFERENCE_NAME, spec)
        return Resource("cluster_auth_preference", PREFERENCE_NAME, item.value, item.revision)

    async def put(self, resource: Resource, *, revision: int | None, by: str) -> Resource:
        """Store it, replacing exactly ``revision`` when one is given."""
        kind = fields.text(resource.spec, "type", "local")
        second_factor = fields.text(resource.spec, "second_factor", self._configured)
        if resource.name != PREFERENCE_NAME:
            raise BadRequest(f"the one cluster_auth_preference is named {PREFERENCE_NAME}")
        if kind != "local" or second_factor not in SECOND_FACTORS or set(resource.spec) - {"type", "second_factor"}:
            raise BadRequest(f"type is local, second_factor one of {', '.join(SECOND_FACTORS)}; there is nothing else")
        value = {"type": kind, "second_factor": second_factor}
        if revision is None:
            item = await self._backend.put(KEY, value)
        else:
            item = await self._backend.compare_and_swap(KEY, revision, value)
        await self._recorder.record("auth_preference.update", user=by, second_factor=second_factor)
        return Resource("cluster_auth_preference", PREFERENCE_NAME, item.value, item.revision)

    async def delete(self, *, by: str) -> None:
        """Back to the configuration; NotFound when it holds already."""
        await self._backend.delete(KEY)
        await self._recorder.record("auth_preference.update", user=by, second_factor=self._configured)
