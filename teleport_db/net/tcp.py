"""TCP that writes at once.

Twisted queues every write and asks the reactor for a writer: two ``epoll_ctl`` and one more poll for each
answer of 100 bytes.  Here a write goes to the socket when nothing waits before it, and only what the
kernel did not take goes the usual way::

    write(data) ── nothing queued ──▶ send(2) ── all taken ──▶ done
                 └─ queued already ─┐    └─ EAGAIN, a part, an error ─┐
                                    ▼                                 ▼
                         Twisted's buffer, producers paused above 64 KiB, reactor's writer

An error of ``send`` is never raised to the writer: the data is queued, the reactor's own write meets the
same error, and the protocol hears ``connectionLost`` in the reactor's turn as ever.

Every connection has keepalive on: a peer that has vanished without a word, its machine off or its network gone, is
noticed within five minutes, and what waits for it ends.
"""

# mypy: disallow-untyped-calls=False
# (Parts of Twisted have no annotations.)

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet import error, interfaces, tcp
from twisted.internet.abstract import FileDescriptor, isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.errors import ConnectionTrouble
from teleport_db.hostport import host_port

#: Connections the kernel may hold before they are accepted (it cuts this to ``net.core.somaxconn``).
BACKLOG = 1024

#: Seconds of silence before the kernel asks a peer whether it is there, seconds between two questions, and how many
#: of them go unanswered before it is not.  The first is less than what stateful networks keep an idle connection.
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 120, 30, 6

#: The options' names differ: macOS calls the first one TCP_KEEPALIVE.
_KEEPALIVE = (
    (getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None), KEEPALIVE_IDLE),
    (getattr(socket, "TCP_KEEPINTVL", None), KEEPALIVE_INTERVAL),
    (getattr(socket, "TCP_KEEPCNT", None), KEEPALIVE_COUNT),
)

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)

#: Whether the system can be asked to acknowledge at once.
ACKNOWLEDGES = _QUICKACK is not None

#: Seconds for which an address that answered is dialled again before its name is asked anew.  To resolve one takes a
#: millisecond and a thread; a database that fails over to another address is found this much later at most.
ADDRESS_SECONDS = 5.0

#: Bytes read in one turn at most, of a peer that may be anybody, and of one that has shown who it is; one ``recv``
#: takes all that is there up to this.  With a record of TLS that had begun before, even the latter stays below the
#: 128 KiB from which on malloc may map and unmap each block.
FIRST_READ_SIZE, READ_SIZE = 65536, 114688

if TYPE_CHECKING:
    _Base = tcp.Connection
else:
    _Base = object


class AtOnce(_Base):
    """What is common to both ends: writing at once, and reading with one call less."""

    _read_size = FIRST_READ_SIZE

    def settled(self) -> None:
        """The peer has shown a certificate that an authority of ours has signed: more of it is read at once."""
        self._read_size = READ_SIZE

    def _prepare(self) -> None:
        """Set the options of a socket that is connected."""
        self.setTcpNoDelay(True)
        self.setTcpKeepAlive(True)
        for option, value in _KEEPALIVE:
            if option is not None:
                self.socket.setsockopt(socket.IPPROTO_TCP, option, value)

    def acknowledge(self) -> None:
        """Acknowledge now what was received, where the system can be asked to.

        A peer without TCP_NODELAY sends nothing more before that, and a kernel takes up to 40 ms over it when nothing
        is written that it could go with.
        """
        if _QUICKACK is not None and self.connected:
            self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes; queue the rest."""
        if (
            self._tempDataLen
            or self.dataBuffer
            or not data
            or not self.connected
            or self._writeDisconnected
            or self.TLS
            or self._aborting
        ):
            if not self._aborting:
                super().write(data)
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            sent = 0
        if sent != len(data):
            FileDescriptor.write(self, bytes(memoryview(data)[sent:]))
        elif self.disconnecting or self._writeDisconnecting or (self.producer and not self.streamingProducer):
            # The usual way would now ask for a writer, and its turn closes, half-closes or asks a
            # pull producer for more.
            self.startWriting()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """One write of all the pieces."""
        self.write(b"".join(iovec))

    def doRead(self) -> Any:
        """Read what is there, up to :data:`FIRST_READ_SIZE` or :data:`READ_SIZE`, and deliver it once."""
        try:
            data = self.socket.recv(self._read_size)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None


class ServerTransport(AtOnce, tcp.Server):
    """An accepted connection."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._prepare()


class ClientTransport(AtOnce, tcp.Client):
    """A connection that was dialled."""

    def _connectDone(self) -> None:
        self._prepare()
        super()._connectDone()


class ListeningPort(tcp.Port):
    """A port whose connections write at once."""

    transport = ServerTransport


class _Connector(tcp.Connector):
    def _makeTransport(self) -> tcp.Client:
        return ClientTransport(self.host, self.port, self.bindAddress, self, self.reactor)


def listen(
    reactor: Any, port: int, factory: interfaces.IProtocolFactory, *, interface: str = "", backlog: int = BACKLOG
) -> interfaces.IListeningPort:
    """Listen now.

    :param port: 0 lets the kernel choose; ``getHost().port`` of the result tells.
    :param interface: an IP literal; empty is every IPv4 address.
    :raises twisted.internet.error.CannotListenError: the port is taken or not ours.
    """
    listening = ListeningPort(port, factory, backlog, interface, reactor)
    listening.startListening()
    return listening


@implementer(interfaces.IReactorTCP, interfaces.IReactorTime, interfaces.IReactorPluggableNameResolver)
class _DialsAtOnce:
    """A reactor, as far as Twisted's endpoints use one, whose connections write at once."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30.0, bindAddress: Any = None
    ) -> interfaces.IConnector:
        connector = _Connector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.connect()
        return connector


@implementer(interfaces.IStreamClientEndpoint)
class ClientEndpoint:
    """Dial ``host:port``; names are resolved off the reactor's thread and their addresses tried in turn.

    The address that answered is dialled at once for a few seconds more; should it not answer then, all are tried.

    :param timeout: seconds for resolving and connecting together.
    """

    def __init__(self, reactor: Any, host: str, port: int, *, timeout: float = 10.0) -> None:
        self._reactor, self.host, self.port, self._timeout = reactor, host, port, timeout
        self._answered: tuple[str, float] | None = None  # an address, and until when it is good

    def __repr__(self) -> str:
        return f"<ClientEndpoint {self._address()}>"

    def _address(self) -> str:
        return host_port(self.host, self.port)

    def connect(self, protocolFactory: interfaces.IProtocolFactory) -> Deferred[Any]:
        """Connect; fails with :class:`ConnectionTrouble` that names the address, or ``CancelledError``."""
        connecting = self._dial(protocolFactory)
        cancelled = False

        def cancel(_: Deferred[Any]) -> None:
            nonlocal cancelled
            cancelled = True
            connecting.cancel()

        # A Deferred of our own: whoever waits for it may add to it, and a cancellation of theirs must
        # look different from the time running out.
        result: Deferred[Any] = Deferred(cancel)

        def failed(failure: Failure) -> None:
            if cancelled:
                if not result.called:
                    result.errback(CancelledError())
                return
            words = _words(failure)
            result.errback(ConnectionTrouble(f"cannot reach {self._address()}: {words}") if words else failure)

        def made(protocol: Any) -> None:
            transport = protocol.transport
            if getattr(transport.protocol, "_wrappedProtocol", None) is protocol:
                # Twisted's wrapper has only to tell of the connection, and that is done.
                transport.protocol = protocol
            result.callback(protocol)

        connecting.addTimeout(self._timeout, self._reactor)
        connecting.addCallbacks(made, failed)
        return result

    def _dial(self, factory: interfaces.IProtocolFactory) -> Deferred[Any]:
        reactor: Any = _DialsAtOnce(self._reactor)
        if isIPAddress(self.host) or isIPv6Address(self.host):
            return self._dial_address(reactor, self.host, factory)
        answered, self._answered = self._answered, None
        if answered is not None and self._reactor.seconds() < answered[1]:
            connecting = self._dial_address(reactor, answered[0], factory)
            connecting.addCallbacks(self._keep, self._ask_anew, callbackArgs=answered, errbackArgs=(reactor, factory))
            return connecting
        return self._dial_name(reactor, factory)

    def _dial_address(self, reactor: Any, address: str, factory: interfaces.IProtocolFactory) -> Deferred[Any]:
        kind: Any = TCP6ClientEndpoint if isIPv6Address(address) else TCP4ClientEndpoint
        connecting: Deferred[Any] = kind(reactor, address, self.port, self._timeout).connect(factory)
        return connecting

    def _dial_name(self, reactor: Any, factory: interfaces.IProtocolFactory) -> Deferred[Any]:
        endpoint: Any = HostnameEndpoint(reactor, self.host, self.port, self._timeout)
        connecting: Deferred[Any] = endpoint.connect(factory)

        def made(protocol: Any) -> Any:
            address = protocol.transport.getPeer().host
            return self._keep(protocol, address, self._reactor.seconds() + ADDRESS_SECONDS)

        return connecting.addCallback(made)

    def _keep(self, protocol: Any, address: str, until: float) -> Any:
        self._answered = address, until
        return protocol

    def _ask_anew(self, failure: Failure, reactor: Any, factory: interfaces.IProtocolFactory) -> Any:
        """The address answers no more: the name may have another by now."""
        cancelled = failure.check(CancelledError, error.ConnectingCancelledError)
        return failure if cancelled else self._dial_name(reactor, factory)


def connector(reactor: Any, host: str, port: int, *, timeout: float = 10.0) -> interfaces.IStreamClientEndpoint:
    """An endpoint that dials ``host:port`` (a name or an IP literal); see :class:`ClientEndpoint`."""
    return ClientEndpoint(reactor, host, port, timeout=timeout)


def _words(failure: Failure) -> str:
    """Why a connection could not be made, without Twisted's preambles; empty for what is no trouble of the network."""
    value = failure.value
    if isinstance(value, error.DNSLookupError):
        return "the name is not known"
    number = getattr(value, "osError", None)
    if isinstance(number, int) and number in errno.errorcode:
        return os.strerror(number).lower()
    if isinstance(value, (error.TimeoutError, DeferredTimeout)):
        return "no answer in time"
    if isinstance(value, (error.ConnectError, error.ConnectionClosed, OSError)):
        return str(value) or type(value).__name__
    if isinstance(value, ValueError) and str(value).startswith("invalid hostname"):
        return "the name cannot be one"
    return ""
