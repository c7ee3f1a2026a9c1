"""The bounded site: what is refused, when, and that the rest is an ordinary site."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from teleport_db.net.http import LINGER, STRANGER_BODY, STRANGER_SECONDS, BoundedSite
from teleport_db.net.tlslayer import TLSLayer, TLSServerFactory
from tests.memory import Wire, pair
from tests.net import material
from tests.net.material import HalfRecorder, Recorder


class Leaf(Resource):
    """Remembers the requests that reached it."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, bytes, bool, type]] = []
        self.waiting: list[Request] = []
        self.wait = False

    def render(self, request: Request) -> Any:
        content: Any = request.content
        self.seen.append((request.path, content.read(), request.isSecure(), type(content)))
        if self.wait:
            self.waiting.append(request)
            return NOT_DONE_YET
        return b"answer"


class Served(SynchronousTestCase):
    """A client of raw bytes and a site, over the in-memory wire."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.leaf = Leaf()
        self.site = BoundedSite(self.leaf, reactor=self.clock)
        self.site.doStart()
        self.addCleanup(self.site.doStop)

    def connect(self) -> Recorder:
        self.client = HalfRecorder()
        channel = self.site.buildProtocol(None)
        assert channel is not None
        self.wire: Wire = pair(self.client, channel)
        return self.client

    def send(self, data: bytes, size: int | None = None) -> None:
        self.client.transport.write(data)
        self.wire.flush(size)

    def answer(self) -> tuple[int, Any]:
        head, _, body = self.client.data.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body

    def assert_refused(self, status: int) -> None:
        found, body = self.answer()
        self.assertEqual(found, status)
        self.assertEqual(json.loads(body)["error"]["code"], "bad_request")
        self.assertIn(b"Connection: close", self.client.data)
        self.assertEqual(self.leaf.seen, [])
        self.assertIn("read lost", self.client.events)
        # The answer can be read although more is being sent; then the connection goes.
        self.send(b"x" * 100000)
        self.clock.advance(LINGER)
        self.assertIsInstance(self.client.reason.value, ConnectionLost)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SiteTests(Served):
    """What a site takes of anybody whom it knows."""

    def test_ordinary(self) -> None:
        """A request is answered, another on the same connection too, however divided."""
        for size in (1, None):
            self.leaf.seen.clear()
            self.connect()
            self.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", size)
            self.assertEqual(self.answer()[0], 200)
            self.send(b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", size)
            self.assertEqual([(path, body) for path, body, _, _ in self.leaf.seen], [(b"/a", b"hello"), (b"/b", b"")])
            self.assertEqual(self.client.data.count(b"answer"), 2)
            self.assertIsInstance(self.client.reason.value, ConnectionDone)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_large_but_allowed(self) -> None:
        """A body of the largest size passes, plain or chunked, and stays in memory."""
        body = b"b" * 2**20
        self.connect()
        self.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n" + body)
        self.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(body), 65536):
            self.send(b"10000\r\n" + body[at : at + 65536] + b"\r\n")
        self.send(b"0\r\n\r\n")
        self.assertEqual([seen[1] == body for seen in self.leaf.seen], [True, True])
        self.assertEqual([seen[3] for seen in self.leaf.seen], [BytesIO, BytesIO])

    def test_length_refused(self) -> None:
        """300 MB are refused at the headers, with no 100-continue, and none of it is taken."""
        self.connect()
        self.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 300000000\r\n\r\n")
        self.assertNotIn(b"100 Continue", self.client.data)
        self.assert_refused(413)

    def test_one_byte_too_much(self) -> None:
        """The limit is the limit."""
        self.connect()
        self.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n" + b"x" * 1048577)
        self.assert_refused(413)

    def test_absurd_length(self) -> None:
        """A number that Python would refuse to read is a large one too."""
        self.connect()
        self.send(b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\nHost: x\r\n\r\n")
        self.assert_refused(413)

    def test_chunked_refused(self) -> None:
        """A chunked body is refused at the chunk that is too much."""
        self.connect()
        self.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(16):
            self.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        self.assertEqual(self.client.data, b"")
        self.send(b"1\r\nx\r\n0\r\n\r\n")
        self.assert_refused(413)

    def test_one_endless_chunk(self) -> None:
        """One chunk that says it is large is refused as it comes."""
        self.connect()
        self.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n")
        for _ in range(17):
            self.send(b"x" * 65536)
        self.assert_refused(413)

    def test_headers_refused(self) -> None:
        """Headers above 16 KiB, in many lines, in one, and in a request line."""
        for request in (
            b"GET / HTTP/1.1\r\n" + b"X-Filler: 0123456789012345678901234567890123456789\r\n" * 400,
            b"GET / HTTP/1.1\r\nX: " + b"x" * 17000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"x" * 17000,
            b"GET /" + b"x" * 17000 + b" HTTP/1.1\r\n\r\n",
        ):
            self.connect()
            self.send(request)
            self.assert_refused(431)

    def test_smuggling(self) -> None:
        """Two lengths, or a length and chunks, are refused by Twisted itself."""
        for headers in (
            b"Content-Length: 1\r\nContent-Length: 2\r\n",
            b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            b"Content-Length: -1\r\n",
            b"Transfer-Encoding: gzip\r\n",
        ):
            self.connect()
            self.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n1234")
            self.assertEqual(self.answer()[0], 400)
            self.assertEqual(self.leaf.seen, [])
            self.wire.cut()

    def test_slow_headers(self) -> None:
        """A request that drips is closed in time, however steady it is."""
        self.connect()
        self.send(b"GET / HTTP/1.1\r\n")
        for _ in range(59):
            self.clock.advance(1)
            self.send(b"X: y\r\n")
            self.assertIsNone(self.client.reason)
        self.clock.advance(1.5)
        self.send(b"X: y\r\n")
        self.assertIsNotNone(self.client.reason)
        self.assertEqual(self.leaf.seen, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_body(self) -> None:
        """So is one whose body does."""
        self.connect()
        self.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(61):
            self.clock.advance(1)
            self.send(b"x")
        self.assertIsNotNone(self.client.reason)
        self.assertEqual(self.leaf.seen, [])

    def test_silence(self) -> None:
        """A connection without a request is closed."""
        self.connect()
        self.clock.advance(61)
        self.wire.flush()
        self.assertIsNotNone(self.client.reason)

    def test_time_between(self) -> None:
        """A request after a long idle time has its whole time."""
        self.connect()
        self.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        self.clock.advance(59)
        self.send(b"GET /b HTTP/1.1\r\n")
        self.clock.advance(50)
        self.send(b"Host: x\r\n\r\n")
        self.assertEqual(len(self.leaf.seen), 2)

    def test_long_answer(self) -> None:
        """The time of an answer is the resource's own."""
        self.leaf.wait = True
        self.connect()
        self.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        self.clock.advance(300)
        self.wire.flush()
        self.assertIsNone(self.client.reason)
        self.leaf.waiting[0].write(b"late")
        self.leaf.waiting[0].finish()
        self.wire.flush()
        self.assertIn(b"late", self.client.data)

    def test_above_tls(self) -> None:
        """Above TLS a request is secure, a refusal arrives, and a large answer is whole."""
        factory = TLSServerFactory(self.site, material.server_context(), clock=self.clock)
        for request, status, secure in (
            (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200, [True]),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000000\r\n\r\n" + b"x" * 200000, 413, []),
        ):
            self.leaf.seen.clear()
            self.client = HalfRecorder(greeting=request)
            layer = TLSLayer(self.client, material.client_context(), server_side=False, clock=self.clock)
            wire = pair(layer, factory.buildProtocol(None))
            wire.flush()
            self.assertEqual(self.answer()[0], status)
            self.assertEqual([seen[2] for seen in self.leaf.seen], secure)
            self.clock.advance(LINGER)
            wire.flush()
            self.assertIsNotNone(self.client.reason)
            self.assertEqual(self.clock.getDelayedCalls(), [])


class StrangerTests(Served):
    """Who shows no certificate gets less."""

    def setUp(self) -> None:
        super().setUp()
        self.site.strangers = True

    def test_body(self) -> None:
        """64 KiB are taken, one byte more is refused before any of it."""
        self.connect()
        length = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        self.send(length % STRANGER_BODY + b"x" * STRANGER_BODY)
        self.assertEqual(self.answer()[0], 200)
        self.wire.cut()
        self.leaf.seen.clear()
        self.connect()
        self.send(length % (STRANGER_BODY + 1))
        self.assert_refused(413)

    def test_time(self) -> None:
        """A request has ten seconds, and so has the time before and after one."""
        for begun in (b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            self.connect()
            self.send(begun)
            self.clock.advance(STRANGER_SECONDS - 1)
            self.assertIsNone(self.client.reason)
            self.clock.advance(2)
            self.wire.flush()
            self.assertIsNotNone(self.client.reason)

    def test_known(self) -> None:
        """With a certificate the limits are the site's own."""
        server = material.server_context(clients=True)
        client = material.client_context(pem=material.client_pem())
        factory = TLSServerFactory(self.site, server, clock=self.clock)
        body = b"x" * (STRANGER_BODY + 1)
        self.client = HalfRecorder(
            greeting=b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        layer = TLSLayer(self.client, client, server_side=False, clock=self.clock)
        wire = pair(layer, factory.buildProtocol(None))
        wire.flush()
        self.assertEqual(self.answer()[0], 200)
        self.clock.advance(STRANGER_SECONDS + 1)
        wire.flush()
        self.assertIsNone(self.client.reason)
