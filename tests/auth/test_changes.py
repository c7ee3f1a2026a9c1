"""Two administrators at once, registered databases, agents that are removed."""

import os
import sqlite3
from typing import Any

from teleport_db.auth.presence import TTL
from teleport_db.auth.removals import LAST_WORDS_SECONDS
from teleport_db.certs.keys import der
from teleport_db.certs.tls import peer_identity
from teleport_db.errors import AccessDenied, AlreadyExists, BadRequest, NotFound, RevisionConflict
from tests.auth.support import CLUSTER, STATIC_TOKEN, AuthCase, Key, certificate


def role(name: str = "dba", **spec: Any) -> dict[str, Any]:
    return {"kind": "role", "version": "v3", "metadata": {"name": name}, "spec": spec}


def database(name: str = "orders", uri: str = "orders.internal:5432", **metadata: Any) -> dict[str, Any]:
    spec = {"protocol": "postgres", "uri": uri}
    return {"kind": "db", "version": "v3", "metadata": {"name": name, **metadata}, "spec": spec}


def lock(**target: str) -> dict[str, Any]:
    return {"kind": "lock", "version": "v2", "metadata": {"name": "l"}, "spec": {"target": target}}


PREFERENCE = {
    "kind": "cluster_auth_preference",
    "version": "v2",
    "metadata": {"name": "cluster-auth-preference"},
    "spec": {"type": "local", "second_factor": "off"},
}


class RevisionTests(AuthCase):
    """Nobody overwrites silently what another has just written."""

    def resources(self) -> list[tuple[str, dict[str, Any]]]:
        user = {"kind": "user", "version": "v2", "metadata": {"name": "alice"}, "spec": {"roles": ["access"]}}
        return [
            ("role/dba", role()),
            ("db/orders", database()),
            ("lock/l", lock(user="x")),
            ("user/alice", user),
            ("cluster_auth_preference/cluster-auth-preference", PREFERENCE),
        ]

    async def test_stale(self) -> None:
        """A revision that is not the present one is refused, in an update and in a forced creation."""
        for what, resource in self.resources():
            path = "/v1/resources/" + what
            made = await self.call("POST", "/v1/resources/" + resource["kind"], resource)
            newer = await self.call("PUT", path, made)
            for method, where, query in (("PUT", path, {}), ("POST", path.rpartition("/")[0], {"force": "1"})):
                error = await self.assertFailure(self.call(method, where, made, query=query), RevisionConflict)
                self.assertIn(f"{what} was changed by somebody else meanwhile", error.public)
            forced = await self.call("POST", path.rpartition("/")[0], newer, query={"force": "1"})
            self.assertGreater(forced["metadata"]["revision"], newer["metadata"]["revision"])
            # Without a revision force is force.
            await self.call("POST", path.rpartition("/")[0], resource, query={"force": "1"})

    async def test_there_already(self) -> None:
        """Creating what is there is refused, and says what to do."""
        for what, resource in self.resources():
            path = "/v1/resources/" + resource["kind"]
            await self.call("POST", path, resource)
            error = await self.assertFailure(self.call("POST", path, resource), AlreadyExists)
            self.assertIn(resource["metadata"]["name"], error.public)
            if what != "user/alice":
                self.assertIn("--force", error.public)

    async def test_gone(self) -> None:
        """What was deleted meanwhile is not made anew by an update; a forced creation does make it."""
        made = await self.call("POST", "/v1/resources/role", role())
        await self.call("DELETE", "/v1/resources/role/dba")
        error = await self.assertFailure(self.call("PUT", "/v1/resources/role/dba", made), NotFound)
        self.assertEqual(error.public, "there is no role/dba any more")
        await self.call("POST", "/v1/resources/role", made, query={"force": "1"})

    async def test_unknown_kind(self) -> None:
        """It is said which there are."""
        error = await self.assertFailure(self.call("GET", "/v1/resources/unicorn"), BadRequest)
        for kind in ("role", "user", "token", "db", "db_server", "lock", "cluster_auth_preference"):
            self.assertIn(kind, error.public)


class DatabaseTests(AuthCase):
    """``kind: db``."""

    async def test_life(self) -> None:
        """Registered, changed, removed; the log has who, from where, and which."""
        labels = {"env": "prod"}
        made = await self.call("POST", "/v1/resources/db", database(labels=labels, description="Orders"))
        self.assertEqual((made["metadata"]["labels"], made["version"]), (labels, "v3"))
        made["spec"]["uri"] = "orders.internal:6432"
        await self.call("PUT", "/v1/resources/db/orders", made)
        (listed,) = (await self.call("GET", "/v1/resources/db"))["items"]
        self.assertEqual(listed["spec"], {"protocol": "postgres", "uri": "orders.internal:6432"})
        await self.call("DELETE", "/v1/resources/db/orders")
        await self.assertFailure(self.call("DELETE", "/v1/resources/db/orders"), NotFound)
        self.assertEqual(self.audit.codes(), ["TDB03I", "TDB04I", "TDB05I"])
        for event in self.audit.events:
            self.assertEqual((event["user"], event["addr.remote"]), ("admin", "192.168.1.1"))
            self.assertEqual(
                (event["db_service"], event["name"], event["db_protocol"]), ("orders", "orders", "postgres")
            )
        self.assertEqual(self.audit.events[-1]["db_uri"], "orders.internal:6432")

    async def test_refused(self) -> None:
        """What agents could not serve is not stored."""
        for wrong in (
            database("Orders"),
            database(uri="nowhere"),
            database(lables={}),
            database(expires="2030-01-01T00:00:00Z"),
            {**database(), "spec": {"protocol": "postgres", "uri": "a:1", "credentials": {"password_file": "/x"}}},
        ):
            await self.assertFailure(self.call("POST", "/v1/resources/db", wrong), BadRequest)
        self.assertEqual((await self.call("GET", "/v1/resources/db"))["items"], [])

    async def test_watched(self) -> None:
        """Agents hear of databases; nobody else's secrets, and a proxy of what it needs only."""
        await self.call("POST", "/v1/resources/db", database())
        agent, query = self.host("db"), {"kinds": "role,user,lock,db,removed_host"}
        answer = await self.call("GET", "/v1/watch", by=agent, query=query)
        self.assertIn(("db", "orders"), {(change["kind"], change["name"]) for change in answer["changes"]})
        await self.call("GET", "/v1/watch", by=self.proxy, query={"kinds": "lock,removed_host"})
        await self.assertFailure(self.call("GET", "/v1/watch", by=self.proxy, query=query), AccessDenied)
        await self.assertFailure(self.call("GET", "/v1/resources/db", by=agent), AccessDenied)

    async def test_locked(self) -> None:
        """A lock of a service keeps its certificates back."""
        await self.call("PUT", "/v1/presence", {"databases": [{"name": "orders"}]}, by=self.host("db"))
        await self.add_user()
        body = {"public_key": Key().public, "route": {"service": "orders"}}
        await self.call("POST", "/v1/certificates/user", body, by=self.user("alice"))
        await self.call("POST", "/v1/resources/lock", lock(db="orders"))
        error = await self.assertFailure(
            self.call("POST", "/v1/certificates/user", body, by=self.user("alice")), AccessDenied
        )
        self.assertIn("database service 'orders' is locked", error.public)


class SeveralAgentsTests(AuthCase):
    """A service of several agents."""

    async def announce(self, by: bytes, **labels: str) -> None:
        await self.call("PUT", "/v1/presence", {"databases": [{"name": "orders", "labels": labels}]}, by=by)

    async def test_labels(self) -> None:
        """Listings show the labels that all agents agree on; each agent's own stand in its db_server."""
        await self.announce(self.host("db"), env="prod", zone="a")
        await self.announce(self.host("db"), env="prod", zone="b")
        (shown,) = (await self.call("GET", "/v1/databases"))["items"]
        self.assertEqual((shown["labels"], shown["agents"]), ({"env": "prod"}, 2))
        servers = (await self.call("GET", "/v1/resources/db_server"))["items"]
        zones = {server["spec"]["databases"][0]["labels"]["zone"] for server in servers}
        self.assertEqual(zones, {"a", "b"})

    async def test_visible(self) -> None:
        """Who may use one of the agents sees the service, with what that one opens."""
        await self.announce(self.host("db"), zone="a")
        await self.announce(self.host("db"), zone="b")
        allow = {"db_labels": {"zone": "b"}, "db_names": ["app"], "db_users": ["dba"]}
        await self.call("POST", "/v1/resources/role", role(allow=allow))
        await self.call("POST", "/v1/resources/role", role("other", allow={**allow, "db_labels": {"zone": "c"}}))
        await self.add_user("alice", roles=["dba"])
        await self.add_user("bob", roles=["other"])
        (shown,) = (await self.call("GET", "/v1/databases", by=self.user("alice")))["items"]
        self.assertEqual((shown["labels"], shown["users"], shown["names"]), ({}, ["dba"], ["app"]))
        self.assertEqual((await self.call("GET", "/v1/databases", by=self.user("bob")))["items"], [])


class RemovalTests(AuthCase):
    """``tctl rm db_server/ID``."""

    async def join(self, key: Key, token: str = STATIC_TOKEN) -> dict[str, Any]:
        body = {"token": token, "roles": ["db"], "public_key": key.public, "name": "db-host"}
        return await self.call("POST", "/v1/join", body, by=None)

    async def joined(self, token: str = STATIC_TOKEN) -> tuple[str, bytes, Key]:
        """An agent that announces a database: its id, its certificate, its key."""
        key = Key()
        answer = await self.join(key, token)
        by = answer["client_certificate"].encode()
        await self.call("PUT", "/v1/presence", {"databases": [{"name": "orders"}]}, by=by)
        return answer["host_id"], by, key

    async def test_removed(self) -> None:
        """It calls nothing any more, gets no new certificates, and is not listed; others are left alone."""
        host_id, agent, key = await self.joined()
        _, other, _ = await self.joined()
        (server,) = [
            server
            for server in (await self.call("GET", "/v1/resources/db_server"))["items"]
            if server["metadata"]["name"] == host_id
        ]
        self.assertEqual(server["spec"]["hostname"], "db-host")
        await self.call("DELETE", f"/v1/resources/db_server/{host_id}")
        for call in (
            self.call("GET", "/v1/status", by=agent),
            self.call("POST", "/v1/renew", {"public_key": Key().public}, by=agent),
            self.call("PUT", "/v1/presence", {"databases": []}, by=agent),
        ):
            error = await self.assertFailure(call, AccessDenied)
            self.assertIn("removed from the cluster", error.public)
        with self.assertRaises(AccessDenied):
            await self.join(key)
        (database,) = (await self.call("GET", "/v1/databases"))["items"]
        self.assertEqual(database["agents"], 1)
        await self.call("GET", "/v1/status", by=other)
        (event,) = [event for event in self.audit.events if event["event"] == "instance.remove"]
        self.assertEqual((event["server_id"], event["user"], event["code"]), (host_id, "admin", "TJ090I"))
        changes = (await self.call("GET", "/v1/watch", by=other, query={"kinds": "removed_host"}))["changes"]
        self.assertEqual([change["name"] for change in changes], [host_id])
        await self.start()
        await self.assertFailure(self.call("GET", "/v1/status", by=agent), AccessDenied)
        await self.joined()

    async def test_dynamic_token(self) -> None:
        """The answer to its token is not repeated either."""
        made = await self.call("POST", "/v1/tokens", {"roles": ["db"]})
        key = Key()
        answer = await self.join(key, made["token"])
        await self.call("DELETE", f"/v1/resources/db_server/{answer['host_id']}")
        with self.assertRaises(AccessDenied):
            await self.join(key, made["token"])

    async def test_last_words(self) -> None:
        """What it has recorded is taken for a moment more, so that its sessions have their ends."""
        host_id, agent, _ = await self.joined()
        await self.call("DELETE", f"/v1/resources/db_server/{host_id}")
        event = {"event": "db.session.end", "code": "TDB01I", "server_id": host_id, "cluster_name": CLUSTER}
        body = {"events": [{"seq": 1, "event": event}]}
        self.assertEqual(await self.call("POST", "/v1/audit", body, by=agent), {"acknowledged": 1})
        self.clock.advance(LAST_WORDS_SECONDS)
        await self.assertFailure(self.call("POST", "/v1/audit", body, by=agent), AccessDenied)

    async def test_whom(self) -> None:
        """Agents that have joined, and nobody else."""
        await self.assertFailure(self.call("DELETE", "/v1/resources/db_server/nobody"), NotFound)
        agent = self.host("db")
        await self.call("PUT", "/v1/presence", {"databases": []}, by=agent)
        name = peer_identity(
            der(certificate(agent.decode())),
            user_ca=None,
            host_ca=self.server.cas()["host"].encode(),
            now=self.clock.seconds(),
        ).name
        error = await self.assertFailure(self.call("DELETE", f"/v1/resources/db_server/{name}"), BadRequest)
        self.assertIn("own process", error.public)
        body = {"token": STATIC_TOKEN, "roles": ["proxy"], "public_key": Key().public}
        proxy = await self.call("POST", "/v1/join", body, by=None)
        refused = self.call("DELETE", f"/v1/resources/db_server/{proxy['host_id']}")
        await self.assertFailure(refused, BadRequest)

    async def test_one(self) -> None:
        """``tctl get db_server/ID``, as long as it is heard of."""
        host_id, _, _ = await self.joined()
        server = await self.call("GET", f"/v1/resources/db_server/{host_id}")
        self.assertEqual([one["name"] for one in server["spec"]["databases"]], ["orders"])
        await self.assertFailure(self.call("POST", "/v1/resources/db_server", server), BadRequest)
        await self.assertFailure(self.call("PUT", f"/v1/resources/db_server/{host_id}", server), BadRequest)
        self.clock.advance(TTL)
        await self.assertFailure(self.call("GET", f"/v1/resources/db_server/{host_id}"), NotFound)


class LockTests(AuthCase):
    """Locks as resources."""

    async def test_end(self) -> None:
        """The end stands in one place, or in both alike."""
        end = "2030-01-01T00:00:00Z"
        both = lock(user="x")
        both["spec"]["expires"] = both["metadata"]["expires"] = end
        made = await self.call("POST", "/v1/resources/lock", both)
        self.assertEqual((made["metadata"]["expires"], "expires" in made["spec"]), (end, False))
        made["metadata"]["expires"] = "2031-01-01T00:00:00Z"
        changed = await self.call("PUT", "/v1/resources/lock/l", made)
        self.assertEqual(changed["metadata"]["expires"], "2031-01-01T00:00:00Z")
        changed["spec"]["expires"] = end
        await self.assertFailure(self.call("PUT", "/v1/resources/lock/l", changed), BadRequest)
        error = await self.assertFailure(self.call("GET", "/v1/resources/lock/nothing"), NotFound)
        self.assertEqual(error.public, "there is no lock/nothing")


class StateLockedTests(AuthCase):
    """Another program holds the state, as a backup does."""

    async def test_fault_sqlite_locked(self) -> None:
        """Reads are answered and hosts are heard; a change waits for its turn, and is made once."""
        agent = self.host("db")
        snapshot = await self.call("GET", "/v1/watch", by=agent, query={"kinds": "role"})
        other = sqlite3.connect(os.path.join(self.directory, "state.sqlite"), isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        making = self.call("POST", "/v1/resources/role", role())
        query = {"kinds": "role", "since": snapshot["revision"], "timeout": 20}
        poll = self.call("GET", "/v1/watch", by=agent, query=query)
        for path in ("/v1/status", "/v1/databases", "/v1/resources/role", "/v1/ping"):
            await self.call("GET", path)
        self.assertFalse(making.called or poll.called)
        other.execute("COMMIT")
        await making
        (change,) = (await poll)["changes"]
        self.assertEqual(change["name"], "dba")
        self.assertEqual(self.audit.codes(), ["T9000I"])
