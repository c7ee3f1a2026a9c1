"""SCRAM-SHA-256: the RFC's example, a server of our own, and hostile ones."""

from __future__ import annotations

import base64
import unicodedata

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import AuthenticationFailed, LocalProtocolError, RemoteProtocolError
from teleport_db.pgwire.scram import MAX_ITERATIONS, MAX_MESSAGE, PLAIN, PLUS, Derivation, ScramClient, saslprep
from tests.pgwire.scramserver import ScramServer

NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = NONCE + "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SERVER_FIRST = f"r={SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode()
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
BOUND = b"hash of the server's certificate"


def client(binding: bytes | None = None, password: bytes = b"pencil", user: str = "") -> ScramClient:
    return ScramClient(password, nonce=NONCE, binding=binding, user=user)


def begun(binding: bytes | None = None) -> ScramClient:
    exchange = client(binding)
    exchange.begin([PLAIN])
    return exchange


class HonestTests(SynchronousTestCase):
    """Exchanges that end well, or with the server's no."""

    def test_rfc_7677(self) -> None:
        """The example of section 3, byte by byte."""
        exchange = client(user="user")
        self.assertEqual(exchange.begin([PLAIN]), (PLAIN, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"))
        derivation = exchange.server_first(SERVER_FIRST)
        self.assertEqual((derivation.salt, derivation.iterations), (base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096))
        self.assertEqual(
            exchange.keyed(derivation.run()),
            f"c=biws,r={SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode(),
        )
        self.assertFalse(exchange.proved)
        exchange.server_final(SERVER_FINAL)
        self.assertTrue(exchange.proved)

    def talk(self, exchange: ScramClient, server: ScramServer, offered: list[str]) -> bytes | None:
        mechanism, first = exchange.begin(offered)
        derivation = exchange.server_first(server.answer_first(mechanism, first))
        return server.answer_final(exchange.keyed(derivation.run()))

    def test_flags(self) -> None:
        """PLUS where both can; y where only we can; n where we cannot."""
        for binding, offered, mechanism, header in (
            (BOUND, [PLUS, PLAIN], PLUS, b"p=tls-server-end-point,,"),
            (BOUND, [PLAIN, PLUS], PLUS, b"p=tls-server-end-point,,"),
            (BOUND, [PLUS], PLUS, b"p=tls-server-end-point,,"),
            (BOUND, ["SCRAM-SHA-1", PLAIN], PLAIN, b"y,,"),
            (None, [PLUS, PLAIN], PLAIN, b"n,,"),
        ):
            exchange = client(binding)
            chosen, first = exchange.begin(offered)
            self.assertEqual((chosen, first), (mechanism, header + b"n=,r=" + NONCE.encode()))

    def test_every_way(self) -> None:
        """A server that knows RFC 5802 lets the right password in, and proves itself."""
        for binding, offered in ((BOUND, [PLUS, PLAIN]), (None, [PLUS, PLAIN]), (None, [PLAIN])):
            exchange = client(binding)
            final = self.talk(exchange, ScramServer(b"pencil", binding=binding), offered)
            assert final is not None
            exchange.server_final(final)
            self.assertTrue(exchange.proved)

    def test_wrong(self) -> None:
        """A wrong password and another certificate are the server's no."""
        self.assertIsNone(self.talk(client(BOUND), ScramServer(b"pen", binding=BOUND), [PLUS]))
        self.assertIsNone(self.talk(client(BOUND), ScramServer(b"pencil", binding=b"of a man in the middle"), [PLUS]))

    def test_downgrade(self) -> None:
        """Who takes PLUS off the list is found out by the server."""
        with self.assertRaisesRegex(AssertionError, "tampered"):
            self.talk(client(BOUND), ScramServer(b"pencil", binding=BOUND), [PLAIN])

    def test_no_mechanism(self) -> None:
        """The words say what there is, and why not; a stranger's cannot break a line."""
        for binding, offered, words in (
            (None, ["SCRAM-SHA-1", "x\ny"], r"offers SCRAM-SHA-1, x\?y only"),
            (None, [PLUS], "no hash to bind to"),
            (BOUND, [], "no mechanism"),
        ):
            with self.assertRaisesRegex(AuthenticationFailed, words):
                client(binding).begin(offered)

    def test_extensions(self) -> None:
        """What stands behind the iterations may be ignored."""
        self.assertIsInstance(begun().server_first(SERVER_FIRST + b",x=1,y=a=b"), Derivation)

    def test_silent(self) -> None:
        """No password prints."""
        self.assertNotIn("pencil", repr(begun().server_first(SERVER_FIRST)))


class OrderTests(SynchronousTestCase):
    """One order, and after a failure none."""

    def test_order(self) -> None:
        """Each message in each place but its own is refused, and is the end."""
        messages = {
            "begin": lambda exchange: exchange.begin([PLAIN]),
            "first": lambda exchange: exchange.server_first(SERVER_FIRST),
            "key": lambda exchange: exchange.keyed(b"k" * 32),
            "final": lambda exchange: exchange.server_final(SERVER_FINAL),
        }
        order = list(messages)
        for reached in range(4):
            for name, message in messages.items():
                if name == order[reached]:
                    continue
                exchange = client()
                for earlier in order[:reached]:
                    messages[earlier](exchange)
                self.assertRaises(RemoteProtocolError, message, exchange)
                self.assertFalse(exchange.proved)

    def test_after_a_failure(self) -> None:
        """Nothing goes on where something failed."""
        exchange = begun()
        self.assertRaises(RemoteProtocolError, exchange.server_first, b"nonsense")
        self.assertRaises(RemoteProtocolError, exchange.server_first, SERVER_FIRST)
        self.assertRaises(RemoteProtocolError, exchange.keyed, b"k" * 32)

    def test_nonce(self) -> None:
        """A nonce that would forge an attribute is a mistake of ours."""
        for nonce in ("", "a,b", "a b", "ä"):
            self.assertRaises(LocalProtocolError, ScramClient, b"p", nonce=nonce, binding=None)


class HostileTests(SynchronousTestCase):
    """A hostile server ends its own session and nothing else."""

    def refuse(self, first: bytes, words: str = "") -> None:
        with self.assertRaisesRegex(RemoteProtocolError, words):
            begun().server_first(first)

    def test_iterations(self) -> None:
        """Work is bounded before any is done; numbers are plain numbers."""
        prefix = f"r={SERVER_NONCE},s=c2FsdA==,i=".encode()
        for number in (b"2147483648", b"1000001", b"9999999999"):
            self.refuse(prefix + number, "iterations; at most 1000000 are done")
        for number in (b"", b"0", b"-1", b"+1", b"1e3", b" 1", b"1 ", b"0x10", b"01", b"1_000", b"9" * 4000, b"1\xb2"):
            self.refuse(prefix + number)
        self.assertEqual(begun().server_first(prefix + b"1000000").iterations, MAX_ITERATIONS)

    def test_nonces(self) -> None:
        """Ours has to be there, in front, with something behind it."""
        for nonce in ("", NONCE, NONCE[:-1] + "XY", "x" + NONCE, NONCE.lower() + "x", NONCE + " ", "other"):
            self.refuse(f"r={nonce},s=c2FsdA==,i=1".encode(), "nonce")

    def test_base64(self) -> None:
        """Garbage is told from salt and signature."""
        for garbage in ("", "=", "c2FsdA", "c2Fs dA==", "c2FsdA==\t", "!!!!", "c2FsdA==="):
            self.refuse(f"r={SERVER_NONCE},s={garbage},i=1".encode())
            exchange = begun()
            exchange.keyed(exchange.server_first(SERVER_FIRST).run())
            self.assertRaises(RemoteProtocolError, exchange.server_final, b"v=" + garbage.encode())

    def test_malformed(self) -> None:
        """Every cut of a message, attributes in another order, extensions that must be understood."""
        for cut in range(SERVER_FIRST.index(b",i=") + 4):
            self.refuse(SERVER_FIRST[:cut])
        for first in (
            b"m=x," + SERVER_FIRST,
            b"s=c2FsdA==,r=" + SERVER_NONCE.encode() + b",i=1",
            SERVER_FIRST + b",",
            SERVER_FIRST + b",x",
            SERVER_FIRST + b",x=",
            SERVER_FIRST + b"\0",
            b"e=other-error",
            SERVER_FIRST + b",x=" + b"y" * MAX_MESSAGE,
            SERVER_FIRST.replace(b"%", b"\xff"),
        ):
            self.refuse(first)

    def test_signatures(self) -> None:
        """A server that does not know the password, in every bit, and one that says no."""
        right = base64.b64decode(SERVER_FINAL[2:])
        salted = begun().server_first(SERVER_FIRST).run()
        for bit in range(256):
            wrong = bytearray(right)
            wrong[bit // 8] ^= 1 << bit % 8
            exchange = client(user="user")
            exchange.begin([PLAIN])
            exchange.server_first(SERVER_FIRST)
            exchange.keyed(salted)
            with self.assertRaisesRegex(AuthenticationFailed, "could not prove"):
                exchange.server_final(b"v=" + base64.b64encode(wrong))
            self.assertFalse(exchange.proved)
        for final, words in ((b"e=invalid-proof", "invalid-proof"), (b"v=" + base64.b64encode(right[:31]), "prove")):
            exchange = begun()
            exchange.keyed(exchange.server_first(SERVER_FIRST).run())
            with self.assertRaisesRegex(AuthenticationFailed, words):
                exchange.server_final(final)


class PreparationTests(SynchronousTestCase):
    """Passwords, as PostgreSQL prepares them."""

    def test_rfc_4013(self) -> None:
        """The examples of section 3; what it refuses stays as it is."""
        for given, expected in (
            ("I\u00adX", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u00aa", "a"),
            ("\u2168", "IX"),
            ("\u0007", "\u0007"),
            ("\u0627\u0031", "\u0627\u0031"),
        ):
            self.assertEqual(saslprep(given.encode()), expected.encode(), given)

    def test_more(self) -> None:
        """Spaces, both directions, what is unassigned or private, and nothing left."""
        for given, expected in (
            ("a\u00a0b", "a b"),
            ("a\u200bb", "a b"),
            ("\u0627\u0628", "\u0627\u0628"),
            ("\u0627a\u0628", "\u0627a\u0628"),
            ("\u00ad", "\u00ad"),
            ("\u00aa\u0221", "\u00aa\u0221"),
            ("\u00aa\ue000", "\u00aa\ue000"),
            ("e\u0301", unicodedata.normalize("NFC", "e\u0301")),
            ("tab\tin ascii", "tab\tin ascii"),
            ("\u00aa\t", "\u00aa\t"),
        ):
            self.assertEqual(saslprep(given.encode()), expected.encode(), given)

    def test_no_utf8(self) -> None:
        """Other encodings stay as they are."""
        for raw in (b"p\xe4ss", b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b""):
            self.assertEqual(saslprep(raw), raw)
