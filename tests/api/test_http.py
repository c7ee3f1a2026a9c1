"""The blocking client: errors of the API's classes, TLS to the right name, broken and hostile servers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.api import http
from teleport_db.api.http import Client, UntrustedServer, auth_context, resource_path, show_address, web_context
from teleport_db.certs import keys
from teleport_db.errors import (
    AccessDenied,
    AuthenticationFailed,
    ConnectionTrouble,
    NotFound,
    RemoteProtocolError,
    RevisionConflict,
    TeleportDBError,
)
from tests.cli.fakecluster import CLUSTER, FakeCluster


def raw_server(case: SynchronousTestCase, answers: list[bytes], context: ssl.SSLContext | None) -> tuple[str, int]:
    """A server that answers the connections it gets, one each, whatever is asked, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            try:
                connection.settimeout(10)
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                connection.recv(65536)
                connection.sendall(answer)
            except OSError:
                pass
            finally:
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    case.addCleanup(thread.join, 10)
    case.addCleanup(listener.close)
    return "127.0.0.1", listener.getsockname()[1]


class ClientTests(SynchronousTestCase):
    """Calls of a cluster."""

    def setUp(self) -> None:
        self.cluster = FakeCluster()
        self.addCleanup(self.cluster.close)
        self.host_ca = self.cluster.host_ca.certificate_pem.decode()
        self.file = Path(self.mktemp()).absolute()
        key = keys.new_key()
        certificate = self.cluster.sign(key.public_key(), self.cluster.identity(), 3600)
        self.file.write_text(keys.private_pem(key).decode() + certificate)

    def client(self, *, host_ca: str | None = None, name: str = f"auth.{CLUSTER}", port: int = 0) -> Client:
        context = auth_context(host_ca or self.host_ca, certificate_file=str(self.file))
        client = Client(("127.0.0.1", port or self.cluster.port), context, name)
        self.addCleanup(client.close)
        return client

    def test_calls(self) -> None:
        """Body, query and path arrive; one connection serves several calls."""
        client = self.client()
        self.assertEqual(client.call("GET", "/v1/status")["cluster"], CLUSTER)
        self.cluster.events = [{"event": "x", "user": "é"}] * 3
        events = client.call("GET", "/v1/audit", query={"limit": 2, "user": "é", "event": None})["events"]
        self.assertEqual(len(events), 2)
        self.assertEqual(self.cluster.calls[-1][1], "/v1/audit?limit=2&user=%C3%A9")
        body = {"kind": "role", "metadata": {"name": "é/x"}, "spec": {}}
        client.call("POST", resource_path("role"), body)
        self.assertEqual(client.call("GET", resource_path("role", "é/x"))["metadata"]["name"], "é/x")

    def test_errors(self) -> None:
        """The class that the code names, with the server's words."""
        client = self.client()
        with self.assertRaises(NotFound) as raised:
            client.call("GET", resource_path("role", "none"))
        self.assertIn("none", str(raised.exception))
        role = {"kind": "role", "metadata": {"name": "r"}, "spec": {}}
        client.call("POST", resource_path("role"), role)
        with self.assertRaises(RevisionConflict):
            client.call("PUT", resource_path("role", "r"), {**role, "metadata": {"name": "r", "revision": 999}})
        self.assertEqual(client.call("GET", "/v1/status")["cluster"], CLUSTER)

    def test_without_certificate(self) -> None:
        """The server sees nobody."""
        with Client(("127.0.0.1", self.cluster.port), auth_context(self.host_ca), f"auth.{CLUSTER}") as client:
            self.assertRaises(AuthenticationFailed, client.call, "GET", "/v1/status")

    def test_wrong_name(self) -> None:
        """A certificate of the right authority and another name is not enough."""
        self.cluster.api = self.cluster.postgres
        with self.assertRaises(UntrustedServer) as raised:
            self.client().call("GET", "/v1/status")
        self.assertIn("cannot be trusted", str(raised.exception))
        self.assertEqual(self.cluster.calls, [])

    def test_wrong_authority(self) -> None:
        """Nor is the right name of another authority."""
        client = self.client(host_ca=self.cluster.web_ca.certificate_pem.decode())
        self.assertRaises(UntrustedServer, client.call, "GET", "/v1/status")

    def test_common_name_is_no_name(self) -> None:
        """Only SANs count: a certificate whose common name alone fits is refused."""
        key = keys.new_key()
        made = self.cluster.host_ca.issue(
            key.public_key(), common_name=f"auth.{CLUSTER}", now=self.cluster.now, ttl=60, server=True
        )
        file = self.file.with_name(self.file.name + "-cn")
        file.write_bytes(keys.private_pem(key) + keys.pem(made))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(file))
        self.cluster.api = context
        self.assertRaises(UntrustedServer, self.client().call, "GET", "/v1/status")

    def test_web_side(self) -> None:
        """System roots do not know it, ``insecure`` does not ask."""
        address = ("127.0.0.1", self.cluster.port)
        with Client(address, web_context(), "localhost") as client:
            self.assertRaises(UntrustedServer, client.call, "GET", "/webapi/ping")
        with Client(address, web_context(insecure=True), "localhost") as client:
            self.assertEqual(client.call("GET", "/webapi/ping")["cluster"], CLUSTER)

    def test_unusable_files(self) -> None:
        """A key and a certificate that do not belong together, and no authority."""
        self.file.write_text(
            keys.private_pem(keys.new_key()).decode() + self.file.read_text().partition("KEY-----\n")[2]
        )
        other = self.file.with_name(self.file.name + "-key")
        other.write_bytes(keys.private_pem(keys.new_key()))
        with self.assertRaises(AuthenticationFailed):
            auth_context(self.host_ca, certificate_file=str(self.file), key_file=str(other))
        self.assertRaises(AuthenticationFailed, auth_context, "nonsense")


class TroubleTests(SynchronousTestCase):
    """Servers that are away, broken or no servers of ours; each is one sentence."""

    def setUp(self) -> None:
        self.cluster = FakeCluster()
        self.addCleanup(self.cluster.close)

    def answered(self, *answers: bytes, method: str = "GET", plain: bool = False) -> Callable[[], object]:
        address = raw_server(self, list(answers), None if plain else self.cluster.api)
        self.cluster.api.verify_mode = ssl.CERT_NONE
        context = auth_context(self.cluster.host_ca.certificate_pem.decode())
        client = Client(address, context, f"auth.{CLUSTER}", timeout=5)
        self.addCleanup(client.close)
        return lambda: client.call(method, "/v1/status")

    def body(self, content: bytes, status: bytes = b"200 OK") -> bytes:
        return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content), content)

    def test_not_our_api(self) -> None:
        """What answers otherwise than in JSON objects is not the API."""
        for content in (b"<html>", b"[]", b"1", b'"x"', b"[" * 100_000, b"\xff"):
            self.assertRaises(RemoteProtocolError, self.answered(self.body(content)))
        self.assertRaises(RemoteProtocolError, self.answered(b"SSH-2.0-x\r\n" * 100 + b"\r\n"))

    def test_empty(self) -> None:
        """An empty answer is an empty object."""
        self.assertEqual(self.answered(self.body(b""))(), {})

    def test_statuses(self) -> None:
        """A refusal without a code is of its status's class; a strange code is not trusted."""
        self.assertRaises(AccessDenied, self.answered(self.body(b"{}", b"403 Forbidden")))
        for content in (b'{"error": 1}', b'{"error": {"code": "usage", "message": 7}}'):
            with self.assertRaises(TeleportDBError) as raised:
                self.answered(self.body(content, b"500 X"))()
            self.assertEqual(type(raised.exception), TeleportDBError)

    def test_hangs_up(self) -> None:
        """No answer at all."""
        with self.assertRaises(ConnectionTrouble) as raised:
            self.answered(b"")()
        self.assertIn("closed the connection", str(raised.exception))

    def test_too_large(self) -> None:
        """An answer without end is cut off."""
        self.patch(http, "MAX_ANSWER", 1000)
        self.assertRaises(RemoteProtocolError, self.answered(self.body(b" " * 2000)))

    def test_cut_short(self) -> None:
        """An answer that ends before its length is none."""
        call = self.answered(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a": 1}')
        self.assertRaises(TeleportDBError, call)

    def test_asked_again(self) -> None:
        """A GET on a kept connection that was closed meanwhile is asked again; anything else is not."""
        one = self.body(b'{"n": 1}')
        call = self.answered(one, one)
        self.assertEqual((call(), call()), ({"n": 1}, {"n": 1}))
        call = self.answered(one, one, method="POST")
        call()
        self.assertRaises(ConnectionTrouble, call)
        self.assertEqual(call(), {"n": 1})

    def test_no_tls(self) -> None:
        """A server without TLS."""
        with self.assertRaises(ConnectionTrouble) as raised:
            self.answered(b"HTTP/1.1 400 Bad Request\r\n\r\n", plain=True)()
        self.assertIn("TLS", str(raised.exception))

    def test_away(self) -> None:
        """Nobody listens, and no such host."""
        context = auth_context(self.cluster.host_ca.certificate_pem.decode())
        with self.assertRaises(ConnectionTrouble) as raised:
            Client(("127.0.0.1", 1), context, "auth.x").call("GET", "/")
        self.assertIn("127.0.0.1:1", str(raised.exception))
        for host in ("nowhere.invalid", "a..b", "x" * 70):
            with self.assertRaises(ConnectionTrouble):
                Client((host, 1), context, "auth.x").call("GET", "/")

    def test_addresses(self) -> None:
        """IPv6 has brackets."""
        self.assertEqual(show_address(("::1", 1)), "[::1]:1")
        self.assertEqual(show_address(("a", 1)), "a:1")
