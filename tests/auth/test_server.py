"""First start, status, and what the API refuses to whom."""

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.auth.routes import ROUTES
from teleport_db.certs.keys import der
from teleport_db.certs.tls import peer_identity
from teleport_db.errors import AccessDenied, AuthenticationFailed, ConfigError, NotFound, TeleportDBError
from teleport_db.identity import DatabaseRoute, Identity
from teleport_db.interfaces import IAuditLog
from tests.auth.support import AuthCase, Key, MemoryAudit, certificate


class StartTests(AuthCase):
    """Authorities, made once."""

    async def test_authorities_stay(self) -> None:
        """A restart, and a second server beside the first, have the same authorities."""
        before = self.server.cas()
        after = await self.start()
        self.assertEqual(after.cas(), before)
        self.assertEqual(len({before[kind] for kind in ("user", "host", "db", "db_client")}), 4)

    async def test_other_cluster(self) -> None:
        """State of another cluster is not taken over."""
        await self.server.backend.put("/cluster/name", {"name": "other"})
        await self.assertFailure(self.server.start(), ConfigError)

    async def test_ping_and_cas(self) -> None:
        """What anyone may ask."""
        ping = await self.call("GET", "/v1/ping", by=None)
        self.assertEqual((ping["cluster"], ping["second_factor"]), ("example", "off"))
        cas = await self.call("GET", "/v1/cas", by=None)
        self.assertIn("BEGIN CERTIFICATE", cas["user"])
        self.assertNotIn("PRIVATE", str(cas))

    async def test_status(self) -> None:
        """The pin is the host CA's."""
        status = await self.call("GET", "/v1/status")
        self.assertEqual(status["ca_pins"], [self.server.ca_pin])
        self.assertEqual([ca["kind"] for ca in status["cas"]], ["user", "host", "db", "db_client"])

    async def test_host_certificates(self) -> None:
        """A service of the same process gets what a join would give."""
        answer = self.server.issue_host(["auth", "proxy"], ["db.example.com", "127.0.0.1"], Key().public, "id-1")
        identity = peer_identity(
            der(certificate(answer["client_certificate"])),
            user_ca=None,
            host_ca=answer["host_ca"].encode(),
            now=self.clock.seconds(),
        )
        self.assertEqual((identity.name, identity.roles), ("id-1", ("auth", "proxy")))


class AuditFakeTests(SynchronousTestCase):
    """The fake that these tests use."""

    def test_interface(self) -> None:
        """It is an audit log."""
        verifyObject(IAuditLog, MemoryAudit())


class TableTests(AuthCase):
    """Who may call what."""

    async def test_no_certificate(self) -> None:
        """Without a certificate nothing but the three open calls is answered."""
        for route in ROUTES:
            if not route.anyone:
                path = route.path.replace("<kind>", "user").replace("<name>", "x").replace("<token>", "x")
                await self.assertFailure(self.call(route.method, path, {}, by=None), AuthenticationFailed)

    async def test_plain_user(self) -> None:
        """A user without rules may do what is for users, and nothing else."""
        await self.add_user()
        alice = self.user("alice")
        for route in ROUTES:
            path = route.path.replace("<kind>", "user").replace("<name>", "x").replace("<token>", "x")
            if not route.anyone and not route.user:
                await self.assertFailure(self.call(route.method, path, {}, by=alice), AccessDenied)

    async def test_agent(self) -> None:
        """An agent changes nothing and reads neither users nor tokens."""
        agent = self.host("db")
        for route in ROUTES:
            path = route.path.replace("<kind>", "user").replace("<name>", "x").replace("<token>", "x")
            if not route.anyone and "db" not in route.hosts:
                await self.assertFailure(self.call(route.method, path, {}, by=agent), AccessDenied)

    async def test_rules(self) -> None:
        """A role's rules open the kinds and verbs they name."""
        spec = {"allow": {"rules": [{"resources": ["token"], "verbs": ["list", "create"]}]}}
        role = {"kind": "role", "version": "v3", "metadata": {"name": "greeter"}, "spec": spec}
        await self.call("POST", "/v1/resources/role", role)
        await self.add_user("bob", roles=["greeter"])
        bob = self.user("bob")
        await self.call("GET", "/v1/tokens", by=bob)
        await self.call("GET", "/v1/resources/token", by=bob)
        await self.assertFailure(self.call("GET", "/v1/resources/user", by=bob), AccessDenied)
        await self.assertFailure(self.call("DELETE", "/v1/tokens/x", by=bob), AccessDenied)

    async def test_certificate_of_one_database(self) -> None:
        """It calls nothing, ping and such aside not even that."""
        await self.add_user()
        identity = Identity(
            kind="user", name="alice", cluster="example", usage="database", route=DatabaseRoute("example", "aurora")
        )
        pem = self.server.signing.user(identity, Key().public, 600).certificate.encode()
        await self.assertFailure(self.call("GET", "/v1/databases", by=pem), AccessDenied)

    async def test_expired(self) -> None:
        """A certificate ends on the connection that it opened, too."""
        await self.add_user()
        alice = self.user("alice", ttl=60)
        await self.call("GET", "/v1/databases", by=alice)
        self.clock.advance(61)
        await self.assertFailure(self.call("GET", "/v1/databases", by=alice), AuthenticationFailed)

    async def test_deleted_user(self) -> None:
        """Who was deleted is nobody."""
        await self.add_user()
        alice = self.user("alice")
        await self.call("DELETE", "/v1/resources/user/alice")
        await self.assertFailure(self.call("GET", "/v1/databases", by=alice), AuthenticationFailed)

    async def test_namesake(self) -> None:
        """Nor is he the one who was added under his name later; who was only changed stays who she was."""
        await self.add_user()
        former = self.user("alice")
        await self.call("DELETE", "/v1/resources/user/alice")
        self.clock.advance(5)
        await self.add_user()
        await self.assertFailure(self.call("GET", "/v1/databases", by=former), AuthenticationFailed)
        alice = self.user("alice")
        self.clock.advance(5)
        user = {"kind": "user", "metadata": {"name": "alice"}, "spec": {"roles": ["access"]}}
        await self.call("POST", "/v1/resources/user", user, query={"force": 1})
        found = await self.call("GET", "/v1/resources/user/alice")
        await self.call("PUT", "/v1/resources/user/alice", found)
        await self.call("GET", "/v1/databases", by=alice)
        told = (await self.call("GET", "/v1/watch", by=self.host("db"), query={"kinds": "user"}))["changes"]
        self.assertEqual([change["resource"]["spec"]["created"] for change in told], [int(self.clock.seconds()) - 5])
        self.assertNotIn("created", found["spec"])

    async def test_locked(self) -> None:
        """A lock stops a user's, a role's and a host's calls at once, and goes away with its end."""
        await self.add_user()
        alice, agent = self.user("alice"), self.host("db")
        host_id = peer_identity(
            der(certificate(agent.decode())),
            user_ca=None,
            host_ca=self.server.cas()["host"].encode(),
            now=self.clock.seconds(),
        ).name
        for caller, target, path in (
            (alice, {"user": "alice"}, "/v1/databases"),
            (alice, {"role": "access"}, "/v1/databases"),
            (agent, {"server_id": host_id}, "/v1/status"),
        ):
            lock = {"kind": "lock", "metadata": {"name": "l1"}, "spec": {"target": target, "message": "stop"}}
            await self.call("GET", path, by=caller)
            await self.call("POST", "/v1/resources/lock", lock)
            error = await self.assertFailure(self.call("GET", path, by=caller), AccessDenied)
            self.assertIn("stop", error.public)
            await self.call("DELETE", "/v1/resources/lock/l1")
            await self.call("GET", path, by=caller)

    async def test_unknown_call(self) -> None:
        """An address that is not there is refused in JSON."""
        await self.assertFailure(self.call("GET", "/v1/nothing"), NotFound)
        await self.assertFailure(self.call("PATCH", "/v1/ping"), TeleportDBError)


class GoneTests(AuthCase):
    """Callers who do not wait."""

    async def test_change_is_finished(self) -> None:
        """Whoever hangs up in the middle of a change leaves a whole one, with its event."""
        request = self.request("POST", "/v1/tokens", {"roles": ["db"], "value": "chosen-by-hand"}, b"admin", {})
        told: Deferred[object] = Deferred()
        self.server.backend.watch("/token/", told.callback)
        request.notifyFinish().addErrback(lambda _: None)
        request.render(self.root)
        request.connectionLost(Failure(ConnectionDone()))
        await told
        while not self.audit.events:
            await deferLater(reactor, 0)
        self.assertEqual(self.audit.codes(), ["TJT00I"])

    async def test_poll_is_given_up(self) -> None:
        """Whoever hangs up a long poll leaves nothing behind."""
        query = {"kinds": "role", "since": await self.server.backend.revision()}
        request = self.request("GET", "/v1/watch", None, b"admin", query)
        request.notifyFinish().addErrback(lambda _: None)
        request.render(self.root)
        calls = len(self.clock.getDelayedCalls())
        request.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(len(self.clock.getDelayedCalls()), calls - 1)
