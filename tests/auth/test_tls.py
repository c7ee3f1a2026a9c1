"""The API as others reach it: over TLS, with their certificates, through both clients."""

import os
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.threads import deferToThread

from teleport_db.api.client import APIClient
from teleport_db.api.http import Client, auth_context
from teleport_db.auth.http import auth_site
from teleport_db.certs.files import write_secret
from teleport_db.certs.keys import new_key, private_pem, public_pem
from teleport_db.certs.tls import KeyPair, client_context, server_context
from teleport_db.errors import AccessDenied, AuthenticationFailed, BadRequest
from teleport_db.net.tlslayer import TLSClientEndpoint, TLSServerFactory
from tests.auth.support import STATIC_TOKEN, AuthCase, Key


class Watched(TLSServerFactory):
    """Tells when its connections are gone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gone: list[Deferred[None]] = []

    def buildProtocol(self, addr: Any) -> Any:
        layer = super().buildProtocol(addr)
        gone: Deferred[None] = Deferred()
        self.gone.append(gone)
        lost = layer.connectionLost

        def connection_lost(reason: Any) -> None:
            lost(reason)
            gone.callback(None)

        layer.connectionLost = connection_lost
        return layer


class TLSTests(AuthCase):
    """A listening auth server.  Certificates are made for the real time here."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.clock.rightNow = reactor.seconds()
        await self.server.backend.delete("/authority/host")
        await self.server.backend.delete("/authority/user")
        self.server = await self.start()
        key = new_key()
        answer = self.server.issue_host(["auth"], ["127.0.0.1"], public_pem(key))
        cas = [answer["user_ca"].encode(), answer["host_ca"].encode()]
        context = server_context(
            KeyPair(answer["server_certificate"].encode(), private_pem(key)), client_cas=cas, lenient_clients=True
        )
        site = auth_site(self.server, reactor=reactor)
        factory = Watched(site, context, clock=reactor)
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.addCleanup(lambda: gatherResults(factory.gone))

    def client(self, pair: KeyPair | None) -> APIClient:
        context = client_context(cas=[self.server.cas()["host"].encode()], pair=pair)
        endpoint = TLSClientEndpoint(
            TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port),
            context,
            name="auth.example",
            clock=reactor,
        )
        client = APIClient(endpoint, "auth.example", reactor=reactor)
        self.addCleanup(client.close)
        return client

    def administrator(self) -> APIClient:
        credentials = self.server.local_admin_credentials()
        return self.client(KeyPair(credentials.certificate_pem, credentials.key_pem))

    async def test_administrator(self) -> None:
        """The local administrator's certificate does everything, on kept connections and several at once."""
        client = self.administrator()
        await client.call("POST", "/v1/users", {"name": "alice"})
        poll = client.call("GET", "/v1/watch", None, {"kinds": "lock", "since": 10**6, "timeout": 50})
        names = await gatherResults([client.call("GET", "/v1/resources/user/alice") for _ in range(5)])
        self.assertEqual({name["metadata"]["name"] for name in names}, {"alice"})
        poll.cancel()
        await DeferredList([poll], consumeErrors=True)

    async def test_anonymous(self) -> None:
        """Without a certificate: ping, the authorities and a join."""
        client = self.client(None)
        self.assertEqual((await client.call("GET", "/v1/ping"))["cluster"], "example")
        await self.assertFailure(client.call("GET", "/v1/users"), BadRequest)
        await self.assertFailure(client.call("GET", "/v1/status"), AuthenticationFailed)
        body = {"token": STATIC_TOKEN, "roles": ["db"], "public_key": Key().public}
        self.assertIn("host_id", await client.call("POST", "/v1/join", body))

    async def test_agent(self) -> None:
        """An agent that joined announces itself with what it got."""
        key = new_key()
        body = {"token": STATIC_TOKEN, "roles": ["db"], "public_key": public_pem(key).decode()}
        answer = await self.client(None).call("POST", "/v1/join", body)
        agent = self.client(KeyPair(answer["client_certificate"].encode(), private_pem(key)))
        databases = [{"name": "aurora", "uri": "localhost:5432"}]
        await agent.call("PUT", "/v1/presence", {"databases": databases})
        await self.assertFailure(agent.call("GET", "/v1/tokens"), AccessDenied)
        self.assertEqual(len((await self.administrator().call("GET", "/v1/databases"))["items"]), 1)

    async def test_server_certificate_is_no_client(self) -> None:
        """A host's server certificate opens nothing."""
        key = new_key()
        answer = self.server.issue_host(["proxy"], [], public_pem(key))
        client = self.client(KeyPair(answer["server_certificate"].encode(), private_pem(key)))
        await DeferredList([client.call("GET", "/v1/status")], consumeErrors=True).addCallback(
            lambda results: self.assertFalse(results[0][0])
        )

    async def test_large_body(self) -> None:
        """A body over 1 MiB is refused."""
        body = {"name": "x" * (1 << 20)}
        results = await DeferredList([self.administrator().call("POST", "/v1/users", body)], consumeErrors=True)
        self.assertFalse(results[0][0])

    async def test_blocking_client(self) -> None:
        """The commands' client does the same."""
        credentials = self.server.local_admin_credentials()
        files = []
        for name, data in (("cert", credentials.certificate_pem), ("key", credentials.key_pem)):
            files.append(os.path.join(self.directory, name))
            write_secret(files[-1], data)
        context = auth_context(self.server.cas()["host"], certificate_file=files[0], key_file=files[1])
        client = Client(("127.0.0.1", self.port.getHost().port), context, "auth.example")
        made = await deferToThread(client.call, "POST", "/v1/tokens", {"roles": ["db"]})
        self.assertEqual(len(made["token"]), 32)
        await self.assertFailure(deferToThread(client.call, "POST", "/v1/tokens", {}), BadRequest)
        client.close()
