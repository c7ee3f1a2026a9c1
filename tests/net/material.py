"""Certificates, contexts and protocols for the tests of the transports."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

NOW = datetime.datetime.now(datetime.UTC)


class Material:
    """A CA and what it has signed."""

    def __init__(self, common_name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        self.certificate = self._sign(self.name, self.key.public_key(), ca=True, names=(), age=0)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(self, subject: x509.Name, public_key: Any, *, ca: bool, names: tuple[str, ...], age: int) -> Any:
        start = NOW - datetime.timedelta(days=1 + age)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=10))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            entries: list[x509.GeneralName] = []
            for name in names:
                try:
                    entries.append(x509.IPAddress(ipaddress.ip_address(name)))
                except ValueError:
                    entries.append(x509.DNSName(name))
            builder = builder.add_extension(x509.SubjectAlternativeName(entries), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def pair(self, common_name: str, *names: str, age: int = 0) -> bytes:
        """Key and certificate as one PEM; ``age`` days older than it would be."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = self._sign(subject, key.public_key(), ca=False, names=names, age=age)
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + certificate.public_bytes(serialization.Encoding.PEM)


@cache
def authority() -> Material:
    return Material("test CA")


@cache
def server_pem() -> bytes:
    return authority().pair("server", "server.test", "127.0.0.1")


@cache
def client_pem() -> bytes:
    return authority().pair("alice")


def load(context: ssl.SSLContext, pem: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)


def server_context(
    *,
    clients: bool = False,
    version: ssl.TLSVersion | None = None,
    alpn: tuple[str, ...] = (),
    pem: bytes | None = None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, pem or server_pem())
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority().pem)
    return _finish(context, version, alpn)


def client_context(
    *,
    pem: bytes | None = None,
    version: ssl.TLSVersion | None = None,
    alpn: tuple[str, ...] = (),
    trusted: str | None = None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=trusted or authority().pem)
    if pem:
        load(context, pem)
    return _finish(context, version, alpn)


def _finish(context: ssl.SSLContext, version: ssl.TLSVersion | None, alpn: tuple[str, ...]) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def pem_file(case: Any, pem: bytes) -> str:
    """A file of the test case's own with ``pem`` in it."""
    path = case.mktemp()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return str(path)


class Recorder(Protocol):
    """Remembers all that it is told; ``on_data`` may do something about it."""

    def __init__(
        self, on_data: Callable[[Recorder, bytes], None] | None = None, greeting: bytes = b"", then_close: bool = False
    ) -> None:
        self.on_data = on_data
        self.greeting = greeting
        self.then_close = then_close
        self.chunks: list[bytes] = []
        self.events: list[str] = []
        self.reason: Failure | None = None

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    def connectionMade(self) -> None:
        self.events.append("made")
        if self.greeting:
            self.transport.write(self.greeting)
        if self.then_close:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        assert self.reason is None, "data after the end"
        self.chunks.append(data)
        if self.on_data is not None:
            self.on_data(self, data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        assert self.reason is None, "the end was told twice"
        self.events.append("lost")
        self.reason = reason


@implementer(IHalfCloseableProtocol)
class HalfRecorder(Recorder):
    """... and knows half-closes."""

    def readConnectionLost(self) -> None:
        self.events.append("read lost")

    def writeConnectionLost(self) -> None:
        self.events.append("write lost")


def echo(protocol: Recorder, data: bytes) -> None:
    protocol.transport.write(data)
