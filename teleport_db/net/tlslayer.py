"""TLS for endpoints and factories: the public face of the TLS layer.

The layer itself is in :mod:`teleport_db.net.tlsconnection`; here are the two ways in::

    TLSClientEndpoint(below, context, name=...)   dial below ─▶ TLS ─▶ verify_name ─▶ the factory's protocol
    TLSServerFactory(factory, context)            listener ─▶ TLS ─▶ check ─▶ the factory's protocol
"""

# mypy: disallow-untyped-calls=False
# (Failure has no annotations in Twisted.)

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.certs.tls import verify_name, verify_time
from teleport_db.errors import AuthenticationFailed, ConnectionTrouble
from teleport_db.net.tlsconnection import State, TLSLayer
from teleport_db.net.unsettled import Unsettled

__all__ = ["State", "TLSClientEndpoint", "TLSLayer", "TLSServerFactory"]

Check = Callable[[TLSLayer], None]

#: Seconds for which a session is resumed.  To take over the ticket of each connection would cost more than this saves.
RESUME_SECONDS = 60.0

#: A context, or what gives the present one: certificates are renewed while an endpoint lives.
Context = ssl.SSLContext | Callable[[], ssl.SSLContext]


def _giver(context: Context) -> Callable[[], ssl.SSLContext]:
    return (lambda: context) if isinstance(context, ssl.SSLContext) else context


def is_address(name: str) -> bool:
    """Whether ``name`` is an IP literal."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@implementer(IStreamClientEndpoint)
class TLSClientEndpoint:
    """TLS over another endpoint, to a peer of a known name.

    :param context: the TLS context, or a function that gives the present one.
    :param name: whom the certificate must name (DNS name or IP literal); None checks no name.
    :param server_hostname: the SNI; left out it is ``name``, if that is a DNS name.
    :param check: called after the name was verified; what it raises fails the connection.
    :param timeout: seconds for the handshake; connecting is the endpoint's own affair.
    :param resume: whether to resume the session of an earlier connection, which costs half of a handshake.  Its
        certificate is checked again but for the authority's signature; a new context resumes nothing, nor is
        anything resumed for longer than :data:`RESUME_SECONDS`.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        context: Context,
        *,
        clock: IReactorTime,
        name: str | None = None,
        server_hostname: str | None = None,
        check: Check | None = None,
        timeout: float = 10.0,
        resume: bool = False,
    ) -> None:
        self._endpoint, self._context, self._clock = endpoint, _giver(context), clock
        self._resume = resume
        self._session: tuple[ssl.SSLContext, ssl.SSLSession, float] | None = None  # and until when it is good
        self._name, self._check, self._timeout = name, check, timeout
        if server_hostname is None and name is not None and not is_address(name):
            server_hostname = name
        self._server_hostname = server_hostname

    def __repr__(self) -> str:
        return f"<TLSClientEndpoint {self._name or 'anyone'} over {self._endpoint!r}>"

    def verify(self, layer: TLSLayer) -> None:
        """The certificate is for our name, and the caller's check passes."""
        if not layer.resumed:
            self._session = None  # there was none, or the server knows it no more
        if self._name is not None:
            if layer.peer_certificate is None:
                raise AuthenticationFailed(f"{self._name} has no certificate")
            verify_name(layer.peer_certificate, self._name)
            if layer.resumed:
                verify_time(layer.peer_certificate, self._clock.seconds())
        if self._check is not None:
            self._check(layer)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Connect, and verify before any byte of the application's.

        Fires with the factory's protocol, connected.  Fails with :class:`AuthenticationFailed` when the
        other side is not who it should be or refuses us, else with :class:`ConnectionTrouble`; or with
        ``CancelledError``, after which nothing stays open.
        """
        attempt = _Attempt(self, protocolFactory)
        attempt.below = self._endpoint.connect(attempt.factory)
        attempt.below.addErrback(attempt.fail)
        return attempt.result

    def layer(self, upper: Any, attempt: _Attempt) -> TLSLayer:
        """The layer of one attempt."""
        context, kept = self._context(), self._session
        if kept is not None and (kept[0] is not context or self._clock.seconds() >= kept[2]):
            kept = self._session = None

        def resumable(session: ssl.SSLSession) -> None:
            self._session = context, session, self._clock.seconds() + RESUME_SECONDS

        return TLSLayer(
            upper,
            context,
            server_side=False,
            clock=self._clock,
            server_hostname=self._server_hostname,
            check=self.verify,
            timeout=self._timeout,
            failed=attempt.fail,
            connected=attempt.connected,
            session=None if kept is None else kept[1],
            resumable=resumable if self._resume and kept is None else None,
        )


class _Attempt:
    """One connection being made."""

    below: Deferred[Any]
    layer: TLSLayer | None = None
    upper: Any = None

    def __init__(self, endpoint: TLSClientEndpoint, factory: IProtocolFactory) -> None:
        self.endpoint = endpoint
        self.result: Deferred[Any] = Deferred(self.cancel)
        self.factory = _LayerFactory(factory, self.build)

    def build(self, upper: Any, _: IAddress | None) -> TLSLayer:
        self.upper = upper
        self.layer = self.endpoint.layer(upper, self)
        return self.layer

    def connected(self) -> None:
        if not self.result.called:
            self.result.callback(self.upper)

    def fail(self, failure: Failure) -> None:
        if self.result.called:
            return
        if failure.check(ConnectError, ConnectionClosed, OSError):
            self.result.errback(ConnectionTrouble(failure.getErrorMessage() or type(failure.value).__name__))
        else:
            self.result.errback(failure)

    def cancel(self, result: Deferred[Any]) -> None:
        # First the answer, so that what the closing reports does not become it.
        result.errback(CancelledError())
        self.below.cancel()
        if self.layer is not None and self.layer.transport is not None:
            self.layer.abortConnection()


class _LayerFactory(ServerFactory):
    """Puts a layer below what another factory builds; both see their starts and stops."""

    noisy = False

    def __init__(self, wrapped: IProtocolFactory, build: Callable[[Any, IAddress | None], TLSLayer]) -> None:
        self._wrapped, self._build = wrapped, build

    def doStart(self) -> None:
        """The wrapped factory starts with this one."""
        self._wrapped.doStart()

    def doStop(self) -> None:
        """The wrapped factory stops with this one."""
        self._wrapped.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A layer, or None when the wrapped factory wants no connection."""
        upper = self._wrapped.buildProtocol(addr)  # type: ignore[arg-type]
        return None if upper is None else self._build(upper, addr)


class TLSServerFactory(_LayerFactory):
    """For listeners, and for streams that a peer opens, whose TLS starts at once.

    :param context: the TLS context, or a function that gives the present one.
    :param factory: builds the protocols above; one is connected only after its handshake and ``check``.
    :param unsettled: bounds the connections of one address that have shown no certificate that verifies: one
        more aborts the oldest of them.  Nobody can be told from a stranger before the handshake, so whoever has
        a certificate is let in and stays, whatever strangers do from the same address.
    """

    log = Logger()

    def __init__(
        self,
        factory: IProtocolFactory,
        context: Context,
        *,
        clock: IReactorTime,
        check: Check | None = None,
        timeout: float = 10.0,
        unsettled: Unsettled | None = None,
    ) -> None:
        super().__init__(factory, self._layer)
        self._unsettled = unsettled
        self._context = _giver(context)
        self._check, self._clock, self._timeout = check, clock, timeout

    def _layer(self, upper: Any, peer: IAddress | None) -> TLSLayer:
        def failed(why: Failure) -> None:
            self.log.debug("TLS with {peer} failed: {why}", peer=peer, why=why.getErrorMessage())

        def shaken() -> None:
            layer.shaken()

        layer = _ServerLayer(
            upper,
            self._context(),
            server_side=True,
            clock=self._clock,
            check=self._check,
            timeout=self._timeout,
            failed=failed,
            connected=shaken,
        )
        if self._unsettled is not None and peer is not None:
            layer.count(self._unsettled, peer)
        return layer


class _ServerLayer(TLSLayer):
    """A layer that may be counted until its peer has shown a certificate, or is gone."""

    _uncount: Callable[[], None] | None = None

    def count(self, unsettled: Unsettled, peer: IAddress) -> None:
        """Count it, in the place of the oldest of its address if there is no other."""
        if unsettled.full(peer):
            oldest = unsettled.oldest(peer)
            unsettled.remove(peer, oldest)
            oldest.abortConnection()
        unsettled.add(peer, self)
        self._uncount = lambda: unsettled.remove(peer, self)

    def shaken(self) -> None:
        """The handshake is done."""
        if self.peer_certificate is not None:
            self._uncounted()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._uncounted()
        super().connectionLost(reason)

    def _uncounted(self) -> None:
        if self._uncount is not None:
            self._uncount()
            self._uncount = None
