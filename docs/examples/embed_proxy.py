"""A Twisted program that takes PostgreSQL clients by their certificates and routes them itself."""

import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import react
from zope.interface import implementer

from teleport_db.certs.tls import KeyPair, server_context
from teleport_db.errors import NoSuchDatabase
from teleport_db.identity import DatabaseRoute
from teleport_db.interfaces import IRouter
from teleport_db.net.tcp import connector, listen
from teleport_db.proxy.factory import PostgresProxyFactory


@implementer(IRouter)
class OneService:
    """Knows one database service, and where its streams go."""

    def __init__(self, name: str, endpoint: IStreamClientEndpoint) -> None:
        self.name, self.endpoint = name, endpoint

    def endpoints_for(self, route: DatabaseRoute) -> list[IStreamClientEndpoint]:
        if route.service != self.name:
            raise NoSuchDatabase(f"there is no {route.service}")
        return [self.endpoint]


async def main(reactor: Any, directory: str, agent_port: str) -> None:
    files = Path(directory)
    pair = KeyPair((files / "proxy.crt").read_bytes(), (files / "proxy.key").read_bytes())
    user_ca = (files / "user-ca.pem").read_bytes()
    context = server_context(pair, client_cas=[user_ca], lenient_clients=True, alpn=["postgresql"])
    factory = PostgresProxyFactory(
        cluster="example",
        router=OneService("metrics", connector(reactor, "127.0.0.1", int(agent_port))),
        context=lambda: context,
        user_ca=lambda: user_ca,
        clock=reactor,
        refused=lambda refusal: print("refused:", refusal.error, flush=True),
    )
    port: Any = listen(reactor, 0, factory, interface="127.0.0.1")
    print("listening on", port.getHost().port, flush=True)
    await Deferred()


if __name__ == "__main__":
    react(lambda reactor, *arguments: Deferred.fromCoroutine(main(reactor, *arguments)), sys.argv[1:])
