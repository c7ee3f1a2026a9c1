"""A whole auth server on a real SQLite file, and callers of its API."""

import json
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any
from urllib.parse import unquote

import pyotp
from argon2 import PasswordHasher
from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel
from zope.interface import implementer

from teleport_db.audit.checkpoints import Checkpoint
from teleport_db.audit.finding import Page
from teleport_db.audit.query import Query
from teleport_db.audit.writing import Position
from teleport_db.auth.http import API
from teleport_db.auth.server import AuthServer
from teleport_db.certs.keys import der, load_certificate, new_key, public_pem
from teleport_db.config.model import Authentication, AuthService, StaticToken
from teleport_db.errors import BY_CODE, TeleportDBError
from teleport_db.identity import Identity
from teleport_db.interfaces import IAuditLog
from teleport_db.storage.sqlite import SQLiteBackend

CLUSTER = "example"
STATIC_TOKEN = "static-token-0123456789"
NOW = 1_800_000_000.0


@implementer(IAuditLog)
class MemoryAudit:
    """Keeps events in a list; ``failure`` is what it fails with."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.received: list[tuple[str, int]] = []
        self.failure: Exception | None = None
        self.sources: set[str] = set()
        self.lost: list[tuple[str, int | None]] = []

    def emit(self, events: Sequence[Mapping[str, Any]]) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        if self.failure is not None:
            deferred.errback(self.failure)
        else:
            self.events += events
            deferred.callback(None)
        return deferred

    def receive(self, source: str, events: list[tuple[int, dict[str, Any]]]) -> Deferred[int]:
        self.received += [(source, seq) for seq, _ in events]
        self.events += [event for _, event in events]
        return succeed(max((seq for seq, _ in events), default=0))

    def open_sources(self) -> set[str]:
        return self.sources

    def lose(self, source: str, *, before: int | None = None) -> Deferred[int]:
        self.lost.append((source, before))
        return succeed(1)

    def search(self, query: Query = Query(), *, limit: int, **more: Any) -> Deferred[Page]:  # noqa: B008 - frozen
        return succeed(Page([dict(event) for event in reversed(self.events) if query.matches(event)][:limit]))

    def recorded_sessions(self, **more: Any) -> Deferred[tuple[list[dict[str, Any]], int | None]]:
        return succeed(([], None))

    def checkpoint(self) -> Deferred[Checkpoint | None]:
        return succeed(None)

    def changed(self) -> Deferred[None]:
        return Deferred()

    @property
    def position(self) -> Position:
        return Position(count=len(self.events))

    def codes(self) -> list[str]:
        return [event["code"] for event in self.events]


class Key:
    """A key pair and its public half as the API takes it."""

    def __init__(self) -> None:
        self.private = new_key()
        self.public = public_pem(self.private).decode()


class Peer(DummyChannel.TCP):
    """The TLS layer below a request."""

    peer_certificate: bytes | None = None


class Call(Request):
    """A real request of twisted.web without a connection."""

    def __init__(self, method: str, path: str, *, body: bytes, query: Mapping[str, Any], certificate: bytes | None):
        channel = DummyChannel()
        channel.transport = Peer()
        channel.transport.peer_certificate = certificate
        super().__init__(channel, False)
        self.method = method.encode()
        self.uri = self.path = path.encode()
        self.clientproto = b"HTTP/1.1"
        self.prepath = []
        self.postpath = [unquote(part).encode() for part in path.strip("/").split("/")]
        self.args = {str(key).encode(): [str(value).encode()] for key, value in query.items()}
        self.content = BytesIO(body)
        self.answer = b""

    def write(self, data: bytes) -> None:
        self.answer += data


class AuthCase(TestCase):
    """A started auth server.  ``self.call`` calls its API as somebody."""

    second_factor = "off"

    async def setUp(self) -> None:  # type: ignore[override]
        self.clock = Clock()
        self.clock.advance(NOW)
        self.directory = self.mktemp()
        self.audit = MemoryAudit()
        self.server = await self.start()
        self.admin = self.server.local_admin_credentials().certificate_pem
        self.proxy = self.host("proxy")

    async def start(self) -> AuthServer:
        """An auth server on this test's file; another one when it is called again."""
        config = AuthService(
            authentication=Authentication(second_factor=self.second_factor),
            tokens=(StaticToken(("proxy", "node", "db"), STATIC_TOKEN),),
        )
        backend = SQLiteBackend(os.path.join(self.directory, "state.sqlite"), reactor=reactor, clock=self.clock)
        self.addCleanup(backend.close)
        server = AuthServer(
            backend,
            self.audit,
            CLUSTER,
            config,
            reactor=reactor,
            clock=self.clock,
            hasher=PasswordHasher(time_cost=1, memory_cost=64, parallelism=1),
        )
        await server.start()
        self.addCleanup(server.stop)
        self.api = API(server)
        self.root = self.api.resource()
        return server

    def host(self, role: str, scope: Sequence[str] | None = None) -> bytes:
        """The client certificate of a host of this process."""
        answer = self.server.issue_host([role], [], Key().public, scope=scope)
        return str(answer["client_certificate"]).encode()

    def user(self, name: str, roles: Sequence[str] = ("access",), usage: str = "login", ttl: float = 3600) -> bytes:
        """A certificate of a user, whether there is one or not."""
        identity = Identity(kind="user", name=name, cluster=CLUSTER, roles=tuple(roles), usage=usage)
        return self.server.signing.user(identity, Key().public, ttl).certificate.encode()

    async def add_user(self, name: str = "alice", password: str = "correct horse", **more: Any) -> str:
        """A user with a password; the secret of its one-time codes."""
        made = await self.call("POST", "/v1/users", {"name": name, **more})
        shown = await self.call("GET", f"/v1/invites/{made['token']}", by=self.proxy)
        secret = shown["otp"]["secret"] if shown["otp"] else ""
        body = {"password": password, "otp": self.code(secret) if secret else None}
        await self.call("POST", f"/v1/invites/{made['token']}", body, by=self.proxy)
        return str(secret)

    def code(self, secret: str, steps: int = 0) -> str:
        """The one-time code of now, or some steps of 30 seconds away."""
        return pyotp.TOTP(secret).at(int(self.clock.seconds()) + 30 * steps)

    def login(self, name: str = "alice", password: str = "correct horse", **more: Any) -> "Deferred[dict[str, Any]]":
        """Log in through the proxy."""
        body = {"user": name, "password": password, "public_key": Key().public, "client_address": "192.0.2.7", **more}
        return self.call("POST", "/v1/login", body, by=self.proxy)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        by: bytes | None = b"admin",
        query: Mapping[str, Any] | None = None,
    ) -> "Deferred[dict[str, Any]]":
        """Call the API with a certificate (PEM), the administrator's or, with None, without one."""
        return Deferred.fromCoroutine(self._call(method, path, body, by, query or {}))

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None, by: bytes | None, query: Mapping[str, Any]
    ) -> Call:
        """A request that was not rendered yet."""
        certificate = None if by is None else der(load_certificate(self.admin if by == b"admin" else by))
        data = b"" if body is None else json.dumps(body).encode()
        return Call(method, path, body=data, query=query, certificate=certificate)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, by: bytes | None, query: Mapping[str, Any]
    ) -> dict[str, Any]:
        request = self.request(method, path, body, by, query)
        finished = request.notifyFinish()
        request.render(self.root)
        await finished
        answer: dict[str, Any] = json.loads(request.answer)
        if request.code != 200:
            error = answer["error"]
            raised = BY_CODE.get(error["code"], TeleportDBError)(error["message"])
            assert raised.status == request.code or request.code == 405, (error, request.code)
            raise raised
        return answer


def certificate(pem: str) -> x509.Certificate:
    """A certificate of an answer."""
    return x509.load_pem_x509_certificate(pem.encode())
