"""The certificate authorities of a cluster.

Four of them, so that no certificate works where it should not::

    user       identities of people            -> proxies and agents
    host       identities of auth, proxy, db   -> each other, and clients of the proxy
    db         server certificates             -> PostgreSQL servers show them to agents
    db_client  client certificates             -> agents show them to PostgreSQL servers, CN is the user

PostgreSQL accepts a client certificate of any EKU but serverAuth alone and reads its first CN; only a CA
of its own keeps a host's certificate from being a database user's.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from typing import Literal, get_args

import attrs
import idna
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from teleport_db.certs import keys
from teleport_db.errors import BadRequest, ConfigError
from teleport_db.identity import Identity, to_extension

AuthorityKind = Literal["user", "host", "db", "db_client"]

#: Seconds that a certificate authority lives: ten years, as Teleport's.
AUTHORITY_TTL = 10 * 365 * 24 * 3600

#: Seconds before its making that a certificate is valid already, for clocks that are behind.
BACKDATE = 60

#: X.520's upper bound of a common name, in characters.
MAX_COMMON_NAME = 64

#: Which halves of a handshake an authority certifies: True is the server's.
_SIDES: dict[AuthorityKind, frozenset[bool]] = {
    "user": frozenset({False}),
    "host": frozenset({False, True}),
    "db": frozenset({True}),
    "db_client": frozenset({False}),
}

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


@attrs.frozen
class Authority:
    """One authority with its key.

    Made by :meth:`create` or :meth:`load`.
    """

    kind: AuthorityKind
    certificate: x509.Certificate = attrs.field(repr=False)
    _key: keys.PrivateKey = attrs.field(repr=False, eq=False)

    @classmethod
    def create(cls, kind: AuthorityKind, cluster: str, *, now: float) -> Authority:
        """A new authority of ``cluster``, valid from now (seconds since the epoch) for ten years."""
        if kind not in get_args(AuthorityKind):
            raise BadRequest(f"there is no certificate authority of kind {kind!r}")
        key = keys.new_key()
        public = key.public_key()
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster[:64] or "-"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{kind} CA"),
            ]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_utc(now - BACKDATE))
            .not_valid_after(_utc(now + AUTHORITY_TTL))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(kind, certificate, key)

    @classmethod
    def load(cls, kind: AuthorityKind, certificate_pem: bytes, key_pem: bytes) -> Authority:
        """An authority that was kept; ConfigError when the two do not belong together."""
        certificate, key = keys.load_certificate(certificate_pem), keys.load_private(key_pem)
        if certificate.public_key() != key.public_key():
            raise ConfigError(f"the key of the {kind} CA does not belong to its certificate")
        return cls(kind, certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate."""
        return keys.pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        """The authority's private key, PKCS#8: a secret."""
        return keys.private_pem(self._key)

    @property
    def pin(self) -> str:
        """What ``--ca-pin`` takes."""
        return keys.spki_pin(self.certificate)

    def issue(
        self,
        public_key: keys.PublicKey,
        *,
        common_name: str,
        now: float,
        ttl: float,
        server: bool,
        names: Sequence[str] = (),
        identity: Identity | None = None,
    ) -> x509.Certificate:
        """Certify a public key.

        :param now: seconds since the epoch; the certificate is valid from 60 seconds before.
        :param ttl: seconds; cut where the authority itself ends.
        :param server: True for EKU serverAuth, False for clientAuth; never both.
        :param names: DNS names and IP literals, each becomes a SAN of its type.
        :param identity: carried as an extension; only the user and the host CA vouch for any.

        Raises BadRequest for what this authority does not certify.
        """
        if server not in _SIDES[self.kind]:
            raise BadRequest(f"the {self.kind} CA signs no {'server' if server else 'client'} certificates")
        if identity is not None and identity.kind != self.kind:
            raise BadRequest(f"the {self.kind} CA vouches for no {identity.kind}")
        if not 0 < len(common_name) <= MAX_COMMON_NAME:
            raise BadRequest(f"a certificate's common name has 1 to {MAX_COMMON_NAME} characters")
        if "\0" in common_name:
            raise BadRequest("a certificate's common name has no NUL")
        not_after = min(_utc(now + ttl), self.certificate.not_valid_after_utc)
        if ttl < 1 or not_after <= _utc(now):
            raise BadRequest("the certificate would be over before it begins")
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())  # 159 random bits
            .not_valid_before(_utc(now - BACKDATE))
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            san = x509.SubjectAlternativeName([general_name(name) for name in dict.fromkeys(names)])
            builder = builder.add_extension(san, critical=False)
        if identity is not None:
            builder = builder.add_extension(to_extension(identity), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def general_name(name: str) -> x509.GeneralName:
    """A SAN entry: an iPAddress for an IP literal, else a dNSName; BadRequest for what is neither.

    No wildcards: nothing here would accept one.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    text = name.rstrip(".")
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise BadRequest(f"{name!r} is no host name") from error
    if len(text) > 253 or not all(map(_LABEL.match, text.split("."))):
        raise BadRequest(f"{name!r} is neither a host name nor an IP address")
    return x509.DNSName(text)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
