"""The agent's login at a database, honest and hostile."""

from __future__ import annotations

import struct

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import (
    AccessDenied,
    AuthenticationFailed,
    DatabaseUnreachable,
    LocalProtocolError,
    RemoteProtocolError,
)
from teleport_db.pgwire import messages
from teleport_db.pgwire.backend_tls import BackendTLS
from teleport_db.pgwire.login import MAX_LOGIN, BackendLogin, Done, LoginEvent, Refused, Relay, Secret, Send
from tests.pgwire.wire import cuts, startup

STARTUP = startup((b"user", b"bob"), (b"database", b"db"))
STATUS = messages.parameter_status(b"server_version", b"18.1")
READY = messages.ready_for_query()
NOTICE = messages.notice_response("00000", "hello")
OUR_KEY = (77, b"o" * 32)


def begin(password: bytes | None = None, key: tuple[int, bytes] | None = OUR_KEY) -> BackendLogin:
    login = BackendLogin(STARTUP, secret=None if password is None else Secret(password), key=key)
    login.start()
    return login


def gather(events: list[LoginEvent]) -> tuple[bytes, bytes, list[LoginEvent]]:
    """What is relayed, what is sent, and the rest, whatever the division."""
    relayed = b"".join(event.data for event in events if isinstance(event, Relay))
    sent = b"".join(event.data for event in events if isinstance(event, Send))
    return relayed, sent, [event for event in events if not isinstance(event, Relay | Send)]


class HonestTests(SynchronousTestCase):
    """What PostgreSQL does."""

    def test_startup_goes_as_it_came(self) -> None:
        """Not one byte is computed again."""
        login = BackendLogin(STARTUP)
        self.assertEqual(login.start(), STARTUP)
        self.assertRaises(LocalProtocolError, login.start)

    def test_divided_everywhere(self) -> None:
        """A login by certificate, with a key of ours in place of the server's."""
        head = messages.negotiate_protocol_version(2) + messages.AUTHENTICATION_OK + STATUS + NOTICE
        wire = head + messages.backend_key_data(5, b"abcd") + READY
        for first, second in cuts(wire):
            login = begin()
            events = login.feed(first) + (login.feed(second) if second else [])
            relayed, sent, [done] = gather(events)
            self.assertEqual(relayed, head + messages.backend_key_data(77, b"oooo") + READY)
            self.assertEqual(sent, b"")
            self.assertEqual(done, Done(b"", (5, b"abcd"), (77, b"oooo")))
            self.assertIs(events[-1], done)

    def test_rest(self) -> None:
        """Bytes behind ReadyForQuery are the session's."""
        login = begin()
        relayed, _, [done] = gather(login.feed(messages.AUTHENTICATION_OK + READY + NOTICE + b"N"))
        self.assertEqual((relayed, done), (messages.AUTHENTICATION_OK + READY, Done(NOTICE + b"N")))
        self.assertRaises(LocalProtocolError, login.feed, b"x")

    def test_row_9_long_keys(self) -> None:
        """From protocol 3.2 on a secret is longer, and ours is not cut."""
        for size in (5, 32, 256):
            login = begin()
            wire = messages.AUTHENTICATION_OK + messages.backend_key_data(5, b"s" * size) + READY
            relayed, _, [done] = gather(login.feed(wire))
            self.assertIn(messages.backend_key_data(*OUR_KEY), relayed)
            self.assertNotIn(b"s" * size, relayed)
            self.assertEqual(done, Done(b"", (5, b"s" * size), OUR_KEY))

    def test_row_11_absent_stays_absent(self) -> None:
        """RDS Proxy gives no key; the client gets none of ours either."""
        _, _, [done] = gather(begin().feed(messages.AUTHENTICATION_OK + READY))
        self.assertEqual(done, Done(b"", None, None))

    def test_row_11_the_servers_key_stays_here(self) -> None:
        """Without a key to give the client gets none, and no key prints."""
        login = begin(key=None)
        events = login.feed(messages.AUTHENTICATION_OK + messages.backend_key_data(5, b"abcd") + READY)
        relayed, _, [done] = gather(events)
        self.assertEqual(relayed, messages.AUTHENTICATION_OK + READY)
        self.assertNotIn("abcd", repr(done))

    def test_password(self) -> None:
        """A token of IAM goes once, to a request in cleartext, and never into a log."""
        wire = messages.AUTHENTICATION_CLEARTEXT + messages.AUTHENTICATION_OK + READY
        for first, second in cuts(wire):
            login = begin(password=b"hunter2")
            events = login.feed(first) + (login.feed(second) if second else [])
            relayed, sent, [done] = gather(events)
            self.assertEqual(sent, messages.password_message(b"hunter2"))
            self.assertEqual((relayed, done), (messages.AUTHENTICATION_OK + READY, Done(b"")))
            self.assertNotIn("hunter2", repr(events))

    def test_row_15_refused(self) -> None:
        """The server's own words reach the client whole, and the audit log in fields."""
        wire = messages.error_response("FATAL", "28P01", "password authentication failed", "more", "hint")
        for first, second in cuts(wire):
            login = begin()
            events = login.feed(first) + (login.feed(second) if second else [])
            [refused] = events
            assert isinstance(refused, Refused)
            self.assertEqual((refused.raw, refused.fields["C"]), (wire, "28P01"))
        login = begin()
        events = login.feed(messages.AUTHENTICATION_OK + NOTICE + wire + b"ignored")
        self.assertEqual([type(event) for event in events], [Relay, Refused])
        self.assertRaises(LocalProtocolError, login.feed, b"")

    def test_row_15_other_methods(self) -> None:
        """The words name the method, the user and the remedy."""
        for code, name in ((3, "cleartext"), (5, "MD5"), (7, "GSSAPI"), (10, "SCRAM"), (99, "99")):
            data = b"SCRAM-SHA-256\0\0" if code == 10 else b"salt" if code == 5 else b""
            error = self.assertRaises(AuthenticationFailed, begin().feed, messages.authentication(code, data))
            self.assertIn(name, str(error))
            self.assertIn('"bob"', str(error))
            self.assertIn("pg_hba.conf", str(error))


class RefusalTests(SynchronousTestCase):
    """No path to a database goes around the startup's checks."""

    def test_row_4_replication(self) -> None:
        """Only with a word of the caller."""
        raw = startup((b"user", b"bob"), (b"replication", b"database"))
        self.assertRaises(AccessDenied, BackendLogin, raw)
        self.assertEqual(BackendLogin(raw, allow_replication=True).start(), raw)

    def test_row_7_role(self) -> None:
        """Only with a word of the caller."""
        raw = startup((b"user", b"bob"), (b"options", b"-c role=postgres"))
        self.assertRaises(AccessDenied, BackendLogin, raw)
        self.assertEqual(BackendLogin(raw, allow_role_change=True).start(), raw)

    def test_key(self) -> None:
        """A secret too short to be cut is a mistake of ours."""
        self.assertRaises(LocalProtocolError, BackendLogin, STARTUP, key=(1, b"abc"))


class HostileTests(SynchronousTestCase):
    """A hostile server ends its own session and nothing else."""

    def refuse(self, wire: bytes, password: bytes | None = None) -> None:
        for first, second in cuts(wire) if len(wire) < 200 else ((wire, b""),):
            login = begin(password)
            with self.assertRaises(RemoteProtocolError):
                login.feed(first)
                login.feed(second)
            self.assertRaises(LocalProtocolError, login.feed, b"x")
            self.assertEqual(login.buffered, 0)

    def test_row_14_lengths(self) -> None:
        """Negative, too short and too long, before a byte of them is waited for."""
        for length in (0, 3, 65537, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            self.refuse(struct.pack(">cI", b"R", length))

    def test_row_14_messages_out_of_place(self) -> None:
        """What may come when is a table; all else ends the login."""
        ok = messages.AUTHENTICATION_OK
        key = messages.backend_key_data(1, b"abcd")
        version = messages.negotiate_protocol_version(0)
        for wire in (READY, key, STATUS, version + version, version + STATUS, messages.message(b"T")):
            self.refuse(wire)
        for wire in (
            ok,
            messages.AUTHENTICATION_CLEARTEXT,
            version,
            key + key,
            messages.message(b"D"),
            b"\0\0\0\0\x04",
        ):
            self.refuse(ok + wire)

    def test_row_14_a_second_password(self) -> None:
        """A server gets the password once."""
        login = begin(password=b"pw")
        login.feed(messages.AUTHENTICATION_CLEARTEXT)
        self.assertRaises(RemoteProtocolError, login.feed, messages.AUTHENTICATION_CLEARTEXT)

    def test_row_14_malformed(self) -> None:
        """Bodies that are not what their types say."""
        for wire in (messages.message(b"R"), messages.message(b"R", b"\0\0\0"), messages.authentication(0, b"x")):
            self.refuse(wire)
        self.refuse(messages.authentication(3, b"x"), password=b"pw")
        for body in (b"", b"X", b"II"):
            self.refuse(messages.AUTHENTICATION_OK + messages.message(b"Z", body))
        for size in (0, 7, 261):
            self.refuse(messages.AUTHENTICATION_OK + messages.message(b"K", b"k" * size))

    def test_row_14_scram_iterations(self) -> None:
        """2^31 iterations cost nothing where no SASL is spoken at all."""
        offer = messages.authentication(11, b"r=x,s=eA==,i=2147483648")
        self.assertRaises(AuthenticationFailed, begin().feed, offer)

    def test_row_14_endless_messages(self) -> None:
        """Notices and parameters without end are cut off at 1 MiB."""
        for wire in (NOTICE, messages.AUTHENTICATION_OK + STATUS):
            login = begin()
            login.feed(wire)
            with self.assertRaises(RemoteProtocolError):
                for _ in range(MAX_LOGIN // len(NOTICE) + 2):
                    login.feed(NOTICE)

    def test_row_14_one_message_byte_by_byte(self) -> None:
        """The largest message there may be, as slowly as there is."""
        login = begin()
        wire = messages.message(b"N", b"x" * (65536 - 4))
        for byte in wire[:-1]:
            self.assertEqual(login.feed(bytes([byte])), [])
        self.assertEqual(login.feed(wire[-1:]), [Relay(wire)])

    def test_row_14_an_error_of_protocol_2(self) -> None:
        """A server that cannot fork answers without a length; it is no message."""
        self.refuse(b"Ecould not fork new process for connection: out of memory\n\0")


class BackendTLSTests(SynchronousTestCase):
    """Before TLS nothing a server says is believed."""

    def asked(self) -> BackendTLS:
        tls = BackendTLS()
        self.assertEqual(tls.start(), messages.SSL_REQUEST)
        return tls

    def test_accepted(self) -> None:
        """An S, and TLS begins."""
        tls = self.asked()
        self.assertFalse(tls.feed(b""))
        self.assertTrue(tls.feed(b"S"))
        self.assertRaises(LocalProtocolError, tls.feed, b"x")

    def test_no_fallback(self) -> None:
        """N is the end, and the words say what to set."""
        error = self.assertRaises(DatabaseUnreachable, self.asked().feed, b"N")
        self.assertIn("ssl = on", str(error))

    def test_row_14_text_before_tls_is_not_repeated(self) -> None:
        """CVE-2024-10977: anybody may have written it."""
        wire = messages.error_response("FATAL", "28000", "visit evil.example")
        for first, _ in list(cuts(wire))[1:]:
            error = self.assertRaises(DatabaseUnreachable, self.asked().feed, first)
            self.assertNotIn("evil", str(error) + error.detail)

    def test_row_10_bytes_ahead_of_tls(self) -> None:
        """CVE-2021-23222: nothing may come with the S."""
        for glued in (b"\0", b"R", messages.AUTHENTICATION_OK, b"S"):
            self.assertRaises(DatabaseUnreachable, self.asked().feed, b"S" + glued)

    def test_somebody_else(self) -> None:
        """Every other byte is no PostgreSQL."""
        for byte in set(range(256)) - set(b"S"):
            tls = self.asked()
            self.assertRaises(DatabaseUnreachable, tls.feed, bytes([byte]))
            self.assertRaises(LocalProtocolError, tls.feed, b"S")

    def test_not_asked(self) -> None:
        """An answer to no question is a mistake of ours."""
        self.assertRaises(LocalProtocolError, BackendTLS().feed, b"S")
