"""``kind: db``, and which of them an agent takes up."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs.authority import Authority
from teleport_db.config.databases import database_resource, parse_database, selector
from teleport_db.config.model import Address, DynamicLabel
from teleport_db.config.parser import parse
from teleport_db.errors import ConfigError


def db(name: Any = "orders", metadata: Any = None, **spec: Any) -> dict[str, Any]:
    spec = {"protocol": "postgres", "uri": "orders.internal:5432", **spec}
    return {"kind": "db", "version": "v3", "metadata": {"name": name, **(metadata or {})}, "spec": spec}


class DatabaseTests(SynchronousTestCase):
    """Strictly read."""

    def test_whole(self) -> None:
        """Everything that a resource may say, and back."""
        ca = Authority.create("db", "x", now=1.8e9).certificate_pem.decode()
        resource = db(
            metadata={"description": "Orders", "labels": {"env": "prod"}},
            ca_cert=ca,
            aws={"region": "eu-central-1"},
            dynamic_labels={"version": {"command": ["pg-version", "-s"], "period": "5m"}, "load": {"command": ["l"]}},
        )
        database = parse_database(resource)
        self.assertEqual((database.name, database.uri), ("orders", Address("orders.internal", 5432)))
        self.assertEqual((database.aws.region, database.ca_cert), ("eu-central-1", ca))
        self.assertEqual(database.static_labels, {"env": "prod"})
        self.assertEqual(database.dynamic_labels["version"], DynamicLabel(("pg-version", "-s"), 300.0))
        self.assertEqual(database.dynamic_labels["load"].period, 60.0)
        self.assertEqual(parse_database(database_resource(database)), database)
        self.assertEqual(parse_database(db(tls={"mode": "verify-full", "ca_cert": ca})).ca_cert, ca)

    def test_labels_listed(self) -> None:
        """Dynamic labels may be a list, as in the configuration."""
        listed = [{"name": "v", "command": ["x"], "period": "1m"}]
        self.assertEqual(parse_database(db(dynamic_labels=listed)).dynamic_labels, {"v": DynamicLabel(("x",), 60.0)})

    def test_refused(self) -> None:
        """Each mistake at its place."""
        for resource, path in (
            (db("Orders"), "metadata.name"),
            (db(metadata={"lables": {}}), "metadata.lables"),
            (db(metadata={"labels": {"a": "x\n"}}), "metadata.labels.a"),
            (db(metadata={"expires": "2030-01-01T00:00:00Z"}), "metadata.expires"),
            (db(protocol="mysql"), "spec.protocol"),
            (db(uri="orders.internal"), "spec.uri"),
            (db(uri=None), "spec.uri"),
            (db(ca_cert="/etc/ca.pem"), "spec.ca_cert"),
            (db(tls={"mode": "insecure"}), "spec.tls.mode"),
            (db(aws={"region": "EU!"}), "spec.aws.region"),
            (db(aws={"regoin": "x"}), "spec.aws.regoin"),
            (db(dynamic_labels={"v": {}}), "spec.dynamic_labels.v.command"),
            (db(dynamic_labels={"v": {"command": ["x"], "period": "1ms"}}), "spec.dynamic_labels.v.period"),
            (db(metadata={"labels": {"v": "1"}}, dynamic_labels={"v": {"command": ["x"]}}), "spec.dynamic_labels.v"),
            ({**db(), "version": "v4"}, "version"),
        ):
            error = self.assertRaises(ConfigError, parse_database, resource)
            self.assertEqual(error.path, path)

    def test_files_of_agents(self) -> None:
        """Who registers a database cannot have an agent read its files."""
        for more in ({"ca_cert_file": "/etc/shadow"}, {"credentials": {"password_file": "/etc/shadow"}}):
            error = self.assertRaises(ConfigError, parse_database, db(**more))
            self.assertIn("the agent's configuration", str(error))


class SelectorTests(SynchronousTestCase):
    """``db_service.resources``."""

    def matching(self, *labels: dict[str, str], **wanted: str | tuple[str, ...]) -> list[bool]:
        texts = {key: (value,) if isinstance(value, str) else value for key, value in wanted.items()}
        return [selector(texts).matches(one) for one in labels]

    def test_matches(self) -> None:
        """Every label of a selector must match: literals, lists, globs, expressions."""
        prod, dev = {"env": "prod", "team": "a"}, {"env": "dev"}
        self.assertEqual(self.matching(prod, dev, env="prod"), [True, False])
        self.assertEqual(self.matching(prod, dev, env=("prod", "dev")), [True, True])
        self.assertEqual(self.matching(prod, dev, env="p*"), [True, False])
        self.assertEqual(self.matching(prod, dev, env="^p.*$"), [True, False])
        self.assertEqual(self.matching(prod, dev, env="*", team="a"), [True, False])
        self.assertEqual(self.matching(prod, {}, team="*"), [True, False])
        self.assertEqual([selector({"*": ("*",)}).matches(one) for one in (prod, {})], [True, True])
        self.assertFalse(selector({}).matches(prod))
        self.assertRaises(ValueError, selector, {"*": ("x",)})

    def config(self, *lines: str) -> str:
        return "db_service:\n  enabled: yes\n" + "".join(f"  {line}\n" for line in lines)

    def test_configured(self) -> None:
        """From the file: one value or several; nothing else beside them."""
        found = parse(self.config("resources:", "- labels: {env: prod}", "- labels: {'*': '*'}"), "t.yaml").db
        self.assertEqual([dict(labels) for labels in found.resources], [{"env": ("prod",)}, {"*": ("*",)}])
        self.assertEqual(
            (found.auth_away, found.auth_away_max_age, found.resource_commands), ("best_effort", 3600, False)
        )
        more = parse(self.config("auth_away: strict", "auth_away_max_age: 5m", "resource_commands: yes"), "t.yaml").db
        self.assertEqual((more.auth_away, more.auth_away_max_age, more.resource_commands), ("strict", 300, True))

    def test_refused(self) -> None:
        """Mistakes with their line and path."""
        for line, path in (
            ("resources: [{labels: {}}]", "db_service.resources[0].labels"),
            ("resources: [{}]", "db_service.resources[0]"),
            ("resources: [{labels: {env: '^('}}]", "db_service.resources[0].labels.env"),
            ("resources: [{lables: {env: a}}]", "db_service.resources[0].lables"),
            ("auth_away: sometimes", "db_service.auth_away"),
            ("auth_away_max_age: 5", "db_service.auth_away_max_age"),
        ):
            error = self.assertRaises(ConfigError, parse, self.config(line), "t.yaml")
            self.assertEqual((error.path, error.line), (path, 3), error)
