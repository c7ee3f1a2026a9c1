"""Sends a host's audit events to auth, for its shipper.

Events go out as they stand in the spool: decoding and encoding each once more would cost more than making it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from twisted.internet.defer import Deferred

from teleport_db.api.client import Call, Pieces
from teleport_db.audit.events import EncodedEvent, encode
from teleport_db.audit.spooled import Batch

_BEGIN, _END = b'{"events":[', b"]}"

#: Bytes that are written at once.
PIECE: Final = 32 * 1024


class Shipment(Pieces):
    """The lines of a spool as the entries of a body, of which nothing is there twice.

    :param size: of the bytes that are sent, up to the end of a line.
    """

    def __init__(self, lines: bytes, size: int) -> None:
        self._lines, self._end = lines, size - 1  # without the last one's end

    def __len__(self) -> int:
        return len(_BEGIN) + self._end + len(_END)

    def __iter__(self) -> Iterator[bytes]:
        begin = _BEGIN
        for at in range(0, self._end, PIECE):
            yield begin + self._lines[at : min(at + PIECE, self._end)].replace(b"\n", b",")
            begin = b""
        yield _END


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
        if batch.count_ending(ending) == len(batch):
            body = Shipment(batch.data, batch.size)
        else:
            pairs = zip(batch.lines, batch, strict=True)
            lines = [line if line.endswith(ending) else own(line, *one) for line, one in pairs]
            joined = b"\n".join((*lines, b""))
            body = Shipment(joined, len(joined))
        acknowledged: Deferred[int] = call("POST", "/v1/audit", body).addCallback(
            lambda answer: int(answer["acknowledged"])
        )
        return acknowledged

    return send
