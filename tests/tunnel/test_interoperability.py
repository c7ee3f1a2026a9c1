"""A tunnel to another implementation: HashiCorp's, in Go, in both roles and with either side opening.

It wants Debian's ``golang-go`` and ``golang-github-hashicorp-yamux-dev``.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface import implementer

from teleport_db.tunnel.endpoints import StreamClientEndpoint
from teleport_db.tunnel.protocol import TunnelProtocol

GOPATH = "/usr/share/gocode"
SOURCE = Path(__file__).parent / "gopeer" / "main.go"
STREAMS = 12
SIZE = 1_500_000


@functools.cache
def peer() -> str:
    """The compiled peer; SkipTest says what is missing."""
    go = shutil.which("go")
    if go is None:
        raise SkipTest("no go compiler on PATH (Debian: golang-go)")
    if not os.path.isdir(f"{GOPATH}/src/github.com/hashicorp/yamux"):
        raise SkipTest(f"no yamux in {GOPATH} (Debian: golang-github-hashicorp-yamux-dev)")
    directory = tempfile.mkdtemp(prefix="gopeer")
    reactor.addSystemEventTrigger("after", "shutdown", shutil.rmtree, directory, ignore_errors=True)
    environment = {**os.environ, "GOPATH": GOPATH, "GO111MODULE": "off", "GOFLAGS": ""}
    environment.setdefault("GOCACHE", f"{tempfile.gettempdir()}/gopeer-cache-{os.getuid()}")
    binary = f"{directory}/gopeer"
    built = subprocess.run(
        [go, "build", "-o", binary, str(SOURCE)], env=environment, capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        raise AssertionError(f"the Go peer does not compile:\n{built.stderr}")
    return binary


class Peer(ProcessProtocol):
    """The Go program at work."""

    def __init__(self, *arguments: object) -> None:
        self.output = b""
        self.address: Deferred[tuple[str, int]] = Deferred()
        self.ended: Deferred[bytes] = Deferred()
        reactor.spawnProcess(self, peer(), ["gopeer", *map(str, arguments)], env={})

    def outReceived(self, data: bytes) -> None:
        self.output += data
        if not self.address.called and b"\n" in self.output:
            host, _, port = self.output.split()[0].decode().rpartition(":")
            if port.isdigit():
                self.address.callback((host, int(port)))

    def errReceived(self, data: bytes) -> None:
        self.output += data

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(self.output)


@implementer(IHalfCloseableProtocol)
class Echo(Protocol):
    """Sends back what comes, as fast as it is read."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass


@implementer(IPushProducer)
class Check(Protocol):
    """Sends a pattern as fast as it is taken, and sees that it comes back."""

    transport: Any

    def __init__(self) -> None:
        self.left = SIZE
        self.received: list[bytes] = []
        self.paused = False
        self.ended: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            size = min(self.left, 50_000)
            self.left -= size
            self.transport.write(b"p" * (size - 1) + b"q")
        if not self.left:
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.left = 0

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)
        if sum(map(len, self.received)) == SIZE:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:  # type: ignore[override]
        self.ended.callback(b"".join(self.received))


class Interoperability(TestCase):
    timeout = 120

    def setUp(self) -> None:
        peer()
        self.closed: Deferred[None] = Deferred()

    def tunnel(self, client: bool) -> TunnelProtocol:
        return TunnelProtocol(
            client,
            clock=reactor,
            accept=Factory.forProtocol(Echo),
            closed=lambda reason: self.closed.callback(None),
        )

    async def dial(self, mode: str) -> tuple[Peer, TunnelProtocol]:
        """This side dials: it is the client."""
        process = Peer("listen", "-", mode, STREAMS, SIZE)
        host, port = await process.address
        tunnel = self.tunnel(True)
        await TCP4ClientEndpoint(reactor, host, port).connect(Factory.forProtocol(lambda: tunnel))
        return process, tunnel

    async def listen(self, mode: str) -> tuple[Peer, TunnelProtocol]:
        """This side listens: it is the server."""
        tunnel, connected = self.tunnel(False), Deferred[None]()
        made = tunnel.connectionMade
        tunnel.connectionMade = lambda: (made(), connected.callback(None))[0]  # type: ignore[method-assign]
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(Factory.forProtocol(lambda: tunnel))
        self.addCleanup(port.stopListening)
        process = Peer("dial", f"127.0.0.1:{port.getHost().port}", mode, STREAMS, SIZE)
        await connected
        return process, tunnel

    async def they_open(self, process: Peer, tunnel: TunnelProtocol) -> None:
        """The Go side opens, sends and compares."""
        output = await process.ended
        self.assertIn(b"ok", output)
        self.assertNotIn(b"failed", output)
        self.assertNotIn(b"ERR", output)
        await self.closed
        self.assertFalse(tunnel.session.failed)
        self.assertTrue(tunnel.session.gone_away)
        self.assertEqual(len(tunnel.session), 0)

    async def we_open(self, process: Peer, tunnel: TunnelProtocol) -> None:
        """This side opens, sends and compares."""
        endpoint = StreamClientEndpoint(tunnel)
        checks = await gatherResults([endpoint.connect(Factory.forProtocol(Check)) for _ in range(STREAMS)])
        expected = b"".join(b"p" * (min(50_000, SIZE - start) - 1) + b"q" for start in range(0, SIZE, 50_000))
        for received in await gatherResults([check.ended for check in checks]):
            self.assertEqual(received, expected)
        await tunnel.drain(30)
        output = await process.ended
        self.assertIn(b"ok 0", output)
        self.assertNotIn(b"[ERR] yamux: Invalid", output)
        self.assertFalse(tunnel.session.failed)

    async def test_they_dial_and_open(self) -> None:
        """Go is the client and opens streams."""
        await self.they_open(*await self.listen("check"))

    async def test_they_listen_and_open(self) -> None:
        """Go is the server and opens streams."""
        await self.they_open(*await self.dial("check"))

    async def test_they_dial_we_open(self) -> None:
        """Go is the client and this side opens streams."""
        await self.we_open(*await self.listen("echo"))

    async def test_they_listen_we_open(self) -> None:
        """Go is the server and this side opens streams."""
        await self.we_open(*await self.dial("echo"))
