"""Flow control of one stream, one direction each.

The receiver debits bytes when they arrive and credits them when they were delivered, never before: a
reader that stops is felt by the sender after one window, whatever lies between them.
"""

from __future__ import annotations

from teleport_db.errors import LocalProtocolError, RemoteProtocolError
from teleport_db.mux.frames import INITIAL_WINDOW, MAX_U32


class SendWindow:
    """How much the peer is ready to take.

    :ivar left: bytes.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = INITIAL_WINDOW

    def grant(self, credit: int) -> None:
        """The peer takes ``credit`` bytes more; RemoteProtocolError when the sum has no 32 bits."""
        left = self.left + credit
        if left > MAX_U32:
            raise RemoteProtocolError("a window was opened beyond 32 bits")
        self.left = left


class ReceiveWindow:
    """How much the peer may send, and how much of what it sent is still here.

    :param size: bytes that may be here undelivered.
    :ivar left: bytes that the peer may still send, as it knows.
    :ivar delivered: bytes that have left and were not announced yet.
    """

    __slots__ = ("delivered", "left", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size
        self.delivered = 0

    def debit(self, count: int) -> None:
        """``count`` bytes arrive; RemoteProtocolError when the peer was not allowed to send them."""
        left = self.left - count
        if left < 0:
            raise RemoteProtocolError("a window was overrun")
        self.left = left

    def credit(self, count: int) -> bool:
        """``count`` bytes were delivered; True when it is time to announce it: at half a window."""
        delivered = self.delivered + count
        if count < 0 or self.left + delivered > self.size:
            raise LocalProtocolError("more was credited than had been received")
        self.delivered = delivered
        return delivered * 2 >= self.size

    def announce(self) -> int:
        """The credit to send now, in bytes."""
        delivered, self.delivered = self.delivered, 0
        self.left += delivered
        return delivered
