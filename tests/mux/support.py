"""Two sessions and what goes between them."""

from __future__ import annotations

from collections.abc import Iterable

from teleport_db.mux.events import DataReceived, Event
from teleport_db.mux.limits import Limits
from teleport_db.mux.session import Session

WINDOW = Limits().window


def exchange(one: Session, other: Session) -> tuple[list[Event], list[Event]]:
    """Let bytes move until both have said all; returns what each has heard."""
    here: list[Event] = []
    there: list[Event] = []
    while one.has_data or other.has_data:
        there += other.receive(one.data_to_send())
        here += one.receive(other.data_to_send())
    return here, there


def connected() -> tuple[Session, Session]:
    """A client and a server with stream 1 between them."""
    one, other = Session(True), Session(False)
    one.open_stream()
    exchange(one, other)
    other.accept(1)
    exchange(one, other)
    return one, other


def merged(events: Iterable[Event]) -> list[Event]:
    """Pieces of a body are one."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, DataReceived) and isinstance(last, DataReceived) and last.stream_id == event.stream_id:
            result[-1] = DataReceived(event.stream_id, last.data + event.data)
        else:
            result.append(event)
    return result
