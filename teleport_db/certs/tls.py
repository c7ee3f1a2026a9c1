"""TLS contexts, and who the peer of a handshake is.

Contexts are the standard library's::

    TLS 1.2 with ECDHE and an AEAD, or TLS 1.3; no renegotiation, no compression, no callbacks

No context checks names, because OpenSSL would need one context a name; :func:`verify_name` does after the
handshake and before any application byte.  A context costs 1.2 ms to make: keep them, and make new ones
when an authority changes, so that no session of before can be resumed.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import (
    DNS_ID,
    CertificatePattern,
    DNSPattern,
    IPAddress_ID,
    IPAddressPattern,
    ServiceID,
    verify_service_identity,
)

from teleport_db.certs import keys
from teleport_db.errors import AuthenticationFailed, ConfigError
from teleport_db.identity import Identity, from_certificate

#: For TLS 1.2; all suites of TLS 1.3 are AEAD with an ephemeral key anyway.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL:!PSK:!SRP"

#: Certificates of which is kept what does not change: the same few come with every session, and checking a signature
#: takes 0.2 ms.
KEPT = 1024

#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h; the standard library has no name for it.
NO_CHECK_TIME = 0x200000


#: What ``cryptography`` raises for a hostile certificate; some of these are no ValueError.
_UNREADABLE = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)


@attrs.frozen
class KeyPair:
    """A certificate, with the chain behind it if there is one, and its key; both PEM."""

    certificate_pem: bytes = attrs.field(repr=False)
    key_pem: bytes = attrs.field(repr=False)


def server_context(
    pair: KeyPair,
    *,
    client_cas: Sequence[bytes] = (),
    client_required: bool = False,
    alpn: Sequence[str] = (),
    lenient_clients: bool = False,
    tickets: bool = True,
    remember: bool = False,
) -> ssl.SSLContext:
    """The server's side of handshakes.

    :param client_cas: PEM of the authorities whose clients are let in; none asks for no certificate.
    :param client_required: a client without a certificate fails in the handshake.
    :param alpn: protocols in the order of preference.
    :param lenient_clients: a missing or expired certificate passes the handshake, so that the caller can
        refuse in words; :func:`peer_identity` must then be given a time.
    :param tickets: whether clients are given a ticket by which they may resume their session.
    :param remember: sessions are kept in this process, and a ticket is a session's name and not all of it: for servers
        of a few trusted clients, whose connections then share one session and one parsed certificate.

    Raises ConfigError for PEM that cannot be used.
    """
    if (client_required or lenient_clients) and not client_cas:
        raise ValueError("without client_cas no client could be let in")
    context = _context(ssl.PROTOCOL_TLS_SERVER, pair, alpn)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    # None at all costs clients without TCP_NODELAY 40 ms a connection, unless the last they sent is acknowledged at
    # once; more than one cost us a record each.
    context.num_tickets = 1 if tickets else 0
    if remember:
        # OpenSSL keeps 20,480 for two hours at most, and forgets one when a connection of it ends without close_notify.
        context.options |= ssl.OP_NO_TICKET
    if client_cas:
        _trust(context, client_cas)
        required = client_required and not lenient_clients
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        if lenient_clients:
            context.verify_flags |= NO_CHECK_TIME
    return context


def client_context(
    *,
    cas: Sequence[bytes] | None,
    pair: KeyPair | None = None,
    alpn: Sequence[str] = (),
    verify: bool = True,
) -> ssl.SSLContext:
    """The client's side of handshakes; the caller checks the name with :func:`verify_name`.

    :param cas: PEM of the authorities to trust; None is the system's (and ``SSL_CERT_FILE``), an empty
        sequence trusts nobody.
    :param pair: shown when the server asks for a certificate.
    :param verify: False takes any server at all: for ``--insecure`` only.

    Raises ConfigError for PEM that cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, pair, alpn)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if cas is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, cas)
    return context


@lru_cache(maxsize=KEPT)
def shared(certificate_der: bytes) -> bytes:
    """The same certificate, once for all connections that were shown it."""
    return certificate_der


@lru_cache(maxsize=KEPT)
def verify_name(certificate_der: bytes, name: str, *, wildcard: bool = False) -> None:
    """Check that a certificate is for ``name``, a DNS name or an IP literal.

    Only whole SAN entries count: neither the common name nor a wildcard does.

    :param wildcard: an entry counts as well that is ``name`` with ``*`` in the place of its first part; for
        services whose names are all of one owner.

    Raises AuthenticationFailed, which says whom we wanted and whom the certificate names.
    """
    certificate = _load(certificate_der)
    if wildcard and _below_wildcard(certificate, name):
        return
    patterns = _patterns(certificate)
    wanted: ServiceID
    try:
        try:
            ipaddress.ip_address(name)
            wanted = IPAddress_ID(name)
        except ValueError:
            wanted = DNS_ID(name.rstrip("."))
        verify_service_identity(patterns, [wanted], [])
    except (VerificationError, CertificateError, ValueError) as error:
        has = ", ".join(_spell(certificate)) or "no name at all (a common name does not count)"
        raise AuthenticationFailed(f"the certificate is not for {name!r}; it is for {has}") from error


def verify_time(certificate_der: bytes, now: float) -> None:
    """Check that a certificate is valid now, in seconds since the epoch: a resumed session has not.

    Raises AuthenticationFailed.
    """
    _check_time(_load(certificate_der), now, "the certificate")


def peer_identity(
    certificate_der: bytes, *, user_ca: bytes | None, host_ca: bytes | None, now: float | None
) -> Identity:
    """Who showed this certificate, verified anew whatever a handshake has checked.

    :param user_ca: PEM of the authorities that vouch for users (several while one is rotated), None for none.
    :param host_ca: the same for hosts.
    :param now: seconds since the epoch; None leaves the times unchecked.

    Raises AuthenticationFailed unless an authority of the identity's kind signed it, it is a client's, and
    valid now.
    """
    identity, certificate, signer = _vouched(certificate_der, user_ca, host_ca)
    if now is not None:
        advice = f"run: tsh db login {identity.route.service}" if identity.route else "log in again"
        _check_time(certificate, now, "the certificate", advice)
        _check_time(signer, now, f"the {identity.kind} CA")
    return identity


@lru_cache(maxsize=KEPT)
def _vouched(
    certificate_der: bytes, user_ca: bytes | None, host_ca: bytes | None
) -> tuple[Identity, x509.Certificate, x509.Certificate]:
    """What :func:`peer_identity` finds out at whatever time it is asked: the identity, its certificate, the signer."""
    certificate = _load(certificate_der)
    signer, kind = _signer(certificate, user_ca, host_ca)
    _check_client(certificate)
    identity = from_certificate(certificate)
    if identity.kind != kind:
        raise AuthenticationFailed(f"the {kind} CA does not vouch for a {identity.kind}")
    return identity, certificate, signer


def _context(protocol: int, pair: KeyPair | None, alpn: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # A connection that ends without close_notify was cut by somebody: never take it for a clean end.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if pair is not None:
        _load_pair(context, pair)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _load_pair(context: ssl.SSLContext, pair: KeyPair) -> None:
    with _readable(pair.certificate_pem + b"\n" + pair.key_pem) as path:
        try:
            # A passphrase of our own, wrong for every key that wants one, so that OpenSSL never asks the terminal.
            context.load_cert_chain(path, password="-")  # noqa: S106
        except (ssl.SSLError, ValueError, OSError) as error:
            raise ConfigError(f"the certificate and its key cannot be used: {_reason(error)}") from error


def _trust(context: ssl.SSLContext, cas: Sequence[bytes]) -> None:
    for pem in cas:
        try:
            context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(f"the CA's certificate cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else "") or str(error)


@contextmanager
def _readable(data: bytes) -> Iterator[str]:
    """A path from which OpenSSL reads ``data``, in memory where the system has that."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        fd = os.memfd_create("key", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{fd}"
    else:
        fd, path = tempfile.mkstemp()  # 0600
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        yield path
    finally:
        os.close(fd)
        if not path.startswith("/proc/"):
            os.unlink(path)


@lru_cache(maxsize=KEPT)
def _load(certificate_der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        certificate.extensions  # noqa: B018 - parsed on demand, and a hostile one fails here
    except _UNREADABLE as error:
        raise AuthenticationFailed("the certificate cannot be read", detail=str(error)) from error
    return certificate


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _patterns(certificate: x509.Certificate) -> list[CertificatePattern]:
    san = _names(certificate)
    if san is None:
        return []
    addresses = map(str, san.get_values_for_type(x509.IPAddress))
    patterns: list[CertificatePattern] = [IPAddressPattern(ipaddress.ip_address(address)) for address in addresses]
    for name in san.get_values_for_type(x509.DNSName):
        if "*" in name:
            continue
        try:
            patterns.append(DNSPattern.from_bytes(name.encode()))
        except CertificateError:
            continue  # an address in a dNSName matches nothing, and spoils nothing
    return patterns


def _below_wildcard(certificate: x509.Certificate, name: str) -> bool:
    san = _names(certificate)
    _, _, parent = name.rstrip(".").lower().partition(".")
    # Two parts at least below the star: nobody owns all names of a top-level domain.
    if san is None or "." not in parent or parent.replace(".", "").isdigit():
        return False
    return f"*.{parent}" in (entry.lower() for entry in san.get_values_for_type(x509.DNSName))


def _spell(certificate: x509.Certificate) -> list[str]:
    san = _names(certificate)
    if san is None:
        return []
    names = [
        *(
            f"{name} (wildcards are not accepted)" if "*" in name else name
            for name in san.get_values_for_type(x509.DNSName)
        ),
        *map(str, san.get_values_for_type(x509.IPAddress)),
    ]
    # They may be a stranger's words on the way to a terminal.
    return ["".join(c if c.isprintable() else "?" for c in name[:255]) for name in names[:20]]


def _signer(
    certificate: x509.Certificate, user_ca: bytes | None, host_ca: bytes | None
) -> tuple[x509.Certificate, str]:
    for kind, pem in (("user", user_ca), ("host", host_ca)):
        for authority in keys.load_certificates(pem) if pem else ():
            try:
                certificate.verify_directly_issued_by(authority)
            except (*_UNREADABLE, InvalidSignature):
                continue
            return authority, kind
    raise AuthenticationFailed("the certificate was not signed by an authority of this cluster; log in again")


def _check_client(certificate: x509.Certificate) -> None:
    extensions = certificate.extensions
    try:
        usage = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise AuthenticationFailed("the certificate does not say what it is for") from None
    if usage != [ExtendedKeyUsageOID.CLIENT_AUTH] or constraints.ca:
        raise AuthenticationFailed("the certificate is not for a client")


def _check_time(certificate: x509.Certificate, now: float, what: str, advice: str = "log in again") -> None:
    moment = datetime.fromtimestamp(now, UTC)
    if moment >= certificate.not_valid_after_utc:
        ended = certificate.not_valid_after_utc
        raise AuthenticationFailed(f"{what} expired at {ended:%H:%M} UTC on {ended:%Y-%m-%d}; {advice}")
    if moment < certificate.not_valid_before_utc:
        begins = certificate.not_valid_before_utc
        raise AuthenticationFailed(
            f"{what} is not valid before {begins:%H:%M} UTC on {begins:%Y-%m-%d}; is a clock wrong?"
        )
