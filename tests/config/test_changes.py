"""What of a configuration is another, told without its secrets."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config.changes import MAX_VALUE, changes, settings
from teleport_db.config.model import (
    Address,
    Amazon,
    AmazonDiscovery,
    AuthService,
    Config,
    Database,
    DatabaseService,
    PasswordLogin,
    Secret,
    StaticToken,
    Teleport,
)

CONFIG = Config(
    teleport=Teleport(nodename="a", auth_token="secret-0"),
    auth=AuthService(
        tokens=(StaticToken(("db",), "secret-1"),),
    ),
    db=DatabaseService(
        enabled=True,
        databases=(
            Database("aurora", Address("db", 5432), aws=Amazon(external_id="secret-4")),
            Database("dev", Address("::1", 5432), credentials=PasswordLogin(Secret(file="/f"))),
        ),
        aws=(AmazonDiscovery(external_id="secret-5"),),
    ),
)


class ChangesTests(SynchronousTestCase):
    def differ(self, config: Config) -> list[tuple[str, str, str]]:
        found = changes(settings(CONFIG, b"salt"), settings(config, b"salt"))
        return [(change["key"], change["from"], change["to"]) for change in found]

    def test_keys(self) -> None:
        """By their place in the file; databases by their names."""
        self.assertEqual(self.differ(CONFIG), [])
        one, other = CONFIG.db.databases
        for config, expected in (
            (
                attrs.evolve(
                    CONFIG, auth=attrs.evolve(CONFIG.auth, audit=attrs.evolve(CONFIG.auth.audit, compress=False))
                ),
                [("auth_service.audit.compress", "yes", "no")],
            ),
            (
                attrs.evolve(
                    CONFIG, db=attrs.evolve(CONFIG.db, databases=(attrs.evolve(one, uri=Address("new", 1)), other))
                ),
                [("db_service.databases[aurora].uri", "db:5432", "new:1")],
            ),
        ):
            self.assertEqual(self.differ(config), expected)
        gone = self.differ(attrs.evolve(CONFIG, db=attrs.evolve(CONFIG.db, databases=(one,))))
        self.assertEqual({to for _, _, to in gone}, {""})
        self.assertIn(("db_service.databases[dev].uri", "[::1]:5432", ""), gone)
        self.assertIn(("db_service.databases[dev].credentials.default", "/f", ""), gone)

    def test_off(self) -> None:
        """Of a service that is off it is said that it is, and nothing more."""
        off = settings(attrs.evolve(CONFIG, db=attrs.evolve(CONFIG.db, enabled=False)), b"")
        self.assertEqual([key for key in off if key.startswith("db_service")], ["db_service.enabled"])

    def test_secrets(self) -> None:
        """None is told, nor can be guessed without the salt; that one is another shows."""
        self.assertNotIn("secret-", str(settings(CONFIG, b"salt")))
        self.assertNotEqual(settings(CONFIG, b"salt"), settings(CONFIG, b"pepper"))
        other: Any = {
            "teleport": attrs.evolve(CONFIG.teleport, auth_token="secret-9"),
            "auth": attrs.evolve(CONFIG.auth, tokens=(StaticToken(("db",), "secret-9"),)),
        }
        for name, key in (("teleport", "teleport.auth_token"), ("auth", "auth_service.tokens")):
            self.assertEqual(self.differ(attrs.evolve(CONFIG, **{name: other[name]})), [(key, "***", "***")])

    def test_long(self) -> None:
        """Of a long value the beginning is told, and what is behind is compared."""
        one, other = CONFIG.db.databases
        configs = [
            attrs.evolve(
                CONFIG, db=attrs.evolve(CONFIG.db, databases=(attrs.evolve(one, ca_cert="x" * 1000 + end), other))
            )
            for end in "ab"
        ]
        (change,) = changes(*(settings(config, b"") for config in configs))
        self.assertEqual((len(change["from"]), change["from"]), (MAX_VALUE, change["to"]))
