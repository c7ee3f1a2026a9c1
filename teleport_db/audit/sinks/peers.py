"""TLS to the other side of a sink: who it must be, and who we are."""

from __future__ import annotations

import ssl
from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from teleport_db.certs.tls import KeyPair, client_context, verify_name
from teleport_db.config.sinks import TrustedPeer
from teleport_db.errors import ConfigError
from teleport_db.net.tcp import connector
from teleport_db.net.tlslayer import TLSClientEndpoint, TLSLayer, is_address

#: Seconds for a connection, and for its handshake.
CONNECT_SECONDS = 10.0


@implementer(IStreamClientEndpoint)
class PeerEndpoint:
    """Dials the other side and verifies it, with its chain, time and name.

    The files of authorities and certificates are read for each connection, so that new ones need no restart.

    :param alpn: the protocols to offer.
    :param below: dials; None for TCP to ``host`` and ``port``.
    """

    def __init__(
        self,
        peer: TrustedPeer,
        host: str,
        port: int,
        *,
        reactor: Any,
        alpn: tuple[str, ...] = (),
        below: IStreamClientEndpoint | None = None,
    ) -> None:
        self._peer, self._alpn, self._reactor = peer, alpn, reactor
        self._name = peer.server_name or host
        self._below = below or connector(reactor, host, port, timeout=CONNECT_SECONDS)

    def connect(self, protocolFactory: Any) -> Any:
        """As an endpoint's; raises ConfigError when a file cannot be used."""
        name = self._name

        def check(layer: TLSLayer) -> None:
            # Such services have certificates for *.example.com as often as not.
            verify_name(layer.peer_certificate or b"", name, wildcard=True)

        endpoint = TLSClientEndpoint(
            self._below,
            self._context(),
            server_hostname=None if is_address(name) else name,
            check=check,
            clock=self._reactor,
            timeout=CONNECT_SECONDS,
        )
        return endpoint.connect(protocolFactory)

    def _context(self) -> ssl.SSLContext:
        peer = self._peer
        pair = KeyPair(_read(peer.cert_file), _read(peer.key_file)) if peer.cert_file else None
        cas = [_read(peer.ca_file)] if peer.ca_file else None
        try:
            return client_context(cas=cas, pair=pair, alpn=self._alpn)
        except ConfigError as error:
            files = ", ".join(filter(None, (peer.ca_file, peer.cert_file, peer.key_file)))
            raise ConfigError(error.message, source=files) from error


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise ConfigError(f"cannot be read: {(error.strerror or str(error)).lower()}", source=path) from error
