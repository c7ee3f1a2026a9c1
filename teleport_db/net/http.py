"""A web site that refuses before it stores.

Twisted's own ``Site`` spools any body to disk before a resource can refuse it.  This one looks at the
headers first::

    request line and headers   > max_headers  ─▶ 431
    Content-Length             > max_body     ─▶ 413, before 100-continue and before a byte of the body
    chunked body               > max_body     ─▶ 413, at the chunk that is too much
    a request in parts         > timeout      ─▶ closed, however steadily its bytes drip

Who has shown no certificate may be anybody, as often as he likes: of such a connection the site takes less, for
a shorter time.

Bodies stay in memory, so that no password is ever in a temporary file; and there is no access log, since
paths can hold tokens.
"""

# mypy: disallow-untyped-calls=False, disallow-subclassing-any=False
# (twisted.web has few annotations.)

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.server import Site

#: Seconds a refused client may go on sending, so that it reads the answer before the connection is reset.
LINGER = 2.0

#: Of who shows no certificate: bytes of a body, and seconds for a request, and between two.
STRANGER_BODY, STRANGER_SECONDS = 65536, 10

_PHRASES = {413: "Content Too Large", 431: "Request Header Fields Too Large"}


class BoundedChannel(HTTPChannel):
    """One connection of a :class:`BoundedSite`."""

    max_body = 0
    strangers = False
    callLater: Callable[..., IDelayedCall]
    transport: Any
    _networkProducer: Any

    def __init__(self) -> None:
        super().__init__()
        self.refused = False
        self._body_size = 0
        self._begun = True  # the first request's time runs from the connection's start
        self._lingering: IDelayedCall | None = None

    # Limits.

    def connectionMade(self) -> None:
        """By now it is known whether there is a certificate."""
        if self.strangers and getattr(self.transport, "peer_certificate", None) is None:
            self.max_body = min(self.max_body, STRANGER_BODY)
            self.timeOut = STRANGER_SECONDS if self.timeOut is None else min(self.timeOut, STRANGER_SECONDS)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """What a refused client still sends is dropped."""
        if not self.refused:
            super().dataReceived(data)

    def rawDataReceived(self, data: bytes) -> None:
        """So is what came in one piece with the headers."""
        if not self.refused:
            super().rawDataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """The request line and the headers, counted together."""
        if self.refused:
            return
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self.refuse(431, "the request's headers are too large")
            return
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """One line alone is too large."""
        self.refuse(431, "the request's headers are too large")

    def headerReceived(self, line: bytes) -> bool:
        """A length of more digits than ``int`` would take is refused here."""
        if self.refused:
            return False
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            digits = value.strip(b" \t").lstrip(b"0")
            if len(digits) > 18 and digits.isdigit():
                self.refuse(413, "the request's body is too large")
                return False
        return bool(super().headerReceived(line))

    def allHeadersReceived(self) -> None:
        """Refuse by the headers alone, if they tell; else count what comes."""
        if self.refused:
            return
        if self.length is not None and self.length > self.max_body:
            self.refuse(413, "the request's body is too large")
            return
        super().allHeadersReceived()
        request = self.requests[-1]
        if not isinstance(request.content, BytesIO):
            request.content.close()
            request.content = BytesIO()
        decoder = self._transferDecoder
        if self.length is None and decoder is not None:
            self._body_size = 0
            store = decoder.dataCallback

            def count(data: bytes) -> None:
                self._body_size += len(data)
                if self._body_size > self.max_body:
                    self.refuse(413, "the request's body is too large")
                elif not self.refused:
                    store(data)

            decoder.dataCallback = count

    def allContentReceived(self) -> None:
        """A request that was refused reaches no resource."""
        if not self.refused:
            super().allContentReceived()

    def refuse(self, status: int, message: str) -> None:
        """Answer, send nothing more, and drop what still comes."""
        if self.refused:
            return
        self.refused = True
        self.setTimeout(None)
        body = json.dumps({"error": {"code": "bad_request", "message": message}}).encode()
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._networkProducer.unregisterProducer()
        self.transport.write(head.encode() + body)
        lose_write = getattr(self.transport, "loseWriteConnection", None)
        if lose_write is None:
            self.transport.loseConnection()
        else:
            # Closing with data unread would reset the connection, and the client lose the answer.
            lose_write()
        self._lingering = self.callLater(LINGER, self._abort)

    def _abort(self) -> None:
        self._lingering = None
        self.transport.abortConnection()

    # Time.

    def resetTimeout(self) -> None:
        """A request's first byte starts its time; the later ones win none."""
        if not self._begun:
            self._begun = True
            super().resetTimeout()

    def requestDone(self, request: Any) -> None:
        """The next request's time starts with its first byte."""
        self._begun = False
        super().requestDone(request)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The timer goes with the connection."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        super().connectionLost(reason)


class BoundedSite(Site):
    """A site with limits; see the module.

    :param resource: the root.
    :param max_body: bytes.
    :param max_headers: bytes, the request line included.
    :param timeout: seconds for a whole request, and for idling between requests.
    :param strangers: hold who shows no certificate to :data:`STRANGER_BODY` and :data:`STRANGER_SECONDS`.
    """

    def __init__(
        self,
        resource: Any,
        *,
        reactor: IReactorTime,
        max_body: int = 2**20,
        max_headers: int = 16384,
        timeout: float = 60.0,
        strangers: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(resource, reactor=reactor, timeout=timeout, **kwargs)
        self.max_body = max_body
        self.max_headers = max_headers
        self.strangers = strangers

    def protocol(self) -> BoundedChannel:  # type: ignore[override]
        """HTTP/1.1 only: HTTP/2 has limits of other kinds."""
        channel = BoundedChannel()
        channel.max_body = self.max_body
        channel.strangers = self.strangers
        channel.totalHeadersSize = self.max_headers
        channel.MAX_LENGTH = self.max_headers
        return channel

    def startFactory(self) -> None:
        """No access log, and so no clock that ticks each second for its lines."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def log(self, request: Any) -> None:
        """Paths can hold tokens: nothing is logged here."""
