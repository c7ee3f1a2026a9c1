"""The reactor's client against a real HTTP server on the loopback interface."""

from collections.abc import Iterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.iweb import IBodyProducer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer
from zope.interface.verify import verifyObject

from teleport_db.api.client import APIClient, Body, Pieces
from teleport_db.errors import (
    BY_CODE,
    AccessDenied,
    AuthenticationFailed,
    ConnectionTrouble,
    RemoteProtocolError,
    TeleportDBError,
)


class Root(Resource):
    """Answers with what a test says; ``/wait`` waits until the test lets it go."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, bytes, bytes, Any]] = []
        self.peers: list[int] = []
        self.status, self.answer = 200, b"{}"
        self.waiting: Deferred[Request] = Deferred()
        self.gone: Deferred[object] = Deferred()

    def render(self, request: Request) -> Any:
        self.seen.append((request.method, request.uri, request.content.read(), request.getHeader("host")))
        self.peers.append(request.getClientAddress().port)
        if request.path == b"/wait":
            request.notifyFinish().addBoth(lambda _: self.gone.callback(None))
            self.waiting.callback(request)
            return NOT_DONE_YET
        request.setResponseCode(self.status)
        return self.answer


class Counted(Pieces):
    """So many pieces of a thousand bytes each."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return 1000 * self._count

    def __iter__(self) -> Iterator[bytes]:
        return (b"%d" % (n % 10) * 1000 for n in range(self._count))


@implementer(IConsumer)
class Taker:
    """Takes what a body writes; pauses it once it has taken so many pieces."""

    def __init__(self, body: Body, pauses_at: int = 0) -> None:
        self.taken: list[bytes] = []
        self._body, self._pauses_at = body, pauses_at

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Bodies do not register."""

    def unregisterProducer(self) -> None:
        """Nor do they that."""

    def write(self, data: bytes) -> None:
        self.taken.append(data)
        if len(self.taken) == self._pauses_at:
            self._body.pauseProducing()


class BodyTests(SynchronousTestCase):
    """A body on its way to a transport."""

    def setUp(self) -> None:
        self.clock = Clock()

    def begin(self, body: Body, pauses_at: int = 0) -> tuple[Taker, Deferred[None]]:
        taker = Taker(body, pauses_at)
        verifyObject(IConsumer, taker)
        verifyObject(IBodyProducer, body)
        return taker, body.startProducing(taker)

    def test_whole(self) -> None:
        """One that is there goes at once; so does one in pieces, where there is no clock."""
        for body in (Body(b"abc", self.clock), Body(b"", self.clock), Body(b"abc"), Body(Counted(5))):
            taker, written = self.begin(body)
            self.successResultOf(written)
            self.assertEqual(sum(map(len, taker.taken)), body.length)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pieces(self) -> None:
        """The first at once, what follows in later turns."""
        taker, written = self.begin(Body(Counted(3), self.clock))
        self.assertEqual((len(taker.taken), written.called), (1, False))
        self.clock.advance(0)
        self.successResultOf(written)
        self.assertEqual(taker.taken, list(Counted(3)))

    def test_paused(self) -> None:
        """It waits when the other side does not keep up, however often that says so."""
        body = Body(Counted(4), self.clock)
        taker, written = self.begin(body, pauses_at=2)
        self.clock.advance(0)
        self.assertEqual(len(taker.taken), 2)
        body.resumeProducing()
        body.pauseProducing()
        body.resumeProducing()
        body.resumeProducing()
        self.assertEqual(len(taker.taken), 2)
        self.clock.advance(0)
        self.successResultOf(written)
        body.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(taker.taken, list(Counted(4)))

    def test_paused_first(self) -> None:
        """A transport that is full already says so before it is given anything."""
        body = Body(b"abc", self.clock)
        body.pauseProducing()
        taker, written = self.begin(body)
        self.assertEqual(taker.taken, [])
        body.resumeProducing()
        self.clock.advance(0)
        self.successResultOf(written)

    def test_stopped(self) -> None:
        """Nothing is written to a transport that is gone, nor once nobody waits for it."""
        for stop in (lambda body, written: body.stopProducing(), lambda body, written: written.cancel()):
            body = Body(Counted(4), self.clock)
            taker, written = self.begin(body)
            written.addErrback(lambda reason: reason.trap(CancelledError))
            stop(body, written)
            body.resumeProducing()
            self.clock.advance(0)
            self.assertEqual(len(taker.taken), 1)
            self.assertEqual(self.clock.getDelayedCalls(), [])


class ClientCase(TestCase):
    """A server and a client."""

    def setUp(self) -> None:
        self.root = Root()
        self.clock = Clock()
        port = reactor.listenTCP(0, Site(self.root, timeout=None), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        self.client = APIClient(endpoint, "auth.example", reactor=self.clock)
        self.addCleanup(self.client.close)


class CallTests(ClientCase):
    """Calls and answers."""

    async def test_call(self) -> None:
        """Method, path, query, body and host arrive; the answer's object comes back."""
        self.root.answer = b'{"a": [1]}'
        self.assertEqual(await self.client.call("POST", "/v1/x", {"é\ud800": 1}, {"q": "a b", "n": None}), {"a": [1]})
        self.assertEqual(self.root.seen, [(b"POST", b"/v1/x?q=a+b", b'{"\xc3\xa9\\ud800":1}', "auth.example")])

    async def test_pieces(self) -> None:
        """A body in pieces arrives as one, and the connection is kept."""
        calling = self.client.call("POST", "/v1/x", Counted(7))
        waiting = LoopingCall(self.clock.advance, 0)
        waiting.start(0)
        self.assertEqual(await calling, {})
        waiting.stop()
        await self.client.call("GET", "/")
        self.assertEqual([body for *_, body, _ in self.root.seen], [b"".join(Counted(7)), b""])
        self.assertEqual(len(set(self.root.peers)), 1)

    async def test_errors(self) -> None:
        """Each code is raised as its class, with the server's words."""
        for code, kind in BY_CODE.items():
            self.root.status = kind.status
            self.root.answer = b'{"error": {"code": "%s", "message": "words"}}' % code.encode()
            error = await self.assertFailure(self.client.call("GET", "/"), kind)
            self.assertEqual(error.public, "words")

    async def test_strange_errors(self) -> None:
        """An unknown code goes by the status; what is no object is no answer."""
        for status, answer, kind in (
            (403, b'{"error": {"code": "new", "message": "x"}}', AccessDenied),
            (401, b'{"error": []}', AuthenticationFailed),
            (500, b'{"error": {"code": "internal", "message": "x"}}', TeleportDBError),
            (200, b"<html>", RemoteProtocolError),
            (502, b"Bad gateway", RemoteProtocolError),
            (200, b"[]", RemoteProtocolError),
        ):
            self.root.status, self.root.answer = status, answer
            await self.assertFailure(self.client.call("GET", "/"), kind)

    async def test_kept(self) -> None:
        """One call after the other uses one connection; what was refused does not end it."""
        for status in (200, 404, 200):
            self.root.status = status
            self.root.answer = b"{}" if status == 200 else b'{"error": {"code": "not_found", "message": "x"}}'
            await self.client.call("GET", "/").addErrback(lambda failure: None)
        self.assertEqual(len(set(self.root.peers)), 1)

    async def test_beside_a_long_poll(self) -> None:
        """A call that waits holds up no other."""
        poll = self.client.call("GET", "/wait", timeout=60)
        request = await self.root.waiting
        await gatherResults([self.client.call("PUT", "/v1/presence", {"n": n}) for n in range(10)])
        self.assertFalse(poll.called)
        request.write(b'{"revision": 7}')
        request.finish()
        self.assertEqual(await poll, {"revision": 7})

    async def test_timeout(self) -> None:
        """A call that takes too long fails in words, and its connection is closed."""
        call = self.client.call("GET", "/wait", timeout=60)
        await self.root.waiting
        self.clock.advance(59)
        self.assertNoResult(call)
        self.clock.advance(1)
        error = await self.assertFailure(call, ConnectionTrouble)
        self.assertIn("does not answer", error.public)
        await self.root.gone

    async def test_timeout_in_the_body(self) -> None:
        """The same when the answer has begun."""
        call = self.client.call("GET", "/wait")
        request = await self.root.waiting
        request.write(b"{")
        await deferLater(reactor, 0.02)
        self.clock.advance(30)
        await self.assertFailure(call, ConnectionTrouble)
        await self.root.gone

    async def test_cancel(self) -> None:
        """Cancelling closes the connection of the call."""
        call = self.client.call("GET", "/wait")
        await self.root.waiting
        call.cancel()
        await self.assertFailure(call, CancelledError)
        await self.root.gone

    async def test_cut_off(self) -> None:
        """A connection that ends in the middle of an answer is trouble, not half an answer."""
        call = self.client.call("GET", "/wait")
        request = await self.root.waiting
        request.setHeader("content-length", "10")
        request.write(b"{}")
        request.transport.loseConnection()
        await self.assertFailure(call, ConnectionTrouble)

    async def test_nobody_listens(self) -> None:
        """No connection is trouble as well."""
        port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        client = APIClient(TCP4ClientEndpoint(reactor, "127.0.0.1", number), "auth.example", reactor=self.clock)
        await self.assertFailure(client.call("GET", "/"), ConnectionTrouble)
