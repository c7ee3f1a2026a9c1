"""Users, roles, locks, presence, what is watched, what is signed, what is shipped."""

from typing import Any

from cryptography.x509 import DNSName, SubjectAlternativeName
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from teleport_db.auth.presence import TTL
from teleport_db.auth.watch import Watch
from teleport_db.certs.keys import der, load_certificate
from teleport_db.certs.tls import peer_identity
from teleport_db.errors import AccessDenied, AlreadyExists, BadRequest, NotFound, RevisionConflict
from tests.auth.support import CLUSTER, AuthCase, Key, certificate


def role(name: str = "dba", **spec: Any) -> dict[str, Any]:
    return {"kind": "role", "version": "v3", "metadata": {"name": name}, "spec": spec}


def user(name: str = "alice", **spec: Any) -> dict[str, Any]:
    return {"kind": "user", "version": "v2", "metadata": {"name": name}, "spec": spec}


class ResourceTests(AuthCase):
    """CRUD."""

    async def test_builtin_roles(self) -> None:
        """They are there at the first start, and one that was deleted stays deleted."""
        items = (await self.call("GET", "/v1/resources/role"))["items"]
        self.assertEqual([item["metadata"]["name"] for item in items], ["access", "admin", "auditor", "editor"])
        self.assertIn("description", items[0]["metadata"])
        await self.call("DELETE", "/v1/resources/role/auditor")
        await self.start()
        await self.assertFailure(self.call("GET", "/v1/resources/role/auditor"), NotFound)

    async def test_role(self) -> None:
        """Create, read, replace by revision, delete."""
        allow = {"db_labels": {"env": ["dev"]}, "db_names": ["*"], "db_users": ["dba"]}
        made = await self.call("POST", "/v1/resources/role", role(allow=allow))
        self.assertEqual(made["spec"]["allow"], allow)
        await self.assertFailure(self.call("POST", "/v1/resources/role", role()), AlreadyExists)
        read = await self.call("GET", "/v1/resources/role/dba")
        self.assertEqual(read, made)
        read["spec"]["allow"]["db_users"] = ["dba", "app"]
        changed = await self.call("PUT", "/v1/resources/role/dba", read)
        self.assertEqual(changed["spec"]["allow"]["db_users"], ["dba", "app"])
        await self.assertFailure(self.call("PUT", "/v1/resources/role/dba", read), RevisionConflict)
        forced = await self.call("POST", "/v1/resources/role", role(), query={"force": 1})
        self.assertEqual(forced["spec"], {})
        await self.call("DELETE", "/v1/resources/role/dba")
        await self.assertFailure(self.call("DELETE", "/v1/resources/role/dba"), NotFound)
        self.assertEqual(self.audit.codes(), ["T9000I", "T9002I", "T9002I", "T9001I"])
        recorded = [event.get("spec", {}).get("allow", {}).get("db_users") for event in self.audit.events]
        self.assertEqual(recorded, [["dba"], ["dba", "app"], None, None])
        many = {"db_labels": {"*": ["*"]}, "db_names": [f"database{number}" for number in range(900)]}
        await self.call("POST", "/v1/resources/role", role(allow={**many, "db_users": many["db_names"]}))
        self.assertEqual(len(self.audit.events[-1]["spec_sha256"]), 64)

    async def test_refused_roles(self) -> None:
        """A role that cannot be understood is refused with the key's path."""
        for spec in ({"allow": {"db_lables": {}}}, {"options": {"max_session_ttl": "x"}}):
            error = await self.assertFailure(self.call("POST", "/v1/resources/role", role(**spec)), BadRequest)
            self.assertIn("spec", error.public)
        for name in ("", "a/b", "..", "a" * 65, "é", "x\n"):
            await self.assertFailure(self.call("POST", "/v1/resources/role", role(name)), BadRequest)
        await self.assertFailure(self.call("POST", "/v1/resources/role", {**role(), "version": "v5"}), BadRequest)
        await self.assertFailure(self.call("POST", "/v1/resources/user", role()), BadRequest)
        await self.assertFailure(self.call("GET", "/v1/resources/node"), BadRequest)

    async def test_role_in_use(self) -> None:
        """A role that somebody holds is not deleted."""
        await self.call("POST", "/v1/resources/role", role())
        await self.call("POST", "/v1/resources/user", user(roles=["dba"]))
        await self.assertFailure(self.call("DELETE", "/v1/resources/role/dba"), BadRequest)
        await self.call("DELETE", "/v1/resources/user/alice")
        await self.call("DELETE", "/v1/resources/role/dba")

    async def test_user(self) -> None:
        """Users have roles and traits; the default role is access, and roles must exist."""
        made = await self.call("POST", "/v1/users", {"name": "alice", "traits": {"db_users": ["alice"]}})
        self.assertIn("token", made)
        await self.assertFailure(self.call("POST", "/v1/users", {"name": "alice"}), AlreadyExists)
        await self.assertFailure(self.call("POST", "/v1/users", {"name": "bob", "roles": ["nothing"]}), NotFound)
        read = await self.call("GET", "/v1/resources/user/alice")
        self.assertEqual(read["spec"], {"roles": ["access"], "traits": {"db_users": ["alice"]}})
        read["spec"]["roles"] = ["access", "editor"]
        await self.call("PUT", "/v1/resources/user/alice", read)
        await self.assertFailure(self.call("PUT", "/v1/resources/user/alice", read), RevisionConflict)
        del read["metadata"]["revision"]
        await self.assertFailure(self.call("PUT", "/v1/resources/user/alice", read), BadRequest)
        self.assertEqual(self.audit.codes(), ["T1002I", "T6000I", "T1003I"])
        self.assertEqual(self.audit.events[0]["traits"], {"db_users": ["alice"]})

    async def test_force_needs_update(self) -> None:
        """Who may create may not thereby replace."""
        rules = [{"resources": ["role"], "verbs": ["create"]}]
        await self.call("POST", "/v1/resources/role", role("maker", allow={"rules": rules}))
        await self.add_user("bob", roles=["maker"])
        bob = self.user("bob")
        await self.call("POST", "/v1/resources/role", role("new"), by=bob)
        forced = self.call("POST", "/v1/resources/role", role("new"), by=bob, query={"force": "1"})
        await self.assertFailure(forced, AccessDenied)

    async def test_parallel_updates(self) -> None:
        """Of ten who change what they read, one does."""
        made = await self.call("POST", "/v1/resources/role", role())
        results = await DeferredList(
            [self.call("PUT", "/v1/resources/role/dba", made) for _ in range(10)], consumeErrors=True
        )
        self.assertEqual([ok for ok, _ in results].count(True), 1)

    async def test_bodies(self) -> None:
        """What is no object, or no text where one must be, is refused."""
        for body in ({"name": 1}, {"name": ["a"]}, {"name": "a", "traits": ["x"]}, {"name": "a", "traits": {"x": "y"}}):
            await self.assertFailure(self.call("POST", "/v1/users", body), BadRequest)
        large = {"name": "a", "traits": {"x": ["y" * 4000 + str(n) for n in range(5)]}}
        await self.assertFailure(self.call("POST", "/v1/users", large), BadRequest)

    async def test_no_end(self) -> None:
        """An end that would not be kept is refused, and so is all else that would not count."""
        ending = {"name": "carol", "expires": "2027-01-15T08:01:00Z"}
        for kind, metadata, spec in (
            ("user", ending, {}),
            ("role", ending, {}),
            ("user", {"name": "carol"}, {"expires": "2027-01-15T08:01:00Z"}),
            ("user", {"name": "carol"}, {"status": {"is_locked": True}}),
        ):
            body = {"kind": kind, "version": "v3", "metadata": metadata, "spec": spec}
            await self.assertFailure(self.call("POST", f"/v1/resources/{kind}", body), BadRequest)

    async def test_locks(self) -> None:
        """A lock names one target, and says why in one line; it may end by itself."""
        wrong = ({}, {"target": {}}, {"target": {"user": "a", "role": "b"}}, {"target": {"x": "a"}})
        for spec in (*wrong, {"target": {"user": "a"}, "message": "a\x1b[2J"}):
            lock = {"kind": "lock", "metadata": {"name": "l"}, "spec": spec}
            await self.assertFailure(self.call("POST", "/v1/resources/lock", lock), BadRequest)
        lock = {
            "kind": "lock",
            "metadata": {"name": "l", "expires": "2027-01-15T08:01:00Z"},
            "spec": {"target": {"user": "alice"}},
        }
        made = await self.call("POST", "/v1/resources/lock", lock)
        self.assertEqual(made["metadata"]["expires"], "2027-01-15T08:01:00Z")
        await self.add_user()
        await self.assertFailure(self.login(), AccessDenied)
        self.clock.advance(60)
        await self.login()


class PresenceTests(AuthCase):
    """Database services."""

    async def announce(self, by: bytes, *names: str, **labels: str) -> dict[str, Any]:
        databases = [{"name": name, "uri": f"{name}:5432", "labels": labels} for name in names]
        return await self.call("PUT", "/v1/presence", {"databases": databases}, by=by)

    async def test_listing(self) -> None:
        """One entry a service; an agent that is silent for that long is gone."""
        first, second = self.host("db"), self.host("db")
        self.assertEqual(await self.announce(first, "aurora", "dev", env="dev"), {"ttl": TTL})
        await self.announce(second, "aurora", env="dev")
        items = (await self.call("GET", "/v1/databases"))["items"]
        self.assertEqual([(item["name"], item["agents"]) for item in items], [("aurora", 2), ("dev", 1)])
        self.clock.advance(TTL - 1)
        await self.announce(second, "aurora", env="dev")
        self.clock.advance(1)
        items = (await self.call("GET", "/v1/databases"))["items"]
        self.assertEqual([(item["name"], item["agents"]) for item in items], [("aurora", 1)])
        await self.call("DELETE", "/v1/presence", by=second)
        self.assertEqual((await self.call("GET", "/v1/databases"))["items"], [])
        databases = [code for code in self.audit.codes() if code.startswith("TDB")]
        self.assertEqual(databases, ["TDB03I", "TDB03I", "TDB03I", "TDB05I"])

    async def test_visible(self) -> None:
        """A user sees what a role shows, with the names that it opens, and gets certificates for nothing else."""
        agent = self.host("db")
        await self.announce(agent, "aurora", env="dev")
        allow = {"db_labels": {"env": "dev"}, "db_names": ["app"], "db_users": ["dba"]}
        await self.call("POST", "/v1/resources/role", role("dev", allow=allow))
        await self.call("POST", "/v1/resources/role", role("none"))
        await self.add_user("alice", roles=["dev"])
        await self.add_user("bob", roles=["none"])
        items = (await self.call("GET", "/v1/databases", by=self.user("alice")))["items"]
        self.assertEqual([(item["users"], item["names"]) for item in items], [(["dba"], ["app"])])
        self.assertEqual((await self.call("GET", "/v1/databases", by=self.user("bob")))["items"], [])
        body = {"public_key": Key().public, "route": {"service": "aurora", "user": "dba"}}
        await self.call("POST", "/v1/certificates/user", body, by=self.user("alice"))
        texts = set()
        for name, service in (("bob", "aurora"), ("bob", "nothing"), ("alice", "nothing")):
            refused = {**body, "route": {"service": service}}
            call = self.call("POST", "/v1/certificates/user", refused, by=self.user(name))
            texts.add((await self.assertFailure(call, NotFound)).public.replace(service, "X"))
        self.assertEqual(len(texts), 1)

    async def test_scope(self) -> None:
        """An agent announces, and logs in to, what its token allows."""
        agent = self.host("db", scope=["aurora"])
        await self.announce(agent, "aurora")
        with self.assertRaises(AccessDenied):
            await self.announce(agent, "aurora", "dev")
        body = {"service": "aurora", "user": "dba", "public_key": Key().public}
        answer = await self.call("POST", "/v1/certificates/database-client", body, by=agent)
        self.assertEqual(certificate(answer["certificate"]).subject.rfc4514_string(), "CN=dba")
        self.assertEqual(answer["db_ca"], self.server.cas()["db"])
        refused = self.call("POST", "/v1/certificates/database-client", {**body, "service": "dev"}, by=agent)
        await self.assertFailure(refused, AccessDenied)

    async def test_refused(self) -> None:
        """Names are DNS labels, once each."""
        agent = self.host("db")
        for names in (("Aurora",), ("a", "a"), ("a_b",), ("",)):
            with self.assertRaises(BadRequest):
                await self.announce(agent, *names)


class SigningTests(AuthCase):
    """Certificates beside the login's."""

    async def test_route(self) -> None:
        """A database's certificate has a route, and ends with the login at the latest."""
        databases = [{"name": "aurora", "uri": "a:5432"}]
        await self.call("PUT", "/v1/presence", {"databases": databases}, by=self.host("db"))
        await self.add_user()
        alice = self.user("alice", ttl=600)
        body = {"public_key": Key().public, "ttl": 36000, "route": {"service": "aurora", "database": "app"}}
        answer = await self.call("POST", "/v1/certificates/user", body, by=alice)
        identity = peer_identity(
            der(load_certificate(answer["certificate"].encode())),
            user_ca=self.server.cas()["user"].encode(),
            host_ca=None,
            now=self.clock.seconds(),
        )
        assert identity.route is not None
        self.assertEqual((identity.usage, identity.name), ("database", "alice"))
        self.assertEqual((identity.route.cluster, identity.route.service), (CLUSTER, "aurora"))
        self.assertEqual((identity.route.user, identity.route.database), ("", "app"))
        end = certificate(answer["certificate"]).not_valid_after_utc.timestamp()
        self.assertEqual(end - self.clock.seconds(), 600)

    async def test_identity_file(self) -> None:
        """An administrator signs an identity file of a user that exists; it calls the API."""
        await self.add_user(roles=["auditor"])
        body = {"user": "alice", "public_key": Key().public, "ttl": 86400}
        answer = await self.call("POST", "/v1/certificates/identity", body)
        await self.call("GET", "/v1/audit", by=answer["certificate"].encode())
        unknown = self.call("POST", "/v1/certificates/identity", {**body, "user": "nobody"})
        await self.assertFailure(unknown, NotFound)
        mine = self.call("POST", "/v1/certificates/identity", body, by=answer["certificate"].encode())
        await self.assertFailure(mine, AccessDenied)

    async def test_database_server(self) -> None:
        """Every host is a SAN; the answer has the CA of those who will log in."""
        body = {"hosts": ["db.example.com", "10.0.0.1"], "public_key": Key().public, "ttl": 3600}
        answer = await self.call("POST", "/v1/certificates/database-server", body)
        san = certificate(answer["certificate"]).extensions.get_extension_for_class(SubjectAlternativeName).value
        self.assertEqual(san.get_values_for_type(DNSName), ["db.example.com"])
        self.assertEqual(answer["ca"], self.server.cas()["db_client"])
        for hosts in ([], ["*.example.com"], ["a b"]):
            refused = self.call("POST", "/v1/certificates/database-server", {**body, "hosts": hosts})
            await self.assertFailure(refused, BadRequest)


class WatchTests(AuthCase):
    """What agents hear of."""

    def watch(self, since: int | None = None, kinds: str = "role,user,lock") -> "Deferred[dict[str, Any]]":
        query = {"kinds": kinds, "timeout": 20} | ({} if since is None else {"since": since})
        return self.call("GET", "/v1/watch", by=self.host("db"), query=query)

    async def test_snapshot_and_changes(self) -> None:
        """First everything, then each change as it happens."""
        snapshot = await self.watch()
        self.assertTrue(snapshot["reset"])
        self.assertEqual({change["name"] for change in snapshot["changes"]}, {"access", "admin", "auditor", "editor"})
        poll = self.watch(snapshot["revision"])
        await deferLater(reactor, 0.05)
        self.assertFalse(poll.called)
        await self.call("POST", "/v1/resources/role", role())
        answer = await poll
        self.assertFalse(answer["reset"])
        (change,) = answer["changes"]
        self.assertEqual((change["type"], change["kind"], change["name"]), ("put", "role", "dba"))
        self.assertEqual(change["resource"]["kind"], "role")
        await self.call("DELETE", "/v1/resources/role/dba")
        await self.call("POST", "/v1/users", {"name": "alice"})
        later = await self.watch(answer["revision"])
        self.assertEqual(
            [(change["type"], change["name"]) for change in later["changes"]], [("delete", "dba"), ("put", "alice")]
        )
        self.assertNotIn("hash", str(later))

    async def test_timeout(self) -> None:
        """Without a change the poll ends with the revision to go on from."""
        snapshot = await self.watch()
        poll = self.watch(snapshot["revision"], kinds="lock")
        await self.call("POST", "/v1/resources/role", role())
        self.clock.advance(20)
        answer = await poll
        self.assertEqual(answer["changes"], [])
        self.assertGreater(answer["revision"], snapshot["revision"])

    async def test_lock_expiry(self) -> None:
        """A lock that ends by itself is told as one that was deleted."""
        expires = "2027-01-15T08:01:00Z"
        lock = {"kind": "lock", "metadata": {"name": "l"}, "spec": {"target": {"user": "a"}, "expires": expires}}
        await self.call("POST", "/v1/resources/lock", lock)
        snapshot = await self.watch()
        told: Deferred[None] = Deferred()
        self.server.backend.watch("/lock/", lambda change: told.callback(None))
        self.clock.advance(60)
        await told
        (change,) = (await self.watch(snapshot["revision"]))["changes"]
        self.assertEqual((change["type"], change["name"]), ("delete", "l"))

    async def test_too_far_behind(self) -> None:
        """Who missed more than is kept gets a snapshot; so does everybody after a restart."""
        watch = Watch(self.server.backend, clock=self.clock, kept=3)
        await watch.start()
        self.addCleanup(watch.stop)
        since = (await watch.changes(["role"], None, 0))["revision"]
        for number in range(4):
            await self.call("POST", "/v1/resources/role", role(f"r{number}"))
        self.assertTrue((await watch.changes(["role"], since, 0))["reset"])
        self.assertFalse((await watch.changes(["role"], since + 1, 0))["reset"])
        await self.start()
        self.assertTrue((await self.watch(since))["reset"])

    async def test_refused(self) -> None:
        """Kinds that are not watched, and revisions that are none."""
        await self.assertFailure(self.watch(kinds="token"), BadRequest)
        call = self.call("GET", "/v1/watch", by=self.host("db"), query={"kinds": "role", "since": "x"})
        await self.assertFailure(call, BadRequest)


class AuditTests(AuthCase):
    """What hosts ship."""

    def event(self, by: bytes, **fields: Any) -> dict[str, Any]:
        name = peer_identity(
            der(load_certificate(by)), user_ca=None, host_ca=self.server.cas()["host"].encode(), now=None
        ).name
        base = {"event": "db.session.query", "code": "TDB02I", "server_id": name, "cluster_name": CLUSTER}
        return {**base, **fields}

    def ship(self, by: bytes, *events: dict[str, Any]) -> "Deferred[dict[str, Any]]":
        body = {"events": [{"seq": number, "event": event} for number, event in enumerate(events, 1)]}
        return self.call("POST", "/v1/audit", body, by=by)

    async def test_agent(self) -> None:
        """An agent ships its own sessions' events, and nobody else's."""
        agent = self.host("db")
        self.assertEqual(await self.ship(agent, self.event(agent), self.event(agent)), {"acknowledged": 2})
        for wrong in (
            {"server_id": "other"},
            {"cluster_name": "other"},
            {"event": "user.login"},
            {"event": "role.created"},
            {"event": "db.create"},
        ):
            await self.assertFailure(self.ship(agent, self.event(agent), self.event(agent, **wrong)), AccessDenied)
        self.assertEqual(len(self.audit.received), 2)
        await self.assertFailure(self.ship(agent, {"event": 1}), BadRequest)

    async def test_processes(self) -> None:
        """Every host says of its own process when it starts and ends, and what its configuration has become."""
        for by in (self.host("db"), self.proxy):
            for kind in ("service.start", "service.stop", "config.update"):
                event = self.event(by, event=kind, code="TSV00I")
                await self.ship(by, event)
                await self.assertFailure(self.ship(by, {**event, "server_id": "other"}), AccessDenied)

    async def test_proxy(self) -> None:
        """Of sessions a proxy ships those that were refused, and nothing else."""
        refused = self.event(self.proxy, event="db.session.start", code="TDB00W", success=False)
        await self.ship(self.proxy, refused)
        for wrong in ({"success": True}, {"success": 0}, {"event": "db.session.query"}):
            await self.assertFailure(self.ship(self.proxy, {**refused, **wrong}), AccessDenied)

    async def test_search(self) -> None:
        """Administrators and auditors read the log, others do not."""
        await self.add_user()
        found = (await self.call("GET", "/v1/audit", query={"event": "user.create", "limit": 5}))["events"]
        self.assertEqual([event["code"] for event in found], ["T1002I"])
        await self.assertFailure(self.call("GET", "/v1/audit", by=self.user("alice")), AccessDenied)
        await self.assertFailure(self.call("GET", "/v1/audit", query={"since": "x"}), BadRequest)
