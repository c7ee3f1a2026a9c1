"""Streams that a proxy opens to this agent: what is each one for?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as Shape

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.certs.tls import peer_identity
from teleport_db.errors import AuthenticationFailed, TeleportDBError
from teleport_db.tunnel.header import (
    CancelHeader,
    ControlHeader,
    FrameReader,
    SessionHeader,
    decode_header,
    encode_frame,
)

log = Logger()

#: Seconds a stream has to say what it is for.
HEADER_SECONDS = 10.0


class OpenSession(Shape):
    """What a stream needs of a session."""

    def receive(self, data: bytes) -> None:
        """Some bytes of the client."""

    def client_done(self) -> None:
        """The client says no more, and may still read."""

    def client_lost(self) -> None:
        """The stream is gone."""


class Announcements:
    """The names this agent serves, told to every proxy that asks, and again when they change."""

    def __init__(self, names: Callable[[], list[str]]) -> None:
        self._names = names
        self._listeners: list[Any] = []

    def add(self, transport: Any) -> None:
        """Tell this stream now, and whenever :meth:`changed` is called."""
        self._listeners.append(transport)
        transport.write(self._frame())

    def remove(self, transport: Any) -> None:
        """The stream is gone."""
        if transport in self._listeners:
            self._listeners.remove(transport)

    def changed(self) -> None:
        """Tell everybody again."""
        for transport in self._listeners:
            transport.write(self._frame())

    def close(self) -> None:
        """Say no more: the streams end, and with them what keeps a tunnel from draining."""
        for transport in list(self._listeners):
            transport.loseConnection()

    def _frame(self) -> bytes:
        return encode_frame({"databases": sorted(self._names())})


@implementer(IHalfCloseableProtocol)
class IncomingStream(Protocol):
    """Above a stream's TLS: its header, then whatever that announces."""

    def __init__(
        self,
        *,
        check: Callable[[bytes | None], None],
        open_session: Callable[[SessionHeader, Any], OpenSession],
        cancel: Callable[[CancelHeader], Deferred[None]],
        announcements: Announcements,
        clock: IReactorTime,
    ) -> None:
        self._check = check
        self._open_session = open_session
        self._cancel = cancel
        self._announcements = announcements
        self._clock = clock
        self._frames: FrameReader | None = FrameReader()
        self._session: OpenSession | None = None
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        try:
            self._check(transport.peer_certificate)
        except TeleportDBError as error:
            log.warn("a stream was refused: {error}", error=error)
            self._frames = None
            transport.loseConnection()
            return
        self._timer = self._clock.callLater(HEADER_SECONDS, transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        if self._session is not None:
            self._session.receive(data)
        elif self._frames is not None:
            try:
                value = self._frames.feed(data)
                if value is not None:
                    self._begin(decode_header(value), self._frames.rest())
            except TeleportDBError as error:
                log.warn("a stream was refused: {error} {detail}", error=error, detail=error.detail)
                self._frames = None
                self.transport.loseConnection()  # type: ignore[union-attr]

    def _begin(self, header: SessionHeader | CancelHeader | ControlHeader, rest: bytes) -> None:
        self._frames = None
        self._stop_timer()
        transport: Any = self.transport
        match header:
            case SessionHeader():
                self._session = self._open_session(header, transport)
                if rest:
                    self._session.receive(rest)
            case CancelHeader():
                # The end of the stream tells the client that its cancel is delivered, as PostgreSQL's end would.
                self._cancel(header).addCallback(lambda _: transport.loseConnection())
            case ControlHeader():
                self._announcements.add(transport)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def readConnectionLost(self) -> None:
        if self._session is not None:
            self._session.client_done()
        else:
            self.transport.loseConnection()  # type: ignore[union-attr]

    def writeConnectionLost(self) -> None:
        """Nothing to do: only an end of both ways is written here."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        self._announcements.remove(self.transport)
        if self._session is not None:
            self._session.client_lost()


def proxies_only(
    host_ca: Callable[[], bytes], clock: IReactorTime, allowed: Callable[[str], None] = lambda host_id: None
) -> Callable[[bytes | None], None]:
    """A check that lets in whoever holds a proxy's certificate of this cluster, and nobody else.

    :param allowed: refuses the ids of hosts that are locked, or no members any more.
    """

    def check(certificate: bytes | None) -> None:
        if certificate is None:
            raise AuthenticationFailed("a stream without a certificate")
        identity = peer_identity(certificate, user_ca=None, host_ca=host_ca(), now=clock.seconds())
        if "proxy" not in identity.roles:
            raise AuthenticationFailed(f"{identity.name} is no proxy")
        allowed(identity.name)

    return check
