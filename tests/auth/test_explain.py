"""Why somebody may or may not, asked of auth: each role's say, the decision, locks, limits; and who may ask."""

from __future__ import annotations

from typing import Any

from teleport_db.errors import AccessDenied, BadRequest, NotFound
from tests.auth.support import AuthCase

DEV: dict[str, Any] = {
    "kind": "role",
    "version": "v3",
    "metadata": {"name": "dev"},
    "spec": {
        "options": {"client_idle_timeout": "10m", "source_addresses": ["10.0.0.0/8"]},
        "allow": {"db_labels": {"env": "dev"}, "db_names": ["{{internal.db_names}}"], "db_users": ["app", "bob"]},
        "deny": {"db_users": ["postgres"]},
    },
}


class ExplainCase(AuthCase):
    """alice, who has the roles dev and access, and two databases."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        await self.call("POST", "/v1/resources/role", DEV)
        traits = {"db_names": ["main"], "db_users": []}
        await self.call("POST", "/v1/users", {"name": "alice", "roles": ["dev", "access"], "traits": traits})
        self.alice = self.user("alice", ["dev", "access"])
        await self.announce(self.host("db"), aurora={"env": "dev"}, vault={"env": "prod"})

    async def announce(self, agent: bytes, **services: dict[str, str]) -> None:
        databases = [{"name": name, "uri": "h:5432", "labels": labels} for name, labels in services.items()]
        await self.call("PUT", "/v1/presence", {"databases": databases}, by=agent)

    async def explain(self, by: bytes = b"admin", **asked: str) -> dict[str, Any]:
        query = {"user": "alice", "db": "aurora", "db_user": "app", "db_name": "main", **asked}
        return await self.call("GET", "/v1/access/explain", by=by, query=query)

    async def lock(self, **target: str) -> None:
        body = {"kind": "lock", "metadata": {"name": "l"}, "spec": {"target": target, "message": "on leave"}}
        await self.call("POST", "/v1/resources/lock", body)


class DecisionTests(ExplainCase):
    """What is answered."""

    async def test_allowed(self) -> None:
        said = await self.explain()
        self.assertTrue(said["allowed"])
        self.assertEqual((said["message"], said["locks"], said["agents_differ"]), ("", [], False))
        self.assertEqual(said["roles"], ["dev", "access"])
        self.assertEqual(said["traits"], {"db_names": ["main"], "db_users": []})
        self.assertEqual(
            [(say["role"], say["says"], say["text"]) for say in said["says"]],
            [
                ("dev", "allow", 'role "dev" allows it'),
                ("access", "nothing", 'role "access": database user "app" is not in it'),
            ],
        )
        self.assertEqual(
            said["limits"],
            [
                {"option": "client_idle_timeout", "value": "10m0s", "set_by": 'role "dev"'},
                {"option": "source_addresses", "value": ["10.0.0.0/8"], "set_by": 'role "dev"'},
            ],
        )

    async def test_refused(self) -> None:
        """In the words that psql would have."""
        for asked, words in (
            ({"db_user": "postgres"}, 'role "dev" denies database user "postgres"'),
            ({"db_user": "eve"}, '"eve" in db_users of one of them'),
            ({"db_name": ""}, 'do not allow database "app"'),
            ({"db": "vault"}, 'role "access" does not allow database user "app"'),
            ({"replication": "true"}, "do not allow replication connections"),
            ({"role": "eve"}, 'database user "eve", to which'),
            ({"from": "192.0.2.1"}, "admits clients from 10.0.0.0/8 only"),
        ):
            said = await self.explain(**asked)
            self.assertFalse(said["allowed"])
            self.assertIn(words, said["message"])
        self.assertTrue((await self.explain(**{"from": "10.1.1.1", "role": "bob"}))["allowed"])

    async def test_lock(self) -> None:
        """A lock of the user, a role or the database refuses what the roles allow."""
        for target, words in (({"user": "alice"}, 'user "alice"'), ({"role": "access"}, 'role "access"')):
            await self.lock(**target)
            said = await self.explain()
            self.assertFalse(said["allowed"])
            self.assertEqual(said["message"], f"{words} is locked: on leave; ask an administrator")
            self.assertEqual(said["locks"][0]["name"], "l")
            self.assertEqual(said["says"][0]["says"], "allow")
            await self.call("DELETE", "/v1/resources/lock/l")
        await self.lock(user="bob")
        self.assertTrue((await self.explain())["allowed"])

    async def test_role_gone(self) -> None:
        """With a role that is not there an agent lets nobody in: it may be one that denies."""
        await self.server.backend.delete("/role/access")
        said = await self.explain()
        self.assertEqual((said["allowed"], said["missing_roles"]), (False, ["access"]))
        self.assertIn('role "access" is not in the cluster any more', said["message"])

    async def test_agents_differ(self) -> None:
        """Each agent decides on the labels that it announced."""
        await self.announce(self.host("db"), aurora={"env": "other"})
        said = await self.explain()
        self.assertEqual((said["allowed"], said["agents_differ"]), (False, True))

    async def test_nothing_there(self) -> None:
        await self.assertFailure(self.later(db="none"), NotFound)
        await self.assertFailure(self.later(user="none"), NotFound)
        for asked in (
            {"db": ""},
            {"db_user": ""},
            {"user": ""},
            {"db": "x" * 300},
            {"from": "home"},
            {"replication": "x"},
        ):
            await self.assertFailure(self.later(**asked), BadRequest)

    def later(self, by: bytes = b"admin", **asked: str) -> Any:
        query = {"user": "alice", "db": "aurora", "db_user": "app", **asked}
        return self.call("GET", "/v1/access/explain", by=by, query=query)


class ListTests(ExplainCase):
    """All that is open to a user."""

    async def listing(self, by: bytes = b"admin", user: str = "alice") -> dict[str, Any]:
        return await self.call("GET", "/v1/access/list", by=by, query={"user": user})

    async def test_databases(self) -> None:
        said = await self.listing()
        self.assertEqual(
            said["databases"],
            [
                {"name": "aurora", "labels": {"env": "dev"}, "users": ["app", "bob"], "names": ["main"]},
                {"name": "vault", "labels": {"env": "prod"}, "users": [], "names": ["main"]},
            ],
        )
        self.assertEqual([limit["option"] for limit in said["limits"]], ["client_idle_timeout", "source_addresses"])

    async def test_who_may_ask(self) -> None:
        """Everybody about himself, and about others who may read users and roles."""
        self.assertEqual((await self.listing(by=self.alice))["user"], "alice")
        await self.call("POST", "/v1/users", {"name": "bob", "roles": ["auditor"]})
        await self.call("POST", "/v1/users", {"name": "eve", "roles": ["editor"]})
        bob, eve = self.user("bob", ["auditor"]), self.user("eve", ["editor"])
        self.assertEqual((await self.listing(by=eve))["user"], "alice")
        for by in (bob, self.alice):
            error = await self.assertFailure(
                self.call("GET", "/v1/access/list", by=by, query={"user": "eve"}), AccessDenied
            )
            self.assertIn('"read" on "user"', str(error))
        await self.assertFailure(
            self.call("GET", "/v1/access/list", by=self.proxy, query={"user": "eve"}), AccessDenied
        )

    async def test_own_hides(self) -> None:
        """A database that a user does not see is not there, whatever is asked about it."""
        said = await self.explain(by=self.alice)
        self.assertTrue(said["allowed"])
        await self.call("POST", "/v1/users", {"name": "bob", "roles": ["dev"]})
        bob = self.user("bob", ["dev"])
        query = {"user": "bob", "db_user": "app"}
        texts = []
        for service in ("vault", "nothing"):
            call = self.call("GET", "/v1/access/explain", by=bob, query={**query, "db": service})
            texts.append(str(await self.assertFailure(call, NotFound)).replace(service, "..."))
        self.assertEqual(texts[0], texts[1])
