"""Protocols that know nothing of tunnels, through one: HTTP, and TLS of both kinds."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import CannotListenError, ConnectionLost
from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent, HTTPConnectionPool, readBody
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer
from zope.interface.verify import verifyObject

from teleport_db.net.tlslayer import TLSClientEndpoint, TLSServerFactory
from teleport_db.tunnel.endpoints import StreamClientEndpoint, StreamServerEndpoint
from tests.net.material import client_context, server_context
from tests.tunnel.support import Recorders, Tunnel

BODY = bytes(range(256)) * 8192


class Page(Resource):
    """Answers what was posted."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return BODY

    def render_POST(self, request: Any) -> bytes:
        data: bytes = request.content.read()
        return data


class Endpoints(SynchronousTestCase):
    def setUp(self) -> None:
        self.tunnel = Tunnel()
        self.client = StreamClientEndpoint(self.tunnel.client)
        self.server = StreamServerEndpoint(self.tunnel.server)

    def test_interfaces(self) -> None:
        """The endpoints and the port provide what they say."""
        self.tunnel.server.take(None)
        verifyObject(IStreamClientEndpoint, self.client)
        verifyObject(IStreamServerEndpoint, self.server)
        verifyObject(IListeningPort, self.successResultOf(self.server.listen(Recorders())))

    def test_listening(self) -> None:
        """One listens at a time; after it stopped streams are refused and those there go on."""
        self.failureResultOf(self.server.listen(Recorders()), CannotListenError)
        self.tunnel.server.take(None)
        factory = Recorders()
        port = self.successResultOf(self.server.listen(factory))
        self.assertEqual(port.getHost(), self.tunnel.server.host)
        first = self.successResultOf(self.client.connect(Recorders()))
        self.tunnel.settle()
        self.successResultOf(port.stopListening())
        second: Any = self.successResultOf(self.client.connect(Recorders()))
        first.transport.write(b"on")
        self.tunnel.settle()
        self.assertTrue(second.ended.check(ConnectionLost))
        self.assertEqual(([one.received for one in factory.built], factory.stopped), ([b"on"], 1))

    def test_http(self) -> None:
        """HTTP, with a large answer, a large request and a connection that is used again."""
        self.tunnel.server.take(Site(Page(), reactor=self.tunnel.clock))
        endpoint = self.client

        @implementer(IStreamClientEndpoint)
        class Factory:
            def endpointForURI(self, uri: Any) -> Any:
                return endpoint

        pool = HTTPConnectionPool(self.tunnel.clock)
        agent = Agent.usingEndpointFactory(self.tunnel.clock, Factory(), pool)
        for _ in range(3):
            response = agent.request(b"GET", b"http://tunnel/")
            self.tunnel.settle()
            body = readBody(self.successResultOf(response))
            self.tunnel.settle()
            self.assertEqual(self.successResultOf(body), BODY)
        self.assertEqual(self.tunnel.client.stream_count, 1)
        closed = pool.closeCachedConnections()
        self.tunnel.settle()
        self.successResultOf(closed)
        self.assertEqual((self.tunnel.client.stream_count, self.tunnel.server.stream_count), (0, 0))

    def test_tls_inside(self) -> None:
        """TLS within a stream, more than a window each way, and a clean end."""
        clock = self.tunnel.clock
        factory = Recorders()
        self.tunnel.server.take(TLSServerFactory(factory, server_context(), clock=clock))
        here = TLSClientEndpoint(self.client, client_context(), clock=clock).connect(Recorders())
        self.tunnel.settle()
        client: Any = self.successResultOf(here)
        client.transport.write(BODY)
        self.tunnel.settle()
        (server,) = factory.built
        server.transport.write(BODY)
        self.tunnel.settle(5000)
        self.assertEqual((server.received == BODY, client.received == BODY), (True, True))
        client.transport.loseConnection()
        self.tunnel.settle()
        self.assertIsNotNone(client.ended)
        self.assertIsNotNone(server.ended)
        self.assertEqual((len(self.tunnel.client.session), len(self.tunnel.server.session)), (0, 0))
