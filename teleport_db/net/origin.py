"""Where a connection comes from that a proxy passes on to auth: said in front of it, and signed by the proxy.

::

    client ── TLS ──▶ proxy ── "ORIG" length statement length signature, then the client's TLS untouched ──▶ auth

    statement   JSON {"address", "port", "time", "certificate"}: of the client; when it came, seconds since the
                epoch; the proxy's host certificate, DER in base64
    signature   ECDSA with SHA-256 by that certificate's key

Without it auth would take the proxy for the origin of all that people do from elsewhere.  A connection that begins
otherwise, as TLS does, is one that came straight to auth.  A statement holds for a minute; who could repeat it within
that, from the wire between proxy and auth, would only make the audit log name another's address for what it may do
anyway: the identity is the certificate's of the TLS behind it.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_der_x509_certificate
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from teleport_db.errors import AuthenticationFailed, RemoteProtocolError, TeleportDBError

log = Logger()

MAGIC = b"ORIG"
#: Bytes of a statement; seconds that it holds, either way: clocks differ.
MAX_STATEMENT, HOLDS_SECONDS = 8192, 60.0
#: What is signed begins with it, so that a signature of the same key for something else is none here.
_CONTEXT = b"teleport-db origin 1\0"


@attrs.frozen
class OriginSigner:
    """Says where a connection comes from.

    :param certificate: a proxy's host certificate, DER.
    :param key: that certificate's.
    """

    certificate: bytes
    key: ec.EllipticCurvePrivateKey = attrs.field(repr=False)

    def preface(self, address: IAddress, now: float) -> bytes:
        """What stands before the connection's own bytes; nothing for an address that is none of TCP."""
        while not isinstance(address, IPv4Address | IPv6Address):
            carrier = getattr(address, "carrier", None)
            if carrier is None:
                return b""
            address = carrier
        fields = {
            "address": address.host,
            "port": address.port,
            "time": now,
            "certificate": base64.b64encode(self.certificate).decode(),
        }
        statement = json.dumps(fields).encode()
        signature = self.key.sign(_CONTEXT + statement, ec.ECDSA(hashes.SHA256()))
        return b"".join(
            (MAGIC, struct.pack("!H", len(statement)), statement, struct.pack("!H", len(signature)), signature)
        )


def read_origin(
    statement: bytes, signature: bytes, *, check: Callable[[bytes], None], now: float
) -> IPv4Address | IPv6Address:
    """The address that a statement names.

    :param check: refuses a certificate (DER) that is no proxy's of this cluster.
    :raises TeleportDBError: it is not a proxy's, not signed by it, or too old.
    """
    try:
        fields = json.loads(statement)
        certificate = base64.b64decode(fields["certificate"], validate=True)
        host, port, time = str(fields["address"]), int(fields["port"]), float(fields["time"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RemoteProtocolError("the origin of a connection cannot be read") from None
    check(certificate)
    key = load_der_x509_certificate(certificate).public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(signature, _CONTEXT + statement, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise AuthenticationFailed("the origin of a connection is not signed by its proxy") from None
    if abs(now - time) > HOLDS_SECONDS:
        raise AuthenticationFailed("the origin of a connection is too old, or a clock is wrong")
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


class _Transport:
    """A transport whose peer is somebody further away."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.peer: IAddress = transport.getPeer()
        directlyProvides(self, providedBy(transport))

    def getPeer(self) -> IAddress:
        return self.peer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@implementer(IHalfCloseableProtocol)
class _Reader(Protocol):
    """Takes the statement off, if there is one, and is not in the way any more."""

    def __init__(self, inner: Any, check: Callable[[bytes], None], clock: IReactorTime) -> None:
        self._inner, self._check, self._clock = inner, check, clock
        self._buffer: bytes | None = b""

    def connectionMade(self) -> None:
        self._seen = _Transport(self.transport)
        self._inner.makeConnection(self._seen)

    def dataReceived(self, data: bytes) -> None:
        if self._buffer is None:
            self._inner.dataReceived(data)
            return
        self._buffer += data
        try:
            rest = self._take(self._buffer)
        except TeleportDBError as error:
            log.warn("a connection is refused: {error}", error=error)
            self._buffer = b""
            self._seen.abortConnection()
            return
        if rest is not None:
            self._buffer = None
            if rest:
                self._inner.dataReceived(rest)

    def _take(self, data: bytes) -> bytes | None:
        """What is behind the statement, None as long as it is not whole."""
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            return data
        at = len(MAGIC)
        parts = []
        for _ in range(2):
            if len(data) < at + 2:
                return None
            (length,) = struct.unpack_from("!H", data, at)
            if length > MAX_STATEMENT:
                raise RemoteProtocolError("the origin of a connection is too long")
            at += 2 + length
            if len(data) < at:
                return None
            parts.append(data[at - length : at])
        self._seen.peer = read_origin(*parts, check=self._check, now=self._clock.seconds())
        return data[at:]

    def readConnectionLost(self) -> None:
        half = IHalfCloseableProtocol(self._inner, None)
        if half is None:
            self._seen.loseConnection()
        else:
            half.readConnectionLost()

    def writeConnectionLost(self) -> None:
        half = IHalfCloseableProtocol(self._inner, None)
        if half is not None:
            half.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._inner.connectionLost(reason)


class OriginFactory(ServerFactory):
    """For a listener to which proxies pass connections on.

    :param factory: builds the protocols behind; they see the origin as their peer once that is known.
    :param check: refuses a certificate (DER) that is no proxy's.
    """

    noisy = False

    def __init__(self, factory: IProtocolFactory, check: Callable[[bytes], None], *, clock: IReactorTime) -> None:
        self._factory, self._check, self._clock = factory, check, clock

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        inner = self._factory.buildProtocol(addr)  # type: ignore[arg-type]
        return None if inner is None else _Reader(inner, self._check, self._clock)
