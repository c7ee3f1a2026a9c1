"""A session at the agent: who is let in, what is recorded before what, how each way of failing is told."""

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.db.backend import LOGIN_SECONDS
from teleport_db.db.policy import Policy
from teleport_db.db.session import CLOSING_SECONDS, OPENING_SECONDS
from teleport_db.errors import AuditUnavailable, DatabaseUnreachable, SessionCut
from teleport_db.identity import DatabaseRoute
from teleport_db.interfaces import ICredentialSource
from teleport_db.pgwire.messages import authentication, error_response, message, parse_error
from teleport_db.tunnel.header import SessionHeader, encode_header
from tests.cluster import (
    ANSWER,
    CLUSTER,
    GREETING,
    HOST,
    NOW,
    Client,
    Cluster,
    Peer,
    alice,
    authority,
    certificate_of,
    database_context,
    dev_role,
    host_pair,
    put_user,
    startup,
    user_pair,
)
from tests.pgwire.wire import bind, execute, parse
from tests.proxy.test_frontend import HANGS, FrontendCase


class AgentCase(FrontendCase):
    """A cluster with one agent."""

    def setUp(self) -> None:
        super().setUp()
        self.agent = self.cluster.agent()

    @property
    def spool(self) -> Any:
        return self.agent.spool

    def attempt(self, data: bytes | None = None) -> Client:
        client = self.cluster.client()
        client.write(startup() if data is None else data)
        self.cluster.settle()
        return client

    def failed(self, client: Client, sqlstate: str, *words: str) -> dict[str, Any]:
        """The client was told and gone; one failed start says the same."""
        self.refused(client, sqlstate, *words)
        (event,) = self.spool.events
        self.assertEqual((event["event"], event["ei"], event["success"]), ("db.session.start", 0, False))
        self.assertEqual(event["message"], client.error["M"])
        self.assertForgotten(self.agent)
        return dict(event)


class StreamCase(SynchronousTestCase):
    """Streams opened as by a proxy that cannot be believed."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.agent = self.cluster.agent()

    def stream(self) -> Peer:
        (endpoint,) = self.cluster.router.endpoints_for(DatabaseRoute(CLUSTER, "aurora"))
        opened: list[Peer] = []
        endpoint.connect(Factory.forProtocol(Peer)).addCallbacks(opened.append, lambda reason: None)
        self.cluster.settle()
        return opened[0]

    def header(self, certificate: bytes, **more: Any) -> bytes:
        given = {"client_address": "1.2.3.4:5", "session_id": "s-1", "pid": 7, "secret": bytes(32)} | more
        return encode_header(SessionHeader(certificate=certificate, **given))

    def say(self, *pieces: bytes) -> Peer:
        stream = self.stream()
        for piece in pieces:
            stream.transport.write(piece)
            self.cluster.settle()
        return stream

    def assertQuiet(self) -> None:
        self.cluster.settle()
        self.assertEqual((self.agent.sessions, self.cluster.timers()), ([], []))
        self.assertEqual(self.agent.tunnel.stream_count, 1)  # the control stream


class VerificationTests(StreamCase):
    """The agent believes the certificate, not the proxy."""

    def test_good(self) -> None:
        """Divided at every byte, a header and a startup open a session."""
        wire = self.header(certificate_of(alice())) + startup()
        for cut in (*range(1, 40), *range(len(wire) - 60, len(wire))):
            stream = self.say(wire[:cut], wire[cut:])
            self.assertTrue(stream.received.endswith(GREETING[-6:]), cut)
            stream.transport.loseConnection()
            self.assertQuiet()

    def test_certificates(self) -> None:
        """Each that a proxy must not get in with is refused, recorded, and no database dialled."""
        cases = {
            "authority": (user_pair(ca=authority("user", "other")), "28000"),
            "expired": (user_pair(now=NOW - 7200, ttl=60.0), "28000"),
            "not yet": (user_pair(now=NOW + 7200), "28000"),
            "login": (user_pair(None), "28000"),
            "route to another cluster": (user_pair(cluster="leaf"), "28000"),
            "identity of another cluster": (user_pair(identity_cluster="leaf"), "28000"),
            "another service": (user_pair("payroll"), "3D000"),
            "host": (host_pair("db", "agent-1", server=False), "28000"),
            "proxy": (host_pair("proxy", "proxy-1", server=False), "28000"),
        }
        for name, (pair, sqlstate) in cases.items():
            self.agent.spool.events.clear()
            stream = self.say(self.header(certificate_of(pair)) + startup())
            fields = parse_error(stream.received[5:])
            self.assertEqual((stream.received[:1], fields["C"]), (b"E", sqlstate), name)
            self.assertIsNotNone(stream.reason)
            (event,) = self.agent.spool.events
            self.assertEqual((event["success"], event["ei"], event["sid"]), (False, 0, "s-1"), name)
            self.assertEqual(event["user"], "alice" if sqlstate == "3D000" else "", name)
            self.assertQuiet()
        self.assertEqual(self.agent.dialling.dialled, 0)

    def test_expires_by_our_clock(self) -> None:
        pair = user_pair(ttl=60.0)
        self.cluster.clock.rightNow = NOW + 61
        stream = self.say(self.header(certificate_of(pair)) + startup())
        self.assertIn("expired", parse_error(stream.received[5:])["M"])

    def test_garbage_certificate(self) -> None:
        stream = self.say(self.header(b"\x30\x03abc") + startup())
        self.assertEqual(parse_error(stream.received[5:])["C"], "28000")
        self.assertQuiet()

    def test_only_proxies(self) -> None:
        """A stream of any other host of the cluster is closed before its header is read."""
        for role in ("db", "auth"):
            self.cluster.proxy_pair = host_pair(role, "other", server=False)
            stream = self.say(self.header(certificate_of(alice())) + startup())
            self.assertEqual(stream.received, b"")
            self.assertIsNotNone(stream.reason)
            self.assertQuiet()
        self.assertEqual(self.agent.spool.events, [])

    def test_only_this_clusters_proxies(self) -> None:
        """Neither a user nor a proxy of another authority gets through the stream's TLS."""
        foreign = user_pair(None)
        self.cluster.proxy_pair = foreign
        stream = self.say(self.header(certificate_of(alice())) + startup())
        self.assertEqual(stream.received, b"")
        self.assertIsNotNone(stream.reason)
        self.assertEqual(self.agent.spool.events, [])
        self.assertQuiet()

    def test_headers(self) -> None:
        """What is no header closes the stream."""
        for wire in (
            b"\xff\xff\xff\xff",
            b"\0\0\0\2[]",
            b"\0\0\0\2{}",
            b"\0\0\0\4oops",
            self.header(b"").replace(b'"session"', b'"sessiom"'),
            self.header(b"").replace(b'"pid":7', b'"pid":-'),
        ):
            stream = self.say(wire)
            self.assertEqual(stream.received, b"")
            self.assertIsNotNone(stream.reason, wire)
            self.assertQuiet()
        self.assertEqual(self.agent.spool.events, [])

    def test_bad_key(self) -> None:
        """A key that no client could be told ends the attempt, not the agent."""
        stream = self.say(self.header(certificate_of(alice()), secret=b"123") + startup())
        self.assertEqual(stream.received[:1], b"E")
        self.assertQuiet()

    def test_silence(self) -> None:
        """A stream without a header, and one without a startup, are closed in time."""
        stream = self.stream()
        self.cluster.pass_time(OPENING_SECONDS)
        self.assertIsNotNone(stream.reason)
        stream = self.say(self.header(certificate_of(alice())) + startup()[:5])
        self.cluster.pass_time(OPENING_SECONDS)
        self.assertIn("no startup message", parse_error(stream.received[5:])["M"])
        self.assertIsNotNone(stream.reason)
        self.assertQuiet()

    def test_no_startup(self) -> None:
        for wire in (b"\0\0\0\3", b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x10\x04\xd2\x16\x2e" + bytes(8)):
            stream = self.say(self.header(certificate_of(alice())) + wire)
            self.assertEqual(parse_error(stream.received[5:])["C"], "08P01")
            self.assertQuiet()


class AuditTests(AgentCase):
    """Recorded first, or not done at all."""

    def test_order(self) -> None:
        """The start is recorded before the client is let in; each statement before it goes on."""
        client = self.attempt()
        client.query(b"one")
        self.cluster.settle()
        client.write(message(b"P", b"s\0two\0\0\0") + message(b"S") + message(b"d", b"free"))
        client.query(b"three")
        self.cluster.settle()
        forwarded = b""
        recorded: list[str] = []
        for what, value in self.cluster.journal:
            if what == "recorded":
                recorded.append(value)
                continue
            forwarded += value
            for text, event in ((b"one", 2), (b"three", 4)):
                if text in forwarded:
                    self.assertGreaterEqual(len(recorded), event)
        query, result = "db.session.query", "db.session.result"
        self.assertEqual(recorded, ["db.session.start", query, result, query])
        self.assertIn(b"three", forwarded)

    def test_result_before_it_is_seen(self) -> None:
        """What came of a statement is recorded before the client hears it; a spool that is full by then ends it.

        With its end it has the result, in the room that is kept for that.
        """
        client = self.cluster.session()
        self.agent.database.answer = None
        client.query(b"select 1")
        self.cluster.settle()
        heard = len(client.heard)
        self.spool.full = True
        self.agent.database.logins[0].transport.write(ANSWER)
        self.refused(client, "58030")
        self.assertNotIn(ANSWER, client.heard[heard:])
        self.assertEqual(
            [event["event"] for event in self.spool.events],
            ["db.session.start", "db.session.query", "db.session.result", "db.session.end"],
        )
        self.assertEqual([event["ei"] for event in self.spool.events], [0, 1, 2, 3])
        self.assertTrue(self.spool.events[2]["success"])

    def test_joined(self) -> None:
        """Query and result have one statement id; a session that ends leaves none without a result."""
        client = self.cluster.session()
        client.query(b"one")
        self.cluster.settle()
        self.agent.database.answer = None
        client.query(b"two")
        self.cluster.settle()
        client.transport.abortConnection()
        self.cluster.settle()
        found = [(event["event"], event.get("statement_id"), event.get("success")) for event in self.spool.events[1:]]
        query, result = "db.session.query", "db.session.result"
        self.assertEqual(
            found,
            [(query, 1, None), (result, 1, True), (query, 2, None), (result, 2, False), ("db.session.end", None, None)],
        )

    def test_strict(self) -> None:
        """A statement of a strict role waits until its record is on the disk; so does everything behind it."""
        waiting: list[Any] = []
        self.agent.around = attrs.evolve(self.agent.around, synced=waiting.append)
        role = dev_role()
        role["spec"]["options"] = {"record_session": {"default": "strict"}}
        self.agent.policy.apply({"changes": [{"type": "put", "kind": "role", "name": "dev", "resource": role}]})
        client = self.cluster.session()
        client.query(b"one")
        client.write(message(b"H"))
        self.cluster.settle()
        self.assertEqual(self.agent.database.logins[0].received, b"")
        waiting.pop()(None)
        self.cluster.settle()
        self.assertEqual(self.agent.database.logins[0].received, message(b"Q", b"one\0") + message(b"H"))
        client.query(b"two")
        self.cluster.settle()
        waiting.pop()(AuditUnavailable())
        self.refused(client, "58030")
        self.assertNotIn(b"two", self.agent.database.logins[0].received)

    def test_parameters_off(self) -> None:
        """A role can keep the values that statements are given out of the log."""
        client = self.cluster.session()
        for wanted in (True, False):
            role = dev_role()
            role["spec"]["options"] = {"record_session": {"parameters": "on" if wanted else "off"}}
            self.agent.policy.apply({"changes": [{"type": "put", "kind": "role", "name": "dev", "resource": role}]})
            self.agent.sessions[0].reconsider()
            client.write(parse(b"", b"select $1") + bind(b"", b"", [], [b"value"]) + execute(b""))
            self.cluster.settle()
            self.assertEqual(self.spool.events[-1].get("db_query_parameters"), ["value"] if wanted else None)
            self.assertEqual(self.spool.events[-1]["db_query"], "select $1")

    def test_start_before_ready(self) -> None:
        """When the start cannot be recorded, nobody is let in, and the number is not lost."""
        self.spool.full = True
        client = self.attempt()
        self.assertNotIn(b"Z", dict(client.messages))
        self.failed(client, "58030")
        self.assertEqual(self.agent.database.logins[0].received, b"")

    def test_full(self) -> None:
        """A statement that cannot be recorded goes nowhere and ends the session; the end is recorded."""
        client = self.cluster.session()
        self.spool.full = True
        client.query(b"secret")
        client.query(b"more")
        self.refused(client, "58030", "audit log")
        self.assertEqual(self.agent.database.logins[0].received, b"")
        self.assertEqual([(event["ei"], event["event"]) for event in self.spool.events][1:], [(1, "db.session.end")])
        self.assertForgotten(self.agent)

    def test_broken(self) -> None:
        """A spool that takes nothing at all ends it the same way."""
        client = self.cluster.session()
        self.spool.broken = True
        client.query(b"secret")
        self.refused(client, "58030")
        self.assertEqual(self.agent.database.logins[0].received, b"")
        self.assertEqual(len(self.spool.events), 1)

    def test_broken_refusal(self) -> None:
        """A refusal that cannot be recorded is one still."""
        self.spool.broken = True
        self.agent.allow(db_users=["other"])
        self.refused(self.attempt(), "42501")

    def test_malformed(self) -> None:
        """A message that is none of PostgreSQL's is recorded and not passed on; nor is what stands before it."""
        for junk in (b"!" + bytes(20), b"Q\0\0\0\3", message(b"Q", b"no end")):
            self.setUp()
            client = self.cluster.session()
            client.write(message(b"Q", b"before\0") + junk)
            self.refused(client, "08P01")
            self.assertEqual(self.agent.database.logins[0].received, b"")
            self.assertEqual(
                [event["event"] for event in self.spool.events][1:],
                ["db.session.malformed_packet", "db.session.end"],
            )
            self.assertForgotten(self.agent)

    def test_nothing_behind_the_end(self) -> None:
        """Bytes that were under way when the session ended are neither recorded nor passed on."""
        client = self.cluster.session()
        self.agent.database.connections[0].transport.pauseProducing()
        client.write(message(b"d", bytes(400_000)))
        client.query(b"late")
        self.cluster.settle()
        self.agent.sessions[0].cut(SessionCut("over"))
        self.cluster.settle()
        self.assertEqual([event["event"] for event in self.spool.events], ["db.session.start", "db.session.end"])
        self.agent.database.connections[0].transport.resumeProducing()
        self.assertForgotten(self.agent)

    def test_large(self) -> None:
        """A large statement is recorded in parts, and its last byte goes after the last part."""
        client = self.cluster.session()
        sql = message(b"Q", b"select '" + b"x" * 200_000 + b"'\0")
        client.write(sql)
        self.cluster.settle(5000)
        self.assertEqual(self.agent.database.logins[0].received, sql)
        parts = [event for event in self.spool.events if "part" in event]
        self.assertEqual([event["last_part"] for event in parts], [False, False, False, True])
        self.assertEqual({event["statement_id"] for event in parts}, {1})
        last = [index for index, (what, value) in enumerate(self.cluster.journal) if value == "db.session.query"][-1]
        self.assertEqual(self.cluster.journal[last + 1][0], "forwarded")


class DecisionTests(AgentCase):
    """The roles decide on the names that PostgreSQL will use."""

    def test_denied(self) -> None:
        """The client is told in one line, the log gets every reason."""
        self.agent.allow(db_users=["other"], db_names=["other"])
        event = self.failed(self.attempt(), "42501", '"app"')
        self.assertIn("db_users", event["error"] + event["message"])
        self.assertEqual((event["user"], event["roles"], event["db_user"]), ("alice", ["dev"], "app"))
        self.assertEqual(self.agent.dialling.dialled, 0)

    def test_security_row_14_effective_names(self) -> None:
        """A missing or empty database name is the user's, for the roles and the log too."""
        self.agent.allow(db_names=["app"])
        self.failed(self.attempt(), "42501")
        self.setUp()
        self.agent.allow(db_names=["app"])
        client = self.attempt(startup(database=""))
        self.assertEqual(client.messages[-1], (b"Z", b"I"))
        self.assertEqual(self.spool.events[0]["db_name"], "app")

    def test_security_row_14_other_names(self) -> None:
        """A name that the server would cut, and one of two, is decided on by nobody."""
        long = "a" * 63
        self.agent.allow(db_names=[long, f"{long}-allowed", "other"])
        self.refused(self.attempt(startup(database=f"{long}-allowed")), "42501", "71 bytes")
        self.setUp()
        body = b"\x00\x03\x00\x00" + b"user\0app\0database\0shop\0database\0other\0\0"
        self.agent.allow(db_names=["shop", "other"])
        self.refused(self.attempt((len(body) + 4).to_bytes(4, "big") + body), "08P01", "twice")

    def test_sensitive(self) -> None:
        for name, value in (("replication", "database"), ("role", "x"), ("options", "-c role=x")):
            self.setUp()
            event = self.failed(self.attempt(startup(**{name: value})), "42501", '"dev" does not allow')
            self.assertIn('role "dev": ', event["error"])

    def test_sensitive_by_name(self) -> None:
        """What a role names goes on to the database, byte by byte as it came."""
        self.agent.allow(db_names=["replication", "app"], db_users=["app", "x"])
        for name, value in (("replication", "database"), ("replication", "on"), ("role", "x"), ("options", "--role=x")):
            client = self.attempt(startup(database="app", **{name: value}))
            self.assertEqual(client.messages[-1], (b"Z", b"I"))
        said = self.attempt(startup(database="app", role="y"))
        self.refused(said, "42501", 'ask an administrator for "y" in db_users')

    def test_source_addresses(self) -> None:
        """A client has to come from where its roles want it to."""
        resource = dev_role()
        resource["spec"]["options"] = {"source_addresses": ["192.0.2.0/24"]}
        change = {"type": "put", "kind": "role", "name": "dev", "resource": resource}
        self.agent.policy.apply({"changes": [change]})
        event = self.failed(self.attempt(), "42501", "admits clients from 192.0.2.0/24 only")
        self.assertIn("source_addresses", event["error"])
        resource["spec"]["options"] = {"source_addresses": [event["addr.remote"].rpartition(":")[0]]}
        self.agent.policy.apply({"changes": [change]})
        self.assertEqual(self.attempt().messages[-1], (b"Z", b"I"))

    def test_not_heard(self) -> None:
        """An agent that never heard of any role decides nothing."""
        object.__setattr__(self.agent.around, "policy", Policy())
        self.failed(self.attempt(), "08006", "not heard from the auth service")

    def test_role_gone(self) -> None:
        """A role that is gone may have been one that denies."""
        self.agent.policy.apply({"changes": [{"type": "delete", "kind": "role", "name": "dev"}]})
        self.failed(self.attempt(), "42501", '"dev"')

    def test_role_change(self) -> None:
        """The next session is decided on the roles of then."""
        self.cluster.session()
        self.agent.allow(db_users=["other"])
        self.refused(self.attempt(), "42501")


class DatabaseTests(AgentCase):
    """Databases that cannot be reached or trusted, each in words."""

    def test_fakes(self) -> None:
        verifyObject(ICredentialSource, self.agent.credentials)

    def test_refused_connection(self) -> None:
        self.agent.dialling.refusing = True
        self.failed(self.attempt(), "08006", '"aurora"', "refused")

    def test_hangs(self) -> None:
        """A database that stops answering at any stage is given up, in words."""
        for stage, hang in HANGS.items():
            if stage == "credentials":
                continue
            self.setUp()
            hang(self.agent)
            client = self.attempt()
            self.cluster.pass_time(LOGIN_SECONDS)
            event = self.failed(client, "08006", '"aurora"')
            if stage != "handshake":
                self.assertIn("within 15 seconds", event["message"], stage)

    def test_no_tls(self) -> None:
        """Whatever is not S ends it, and of what was said before TLS nothing is repeated."""
        for answer, words in (
            (b"N", "ssl = on"),
            (error_response("FATAL", "28000", "evil words"), "answered the request for TLS with an error"),
            (b"Sglued", "ahead of TLS"),
            (b"HTTP/1.1 400", "not PostgreSQL"),
        ):
            self.setUp()
            self.agent.database.tls_answer = answer
            client = self.attempt()
            self.failed(client, "08006", words)
            self.assertNotIn(b"evil", client.heard)

    def test_closes(self) -> None:
        """A database that closes at any stage is told of."""
        for stage in ("answer to SSLRequest", "handshake", "login"):
            self.setUp()
            HANGS[stage](self.agent)
            client = self.attempt()
            self.agent.database.connections[0].transport.wire.cut()
            self.cluster.settle()
            self.failed(client, "08006")

    def test_wrong_name(self) -> None:
        self.agent.database.context = database_context("other.example")
        self.failed(self.attempt(), "08006", "does not trust", HOST, "tctl auth sign")

    def test_refuses(self) -> None:
        """What the database says passes as it came; in the log a line stays a line."""
        self.agent.database.refuse("28P01", "no\nsuch\x1b[31m user")
        client = self.attempt()
        self.assertEqual(client.heard, self.agent.database.greeting)
        (event,) = self.spool.events
        self.assertEqual((event["success"], event["message"]), (False, "no such [31m user"))
        self.assertTrue(client.gone)
        self.assertForgotten(self.agent)

    def test_refuses_late(self) -> None:
        """An error after AuthenticationOk is the database's refusal too."""
        self.agent.database.greeting = authentication(0) + error_response("FATAL", "53300", "too many")
        client = self.attempt()
        self.assertEqual(client.error["C"], "53300")
        self.assertFalse(self.spool.events[0]["success"])
        self.assertForgotten(self.agent)

    def test_wants_a_password(self) -> None:
        for code in (3, 5, 10):
            self.setUp()
            self.agent.database.greeting = authentication(code, bytes(4) if code == 5 else b"")
            self.failed(self.attempt(), "28000", "pg_hba.conf")

    def test_talks_nonsense(self) -> None:
        for greeting in (b"Q\0\0\0\4", b"R\xff\xff\xff\xff", b"S\0\0\0\3", GREETING[9:]):
            self.setUp()
            self.agent.database.greeting = greeting
            self.failed(self.attempt(), "08P01")

    def test_no_credentials(self) -> None:
        self.agent.credentials.error = DatabaseUnreachable("auth is away")
        self.failed(self.attempt(), "08006", "auth is away")

    def test_fault(self) -> None:
        """A fault is told by its id, and recorded as a failed start."""
        self.agent.credentials.error = RuntimeError("password=hunter2")
        client = self.attempt()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        event = self.failed(client, "XX000", "internal error, id ")
        self.assertNotIn("hunter2", str(event))

    def test_other_sessions_of_the_same_credentials(self) -> None:
        """A wait that is cancelled by somebody else's doing is a fault, never a silence."""
        waiting = self.agent.credentials.waiting = Deferred()
        client = self.attempt()
        waiting.cancel()
        self.cluster.settle()
        self.flushLoggedErrors()
        self.failed(client, "XX000")


class CutTests(AgentCase):
    """A session that is ended from here."""

    def cut(self) -> None:
        self.agent.sessions[0].cut(SessionCut("a lock is in force"))
        self.cluster.settle()

    def test_idle(self) -> None:
        """The client is told, the end recorded with the reason, the database let go."""
        client = self.cluster.session()
        client.query()
        self.cluster.settle()
        self.cut()
        self.refused(client, "57P01", "a lock is in force")
        self.assertEqual(self.spool.events[-1]["reason"], "a lock is in force")
        self.assertForgotten(self.agent)

    def test_security_row_16_reconsidered(self) -> None:
        """A session goes on as long as it would be let in now, and is told why it does not."""
        lock = {"kind": "lock", "metadata": {"name": "l"}, "spec": {"target": {"user": "alice"}, "message": "on leave"}}
        changes: tuple[tuple[Any, str], ...] = (
            ({"type": "put", "kind": "lock", "name": "l", "resource": lock}, 'user "alice" is locked: on leave'),
            ({"type": "delete", "kind": "user", "name": "alice"}, "is not in this cluster any more"),
            (put_user("alice", ("other",)), 'role "other"'),
            (
                {"type": "put", "kind": "role", "name": "dev", "resource": dev_role(db_names=["other"])},
                'database "shop"',
            ),
        )
        for change, words in changes:
            self.setUp()
            client = self.cluster.session()
            (session,) = self.agent.sessions
            session.reconsider()
            self.cluster.settle()
            self.assertFalse(client.gone)
            self.agent.policy.apply({"changes": [change]})
            session.reconsider()
            self.cluster.settle()
            self.refused(client, "57P01", words)
            self.assertIn(words, self.spool.events[-1]["reason"])

    def test_before_login(self) -> None:
        """A session that was not let in yet is a failed start."""
        for stage, hang in HANGS.items():
            self.setUp()
            hang(self.agent)
            client = self.attempt()
            self.cut()
            self.failed(client, "57P01")
            self.assertEqual(self.agent.dialling.cancelled, int(stage == "dialling"))

    def test_within_a_result(self) -> None:
        """No word of ours falls into a row: a client would take it for the row's value."""
        self.agent.database.answer = lambda session, data: session.transport.write(message(b"D", bytes(300))[:100])
        client = self.cluster.session()
        client.query()
        self.cluster.settle()
        before = client.heard
        self.cut()
        self.assertEqual(client.heard, before)
        self.assertTrue(client.gone)
        self.assertForgotten(self.agent)

    def test_between_rows(self) -> None:
        """After whole messages the client is told."""
        self.agent.database.answer = lambda session, data: session.transport.write(message(b"D", bytes(300)) * 2)
        client = self.cluster.session()
        client.query()
        self.cluster.settle()
        self.cut()
        self.refused(client, "57P01")
        self.assertForgotten(self.agent)

    def test_twice(self) -> None:
        client = self.cluster.session()
        session = self.agent.sessions[0]
        for _ in range(3):
            session.cut(SessionCut("over"))
            session.client_lost()
        self.refused(client, "57P01")
        self.assertForgotten(self.agent)

    def test_client_that_takes_nothing(self) -> None:
        """... is not waited for."""
        client = self.cluster.session()
        self.cluster.wires.remove(self.agent.wire)
        self.agent.database.logins[0].transport.write(message(b"D", bytes(300_000)))
        self.cluster.settle()
        session = self.agent.sessions[0]
        session.cut(SessionCut("over"))
        self.assertEqual(self.agent.sessions, [])
        self.cluster.clock.advance(CLOSING_SECONDS)
        self.cluster.clock.advance(0)
        self.assertEqual(self.agent.tunnel.stream_count, 1)
        client.wire.cut()

    def test_database_that_takes_nothing(self) -> None:
        """... neither, once the session is cut; what a client said before it went may still be taken until then."""
        client = self.cluster.session()
        connection = self.agent.database.connections[0]
        connection.transport.pauseProducing()
        client.write(message(b"d", bytes(300_000)))
        self.cluster.settle()
        client.wire.cut()
        self.cluster.settle()
        self.assertIsNone(connection.reason)
        (session,) = self.agent.sessions
        session.cut(SessionCut("over"))
        self.cluster.pass_time(CLOSING_SECONDS)
        self.assertForgotten(self.agent)

    def test_answer_is_there(self) -> None:
        """What the database had answered arrives before the word of the cut."""
        client = self.cluster.session()
        client.query()
        self.cluster.settle()
        self.cut()
        self.assertIn(ANSWER, client.heard)
