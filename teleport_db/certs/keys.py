"""Keys and certificates as PEM.

One kind of key throughout: ECDSA P-256, private keys as PKCS#8.  A signature takes 17 microseconds where
RSA-2048 takes 244, and every client that PostgreSQL has knows the curve.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from teleport_db.errors import BadRequest, ConfigError

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

#: Bytes of PEM that a key may have; a P-256 key needs 180.
MAX_KEY = 4096


def new_key() -> PrivateKey:
    """A new private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: PrivateKey) -> bytes:
    """PKCS#8 PEM without a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: PrivateKey | PublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo PEM; takes either half."""
    public = key.public_key() if isinstance(key, PrivateKey) else key
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_public(pem: bytes | str) -> PublicKey:
    """A public key that somebody wants certified; BadRequest for anything but P-256."""
    raw = pem.encode() if isinstance(pem, str) else pem
    if len(raw) > MAX_KEY:
        raise BadRequest(f"a public key has at most {MAX_KEY} bytes")
    try:
        key = serialization.load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadRequest("the public key is not PEM of a SubjectPublicKeyInfo", detail=str(error)) from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequest("only ECDSA keys on the curve P-256 are certified")
    return key


def load_private(pem: bytes) -> PrivateKey:
    """A private key of this system; ConfigError for anything but an open P-256 key."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError("the private key is not PEM without a passphrase") from error
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("the private key is not ECDSA on the curve P-256")
    return key


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    """A certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def load_certificates(data: bytes) -> list[x509.Certificate]:
    """Every certificate of a PEM file, at least one; ConfigError else."""
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ConfigError("there is no certificate in PEM") from error


def load_certificate(data: bytes) -> x509.Certificate:
    """The first certificate of a PEM file; ConfigError when there is none."""
    return load_certificates(data)[0]


def spki_pin(certificate: x509.Certificate) -> str:
    """``sha256:`` and the hexadecimal SHA-256 of the DER public key, as ``--ca-pin`` takes it."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256:" + hashlib.sha256(spki).hexdigest()
