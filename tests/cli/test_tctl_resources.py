"""``tctl get``, ``create``, ``update``, ``lock``: what two administrators do at the same time, and what is shown."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.cli.support import CommandTestCase, Result

DATABASE = """\
kind: db
version: v3
metadata:
  name: orders
  labels: {env: prod}
spec:
  protocol: postgres
  uri: orders.internal:5432
"""


class ResourceCase(CommandTestCase):
    """tctl on the auth host."""

    def setUp(self) -> None:
        super().setUp()
        self.data = self.home / "data"
        self.cluster.make_admin(self.data)

    def tctl(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        return self.run_program("tctl", "--data-dir", str(self.data), *arguments, stdin=stdin, **environment)

    def create(self, text: str, *flags: str) -> Result:
        return self.tctl("create", *flags, "-f", "-", stdin=text)


class RevisionTests(ResourceCase):
    """The revision of a document counts."""

    def test_force(self) -> None:
        """What was read is written over what it was read from, and over nothing newer."""
        self.succeeds(self.create(DATABASE))
        read = self.succeeds(self.tctl("get", "db/orders"))
        self.succeeds(self.create(read, "--force"))
        self.fails(self.create(read, "--force"), "changed meanwhile")
        self.succeeds(self.create(DATABASE, "--force"))

    def test_update(self) -> None:
        """Several resources of a file, each of the revision that the file has, or of the present one."""
        self.succeeds(self.create(DATABASE))
        read = self.succeeds(self.tctl("get", "db/orders"))
        said = self.succeeds(self.tctl("update", "-f", "-", stdin=f"{read}---\n{self.user()}"))
        self.assertEqual(said, "db 'orders' has been updated.\nuser 'alice' has been updated.\n")
        self.assertEqual(self.cluster.resources["user"]["alice"]["spec"]["roles"], ["auditor"])
        self.fails(self.tctl("update", "-f", "-", stdin=read), "changed meanwhile")
        self.succeeds(self.tctl("update", "-", stdin=DATABASE))

    def user(self) -> str:
        return "kind: user\nmetadata: {name: alice}\nspec: {roles: [auditor]}\n"

    def test_update_of_nothing(self) -> None:
        """It makes nothing new."""
        self.fails(self.tctl("update", "-f", "-", stdin=DATABASE), "orders")
        self.assertEqual(self.cluster.resources["db"], {})
        self.fails(self.tctl("update"), "tctl update -f FILE", code=2)


class ShownTests(ResourceCase):
    """``tctl get`` for people, and for programs."""

    def put(self, kind: str, name: str, metadata: dict[str, Any] | None = None, **spec: Any) -> None:
        self.cluster.resources.setdefault(kind, {})
        self.cluster.put({"kind": kind, "version": "v3", "metadata": {"name": name, **(metadata or {})}, "spec": spec})

    def row(self, what: str) -> str:
        return self.succeeds(self.tctl("get", what, "--format=text")).splitlines()[2]

    def test_details(self) -> None:
        """A word on what each is about."""
        self.succeeds(self.create(DATABASE))
        self.put("lock", "l", {"expires": "2030-01-01T00:00:00Z"}, target={"db": "orders"}, message="upgrade")
        self.put("db_server", "id-1", hostname="db-host", databases=[{"name": "orders"}, {"name": "aurora"}])
        self.assertEqual(self.row("dbs").split(maxsplit=2)[2], "orders.internal:5432 env=prod")
        self.assertEqual(self.row("locks").split(maxsplit=2)[2], "db orders: upgrade (until 2030-01-01T00:00:00Z)")
        self.assertEqual(self.row("db_servers").split(maxsplit=2)[2], "db-host orders,aurora")
        self.assertEqual(self.row("user").split(maxsplit=2)[2], "access")

    def test_formats(self) -> None:
        """JSON and YAML are the resources whole."""
        self.succeeds(self.create(DATABASE))
        found = json.loads(self.succeeds(self.tctl("get", "db", "--format=json")))
        self.assertEqual(found, list(yaml.safe_load_all(self.succeeds(self.tctl("get", "db")))))
        self.assertEqual(found[0]["spec"], yaml.safe_load(DATABASE)["spec"])


class LockTests(ResourceCase):
    """What can be locked."""

    def test_targets(self) -> None:
        """A user, a role, a database service, a host: one at a time, named in words."""
        for flag, said in (
            ("--user=alice", "User 'alice' is locked"),
            ("--role=dba", "Role 'dba' is locked"),
            ("--db=orders", "Database service 'orders' is locked"),
            ("--server-id=id-1", "Host 'id-1' is locked"),
        ):
            self.assertIn(said, self.succeeds(self.tctl("lock", flag)))
        targets = [lock["spec"]["target"] for lock in self.cluster.resources["lock"].values()]
        self.assertEqual(targets, [{"user": "alice"}, {"role": "dba"}, {"db": "orders"}, {"server_id": "id-1"}])
        self.fails(self.tctl("lock", "--db=a", "--user=b"), "one target", code=2)
