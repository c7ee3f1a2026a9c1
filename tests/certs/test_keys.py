"""Keys and certificates as PEM."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs import keys
from teleport_db.certs.authority import Authority
from teleport_db.errors import BadRequest, ConfigError

FOREIGN = (
    ec.generate_private_key(ec.SECP384R1()),
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
)


class KeyTests(SynchronousTestCase):
    """ECDSA P-256 and PKCS#8, nothing else."""

    def test_round_trip(self) -> None:
        key = keys.new_key()
        self.assertIn(b"BEGIN PRIVATE KEY", keys.private_pem(key))
        self.assertEqual(keys.load_private(keys.private_pem(key)).private_numbers(), key.private_numbers())
        self.assertEqual(keys.load_public(keys.public_pem(key)), key.public_key())
        self.assertEqual(keys.load_public(keys.public_pem(key.public_key()).decode()), key.public_key())

    def test_foreign_keys(self) -> None:
        """Other curves and algorithms are not certified and not used."""
        for key in FOREIGN:
            public = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            self.assertRaises(BadRequest, keys.load_public, public)
            private = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            self.assertRaises(ConfigError, keys.load_private, private)

    def test_nonsense(self) -> None:
        """Any bytes at all are refused in words."""
        good = keys.public_pem(keys.new_key())
        for data in (b"", b"x", b"\xff" * 100, good[:-40], b"x" * 5000, keys.private_pem(keys.new_key())):
            self.assertRaises(BadRequest, keys.load_public, data)
        locked = keys.new_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        for data in (b"", b"x", locked, good):
            self.assertRaises(ConfigError, keys.load_private, data)
            self.assertRaises(ConfigError, keys.load_certificates, data)

    def test_pin(self) -> None:
        """The pin is of the public key, as openssl and other tools compute it."""
        ca = Authority.create("host", "root", now=1e9)
        spki = ca.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.assertEqual(ca.pin, "sha256:" + hashlib.sha256(spki).hexdigest())
        self.assertEqual(keys.load_certificate(ca.certificate_pem), ca.certificate)
