"""Who may call what, route by route; and that what changes something is in the audit log with who and from where."""

from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.access import Role, builtin_roles, parse_role
from teleport_db.api.resources import KINDS
from teleport_db.auth.routes import KIND, ROUTES, Caller, authorize
from teleport_db.auth.users import User
from teleport_db.errors import AccessDenied, AuthenticationFailed, TeleportDBError
from teleport_db.identity import Identity
from tests.auth.support import STATIC_TOKEN, AuthCase, Key

#: Letter -> who: nobody, agent, proxy, user without rules, auditor, editor, admin, the local administrator.
WHO = "napuxedL"
EVERYBODY, USERS, LOCAL = set(WHO), set("uxedL"), set("L")
RULES = set("edL")

#: What each route is open to; the administrator of the host may call every one.
TABLE: dict[str, set[str]] = {
    "ping": EVERYBODY,
    "cas": EVERYBODY,
    "join": EVERYBODY,
    "status": EVERYBODY - set("n"),
    "login": set("pL"),
    "show_invite": set("pL"),
    "redeem_invite": set("pL"),
    "change_password": USERS | set("p"),
    "list_devices": USERS,
    "begin_device": USERS,
    "confirm_device": USERS,
    "remove_device": USERS,
    "renew_recovery_codes": USERS,
    "renew": set("apL"),
    "announce": set("aL"),
    "leave": set("aL"),
    "watch": set("apL"),
    "ship_audit": set("apL"),
    "sign_user": USERS,
    "sign_identity": RULES,
    "sign_database_server": RULES,
    "sign_database_client": set("aL"),
    "databases": USERS | set("p"),
    "search_audit": RULES | set("x"),
    "make_checkpoint": RULES | set("x"),
    "list_sinks": RULES | set("x"),
    "list_sessions": USERS,
    "session_events": USERS,
    "explain_access": USERS,
    "list_access": USERS,
    "add_user": RULES,
    "reset_user": RULES,
    "unlock_user": RULES,
    "list_tokens": RULES,
    "add_token": RULES,
    "delete_token": RULES,
    "list_resources": RULES,
    "get_resource": RULES,
    "create_resource": RULES,
    "update_resource": RULES,
    "delete_resource": RULES,
}


def caller(who: str, *more: Role) -> Caller:
    """Somebody with the roles of a letter, and these."""
    hosts = {"a": "db", "p": "proxy", "L": "admin"}
    if who == "n":
        return Caller(None, "192.0.2.1")
    if who in hosts:
        return Caller(Identity("host", "h", "c", roles=(hosts[who],)), "192.0.2.1")
    names = {"u": "access", "x": "auditor", "e": "editor", "d": "admin"}
    roles = (builtin_roles()[names[who]], *more) if who in names else more
    user = User("carol", tuple(role.name for role in roles), {})
    return Caller(Identity("user", "carol", "c", usage="login"), "192.0.2.1", 0.0, user, roles)


def ruling(resource: str, *verbs: str) -> Role:
    rules = [{"resources": [resource], "verbs": list(verbs)}]
    resource_ = {"kind": "role", "version": "v3", "metadata": {"name": "r"}, "spec": {"allow": {"rules": rules}}}
    return parse_role(resource_)


class TableTests(SynchronousTestCase):
    """The table of routes against the one above."""

    def lets_in(self, route: Any, who: Caller, kind: str = "role") -> bool:
        try:
            authorize(route, who, {"kind": kind})
        except (AccessDenied, AuthenticationFailed):
            return False
        return True

    def test_everybody(self) -> None:
        """Every route, every kind of resource, everybody."""
        self.assertEqual({route.does for route in ROUTES}, set(TABLE))
        for route in ROUTES:
            for kind in KINDS if route.rule and route.rule[0] == KIND else ("",):
                found = {who for who in WHO if self.lets_in(route, caller(who), kind)}
                self.assertEqual(found, TABLE[route.does], (route, kind))

    def test_nothing_else(self) -> None:
        """A rule opens its kind and its verb and nothing beside them; above all not roles."""
        verbs = {
            "list_resources": ("list",),
            "get_resource": ("read", "readnosecrets"),
            "create_resource": ("create",),
            "update_resource": ("update",),
            "delete_resource": ("delete",),
        }
        for route in ROUTES:
            for allowed in verbs.get(route.does, ()):
                for kind in KINDS:
                    who = caller("", ruling(kind, allowed))
                    opened = {(other.does, name) for other in ROUTES if other.rule for name in KINDS
                              if other.rule[0] == KIND and self.lets_in(other, who, name)}  # fmt: skip
                    self.assertEqual(opened, {(route.does, kind)})

    def test_denied(self) -> None:
        """A rule that denies beats the administrator's role."""
        rules = [{"resources": ["lock"], "verbs": ["*"]}]
        denies = parse_role(
            {"kind": "role", "version": "v3", "metadata": {"name": "r"}, "spec": {"deny": {"rules": rules}}}
        )
        who = caller("d", denies)
        for route in ROUTES:
            if route.rule and route.rule[0] == KIND:
                self.assertEqual([self.lets_in(route, who, kind) for kind in ("role", "lock")], [True, False])

    def test_once(self) -> None:
        """Each call stands in the table once."""
        rows = [(route.method, route.path) for route in ROUTES]
        self.assertEqual(len(rows), len(set(rows)))


#: Routes that change nothing, or that only tell what is recorded elsewhere: by the host, or by the agent.
READS = {
    *("ping", "cas", "status", "show_invite", "watch", "databases", "search_audit", "list_sessions", "session_events"),
    "list_sinks",
    *("explain_access", "list_access", "list_tokens", "list_resources", "get_resource", "list_devices", "ship_audit"),
    *("make_checkpoint", "begin_device"),
}
#: What a person does for itself, or a host, which have tests of their own in which events are counted.
OWN = {
    *("login", "redeem_invite", "change_password", "confirm_device", "remove_device", "renew_recovery_codes"),
    *("join", "renew", "announce", "leave", "sign_user", "sign_database_client"),
}


class RecordedTests(AuthCase):
    """A user with the role ``editor`` who works from elsewhere."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        await self.add_user("carol", roles=["editor"])
        self.carol = self.user("carol", ("editor",))
        self.done: set[str] = set()

    async def change(
        self, does: str, method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any
    ) -> Any:
        """Make a call, and look at what was recorded of it."""
        before = len(self.audit.events)
        answer = await self.call(method, path, body, by=self.carol, query=query)
        recorded = self.audit.events[before:]
        self.assertTrue(recorded, path)
        for event in recorded:
            self.assertEqual((event["user"], event["addr.remote"]), ("carol", "192.168.1.1"), event)
        self.done.add(does)
        return answer

    async def test_recorded(self) -> None:
        """Every call that changes something is recorded, with who and from where."""
        specs: dict[str, dict[str, Any]] = {
            "role": {},
            "user": {"roles": ["access"]},
            "lock": {"target": {"user": "x"}},
            "db": {"protocol": "postgres", "uri": "db:5432"},
            "cluster_auth_preference": {"type": "local", "second_factor": "off"},
        }
        for kind, spec in specs.items():
            name = "cluster-auth-preference" if kind == "cluster_auth_preference" else "one"
            body = {"kind": kind, "metadata": {"name": name}, "spec": spec}
            made = await self.change("create_resource", "POST", f"/v1/resources/{kind}", body)
            await self.change("create_resource", "POST", f"/v1/resources/{kind}", body, force="1")
            made = await self.call("GET", f"/v1/resources/{kind}/{name}")
            await self.change("update_resource", "PUT", f"/v1/resources/{kind}/{name}", made)
            await self.change("delete_resource", "DELETE", f"/v1/resources/{kind}/{name}")
        token = {"kind": "token", "metadata": {"name": "0123456789abcdef"}, "spec": {"roles": ["db"]}}
        await self.change("create_resource", "POST", "/v1/resources/token", token)
        await self.change("delete_token", "DELETE", "/v1/tokens/0123456789abcdef")
        await self.change("add_token", "POST", "/v1/tokens", {"roles": ["db"]})
        await self.change("add_user", "POST", "/v1/users", {"name": "bob"})
        await self.change("reset_user", "POST", "/v1/users/bob/reset", {})
        await self.change("unlock_user", "POST", "/v1/users/bob/unlock", {})
        key = Key().public
        await self.change("sign_identity", "POST", "/v1/certificates/identity", {"user": "bob", "public_key": key})
        server = {"hosts": ["db.example"], "public_key": key}
        await self.change("sign_database_server", "POST", "/v1/certificates/database-server", server)
        joined = await self.call("POST", "/v1/join", {"token": STATIC_TOKEN, "public_key": key}, by=None)
        await self.change("delete_resource", "DELETE", f"/v1/resources/db_server/{joined['host_id']}")
        self.assertEqual(self.done | READS | OWN, {route.does for route in ROUTES})

    async def test_hosts(self) -> None:
        """What hosts do has their id and the address as well."""
        before = len(self.audit.events)
        agent = self.host("db")
        await self.call("PUT", "/v1/presence", {"databases": [{"name": "orders"}]}, by=agent)
        body = {"service": "orders", "user": "dba", "public_key": Key().public}
        await self.call("POST", "/v1/certificates/database-client", body, by=agent)
        await self.call("POST", "/v1/renew", {"public_key": Key().public}, by=agent)
        for event in self.audit.events[before:]:
            self.assertEqual((len(event["user"]), event["addr.remote"]), (36, "192.168.1.1"))

    async def test_refused(self) -> None:
        """A call that is refused changes nothing, and that it was refused is all that is recorded."""
        await self.add_user("dave")
        before = len(self.audit.events)
        for route in ROUTES:
            if route.rule is not None:
                path = route.path.replace("<kind>", "role").replace("<name>", "x")
                await self.assertFailure(self.call(route.method, path, {}, by=self.user("dave")), TeleportDBError)
        for event in self.audit.events[before:]:
            self.assertEqual((event["code"], event["user"], event["addr.remote"]), ("T3007W", "dave", "192.168.1.1"))
        methods = [event["method"] for event in self.audit.events[before:]]
        self.assertEqual(methods, [f"{route.method} {route.path}" for route in ROUTES if route.rule is not None])
