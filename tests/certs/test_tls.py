"""Contexts and the identity of a peer, by real handshakes."""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs import keys, tls
from teleport_db.certs.authority import Authority
from teleport_db.certs.tls import KeyPair, client_context, peer_identity, server_context, verify_name
from teleport_db.errors import AuthenticationFailed, ConfigError
from teleport_db.identity import DatabaseRoute, Identity
from tests.certs.handshakes import handshake

#: OpenSSL reads the system's clock.
NOW = time.time()

USER_CA = Authority.create("user", "root", now=NOW)
HOST_CA = Authority.create("host", "root", now=NOW)
OTHER_USER_CA = Authority.create("user", "root", now=NOW)
ALICE = Identity("user", "alice", "root", usage="database", route=DatabaseRoute("root", "aurora"))
AGENT = Identity("host", "1f", "root", roles=("db",))


def pair(
    ca: Authority,
    *,
    server: bool = False,
    now: float = NOW,
    ttl: float = 3600,
    names: Sequence[str] = (),
    identity: Identity | None = None,
) -> KeyPair:
    key = keys.new_key()
    certificate = ca.issue(
        key.public_key(), common_name="db.example", now=now, ttl=ttl, server=server, names=names, identity=identity
    )
    return KeyPair(keys.pem(certificate), keys.private_pem(key))


def der(pair: KeyPair) -> bytes:
    return keys.der(keys.load_certificate(pair.certificate_pem))


SERVER = pair(HOST_CA, server=True, names=["db.example.com", "127.0.0.1", "::1"])
CLIENT = pair(USER_CA, identity=ALICE)


class VersionTests(SynchronousTestCase):
    """TLS 1.2 and up, AEAD and ECDHE, no renegotiation, no compression."""

    def test_mutual(self) -> None:
        """Both ends see the other's certificate and agree on TLS 1.3 and a protocol."""
        server = server_context(
            SERVER, client_cas=[USER_CA.certificate_pem], client_required=True, alpn=["b", "postgresql"]
        )
        client = client_context(cas=[HOST_CA.certificate_pem], pair=CLIENT, alpn=["postgresql"])
        ends = handshake(client, server, server_hostname="db.example.com")
        self.assertEqual(ends.client.version(), "TLSv1.3")
        self.assertEqual(ends.client.selected_alpn_protocol(), "postgresql")
        self.assertEqual(ends.client_certificate, der(CLIENT))
        self.assertEqual(ends.server_certificate, der(SERVER))
        self.assertIsNone(ends.client.compression())

    def test_old_versions(self) -> None:
        """TLS 1.1 is refused by the server and by the client, 1.2 is not."""
        for version, works in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
            for weak in ("client", "server"):
                client = client_context(cas=[HOST_CA.certificate_pem])
                server = server_context(SERVER)
                context = client if weak == "client" else server
                context.set_ciphers("ALL:@SECLEVEL=0")
                context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
                context.maximum_version = version
                if works:
                    self.assertEqual(handshake(client, server).client.version(), "TLSv1.2")
                else:
                    self.assertRaises(ssl.SSLError, handshake, client, server)

    def test_ciphers(self) -> None:
        """A peer that offers CBC, static RSA keys or finite-field keys only is refused."""
        for cipher in ("ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "AES128-GCM-SHA256", "ECDHE+AES:!AESGCM"):
            for weak in ("client", "server"):
                client = client_context(cas=[HOST_CA.certificate_pem])
                server = server_context(SERVER)
                context = client if weak == "client" else server
                context.maximum_version = ssl.TLSVersion.TLSv1_2
                context.set_ciphers(cipher + ":@SECLEVEL=0")
                self.assertRaises(ssl.SSLError, handshake, client, server)

    def test_every_cipher(self) -> None:
        """All that a context would speak is ephemeral and AEAD."""
        for context in (server_context(SERVER), client_context(cas=[])):
            ciphers = context.get_ciphers()
            self.assertTrue(ciphers)
            for cipher in ciphers:
                self.assertTrue(cipher["aead"], cipher)
                self.assertIn(cipher["kea"], ("kx-ecdhe", "kx-any"), cipher)
                self.assertNotEqual(cipher["auth"], "auth-null", cipher)

    def test_options(self) -> None:
        for context in (server_context(SERVER), client_context(cas=[])):
            self.assertTrue(context.options & ssl.OP_NO_RENEGOTIATION)
            self.assertTrue(context.options & ssl.OP_NO_COMPRESSION)
            self.assertFalse(context.options & ssl.OP_IGNORE_UNEXPECTED_EOF)
            self.assertEqual(context.minimum_version, ssl.TLSVersion.TLSv1_2)

    def test_cut_connection(self) -> None:
        """The end of the bytes without close_notify is an error, not an end."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context(cas=[HOST_CA.certificate_pem]).wrap_bio(to_client, to_server)
        self.assertRaises(ssl.SSLWantReadError, client.do_handshake)
        to_client.write_eof()
        # Some builds of Python have SSLEOFError for it, others the plain class with OpenSSL's reason.
        error = self.assertRaises(ssl.SSLError, client.do_handshake)
        self.assertNotIsInstance(error, (ssl.SSLWantReadError, ssl.SSLZeroReturnError))
        self.assertIn("eof", str(error).lower())
        ends = handshake(client_context(cas=[HOST_CA.certificate_pem]), server_context(SERVER))
        self.assertRaises(ssl.SSLWantReadError, ends.client.unwrap)

    def test_resumed(self) -> None:
        """A resumed session still yields the certificate; a new context does not resume it."""
        make = lambda: server_context(SERVER, client_cas=[USER_CA.certificate_pem], lenient_clients=True)  # noqa: E731
        server, client = make(), client_context(cas=[HOST_CA.certificate_pem], pair=CLIENT)
        first = handshake(client, server)
        second = handshake(client, server, session=first.client.session)
        self.assertTrue(second.client.session_reused)
        self.assertEqual(second.client_certificate, der(CLIENT))
        third = handshake(client, make(), session=second.client.session)
        self.assertFalse(third.client.session_reused)

    def test_remembered(self) -> None:
        """A session that the server remembers is resumed by its name; to the next context it means nothing."""

        def hello(session: ssl.SSLSession) -> int:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            begun = client.wrap_bio(incoming, outgoing, session=session)
            self.assertRaises(ssl.SSLWantReadError, begun.do_handshake)
            return outgoing.pending

        client, sizes = client_context(cas=[HOST_CA.certificate_pem], pair=CLIENT), {}
        for remember in (False, True):
            make = partial(
                server_context, SERVER, client_cas=[USER_CA.certificate_pem], client_required=True, remember=remember
            )
            server = make()
            begun = handshake(client, server)
            session = begun.client.session
            assert session is not None
            sizes[remember] = hello(session)
            # By several connections at once, of which the last is as good as the first.
            ends = [handshake(client, server, session=session) for _ in range(3)]
            self.assertEqual([end.client.session_reused for end in ends], [True] * 3)
            self.assertEqual({end.client_certificate for end in ends}, {der(CLIENT)})
            self.assertFalse(handshake(client, make(), session=session).client.session_reused)
            # OpenSSL: one that ends without close_notify takes what is remembered along.
            del begun, ends
            self.assertEqual(handshake(client, server, session=session).client.session_reused, not remember)
        self.assertLess(sizes[True], sizes[False] - len(der(CLIENT)) // 2)


class ServerTrustTests(SynchronousTestCase):
    """Rows 2 and 3 as a client sees them."""

    def refused(self, server: KeyPair, *cas: Authority) -> None:
        client = client_context(cas=[ca.certificate_pem for ca in cas])
        self.assertRaises(ssl.SSLCertVerificationError, handshake, client, server_context(server))

    def test_wrong_authority(self) -> None:
        self.refused(SERVER, USER_CA)
        self.refused(SERVER, Authority.create("host", "root", now=NOW))
        self.refused(SERVER)

    def test_expired(self) -> None:
        self.refused(pair(HOST_CA, server=True, now=NOW - 7200), HOST_CA)
        self.refused(pair(HOST_CA, server=True, now=NOW + 7200), HOST_CA)

    def test_wrong_usage(self) -> None:
        """A client's certificate makes no server, not even the host CA's."""
        self.refused(pair(HOST_CA, identity=AGENT), HOST_CA)

    def test_leaf_is_no_authority(self) -> None:
        """Whoever has a certificate cannot issue another."""
        key = keys.new_key()
        leaf = HOST_CA.issue(key.public_key(), common_name="1f", now=NOW, ttl=600, server=False)
        self.refused(chain_below(leaf, key), HOST_CA)

    def test_system_roots(self) -> None:
        """Without authorities of ours it is the system's, and ``SSL_CERT_FILE``."""
        self.assertRaises(ssl.SSLCertVerificationError, handshake, client_context(cas=None), server_context(SERVER))
        with tempfile.NamedTemporaryFile() as file:
            file.write(HOST_CA.certificate_pem)
            file.flush()
            before = os.environ.get("SSL_CERT_FILE")
            os.environ["SSL_CERT_FILE"] = file.name
            try:
                handshake(client_context(cas=None), server_context(SERVER))
            finally:
                del os.environ["SSL_CERT_FILE"]
                if before is not None:
                    os.environ["SSL_CERT_FILE"] = before

    def test_insecure(self) -> None:
        """Only who says so talks to anybody."""
        client = client_context(cas=[], verify=False)
        self.assertEqual(handshake(client, server_context(SERVER)).server_certificate, der(SERVER))


class ClientTrustTests(SynchronousTestCase):
    """Rows 2 and 3 as a server sees them."""

    cas = (USER_CA.certificate_pem,)

    def connect(self, client: KeyPair | None, *, required: bool = False, lenient: bool = False) -> bytes | None:
        server = server_context(SERVER, client_cas=self.cas, client_required=required, lenient_clients=lenient)
        return handshake(client_context(cas=[HOST_CA.certificate_pem], pair=client), server).client_certificate

    def test_required(self) -> None:
        self.assertEqual(self.connect(CLIENT, required=True), der(CLIENT))
        self.assertRaises(ssl.SSLError, self.connect, None, required=True)
        self.assertIsNone(self.connect(None))

    def test_wrong_authority(self) -> None:
        """In the handshake, also where the server is lenient about the time."""
        for ca in (OTHER_USER_CA, HOST_CA):
            for lenient in (False, True):
                self.assertRaises(ssl.SSLError, self.connect, pair(ca), lenient=lenient)

    def test_expired(self) -> None:
        self.assertRaises(ssl.SSLError, self.connect, pair(USER_CA, now=NOW - 7200))

    def test_wrong_usage(self) -> None:
        both = server_context(SERVER, client_cas=[HOST_CA.certificate_pem], client_required=True)
        client = client_context(cas=[HOST_CA.certificate_pem], pair=SERVER)
        self.assertRaises(ssl.SSLError, handshake, client, both)

    def test_lenient(self) -> None:
        """Missing and expired certificates get as far as where they can be refused in words."""
        old = pair(USER_CA, now=NOW - 7200, identity=ALICE)
        self.assertEqual(self.connect(old, lenient=True), der(old))
        self.assertIsNone(self.connect(None, lenient=True))
        with self.assertRaises(AuthenticationFailed) as caught:
            peer_identity(der(old), user_ca=USER_CA.certificate_pem, host_ca=None, now=NOW)
        self.assertIn("expired at", str(caught.exception))

    def test_no_authorities(self) -> None:
        """A context that would let nobody in, or anybody, is a mistake of the caller's."""
        self.assertRaises(ValueError, server_context, SERVER, client_required=True)
        self.assertRaises(ValueError, server_context, SERVER, lenient_clients=True)


class NameTests(SynchronousTestCase):
    """A SAN of exactly this name."""

    def test_matches(self) -> None:
        for name in ("db.example.com", "DB.Example.COM", "db.example.com.", "127.0.0.1", "::1", "0:0::1"):
            verify_name(der(SERVER), name)

    def refused(self, name: str, *names: str) -> str:
        with self.assertRaises(AuthenticationFailed, msg=name) as caught:
            verify_name(unchecked(names), name)
        return str(caught.exception)

    def test_wrong(self) -> None:
        for name in (
            "example.com",
            "a.db.example.com",
            "db.example.co",
            "127.0.0.2",
            "::2",
            "",
            "*",
            "db.example.com\0",
        ):
            with self.assertRaises(AuthenticationFailed, msg=name):
                verify_name(der(SERVER), name)
        words = self.refused("a.example", "b.example", "10.0.0.1")
        for part in ("a.example", "b.example", "10.0.0.1"):
            self.assertIn(part, words)

    def test_common_name_alone(self) -> None:
        """The common name is ``db.example``, and it says nothing."""
        self.assertIn("no name at all", self.refused("db.example"))
        self.refused("db.example", "other.example")

    def test_wildcards(self) -> None:
        for name in ("x.a.b", "a.b", "*.a.b", "y.x.a.b"):
            self.assertIn("wildcards", self.refused(name, "*.a.b"))
        verify_name(unchecked(["*.a.b", "x.a.b"]), "x.a.b")

    def test_wildcard_wanted(self) -> None:
        """Where a wildcard may count, it does for its own level only, and never below a top-level domain."""
        for name in ("x.a.b", "X.A.B", "x.a.b."):
            verify_name(unchecked(["*.a.b"]), name, wildcard=True)
        verify_name(unchecked(["x.a.b"]), "x.a.b", wildcard=True)
        for name, names in (
            *(("a.b", ["*.a.b"]), ("y.x.a.b", ["*.a.b"]), ("a.b", ["*.b"]), ("x.a.b", ["*.*.b", "x*.a.b"])),
            *(("10.0.0.1", ["dns:*.0.0.1"]), ("x.a.b", []), ("b", ["*"])),
        ):
            with self.assertRaises(AuthenticationFailed, msg=name):
                verify_name(unchecked(names), name, wildcard=True)

    def test_address_as_name(self) -> None:
        """``127.0.0.1`` as a dNSName is no address, and does not spoil the names beside it."""
        self.refused("127.0.0.1", "dns:127.0.0.1")
        verify_name(unchecked(["dns:127.0.0.1", "a.example"]), "a.example")

    def test_terminal(self) -> None:
        """A stranger's name cannot move the cursor."""
        self.assertNotIn("\x1b", self.refused("a.example", "dns:\x1b[2Jroot"))

    def test_nonsense(self) -> None:
        for data in (b"", b"\0" * 50, der(SERVER)[:-1]):
            self.assertRaises(AuthenticationFailed, verify_name, data, "a.example")


def chain_below(leaf: x509.Certificate, key: keys.PrivateKey) -> KeyPair:
    """A certificate that the holder of a leaf made up, with the leaf behind it."""
    below = keys.new_key()
    certificate = (
        x509.CertificateBuilder(leaf.subject, leaf.subject, below.public_key(), 7)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(keys.pem(certificate) + keys.pem(leaf), keys.private_pem(below))


def unchecked(names: Sequence[str]) -> bytes:
    """A server certificate with names that no authority of ours would sign."""
    like, key = keys.load_certificate(SERVER.certificate_pem), keys.new_key()
    subject = keys.load_certificate(CLIENT.certificate_pem).subject  # CN=db.example
    builder = (
        x509.CertificateBuilder(like.issuer, subject, key.public_key(), 7)
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
    )
    if names:
        entries = [general(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(entries), critical=False)
    return keys.der(builder.sign(key, hashes.SHA256()))


def general(name: str) -> x509.GeneralName:
    import ipaddress

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.removeprefix("dns:"))


class PeerIdentityTests(SynchronousTestCase):
    """Whose word a certificate is."""

    def check(self, certificate: bytes, now: float | None = NOW) -> Identity:
        return peer_identity(certificate, user_ca=USER_CA.certificate_pem, host_ca=HOST_CA.certificate_pem, now=now)

    def test_both_kinds(self) -> None:
        self.assertEqual(self.check(der(CLIENT)), ALICE)
        self.assertEqual(self.check(der(pair(HOST_CA, identity=AGENT))), AGENT)

    def test_unknown_authority(self) -> None:
        """Of the same name, and with another key."""
        self.assertRaises(AuthenticationFailed, self.check, der(pair(OTHER_USER_CA, identity=ALICE)))
        for ca in ("db", "db_client"):
            other = Authority.create(ca, "root", now=NOW)
            self.assertRaises(AuthenticationFailed, self.check, der(pair(other, server=ca == "db")))

    def test_not_asked_for(self) -> None:
        """Where only users are let in, a host is not."""
        host = der(pair(HOST_CA, identity=AGENT))
        for cas in ({"user_ca": USER_CA.certificate_pem, "host_ca": None}, {"user_ca": None, "host_ca": None}):
            with self.assertRaises(AuthenticationFailed):
                peer_identity(host, now=NOW, **cas)

    def test_kind_and_authority(self) -> None:
        """The user CA cannot make a host, nor the host CA a user."""
        for ca, identity in ((USER_CA, AGENT), (HOST_CA, ALICE)):
            forged = Authority("host" if ca is USER_CA else "user", ca.certificate, ca._key)
            self.assertRaises(AuthenticationFailed, self.check, der(pair(forged, identity=identity)))

    def test_rotation(self) -> None:
        """While an authority is rotated, both vouch."""
        both = USER_CA.certificate_pem + OTHER_USER_CA.certificate_pem
        for ca in (USER_CA, OTHER_USER_CA):
            certificate = der(pair(ca, identity=ALICE))
            self.assertEqual(peer_identity(certificate, user_ca=both, host_ca=None, now=NOW), ALICE)

    def test_usage(self) -> None:
        """A server's certificate identifies no client."""
        server = der(pair(HOST_CA, server=True, identity=AGENT))
        self.assertRaises(AuthenticationFailed, self.check, server)

    def test_time(self) -> None:
        """From 60 seconds before its making to its last second, and without a clock for ever."""
        certificate = der(CLIENT)
        for moment in (NOW - 59, NOW, NOW + 3590):
            self.check(certificate, moment)
        for moment in (NOW - 62, NOW + 3602):
            self.assertRaises(AuthenticationFailed, self.check, certificate, moment)
        self.check(certificate, None)

    def test_authority_is_over(self) -> None:
        """A certificate of an authority that has ended is worth nothing, though OpenSSL was told not to look."""
        end = USER_CA.certificate.not_valid_after_utc.timestamp()
        forever = Authority("user", OTHER_USER_CA.certificate, OTHER_USER_CA._key)
        certificate = der(pair(forever, identity=ALICE, now=end - 100, ttl=1e9))
        with self.assertRaises(AuthenticationFailed):
            peer_identity(certificate, user_ca=OTHER_USER_CA.certificate_pem, host_ca=None, now=end + 10)

    def test_nobody(self) -> None:
        self.assertRaises(AuthenticationFailed, self.check, der(pair(USER_CA)))
        for data in (b"", b"x" * 100, der(CLIENT)[:-1]):
            self.assertRaises(AuthenticationFailed, self.check, data)

    def test_flipped_bits(self) -> None:
        """No certificate with one bit changed is anybody's."""
        good = der(CLIENT)
        for index in range(len(good)):
            bad = bytearray(good)
            bad[index] ^= 1 << index % 8
            self.assertRaises(AuthenticationFailed, self.check, bytes(bad))
        self.flushWarnings()  # cryptography's, of serial numbers below zero


class LoadingTests(SynchronousTestCase):
    """Keys that are in memory only, and refusals in words."""

    def test_chain(self) -> None:
        """A chain behind the certificate is sent."""
        chain = KeyPair(SERVER.certificate_pem + HOST_CA.certificate_pem, SERVER.key_pem)
        handshake(client_context(cas=[HOST_CA.certificate_pem]), server_context(chain))

    def test_no_memory_files(self) -> None:
        """Elsewhere than on Linux a private file does, and is gone at once."""
        directory = self.mktemp()
        os.mkdir(directory)
        self.patch(tempfile, "tempdir", os.path.abspath(directory))
        self.patch(os, "memfd_create", None)
        del os.memfd_create
        self.addCleanup(setattr, os, "memfd_create", None)
        handshake(client_context(cas=[HOST_CA.certificate_pem]), server_context(SERVER))
        self.assertEqual(os.listdir(directory), [])

    def test_no_descriptors_left(self) -> None:
        server_context(SERVER)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            server_context(SERVER)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_unusable(self) -> None:
        """Wrong keys, nonsense and passphrases are refused; nobody is asked at the terminal."""
        from cryptography.hazmat.primitives import serialization

        locked = keys.new_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        for key in (CLIENT.key_pem, b"", b"nonsense", locked):
            with self.assertRaises(ConfigError) as caught:
                server_context(KeyPair(SERVER.certificate_pem, key))
            self.assertNotIn("BEGIN", str(caught.exception))
        for ca in (b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
            self.assertRaises(ConfigError, client_context, cas=[ca])

    def test_secrets_do_not_print(self) -> None:
        self.assertEqual(repr(SERVER), "KeyPair()")


class CallbackTests(SynchronousTestCase):
    """An exception in a TLS callback refuses the connection."""

    def test_none_of_ours(self) -> None:
        """There is no callback that could raise."""
        self.assertIsNone(server_context(SERVER).sni_callback)
        self.assertIsNone(client_context(cas=[]).sni_callback)
        self.assertFalse(hasattr(tls, "sni_callback"))

    def test_raising(self) -> None:
        """Somebody's who adds one refuses."""
        context = server_context(SERVER)

        def broken(*args: object) -> None:
            raise RuntimeError("as tested")

        context.sni_callback = broken
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        self.addCleanup(setattr, sys, "unraisablehook", hook)
        client = client_context(cas=[HOST_CA.certificate_pem])
        self.assertRaises(ssl.SSLError, handshake, client, context, server_hostname="db.example.com")
