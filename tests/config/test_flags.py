"""The flags of ``teleport start``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config import Address, Config, Flags, check, from_flags, merge, parse
from teleport_db.errors import ConfigError

FILE = """\
teleport: {nodename: filed, data_dir: /file, auth_token: filed, auth_servers: ["f:3080"]}
auth_service: {enabled: no, cluster_name: filed}
proxy_service: {enabled: no}
db_service:
  enabled: yes
  databases:
  - {name: one, protocol: postgres, uri: "one:5432", labels: {a: b}}
  - {name: two, protocol: postgres, uri: "two:5432"}
"""

REFUSED = [
    (Flags(roles="db,prxy"), "--roles", "did you mean proxy"),
    (Flags(roles="node"), "--roles", "not part of this system"),
    (Flags(roles="app"), "--roles", "not supported"),
    (Flags(auth_servers=("a:0",)), "--auth-server", "port"),
    (Flags(ca_pins=("sha256:1",)), "--ca-pin", "not a CA pin"),
    (Flags(nodename="a b"), "--nodename", "not a host"),
    (Flags(db_uri="db:5432"), "--db-uri", "--db-name is missing"),
    (Flags(labels="a=b"), "--labels", "--db-name is missing"),
    (Flags(db_name="one"), "--db-name", "--db-uri is missing"),
    (Flags(db_name="One", db_uri="db:1"), "--db-name", "not a name"),
    (Flags(db_name="one", db_uri="db"), "--db-uri", "port is missing"),
    (Flags(db_name="one", db_uri="db:1", db_protocol="mysql"), "--db-protocol", "not supported"),
    (Flags(db_name="one", db_uri="db:1", labels="a"), "--labels", "key=value"),
]


class FlagTests(SynchronousTestCase):
    """Flags over the file."""

    def test_nothing(self) -> None:
        """No flag changes nothing."""
        config = parse(FILE, "")
        self.assertEqual(merge(config, Flags()), config)
        self.assertEqual(from_flags(Flags()), Config())

    def test_guide_single_process(self) -> None:
        """The getting-started command."""
        config = from_flags(
            Flags(
                roles="proxy,auth,db",
                db_name="aurora",
                db_protocol="postgres",
                db_uri="postgres-aurora-instance-1.abcdefghijklm.us-west-1.rds.amazonaws.com:5432",
                db_aws_region="us-west-1",
            )
        )
        check(config)
        self.assertTrue(config.auth.enabled and config.proxy.enabled and config.db.enabled)
        self.assertEqual(config.db.databases[0].aws.region, "us-west-1")

    def test_guide_agent(self) -> None:
        """The database service with flags alone."""
        config = from_flags(
            Flags(
                debug=True,
                roles="db",
                token="cbdeeab9",
                auth_servers=("teleport.example.com:3080", "b,c:1"),
                db_name="test",
                db_uri="db.example.com:5432",
                labels="env=test,up=[1m:/bin/uptime]",
            )
        )
        check(config)
        self.assertFalse(config.auth.enabled or config.proxy.enabled)
        self.assertEqual(config.teleport.auth_token, "cbdeeab9")
        expected = (Address("teleport.example.com", 3080), Address("b", 3025), Address("c", 1))
        self.assertEqual(config.teleport.auth_servers, expected)
        self.assertEqual((config.debug, config.teleport.log.severity), (True, "debug"))
        (database,) = config.db.databases
        self.assertEqual(database.uri, Address("db.example.com", 5432))
        self.assertEqual((dict(database.static_labels), list(database.dynamic_labels)), ({"env": "test"}, ["up"]))

    def test_over_the_file(self) -> None:
        """A flag wins; what no flag names stays."""
        config = merge(
            parse(FILE, ""),
            Flags(nodename="n", token="/t", cluster_name="c", pid_file="/p", diag_addr=":3000", insecure=True),
        )
        shared = config.teleport
        self.assertEqual((shared.nodename, shared.data_dir, shared.auth_token), ("n", "/file", "/t"))
        self.assertEqual((shared.pid_file, shared.diag_addr), ("/p", Address("0.0.0.0", 3000)))
        self.assertEqual((config.auth.cluster_name, config.insecure), ("c", True))
        self.assertEqual(shared.auth_servers, (Address("f", 3080),))

    def test_database_joins_the_file(self) -> None:
        """Another one is added, one of the same name replaced."""
        config = merge(parse(FILE, ""), Flags(db_name="three", db_uri="x:1"))
        self.assertEqual([one.name for one in config.db.databases], ["one", "two", "three"])
        config = merge(parse(FILE, ""), Flags(db_name="one", db_uri="x:1"))
        self.assertEqual({one.name: str(one.uri) for one in config.db.databases}, {"one": "x:1", "two": "two:5432"})
        self.assertTrue(from_flags(Flags(db_name="one", db_uri="x:1")).db.enabled)

    def test_refused(self) -> None:
        """Each refusal names its flag."""
        for flags, source, message in REFUSED:
            error = self.assertRaises(ConfigError, from_flags, flags)
            self.assertEqual(error.source, source)
            self.assertIn(message, error.message)

    def test_token_does_not_print(self) -> None:
        """Not in the repr of the flags, not in the error."""
        flags = Flags(token="hu sh")
        self.assertNotIn("hu sh", repr(flags))
        self.assertNotIn("hu sh", str(self.assertRaises(ConfigError, from_flags, flags)))
