"""A library of hostile servers: each may end its own session, and nothing else.

Beside each runs a session of somebody else's at the same agent, which goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs
from twisted.internet.defer import succeed

from teleport_db.db.backend import LOGIN_SECONDS
from teleport_db.errors import SessionCut
from teleport_db.pgwire.authentication import METHODS
from teleport_db.pgwire.messages import (
    AUTHENTICATION_CLEARTEXT,
    AUTHENTICATION_OK,
    authentication,
    backend_key_data,
    error_response,
    message,
    negotiate_protocol_version,
    parameter_status,
    ready_for_query,
)
from tests.cluster import ANSWER, GREETING, Client, DatabaseSession, answer_queries, database_context
from tests.db.test_session import AgentCase
from tests.pgwire.wire import copy_data

BROKEN, UNREACHABLE, REFUSED = "08P01", "08006", "28000"
OK, READY = AUTHENTICATION_OK, ready_for_query()
STATUS = parameter_status(b"a", b"b")
KEY = backend_key_data(1, b"abcd")
NOTICE = message(b"N", b"SNOTICE\0M" + b"x" * 60_000 + b"\0\0")
EVIL = "visit evil.example"
OFFER = authentication(10, b"SCRAM-SHA-256\0\0")


def header(kind: bytes, length: int) -> bytes:
    """A message's first five bytes, and nothing behind them."""
    return kind + struct.pack(">I", length)


#: What stands instead of S -> the client's SQLSTATE; nothing of it is repeated.
BEFORE_TLS: dict[str, bytes] = {
    "no TLS": b"N",
    "an error that anybody may have written": error_response("FATAL", "28000", EVIL),
    "an error of protocol 2": b"E" + EVIL.encode() + b"\n\0",
    "bytes ahead of TLS": b"S" + OK,
    "a second S": b"SS",
    "GSSAPI": b"G",
    "another protocol": b"220 " + EVIL.encode() + b"\r\n",
    "TLS without being asked": b"\x16\x03\x03\0\1\0",
    "everything": b"x" * 100_000,
}

#: What stands instead of a login -> the client's SQLSTATE.
LOGINS: dict[str, tuple[bytes, str]] = {
    "length 0": (header(b"R", 0), BROKEN),
    "length 3": (header(b"R", 3), BROKEN),
    "length beyond the bound": (header(b"N", 65537), BROKEN),
    "length of a gigabyte": (header(b"E", 0x3FFFFFFF), BROKEN),
    "negative length": (header(b"S", 0x80000000), BROKEN),
    "length -1": (header(b"K", 0xFFFFFFFF), BROKEN),
    "a row before the login": (message(b"D", b"\0\0"), BROKEN),
    "ready before the login": (READY, BROKEN),
    "a key before the login": (KEY, BROKEN),
    "a parameter before the login": (STATUS, BROKEN),
    "CopyInResponse in the login": (OK + message(b"G", b"\0\0\0"), BROKEN),
    "CopyBothResponse in the login": (OK + message(b"W", b"\0\0\0"), BROKEN),
    "a client's message": (message(b"Q", b"SELECT 1\0"), BROKEN),
    "an unknown type": (message(b"\0"), BROKEN),
    "let in twice": (OK + OK, BROKEN),
    "a password asked for behind the login": (OK + AUTHENTICATION_CLEARTEXT, BROKEN),
    "a login without a code": (message(b"R", b"\0\0"), BROKEN),
    "a login with more": (authentication(0, b"more"), BROKEN),
    "an unknown method": (authentication(99), REFUSED),
    "Kerberos": (authentication(2), REFUSED),
    "GSSAPI": (authentication(7), REFUSED),
    "SSPI": (authentication(9), REFUSED),
    "a salt of three bytes": (authentication(5, b"abc"), BROKEN),
    "SCRAM from its middle": (authentication(11, b"r=x,s=eA==,i=1"), BROKEN),
    "SCRAM from its end": (authentication(12, b"v=eA=="), BROKEN),
    "SCRAM that proves nothing": (OFFER + OK, BROKEN),
    "SCRAM and then the password in clear": (OFFER + AUTHENTICATION_CLEARTEXT, BROKEN),
    "SCRAM twice": (OFFER + OFFER, BROKEN),
    "no mechanism": (authentication(10, b"\0"), REFUSED),
    "a mechanism nobody has heard of": (authentication(10, b"SCRAM-SHA-512\0\0"), REFUSED),
    "mechanisms that do not end": (authentication(10, b"SCRAM-SHA-256\0"), BROKEN),
    "thousands of mechanisms": (authentication(10, b"X\0" * 30_000 + b"\0"), REFUSED),
    "versions negotiated twice": (negotiate_protocol_version(0) * 2, BROKEN),
    "versions negotiated behind the login": (OK + negotiate_protocol_version(0), BROKEN),
    "two keys": (OK + KEY + KEY, BROKEN),
    "a key of three bytes": (OK + message(b"K", bytes(7)), BROKEN),
    "a key of 257 bytes": (OK + message(b"K", bytes(261)), BROKEN),
    "ready without a state": (OK + message(b"Z"), BROKEN),
    "ready in no state there is": (OK + message(b"Z", b"X"), BROKEN),
    "notices without end": (NOTICE * 20, BROKEN),
    "parameters without end": (OK + parameter_status(b"a", b"x" * 60_000) * 20, BROKEN),
    "small parameters without end": (OK + STATUS * 150_000, BROKEN),
    "an error in no form": (message(b"E", b"\xff" * 5000), ""),
    "an error that does not end": (message(b"E", b"SFATAL\0C28000\0Mno"), ""),
    "an error of protocol 2": (b"Ecould not fork new process for connection\n\0", BROKEN),
}

#: What comes behind a query -> the client's SQLSTATE, or None where it goes on as it would directly.
ANSWERS: dict[str, tuple[bytes, str | None]] = {
    "length 0": (header(b"D", 0), BROKEN),
    "length 3": (header(b"C", 3), BROKEN),
    "length -1": (header(b"D", 0xFFFFFFFF), BROKEN),
    "length 2^31": (header(b"T", 0x80000000), BROKEN),
    "a gigabyte that never comes": (header(b"D", 0x3FFFFFFF) + b"x" * 1000, None),
    "half a header": (b"D\0\0", None),
    "its key, once more": (KEY + ANSWER, None),
    "a login": (OK + ANSWER, None),
    "a password asked for": (AUTHENTICATION_CLEARTEXT + ANSWER, None),
    "parameters": (STATUS * 1000 + ANSWER, None),
    "notices": (NOTICE * 20 + ANSWER, None),
    "notifications": (message(b"A", b"\0\0\0\1c\0x\0") * 1000 + ANSWER, None),
    "rows without a description": (message(b"D", b"\0\0") * 10_000 + ANSWER, None),
    "an error in no form": (message(b"E", b"\xff" * 5000) + READY, None),
    "a tag in no form": (message(b"C", b"\xff" * 5000) + READY, None),
    "a tag of no number": (message(b"C", b"SELECT 99999999999999999999999\0") + READY, None),
    "data of a COPY nobody asked for": (copy_data(b"x") * 1000 + message(b"c") + ANSWER, None),
    "a COPY that is answered too": (message(b"H", b"\0\0\0") + copy_data(b"x") + ANSWER, None),
}

#: What a server says unasked, or too often: it may be relayed or end the session, and no more.
UNASKED: dict[str, bytes] = {
    "ready a thousand times": READY * 1000,
    "answers without questions": ANSWER * 1000,
    "parse, bind and close": message(b"1") + message(b"2") + message(b"3"),
    "a COPY both ways": message(b"W", b"\0\0\0") + copy_data(b"x") * 10,
    "a COPY in": message(b"G", b"\0\0\0"),
    "a function's result": message(b"V", b"\xff\xff\xff\xff") + READY,
    "a portal suspended": message(b"s") + READY,
    "an empty query": message(b"I") + READY,
    "types of parameters": message(b"t", b"\xff\xff") + READY,
    "a description cut short": message(b"T", b"\xff\xff") + READY,
    "a client's messages": message(b"Q", b"DROP TABLE t\0") + message(b"X"),
    "every type there is": b"".join(message(bytes([kind]), b"\0\0\0\0") for kind in range(256)),
}


class HostileServerTests(AgentCase):
    """Each case against a cluster in which somebody else is at work."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.cluster.session()
        (self.good,) = self.agent.database.logins

    def answering(self, answer: Callable[[DatabaseSession, bytes], None]) -> None:
        """How the server answers from now on; the other session is answered as ever."""

        def choose(session: DatabaseSession, data: bytes) -> None:
            (answer_queries if session is self.good else answer)(session, data)

        self.agent.database.answer = choose

    def attempted(self, *, secret: bool = False) -> Client:
        """Another session of alice's; ``secret``: with a password in the agent's hand."""
        if secret:
            self.agent.credentials.waiting = None
            given = self.successResultOf(self.agent.credentials.credentials_for(None, "app"))
            self.agent.credentials.waiting = succeed(attrs.evolve(given, password=b"hunter2", methods=METHODS))
        client = self.cluster.client()
        client.startup()
        self.cluster.settle()
        return client

    def assertOthersGoOn(self, case: str) -> None:
        before = self.other.heard
        self.other.query()
        self.cluster.settle()
        self.assertEqual(self.other.heard, before + ANSWER, case)

    def assertFailed(self, client: Client, sqlstate: str, case: str) -> None:
        """The client was told in words of ours, and the log has a failed start."""
        self.assertTrue(client.gone, case)
        found = client.error
        if sqlstate:
            self.assertEqual(found["C"], sqlstate, (case, found))
        self.assertNotIn("evil", str(found), case)
        self.assertNotIn("hunter2", str(found), case)
        event = self.agent.spool.events[-1]
        self.assertEqual((event["event"], event["success"]), ("db.session.start", False), case)
        self.assertOthersGoOn(case)

    def leave(self) -> None:
        self.other.tls.loseConnection()
        self.assertForgotten(self.agent)

    def test_before_tls(self) -> None:
        """There is no fallback to plaintext, and what was said there is not repeated."""
        for case, answer in BEFORE_TLS.items():
            self.agent.database.tls_answer = answer
            self.assertFailed(self.attempted(), UNREACHABLE, case)
        self.leave()

    def test_other_tls(self) -> None:
        """A certificate for another name, and none of PostgreSQL's."""
        self.agent.database.context = database_context("other.example")
        self.assertFailed(self.attempted(), UNREACHABLE, "name")
        self.leave()

    def test_login(self) -> None:
        """Whatever stands instead of a login, for an agent with a password to give and without one."""
        for secret in (False, True):
            for case, (greeting, sqlstate) in LOGINS.items():
                self.agent.database.greeting = greeting
                self.answering(lambda session, data: None)
                client = self.attempted(secret=secret)
                self.cluster.pass_time(LOGIN_SECONDS if not client.gone else 0)
                # Without a secret every request for one is refused, whatever stands behind it.
                either = not secret and greeting[:1] == b"R" and not greeting.startswith(OK)
                self.assertFailed(client, "" if either else sqlstate, f"{case}, secret: {secret}")
        self.leave()

    def test_silence(self) -> None:
        """A server that stops at any byte of its login is given up, in words."""
        for cut in (0, 1, 5, len(OK), len(OK) + 4, len(GREETING) - 1):
            self.agent.database.greeting = GREETING[:cut]
            client = self.attempted()
            self.cluster.pass_time(LOGIN_SECONDS)
            self.assertFailed(client, UNREACHABLE, str(cut))
        self.leave()

    def test_scram(self) -> None:
        """A server that does not know the password: it orders too much work, forges, repeats, proves nothing."""

        def first(nonce: bytes) -> bytes:
            return b"r=" + nonce + b"more,s=c2FsdA==,i="

        steps: dict[str, list[Callable[[bytes], bytes]]] = {
            "2^31 iterations": [lambda nonce: authentication(11, first(nonce) + b"2147483648")],
            "no iterations": [lambda nonce: authentication(11, first(nonce) + b"0")],
            "a nonce of its own": [lambda nonce: authentication(11, first(b"own") + b"1")],
            "our nonce alone": [lambda nonce: authentication(11, b"r=" + nonce + b",s=c2FsdA==,i=1")],
            "a mandatory extension": [lambda nonce: authentication(11, b"m=x," + first(nonce) + b"1")],
            "no salt": [lambda nonce: authentication(11, b"r=" + nonce + b"more,i=1")],
            "a salt without end": [lambda nonce: authentication(11, first(nonce) + b"1,x=" + b"y" * 60_000)],
            "its end first": [lambda nonce: authentication(12, b"v=" + b"QUFB" * 11)],
            "let in without a proof": [lambda nonce: authentication(11, first(nonce) + b"1"), lambda _: GREETING],
            "a wrong proof": [
                lambda nonce: authentication(11, first(nonce) + b"1"),
                lambda _: authentication(12, b"v=" + b"QUFB" * 10 + b"QUE=") + GREETING,
            ],
            "the same again": [lambda nonce: authentication(11, first(nonce) + b"1")] * 2,
            "the password in clear": [
                lambda nonce: authentication(11, first(nonce) + b"1"),
                lambda _: AUTHENTICATION_CLEARTEXT,
            ],
        }
        self.agent.database.greeting = OFFER
        for case, script in steps.items():
            left = list(script)

            def answer(session: DatabaseSession, data: bytes, left: list[Callable[[bytes], bytes]] = left) -> None:
                if left:
                    session.transport.write(left.pop(0)(data.rpartition(b"r=")[2]))

            self.answering(answer)
            client = self.attempted(secret=True)
            self.assertEqual(left, [], case)
            self.assertFailed(client, "", case)
            self.assertNotIn(b"hunter2", b"".join(data for kind, data in self.cluster.journal if kind == "forwarded"))
        self.leave()

    def running(self, said: bytes) -> Client:
        """A session whose server answers its first query with this."""
        self.answering(lambda session, data: session.transport.write(said) if data[:1] == b"Q" else None)
        client = self.attempted()
        self.assertEqual(client.messages[-1], (b"Z", b"I"))
        client.query()
        self.cluster.settle()
        return client

    def test_answers(self) -> None:
        """What breaks the framing ends the session in words; all else goes on byte by byte."""
        for case, (said, sqlstate) in ANSWERS.items():
            client = self.running(said)
            if sqlstate is None:
                self.assertTrue(client.heard.endswith(said), case)
                self.assertFalse(client.gone, case)
            else:
                self.assertTrue(client.gone, case)
                self.assertEqual(client.error["C"], sqlstate, case)
            self.assertOthersGoOn(case)
            client.wire.cut()
        self.leave()

    def test_unasked(self) -> None:
        """Answers that belong to nothing: relayed as they are, or the end of that session."""
        for case, said in UNASKED.items():
            for behind in (False, True):
                client = self.running(ANSWER + said) if behind else self.running(said)
                ended = client.gone and client.messages[-1][0] == b"E"
                self.assertTrue(ended or client.heard.endswith(said), case)
                self.assertOthersGoOn(case)
                client.wire.cut()
        self.leave()

    def test_ends_anywhere(self) -> None:
        """A server that ends within a message ends the session; nothing is made up behind its last byte."""
        for cut in range(1, len(ANSWER)):
            client = self.running(ANSWER[:cut])
            self.agent.database.logins[-1].transport.loseConnection()
            self.cluster.settle()
            self.assertTrue(client.gone and client.heard.endswith(ANSWER[:cut]), cut)
            self.assertOthersGoOn(str(cut))
        self.leave()

    def test_no_tls_any_more(self) -> None:
        """Bytes beside TLS end the session without a word of theirs."""
        for garbage in (b"\x17\x03\x03\0\5xxxxx", EVIL.encode(), b"\x15\x03\x03\0\2\2\x50", b"\x16" * 20_000):
            client = self.running(ANSWER)
            self.agent.database.connections[-1].transport.write(garbage)
            self.cluster.settle()
            self.assertTrue(client.gone, garbage[:20])
            self.assertNotIn(b"evil", client.heard)
            self.assertOthersGoOn("garbage")
        self.leave()

    def test_cut_within_a_row(self) -> None:
        """A session whose server stands within a row is cut without a word that would look like a row's."""
        client = self.running(header(b"D", 100_000) + b"x" * 10)
        heard = client.heard
        [mine] = [session for session in self.agent.sessions if session is not self.agent.sessions[0]]
        mine.cut(SessionCut("over"))
        self.cluster.settle()
        self.assertTrue(client.gone)
        self.assertEqual(client.heard, heard)
        self.assertOthersGoOn("cut")
        self.leave()

    def test_endless(self) -> None:
        """An answer without end stops at a client that does not read."""
        client = self.running(b"")
        client.transport.pauseProducing()
        session, chunk = self.agent.database.logins[-1], message(b"D", bytes(16_000))
        for _ in range(100):
            session.transport.write(chunk)
        self.cluster.settle()
        written = len(client.heard)
        client.transport.resumeProducing()
        self.cluster.settle()
        self.assertEqual(len(client.heard) - written, 100 * len(chunk))
        self.assertOthersGoOn("endless")
        client.wire.cut()
        self.leave()
