"""Files of expectations: what is read, what holds, and the words for what does not."""

from __future__ import annotations

import random
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.access import builtin_roles
from teleport_db.access.expectations import Person, Suite, add_document
from teleport_db.config import load_documents
from teleport_db.errors import ConfigError

EXAMPLES = Path(__file__).parent.parent.parent / "docs/examples/access.yaml"

ROLE = """\
kind: role
version: v3
metadata: {name: dev}
spec:
  allow:
    db_labels: {env: dev}
    db_names: ["{{internal.db_names}}"]
    db_users: [app]
---
"""
TESTS = """\
kind: access_test
version: v1
spec:
  users: {alice: {roles: dev, traits: {db_names: [main, other]}}}
  databases: {aurora: {env: dev}, prod: {env: prod}}
  expect:
"""


def suite(text: str) -> Suite:
    made = Suite()
    for document in load_documents(text, "f.yaml"):
        add_document(made, document)
    return made


def ran(*expected: str, roles: str = ROLE, tests: str = TESTS) -> list[str]:
    """What is said of expectations that do not hold; each is a line of the file."""
    made = suite(roles + tests + "".join(f"  - {line}\n" for line in expected))
    return [str(outcome) for outcome in made.run() if not outcome.holds]


class RunTests(SynchronousTestCase):
    """What holds and what does not."""

    def test_holds(self) -> None:
        self.assertEqual(
            ran(
                "allow: {user: alice, db: aurora, db_user: app, db_name: [main, other]}",
                "deny: {user: alice, db: [aurora, prod], db_user: [bob, postgres], db_name: main}",
                'deny: {user: alice, db: prod, db_user: app, db_name: main}\n    because: database service "prod"',
                'deny: {user: alice, db: aurora, db_user: app}\n    because: "database \\"app\\" is not in it"',
                "deny: {user: alice, db: aurora, db_user: app, db_name: main, replication: database}",
                "deny: {user: alice, db: aurora, db_user: app, db_name: main, role: bob}",
                "allow: {user: alice, db: aurora, db_user: app, db_name: main, role: app, replication: no}",
            ),
            [],
        )

    def test_does_not_hold(self) -> None:
        """The line in the file, what was expected, and what was decided instead."""
        self.assertEqual(
            ran(
                "allow: {user: alice, db: aurora, db_user: [app, bob], db_name: main}",
                "deny: {user: alice, db: aurora, db_user: app, db_name: main}",
                "deny: {user: alice, db: aurora, db_user: bob, db_name: main}\n    because: denies",
            ),
            [
                'f.yaml:16: allow user "alice", db "aurora", db_user "bob", db_name "main": is refused: '
                'access to db "aurora" as user "bob" denied: role "dev" does not allow database user "bob"; '
                'ask an administrator for "bob" in db_users of it',
                'f.yaml:17: deny user "alice", db "aurora", db_user "app", db_name "main": is allowed: '
                'role "dev" allows it',
                'f.yaml:18: deny user "alice", db "aurora", db_user "bob", db_name "main": '
                'is refused, but not because "denies": access to db "aurora" as user "bob" denied: '
                'role "dev" does not allow database user "bob"; ask an administrator for "bob" in db_users of it',
            ],
        )

    def test_limits(self) -> None:
        """Replication and addresses can be asked for."""
        role = ROLE.replace("spec:\n", "spec:\n  options: {source_addresses: 10.0.0.0/8}\n").replace(
            '["{{internal.db_names}}"]', "[replication]"
        )
        session = "user: alice, db: aurora, db_user: app, db_name: main, replication: yes"
        self.assertEqual(
            ran(
                f"allow: {{{session}, from: 10.1.2.3}}",
                f"deny: {{{session}, from: [192.0.2.1, '::1']}}\n    because: source_addresses",
                f"allow: {{{session}}}",
                roles=role,
            ),
            [],
        )

    def test_resources(self) -> None:
        """Users and databases as ``tctl create`` takes them."""
        resources = (
            "kind: user\nversion: v2\nmetadata: {name: carol}\nspec: {roles: [dev], traits: {db_names: main}}\n---\n"
            "kind: db\nversion: v3\nmetadata: {name: third, labels: {env: dev}}\nspec: {protocol: postgres}\n---\n"
        )
        line = "allow: {user: carol, db: third, db_user: app, db_name: main}"
        self.assertEqual(ran(line, roles=ROLE + resources), [])

    def test_unknown(self) -> None:
        """What the file does not have is named, to be looked up."""
        made = suite(
            "kind: access_test\nversion: v1\nspec:\n  users: {bob: {roles: [dev, ops]}}\n"
            "  expect:\n  - deny: {user: [alice, bob], db: aurora, db_user: a}\n"
        )
        self.assertEqual(made.unknown_users(), ["alice"])
        self.assertEqual(made.unknown_databases(), ["aurora"])
        self.assertEqual(made.unknown_roles(), ["dev", "ops"])
        made.absent |= {"dev", "ops"}
        self.assertEqual(made.unknown_roles(), [])

    def test_absent_role(self) -> None:
        """As at an agent, nobody gets in with a role that is not there: it may be one that denies."""
        made = suite(
            ROLE
            + TESTS.replace("roles: dev", "roles: [dev, gone]")
            + ("  - allow: {user: alice, db: aurora, db_user: app, db_name: main}\n")
        )
        made.absent.add("gone")
        (outcome,) = made.run()
        self.assertIn('is refused: role "gone" does not exist', str(outcome))


class RefusalTests(SynchronousTestCase):
    """What is no file of expectations: where, and why."""

    def test_refused(self) -> None:
        session = "user: alice, db: aurora, db_user: app"
        table = [
            (ROLE.replace("db_users", "db_user"), "8:5: spec.allow.db_user: unknown key (did you mean db_users?)"),
            (ROLE + ROLE, '10:1: role "dev" is there twice'),
            ("kind: token\n", "1:7: kind: 'token' is not known here"),
            (TESTS.replace("v1", "v2"), "2:10: version: 'v2' is not known here"),
            (TESTS.replace("  expect:\n", ""), "4:3: spec.expect: is missing"),
            (
                TESTS.replace("roles: dev", "rols: dev"),
                "4:19: spec.users.alice.rols: unknown key (did you mean roles?)",
            ),
            (TESTS + "  - {}\n", "7:5: spec.expect[0]: one of allow and deny belongs here"),
            (TESTS + "  - {allow: {user: a, db: b}}\n", "7:13: spec.expect[0].allow.db_user: is missing"),
            (TESTS + f"  - {{allow: {{{session}, name: x}}}}\n", "spec.expect[0].allow.name: unknown key"),
            (TESTS + f"  - {{allow: {{{session}}}, because: x}}\n", "spec.expect[0].because: goes with deny"),
            (TESTS + f"  - {{deny: {{{session}, db_name: []}}}}\n", "deny.db_name: at least one belongs here"),
            (TESTS + f"  - {{deny: {{{session}, from: 10.0.0.0/8}}}}\n", "deny.from: one client has an address"),
            (TESTS + f"  - {{deny: {{{session}, replication: 3}}}}\n", "deny.replication: yes or no belongs here"),
            (
                TESTS + f"  - {{deny: {{{session}, db_name: [{', '.join(f'a{n}' for n in range(1000))}],"
                f" role: [{', '.join(f'b{n}' for n in range(11))}]}}}}\n",
                "the lists stand for 11000 sessions: 10000 at most",
            ),
        ]
        for text, expected in table:
            error = self.assertRaises(ConfigError, suite, text)
            self.assertIn("f.yaml:", str(error))
            self.assertIn(expected, str(error))


class MutationTests(SynchronousTestCase):
    """Whatever stands in a file, it is read or refused with a place; nothing else happens."""

    def test_mutations(self) -> None:
        dice = random.Random(15)
        role, tests = EXAMPLES.read_text().split("---\n")[7:10:2]
        pieces = [
            "",
            "yes",
            "[]",
            "{}",
            "-",
            ": ",
            "'",
            '"',
            "\n",
            "  ",
            "~",
            "*",
            "^(",
            "{{",
            "}}",
            "8h",
            "1e9",
            "\t",
            "?",
        ]
        refused = 0
        for _ in range(1500):
            text = dice.choice((role, tests))
            for _ in range(dice.randint(1, 4)):
                start = dice.randrange(len(text))
                end = start + dice.choice((0, 0, 1, 3, 12))
                text = text[:start] + dice.choice([*pieces, text[end : end + 9]]) + text[end:]
            try:
                made = suite(text)
            except ConfigError as error:
                refused += 1
                self.assertRegex(str(error), r"^f\.yaml:[0-9]+(:[0-9]+)?: ")
                continue
            for name in {*made.unknown_users(), *made.unknown_databases()}:
                made.users.setdefault(name, Person())
                made.databases.setdefault(name, {})
            made.absent |= {*made.unknown_roles()}
            list(made.run())
        self.assertGreater(refused, 500)
        self.assertLess(refused, 1450)


class ExampleTests(SynchronousTestCase):
    """The examples of the documentation."""

    def test_examples(self) -> None:
        """All of them hold, and they need no cluster; every role and user of theirs is there for something."""
        made = suite(EXAMPLES.read_text())
        self.assertEqual((made.unknown_users(), made.unknown_databases(), made.unknown_roles()), ([], [], []))
        self.assertEqual([str(outcome) for outcome in made.run() if not outcome.holds], [])
        self.assertGreater(len(made.expectations), 60)
        self.assertEqual({one.asked["user"] for one in made.expectations}, set(made.users))
        self.assertEqual({name for user in made.users.values() for name in user.roles}, set(made.roles))
        self.assertEqual(made.roles["access"].allow, builtin_roles()["access"].allow)
