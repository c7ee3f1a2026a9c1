"""The PostgreSQL that other tests and the demo stand on."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.trial.unittest import SynchronousTestCase

from . import postgres

LONG_AGO = datetime.datetime(2020, 1, 1)
FAR_AWAY = datetime.datetime(2090, 1, 1)


def certificate(
    name: str, signer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[bytes, bytes, ec.EllipticCurvePrivateKey]:
    """A certificate and its key as PEM; without a signer, an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signing = signer or (subject, key)
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(LONG_AGO)
        .not_valid_after(FAR_AWAY)
        .add_extension(x509.BasicConstraints(signer is None, None), True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    )
    if signer is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), False)
    pem = builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, private, key


class PostgresTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.server = postgres.shared()

    def psql(self, pem: bytes, key: bytes, ca: bytes, user: str) -> subprocess.CompletedProcess[str]:
        """psql over TCP with a certificate, as a person would use it."""
        where = Path(self.mktemp())
        where.mkdir()
        for name, data in (("crt", pem), ("key", key), ("ca", ca)):
            descriptor = os.open(where / name, os.O_WRONLY | os.O_CREAT, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
        service = (
            f"host=127.0.0.1 port={self.server.port} user={user} dbname=postgres sslmode=verify-full "
            f"sslcert={where.resolve()}/crt sslkey={where.resolve()}/key sslrootcert={where.resolve()}/ca"
        )
        return subprocess.run(
            [self.server.psql(), "-X", "-A", "-t", "-c", "SELECT current_user", service],
            env=self.server.installation.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def test_setup(self) -> None:
        """SQL runs over the local socket, and a fault comes back in PostgreSQL's words."""
        self.assertEqual(self.server.sql("SELECT 1 + 1"), "2")
        error = self.assertRaises(RuntimeError, self.server.sql, "SELECT nonsense")
        self.assertIn("nonsense", str(error))

    def test_certificates(self) -> None:
        """Over TCP it asks for a certificate of the authority that was given last, naming the user."""
        self.server.sql("DROP USER IF EXISTS alice; CREATE USER alice")
        self.addCleanup(self.server.no_tls)
        for _ in range(2):
            ca_pem, _, ca_key = certificate("authority")
            signer = (x509.load_pem_x509_certificate(ca_pem).subject, ca_key)
            server_pem, server_key, _ = certificate("server", signer)
            self.server.use_tls(server_pem, server_key, ca_pem)
            pem, key, _ = certificate("alice", signer)
            self.assertEqual(self.psql(pem, key, ca_pem, "alice").stdout.strip(), "alice")
            self.assertIn("certificate authentication failed", self.psql(pem, key, ca_pem, "postgres").stderr)

    def test_unusable_certificate(self) -> None:
        """A certificate that does not fit its key is not silently left out."""
        self.addCleanup(self.server.no_tls)
        pem, _, _ = certificate("one")
        _, key, _ = certificate("two")
        error = self.assertRaises(RuntimeError, self.server.use_tls, pem, key, pem)
        self.assertIn("cannot use this configuration", str(error))

    def test_no_password_is_enough(self) -> None:
        """Nobody enters over TCP without TLS."""
        self.server.no_tls(hba=postgres.CERTIFICATES_ONLY.replace("hostssl", "host").replace("cert", "reject"))
        with socket.create_connection((self.server.host, self.server.port)) as connection:
            connection.sendall(b"\0\0\0\x08\x04\xd2\x16/")
            self.assertEqual(connection.recv(1), b"N")

    def test_halt_and_resume(self) -> None:
        """It comes back on its port with its data."""
        port = self.server.port
        self.server.sql("CREATE TABLE IF NOT EXISTS kept (n int)")
        self.server.halt(crash=True)
        self.assertRaises(OSError, socket.create_connection, (self.server.host, port))
        self.server.resume()
        self.assertEqual((self.server.port, self.server.sql("SELECT count(*) FROM kept")), (port, "0"))
        self.server.sql("DROP TABLE kept")


class LeftoverTests(SynchronousTestCase):
    skip = postgres.skip

    def test_nothing_stays(self) -> None:
        """Its directory goes with it, and its port is free again."""
        postgres.shared()  # skips when none can be started here
        with postgres.PostgresServer(postgres.SOURCE) as server:
            directory, port = server.directory, server.port
            self.assertTrue(directory.exists())
        self.assertFalse(directory.exists())
        self.assertEqual(postgres.free_port(port), port)


class WordsTests(SynchronousTestCase):
    def test_missing_library(self) -> None:
        """A library that is not there is named with Debian's package."""
        self.patch(
            postgres._script.subprocess,
            "run",
            lambda *a, **k: subprocess.CompletedProcess(
                a, 0, "\tlibreadline.so.8 => not found\n\tlibz.so.1 => /lib/libz.so.1 (0x1)\n", ""
            ),
        )
        missing = postgres._script.missing_libraries(postgres._script.Installation("wheel", Path("/nowhere")))
        self.assertEqual(missing, {"libreadline.so.8": "libreadline8"})
