"""A library of hostile clients: what they say reaches nobody's session but their own, and costs no memory.

Beside each runs a session of somebody else's through the same proxy and agent, which goes on.
"""

from __future__ import annotations

import struct
from typing import Any

from teleport_db.pgwire.frontend import MAX_PART
from teleport_db.pgwire.messages import (
    FLUSH,
    GSSENC_REQUEST,
    SSL_REQUEST,
    SYNC,
    TERMINATE,
    cancel_request,
    message,
    parse_error,
)
from teleport_db.proxy.frontend import MAX_EARLY
from teleport_db.proxy.sniffer import OPENING_SECONDS
from tests.cluster import ANSWER, Client, Peer, answer_queries, startup
from tests.pgwire.wire import COPY_DONE, bind, copy_data, execute, function_call, parse, query
from tests.pgwire.wire import startup as pairs
from tests.proxy.test_frontend import FrontendCase

APP, SHOP = (b"user", b"app"), (b"database", b"shop")
BROKEN, DENIED = "08P01", "42501"


def header(kind: bytes, length: int) -> bytes:
    """A message's first five bytes, and nothing behind them."""
    return kind + struct.pack(">I", length)


#: What comes before TLS -> the SQLSTATE, None for an end without a word.
FIRST_BYTES: dict[str, tuple[bytes, str | None]] = {
    "a startup in the clear": (startup(), "28000"),
    "length 0": (bytes(4), BROKEN),
    "length 7": (struct.pack(">I", 7), BROKEN),
    "length 10,005": (struct.pack(">I", 10_005), BROKEN),
    "length 2^31": (struct.pack(">I", 1 << 31), BROKEN),
    "length -1": (b"\xff" * 4, BROKEN),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", BROKEN),
    "SSH": (b"SSH-2.0-x\r\n", BROKEN),
    "a line of a load balancer": (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", BROKEN),
    "protocol 2": (pairs(APP, version=2 << 16), BROKEN),
    "protocol 4": (pairs(APP, version=4 << 16), BROKEN),
    "SSLRequest and a startup behind it": (SSL_REQUEST + startup(), BROKEN),
    "SSLRequest twice at once": (SSL_REQUEST * 2, BROKEN),
    "GSSENCRequest and a startup behind it": (GSSENC_REQUEST + startup(), BROKEN),
    "a request of another size": (struct.pack(">II", 12, 80877103) + bytes(4), BROKEN),
    "a cancel without a secret": (struct.pack(">III", 12, 80877102, 1), BROKEN),
    "a cancel with 257 bytes": (struct.pack(">III", 12 + 257, 80877102, 1) + bytes(257), BROKEN),
    "a cancel of nobody": (cancel_request(1, b"abcd"), None),
    "a cancel and more": (cancel_request(1, b"abcd") + b"more", BROKEN),
    "TLS that is none": (b"\x16" * 5, None),
    "a record of 64 KiB": (b"\x16\x03\x01\xff\xff" + bytes(20_000), None),
    "a hello of 16 MiB": (b"\x16\x03\x01\x40\0\x01\xff\xff\xff" + bytes(16_380), None),
    "a hello in a thousand records": (b"\x16\x03\x01\0\x01\x01" * 1000, None),
}

#: What comes inside TLS instead of a startup -> the SQLSTATE.
STARTUPS: dict[str, tuple[bytes, str]] = {
    "length 3": (struct.pack(">I", 3), BROKEN),
    "length 10,005": (struct.pack(">I", 10_005), BROKEN),
    "length -1": (b"\xff" * 4, BROKEN),
    "a query": (query(b"SELECT 1"), BROKEN),
    "SSLRequest": (SSL_REQUEST, BROKEN),
    "GSSENCRequest": (GSSENC_REQUEST, BROKEN),
    "protocol 2": (pairs(APP, SHOP, version=2 << 16), BROKEN),
    "no parameters": (pairs(), ""),
    "no user": (pairs(SHOP), ""),
    "an empty user": (pairs((b"user", b""), SHOP), ""),
    "no end": (struct.pack(">II", 16, 3 << 16) + b"user\0app", BROKEN),
    "a name without a value": (struct.pack(">II", 14, 3 << 16) + b"user\0\0", ""),
    "more behind the end": (struct.pack(">II", 8 + 20, 3 << 16) + b"user\0app\0\0user\0root\0\0", BROKEN),
    "two users": (pairs(APP, (b"user", b"postgres"), SHOP), BROKEN),
    "two databases": (pairs(APP, SHOP, (b"database", b"postgres")), BROKEN),
    "a user that would be cut": (pairs((b"user", b"x" * 64), SHOP), DENIED),
    "a database that would be cut": (pairs(APP, (b"database", b"x" * 64)), DENIED),
    "a user that is no text": (pairs((b"user", b"\xff\xfe"), SHOP), ""),
    "another user": (pairs((b"user", b"postgres"), SHOP), DENIED),
    "another role": (pairs(APP, SHOP, (b"role", b"postgres")), DENIED),
    "another role in capitals": (pairs(APP, SHOP, (b"ROLE", b"postgres")), DENIED),
    "another role in the options": (pairs(APP, SHOP, (b"options", b"-c search_path=x -crole=postgres")), DENIED),
    "another role, escaped": (pairs(APP, SHOP, (b"options", b"-c ro\\le=postgres")), DENIED),
    "another session user": (pairs(APP, SHOP, (b"options", b"--session-authorization=postgres")), DENIED),
    "replication": (pairs(APP, SHOP, (b"replication", b"true")), DENIED),
    "logical replication": (pairs(APP, SHOP, (b"replication", b"database")), DENIED),
    "replication in a word of its own": (pairs(APP, SHOP, (b"replication", b"ON")), DENIED),
}

#: What comes in a session -> the SQLSTATE that ends it, None where it is PostgreSQL's to answer.
MESSAGES: dict[str, tuple[bytes, str | None]] = {
    **{
        f"type 0x{kind:02x}": (message(bytes([kind]), b"\0\0\0\0"), BROKEN)
        for kind in b"\0\1AGIJKLMNORTUVWYZ\x7f\x80\xff"
    },
    **{
        f"length {length} of {kind.decode()}": (header(kind, length), BROKEN)
        for kind in (b"Q", b"P", b"B", b"E", b"F", b"S", b"d", b"X", b"p")
        for length in (0, 3, 1 << 30, 1 << 31, (1 << 32) - 1)
    },
    "a query without an end": (message(b"Q", b"SELECT 1"), BROKEN),
    "two queries in one": (message(b"Q", b"SELECT 1\0DROP TABLE t\0"), BROKEN),
    "an empty body": (message(b"Q"), BROKEN),
    "a long query with another within": (message(b"Q", b"x" * MAX_PART + b"\0DROP TABLE t\0"), BROKEN),
    "a parse without an end": (message(b"P", b"s\0SELECT 1"), BROKEN),
    "a parse with types that are not there": (message(b"P", b"s\0SELECT 1\0\xff\xff"), BROKEN),
    "a parse with more": (parse(b"s", b"SELECT 1")[:1] + header(b"", 18) + b"s\0SELECT 1\0\0\0xy", BROKEN),
    "a bind with values that are not there": (message(b"B", b"p\0s\0\0\0\0\1\x7f\xff\xff\xff"), BROKEN),
    "a bind with a negative value": (message(b"B", b"p\0s\0\0\0\0\1\xff\xff\xff\xfe\0\0"), BROKEN),
    "a bind with too many values": (message(b"B", b"p\0s\0\0\0\xff\xff"), BROKEN),
    "an execute without a limit": (message(b"E", b"p\0"), BROKEN),
    "an execute of 10,001 bytes": (header(b"E", 10_001), BROKEN),
    "a close of nothing": (message(b"C", b"Xp\0"), BROKEN),
    "a describe without an end": (message(b"D", b"Sp"), BROKEN),
    "a function's call cut short": (function_call(1, [b"abcd"])[:1] + header(b"", 12) + b"\0\0\0\1\0\1\0\1", BROKEN),
    "a COPY nobody asked for": (copy_data(b"x" * 1000) * 100 + COPY_DONE + message(b"f", b"no\0"), None),
    "messages that look like others": (copy_data(query(b"DROP TABLE t")), None),
    "a password nobody asked for": (message(b"p", b"secret\0"), None),
    "flushes": (FLUSH * 1000, None),
    "syncs": (SYNC * 100, None),
    "names that were never given": (execute(b"nobody") + bind(b"p", b"nobody") + SYNC, None),
    "a name used again": (parse(b"s", b"SELECT 1") + parse(b"s", b"SELECT 2") + SYNC, None),
    "bytes that are no text": (query(b"\xff\xfe\xfd"), None),
    "a statement in the middle of nothing": (query(b""), None),
}


class HostileClientTests(FrontendCase):
    """Each case against a cluster in which somebody else is at work."""

    def setUp(self) -> None:
        super().setUp()
        self.agent = self.cluster.agent()
        self.other = self.cluster.session()
        (self.good,) = self.agent.database.logins

    def assertOthersGoOn(self, case: Any) -> None:
        before = self.other.heard
        self.other.query()
        self.cluster.settle()
        self.assertEqual(self.other.heard, before + ANSWER, case)

    def leave(self) -> None:
        self.other.tls.loseConnection()
        self.assertForgotten(self.agent)

    def test_first_bytes(self) -> None:
        """Before TLS, at every division of the shorter ones: refused in words or closed, and nothing is dialled."""
        dialled = self.agent.dialling.dialled
        for case, (said, sqlstate) in FIRST_BYTES.items():
            for cut in range(1, min(len(said), 24)):
                peer = Peer()
                wire = self.cluster.dial(peer)
                for piece in (said[:cut], said[cut:]):
                    peer.transport.write(piece)
                    self.cluster.settle()
                # A request that was cut off from what is glued behind it is answered by itself.
                answered = peer.received.lstrip(b"SN")
                if sqlstate is not None and answered:
                    # ... and what was glued may be refused for what it is.
                    self.assertIn(parse_error(answered[5:])["C"], (sqlstate, "28000"), case)
                self.assertTrue(sqlstate or not peer.received, case)
                wire.cut()
            peer = Peer()
            self.cluster.dial(peer)
            peer.transport.write(said)
            self.cluster.settle()
            if sqlstate is not None:
                self.assertEqual(parse_error(peer.received[5:])["C"], sqlstate, case)
            self.assertIsNotNone(peer.reason, case)
        self.assertEqual(self.agent.dialling.dialled, dialled)
        self.assertOthersGoOn("first bytes")
        self.leave()

    def test_slowly(self) -> None:
        """Byte by byte, a second each: no first word takes longer than its time."""
        for said in (startup(), SSL_REQUEST + startup(), b"\x16\x03\x01\x02\0\x01\0\x01\xfc" + bytes(500)):
            peer = Peer()
            self.cluster.dial(peer)
            for byte in said[: int(OPENING_SECONDS) + 1]:
                if peer.reason is None:
                    peer.transport.write(bytes([byte]))
                    self.cluster.settle()
                    self.cluster.clock.advance(1)
                    self.cluster.settle()
            self.assertIsNotNone(peer.reason)
        self.assertOthersGoOn("slowly")
        self.leave()

    def started(self, said: bytes) -> Client:
        """A client with alice's certificate that says this inside TLS."""
        client = self.cluster.client()
        client.write(said)
        self.cluster.settle()
        return client

    def test_startups(self) -> None:
        """Inside TLS, with a good certificate: refused in words, and the database is never asked."""
        dialled = self.agent.dialling.dialled
        for case, (said, sqlstate) in STARTUPS.items():
            client = self.started(said)
            self.assertTrue(client.gone, case)
            found = client.error
            self.assertTrue(found["C"] in ((sqlstate,) if sqlstate else ("08P01", "28000", "42501")), (case, found))
        self.assertEqual(self.agent.dialling.dialled, dialled)
        self.assertOthersGoOn("startups")
        self.leave()

    def test_early_flood(self) -> None:
        """What comes ahead of the answer to the startup is bounded."""
        self.agent.dialling.hanging = True
        client = self.started(startup() + query(b"SELECT 1") * 10)
        for _ in range(100):
            client.write(copy_data(bytes(16_000)))
        self.cluster.settle(16384)
        held = len(client.wire.client.outgoing)
        self.assertGreater(held, 1_600_000 - 8 * MAX_EARLY)
        self.assertOthersGoOn("early flood")
        client.wire.cut()
        self.cluster.settle()
        self.leave()

    def test_messages(self) -> None:
        """In a session: what is no message ends it and is recorded, and of its chunk nothing reaches the database."""
        for case, (said, sqlstate) in MESSAGES.items():
            client = self.cluster.session()
            database = self.agent.database.logins[-1]
            self.agent.database.answer = None
            client.write(query(b"before") if sqlstate is None else said)
            if sqlstate is None:
                client.write(said)
            self.cluster.settle()
            if sqlstate is None:
                self.assertFalse(client.gone, case)
                self.assertEqual(database.received, query(b"before") + said, case)
            else:
                self.assertTrue(client.gone, case)
                self.assertEqual(client.error["C"], sqlstate, (case, client.error))
                # Of a long one the parts that were recorded have gone on, and no end that would make them run.
                self.assertLess(len(database.received), max(1, len(said) - 10), case)
                [malformed] = [
                    event for event in self.agent.spool.events if event["event"].endswith(".malformed_packet")
                ][-1:]
                self.assertEqual(malformed["sid"], self.agent.spool.events[-1]["sid"], case)
            client.wire.cut()
            self.cluster.settle()
            self.agent.database.answer = answer_queries
            self.assertOthersGoOn(case)
        self.leave()

    def test_behind_the_end(self) -> None:
        """What stands behind Terminate is not a session's any more; the server decides, and then it is gone."""
        client = self.cluster.session()
        client.write(TERMINATE + query(b"DROP TABLE t"))
        self.cluster.settle()
        client.wire.cut()
        self.cluster.settle()
        self.assertOthersGoOn("terminate")
        self.leave()

    def test_giant_messages(self) -> None:
        """The longest message there may be streams on and costs a part of it; one that never ends holds nobody up."""
        for kind in (b"Q", b"P", b"B", b"F", b"d"):
            client = self.cluster.session()
            database = self.agent.database.logins[-1]
            beginning = header(kind, 0x3FFFFFFF) + {b"P": b"s\0", b"B": b"p\0s\0"}.get(kind, b"")
            client.write(beginning)
            for _ in range(40):
                client.write(b"x" * 16_000)
                self.cluster.settle()
            self.assertFalse(client.gone, kind)
            kept = len(beginning) + 640_000 - len(database.received)
            self.assertLess(kept, 2 * MAX_PART, kind)
            self.assertOthersGoOn(kind)
            client.wire.cut()
        self.leave()

    def test_no_tls_any_more(self) -> None:
        """Bytes beside TLS end the session."""
        for garbage in (b"\x17\x03\x03\0\5xxxxx", b"garbage", b"\x15\x03\x03\0\2\2\x50", b"\x16" * 20_000, SSL_REQUEST):
            client = self.cluster.session()
            client.transport.write(garbage)
            self.cluster.settle()
            client.wire.cut()
            self.cluster.settle()
            self.assertEqual(len(self.agent.sessions), 1, garbage[:20])
            self.assertOthersGoOn("garbage")
        self.leave()

    def test_ends_anywhere(self) -> None:
        """A client that dies within a message leaves nothing that runs."""
        said = query(b"DELETE FROM t")
        for cut in range(1, len(said)):
            client = self.cluster.session()
            client.write(said[:cut])
            client.transport.loseConnection()
            self.cluster.settle()
            self.assertNotIn(b"DELETE", self.agent.database.logins[-1].received)
        self.assertOthersGoOn("ends")
        self.leave()
