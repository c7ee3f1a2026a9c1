"""Identities and the extension that carries them."""

from __future__ import annotations

import json

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs import keys
from teleport_db.certs.authority import Authority
from teleport_db.errors import AuthenticationFailed, BadRequest
from teleport_db.identity import (
    IDENTITY_OID,
    MAX_IDENTITY,
    DatabaseRoute,
    Identity,
    agent_name,
    auth_name,
    from_certificate,
    proxy_name,
    to_extension,
)

NOW = 1_700_000_000.0
KEY = keys.new_key()
USER_CA = Authority.create("user", "root", now=NOW)
HOST_CA = Authority.create("host", "root", now=NOW)

ALICE = Identity("user", "alice", "root", roles=("access",), traits={"db_users": ("alice", "*")}, usage="login")
AGENT = Identity("host", "host-1", "root", roles=("db",), scope=("aurora",))


def certify(identity: Identity) -> x509.Certificate:
    ca = USER_CA if identity.kind == "user" else HOST_CA
    return ca.issue(KEY.public_key(), common_name=identity.name, now=NOW, ttl=60, server=False, identity=identity)


def forged(value: bytes) -> x509.Certificate:
    """A certificate with any bytes at all as its identity."""
    from cryptography.hazmat.primitives import hashes

    like = certify(ALICE)
    builder = (
        x509.CertificateBuilder(like.issuer, like.subject, KEY.public_key(), 1)
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
        .add_extension(x509.UnrecognizedExtension(IDENTITY_OID, value), critical=False)
    )
    return builder.sign(KEY, hashes.SHA256())


class RoundTripTests(SynchronousTestCase):
    """What goes in comes out."""

    def test_every_kind(self) -> None:
        """Users with and without a route, robots, hosts with any scope, and names in any script."""
        route = DatabaseRoute("root", "aurora", "bob", "")
        for identity in (
            ALICE,
            AGENT,
            Identity("user", "alice", "root", usage="database", route=route),
            Identity("user", "alice", "root", usage="database", route=route, mfa=True, login_expires=1_700_003_600),
            Identity("user", "рабочий\t'\"\\", "root", usage="file", traits={"логины": ("日本", "")}),
            Identity("host", "h", "root", roles=("auth", "proxy"), scope=None),
            Identity("host", "h", "root", roles=("db",), scope=()),
            Identity("host", "admin", "root", roles=("admin",)),
        ):
            self.assertEqual(from_certificate(certify(identity)), identity)

    def test_not_critical(self) -> None:
        """OpenSSL and drivers take certificates that carry it."""
        extension = certify(ALICE).extensions.get_extension_for_oid(IDENTITY_OID)
        self.assertFalse(extension.critical)
        self.assertEqual(json.loads(extension.value.value)["v"], 1)

    def test_frozen(self) -> None:
        """Nobody can widen an identity that others hold."""
        with self.assertRaises(TypeError):
            ALICE.traits["db_users"] = ("root",)
        self.assertEqual(Identity("user", "a", "c", roles=["x"]).roles, ("x",))
        self.assertEqual(len({ALICE, ALICE, AGENT}), 2)

    def test_names(self) -> None:
        """The names by which the services of a cluster know each other."""
        self.assertEqual(
            (auth_name("root"), proxy_name("root"), agent_name("1f", "root")), ("auth.root", "proxy.root", "1f.root")
        )


class RefusalTests(SynchronousTestCase):
    """What is not understood is nobody."""

    def test_absent(self) -> None:
        certificate = USER_CA.issue(KEY.public_key(), common_name="alice", now=NOW, ttl=60, server=False)
        self.assertRaises(AuthenticationFailed, from_certificate, certificate)

    def test_malformed(self) -> None:
        """Each deviation is refused as AuthenticationFailed, never as anything else."""
        good = {"v": 1, "kind": "user", "name": "alice", "cluster": "root", "usage": "login"}
        route = {"cluster": "root", "service": "a", "user": "", "database": "", "protocol": "postgres"}
        self.assertEqual(from_certificate(forged(json.dumps(good).encode())).name, "alice")
        changes = [
            {"v": 2}, {"v": None}, {"kind": "robot"}, {"kind": []}, {"name": ""}, {"name": 5}, {"name": None},
            {"name": "\ud800"}, {"cluster": ""}, {"roles": "access"}, {"roles": [1]}, {"roles": {"a": 1}},
            {"traits": []}, {"traits": {"a": "b"}}, {"traits": {"a": [None]}}, {"usage": "anything"}, {"usage": ""},
            {"usage": "database"}, {"route": route}, {"route": []}, {"usage": "database", "route": {"cluster": "x"}},
            {"usage": "database", "route": {**route, "only": "reads"}}, {"scope": []}, {"not_before": 5},
            {"kind": "host"}, {"kind": "host", "usage": "", "roles": ["root"]}, {"kind": "host", "usage": ""},
            {"kind": "host", "usage": "", "roles": ["db"], "traits": {"a": ["b"]}},
            {"kind": "host", "usage": "", "roles": ["db"], "scope": "all"},
            {"mfa": True}, {"login_expires": 5}, {"mfa": True, "login_expires": 5}, {"mfa": 1}, {"login_expires": True},
            {"usage": "database", "route": route, "mfa": True},
            {"usage": "database", "route": route, "login_expires": 5},
            {"usage": "database", "route": route, "mfa": True, "login_expires": -1},
        ]  # fmt: skip
        for change in changes:
            value = json.dumps({**good, **change}).encode()
            self.assertRaises(AuthenticationFailed, from_certificate, forged(value))
        twice = json.dumps(good)[:-1].encode() + b', "name": "root"}'
        for value in (b"", b"null", b"[]", b"5", b"{", b"\xff\xfe", b"[" * 20_000, twice, b"\0" * 10):
            self.assertRaises(AuthenticationFailed, from_certificate, forged(value))

    def test_cut_anywhere(self) -> None:
        """A value that was cut says nothing."""
        value = to_extension(ALICE).value
        for cut in range(len(value)):
            self.assertRaises(AuthenticationFailed, from_certificate, forged(value[:cut]))

    def test_too_large(self) -> None:
        """Neither written nor read."""
        large = Identity("user", "a", "root", usage="login", traits={"a": ("x" * MAX_IDENTITY,)})
        self.assertRaises(BadRequest, to_extension, large)
        self.assertRaises(AuthenticationFailed, from_certificate, forged(b" " * MAX_IDENTITY + b"{}"))

    def test_not_written(self) -> None:
        """What nobody would read is not signed either."""
        for identity in (
            Identity("user", "a", "root"),
            Identity("user", "a", "root", usage="database"),
            Identity("host", "a", "root"),
            Identity("host", "a", "root", roles=("db",), usage="login"),
            Identity("user", "", "root", usage="login"),
            Identity("user", "\ud800", "root", usage="login"),
        ):
            self.assertRaises(BadRequest, to_extension, identity)
