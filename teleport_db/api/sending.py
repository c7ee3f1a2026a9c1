"""Sends a host's audit events to auth, for its shipper.

Events go out as they stand in the spool: decoding and encoding each once more would cost more than making it did.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from teleport_db.api.client import Call
from teleport_db.audit.events import EncodedEvent, encode
from teleport_db.audit.spool import Batch


def sender(call: Call, host_id: Callable[[], str]) -> Callable[[Batch], Deferred[int]]:
    """A function that sends a batch, and fires with the number up to which auth has kept events.

    :param call: the API client's ``call``.
    :param host_id: gives the host's present id.  Auth takes a host's own events only; what was spooled
        before the host joined anew under another id goes out under the present one, and says so.
    """

    def own(line: bytes, number: int, event: EncodedEvent) -> bytes:
        recorded_by, present = event.get("server_id"), host_id()
        if recorded_by == present:
            return line
        return (
            f'{{"seq":{number},"event":{encode({**event, "server_id": present, "recorded_by": recorded_by})}}}'.encode()
        )

    def send(batch: Batch) -> Deferred[int]:
        ending = f",{encode({'server_id': host_id()})[1:]}}}".encode()  # a session's events end so
        lines = batch.lines
        if not all(line.endswith(ending) for line in lines):
            lines = [line if line.endswith(ending) else own(line, *batch[at]) for at, line in enumerate(lines)]
        acknowledged: Deferred[int] = call("POST", "/v1/audit", b'{"events":[%b]}' % b",".join(lines)).addCallback(
            lambda answer: int(answer["acknowledged"])
        )
        return acknowledged

    return send
