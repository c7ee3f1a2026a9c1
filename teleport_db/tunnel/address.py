"""Where a stream ends."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IAddress
from zope.interface import implementer


@implementer(IAddress)
@attrs.frozen
class StreamAddress:
    """One end of a stream.

    :param carrier: the address of the same end of the tunnel's own connection.
    :param stream_id: the number of the stream, the same at both ends.
    """

    carrier: IAddress
    stream_id: int
