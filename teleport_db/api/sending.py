"""Sends a host's audit events to auth, for its shipper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from teleport_db.api.client import Call

Batch = list[tuple[int, dict[str, Any]]]


def sender(call: Call, host_id: Callable[[], str]) -> Callable[[Batch], Deferred[int]]:
    """A function that sends a batch, and fires with the number up to which auth has kept events.

    :param call: the API client's ``call``.
    :param host_id: gives the host's present id.  Auth takes a host's own events only; what was spooled
        before the host joined anew under another id goes out under the present one, and says so.
    """

    def own(event: dict[str, Any]) -> dict[str, Any]:
        recorded_by, present = event.get("server_id"), host_id()
        return event if recorded_by == present else {**event, "server_id": present, "recorded_by": recorded_by}

    def send(batch: Batch) -> Deferred[int]:
        events = [{"seq": seq, "event": own(event)} for seq, event in batch]
        acknowledged: Deferred[int] = call("POST", "/v1/audit", {"events": events}).addCallback(
            lambda answer: int(answer["acknowledged"])
        )
        return acknowledged

    return send
