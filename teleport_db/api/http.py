"""The blocking client of the HTTPS API, for commands.

::

    command                         proxy :3080                    auth
       │── ClientHello, SNI auth.CLUSTER, ALPN teleport-auth ─▶│── forwarded untouched ─▶│
       │◀═════════════ one mutual TLS session, HTTP/1.1 and JSON inside ════════════════▶│

There is no reactor here and few imports: a command that lists databases must answer at once.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from teleport_db.alpn import ALPN_AUTH, ALPN_HTTP
from teleport_db.api.answers import MAX_ANSWER, content, target
from teleport_db.errors import AuthenticationFailed, ConnectionTrouble, RemoteProtocolError, TeleportDBError
from teleport_db.hostport import host_port

# What OpenSSL calls the alert by which a server refuses a client's certificate -> what a person reads.
# Under TLS 1.3 it arrives with the first answer, after a handshake that looked well (RFC 8446, 4.4.2.4).
_REFUSED_CERTIFICATE = {
    "CERTIFICATE_EXPIRED": "it has expired",
    "CERTIFICATE_REVOKED": "it was revoked",
    "CERTIFICATE_REQUIRED": "it asks for a certificate",
    "CERTIFICATE_UNKNOWN": "it does not take it",
    "UNSUPPORTED_CERTIFICATE": "it is not of the right kind",
    "BAD_CERTIFICATE": "it cannot read it",
    "UNKNOWN_CA": "it was signed by another cluster, or before the authorities changed",
    "ACCESS_DENIED": "it does not let it in",
}


class UntrustedServer(AuthenticationFailed):
    """The server's certificate does not verify.

    :param reason: what is wrong with it, in OpenSSL's words.
    """

    def __init__(self, address: tuple[str, int], reason: str) -> None:
        self.reason = reason
        super().__init__(f"the certificate of {show_address(address)} cannot be trusted: {reason}")


def show_address(address: tuple[str, int]) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return host_port(*address)


def auth_context(
    host_ca: str, *, certificate_file: str | None = None, key_file: str | None = None, alpn: str = ALPN_AUTH
) -> ssl.SSLContext:
    """TLS to a service of the cluster: its host authority is trusted and nobody else, names are SANs only.

    :param host_ca: PEM, one certificate or, during a rotation, several.
    :param certificate_file: PEM file of the caller's certificate; it may hold the key as well.
    :raises AuthenticationFailed: when the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL:!PSK:!SRP")
    context.hostname_checks_common_name = False
    context.set_alpn_protocols([alpn])
    try:
        context.load_verify_locations(cadata=host_ca)
    except (ssl.SSLError, ValueError) as error:
        raise AuthenticationFailed(f"the cluster's authority cannot be read: {_words(error)}") from error
    if certificate_file is not None:
        try:
            context.load_cert_chain(certificate_file, key_file)
        except ssl.SSLError as error:
            raise AuthenticationFailed(f"{certificate_file} cannot be used: {_words(error)}") from error
    return context


def web_context(*, insecure: bool = False) -> ssl.SSLContext:
    """TLS to a proxy's web side: the system's roots, or those of ``SSL_CERT_FILE``.

    :param insecure: take any certificate: the password then goes to whoever answers.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.set_alpn_protocols([ALPN_HTTP])
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def resource_path(kind: str, name: str | None = None) -> str:
    """The path of a kind of resources, or of one of them."""
    path = f"/v1/resources/{quote(kind, safe='')}"
    return path if name is None else f"{path}/{quote(name, safe='')}"


class Client:
    """Calls of the API over one connection that is kept from call to call.

    :param address: where to connect to: host and port.
    :param context: whom to trust and which certificate to show.
    :param server_hostname: the name sent as SNI and looked for in the server's certificate.
    :param timeout: seconds to wait for a connection, and for each answer.
    """

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext, server_hostname: str, *, timeout: float = 30.0
    ) -> None:
        self.address = address
        self.server_hostname = server_hostname
        self._connection = _Connection(address, context, server_hostname, timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.close()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call the API.

        :param query: parameters; those that are ``None`` are left out.
        :returns: the answer's JSON object; ``{}`` for an empty one.
        :raises ConnectionTrouble: when there is no connection, or it broke.
        :raises TeleportDBError: of the class that the answer's code names.
        """
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8")
        headers = {"Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        # An idle connection may have been closed at the other end meanwhile.  Only a GET is asked again:
        # of anything else nobody knows whether it was done.
        attempts = 2 if method == "GET" and self._connection.sock is not None else 1
        for left in reversed(range(attempts)):
            try:
                status, answer = self._exchange(method, target(path, query), data, headers)
                return content(status, answer, show_address(self.address))
            except ConnectionTrouble:
                self.close()
                if not left:
                    raise
            except BaseException:
                self.close()
                raise
        raise AssertionError("unreachable")

    def _exchange(self, method: str, address: str, data: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        where = show_address(self.address)
        try:
            self._connection.request(method, address, body=data, headers=dict(headers))
            response = self._connection.getresponse()
            answer = response.read(MAX_ANSWER + 1)
        except ssl.SSLCertVerificationError as error:
            raise UntrustedServer(self.address, error.verify_message) from error
        except ssl.SSLError as error:
            raise _tls_trouble(where, error) from error
        except TimeoutError as error:
            raise ConnectionTrouble(f"{where} does not answer") from error
        except socket.gaierror as error:
            raise ConnectionTrouble(f"no address is known for the host {self.address[0]}: {error.strerror}") from error
        except (ConnectionResetError, BrokenPipeError) as error:
            raise ConnectionTrouble(f"{where} closed the connection without an answer") from error
        except OSError as error:
            raise ConnectionTrouble(f"cannot connect to {where}: {error.strerror or error}") from error
        except UnicodeError as error:
            raise ConnectionTrouble(f"{self.server_hostname!r} is no host name") from error
        except http.client.HTTPException as error:
            raise RemoteProtocolError(f"{where} does not answer as the API of a cluster") from error
        if len(answer) > MAX_ANSWER:
            self.close()
            raise RemoteProtocolError(f"the answer of {where} is larger than {MAX_ANSWER >> 20} MiB")
        if response.length:  # read(n) takes the end of a connection for the end of the answer
            raise ConnectionTrouble(f"{where} broke off in the middle of its answer")
        return response.status, answer


class _Connection(http.client.HTTPConnection):
    """HTTP over TLS where the name that is verified is not the name that is connected to."""

    sock: socket.socket | None

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, server_hostname: str, timeout: float) -> None:
        super().__init__(address[0], address[1], timeout=timeout)
        self._context, self._server_hostname, self._seconds = context, server_hostname, timeout

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), timeout=min(self._seconds, 10.0))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(self._seconds)
            self.sock = self._context.wrap_socket(plain, server_hostname=self._server_hostname)
        except BaseException:
            plain.close()
            raise


def _words(error: ssl.SSLError | ValueError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)


def _tls_trouble(where: str, error: ssl.SSLError) -> TeleportDBError:
    reason = error.reason or ""
    for alert, words in _REFUSED_CERTIFICATE.items():
        if reason.endswith(alert):
            return AuthenticationFailed(f"{where} refused the certificate: {words}")
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return ConnectionTrouble(f"{where} does not speak TLS")
    if isinstance(error, ssl.SSLEOFError) or "UNEXPECTED_EOF" in reason:
        return ConnectionTrouble(f"{where} closed the connection without an answer")
    return ConnectionTrouble(f"TLS with {where} failed: {_words(error)}")
