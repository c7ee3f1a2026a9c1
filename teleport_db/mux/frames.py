"""The frames of yamux, as they stand on the wire.

::

    0         1         2                   4                   8                   12
    +---------+---------+-------------------+-------------------+-------------------+------
    | version |  type   |       flags       |     stream id     |      length       | body
    |   0     |         |                   |                   |                   | (data only)
    +---------+---------+-------------------+-------------------+-------------------+------

All numbers are big endian.  ``length`` is the size of the body of a data frame, the credit of a window
update, the opaque value of a ping and the code of a go away.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

VERSION: Final = 0
HEADER_SIZE: Final = 12

#: Types.  Plain numbers: they are compared once a frame.
DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

#: Flags.
SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8
ALL_FLAGS: Final = SYN | ACK | FIN | RST

#: What each side may send on a new stream before it was granted anything.
INITIAL_WINDOW: Final = 256 * 1024
#: The largest body that is sent in one frame, so that streams take turns.
MAX_BODY: Final = 64 * 1024
#: Stream ids, lengths and windows are 32 bits wide.
MAX_U32: Final = 0xFFFFFFFF

HEADER: Final = Struct(">BBHII")
_pack = HEADER.pack


class GoAwayCode(IntEnum):
    """Why a session takes no more streams."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


def header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """The 12 bytes in front of every body."""
    return _pack(VERSION, kind, flags, stream_id, length)
