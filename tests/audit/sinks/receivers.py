"""The other sides, real ones: a syslog server and a web server over TLS, each with a thread of its own.

They know nothing of this program: sockets, ``ssl`` and ``http.server`` of the standard library, and strict parsers.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.audit.sinks.test_forms import Message, parse, unframed
from tests.net.material import Material, authority

#: Seconds after which what is waited for will not come.
PATIENCE = 20.0


def context(pem: bytes, client_ca: str = "") -> ssl.SSLContext:
    """A server's; with ``client_ca`` it wants a certificate of that authority's."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        made.load_cert_chain(file.name)
    if client_ca:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(cadata=client_ca)
    return made


class Receiver:
    """What both have: a port, a thread, a list that grows."""

    def __init__(self, *names: str, of: Material | None = None, client_ca: str = "") -> None:
        self.context = context((of or authority()).pair("server", *(names or ("127.0.0.1", "localhost"))), client_ca)
        self.changed = threading.Condition()
        self.heard = 0  # bytes of the application's
        self.connections = 0
        self.failed: list[str] = []
        self.ended = False

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until it holds; AssertionError when it does not."""
        with self.changed:
            if not self.changed.wait_for(condition, PATIENCE):
                raise AssertionError(f"in vain; {self.failed}")

    def tell(self) -> None:
        with self.changed:
            self.changed.notify_all()


class SyslogReceiver(Receiver):
    """RFC 5425.

    :ivar messages: taken apart.
    :ivar hang_up_at: so many messages behind which a connection is cut, once, when ``may_hang_up`` is set.
    """

    def __init__(self, *names: str, port: int = 0, **more: Any) -> None:
        super().__init__(*names, **more)
        self.messages: list[Message] = []
        self.hang_up_at = 0
        self.may_hang_up = threading.Event()
        self.clean_ends = 0
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.ended = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(PATIENCE)

    def _serve(self) -> None:
        while not self.ended:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            plain.settimeout(PATIENCE)
            self.connections += 1
            try:
                with self.context.wrap_socket(plain, server_side=True) as secured:
                    self._read(secured)
            except (OSError, ValueError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            self.tell()

    def _read(self, secured: ssl.SSLSocket) -> None:
        rest = b""
        while data := secured.recv(65536):
            self.heard += len(data)
            found, rest = unframed(rest + data)
            for message in found:
                self.messages.append(parse(message))
                if self.hang_up_at == len(self.messages):
                    self.hang_up_at = 0
                    self.may_hang_up.wait(PATIENCE)
                    reset(secured)
                    return
            self.tell()
        self.clean_ends += 1

    @property
    def events(self) -> list[dict[str, Any]]:
        """The texts of the messages, in the order in which they came."""
        return [json.loads(message.text) for message in self.messages]


def reset(connection: socket.socket) -> None:
    """End a connection as a crash does: by a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Request:
    """One POST that came whole."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path, self.headers = path, headers
        text = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        assert text.endswith(b"\n"), text[-100:]
        self.records = [json.loads(line) for line in text.splitlines()]
        assert int(headers["x-audit-count"]) == len(self.records)
        self.first = int(headers["x-audit-first"])


class HTTPSReceiver(Receiver):
    """Takes POSTs.

    :ivar requests: those that were answered with 2xx.
    :ivar lost: those that came whole, were kept, and were not answered.
    :ivar plan: what becomes of the next requests: a status, or one with headers; ``cut`` ends the connection in the
        middle of the body; ``lose`` behind it, without an answer; ``half`` in the middle of the answer.
    """

    def __init__(self, *names: str, port: int = 0, **more: Any) -> None:
        super().__init__(*names, **more)
        self.requests: list[Request] = []
        self.lost: list[Request] = []
        self.plan: list[Any] = []
        self.body = b""  # of an answer that has a Content-Length
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = PATIENCE

            def do_POST(self) -> None:
                receiver.answer(self)

            def log_message(self, *args: Any) -> None:
                """Nothing is printed."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> Any:
                plain, address = super().get_request()
                plain.settimeout(PATIENCE)
                receiver.connections += 1
                try:
                    return receiver.context.wrap_socket(plain, server_side=True), address
                except OSError as error:
                    receiver.failed.append(f"{type(error).__name__}: {error}")
                    receiver.tell()
                    raise

            def handle_error(self, *args: Any) -> None:
                """A connection that broke."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        plan = self.plan.pop(0) if self.plan else 204
        length = int(request.headers["content-length"])
        self.heard += 1
        if plan == "cut":
            request.rfile.read(length // 2)
            reset(request.connection)
            request.close_connection = True
            return
        body = request.rfile.read(length)
        headers = {name.lower(): value for name, value in request.headers.items()}
        if plan in ("lose", "half"):
            self.lost.append(Request(request.path, headers, body))
            if plan == "half":
                request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            reset(request.connection)
            request.close_connection = True
            return
        status, more = plan if isinstance(plan, tuple) else (plan, {})
        if 200 <= status < 300:
            self.requests.append(Request(request.path, headers, body))
        request.send_response(status)
        for name, value in {"Content-Length": "0", **more}.items():
            request.send_header(name, value)
        request.end_headers()
        with contextlib.suppress(OSError):
            request.wfile.write(self.body[: int(more.get("Content-Length", 0))])
        self.tell()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Those that were acknowledged, in the order in which they came."""
        return [record for request in self.requests for record in request.records]


def ca_file(directory: str | Path, material: Material | None = None, name: str = "ca.pem") -> str:
    """A file with an authority's certificate."""
    path = Path(directory).absolute() / name
    path.write_text((material or authority()).pem)
    return str(path)
