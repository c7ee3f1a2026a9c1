"""The life of a stream.

::

            OPEN ── sent FIN ──▶ LOCAL_CLOSED ── received FIN ─┐
             └── received FIN ─▶ REMOTE_CLOSED ── sent FIN ────┴▶ CLOSED      either RST ─▶ CLOSED
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from teleport_db.errors import LocalProtocolError, RemoteProtocolError


class State(Enum):
    """Which directions of a stream are open."""

    OPEN = auto()
    LOCAL_CLOSED = auto()
    REMOTE_CLOSED = auto()
    CLOSED = auto()


class Close(Enum):
    """What closes a direction, or both."""

    SENT_FIN = auto()
    RECEIVED_FIN = auto()
    SENT_RST = auto()
    RECEIVED_RST = auto()


TRANSITIONS: Final = {
    (State.OPEN, Close.SENT_FIN): State.LOCAL_CLOSED,
    (State.OPEN, Close.RECEIVED_FIN): State.REMOTE_CLOSED,
    (State.LOCAL_CLOSED, Close.RECEIVED_FIN): State.CLOSED,
    (State.REMOTE_CLOSED, Close.SENT_FIN): State.CLOSED,
    (State.OPEN, Close.SENT_RST): State.CLOSED,
    (State.LOCAL_CLOSED, Close.SENT_RST): State.CLOSED,
    (State.REMOTE_CLOSED, Close.SENT_RST): State.CLOSED,
    (State.OPEN, Close.RECEIVED_RST): State.CLOSED,
    (State.LOCAL_CLOSED, Close.RECEIVED_RST): State.CLOSED,
    (State.REMOTE_CLOSED, Close.RECEIVED_RST): State.CLOSED,
}

#: States in which this side may send data, and in which the peer may.
WRITABLE: Final = frozenset({State.OPEN, State.REMOTE_CLOSED})
READABLE: Final = frozenset({State.OPEN, State.LOCAL_CLOSED})


def after(state: State, close: Close) -> State:
    """The next state; RemoteProtocolError or LocalProtocolError, by whose doing it was, when there is none."""
    try:
        return TRANSITIONS[state, close]
    except KeyError:
        kind = RemoteProtocolError if close in (Close.RECEIVED_FIN, Close.RECEIVED_RST) else LocalProtocolError
        raise kind(f"a stream that is {state.name} cannot take {close.name}") from None
