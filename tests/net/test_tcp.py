"""TCP that writes at once, over real sockets on the loopback, and TLS above it against other implementations."""

from __future__ import annotations

import hashlib
import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from teleport_db.db.limits import certificate_end
from teleport_db.errors import AuthenticationFailed, ConnectionTrouble
from teleport_db.net import tcp
from teleport_db.net.tlslayer import TLSClientEndpoint, TLSServerFactory
from tests.net import material
from tests.net.material import HalfRecorder, Recorder, echo

reactor: Any = _reactor


class Waiting(Recorder):
    """Tells when it has seen enough, and when it is over."""

    def __init__(self, *args: Any, enough: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.enough = enough
        self.full: Deferred[bytes] = Deferred()
        self.over: Deferred[Any] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if sum(map(len, self.chunks)) >= self.enough and not self.full.called:
            self.full.callback(self.data)

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        self.over.callback(None)


def any_factory() -> Any:
    return Factory.forProtocol(Waiting)  # type: ignore[arg-type]


class WaitingHalf(Waiting, HalfRecorder):
    """... with half-closes."""


class Case(TestCase):
    """Listens and connects on the loopback; leaves nothing behind."""

    timeout = 30

    def listen(self, build: Callable[[], Any], wrap: Callable[[Factory], Any] = lambda factory: factory) -> int:
        self.accepted: list[Any] = []

        class Build(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> Any:
                protocol = build()
                case.accepted.append(protocol)
                return protocol

        case = self
        port = tcp.listen(reactor, 0, wrap(Build()), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.addCleanup(self.settle)
        return int(port.getHost().port)  # type: ignore[attr-defined]

    def settle(self) -> Any:
        """One turn more, so that both ends of what was closed are gone."""
        for protocol in self.accepted:
            if protocol.transport is not None and protocol.reason is None:
                protocol.transport.abortConnection()
        return deferLater(reactor, 0.02)

    def connect(self, port: int, protocol: Any, host: str = "127.0.0.1") -> Deferred[Any]:
        return tcp.connector(reactor, host, port).connect(Factory.forProtocol(lambda: protocol))  # type: ignore[arg-type]


class Writing(Case):
    """The transport itself."""

    @inlineCallbacks
    def test_echo(self) -> Any:
        """Bytes go there and back; both ends send without delay."""
        port = self.listen(lambda: Waiting(on_data=echo))
        client = Waiting(enough=5)
        yield self.connect(port, client)
        self.assertIsInstance(client.transport, tcp.ClientTransport)
        client.transport.write(b"hello")
        self.assertEqual((yield client.full), b"hello")
        self.assertIsInstance(self.accepted[0].transport, tcp.ServerTransport)
        self.assertTrue(client.transport.getTcpNoDelay())
        self.assertTrue(self.accepted[0].transport.getTcpNoDelay())
        client.transport.loseConnection()
        yield client.over
        yield self.accepted[0].over
        self.assertIsInstance(self.accepted[0].reason.value, ConnectionDone)

    @inlineCallbacks
    def test_keepalive(self) -> Any:
        """The kernel asks after a silent peer, at both ends."""
        port = self.listen(lambda: Waiting(on_data=echo))
        client = Waiting(enough=5)
        yield self.connect(port, client)
        client.transport.write(b"hello")
        yield client.full
        for transport in (client.transport, self.accepted[0].transport):
            self.assertTrue(transport.getTcpKeepAlive())
            handle = transport.getHandle()
            if hasattr(socket, "TCP_KEEPIDLE"):
                idle, interval, count = (
                    handle.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
                )
                self.assertEqual((idle, idle + interval * count), (120, 300))
        client.transport.loseConnection()
        yield client.over

    @inlineCallbacks
    def test_acknowledge(self) -> Any:
        """The kernel can be had to acknowledge at once after it has begun to take its time."""
        if not tcp.ACKNOWLEDGES:
            raise SkipTest("this system cannot be asked to")
        port = self.listen(lambda: Waiting(on_data=echo))
        client = Waiting(enough=5)
        yield self.connect(port, client)
        client.transport.write(b"hello")
        yield client.full
        (server,) = self.accepted
        quick = socket.IPPROTO_TCP, socket.TCP_QUICKACK
        server.transport.getHandle().setsockopt(*quick, 0)
        server.transport.acknowledge()
        self.assertTrue(server.transport.getHandle().getsockopt(*quick))
        client.transport.loseConnection()
        yield client.over
        yield server.over
        server.transport.acknowledge()

    @inlineCallbacks
    def test_at_once(self) -> Any:
        """A small write is in the kernel when ``write`` returns, and no writer was asked for."""
        port = self.listen(Waiting)
        client = Waiting()
        yield self.connect(port, client)
        client.transport.write(b"now")
        client.transport.writeSequence([b"and", b"", b"then"])
        self.assertNotIn(client.transport, reactor.getWriters())
        self.assertEqual(client.transport.dataBuffer, b"")
        while not self.accepted:
            yield deferLater(reactor, 0.001)
        server = self.accepted[0]
        while server.data != b"nowandthen":
            yield deferLater(reactor, 0.001)
        client.transport.abortConnection()
        client.transport.write(b"never")
        yield client.over
        yield server.over
        self.assertEqual(server.data, b"nowandthen")

    @inlineCallbacks
    def test_order_and_end(self) -> Any:
        """What the kernel does not take at once keeps its order, and the end comes after it."""
        port = self.listen(Waiting)
        client = Waiting()
        yield self.connect(port, client)
        pieces = [bytes([number]) * size for number, size in enumerate([5, 9000000, 1, 70000, 3, 400000, 7])]
        for piece in pieces:
            client.transport.write(piece)
        self.assertIn(client.transport, reactor.getWriters())
        client.transport.loseConnection()
        yield client.over
        yield self.accepted[0].over
        self.assertEqual(hashlib.sha256(self.accepted[0].data).digest(), hashlib.sha256(b"".join(pieces)).digest())
        for chunk in self.accepted[0].chunks:
            self.assertLessEqual(len(chunk), tcp.FIRST_READ_SIZE)

    @inlineCallbacks
    def test_push_producer(self) -> Any:
        """A producer is paused while the other side does not read, and resumed when it does."""

        class Tap:
            def __init__(self, transport: Any) -> None:
                self.transport, self.events, self.going, self.sent = transport, [], True, 0  # type: ignore[var-annotated]

            def run(self) -> None:
                while self.going and self.sent < 20000000:
                    self.sent += 50000
                    self.transport.write(bytes(50000))
                if self.sent >= 20000000 and self.going:
                    self.going = False
                    self.transport.unregisterProducer()
                    self.transport.loseConnection()

            def pauseProducing(self) -> None:
                self.events.append("pause")
                self.going = False

            def resumeProducing(self) -> None:
                self.events.append("resume")
                self.going = True
                self.run()

            def stopProducing(self) -> None:
                self.events.append("stop")

        class Stopped(Waiting):
            def connectionMade(self) -> None:
                super().connectionMade()
                self.transport.pauseProducing()  # type: ignore[union-attr]

        port = self.listen(Stopped)
        client = Waiting()
        yield self.connect(port, client)
        tap = Tap(client.transport)
        client.transport.registerProducer(tap, True)
        tap.run()
        self.assertEqual(tap.events, ["pause"])
        self.assertLess(tap.sent, 20000000)
        yield deferLater(reactor, 0.01)
        self.assertEqual(tap.events, ["pause"])
        self.accepted[0].transport.resumeProducing()
        yield client.over
        yield self.accepted[0].over
        self.assertEqual(len(self.accepted[0].data), 20000000)
        self.assertEqual(tap.events[:2], ["pause", "resume"])
        self.assertNotIn("stop", tap.events)

    @inlineCallbacks
    def test_pull_producer(self) -> Any:
        """A pull producer is asked again although every write goes out at once."""

        class Pull:
            pieces = [b"1", b"2", b"3"]

            def __init__(self, transport: Any) -> None:
                self.transport = transport
                self.left = list(self.pieces)

            def resumeProducing(self) -> None:
                if self.left:
                    self.transport.write(self.left.pop(0))
                else:
                    self.transport.unregisterProducer()

            def stopProducing(self) -> None:
                pass

        port = self.listen(Waiting)
        client = Waiting()
        yield self.connect(port, client)
        client.transport.registerProducer(Pull(client.transport), False)
        client.transport.loseConnection()
        yield self.accepted_one()
        yield self.accepted[0].over
        self.assertEqual(self.accepted[0].data, b"123")
        yield client.over

    @inlineCallbacks
    def accepted_one(self) -> Any:
        while not self.accepted:
            yield deferLater(reactor, 0.001)

    @inlineCallbacks
    def test_half_close(self) -> Any:
        """A half-close after writes; the answer still comes."""
        port = self.listen(WaitingHalf)
        client = WaitingHalf(enough=6)
        yield self.connect(port, client)
        client.transport.write(b"q" * 3000000)
        client.transport.loseWriteConnection()
        yield self.accepted_one()
        server = self.accepted[0]
        while "read lost" not in server.events:
            yield deferLater(reactor, 0.001)
        self.assertEqual(len(server.data), 3000000)
        server.transport.write(b"answer")
        self.assertEqual((yield client.full), b"answer")
        server.transport.loseConnection()
        client.transport.loseConnection()
        yield client.over
        yield server.over

    @inlineCallbacks
    def test_write_to_the_gone(self) -> Any:
        """Writing to a peer that has reset raises nothing; the end comes in the reactor's turn."""
        port = self.listen(Waiting)
        client = Waiting()
        yield self.connect(port, client)
        yield self.accepted_one()
        client.transport.pauseProducing()  # so that only writing can find out
        self.accepted[0].transport.abortConnection()
        yield self.accepted[0].over
        for _ in range(5):
            client.transport.write(b"x" * 1000)
        self.assertIsNone(client.reason)
        yield client.over
        self.assertIsInstance(client.reason.value, ConnectionLost)
        client.transport.write(b"x")

    @inlineCallbacks
    def test_start_tls(self) -> Any:
        """Twisted's own startTLS still works on these transports."""
        from twisted.internet.ssl import CertificateOptions, PrivateCertificate

        pair = PrivateCertificate.loadPEM(material.server_pem())

        def upgrade(protocol: Recorder, data: bytes) -> None:
            if data == b"tls?":
                protocol.transport.write(b"yes")
                protocol.transport.startTLS(pair.options())
            else:
                protocol.transport.write(data)

        port = self.listen(lambda: Waiting(on_data=upgrade))
        client = Waiting(enough=3)
        yield self.connect(port, client)
        client.transport.write(b"tls?")
        yield client.full
        client.chunks.clear()
        client.full, client.enough = Deferred(), 6
        client.transport.startTLS(CertificateOptions())
        client.transport.write(b"secret")
        self.assertEqual((yield client.full), b"secret")
        client.transport.loseConnection()
        yield client.over
        yield self.accepted[0].over


class Connecting(Case):
    """The endpoint."""

    @inlineCallbacks
    def test_name(self) -> Any:
        """A host name is resolved."""
        port = self.listen(lambda: Waiting(on_data=echo))
        client = Waiting(enough=2)
        yield self.connect(port, client, host="localhost")
        self.assertIsInstance(client.transport, tcp.ClientTransport)
        client.transport.write(b"hi")
        yield client.full
        client.transport.loseConnection()
        yield client.over

    @inlineCallbacks
    def test_refused(self) -> Any:
        """A port nobody listens on is trouble, with the address and the reason."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            for host in ("127.0.0.1", "localhost"):
                trouble = yield self.assertFailure(self.connect(port, Waiting(), host=host), ConnectionTrouble)
                self.assertIn(f"cannot reach {host}:{port}: connection refused", str(trouble))

    @inlineCallbacks
    def test_unknown_name(self) -> Any:
        """A name that does not exist is too."""
        trouble = yield self.assertFailure(self.connect(1, Waiting(), host="no-such-host.invalid"), ConnectionTrouble)
        self.assertIn("no-such-host.invalid:1: the name is not known", str(trouble))

    @inlineCallbacks
    def test_impossible_name(self) -> Any:
        """A name that no name can be is trouble as well; a fault of the factory's is not."""
        host = "a" * 70 + ".example"
        trouble = yield self.assertFailure(self.connect(1, Waiting(), host=host), ConnectionTrouble)
        self.assertIn(host, str(trouble))
        port = self.listen(Waiting)

        class Faulty(Factory):
            def buildProtocol(self, addr: Any) -> Any:
                raise ZeroDivisionError

        yield self.assertFailure(tcp.connector(reactor, "127.0.0.1", port).connect(Faulty()), ZeroDivisionError)

    @inlineCallbacks
    def test_cancelled(self) -> Any:
        """Cancelling is no trouble, and leaves nothing open."""
        port = self.listen(Waiting)
        connecting = self.connect(port, Waiting())
        connecting.cancel()
        yield self.assertFailure(connecting, CancelledError)
        self.assertEqual(self.accepted, [])

    @inlineCallbacks
    def test_address_kept(self) -> Any:
        """The address that answered is dialled for a few seconds without asking for it; then the name is asked anew."""
        port = self.listen(Waiting)
        asking = Asking()
        endpoint = tcp.ClientEndpoint(asking, "localhost", port)

        @inlineCallbacks
        def connect() -> Any:
            client = Waiting()
            yield endpoint.connect(Factory.forProtocol(lambda: client))
            client.transport.abortConnection()
            yield client.over

        yield connect()
        yield connect()
        self.assertEqual(asking.asked, ["localhost"])
        asking.later = tcp.ADDRESS_SECONDS
        yield connect()
        self.assertEqual(asking.asked, ["localhost"] * 2)

    @inlineCallbacks
    def test_address_gone(self) -> Any:
        """When the address answers no more, the name is asked at once; a cancellation is none of that."""
        asking = Asking()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            endpoint = tcp.ClientEndpoint(asking, "localhost", taken.getsockname()[1])
            endpoint._answered = ("127.0.0.1", reactor.seconds() + 5)
            yield self.assertFailure(endpoint.connect(any_factory()), ConnectionTrouble)
            self.assertEqual(asking.asked, ["localhost"])
            endpoint._answered = ("127.0.0.1", reactor.seconds() + 5)
            connecting = endpoint.connect(any_factory())
            connecting.cancel()
            yield self.assertFailure(connecting, CancelledError)
            self.assertEqual(asking.asked, ["localhost"])


class Ahead:
    """The reactor, with a clock that can be ahead."""

    later = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def seconds(self) -> float:
        return float(reactor.seconds()) + self.later


class Asking(Ahead):
    """... which notes the names that are resolved."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @property
    def nameResolver(self) -> Any:
        return self

    def resolveHostName(self, receiver: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(name)
        return reactor.nameResolver.resolveHostName(receiver, name, *args, **kwargs)


class RealTLS(Case):
    """The TLS layer against other implementations, over real sockets."""

    def tls(self, **kwargs: Any) -> Callable[[Factory], TLSServerFactory]:
        return lambda factory: TLSServerFactory(factory, material.server_context(**kwargs), clock=reactor)

    def endpoint(self, port: int, name: str | None = "server.test", **kwargs: Any) -> TLSClientEndpoint:
        context = kwargs.pop("context", None) or material.client_context(pem=material.client_pem())
        return TLSClientEndpoint(tcp.connector(reactor, "127.0.0.1", port), context, name=name, clock=reactor, **kwargs)

    @inlineCallbacks
    def test_bulk_both_ways(self) -> Any:
        """Our client against our server, 8 MB each way, with certificates."""
        payload = bytes(range(256)) * 32768
        port = self.listen(lambda: Waiting(on_data=echo), self.tls(clients=True))
        client = Waiting(enough=len(payload))
        made = yield self.endpoint(port).connect(Factory.forProtocol(lambda: client))  # type: ignore[arg-type]
        self.assertIs(made, client)
        for at in range(0, len(payload), 65536):
            client.transport.write(payload[at : at + 65536])
        data = yield client.full
        self.assertEqual(hashlib.sha256(data).digest(), hashlib.sha256(payload).digest())
        client.transport.loseConnection()
        yield client.over
        yield self.accepted[0].over
        self.assertIsInstance(self.accepted[0].reason.value, ConnectionDone)
        self.assertIsInstance(client.reason.value, ConnectionDone)

    @inlineCallbacks
    def test_read_at_once(self) -> Any:
        """More is read at once of who has shown a certificate, and of nobody else."""
        reads: list[tuple[bool, int]] = []

        def note(transport: Any) -> None:
            received = transport.protocol.dataReceived

            def noted(data: bytes) -> None:
                reads.append((transport.protocol.peer_certificate is not None, len(data)))
                received(data)

            transport.protocol.dataReceived = noted

        for clients in (False, True):
            reads.clear()
            port = self.listen(lambda: Waiting(enough=4_000_000, on_data=echo), self.tls(clients=clients))
            client = Waiting(enough=1)
            yield self.endpoint(port).connect(Factory.forProtocol(lambda client=client: client))  # type: ignore[arg-type]
            client.transport.write(b"x")
            yield client.full
            server = self.accepted[0]
            note(server.transport.transport)
            client.transport.write(bytes(4_000_000))
            yield server.full
            self.assertTrue(reads and all(known is clients for known, _ in reads))
            most = tcp.READ_SIZE if clients else tcp.FIRST_READ_SIZE
            self.assertLessEqual(max(size for _, size in reads), most)
            self.assertEqual(server.transport.transport._read_size, most)
            client.transport.loseConnection()
            yield client.over
            yield server.over

    @inlineCallbacks
    def test_stdlib_client(self) -> Any:
        """A blocking client of the standard library, in a thread, with half-close and clean end."""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            port = self.listen(lambda: Waiting(on_data=echo), self.tls(version=version, clients=True))

            def talk(port: int = port) -> tuple[bytes, str | None]:
                context = material.client_context(pem=material.client_pem())
                with (
                    socket.create_connection(("127.0.0.1", port), 10) as raw,
                    context.wrap_socket(raw, server_hostname="server.test") as tls,
                ):
                    tls.sendall(b"x" * 300000)
                    data = b""
                    while len(data) < 300000:
                        data += tls.recv(65536)
                    spoken = tls.version()
                    tls.unwrap().close()
                    return data, spoken

            data, spoken = yield deferToThread(talk)
            self.assertEqual(data, b"x" * 300000)
            self.assertEqual(spoken, version.name.replace("_", "."))
            yield self.accepted[0].over
            self.assertIsInstance(self.accepted[0].reason.value, ConnectionDone)

    @inlineCallbacks
    def test_stdlib_client_truncates(self) -> Any:
        """A client that goes without close_notify is a truncation."""
        port = self.listen(lambda: Waiting(on_data=echo), self.tls())

        def talk() -> None:
            with socket.create_connection(("127.0.0.1", port), 10) as raw:
                tls = material.client_context().wrap_socket(raw, server_hostname="server.test")
                tls.sendall(b"x")
                tls.recv(1)
                socket.socket(fileno=tls.detach()).close()

        yield deferToThread(talk)
        yield self.accepted[0].over
        self.assertIsInstance(self.accepted[0].reason.value, ConnectionLost)

    def serve_stdlib(self, talk: Callable[[ssl.SSLSocket], None], **kwargs: Any) -> tuple[int, Deferred[Any]]:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.settimeout(10)
        context = material.server_context(**kwargs)

        def serve() -> None:
            with listening:
                raw, _ = listening.accept()
                raw.settimeout(10)
                with raw:
                    try:
                        tls = context.wrap_socket(raw, server_side=True)
                    except (ssl.SSLError, OSError):
                        return
                    with tls:
                        talk(tls)

        return listening.getsockname()[1], deferToThread(serve)

    @inlineCallbacks
    def test_stdlib_server(self) -> Any:
        """A blocking server of the standard library, in a thread."""

        def talk(tls: ssl.SSLSocket) -> None:
            data = b""
            while len(data) < 200000:
                data += tls.recv(65536)
            tls.sendall(data)
            tls.unwrap()

        port, served = self.serve_stdlib(talk, clients=True, alpn=("postgresql",))
        client = Waiting(enough=200000)
        context = material.client_context(pem=material.client_pem(), alpn=("postgresql",))
        yield self.endpoint(port, context=context).connect(Factory.forProtocol(lambda: client))  # type: ignore[arg-type]
        self.assertEqual(client.transport.alpn, "postgresql")
        client.transport.write(b"y" * 200000)
        self.assertEqual((yield client.full), b"y" * 200000)
        yield client.over
        self.assertIsInstance(client.reason.value, ConnectionDone)
        yield served

    @inlineCallbacks
    def test_key_update(self) -> Any:
        """``openssl s_client`` talks, updates its keys, and ends."""
        openssl = shutil.which("openssl")
        if openssl is None:
            raise SkipTest("openssl is not installed")
        port = self.listen(lambda: Waiting(on_data=echo), self.tls(clients=True))

        class Client(ProcessProtocol):
            def __init__(self) -> None:
                self.out, self.over = b"", Deferred[None]()
                self.stage = 0

            def outReceived(self, data: bytes) -> None:
                self.out += data
                if self.stage == 0 and b"read R BLOCK" in self.out:
                    self.stage = 1
                    self.transport.write(b"first\n")
                elif self.stage == 1 and b"first\n" in self.out:
                    self.stage = 2
                    # K: update both sides' keys.
                    self.transport.write(b"K\n")
                    reactor.callLater(0.05, self.transport.write, b"second\n")
                elif self.stage == 2 and b"second\n" in self.out:
                    self.stage = 3
                    self.transport.write(b"Q\n")

            def processEnded(self, reason: Any) -> None:
                self.over.callback(None)

        pem = material.pem_file(self, material.client_pem())
        client = Client()
        arguments = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-cert", pem, "-key", pem, "-tls1_3"]
        process = reactor.spawnProcess(client, openssl, arguments, env=None)
        late = reactor.callLater(10, process.signalProcess, "KILL")
        yield client.over
        if late.active():
            late.cancel()
        self.assertEqual(self.accepted[0].data, b"first\nsecond\n", client.out)
        self.assertIn(b"second\n", client.out)
        yield self.accepted[0].over
        self.assertIsInstance(self.accepted[0].reason.value, ConnectionDone)

    @inlineCallbacks
    def test_wrong_name(self) -> Any:
        """A certificate for somebody else connects nothing; by address it may be right."""
        port = self.listen(Waiting, self.tls())
        client = Waiting()
        factory = Factory.forProtocol(lambda: client)  # type: ignore[arg-type]
        trouble = yield self.assertFailure(self.endpoint(port, "other.test").connect(factory), AuthenticationFailed)
        self.assertIn("other.test", str(trouble))
        self.assertEqual(client.events, [])
        client = Waiting()
        yield self.endpoint(port, "127.0.0.1").connect(factory)
        self.assertEqual(client.events, ["made"])
        client.transport.loseConnection()
        yield client.over

    @inlineCallbacks
    def test_no_tls_there(self) -> Any:
        """A server that speaks something else, and one that hangs up, are trouble with words."""
        port = self.listen(lambda: Waiting(greeting=b"SSH-2.0-OpenSSH_9.9\r\n"))
        trouble = yield self.assertFailure(self.endpoint(port).connect(any_factory()), ConnectionTrouble)
        self.assertIn("does not speak TLS", str(trouble))
        port = self.listen(lambda: Waiting(then_close=True))
        trouble = yield self.assertFailure(self.endpoint(port).connect(any_factory()), ConnectionTrouble)
        self.assertIn("closed during the TLS handshake", str(trouble))

    @inlineCallbacks
    def test_nobody_there(self) -> Any:
        """A connection that is refused below says so."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            endpoint = self.endpoint(taken.getsockname()[1])
            trouble = yield self.assertFailure(endpoint.connect(any_factory()), ConnectionTrouble)
            self.assertIn("connection refused", str(trouble))

    @inlineCallbacks
    def test_check(self) -> Any:
        """The caller's own check refuses, after the name."""
        port = self.listen(Waiting, self.tls())

        def check(layer: Any) -> None:
            raise AuthenticationFailed(f"not to my taste: {layer.version}")

        trouble = yield self.assertFailure(
            self.endpoint(port, check=check).connect(Factory.forProtocol(Waiting)),  # type: ignore[arg-type]
            AuthenticationFailed,
        )
        self.assertIn("not to my taste: TLSv1.3", str(trouble))

    @inlineCallbacks
    def test_resumed(self) -> Any:
        """A session is resumed where asked for; both sides have the certificates, and times are checked anew."""
        layers: list[Any] = []
        port = self.listen(lambda: Waiting(on_data=echo), self.tls(clients=True))
        context, clock = material.client_context(pem=material.client_pem()), Ahead()

        def made(**more: Any) -> Any:
            below = tcp.connector(reactor, "127.0.0.1", port)
            more = {"context": context, "check": layers.append, **more}
            return TLSClientEndpoint(below, name="server.test", clock=clock, **more)  # type: ignore[arg-type]

        @inlineCallbacks
        def talk(endpoint: Any) -> Any:
            client = Waiting(enough=1)
            yield endpoint.connect(Factory.forProtocol(lambda: client))
            client.transport.write(b"x")
            yield client.full
            client.transport.loseConnection()
            yield client.over

        resuming, contexts = made(resume=True), [context]
        for _ in range(3):
            yield talk(resuming)
        self.assertEqual([layer.resumed for layer in layers], [False, True, True])
        self.assertEqual(len({layer.peer_certificate for layer in layers}), 1)
        (shown,) = {protocol.transport.peer_certificate for protocol in self.accepted}
        self.assertIsNotNone(shown, "the server has the client's certificate each time")
        never = made()
        for _ in range(2):
            yield talk(never)
        renewed = made(resume=True, context=lambda: contexts[-1])
        yield talk(renewed)
        contexts.append(material.client_context(pem=material.client_pem()))
        yield talk(renewed)
        self.assertEqual([layer.resumed for layer in layers[3:]], [False] * 4)

    @inlineCallbacks
    def test_forgotten(self) -> Any:
        """A session that the server remembers outlives a cut; when it is forgotten all begins anew."""
        layers: list[Any] = []
        contexts = [material.server_context(clients=True) for _ in range(2)]
        for context in contexts:
            context.options |= ssl.OP_NO_TICKET
        port = self.listen(
            lambda: Waiting(on_data=echo), lambda factory: TLSServerFactory(factory, lambda: contexts[0], clock=reactor)
        )
        endpoint = self.endpoint(port, check=layers.append, resume=True)
        for number in range(7):
            if number == 4:
                del contexts[0]
            client = Waiting(enough=1)
            yield endpoint.connect(Factory.forProtocol(lambda client=client: client))  # type: ignore[misc,arg-type]
            client.transport.write(b"x")
            yield client.full
            (client.transport.abortConnection if number == 2 else client.transport.loseConnection)()
            yield client.over
            yield self.accepted[-1].over
        # Who offers a session is given no ticket, so it takes two until there is one to resume.
        self.assertEqual([layer.resumed for layer in layers], [False, True, True, True, False, False, True])

    @inlineCallbacks
    def test_resumed_for_a_while(self) -> Any:
        """After a minute the certificate is verified in full again; until then its time is, at each connection."""
        layers: list[Any] = []
        port = self.listen(lambda: Waiting(on_data=echo), self.tls(clients=True))
        clock = Ahead()
        endpoint = TLSClientEndpoint(
            tcp.connector(reactor, "127.0.0.1", port),
            material.client_context(pem=material.client_pem()),
            name="server.test",
            clock=clock,  # type: ignore[arg-type]
            check=layers.append,
            resume=True,
        )

        @inlineCallbacks
        def talk() -> Any:
            client = Waiting(enough=1)
            yield endpoint.connect(Factory.forProtocol(lambda: client))
            client.transport.write(b"x")
            yield client.full
            client.transport.loseConnection()
            yield client.over

        for later in (0.0, 59.0, 61.0, 62.0):
            clock.later = later
            yield talk()
        self.assertEqual([layer.resumed for layer in layers], [False, True, False, True])
        clock.later = certificate_end(layers[0].peer_certificate) - reactor.seconds() - 30
        yield talk()
        clock.later += 40
        trouble = yield self.assertFailure(talk(), AuthenticationFailed)
        self.assertIn("expired", str(trouble))

    @inlineCallbacks
    def test_cancelled(self) -> Any:
        """Cancelling during the handshake closes the connection."""
        port = self.listen(Waiting)  # which never answers
        client = Waiting()
        connecting = self.endpoint(port).connect(Factory.forProtocol(lambda: client))  # type: ignore[arg-type]
        while not self.accepted or not self.accepted[0].chunks:
            yield deferLater(reactor, 0.001)
        connecting.cancel()
        yield self.assertFailure(connecting, CancelledError)
        yield self.accepted[0].over
        self.assertEqual(client.events, [])

    @inlineCallbacks
    def test_slow_reader(self) -> Any:
        """A reader that stops stops the writer's producer, through TLS and TCP."""
        released = threading.Event()
        self.addCleanup(released.set)

        def talk(tls: ssl.SSLSocket) -> None:
            tls.sendall(b"go")
            released.wait(10)
            seen = 0
            while seen < 30000000:
                piece = tls.recv(65536)
                if not piece:
                    break
                seen += len(piece)
            tls.sendall(str(seen).encode())

        port, served = self.serve_stdlib(talk)
        client = Waiting(enough=2)
        yield self.endpoint(port).connect(Factory.forProtocol(lambda: client))  # type: ignore[arg-type]
        yield client.full

        class Tap:
            sent, paused = 0, 0
            going = True

            def run(self) -> None:
                while self.going and self.sent < 30000000:
                    self.sent += 60000
                    client.transport.write(bytes(60000))

            def pauseProducing(self) -> None:
                self.paused += 1
                self.going = False

            def resumeProducing(self) -> None:
                self.going = True
                self.run()

            def stopProducing(self) -> None:
                self.going = False

        tap = Tap()
        client.transport.registerProducer(tap, True)
        tap.run()
        self.assertEqual(tap.paused, 1)
        self.assertLess(tap.sent, 25000000)
        released.set()
        yield client.over
        self.assertEqual(client.data, b"go30000000")
        self.assertEqual(tap.sent, 30000000)
        yield served
