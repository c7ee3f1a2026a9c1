"""A self-signed certificate for the web side of a proxy that was given none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from teleport_db.certs.authority import general_name
from teleport_db.certs.keys import new_key, pem, private_pem
from teleport_db.certs.tls import KeyPair

#: Days that browsers accept of a certificate.
LIFE = timedelta(days=397)

#: With less than this left it is not used any more.
SPARE = timedelta(days=30)


def self_signed(names: Sequence[str], *, now: float) -> KeyPair:
    """A new key and its certificate for these DNS names and IP literals.

    :param now: seconds since the epoch.
    """
    key = new_key()
    begins = datetime.fromtimestamp(now, UTC) - timedelta(seconds=60)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + LIFE)
        .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(pem(certificate), private_pem(key))


def serves(pair: KeyPair, names: Sequence[str], *, now: float) -> bool:
    """Whether a kept self-signed certificate is for all of these names and good for a while yet."""
    certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
    if certificate.not_valid_after_utc - SPARE < datetime.fromtimestamp(now, UTC):
        return False
    has = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {general_name(name) for name in names} <= set(has)
