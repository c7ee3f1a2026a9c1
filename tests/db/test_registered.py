"""What an agent does by what it hears of the cluster: databases taken up and dropped, its own end, auth away."""

import json
import os
import stat
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs.keys import der, load_certificate
from teleport_db.config.databases import parse_database, selector
from teleport_db.db.agent import Agent
from teleport_db.db.away import BEST_EFFORT, STRICT, AuthAway, Kept
from teleport_db.db.registered import MOST, Wanted
from teleport_db.errors import AgentOffline, ConnectionTrouble, NoSuchDatabase
from teleport_db.identity import DatabaseRoute
from tests.cluster import CLUSTER, NOW, Client, authority, dev_role, put_user, startup, user_pair
from tests.db.test_agent import AgentCase
from tests.db.test_credentials import Case as CredentialsCase
from tests.db.test_policy import put_database, put_lock


def gone(kind: str, name: str) -> dict[str, Any]:
    return {"type": "delete", "kind": kind, "name": name}


class KnowingCase(AgentCase):
    """An agent that takes up what is labelled ``env: test``, and a way to tell it of changes."""

    wanted = Wanted((selector({"env": ("test",)}),))

    def changed_agent(self, **more: Any) -> Agent:
        """The agent of the case, made anew with these settings."""
        return self.make_agent(**{"wanted": self.wanted, **more})

    def setUp(self) -> None:
        super().setUp()
        self.agent = self.changed_agent()

    def tell(self, *changes: dict[str, Any]) -> None:
        """What the agent's watch answers next."""
        self.auth.tell(changes)
        self.cluster.settle()
        self.cluster.pass_time(1)

    def serves(self, name: str) -> bool:
        try:
            return bool(self.cluster.router.endpoints_for(DatabaseRoute(CLUSTER, name)))
        except (NoSuchDatabase, AgentOffline):
            return False

    def enter(self, service: str = "aurora") -> Client:
        client = self.cluster.client(user_pair(service))
        client.write(startup())
        self.cluster.settle()
        return client


class RegisteredTests(KnowingCase):
    """Databases come and go while the agent runs."""

    def test_taken_up_and_dropped(self) -> None:
        """It is offered and announced at once; when it is removed its sessions are told."""
        self.start()
        self.assertFalse(self.serves("orders"))
        self.tell(put_database("orders"))
        self.assertTrue(self.serves("orders"))
        self.assertEqual([one["name"] for one in self.auth.presence], ["aurora", "orders"])
        client, other = self.enter("orders"), self.enter()
        self.assertEqual(client.messages[-1], (b"Z", b"I"))
        self.tell(gone("db", "orders"))
        self.assertEqual(client.error["C"], "57P01")
        self.assertIn('database service "orders" is not served here any more', client.error["M"])
        self.assertFalse(self.serves("orders"))
        self.assertFalse(other.gone)
        self.assertEqual([one["name"] for one in self.auth.presence], ["aurora"])

    def test_others(self) -> None:
        """Labels that do not match; a name of the configuration; commands, which are not run."""
        other = put_database("other")
        other["resource"]["metadata"]["labels"] = {"env": "prod"}
        self.start()
        self.tell(other, put_database("aurora", uri="elsewhere:1"))
        self.tell(put_database("dyn", dynamic_labels={"v": {"command": ["x"]}}))
        self.assertFalse(self.serves("other") or self.serves("dyn"))
        (announced,) = self.auth.presence
        self.assertNotIn("elsewhere", announced["uri"])

    def test_labels_changed(self) -> None:
        """A database that gets other labels: who is not let in by them is out; it may not be wanted any more."""
        self.start()
        self.tell({"type": "put", "kind": "role", "name": "dev", "resource": dev_role(db_labels={"tier": "1"})})
        first, second = put_database("orders"), put_database("orders")
        first["resource"]["metadata"]["labels"] = {"env": "test", "tier": "1"}
        second["resource"]["metadata"]["labels"] = {"env": "test", "tier": "2"}
        self.tell(first)
        client = self.enter("orders")
        self.assertEqual(client.messages[-1], (b"Z", b"I"))
        self.tell(second)
        self.assertEqual(client.error["C"], "57P01")
        self.assertIn('allows database service "orders"', client.error["M"])
        second["resource"]["metadata"]["labels"] = {"env": "prod"}
        self.tell(second)
        self.assertFalse(self.serves("orders"))

    def test_moved(self) -> None:
        """Sessions of an address that is not the database's any more are ended."""
        self.start()
        self.tell(put_database("orders"))
        client = self.enter("orders")
        self.tell(put_database("orders", uri="db.example:6000"))
        self.assertEqual(client.error["C"], "57P01")
        self.assertTrue(self.serves("orders"))

    def test_lock(self) -> None:
        """A lock of a database service ends its sessions, and no others."""
        self.start()
        self.tell(put_database("orders"))
        client, other = self.enter("orders"), self.enter()
        self.tell(put_lock("l", {"db": "orders"}, message="upgrade"))
        self.assertIn('database service "orders" is locked: upgrade', client.error["M"])
        self.assertFalse(other.gone)
        refused = self.enter("orders")
        self.assertEqual(refused.error["C"], "28000")
        self.tell(gone("lock", "l"))
        self.assertEqual(self.enter("orders").messages[-1], (b"Z", b"I"))

    def test_removed(self) -> None:
        """An agent that was removed ends its sessions and lets nobody in."""
        self.start()
        client = self.enter()
        self.tell({"type": "put", "kind": "removed_host", "name": "agent-1", "resource": {}})
        self.assertIn("the agent of this database was removed from the cluster", client.error["M"])
        self.assertEqual(self.enter().error["C"], "28000")
        self.cluster.router.close()
        self.cluster.pass_time(120)
        self.assertEqual((self.agent.tunnel_count, self.door.dialled), (0, 1))


class WantedTests(SynchronousTestCase):
    """What is taken up."""

    def test_scope(self) -> None:
        """A join token's names bind here as well."""
        databases = [parse_database(put_database(name)["resource"]) for name in ("a", "b")]
        everything = (selector({"*": ("*",)}),)
        names = [database.name for database in Wanted(everything, ("b", "c")).of(databases)]
        self.assertEqual(names, ["b"])
        self.assertEqual(len(Wanted(everything).of(databases)), 2)
        self.assertEqual(Wanted(()).of(databases), [])

    def test_many(self) -> None:
        """No more than auth would hear of from one agent."""
        databases = [parse_database(put_database(f"d{number}")["resource"]) for number in range(MOST + 2)]
        self.assertEqual(Wanted((selector({"*": ("*",)}),)).of(databases), databases[:MOST])

    def test_commands(self) -> None:
        """Commands of resources run where the agent's owner says so, and only there."""
        database = parse_database(put_database("a", dynamic_labels={"v": {"command": ["x"]}})["resource"])
        everything = (selector({"*": ("*",)}),)
        self.assertEqual(Wanted(everything).of([database]), [])
        self.assertEqual(Wanted(everything, commands=True).of([database]), [database])


class AwayTests(KnowingCase):
    """Auth cannot be reached."""

    def away(self) -> None:
        self.auth.away = True
        self.auth.tell([])
        self.cluster.settle()

    def starts(self) -> list[dict[str, Any]]:
        return [event for event in self.auth.events if event["event"] == "db.session.start"]

    def test_security_row_16_auth_away(self) -> None:
        """New sessions by what was known last, which the record says, up to an age; running ones go on."""
        self.agent = self.changed_agent(away=AuthAway(BEST_EFFORT, 600, clock=self.cluster.clock))
        self.start()
        early = self.enter()
        self.away()
        self.cluster.pass_time(300)
        late = self.enter()
        self.assertEqual(late.messages[-1], (b"Z", b"I"))
        self.cluster.pass_time(301)
        refused = self.enter()
        self.assertEqual(refused.error["C"], "08006")
        self.assertIn("longer than 10m0s", refused.error["M"])
        self.assertFalse(early.gone or late.gone)
        self.auth.away = False
        self.cluster.pass_time(90)
        self.assertEqual(self.enter().messages[-1], (b"Z", b"I"))
        self.cluster.pass_time(90)
        said = [(event["success"], event.get("auth_away"), event.get("policy_age")) for event in self.starts()]
        self.assertEqual(said[:1], [(True, None, None)])
        self.assertEqual(said[1], (True, True, 300))
        self.assertEqual(said[2], (False, True, 601))
        self.assertEqual(said[3], (True, None, None))

    def test_strict(self) -> None:
        """No new session, from the first poll on that fails; running ones go on."""
        self.agent = self.changed_agent(away=AuthAway(STRICT, 600, clock=self.cluster.clock))
        self.start()
        client = self.enter()
        self.away()
        refused = self.enter()
        self.assertEqual(refused.error["C"], "08006")
        self.assertIn("auth_away: strict", refused.error["M"])
        self.assertFalse(client.gone)
        self.auth.away = False
        self.cluster.pass_time(30)
        self.assertEqual(self.enter().messages[-1], (b"Z", b"I"))

    def test_back(self) -> None:
        """Auth, which may have forgotten the agent meanwhile, hears at once what it serves."""
        self.start()
        self.away()
        self.cluster.pass_time(60)
        self.auth.presence, self.auth.away = None, False
        self.auth.heard.clear()
        while ("GET", "/v1/watch") not in self.auth.heard:
            self.cluster.pass_time(1)
        self.cluster.settle()
        self.assertIn(("PUT", "/v1/presence"), self.auth.heard)
        self.assertIsNotNone(self.auth.presence)

    def test_lock_ends(self) -> None:
        """A lock holds while auth is away, until its own end."""
        self.start()
        self.tell(put_lock("l", {"user": "alice"}, expires="2999-01-01T00:00:00Z"))
        self.away()
        self.assertEqual(self.enter().error["C"], "28000")


class KeptTests(KnowingCase):
    """An agent that starts while auth is away."""

    def kept(self) -> Kept:
        return Kept(self.path, in_thread=maybeDeferred)

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        super().setUp()

    def changed_agent(self, **more: Any) -> Agent:
        away = AuthAway(BEST_EFFORT, 600, clock=self.cluster.clock)
        return super().changed_agent(**{"kept": self.kept(), "away": away, **more})

    def restart(self, after: float, **more: Any) -> None:
        """Stop; start again after so many seconds, with auth away."""
        self.stop()
        self.stopped = False
        self.auth.away = True
        # A stop takes a minute of this clock's.
        self.cluster.clock.advance(after - 60)
        self.agent = self.changed_agent(**more)
        self.start()

    def test_goes_on(self) -> None:
        """It knows what it knew, a lock and a registered database included, as one that ran through."""
        self.start()
        self.tell(put_database("orders"), put_user("bob"), put_lock("l", {"user": "bob"}))
        self.restart(after=300)
        self.assertTrue(self.serves("orders"))
        self.assertEqual(self.enter("orders").messages[-1], (b"Z", b"I"))
        bob = self.cluster.client(user_pair(name="bob"))
        bob.write(startup())
        self.cluster.settle()
        self.assertIn('user "bob" is locked', bob.error["M"])
        self.cluster.pass_time(310)
        self.assertEqual(self.enter().error["C"], "08006")

    def test_too_old(self) -> None:
        """Beyond the bound it knows nothing; nor when the clock stands before the time of what is kept."""
        for after in (700, -600):
            self.setUp()
            self.start()
            self.restart(after=after)
            self.assertFalse(self.serves("aurora"))
            self.stop()

    def test_strict(self) -> None:
        """A strict agent uses nothing of it."""
        self.start()
        self.restart(after=100, away=AuthAway(STRICT, 600, clock=self.cluster.clock))
        self.assertFalse(self.serves("aurora"))

    def test_another(self) -> None:
        """What another host knew, or of another cluster, is not used; nor what is broken."""
        self.start()
        file = os.path.join(self.path, "known.json")
        with open(file) as stream:
            known = json.load(stream)
        for written in ({**known, "host": "x"}, {**known, "cluster": "x"}, {**known, "changes": [1]}, [], "nonsense"):
            with open(file, "w") as stream:
                stream.write(written if isinstance(written, str) else json.dumps(written))
            self.restart(after=100)
            self.assertFalse(self.serves("aurora"), written)

    def test_modes(self) -> None:
        """Nobody else reads it."""
        self.start()
        for name in ("known.json", "heard"):
            self.assertEqual(stat.S_IMODE(os.stat(os.path.join(self.path, name)).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o700)


class WritingTests(SynchronousTestCase):
    """One write at a time, the newest last."""

    def test_overtaken(self) -> None:
        """What comes while one is written waits, and of several the last is written."""
        writes: list[tuple[Any, float]] = []
        doing: list[Deferred[None]] = []

        def in_thread(function: Any, *arguments: Any) -> Deferred[Any]:
            writes.append(arguments)  # type: ignore[arg-type]
            doing.append(Deferred())
            return doing[-1]

        kept = Kept("/nowhere", in_thread=in_thread)
        kept.save({"n": 1}, 1.0)
        kept.save({"n": 2}, 2.0)
        kept.save(None, 3.0)
        self.assertEqual(writes, [({"n": 1}, 1.0)])
        doing[0].errback(OSError("full"))
        self.assertEqual(writes[1:], [({"n": 2}, 3.0)])
        doing[1].callback(None)
        kept.save(None, 4.0)
        self.assertEqual(writes[2:], [(None, 4.0)])

    def test_age(self) -> None:
        """Between two polls, and before the first, auth is not away."""
        clock = Clock()
        clock.advance(NOW)
        away = AuthAway(BEST_EFFORT, 600, clock=clock)
        away.lost()
        self.assertIsNone(away.age())
        away.heard()
        clock.advance(10_000)
        self.assertIsNone(away.age())
        away.lost()
        self.assertEqual(away.age(), 10_000)
        self.assertRaises(AgentOffline, away.admit)


class CertificateTests(CredentialsCase):
    """Certificates of the agent's for registered databases."""

    def test_own_authority(self) -> None:
        """The authority that a resource brings is the one that is trusted, and a new one counts at once."""
        contexts = []
        for made in (authority("db"), authority("host")):
            ca_cert = made.certificate_pem.decode()
            database = parse_database(put_database("orders", ca_cert=ca_cert)["resource"])
            context = self.successResultOf(self.ask(database=database)).context
            self.assertEqual(context.get_ca_certs(binary_form=True), [der(load_certificate(made.certificate_pem))])
            contexts.append(context)
        self.assertEqual(len(self.calls), 2)

    def test_auth_away(self) -> None:
        """Without a certificate of before there is no way in, which is told in words."""
        self.waits = True
        asked = self.ask()
        self.pending[0][0].errback(ConnectionTrouble("the connection was closed during the TLS handshake"))
        error = self.failureResultOf(asked, ConnectionTrouble).value
        self.assertIn(
            'the auth service cannot be reached, which has to sign a certificate of database user "app"', str(error)
        )
        self.assertIn("TLS handshake", error.detail)
