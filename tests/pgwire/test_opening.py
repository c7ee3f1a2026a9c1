"""A client's way in: every state, every order, every division."""

from __future__ import annotations

import struct

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import LocalProtocolError, RemoteProtocolError
from teleport_db.pgwire.messages import GSSENC_REQUEST, SSL_REQUEST, cancel_request
from teleport_db.pgwire.startup import Cancel, Opening, OpeningEvent, Reply, StartTLS, Startup
from tests.pgwire.wire import cuts, startup

STARTUP = startup((b"user", b"bob"), (b"database", b"db"))
CANCEL = cancel_request(7, b"abcd")
NAMES = {SSL_REQUEST: "ssl", GSSENC_REQUEST: "gss", CANCEL: "cancel", STARTUP: "startup"}

#: Whether inside TLS; what the client sends, each waiting for the answer; what comes of it.
NEGOTIATIONS: list[tuple[bool, list[bytes], list[str]]] = [
    (False, [SSL_REQUEST], ["StartTLS"]),
    (False, [GSSENC_REQUEST], ["Reply"]),
    (False, [GSSENC_REQUEST, SSL_REQUEST], ["Reply", "StartTLS"]),
    (False, [GSSENC_REQUEST, GSSENC_REQUEST], ["Reply", "error"]),
    (False, [GSSENC_REQUEST, CANCEL], ["Reply", "Cancel"]),
    (False, [GSSENC_REQUEST, STARTUP], ["Reply", "Startup"]),
    (False, [CANCEL], ["Cancel"]),
    (False, [STARTUP], ["Startup"]),
    (True, [STARTUP], ["Startup"]),
    (True, [CANCEL], ["Cancel"]),
    (True, [SSL_REQUEST], ["error"]),
    (True, [GSSENC_REQUEST], ["error"]),
]


class NegotiationTests(SynchronousTestCase):
    """One GSSENCRequest, one SSLRequest, nothing behind them."""

    def exchange(self, encrypted: bool, sent: list[list[bytes]]) -> list[str]:
        opening = Opening(encrypted=encrypted)
        happened = []
        try:
            for message in sent:
                for piece in message:
                    happened += [type(event).__name__ for event in opening.feed(piece)]
        except RemoteProtocolError:
            happened.append("error")
        return happened

    def test_row_10_table(self) -> None:
        """Every negotiation, with each of its messages divided everywhere."""
        for encrypted, sent, expected in NEGOTIATIONS:
            for index, message in enumerate(sent):
                for first, second in cuts(message):
                    divided: list[list[bytes]] = [[other] for other in sent]
                    divided[index] = [first, second] if second else [first]
                    told = f"{encrypted} {[NAMES[item] for item in sent]} {index} {first!r}"
                    self.assertEqual(self.exchange(encrypted, divided), expected, told)

    def test_row_10_byte_by_byte(self) -> None:
        """The slowest network there is."""
        for encrypted, sent, expected in NEGOTIATIONS:
            divided = [[bytes([byte]) for byte in message] for message in sent]
            self.assertEqual(self.exchange(encrypted, divided), expected)

    def test_row_10_glued_bytes(self) -> None:
        """CVE-2021-23214: a byte behind a request, before its answer, closes."""
        for request in (SSL_REQUEST, GSSENC_REQUEST, CANCEL):
            for glued in (b"\x16", b"\0", SSL_REQUEST, STARTUP, b"\x16\x03\x01\x02\0"):
                self.assertRaises(RemoteProtocolError, Opening(encrypted=False).feed, request + glued)
        opening = Opening(encrypted=False)
        self.assertEqual(opening.feed(GSSENC_REQUEST), [Reply(b"N")])
        self.assertRaises(RemoteProtocolError, opening.feed, SSL_REQUEST + b"x")

    def test_row_10_request_of_another_size(self) -> None:
        """A request is 8 bytes; a longer one is none."""
        for request in (SSL_REQUEST, GSSENC_REQUEST):
            longer = struct.pack(">I", 12) + request[4:] + b"abcd"
            self.assertRaises(RemoteProtocolError, Opening(encrypted=False).feed, longer)

    def test_row_10_tls_record_is_no_startup(self) -> None:
        """Direct TLS is for whoever looks at the first byte; here it is an impossible length."""
        self.assertRaises(RemoteProtocolError, Opening(encrypted=False).feed, b"\x16\x03\x01\x02\0\x01")
        self.assertRaises(RemoteProtocolError, Opening(encrypted=True).feed, b"GET / HTTP/1.1\r\n")

    def test_rest_of_startup(self) -> None:
        """What comes behind a startup is handed on, wherever the chunk was divided."""
        wire = STARTUP + b"rest"
        for first, second in cuts(wire):
            opening = Opening(encrypted=True)
            events: list[OpeningEvent] = opening.feed(first)
            late = second if events else b""
            [event] = events or opening.feed(second)
            assert isinstance(event, Startup)
            self.assertEqual(event.message.raw, STARTUP)
            self.assertEqual(event.rest + late, b"rest")

    def test_over_is_over(self) -> None:
        """Bytes that belong to TLS or to the session are a mistake of ours, not of the client."""
        for encrypted, message in ((False, SSL_REQUEST), (True, STARTUP), (False, CANCEL)):
            opening = Opening(encrypted=encrypted)
            opening.feed(message)
            self.assertRaises(LocalProtocolError, opening.feed, b"x")

    def test_broken_stays_broken(self) -> None:
        """After an error nothing is read."""
        opening = Opening(encrypted=True)
        self.assertRaises(RemoteProtocolError, opening.feed, SSL_REQUEST)
        self.assertRaises(LocalProtocolError, opening.feed, STARTUP)


class CancelTests(SynchronousTestCase):
    """CancelRequest on its own connection."""

    def test_row_11_plain_and_encrypted(self) -> None:
        """libpq before 17 sends it in plaintext, asyncpg in TLS."""
        for encrypted in (False, True):
            for secret in (b"abcd", b"s" * 32, b"s" * 256):
                events = Opening(encrypted=encrypted).feed(cancel_request(0xFFFFFFFF, secret))
                self.assertEqual(events, [Cancel(0xFFFFFFFF, secret)])

    def test_row_11_sizes(self) -> None:
        """A secret has 4 to 256 bytes."""
        for size in (0, 3, 257, 9000):
            wire = struct.pack(">III", 12 + size, 80877102, 7) + b"s" * size
            self.assertRaises(RemoteProtocolError, Opening(encrypted=False).feed, wire)
        self.assertRaises(RemoteProtocolError, Opening(encrypted=False).feed, struct.pack(">II", 8, 80877102))

    def test_row_11_secret_does_not_print(self) -> None:
        """A key of somebody's session is not for a log."""
        self.assertNotIn("abcd", repr(Opening(encrypted=False).feed(CANCEL)))

    def test_events_are_told_apart(self) -> None:
        """Each event is a class of its own."""
        self.assertEqual(Opening(encrypted=False).feed(SSL_REQUEST), [StartTLS()])
        self.assertEqual(Opening(encrypted=False).feed(GSSENC_REQUEST), [Reply(b"N")])
