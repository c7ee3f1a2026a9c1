"""The programs of the README that embed the system: shown as they are, type checked, and run."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from teleport_db.certs.authority import Authority
from teleport_db.certs.keys import new_key, pem, private_pem
from teleport_db.identity import DatabaseRoute, Identity
from teleport_db.net.tcp import listen
from teleport_db.pgwire.messages import AUTHENTICATION_OK, SSL_REQUEST, ready_for_query, startup_message
from teleport_db.tunnel.header import FrameReader, SessionHeader, decode_header

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"

CONFIG = """\
teleport:
  data_dir: {directory}/data
auth_service:
  cluster_name: example
  listen_addr: 127.0.0.1:{auth}
proxy_service:
  web_listen_addr: 127.0.0.1:{web}
  tunnel_listen_addr: 127.0.0.1:{web}
"""


class Shown(SynchronousTestCase):
    def test_in_readme(self) -> None:
        """The README shows the very programs that are run here."""
        readme = (ROOT / "README.rst").read_text()
        for path in EXAMPLES.glob("*.py"):
            block = "".join(f"    {line}\n" if line else "\n" for line in path.read_text().splitlines())
            self.assertIn(block, readme, path.name)

    def test_types(self) -> None:
        """They are typed as strictly as the package itself."""
        said = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", *sorted(map(str, EXAMPLES.glob("*.py")))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(said.returncode, 0, said.stdout + said.stderr)


class Program(ProcessProtocol):
    """A running example; ``said`` waits for a line of its output."""

    def __init__(self) -> None:
        self.output = ""
        self.errors = ""
        self.ended: Deferred[None] = Deferred()
        self._waiting: list[tuple[str, Deferred[str]]] = []

    def said(self, beginning: str) -> Deferred[str]:
        waiting: Deferred[str] = Deferred()
        self._waiting.append((beginning, waiting))
        self._look()
        return waiting

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode()
        self._look()

    def errReceived(self, data: bytes) -> None:
        self.errors += data.decode()

    def _look(self) -> None:
        for line in self.output.split("\n")[:-1]:
            for entry in list(self._waiting):
                if line.startswith(entry[0]):
                    self._waiting.remove(entry)
                    entry[1].callback(line)

    def processEnded(self, reason: Any) -> None:
        for _, waiting in self._waiting:
            waiting.errback(AssertionError(f"the program ended: {self.errors}"))
        self._waiting.clear()
        self.ended.callback(None)


class Run(TestCase):
    timeout = 60

    def setUp(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def start(self, name: str, *arguments: str) -> Program:
        program = Program()
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        transport = reactor.spawnProcess(program, sys.executable, command, env=environment)

        def stop() -> Deferred[None]:
            if not program.ended.called:
                transport.signalProcess("TERM")
            return program.ended

        self.addCleanup(stop)
        return program

    async def test_services(self) -> None:
        """The program that runs the services says when they are up, and ends when it is told to."""
        config = self.directory / "teleport.yaml"
        config.write_text(CONFIG.format(directory=self.directory, auth=free_port(), web=free_port()))
        program = self.start("embed_services.py", str(config))
        await program.said("the cluster is up")

    async def test_services_refused(self) -> None:
        """What keeps the services from starting reaches the program."""
        config = self.directory / "teleport.yaml"
        config.write_text("teleport:\n  data_dir: /proc/nowhere\n")
        program = self.start("embed_services.py", str(config))
        await program.ended
        self.assertIn("data_dir", program.errors)

    async def test_proxy(self) -> None:
        """A client with a certificate reaches the endpoint that the program's router names, and no other does."""
        agent = Agent()
        port = listen(reactor, 0, Factory.forProtocol(lambda: agent), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        users = self.authorities()
        program = self.start("embed_proxy.py", str(self.directory), str(port.getHost().port))
        line = await program.said("listening on")
        number = int(line.rsplit(" ", 1)[1])
        context = self.client(users, "metrics")
        answer = await deferToThread(speak, number, context)
        self.assertEqual(answer, AUTHENTICATION_OK + ready_for_query())
        assert agent.header is not None
        self.assertEqual(agent.startup, STARTUP)
        self.assertIn(b"FATAL", await deferToThread(speak, number, self.client(users, "other")))
        self.assertEqual(await program.said("refused"), "refused: there is no other")

    def authorities(self) -> Authority:
        now = time.time()
        users, hosts = (Authority.create(kind, "example", now=now) for kind in ("user", "host"))
        key = new_key()
        certificate = hosts.issue(
            key.public_key(), common_name="proxy", now=now, ttl=3600, server=True, names=["localhost"]
        )
        (self.directory / "proxy.key").write_bytes(private_pem(key))
        (self.directory / "proxy.crt").write_bytes(pem(certificate))
        (self.directory / "user-ca.pem").write_bytes(users.certificate_pem)
        (self.directory / "host-ca.pem").write_bytes(hosts.certificate_pem)
        return users

    def client(self, users: Authority, service: str) -> ssl.SSLContext:
        identity = Identity(
            kind="user",
            name="alice",
            cluster="example",
            roles=("access",),
            usage="database",
            route=DatabaseRoute(cluster="example", service=service),
        )
        key = new_key()
        certificate = users.issue(
            key.public_key(), common_name="alice", now=time.time(), ttl=3600, server=False, identity=identity
        )
        path = self.directory / f"{service}.pem"
        path.write_bytes(private_pem(key) + pem(certificate))
        context = ssl.create_default_context(cafile=str(self.directory / "host-ca.pem"))
        context.load_cert_chain(path)
        return context


STARTUP = startup_message([(b"user", b"alice"), (b"database", b"metrics")])


class Agent(Protocol):
    """Reads a session's header and lets the client in."""

    def __init__(self) -> None:
        self.frames = FrameReader()
        self.header: SessionHeader | None = None
        self.startup = b""

    def dataReceived(self, data: bytes) -> None:
        if self.header is None:
            value = self.frames.feed(data)
            if value is None:
                return
            header = decode_header(value)
            assert isinstance(header, SessionHeader)
            self.header, data = header, self.frames.rest()
        self.startup += data
        if len(self.startup) == len(STARTUP):
            assert self.transport is not None
            self.transport.write(AUTHENTICATION_OK + ready_for_query())
            self.transport.loseConnection()


def speak(port: int, context: ssl.SSLContext) -> bytes:
    """A client of few words, in a thread: what it was answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(STARTUP)
            answer = b""
            while data := secure.recv(65536):
                answer += data
            return answer


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        return int(probing.getsockname()[1])
