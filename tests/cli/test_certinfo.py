"""The small reader of certificates, against the library that made them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs import keys
from teleport_db.certs.authority import Authority
from teleport_db.cli.certinfo import blocks, der, read_certificate
from teleport_db.errors import AuthenticationFailed
from teleport_db.identity import DatabaseRoute, Identity

NOW = 1_800_000_000.0


def issued(identity: Identity, *, ttl: float = 3600, now: float = NOW) -> tuple[str, keys.PrivateKey]:
    authority = Authority.create("user" if identity.kind == "user" else "host", identity.cluster, now=NOW)
    key = keys.new_key()
    certificate = authority.issue(
        key.public_key(), common_name=identity.name[:64], now=now, ttl=ttl, server=False, identity=identity
    )
    return keys.pem(certificate).decode(), key


class ReadTests(SynchronousTestCase):
    """It sees what was put in."""

    def test_login(self) -> None:
        """The name, the cluster, the roles, the end and the key."""
        identity = Identity(kind="user", name="alice", cluster="root", roles=("a", "b"), usage="login")
        text, key = issued(identity)
        info = read_certificate(text, "it")
        self.assertEqual((info.name, info.cluster, info.roles, info.route), ("alice", "root", ["a", "b"], {}))
        self.assertEqual(info.not_after, NOW + 3600)
        self.assertEqual(info.public_key, keys.public_pem(key).decode())

    def test_route(self) -> None:
        """A database's certificate has its route."""
        route = DatabaseRoute("root", "aurora", "bob", "")
        text, _ = issued(Identity(kind="user", name="alice", cluster="root", usage="database", route=route))
        info = read_certificate(text, "it")
        self.assertEqual((info.route["service"], info.route["user"], info.route["database"]), ("aurora", "bob", ""))

    def test_long_identity(self) -> None:
        """Lengths of more than one byte, and names in any script."""
        traits = {"db_names": tuple(f"дб-{number}" for number in range(2000))}
        text, _ = issued(Identity(kind="user", name="ålice", cluster="root", traits=traits, usage="login"))
        info = read_certificate(text, "it")
        self.assertEqual(info.identity["traits"]["db_names"][-1], "дб-1999")
        self.assertEqual(info.name, "ålice")

    def test_after_2049(self) -> None:
        """GeneralizedTime begins in 2050."""
        text, _ = issued(Identity(kind="user", name="a", cluster="r", usage="login"), ttl=9 * 365 * 86400)
        self.assertLess(read_certificate(text, "it").not_after, NOW + 9 * 365 * 86400 + 1)
        authority = Authority.create("user", "r", now=2_524_607_000)
        key = keys.new_key()
        identity = Identity(kind="user", name="a", cluster="r", usage="login")
        made = authority.issue(
            key.public_key(), common_name="a", now=2_524_608_100, ttl=100_000, server=False, identity=identity
        )
        self.assertEqual(read_certificate(keys.pem(made).decode(), "it").not_after, 2_524_708_100)

    def test_refused(self) -> None:
        """What is no certificate of a cluster is an AuthenticationFailed that names the file."""
        authority = Authority.create("host", "root", now=NOW).certificate_pem.decode()
        for text in ("", "x", authority, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"):
            with self.assertRaises(AuthenticationFailed) as raised:
                read_certificate(text, "file.pem")
            self.assertIn("file.pem", str(raised.exception))

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_damaged(self, data: st.DataObject) -> None:
        """Damage is refused or read, and nothing else happens."""
        import base64

        raw = bytearray(self.raw())
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
        for body in (bytes(raw), cut):
            text = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(body).decode()}\n-----END CERTIFICATE-----\n"
            try:
                info = read_certificate(text, "it")
            except AuthenticationFailed:
                continue
            self.assertIsInstance(info.name, str)
            self.assertIsInstance(info.roles, list)

    _raw: bytes = b""

    def raw(self) -> bytes:
        if not self._raw:
            text, _ = issued(Identity(kind="user", name="alice", cluster="root", usage="login"))
            type(self)._raw = der(blocks(text, "CERTIFICATE")[0])
        return self._raw


class BlockTests(SynchronousTestCase):
    """PEM blocks in a file of several."""

    def test_blocks(self) -> None:
        """Each kind by itself, comments aside."""
        text = "# proxy: x\n-----BEGIN A-----\nYQ==\n-----END A-----\n-----BEGIN B-----\nYg==\n-----END B-----\n"
        self.assertEqual(list(map(der, blocks(text, "A") + blocks(text, "B"))), [b"a", b"b"])
        self.assertEqual(blocks(text, "C"), [])
        self.assertEqual(blocks("-----BEGIN A-----\nYQ==\n", "A"), [])
