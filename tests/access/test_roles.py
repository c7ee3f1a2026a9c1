"""Roles as resources: what is read, written back, and refused."""

from __future__ import annotations

import copy
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.access import (
    Limits,
    Options,
    Role,
    Rule,
    allows,
    builtin_roles,
    combined_options,
    parse_role,
    role_resource,
)
from teleport_db.config import load_documents
from teleport_db.errors import ConfigError

GUIDE = """\
kind: role
version: v3
metadata:
  name: developer
spec:
  allow:
    db_labels:
      environment: ["dev", "stage"]
    db_names: ["main", "metrics", "postgres"]
    db_users: ["alice", "bob"]
"""

FULL: dict[str, Any] = {
    "kind": "role",
    "version": "v3",
    "metadata": {"name": "dba", "description": "All of it", "labels": {"team": "db"}},
    "spec": {
        "options": {
            "max_session_ttl": "8h0m0s",
            "client_idle_timeout": "1m30s",
            "disconnect_expired_cert": True,
            "require_session_mfa": True,
            "max_db_connections": 5,
            "record_session": {"default": "strict", "parameters": False},
            "source_addresses": ["10.0.0.0/8", "2001:db8::1"],
        },
        "allow": {
            "db_labels": {"*": ["*"]},
            "db_names": ["{{internal.db_names}}", 'x-{{external["a b"]}}-y', "replication"],
            "db_users": ["{{email.local(external.email)}}", "*"],
            "rules": [{"resources": ["role", "user"], "verbs": ["list", "read"]}],
        },
        "deny": {"db_labels": {"env": ["prod", "p-*", "^(a|b)$", "{{external.env}}"]}, "db_names": ["postgres"]},
    },
}

OPTIONS = Options(28800.0, 90.0, True, True, 5, "strict", False, ("10.0.0.0/8", "2001:db8::1"))


def changed(path: str, value: Any) -> dict[str, Any]:
    """FULL with one value changed."""
    resource = copy.deepcopy(FULL)
    *steps, last = path.split(".")
    at = resource
    for step in steps:
        at = at[step]
    at[last] = value
    return resource


#: What is changed, the path of the error if it is another one, and what is said.
REFUSED: list[tuple[str, Any, str, str]] = [
    ("kind", "user", "", "not known"),
    ("version", "v5", "", "v5 is not supported"),
    ("version", None, "", "is missing"),
    ("metadata.name", None, "", "is missing"),
    ("metadata.name", "a/b", "", "not a role's name"),
    ("metadata.name", "", "", "not a role's name"),
    ("metadata.nmae", "a", "", "did you mean name"),
    ("spec", [], "", "a mapping belongs here"),
    ("spec.alow", {}, "", "did you mean allow"),
    ("spec.deny.db_name", ["a"], "", "did you mean db_names"),
    ("spec.deny.db_user", ["a"], "", "did you mean db_users"),
    ("spec.deny.logins", ["root"], "", "not supported by this version"),
    ("spec.allow.db_names", [True], "spec.allow.db_names[0]", "put quotes around it"),
    ("spec.allow.db_names", ["a", ""], "spec.allow.db_names[1]", "a name is missing"),
    ("spec.allow.db_names", ["a", None], "spec.allow.db_names[1]", "not nothing"),
    ("spec.allow.db_names", {"a": "b"}, "spec.allow.db_names", "a text belongs here"),
    ("spec.allow.db_names", ["{{internal.db_names"], "spec.allow.db_names[0]", "belongs in an entry"),
    ("spec.allow.db_names", ["internal.db_names}}"], "spec.allow.db_names[0]", "belongs in an entry"),
    ("spec.allow.db_names", ["{{internal.a}}{{internal.b}}"], "spec.allow.db_names[0]", "belongs in an entry"),
    ("spec.allow.db_names", ["{{internal.team}}"], "spec.allow.db_names[0]", "external.team"),
    ("spec.allow.db_names", ["{{regexp.replace(external.a)}}"], "spec.allow.db_names[0]", "not a template"),
    ("spec.allow.db_names", ["x\ny"], "spec.allow.db_names[0]", "control characters"),
    ("spec.allow.db_names", ["a"] * 1001, "spec.allow.db_names", "too many"),
    ("spec.allow.db_labels", ["a"], "", "a mapping belongs here"),
    ("spec.allow.db_labels", {"a": []}, "spec.allow.db_labels.a", "a value is missing"),
    ("spec.allow.db_labels", {"*": "a"}, "spec.allow.db_labels.*", "takes the value"),
    ("spec.allow.db_labels", {"a b": "a"}, "spec.allow.db_labels.'a b'", "not a label's name"),
    ("spec.allow.db_labels", {1: "a"}, "spec.allow.db_labels", "put quotes around it"),
    ("spec.allow.db_labels", {"a": "^("}, "spec.allow.db_labels.a", "begins with"),
    ("spec.allow.db_labels", {"a": "^($"}, "spec.allow.db_labels.a", "not a regular expression"),
    ("spec.allow.db_labels", {"a": "^(a)\\1$"}, "spec.allow.db_labels.a", "not a regular expression"),
    ("spec.allow.db_labels", {"a": "x$"}, "spec.allow.db_labels.a", "begins with"),
    ("spec.allow.rules", [{"resources": ["rolle"], "verbs": ["read"]}], "spec.allow.rules[0].resources[0]", "role"),
    ("spec.allow.rules", [{"resources": ["role"], "verbs": ["reed"]}], "spec.allow.rules[0].verbs[0]", "read"),
    ("spec.allow.rules", [{"resources": ["role"]}], "spec.allow.rules[0].verbs", "is missing"),
    ("spec.allow.rules", [{"where": "x"}], "spec.allow.rules[0].where", "not supported"),
    ("spec.allow.rules", ["role"], "spec.allow.rules[0]", "a mapping belongs here"),
    ("spec.options.max_session_ttl", "8", "", "did you mean 8s"),
    ("spec.options.max_session_ttl", "1s", "", "too short"),
    ("spec.options.max_db_connections", -1, "", "whole number"),
    ("spec.options.max_db_connections", True, "", "whole number"),
    ("spec.options.disconnect_expired_cert", "maybe", "", "yes or no"),
    ("spec.options.record_session", "sometimes", "", "not known"),
    ("spec.options.record_session", {"parameter": "off"}, "spec.options.record_session.parameter", "parameters"),
    ("spec.options.record_session", {"parameters": "some"}, "spec.options.record_session.parameters", "yes or no"),
    ("spec.options.record_parameters", False, "", "unknown key"),
    ("spec.options.source_addresses", ["10.0.0.1/8"], "spec.options.source_addresses[0]", "the network is 10.0.0.0/8"),
    ("spec.options.source_addresses", ["10.0.0.0/33"], "spec.options.source_addresses[0]", "not a network"),
    ("spec.options.source_addresses", "example.com", "spec.options.source_addresses", "not an address or a network"),
    ("spec.options.forward_agent", True, "", "not supported"),
]


class RoleTests(SynchronousTestCase):
    """Reading and writing."""

    def test_guide(self) -> None:
        """The guide's role."""
        (document,) = load_documents(GUIDE, "role.yaml")
        role = parse_role(document.value)
        self.assertEqual((role.name, role.allow.db_names), ("developer", ("main", "metrics", "postgres")))
        self.assertEqual(dict(role.allow.db_labels), {"environment": ("dev", "stage")})
        self.assertEqual(role_resource(role), document.value)

    def test_round_trip(self) -> None:
        """A role of every kind of field becomes its resource again."""
        self.assertEqual(role_resource(parse_role(FULL)), FULL)
        for role in builtin_roles().values():
            self.assertEqual(parse_role(role_resource(role)), role)
        self.assertEqual(parse_role(FULL).options, OPTIONS)

    def test_short_forms(self) -> None:
        """One value stands for a list of one; what the store adds is no part of a role."""
        resource: dict[str, Any] = {
            "kind": "role",
            "version": "v3",
            "metadata": {"name": "a", "revision": 4, "expires": "2030-01-01T00:00:00Z", "namespace": "default"},
            "spec": {"allow": {"db_labels": {"port": 5432}, "db_names": "a", "db_users": None}, "deny": None},
        }
        role = parse_role(resource)
        self.assertEqual((dict(role.allow.db_labels), role.allow.db_names), ({"port": ("5432",)}, ("a",)))
        self.assertEqual(role.allow.db_users, ())

    def test_record_session(self) -> None:
        """In short or in parts; parameters are recorded unless a role says off."""
        table: list[tuple[Any, str, bool]] = [
            (None, "", True),
            ("strict", "strict", True),
            ({"default": "best_effort"}, "best_effort", True),
            ({"parameters": "off"}, "", False),
            ({"default": "strict", "parameters": True}, "strict", True),
        ]
        for given, default, parameters in table:
            role = parse_role(changed("spec.options.record_session", given))
            self.assertEqual((role.options.record_session, role.options.record_parameters), (default, parameters))
            self.assertEqual(parse_role(role_resource(role)), role)

    def test_replication(self) -> None:
        """The word itself says it, and nothing that might stand for it."""
        for names, expected in ((["replication"], True), (["*", "{{external.x}}"], False), (["Replication"], False)):
            self.assertEqual(parse_role(changed("spec.allow.db_names", names)).allow.replication, expected)

    def test_refused(self) -> None:
        """The table above: each with its path and the file."""
        for path, value, where, message in REFUSED:
            error = self.assertRaises(ConfigError, parse_role, changed(path, value), "r.yaml")
            self.assertEqual((error.source, error.path), ("r.yaml", where or path), str(error))
            self.assertIn(message, error.message)
            self.assertNotIn("\n", str(error))

    def test_place(self) -> None:
        """From a file of several documents: its line and column in the file."""
        table = [
            ("db_names: [main", "db_nmes: [main", "18:5: spec.allow.db_nmes: unknown key (did you mean db_names?)"),
            ("[main, x]", "[main, yes]", "18:22: spec.allow.db_names[1]: a text belongs here, not bool"),
            ("env: dev", "env: ^(", "17:22: spec.allow.db_labels.env: '^(': a regular expression begins with ^"),
            ("metadata: {name: b}", "metadata: {}", "14:11: metadata.name: is missing"),
            ("version: v3\nmetadata: {name: b", "metadata: {name: b", "12:1: version: is missing"),
            ("options: {max_session_ttl: 8h}", "options: 8", "19:12: spec.options: a mapping belongs here"),
            ("allow:", "alow:", "16:3: spec.alow: unknown key (did you mean allow?)"),
        ]
        second = (
            "kind: role\nversion: v3\nmetadata: {name: b}\nspec:\n  allow:\n    db_labels: {env: dev}\n"
            "    db_names: [main, x]\n  options: {max_session_ttl: 8h}\n"
        )
        for old, new, expected in table:
            text = f"{GUIDE}---\n{second.replace(old, new, 1)}"
            document = load_documents(text, "r.yaml")[1]
            error = self.assertRaises(ConfigError, parse_role, document.node)
            self.assertTrue(str(error).startswith(f"r.yaml:{expected}"), str(error))
            self.assertRaises(ConfigError, parse_role, document.value)
        good = load_documents(f"{GUIDE}---\n{second}", "r.yaml")[1]
        self.assertEqual(parse_role(good.node), parse_role(good.value))

    def test_not_a_mapping(self) -> None:
        """Anything at all may be sent."""
        values: list[Any] = [None, [], "role", 1, {}, {"kind": []}]
        for value in values:
            self.assertRaises(ConfigError, parse_role, value)


class RuleTests(SynchronousTestCase):
    """What may be done with the cluster's resources."""

    def test_builtin(self) -> None:
        """access has none, editor and admin all, auditor reads the audit log."""
        roles = builtin_roles()
        self.assertEqual(list(roles), ["access", "editor", "auditor", "admin"])
        table = [
            ("access", "user", "list", False),
            ("access", "event", "read", False),
            ("editor", "user", "delete", True),
            ("editor", "event", "list", True),
            ("auditor", "event", "list", True),
            ("auditor", "session", "read", True),
            ("auditor", "event", "update", False),
            ("auditor", "user", "read", False),
            ("admin", "role", "create", True),
        ]
        for name, kind, verb, expected in table:
            self.assertEqual(allows([roles[name]], kind, verb), expected, (name, kind, verb))
        self.assertEqual(roles["editor"].allow.db_labels, {})
        self.assertEqual(roles["admin"].allow.db_names, roles["access"].allow.db_names)

    def test_deny(self) -> None:
        """Deny beats allow, whichever role says it."""
        denying = changed("spec.deny.rules", [{"resources": ["role"], "verbs": ["*"]}])
        roles = [builtin_roles()["editor"], parse_role(denying)]
        self.assertFalse(allows(roles, "role", "read"))
        self.assertTrue(allows(roles, "user", "read"))
        self.assertFalse(allows([], "user", "read"))

    def test_read_without_secrets(self) -> None:
        """Who may read may read less; not the other way round."""
        self.assertTrue(Rule(("user",), ("read",)).matches("user", "readnosecrets"))
        self.assertFalse(Rule(("user",), ("readnosecrets",)).matches("user", "read"))


class OptionTests(SynchronousTestCase):
    """Options of several roles."""

    def test_strictest(self) -> None:
        """Each option is the strictest of those that say something."""
        self.assertEqual(combined_options([]), Limits())
        one, other = parse_role(FULL), builtin_roles()["access"]
        names = {field.name for field in attrs.fields(Options)} - {"source_addresses"}
        values = {name: getattr(one.options, name) for name in names}
        limits = Limits(**values, set_by=dict.fromkeys(names, "dba"))
        self.assertEqual(combined_options([one, other]), limits)
        third = attrs.evolve(
            parse_role(changed("spec.options", {"max_session_ttl": "1h", "max_db_connections": 9})), name="x"
        )
        both = combined_options([one, third, other])
        self.assertEqual(
            both, attrs.evolve(limits, max_session_ttl=3600.0, set_by={**limits.set_by, "max_session_ttl": "x"})
        )

    def test_whose(self) -> None:
        """Each knows the role it is of, the first of those that are as strict; a cluster's own has no name."""
        roles = [
            Role("a", options=Options(client_idle_timeout=60.0)),
            Role("b", options=Options(client_idle_timeout=60.0, max_db_connections=1, record_session="best_effort")),
            Role("", options=Options(disconnect_expired_cert=True)),
            Role("c", options=Options(record_session="strict", record_parameters=False)),
        ]
        limits = combined_options(roles)
        table = {
            "client_idle_timeout": 'role "a"',
            "max_db_connections": 'role "b"',
            "disconnect_expired_cert": "this cluster",
            "record_session": 'role "c"',
            "record_parameters": 'role "c"',
        }
        self.assertEqual({name: limits.whose(name) for name in limits.set_by}, table)
