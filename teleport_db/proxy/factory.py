"""PostgreSQL's side of the proxy alone, for programs that have a router of their own."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from teleport_db.alpn import ALPN_POSTGRESQL
from teleport_db.interfaces import IRouter
from teleport_db.proxy.frontend import Gateway, PostgresFrontend, Refusal, Sessions
from teleport_db.proxy.sniffer import Door, FrontDoor


class PostgresProxyFactory(FrontDoor):
    """Takes PostgreSQL clients that have a certificate with a route, and nobody else.

    :param cluster: the name that certificates must be for.
    :param router: finds the endpoints of a route; a stream to one begins with the frame of a
        :class:`~teleport_db.tunnel.header.SessionHeader`, then come the client's own bytes.
    :param context: gives the TLS context (see :func:`~teleport_db.certs.tls.server_context`, with
        ``lenient_clients``, so that certificate trouble reaches clients in words).
    :param user_ca: gives the certificate, PEM, of the authority that signs users.
    :param refused: told of connections that reached no endpoint.
    """

    def __init__(
        self,
        *,
        cluster: str,
        router: IRouter,
        context: Callable[[], ssl.SSLContext],
        user_ca: Callable[[], bytes],
        clock: IReactorTime,
        refused: Callable[[Refusal], None] = lambda refusal: None,
    ) -> None:
        gateway = Gateway(
            cluster=cluster, router=router, sessions=Sessions(), user_ca=user_ca, refused=refused, clock=clock
        )
        postgres = Door(lambda address, settled: PostgresFrontend(gateway, address, settled), context)
        super().__init__(
            web=Door(lambda address, settled: None, context),
            postgres=postgres,
            doors={ALPN_POSTGRESQL: postgres},
            cancel=gateway.cancel,
            refused=gateway.refuse_stranger,
            clock=clock,
        )
