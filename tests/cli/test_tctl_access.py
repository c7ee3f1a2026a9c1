"""``tctl access``: what is printed, and with which exit code."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.support import CommandTestCase
from tests.cli.test_tctl import TctlTestCase

SAID: dict[str, Any] = {
    "user": "alice",
    "roles": ["dev", "access"],
    "missing_roles": [],
    "traits": {"db_names": ["main", "other"], "db_users": []},
    "db_service": "aurora",
    "labels": {"env": "dev", "team": "a"},
    "db_user": "bob",
    "db_name": "main",
    "allowed": False,
    "agents_differ": False,
    "message": 'access to db "aurora" as user "bob" denied: role "dev" does not allow database user "bob"',
    "reasons": [],
    "says": [
        {"role": "dev", "says": "nothing", "text": 'role "dev": database user "bob" is not in it'},
        {"role": "no way", "says": "deny", "text": 'role "no way" denies database user "bob"'},
        {"role": "all", "says": "allow", "text": 'role "all" allows it'},
    ],
    "locks": [{"name": "l", "text": 'role "access" is locked: \x1b[1mon leave', "expires": "2030-01-01T00:00:00Z"}],
    "limits": [
        {"option": "client_idle_timeout", "value": "10m0s", "set_by": 'role "dev"'},
        {"option": "disconnect_expired_cert", "value": True, "set_by": "this cluster"},
        {"option": "source_addresses", "value": ["10.0.0.0/8", "::1"], "set_by": 'role "dev"'},
    ],
}

EXPLAINED = """\
User       alice
Roles      dev, access
Traits     db_names: main, other
Database   aurora (env=dev,team=a)
Asked for  database user 'bob', database 'main'

Role   Says
------ --------------------------------
dev    database user "bob" is not in it
no way denies database user "bob"
all    allows it

Limit                   Value           Set by
----------------------- --------------- ------------
client_idle_timeout     10m0s           role "dev"
disconnect_expired_cert yes             this cluster
source_addresses        10.0.0.0/8, ::1 role "dev"

Locks  role "access" is locked: \\x1b[1mon leave until 2030-01-01T00:00:00Z (lock/l)

Refused: access to db "aurora" as user "bob" denied: role "dev" does not allow database user "bob"
"""

LISTED = """\
User    alice
Roles   dev, access
Traits  db_names: main, other

Database Labels  Users    Names
-------- ------- -------- -----
aurora   env=dev app, bob *

Limits  none

Locks  none
"""

TEST = """\
kind: role
version: v3
metadata: {name: dev}
spec:
  allow: {db_labels: {env: dev}, db_names: [main], db_users: [app]}
---
kind: access_test
version: v1
spec:
  users: {alice: {roles: [dev]}}
  databases: {aurora: {env: dev}}
  expect:
  - allow: {user: alice, db: aurora, db_user: app, db_name: main}
  - deny: {user: alice, db: aurora, db_user: [bob, app], db_name: main}
"""


class AccessTests(TctlTestCase):
    """With a cluster."""

    def setUp(self) -> None:
        super().setUp()
        self.answer = dict(SAID)
        self.asked: list[tuple[list[str], dict[str, str]]] = []

        def get_access(path: list[str], query: dict[str, str], body: Any, caller: Any) -> dict[str, Any]:
            self.asked.append((path, query))
            return self.answer

        self.cluster._get_access = get_access  # type: ignore[attr-defined]

    def test_explain(self) -> None:
        """Everything that has a say, then the decision; exit code 1 for a refusal."""
        asked = ("access", "explain", "alice", "--db=aurora", "--db-user=bob")
        result = self.tctl(*asked, "--db-name=main", "--role=app", "--from=10.0.0.1", "--replication")
        self.assertEqual((result.code, result.out), (1, EXPLAINED))
        self.assertEqual(self.asked[-1][0], ["explain"])
        expected = {"user": "alice", "db": "aurora", "db_user": "bob", "db_name": "main"}
        self.assertEqual(self.asked[-1][1], expected | {"role": "app", "from": "10.0.0.1", "replication": "true"})
        said = self.tctl(*asked, "--format=json")
        self.assertEqual((said.code, json.loads(said.out)["allowed"]), (1, False))
        self.assertEqual(self.asked[-1][1], {"user": "alice", "db": "aurora", "db_user": "bob"})
        self.answer |= {"allowed": True, "message": "", "agents_differ": True, "missing_roles": ["gone"]}
        said_text = self.succeeds(self.tctl(*asked))
        self.assertIn("\nAllowed.\nIts agents have different labels", said_text)
        self.assertIn("Not there  gone (nobody gets in with a role that is not there)", said_text)
        self.fails(self.tctl("access", "explain", "alice", "--db=aurora"), "--db-user", code=2)

    def test_ls(self) -> None:
        databases = [{"name": "aurora", "labels": {"env": "dev"}, "users": ["app", "bob"], "names": ["*"]}]
        self.answer = {**SAID, "databases": databases, "locks": [], "limits": []}
        self.assertEqual(self.succeeds(self.tctl("access", "ls", "alice")), LISTED)
        self.assertEqual(self.asked, [(["list"], {"user": "alice"})])
        found = json.loads(self.succeeds(self.tctl("access", "ls", "alice", "--format=json")))
        self.assertEqual(found["databases"], databases)

    def test_from_the_cluster(self) -> None:
        """What the file does not have is looked up; what is nowhere is named."""
        role, _, expected = TEST.replace("alice", "carol").replace("aurora", "store").partition("---\n")
        (self.home / "role.yaml").write_text(role)
        self.succeeds(self.tctl("create", "-f", "role.yaml"))
        user = "kind: user\nmetadata: {name: carol}\nspec: {roles: [dev], traits: {}}\n"
        expected = "\n".join(
            line for line in expected.splitlines() if "users:" not in line and "databases:" not in line
        )
        (self.home / "e.yaml").write_text(expected)
        self.fails(self.tctl("access", "test", "e.yaml"), "the user 'carol' is neither in the file nor in the cluster")
        self.succeeds(self.tctl("create", "-f", "-", stdin=user))
        self.fails(self.tctl("access", "test", "e.yaml"), "the database 'store' is neither in the file nor served")
        self.cluster.databases.append({"name": "store", "labels": {"env": "dev"}})
        result = self.tctl("access", "test", "e.yaml")
        self.assertEqual((result.code, result.out.splitlines()[-1]), (1, "1 of 3 expectations do not hold."))
        self.succeeds(self.tctl("rm", "role/dev"))
        result = self.tctl("access", "test", "e.yaml")
        self.assertIn('e.yaml:5: allow user "carol", db "store"', result.out)
        self.assertIn('role "dev" does not exist', result.out)


class OfflineTests(CommandTestCase):
    """A file that has everything."""

    def test_self_contained(self) -> None:
        """Nobody is called; a line for each that does not hold."""
        (self.home / "t.yaml").write_text(TEST)
        result = self.run_program("tctl", "access", "test", "-f", "t.yaml")
        self.assertEqual(
            (result.code, result.out),
            (
                1,
                't.yaml:14: deny user "alice", db "aurora", db_user "app", db_name "main": is allowed: '
                'role "dev" allows it\n1 of 3 expectations do not hold.\n',
            ),
        )
        holding = TEST.replace("[bob, app]", "bob")
        self.assertEqual(
            self.succeeds(self.run_program("tctl", "access", "test", "-f", "-", stdin=holding)),
            "All 2 expectations hold.\n",
        )
        role, _, expected = holding.partition("---\n")
        (self.home / "role.yaml").write_text(role)
        (self.home / "e.yaml").write_text(expected)
        said = self.succeeds(self.run_program("tctl", "access", "test", "-f", "role.yaml", "e.yaml", "--format=json"))
        self.assertEqual(
            [(one["expected"], one["holds"]) for one in json.loads(said)], [("allow", True), ("deny", True)]
        )

    def test_refused(self) -> None:
        """What is wrong with a file is told with its place; a file without expectations is none."""
        (self.home / "t.yaml").write_text(TEST.replace("db_users", "db_user"))
        said = self.run_program("tctl", "access", "test", "-f", "t.yaml")
        self.fails(said, "t.yaml:5:52: spec.allow.db_user: unknown key (did you mean db_users?)")
        (self.home / "t.yaml").write_text(TEST.partition("---\n")[0])
        self.fails(self.run_program("tctl", "access", "test", "t.yaml"), "kind access_test", code=2)
        self.fails(self.run_program("tctl", "access", "test"), "tctl access test -f FILE", code=2)
        (self.home / "t.yaml").write_text(TEST.replace("  users: {alice: {roles: [dev]}}\n", ""))
        said = self.run_program("tctl", "--data-dir", str(self.home / "none"), "access", "test", "t.yaml")
        self.fails(said, "user 'alice' is not in the file, and the cluster cannot be asked")
