"""What the four authorities sign, and what they do not."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs import keys
from teleport_db.certs.authority import AUTHORITY_TTL, Authority
from teleport_db.errors import BadRequest, ConfigError
from teleport_db.identity import Identity, from_certificate

NOW = 1_700_000_000.25
KEY = keys.new_key().public_key()
ALICE = Identity("user", "alice", "root", usage="login")
HOST = Identity("host", "1f", "root", roles=("db",))


class AuthorityTests(SynchronousTestCase):
    """Authorities that are kept apart."""

    def test_four(self) -> None:
        """Each is a P-256 CA of its own, that signs no CAs and lives for ten years."""
        made = [Authority.create(kind, "root", now=NOW) for kind in ("user", "host", "db", "db_client")]
        self.assertEqual(len({ca.pin for ca in made}), 4)
        self.assertEqual(len({ca.certificate.subject for ca in made}), 4)
        for ca in made:
            constraints = ca.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            self.assertTrue(constraints.critical and constraints.value.ca)
            self.assertEqual(constraints.value.path_length, 0)
            self.assertIsInstance(ca.certificate.public_key().curve, ec.SECP256R1)
            life = ca.certificate.not_valid_after_utc - ca.certificate.not_valid_before_utc
            self.assertEqual(life.total_seconds(), AUTHORITY_TTL + 60)
        self.assertRaises(BadRequest, Authority.create, "root", "root", now=NOW)

    def test_load(self) -> None:
        """An authority signs on after a restart; a key that is not its own is found out."""
        ca = Authority.create("host", "x" * 200, now=NOW)
        again = Authority.load("host", ca.certificate_pem, ca.key_pem)
        self.assertEqual(again, ca)
        again.issue(KEY, common_name="a", now=NOW, ttl=60, server=True).verify_directly_issued_by(ca.certificate)
        other = Authority.create("host", "root", now=NOW)
        self.assertRaises(ConfigError, Authority.load, "host", ca.certificate_pem, other.key_pem)

    def test_secrets_do_not_print(self) -> None:
        ca = Authority.create("host", "root", now=NOW)
        self.assertNotIn("KEY", repr(ca) + str(ca))


class IssueTests(SynchronousTestCase):
    """The form of a certificate."""

    ca = Authority.create("host", "root", now=NOW)

    def test_form(self) -> None:
        for server, usage in ((True, ExtendedKeyUsageOID.SERVER_AUTH), (False, ExtendedKeyUsageOID.CLIENT_AUTH)):
            certificate = self.ca.issue(KEY, common_name="1f", now=NOW, ttl=3600.9, server=server, identity=HOST)
            extensions = certificate.extensions
            self.assertEqual(list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value), [usage])
            self.assertFalse(extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
            self.assertFalse(extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign)
            self.assertEqual([attribute.oid for attribute in certificate.subject], [NameOID.COMMON_NAME])
            self.assertEqual(certificate.not_valid_before_utc.timestamp(), 1_700_000_000 - 60)
            self.assertEqual(certificate.not_valid_after_utc.timestamp(), 1_700_003_601)
            self.assertEqual(from_certificate(certificate), HOST)
            certificate.verify_directly_issued_by(self.ca.certificate)

    def test_serials(self) -> None:
        """They are random, and long enough that nobody guesses one."""
        serials = [self.ca.issue(KEY, common_name="a", now=NOW, ttl=60, server=True).serial_number for _ in range(20)]
        self.assertEqual(len(set(serials)), 20)
        self.assertGreater(max(serials).bit_length(), 140)
        self.assertGreater(min(serials).bit_length(), 64)

    def test_names(self) -> None:
        """Addresses become iPAddress, names dNSName in ASCII, each once."""
        names = ["db.example.com", "127.0.0.1", "::1", "localhost", "db.example.com", "bücher.example.", "a_b.c"]
        certificate = self.ca.issue(KEY, common_name="a", now=NOW, ttl=60, server=True, names=names)
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(
            san.get_values_for_type(x509.DNSName),
            ["db.example.com", "localhost", "xn--bcher-kva.example", "a_b.c"],
        )
        self.assertEqual([str(ip) for ip in san.get_values_for_type(x509.IPAddress)], ["127.0.0.1", "::1"])

    def test_no_names(self) -> None:
        """Nothing that is no host name is signed, wildcards least of all."""
        for name in (
            "",
            "*",
            "*.a.b",
            "a b",
            "a..b",
            "-a",
            "a-",
            "a/b",
            "a:5432",
            "x" * 64,
            "a\n",
            "☃" * 70,
            "a." * 130,
        ):
            with self.assertRaises(BadRequest, msg=name):
                self.ca.issue(KEY, common_name="a", now=NOW, ttl=60, server=True, names=[name])

    def test_never_outlives_its_authority(self) -> None:
        end = self.ca.certificate.not_valid_after_utc
        certificate = self.ca.issue(KEY, common_name="a", now=NOW, ttl=2 * AUTHORITY_TTL, server=True)
        self.assertEqual(certificate.not_valid_after_utc, end)
        for now, ttl in ((end.timestamp() + 1, 60), (NOW, 0), (NOW, -5)):
            with self.assertRaises(BadRequest):
                self.ca.issue(KEY, common_name="a", now=now, ttl=ttl, server=True)

    def test_sides(self) -> None:
        """No authority does another's work."""
        refused = {("user", True), ("db", False), ("db_client", True)}
        for kind in ("user", "host", "db", "db_client"):
            ca = Authority.create(kind, "root", now=NOW)
            for server in (True, False):
                if (kind, server) in refused:
                    with self.assertRaises(BadRequest):
                        ca.issue(KEY, common_name="a", now=NOW, ttl=60, server=server)
                else:
                    ca.issue(KEY, common_name="a", now=NOW, ttl=60, server=server)
            for identity in (ALICE, HOST):
                if identity.kind != kind:
                    with self.assertRaises(BadRequest):
                        ca.issue(KEY, common_name="a", now=NOW, ttl=60, server=kind == "db", identity=identity)

    def test_common_names(self) -> None:
        """X.520's bound, in words and not as a traceback; 63 bytes of any script fit."""
        for name in ("", "x" * 65, "a\0b"):
            with self.assertRaises(BadRequest):
                self.ca.issue(KEY, common_name=name, now=NOW, ttl=60, server=False)
        certificate = self.ca.issue(KEY, common_name="日本,CN=root", now=NOW, ttl=60, server=False)
        self.assertEqual([attribute.value for attribute in certificate.subject], ["日本,CN=root"])
