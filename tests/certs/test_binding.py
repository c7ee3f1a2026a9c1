"""Channel binding: which hash of which certificate."""

from __future__ import annotations

import hashlib
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs.binding import server_end_point

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def signed(key: Key, algorithm: hashes.HashAlgorithm | None, *, pss: bool = False) -> bytes:
    """A certificate, DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "db")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1))
        .not_valid_after(datetime(2090, 1, 1))
    )
    how = padding.PSS(padding.MGF1(algorithm), 32) if pss and algorithm else None
    certificate = builder.sign(key, algorithm, rsa_padding=how)  # type: ignore[arg-type]
    return certificate.public_bytes(Encoding.DER)


class EndPointTests(SynchronousTestCase):
    """RFC 5929, section 4.1."""

    def test_hashes(self) -> None:
        """The signature's own hash, from SHA-224 up to SHA-512, with every kind of key."""
        for key, algorithm, name, pss in (
            (P256, hashes.SHA256(), "sha256", False),
            (P256, hashes.SHA384(), "sha384", False),
            (P256, hashes.SHA512(), "sha512", False),
            (RSA, hashes.SHA224(), "sha224", False),
            (RSA, hashes.SHA512(), "sha512", False),
            (RSA, hashes.SHA384(), "sha384", True),
        ):
            certificate = signed(key, algorithm, pss=pss)
            self.assertEqual(server_end_point(certificate), hashlib.new(name, certificate).digest(), name)

    def test_old_hashes(self) -> None:
        """SHA-1 and MD5 become SHA-256; the signature itself is none of our business here."""
        certificate = signed(RSA, hashes.SHA256())
        for last in (b"\x05", b"\x04"):  # sha1WithRSAEncryption and md5WithRSAEncryption for sha256's
            old = certificate.replace(
                b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", b"\x2a\x86\x48\x86\xf7\x0d\x01\x01" + last
            )
            self.assertEqual(server_end_point(old), hashlib.sha256(old).digest())

    def test_none(self) -> None:
        """Ed25519 names no hash, and what is no certificate has none."""
        self.assertIsNone(server_end_point(signed(ED, None)))
        self.assertIsNone(server_end_point(b"nonsense"))
