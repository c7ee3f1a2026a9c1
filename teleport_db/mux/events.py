"""What a session tells after it was given bytes.

Named tuples: one of them is made for each frame on the byte path.
"""

from __future__ import annotations

from typing import NamedTuple

from teleport_db.errors import RemoteProtocolError


class Opened(NamedTuple):
    """The peer opens a stream: ``accept`` it or ``reset`` it.  Its data may follow at once."""

    stream_id: int


class Acknowledged(NamedTuple):
    """The peer took a stream that this side opened."""

    stream_id: int


class DataReceived(NamedTuple):
    """Bytes of a stream, never empty.  Give ``credit`` once they have left."""

    stream_id: int
    data: bytes


class WindowOpened(NamedTuple):
    """More may be sent on a stream."""

    stream_id: int


class HalfClosed(NamedTuple):
    """The peer will send nothing more on a stream."""

    stream_id: int


class WasReset(NamedTuple):
    """The peer threw a stream away.

    :ivar refused: it had never taken it.
    """

    stream_id: int
    refused: bool


class PingAnswered(NamedTuple):
    """The peer answered a ping of this side."""

    value: int


class GoneAway(NamedTuple):
    """The peer takes no more streams; those there are run to their end.

    :ivar code: a :class:`~teleport_db.mux.frames.GoAwayCode`, or a number nobody knows.
    """

    code: int


class Failed(NamedTuple):
    """The peer broke the protocol.  It is the last event; a go away waits to be sent."""

    error: RemoteProtocolError


Event = Opened | Acknowledged | DataReceived | WindowOpened | HalfClosed | WasReset | PingAnswered | GoneAway | Failed


def joined(events: list[Event]) -> list[Event]:
    """The same with the data of a stream that follow each other as one; what was a view of data is bytes then.

    A frame that the network has divided, and what came behind it, would else be decrypted and sent on each alone.
    """
    fewer: list[Event] = []
    pieces: list[bytes] = []
    last = len(events) - 1
    for at, event in enumerate(events):
        if type(event) is not DataReceived:
            fewer.append(event)
            continue
        pieces.append(event.data)
        following = events[at + 1] if at < last else None
        if type(following) is not DataReceived or following.stream_id != event.stream_id:
            fewer.append(DataReceived(event.stream_id, b"".join(pieces)))
            pieces.clear()
    return fewer
