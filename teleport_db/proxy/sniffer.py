"""The front door: one port for the web, PostgreSQL and the tunnels.

::

    first bytes          answered by   then
    ClientHello          the door of its ALPN name, or the web
    GSSENCRequest        N             as before
    SSLRequest           S             ClientHello -> PostgreSQL; ALPN is none, or has postgresql
    CancelRequest                      the canceller, and the end
    StartupMessage       ErrorResponse: this proxy speaks TLS only

The TLS context is chosen before TLS begins, and the bytes that were read are fed in: no certificate is
chosen in a callback (an exception there has let connections through: pyOpenSSL before 26.0).
"""

from __future__ import annotations

import enum
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableProtocol, IProtocol, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.alpn import ALPN_POSTGRESQL
from teleport_db.clienthello import ClientHello, parse
from teleport_db.errors import AuthenticationFailed, RemoteProtocolError, TeleportDBError
from teleport_db.net.tlserrors import Unverified
from teleport_db.net.tlslayer import TLSLayer
from teleport_db.net.unsettled import MAX_UNSETTLED, Unsettled
from teleport_db.pgwire.messages import error_for
from teleport_db.pgwire.startup import Cancel, Opening, Reply, StartTLS, Startup, StartupMessage

log = Logger()

#: Seconds a connection has until it has said who it is.
OPENING_SECONDS = 10.0

#: The fatal alert no_application_protocol (RFC 7301 section 3.2) in a record of its own.  Python's ``ssl`` goes on
#: without a protocol where PostgreSQL, since 17, ends the handshake.
NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\0\x02\x02\x78"


@attrs.frozen
class Door:
    """What stands behind an ALPN name.

    :param build: makes the protocol that speaks above TLS, or None to hang up.  It gets a function to
        call once the peer has said who it is: until then the connection and its time are counted.  Behind
        a door with TLS that counts from the end of the handshake on, whenever it is called.
    :param context: makes or gives the TLS context; None forwards the bytes untouched to the protocol.
    """

    build: Callable[[IAddress, Callable[[], None]], IProtocol | None]
    context: Callable[[], ssl.SSLContext] | None


class _State(enum.Enum):
    UNKNOWN = enum.auto()
    POSTGRES = enum.auto()
    POSTGRES_TLS = enum.auto()
    HELLO = enum.auto()
    PASSING = enum.auto()
    CLOSED = enum.auto()


@implementer(IHalfCloseableProtocol)
class Sniffer(Protocol):
    """One connection that has not yet said what it is."""

    def __init__(self, factory: FrontDoor, address: IAddress) -> None:
        self._doors = factory
        self._address = address
        self._state = _State.UNKNOWN
        self._buffer = b""
        self._opening = Opening(encrypted=False)
        self._next: IProtocol | None = None
        self._timer: IDelayedCall | None = None
        self._shaking = False
        self._said = False

    def connectionMade(self) -> None:
        self._doors.unsettled.add(self._address, self)
        self._timer = self._doors.clock.callLater(OPENING_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self._timer = None
        self._doors.unsettled.remove(self._address, self)
        assert self.transport is not None
        self.transport.abortConnection()  # type: ignore[attr-defined]

    def settled(self) -> None:
        """The peer has said who it is; its time is no longer counted."""
        self._said = True
        if not self._shaking:
            self._settle()

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._doors.unsettled.remove(self._address, self)
            transport: Any = self.transport
            if transport.protocol is self and IHalfCloseableProtocol.providedBy(self._next):
                transport.protocol = self._next  # there is nothing to do here any more

    def _shaken(self) -> None:
        """The handshake is done; a ClientHello alone says nothing."""
        self._shaking = False
        acknowledge = getattr(self.transport, "acknowledge", None)
        if acknowledge is not None:
            acknowledge()  # whoever is given no ticket might wait for it
        if self._said:
            self._settle()

    def dataReceived(self, data: bytes) -> None:
        if self._next is not None:
            self._next.dataReceived(data)
            return
        if self._state is _State.CLOSED:
            return
        try:
            self._sniff(data)
        except TeleportDBError as error:
            log.info("connection from {peer} refused: {error}", peer=self._address, error=error)
            self._refuse(error)

    def _refuse(self, error: TeleportDBError) -> None:
        if self._state is _State.POSTGRES:
            # It speaks PostgreSQL, and in the clear as yet: it may read why.
            assert self.transport is not None
            self.transport.write(error_for(error))
        self._close()

    def _sniff(self, data: bytes) -> None:
        if self._state is _State.UNKNOWN:
            self._state = _State.HELLO if data[:1] == b"\x16" else _State.POSTGRES
        if self._state is _State.POSTGRES:
            self._postgres(data)
        else:
            self._hello(data)

    def _postgres(self, data: bytes) -> None:
        assert self.transport is not None
        for event in self._opening.feed(data):
            match event:
                case Reply():
                    self.transport.write(event.data)
                case StartTLS():
                    self.transport.write(b"S")
                    self._state = _State.POSTGRES_TLS
                case Cancel():
                    self._state = _State.CLOSED
                    self._settle()
                    self._doors.cancel(self._address, event.pid, event.secret).addCallback(lambda _: self._close())
                case Startup():
                    plain = AuthenticationFailed(
                        "this proxy accepts encrypted connections only: use sslmode=require or better"
                    )
                    self._doors.refused(self._address, plain, event.message)
                    self._refuse(plain)

    def _hello(self, data: bytes) -> None:
        self._buffer += data
        hello = parse(self._buffer)
        if not isinstance(hello, ClientHello):
            return
        if self._state is _State.POSTGRES_TLS:
            if hello.alpn and ALPN_POSTGRESQL not in hello.alpn:
                assert self.transport is not None
                self.transport.write(NO_APPLICATION_PROTOCOL)
                raise RemoteProtocolError("an SSLRequest was followed by TLS for another protocol")
            door = self._doors.postgres
        else:
            door = next((self._doors.doors[name] for name in hello.alpn if name in self._doors.doors), self._doors.web)
        self._shaking = door.context is not None
        upper = door.build(self._address, self.settled)
        if upper is None:
            raise RemoteProtocolError("nobody is behind this door")
        if door.context is None:
            self._pass_to(upper)
        else:
            self._pass_to(
                TLSLayer(
                    upper,
                    door.context(),
                    server_side=True,
                    clock=self._doors.clock,
                    timeout=OPENING_SECONDS,
                    failed=partial(self._handshake_failed, door),
                    connected=self._shaken,
                )
            )

    def _handshake_failed(self, door: Door, reason: Failure) -> None:
        log.info("TLS with {peer} failed: {reason}", peer=self._address, reason=reason.getErrorMessage())
        if door is self._doors.postgres and reason.check(Unverified):
            why = AuthenticationFailed("the client's certificate is of no authority of this cluster")
            why.detail = f"{why.public}: {reason.getErrorMessage().rpartition(': ')[2]}"
            self._doors.refused(self._address, why, None)

    def _pass_to(self, protocol: IProtocol) -> None:
        self._state = _State.PASSING
        data, self._buffer = self._buffer, b""
        self._next = protocol
        assert self.transport is not None
        protocol.makeConnection(self.transport)
        protocol.dataReceived(data)

    def _close(self) -> None:
        self._state = _State.CLOSED
        assert self.transport is not None
        self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        above = IHalfCloseableProtocol(self._next, None)
        if above is not None:
            above.readConnectionLost()
        else:
            assert self.transport is not None
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        above = IHalfCloseableProtocol(self._next, None)
        if above is not None:
            above.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._state = _State.CLOSED
        self._settle()
        if self._next is not None:
            self._next.connectionLost(reason)


class FrontDoor(Factory):
    """Makes a sniffer of every connection to a public port.

    :param web: where a ClientHello without a known ALPN name goes.
    :param postgres: where SSLRequest leads to.
    :param doors: ALPN names to doors.
    :param cancel: told of the address, process id and secret of each CancelRequest.
    :param refused: told of sessions that are refused here, with the startup message where there was one.
    """

    noisy = False

    def __init__(
        self,
        *,
        web: Door,
        postgres: Door,
        doors: Mapping[str, Door],
        cancel: Callable[[IAddress, int, bytes], Deferred[None]],
        refused: Callable[[IAddress, TeleportDBError, StartupMessage | None], None],
        clock: IReactorTime,
    ) -> None:
        self.web = web
        self.postgres = postgres
        self.doors = dict(doors)
        self.cancel = cancel
        self.refused = refused
        self.clock = clock
        self.unsettled = Unsettled(MAX_UNSETTLED)

    def buildProtocol(self, addr: IAddress | None) -> Sniffer | None:
        assert addr is not None
        if self.unsettled.full(addr):
            return None
        return Sniffer(self, addr)
