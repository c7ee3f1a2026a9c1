"""Writes what auth does to the audit log, before it answers.

Every event of a call says from where that came: the API sets :data:`REMOTE` for the coroutine that answers it,
and Twisted keeps such a value with a coroutine over all that it waits for.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from teleport_db.audit.events import make_event
from teleport_db.interfaces import IAuditLog

#: The address of whoever made the call that is being answered; "" outside of calls.
REMOTE: ContextVar[str] = ContextVar("REMOTE", default="")


class Recorder:
    """Makes events of auth's own and keeps them.

    :param new_uid: makes an event's ``uid``.
    """

    def __init__(
        self,
        audit: IAuditLog,
        cluster: str,
        *,
        clock: IReactorTime,
        new_uid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._audit = audit
        self._cluster = cluster
        self._clock = clock
        self._new_uid = new_uid

    def record(self, event: str, code: str = "", **fields: Any) -> Deferred[None]:
        """Keep one event; fires when it is durable, fails with AuditUnavailable.

        :param code: empty for the event's own in :data:`~teleport_db.audit.codes.CODES`, that of a success.
        """
        if REMOTE.get():
            fields.setdefault("addr.remote", REMOTE.get())
        made = make_event(
            event, code, uid=self._new_uid(), time=self._clock.seconds(), cluster_name=self._cluster, **fields
        )
        return self._audit.emit([made])
