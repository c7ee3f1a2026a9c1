"""Decisions: a table of cases, and the texts that explain them."""

from __future__ import annotations

import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.access import Role, allowed_names, builtin_roles, check_session, expand, parse_role, visible

TRAITS = {
    "db_names": ("main", "metrics"),
    "db_users": ("alice",),
    "email": ("carol@example.com", "broken", "a@b@c", "<x>@y"),
    "star": ("*",),
    "glob": ("de*",),
    "regex": ("^.*$",),
    "empty": ("",),
    "team": ("red", "blue"),
    "a b": ("blank",),
}
DEV = {"environment": "dev", "region": "eu-1"}


def role(allow: dict[str, Any] | None = None, deny: dict[str, Any] | None = None, name: str = "r") -> Role:
    """A role; blocks by the short names l, n, u."""
    keys = {"l": "db_labels", "n": "db_names", "u": "db_users"}
    spec = {
        block: {keys[key]: value for key, value in values.items()}
        for block, values in (("allow", allow or {}), ("deny", deny or {}))
    }
    return parse_role({"kind": "role", "version": "v3", "metadata": {"name": name}, "spec": spec})


ALL = {"l": {"*": "*"}, "n": ["*"], "u": ["*"]}
GUIDE = role(
    {"l": {"environment": ["dev", "prod"]}, "n": ["*"], "u": ["*"]},
    {"l": {"environment": ["dev", "prod"]}, "n": ["postgres"], "u": ["postgres"]},
)

#: Roles, user, name, and whether a session is allowed on DEV.
CASES: list[tuple[str, list[Role], str, str, bool]] = [
    ("no roles", [], "a", "m", False),
    ("everything", [role(ALL)], "a", "m", True),
    ("empty selectors", [role()], "a", "m", False),
    ("no labels", [role({"n": ["*"], "u": ["*"]})], "a", "m", False),
    ("no names", [role({"l": {"*": "*"}, "u": ["*"]})], "a", "m", False),
    ("no users", [role({"l": {"*": "*"}, "n": ["*"]})], "a", "m", False),
    ("guide", [GUIDE], "alice", "main", True),
    ("guide, database", [GUIDE], "alice", "postgres", False),
    ("guide, user", [GUIDE], "postgres", "main", False),
    ("two halves", [role({**ALL, "u": ["a"], "n": ["x"]}), role({**ALL, "u": ["b"], "n": ["m"]})], "a", "m", False),
    ("exact", [role({**ALL, "u": ["alice"]})], "alice", "m", True),
    ("case", [role({**ALL, "u": ["alice"]})], "Alice", "m", False),
    ("names are no globs", [role({**ALL, "n": ["m*"]})], "a", "main", False),
    ("nor regexes", [role({**ALL, "n": ["^m.*$"]})], "a", "main", False),
    ("label literal", [role({**ALL, "l": {"environment": "dev"}})], "a", "m", True),
    ("label other", [role({**ALL, "l": {"environment": "prod"}})], "a", "m", False),
    ("label case", [role({**ALL, "l": {"environment": "Dev"}})], "a", "m", False),
    ("label absent", [role({**ALL, "l": {"team": "*"}})], "a", "m", False),
    ("label any", [role({**ALL, "l": {"environment": "*"}})], "a", "m", True),
    ("all labels needed", [role({**ALL, "l": {"environment": "dev", "region": "us-1"}})], "a", "m", False),
    ("all labels there", [role({**ALL, "l": {"environment": "dev", "region": ["us-1", "eu-1"]}})], "a", "m", True),
    ("glob", [role({**ALL, "l": {"region": "eu-*"}})], "a", "m", True),
    ("glob is whole", [role({**ALL, "l": {"region": "u-*"}})], "a", "m", False),
    ("glob's dot", [role({**ALL, "l": {"region": "e.-*"}})], "a", "m", False),
    ("regex", [role({**ALL, "l": {"region": "^eu-[0-9]$"}})], "a", "m", True),
    ("regex is whole", [role({**ALL, "l": {"region": "^u-1|x$"}})], "a", "m", False),
    ("regex alternation", [role({**ALL, "l": {"region": "^eu|zz$"}})], "a", "m", False),
    ("deny labels alone", [role(ALL, {"l": {"environment": "dev"}})], "a", "m", False),
    ("deny other labels", [role(ALL, {"l": {"environment": "prod"}})], "a", "m", True),
    ("deny name", [role(ALL, {"n": ["m"]})], "a", "m", False),
    ("deny other name", [role(ALL, {"n": ["x"]})], "a", "m", True),
    ("deny user", [role(ALL, {"u": ["a"]})], "a", "m", False),
    ("deny user or name", [role(ALL, {"u": ["a"], "n": ["x"]})], "a", "m", False),
    ("deny out of scope", [role(ALL, {"l": {"environment": "prod"}, "n": ["m"]})], "a", "m", True),
    ("deny in scope", [role(ALL, {"l": {"environment": "d*"}, "n": ["m"]})], "a", "m", False),
    ("deny wildcard", [role(ALL, {"u": ["*"]})], "a", "m", False),
    ("deny of another role", [role(ALL), role(None, {"u": ["a"]})], "a", "m", False),
    ("deny of a missing trait", [role(ALL, {"n": ["{{external.none}}"]})], "a", "m", True),
    (
        "deny labels and a missing trait",
        [role(ALL, {"l": {"environment": "dev"}, "n": ["{{external.none}}"]})],
        "a",
        "m",
        True,
    ),
    ("deny a trait", [role(ALL, {"n": ["{{internal.db_names}}"]})], "a", "main", False),
    ("trait", [role({**ALL, "n": ["{{internal.db_names}}"]})], "a", "main", True),
    ("trait, other", [role({**ALL, "n": ["{{internal.db_names}}"]})], "a", "x", False),
    ("external sees every trait", [role({**ALL, "n": ["{{external.db_names}}"]})], "a", "main", True),
    ("trait missing", [role({**ALL, "n": ["{{external.none}}"]})], "a", "", False),
    ("trait missing, another entry", [role({**ALL, "n": ["{{external.none}}", "m"]})], "a", "m", True),
    ("trait empty", [role({**ALL, "n": ["{{external.empty}}"]})], "a", "", False),
    ("prefix and suffix", [role({**ALL, "n": ["p-{{external.team}}_s"]})], "a", "p-blue_s", True),
    ("prefix needed", [role({**ALL, "n": ["p-{{external.team}}_s"]})], "a", "blue", False),
    ("brackets", [role({**ALL, "n": ['{{external["a b"]}}']})], "a", "blank", True),
    ("blanks", [role({**ALL, "n": ["{{ external.team }}"]})], "a", "red", True),
    ("email", [role({**ALL, "u": ["{{email.local(external.email)}}"]})], "carol", "m", True),
    ("email, broken", [role({**ALL, "u": ["{{email.local(external.email)}}"]})], "broken", "m", False),
    ("email, two signs", [role({**ALL, "u": ["{{email.local(external.email)}}"]})], "a", "m", False),
    ("external star", [role({**ALL, "n": ["{{external.star}}"]})], "a", "m", False),
    ("external star is a literal", [role({**ALL, "n": ["{{external.star}}"]})], "a", "*", True),
    ("label trait", [role({**ALL, "l": {"environment": "{{external.env}}"}})], "a", "m", False),
    ("label trait is no glob", [role({**ALL, "l": {"environment": "{{external.glob}}"}})], "a", "m", False),
    ("label trait is no regex", [role({**ALL, "l": {"environment": "{{external.regex}}"}})], "a", "m", False),
    ("label trait is no star", [role({**ALL, "l": {"environment": "{{external.star}}"}})], "a", "m", False),
]


class DecisionTests(SynchronousTestCase):
    """Allowed or not."""

    def test_cases(self) -> None:
        """The table above; a refusal has one line, and everything has a reason."""
        for title, roles, user, name, expected in CASES:
            decision = check_session(roles, TRAITS, service="aurora", labels=DEV, db_user=user, db_name=name)
            self.assertEqual(decision.allowed, expected, title)
            self.assertEqual(decision.public == "", expected, title)
            self.assertTrue(decision.reasons, title)
            self.assertNotIn("\n", decision.public)

    def test_administrators_wildcard(self) -> None:
        """``tctl users add --db-names='*'`` means any name, through an internal template of its own only."""
        traits = {"db_names": ("*",), "db_users": ("alice",)}
        access = builtin_roles()["access"]

        def allowed(one: Role) -> bool:
            return check_session([one], traits, service="s", labels={}, db_user="alice", db_name="any").allowed

        self.assertTrue(allowed(access))
        self.assertFalse(allowed(role({**ALL, "n": ["{{external.db_names}}"]})))
        self.assertFalse(allowed(role({**ALL, "n": ["an{{internal.db_names}}"]})))
        self.assertEqual(allowed_names([access], traits, {}), (("alice",), ("*",)))

    def test_time_of_a_regex(self) -> None:
        """An expression that takes others for ever takes no time."""
        one = role({**ALL, "l": {"a": "^(a+)+b$"}})
        began = time.monotonic()
        labels = {"a": "a" * 1000 + "!"}
        self.assertFalse(check_session([one], {}, service="s", labels=labels, db_user="a", db_name="m").allowed)
        self.assertLess(time.monotonic() - began, 1)

    def test_strange_text(self) -> None:
        """Half a character in a label or a name is no way to an exception."""
        one = role({**ALL, "l": {"a": "x*"}})
        decision = check_session([one], {}, service="s", labels={"a": "x\ud800"}, db_user="\ud800", db_name="\n")
        self.assertTrue(decision.allowed)

    def test_expanded(self) -> None:
        """What a role is for one user."""
        expanded = expand(builtin_roles()["access"], TRAITS)
        self.assertEqual(expanded.allow.names.literals, {"main", "metrics"})
        self.assertEqual(expanded.allow.users.literals, {"alice"})


class TextTests(SynchronousTestCase):
    """What the user reads."""

    def public(self, roles: list[Role], user: str = "bob", name: str = "main") -> str:
        return check_session(roles, TRAITS, service="aurora", labels=DEV, db_user=user, db_name=name).public

    def test_says_which(self) -> None:
        """Labels, user or name: the one that is missing is named, and what to ask for."""
        start = 'access to db "aurora" as user "bob" denied: '
        user = role({**ALL, "u": ["alice"]})
        name = role({**ALL, "n": ["other"]})
        ask = "; ask an administrator for a role with "
        table = [
            ([], 'no role of yours allows database service "aurora"' + ask + "db_labels that match it"),
            ([user], 'no role of yours allows database user "bob"' + ask + "it in db_users"),
            ([name], 'no role of yours allows database "main"' + ask + "it in db_names"),
            ([user, name], 'no single role of yours allows database user "bob" together with database "main"'),
            (
                [role({**ALL, "u": ["x"], "n": ["x"]})],
                'no role of yours allows database user "bob", nor database "main"',
            ),
            ([role(ALL, {"u": ["bob"]}, name="no")], 'role "no" denies database user "bob"'),
            ([role(ALL, {"n": ["main"]}, name="no")], 'role "no" denies database "main"'),
            ([role(ALL, {"l": {"environment": "*"}}, name="no")], 'role "no" denies database service "aurora"'),
        ]
        for roles, expected in table:
            self.assertTrue(self.public(roles).startswith(start + expected), self.public(roles))

    def test_one_line(self) -> None:
        """A name that a client made up cannot forge a line, nor fill one."""
        text = self.public([role({**ALL, "u": ["x"]})], user='a\n"b' + "c" * 500)
        self.assertIn('"a??bccc', text)
        self.assertLess(len(text), 400)

    def test_reasons(self) -> None:
        """The audit log learns of every role."""
        roles = [role({**ALL, "u": ["a"]}, name="one"), role({**ALL, "l": {"x": "y"}}, name="two")]
        decision = check_session(roles, {}, service="s", labels=DEV, db_user="b", db_name="m")
        self.assertEqual(len(decision.reasons), 3)
        self.assertEqual(decision.reasons[1], 'role "one": database user "b" is not in it')
        self.assertEqual(decision.reasons[2], 'role "two": labels do not match')
        decision = check_session([role(ALL, name="x")], {}, service="s", labels=DEV, db_user="b", db_name="m")
        self.assertEqual(decision.reasons, ('role "x" allows it',))


class ListingTests(SynchronousTestCase):
    """What `tsh db ls` shows."""

    def test_visible(self) -> None:
        """Hidden when no role allows it, or when it is denied outright."""
        table = [
            ([], False),
            ([role(ALL)], True),
            ([role({**ALL, "l": {"environment": "prod"}})], False),
            ([role(ALL, {"n": ["postgres"]})], True),
            ([GUIDE], True),
            ([role(ALL, {"l": {"environment": "dev"}})], False),
            ([role(ALL, {"l": {"environment": "prod"}})], True),
            ([role(ALL, {"n": ["*"]})], False),
            ([role(ALL, {"u": ["*"]})], False),
            ([role(ALL, {"l": {"environment": "prod"}, "u": ["*"]})], True),
            ([role(ALL), role(None, {"l": {"*": "*"}})], False),
        ]
        for roles, expected in table:
            self.assertEqual(visible(roles, TRAITS, DEV), expected, roles)

    def test_allowed_names(self) -> None:
        """What may be asked for, without what is denied."""
        one = role({**ALL, "u": ["b", "a"], "n": ["{{internal.db_names}}"]}, {"u": ["b"]})
        self.assertEqual(allowed_names([one], TRAITS, DEV), (("a",), ("main", "metrics")))
        self.assertEqual(allowed_names([one, GUIDE], TRAITS, DEV), (("*", "a"), ("*", "main", "metrics")))
        self.assertEqual(allowed_names([one], TRAITS | {"db_names": ()}, DEV), (("a",), ()))
        self.assertEqual(allowed_names([role({**ALL, "l": {"x": "y"}})], TRAITS, DEV), ((), ()))
