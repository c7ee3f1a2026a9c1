"""Decisions: a table of cases, and the texts that explain them."""

from __future__ import annotations

import time
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.access import (
    LOGICAL,
    PHYSICAL,
    Decision,
    Options,
    Role,
    allowed_names,
    builtin_roles,
    check_session,
    expand,
    parse_role,
    visible,
)

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

    def test_security_row_15_literals(self) -> None:
        """Whatever a trait has in it, it is that text and no other, in every place of a role."""
        for value in ("*", "de*", "^.*$", "^dev$", ".*", "{{internal.db_names}}", "replication"):
            traits = {"t": (value,), "db_users": (value,)}
            for template in ("{{external.t}}", "{{external.db_users}}"):
                one = role({"l": {"environment": template}, "n": [template], "u": [template]})

                def allowed(label: str, user: str, name: str, one: Role = one, traits: Any = traits) -> bool:
                    labels = {"environment": label}
                    return check_session([one], traits, service="s", labels=labels, db_user=user, db_name=name).allowed

                self.assertTrue(allowed(value, value, value), value)
                for asked in (("dev", value, value), (value, "dev", value), (value, value, "dev")):
                    self.assertFalse(allowed(*asked), value)

    def test_security_row_15_anchored(self) -> None:
        """An administrator's expression is of the whole label, whatever it begins and ends with."""
        for expression, inside, outside in (
            ("^a|b$", ("a", "b"), ("ab", "ax", "xb", "")),
            ("^prod$", ("prod",), ("prod\n", "nonprod", "Prod")),
            ("^(a|b)$|^c$", ("a", "c"), ("ac", "ca")),
            ("^.*$", ("", "a\nb"), ()),
        ):
            one = role({**ALL, "l": {"k": expression}})
            for label in inside + outside:
                self.assertEqual(visible([one], {}, {"k": label}), label in inside, (expression, label))

    def test_security_row_15_time_of_a_regex(self) -> None:
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
        """Labels, user or name: what is missing is named, the role that might have it, and what to ask for."""
        start = 'access to db "aurora" as user "bob" denied: '
        user = role({**ALL, "u": ["alice"]}, name="one")
        name = role({**ALL, "n": ["other"]}, name="two")
        neither = role({**ALL, "u": ["x"], "n": ["x"]}, name="one")
        elsewhere = role({**ALL, "l": {"environment": "prod"}}, name="far")
        ask = "; ask an administrator for "
        table = [
            ([], 'you have no role that allows database service "aurora"' + ask + "a role whose db_labels match it"),
            (
                [elsewhere],
                'none of your roles ("far") allows database service "aurora"' + ask + "a role whose db_labels match it",
            ),
            ([user], 'role "one" does not allow database user "bob"' + ask + '"bob" in db_users of it'),
            ([elsewhere, name], 'role "two" does not allow database "main"' + ask + '"main" in db_names of it'),
            (
                [user, name],
                'no single role of yours allows database user "bob" together with database "main"'
                + ask
                + "one role with all of it",
            ),
            (
                [neither],
                'role "one" does not allow database user "bob", nor database "main"'
                + ask
                + '"bob" in db_users and "main" in db_names of it',
            ),
            (
                [neither, name],
                'your roles "one", "two" do not allow database "main"' + ask + '"main" in db_names of one of them',
            ),
            ([role(ALL, {"u": ["bob"]}, name="no")], 'role "no" denies database user "bob"'),
            ([role(ALL, {"n": ["main"]}, name="no")], 'role "no" denies database "main"'),
            ([role(ALL, {"l": {"environment": "*"}}, name="no")], 'role "no" denies database service "aurora"'),
        ]
        for roles, expected in table:
            self.assertEqual(self.public(roles), start + expected)

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
        self.assertEqual(decision.reasons[2], 'role "two": labels do not match (x is missing)')
        decision = check_session([role(ALL, name="x")], {}, service="s", labels=DEV, db_user="b", db_name="m")
        self.assertEqual(decision.reasons, ('role "x" allows it',))

    def test_lacks(self) -> None:
        """What a role does not have, down to the label."""
        table = [
            (
                role({"l": {"environment": "prod", "team": "*", "region": "eu-*"}, "n": ["m"], "u": ["b"]}),
                'labels do not match (environment is "dev", team is missing)',
            ),
            (role({"n": ["m"], "u": ["b"]}), "it has no db_labels"),
            (role({"n": ["x"], "u": ["b"]}), 'it has no db_labels, database "m" is not in it'),
            (role(None, {"u": ["x"]}), "it allows no databases"),
        ]
        for one, expected in table:
            (say,) = check_session([one], {}, service="s", labels=DEV, db_user="b", db_name="m").says
            self.assertEqual(", ".join(say.lacks), expected)

    def test_says(self) -> None:
        """Each role's say, in the order of the roles, whatever the decision is."""
        roles = [
            role(ALL, name="yes"),
            role({**ALL, "l": {"x": "y"}}, name="far"),
            role(ALL, {"n": ["m"], "u": ["b"]}, name="no"),
        ]
        decision = check_session(roles, {}, service="s", labels=DEV, db_user="b", db_name="m")
        self.assertEqual(
            [str(say) for say in decision.says],
            [
                'role "yes" allows it',
                'role "far": labels do not match (x is missing)',
                'role "no" denies database user "b", denies database "m"',
            ],
        )
        self.assertEqual(decision.reasons, (str(decision.says[2]),))
        self.assertEqual([say.within for say in decision.says], [True, False, True])


class ReplicationTests(SynchronousTestCase):
    """A replication connection streams the server; only the word itself lets one through."""

    def decided(self, *roles: Role, kind: str = PHYSICAL, name: str = "main") -> str:
        """What the user is told; nothing when it is allowed."""
        traits = {"db_names": ("*", "replication")}
        return check_session(
            roles, traits, service="s", labels=DEV, db_user="b", db_name=name, replication=kind
        ).public.partition("denied: ")[2]

    def test_row_4_the_word(self) -> None:
        for names in (["*"], ["{{internal.db_names}}"], ["{{external.db_names}}"], ["replication*"], ["Replication"]):
            said = self.decided(role({**ALL, "n": names}))
            self.assertIn('role "r" does not allow replication connections', said)
            self.assertIn('ask an administrator for "replication" in db_names of it', said)
        for kind in (PHYSICAL, LOGICAL):
            self.assertEqual(self.decided(role({**ALL, "n": ["replication", "*"]}), kind=kind), "")

    def test_one_database(self) -> None:
        """Its changes are not to be had without the database; a whole server has none."""
        one = role({**ALL, "n": ["replication", "main"]})
        self.assertEqual(self.decided(one, kind=LOGICAL), "")
        self.assertIn('does not allow database "other"', self.decided(one, kind=LOGICAL, name="other"))
        self.assertEqual(self.decided(one, name="other"), "")
        two = role({**ALL, "n": ["replication"]}), role({**ALL, "n": ["main"]})
        self.assertIn("no single role", self.decided(*two, kind=LOGICAL))

    def test_denied(self) -> None:
        """By the word; and by any name: the connection could read that database as well."""
        one = role({**ALL, "n": ["replication", "*"]})
        for kind in (PHYSICAL, LOGICAL):
            self.assertIn(
                "denies replication connections", self.decided(one, role(None, {"n": ["replication"]}), kind=kind)
            )
            self.assertIn("can read all of them", self.decided(one, role(None, {"n": ["postgres"]}), kind=kind))
            self.assertIn('denies database user "b"', self.decided(one, role(None, {"u": ["b"]}), kind=kind))
            scoped = role(None, {"l": {"environment": "prod"}, "n": ["postgres"]})
            self.assertEqual(self.decided(one, scoped, kind=kind), "")

    def test_ordinary(self) -> None:
        """Elsewhere the word is a database's name like any other."""
        one = role({**ALL, "n": ["replication"]})
        self.assertEqual(self.decided(one, kind="", name="replication"), "")
        self.assertIn('database "main"', self.decided(one, kind=""))


class TargetTests(SynchronousTestCase):
    """Whom the client's parameters make of the user is decided as the user is."""

    def decided(self, *roles: Role, targets: tuple[str, ...] = ("admin",)) -> str:
        return check_session(
            roles, {}, service="s", labels=DEV, db_user="b", db_name="m", role_targets=targets
        ).public.partition("denied: ")[2]

    def test_row_7_allowed(self) -> None:
        self.assertEqual(self.decided(role(ALL)), "")
        self.assertEqual(self.decided(role({**ALL, "u": ["b", "admin"]})), "")

    def test_row_7_refused(self) -> None:
        """By the same role, all of them, and no deny block."""
        said = self.decided(role({**ALL, "u": ["b"]}))
        self.assertEqual(
            said,
            'role "r" does not allow database user "admin", to which the connection\'s parameters would change;'
            ' ask an administrator for "admin" in db_users of it',
        )
        two = role({**ALL, "u": ["b"]}), role({**ALL, "u": ["admin"]})
        self.assertIn("no single role", self.decided(*two))
        self.assertIn('"other", to which', self.decided(role({**ALL, "u": ["b", "admin"]}), targets=("admin", "other")))
        self.assertIn('denies database user "admin"', self.decided(role(ALL, {"u": ["admin"]})))


class AddressTests(SynchronousTestCase):
    """Where a client has to come from."""

    def decided(self, address: str | None, *lists: list[str]) -> Decision:
        roles = [
            attrs.evolve(
                role(ALL if number == 0 else None, name=f"r{number}"), options=Options(source_addresses=tuple(one))
            )
            for number, one in enumerate(lists)
        ]
        return check_session(roles, {}, service="s", labels=DEV, db_user="b", db_name="m", address=address)

    def test_inside(self) -> None:
        for address, listed in (
            ("10.1.2.3", ["10.0.0.0/8"]),
            ("10.1.2.3", ["192.0.2.7", "10.1.2.3"]),
            ("::ffff:10.1.2.3", ["10.0.0.0/8"]),
            ("2001:db8::5", ["10.0.0.0/8", "2001:db8::/32"]),
            ("192.0.2.1", []),
            (None, ["10.0.0.0/8"]),
        ):
            self.assertTrue(self.decided(address, listed).allowed, address)

    def test_outside(self) -> None:
        """Of every role that has a list; the first thing said, whatever else is refused."""
        self.assertFalse(self.decided("10.1.2.3", ["10.0.0.0/8"], ["10.2.0.0/16"]).allowed)
        decision = self.decided("192.0.2.1", [], ["10.0.0.0/8", "192.0.2.7"])
        self.assertEqual(
            decision.public.partition("denied: ")[2],
            'role "r1" admits clients from 10.0.0.0/8, 192.0.2.7 only (source_addresses), not from 192.0.2.1',
        )
        for strange in ("", "localhost", "10.1", "1"):
            self.assertFalse(self.decided(strange, ["10.0.0.0/8"]).allowed, strange)
        denying = attrs.evolve(role(None, {"u": ["*"]}), options=Options(source_addresses=("10.0.0.0/8",)))
        first = role(None, {"u": ["*"]}, name="deny")
        said = check_session([first, denying], {}, service="s", labels={}, db_user="b", db_name="m", address="::1")
        self.assertIn("admits clients", said.public)
        self.assertEqual(len(said.reasons), 2)


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
