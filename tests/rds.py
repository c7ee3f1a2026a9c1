"""A stand-in for RDS: a real PostgreSQL behind a front that lets in by IAM tokens, and by nothing else.

::

    agent ── SSLRequest, TLS with the front's CA ──▶ front
             StartupMessage                           a user with rds_iam: asks for a cleartext password
             the token                                verified by tests.sigv4 for this host, port, user and clock
             ◀──────────────────────────────────────▶ PostgreSQL, which trusts the front

Threads and blocking sockets, and nothing of the project's: what it checks is not checked by what it checks.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from tests import sigv4

SSL_REQUEST, CANCEL_REQUEST = 80877103, 80877102
CLEARTEXT, MD5 = 3, 5


class RDS:
    """The front.

    :param context: of its TLS.
    :param secrets: secret keys by access key: the accounts' that may connect.
    :param backend: the address of PostgreSQL.
    :param iam: who has the role ``rds_iam``.
    :ivar heard: what it read inside of TLS, by connection; cancels apart.
    :ivar refused: why tokens were not good.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        secrets: dict[str, str],
        backend: tuple[str, int],
        region: str,
        iam: tuple[str, ...],
    ) -> None:
        self._context, self._backend = context, backend
        self.secrets, self.region, self.iam = secrets, region, iam
        self.host, self.user, self.ahead = "localhost", "", 0.0
        self.heard: list[bytes] = []
        self.refused: list[str] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(30)
        with plain, contextlib.suppress(OSError, EOFError):
            if struct.unpack("!ii", _exactly(plain, 8)) != (8, SSL_REQUEST):
                return
            plain.sendall(b"S")
            number = len(self.heard)
            self.heard.append(b"")
            with self._context.wrap_socket(plain, server_side=True) as client:
                self._login(client, number)

    def _login(self, client: ssl.SSLSocket, number: int) -> None:
        size = _exactly(client, 4)
        startup = size + _exactly(client, struct.unpack("!i", size)[0] - 4)
        self.heard[number] += startup
        if struct.unpack("!i", startup[4:8])[0] == CANCEL_REQUEST:
            with socket.create_connection(self._backend) as backend:
                backend.sendall(startup)
                backend.recv(1)
            return
        words = startup[8:].split(b"\0")
        user = dict(zip(words[::2], words[1::2], strict=False))[b"user"].decode()
        if user not in self.iam:  # pg_hba.conf of RDS goes on to passwords then
            client.sendall(struct.pack("!cii4s", b"R", 12, MD5, b"salt"))
            client.recv(1)
            return
        client.sendall(struct.pack("!cii", b"R", 8, CLEARTEXT))
        kind, length = struct.unpack("!ci", _exactly(client, 5))
        password = _exactly(client, length - 4)
        self.heard[number] += kind + password
        try:
            sigv4.verify(
                password.rstrip(b"\0").decode(),
                secrets=self.secrets,
                host=self.host,
                port=self.port,
                user=self.user or user,
                region=self.region,
                now=time.time() + self.ahead,
            )
        except sigv4.Refused as reason:
            self.refused.append(str(reason))
            fields = (b"SFATAL", b"VFATAL", b"C28000", f'MPAM authentication failed for user "{user}"'.encode())
            body = b"\0".join(fields) + b"\0\0"
            client.sendall(struct.pack("!ci", b"E", len(body) + 4) + body)
            return
        with socket.create_connection(self._backend) as backend:
            backend.sendall(startup)
            _relay(client, backend)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _relay(client: ssl.SSLSocket, backend: socket.socket) -> None:
    """Both ways until either side ends; the TLS object is used by one thread a direction."""
    client.settimeout(None)

    def back() -> None:
        with contextlib.suppress(OSError):
            while data := backend.recv(65536):
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    returning = threading.Thread(target=back, daemon=True)
    returning.start()
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            backend.sendall(data)
    with contextlib.suppress(OSError):
        backend.shutdown(socket.SHUT_WR)
    returning.join(10)


class BundleServer:
    """HTTPS that has one file, wherever it is asked for; ``paths`` is what was.

    :param pem: gives the file.
    """

    def __init__(self, context: ssl.SSLContext, pem: Callable[[], bytes]) -> None:
        paths = self.paths = []  # type: list[str]

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                paths.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(pem())

            def log_message(self, *args: Any) -> None:
                """Nothing on stderr."""

        self._server = HTTPServer(("127.0.0.1", 0), Answers)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
