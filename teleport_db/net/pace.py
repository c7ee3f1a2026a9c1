"""Two transports that pace each other."""

from __future__ import annotations

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


@implementer(IPushProducer)
class Pace:
    """A transport as the producer of another: paused and resumed with it, but not ended by it.

    A consumer that is gone stops its producer before anybody knows how it went, and a transport that is stopped
    closes cleanly.  Whoever joins two of them hears of the end itself, and passes it on as the one that it was.

    :param transport: what is read from.
    """

    def __init__(self, transport: IPushProducer) -> None:
        self._transport = transport

    def pauseProducing(self) -> None:
        """The other takes no more."""
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The other takes more."""
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """The other is gone; its protocol hears why."""
