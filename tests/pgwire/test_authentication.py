"""Requests for a password during a login, and what is answered."""

from __future__ import annotations

import hashlib
import struct

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import AuthenticationFailed, LocalProtocolError, RemoteProtocolError, TeleportDBError
from teleport_db.pgwire import authentication, messages
from teleport_db.pgwire.authentication import METHODS
from teleport_db.pgwire.login import BackendLogin, Derivation, Done, LoginEvent, Refused, Relay, Secret, Send
from tests.pgwire.scramserver import ScramServer
from tests.pgwire.wire import cuts, startup

STARTUP = startup((b"user", b"bob"), (b"database", b"db"))
END = messages.AUTHENTICATION_OK + messages.ready_for_query()
BOUND = b"b" * 32
ERROR = messages.error_response("FATAL", "28P01", 'password authentication failed for user "bob"')
OFFER = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"


def begin(*methods: str, password: bytes = b"hunter2") -> BackendLogin:
    login = BackendLogin(STARTUP, secret=Secret(password, methods or METHODS, "nonce", BOUND))
    login.start()
    return login


def sasl(code: int, data: bytes) -> bytes:
    return messages.authentication(code, data)


def sent(events: list[LoginEvent]) -> bytes:
    """The body of the one message to send."""
    [event] = events
    assert isinstance(event, Send) and event.data[:1] == b"p", event
    assert struct.unpack(">I", event.data[1:5])[0] == len(event.data) - 1
    return event.data[5:]


def initial(body: bytes) -> tuple[str, bytes]:
    """Mechanism and data of a SASLInitialResponse."""
    name, _, rest = body.partition(b"\0")
    assert struct.unpack(">I", rest[:4])[0] == len(rest) - 4
    return name.decode(), rest[4:]


def to_final(login: BackendLogin, server: ScramServer) -> bytes | None:
    """A SCRAM exchange up to the server's verdict, each message in every division."""
    mechanism, first = initial(sent(login.feed(sasl(10, OFFER))))
    [derivation] = login.feed(sasl(11, server.answer_first(mechanism, first)))
    assert isinstance(derivation, Derivation)
    return server.answer_final(sent(login.derived(derivation.run())))


class HonestTests(SynchronousTestCase):
    """What PostgreSQL asks."""

    def test_scram(self) -> None:
        """With channel binding; and only AuthenticationOk is told to the client."""
        login = begin()
        final = to_final(login, ScramServer(b"hunter2", binding=BOUND))
        assert final is not None
        self.assertEqual(login.feed(sasl(12, final)), [])
        self.assertEqual(login.feed(END), [Relay(END), Done(b"")])

    def test_scram_divided(self) -> None:
        """However the network divides each message."""
        server = ScramServer(b"hunter2", iterations=1, binding=BOUND)
        for cut in range(1, 160):
            login = begin()

            def feed(wire: bytes, login: BackendLogin = login, cut: int = cut) -> list[LoginEvent]:
                events = login.feed(wire[:cut])
                return events + (login.feed(wire[cut:]) if wire[cut:] else [])

            mechanism, first = initial(sent(feed(sasl(10, OFFER))))
            [derivation] = feed(sasl(11, server.answer_first(mechanism, first)))
            assert isinstance(derivation, Derivation)
            final = server.answer_final(sent(login.derived(derivation.run())))
            assert final is not None
            *_, done = feed(sasl(12, final) + END)
            self.assertEqual(done, Done(b""))

    def test_scram_refused(self) -> None:
        """A wrong password: the server's own words, as they came."""
        login = begin(password=b"wrong")
        self.assertIsNone(to_final(login, ScramServer(b"hunter2", iterations=1, binding=BOUND)))
        [refused] = login.feed(ERROR)
        assert isinstance(refused, Refused)
        self.assertEqual((refused.raw, refused.fields["C"]), (ERROR, "28P01"))

    def test_md5(self) -> None:
        """The salted hash of the hash, at every division."""
        inner = hashlib.md5(b"hunter2bob").hexdigest().encode()
        expected = b"md5" + hashlib.md5(inner + b"\1\0\xff,").hexdigest().encode() + b"\0"
        for first, second in cuts(sasl(5, b"\1\0\xff,")):
            login = begin()
            self.assertEqual(sent(login.feed(first) + (login.feed(second) if second else [])), expected)
            self.assertEqual(login.feed(END), [Relay(END), Done(b"")])

    def test_cleartext(self) -> None:
        """The password and a NUL."""
        login = begin()
        self.assertEqual(sent(login.feed(messages.AUTHENTICATION_CLEARTEXT)), b"hunter2\0")
        self.assertEqual(login.feed(END), [Relay(END), Done(b"")])

    def test_not_asked(self) -> None:
        """A server that trusts is taken as it is."""
        self.assertEqual(begin().feed(END), [Relay(END), Done(b"")])

    def test_notices(self) -> None:
        """Notices may come while the key is derived."""
        login = begin()
        server = ScramServer(b"hunter2", iterations=1, binding=BOUND)
        mechanism, first = initial(sent(login.feed(sasl(10, OFFER))))
        notice = messages.notice_response("00000", "slow")
        [derivation, relay] = login.feed(sasl(11, server.answer_first(mechanism, first)) + notice)
        self.assertEqual(relay, Relay(notice))
        self.assertEqual(login.feed(notice), [Relay(notice)])
        assert isinstance(derivation, Derivation)
        final = server.answer_final(sent(login.derived(derivation.run())))
        assert final is not None
        self.assertEqual(login.feed(sasl(12, final) + END), [Relay(END), Done(b"")])


class RequiredTests(SynchronousTestCase):
    """``require_auth``: what is not in it is not answered."""

    def test_each(self) -> None:
        """Each method is answered where it is allowed, else refused in words without the password being used."""
        requests = {
            "none": messages.AUTHENTICATION_OK,
            "password": messages.AUTHENTICATION_CLEARTEXT,
            "md5": sasl(5, b"salt"),
            "scram-sha-256": sasl(10, OFFER),
        }
        for allowed in METHODS:
            for asked, wire in requests.items():
                login = begin(allowed)
                if asked == allowed:
                    login.feed(wire)
                    continue
                error = self.assertRaises(AuthenticationFailed, login.feed, wire)
                self.assertIn('"bob"', str(error))
                self.assertNotIn("hunter2", str(error) + error.detail)

    def test_no_md5(self) -> None:
        """A machine that does not allow MD5 says so."""

        class Forbidding:
            @staticmethod
            def md5(data: bytes) -> None:
                raise ValueError("disabled for FIPS")

        self.patch(authentication, "hashlib", Forbidding)
        error = self.assertRaises(AuthenticationFailed, begin().feed, sasl(5, b"salt"))
        self.assertIn("does not allow MD5", str(error))


class HostileTests(SynchronousTestCase):
    """A hostile server ends its own session and nothing else."""

    def refuse(self, login: BackendLogin, wire: bytes, kind: type[TeleportDBError] = RemoteProtocolError) -> None:
        self.assertRaises(kind, login.feed, wire)
        self.assertRaises(LocalProtocolError, login.feed, b"x")
        self.assertEqual(login.derived(b"k" * 32), [])

    def test_order(self) -> None:
        """No request twice, none in the middle of another's, and none of the steps of SCRAM before its time."""
        ok, clear, md5, offer = messages.AUTHENTICATION_OK, sasl(3, b""), sasl(5, b"salt"), sasl(10, OFFER)
        for before in (clear, md5, offer):
            for wire in (clear, md5, offer, sasl(12, b"v=eA==")) + ((ok,) if before == offer else ()):
                login = begin()
                login.feed(before)
                self.refuse(login, wire)
        for wire in (sasl(11, b"r=nonce+,s=eA==,i=1"), sasl(12, b"v=eA==")):
            self.refuse(begin(), wire)

    def test_without_proof(self) -> None:
        """A server that lets us in without knowing the password has not let us in."""
        login = begin()
        to_final(login, ScramServer(b"hunter2", iterations=1, binding=BOUND))
        self.refuse(login, END)
        login = begin()
        to_final(login, ScramServer(b"hunter2", iterations=1, binding=BOUND))
        self.refuse(login, sasl(12, b"v=" + b"QUFB" * 10 + b"QUE="), AuthenticationFailed)

    def test_while_deriving(self) -> None:
        """It is our turn; an error may come, and then the key is of no use."""
        for wire in (sasl(12, b"v=eA=="), messages.AUTHENTICATION_OK, sasl(11, b"r=nonce+,s=eA==,i=1")):
            login = begin()
            login.feed(sasl(10, OFFER) + sasl(11, b"r=nonce+,s=eA==,i=1"))
            self.refuse(login, wire)
        login = begin()
        *_, derivation, refused = login.feed(sasl(10, OFFER) + sasl(11, b"r=nonce+,s=eA==,i=1") + ERROR)
        self.assertIsInstance(derivation, Derivation)
        self.assertIsInstance(refused, Refused)
        self.assertEqual(login.derived(b"k" * 32), [])

    def test_iterations(self) -> None:
        """2^31 of them are refused before one is done."""
        login = begin()
        login.feed(sasl(10, OFFER))
        self.refuse(login, sasl(11, b"r=nonce+,s=eA==,i=2147483648"))

    def test_malformed(self) -> None:
        """Bodies that are not what their codes say."""
        for wire in (sasl(5, b"sal"), sasl(5, b"salty"), sasl(3, b"x"), sasl(0, b"x"), messages.message(b"R", b"\0\0")):
            self.refuse(begin(), wire)
        for offer in (b"", b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"\0SCRAM-SHA-256\0\0", b"\0\0", b"a\0\0b\0\0"):
            self.refuse(begin(), sasl(10, offer))
        for offer in (b"\0", b"OTHER\0\0"):
            self.refuse(begin(), sasl(10, offer), AuthenticationFailed)

    def test_a_key_nobody_wants(self) -> None:
        """Before its time a key is a mistake of ours."""
        self.assertRaises(LocalProtocolError, begin().derived, b"k" * 32)

    def test_silent(self) -> None:
        """What is kept and what is sent does not print."""
        login = begin()
        events = login.feed(sasl(10, OFFER) + sasl(11, b"r=nonce+,s=eA==,i=1"))
        self.assertNotIn("hunter2", repr(events) + repr(Secret(b"hunter2")))
