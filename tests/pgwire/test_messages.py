"""Messages are built as PostgreSQL reads them and read whatever anybody sends."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import AccessDenied, LocalProtocolError, RemoteProtocolError, SessionCut, TeleportDBError
from teleport_db.pgwire import messages


class ErrorTests(SynchronousTestCase):
    """ErrorResponse, both ways."""

    def test_round_trip(self) -> None:
        """Every field arrives under its letter."""
        wire = messages.error_response("ERROR", "42601", "wrong", detail="more", hint="try")
        self.assertEqual(wire[:1], b"E")
        self.assertEqual(int.from_bytes(wire[1:5], "big"), len(wire) - 1)
        self.assertEqual(
            messages.parse_error(wire[5:]),
            {"S": "ERROR", "V": "ERROR", "C": "42601", "M": "wrong", "D": "more", "H": "try"},
        )

    def test_nul_cannot_forge_a_field(self) -> None:
        """A NUL in a text would end its field and begin another."""
        fields = messages.parse_error(messages.error_response("FATAL", "28000", "a\0Cxxxxx\0")[5:])
        self.assertEqual((fields["C"], fields["M"]), ("28000", "a Cxxxxx "))

    def test_long_text_is_cut_between_characters(self) -> None:
        """libpq takes 30,000 bytes before login; a cut leaves whole characters."""
        wire = messages.error_response("FATAL", "28000", "é" * 5000, detail="x€" * 5000)
        self.assertLess(len(wire), 9000)
        fields = messages.parse_error(wire[5:])
        self.assertEqual(set(fields["M"]), {"é"})
        self.assertEqual(set(fields["D"]), {"x", "€"})

    def test_own_errors_say_their_public_text(self) -> None:
        """The class gives the SQLSTATE, and the detail stays here."""
        fields = messages.parse_error(messages.error_for(AccessDenied("no", detail="secret"))[5:])
        self.assertEqual((fields["S"], fields["C"], fields["M"]), ("FATAL", "42501", "no"))
        self.assertNotIn(b"secret", messages.error_for(AccessDenied("no", detail="secret")))
        self.assertEqual(messages.parse_error(messages.error_for(SessionCut("bye"))[5:])["C"], "57P01")

    def test_unexpected_errors_say_nothing_but_an_id(self) -> None:
        """XX000, the id, and not a word of the exception."""
        wire = messages.error_for(ValueError("password=hunter2"), error_id="abc123")
        fields = messages.parse_error(wire[5:])
        self.assertEqual(fields["C"], "XX000")
        self.assertIn("abc123", fields["M"])
        self.assertNotIn(b"hunter2", wire)

    def test_every_class_is_one_response(self) -> None:
        """No class of the tree lacks an SQLSTATE of five characters."""
        pending: list[type[TeleportDBError]] = [TeleportDBError]
        while pending:
            cls = pending.pop()
            pending += cls.__subclasses__()
            self.assertEqual(len(cls.sqlstate), 5, cls)

    def test_hostile_errors_are_read_as_far_as_they_go(self) -> None:
        """No terminator, no value, no end, all bytes: never an exception, never much memory."""
        for body in (b"", b"\0", b"M", b"Mtext", b"M\xff\xfe\0", b"\0M", b"\xffx\0Mtext\0", b"\0" * 100000):
            messages.parse_error(body)
        self.assertEqual(messages.parse_error(b"Mtext"), {"M": "text"})
        self.assertEqual(messages.parse_error(b"\xffx\0Ma\0Mb\0\0"), {"M": "a"})
        fields = messages.parse_error(b"".join(bytes([65 + n % 50]) + b"x" * 9000 + b"\0" for n in range(1000)))
        self.assertLessEqual(len(fields), messages.MAX_ERROR_FIELDS)
        self.assertTrue(all(len(value) <= messages.MAX_ERROR_FIELD for value in fields.values()))


class KeyTests(SynchronousTestCase):
    """BackendKeyData and CancelRequest."""

    def test_round_trip(self) -> None:
        """Secrets of 4 and of 256 bytes, process ids of all 32 bits."""
        for pid in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF):
            for size in (4, 32, 256):
                wire = messages.backend_key_data(pid, b"s" * size)
                self.assertEqual(messages.parse_key_data(wire[5:]), (pid, b"s" * size))

    def test_sizes(self) -> None:
        """4 to 256 bytes, no others."""
        for size in (0, 3, 257):
            self.assertRaises(LocalProtocolError, messages.backend_key_data, 1, b"s" * size)
            self.assertRaises(LocalProtocolError, messages.cancel_request, 1, b"s" * size)
            self.assertRaises(RemoteProtocolError, messages.parse_key_data, b"pidd" + b"s" * size)
        self.assertRaises(RemoteProtocolError, messages.parse_key_data, b"")

    def test_cancel_of_protocol_3_0(self) -> None:
        """The 16 bytes that every client sends."""
        self.assertEqual(messages.cancel_request(7, b"abcd"), bytes.fromhex("00000010 04d2162e 00000007") + b"abcd")


class BuildTests(SynchronousTestCase):
    """What we send ourselves."""

    def test_constants(self) -> None:
        """The bytes as a capture shows them."""
        self.assertEqual(messages.SSL_REQUEST, bytes.fromhex("0000000804d2162f"))
        self.assertEqual(messages.GSSENC_REQUEST, bytes.fromhex("0000000804d21630"))
        self.assertEqual(messages.AUTHENTICATION_OK, bytes.fromhex("520000000800000000"))
        self.assertEqual(messages.SYNC, bytes.fromhex("5300000004"))
        self.assertEqual(messages.ready_for_query(), bytes.fromhex("5a0000000549"))

    def test_nul_is_refused(self) -> None:
        """A parameter or a password with a NUL would be read as two."""
        self.assertRaises(LocalProtocolError, messages.password_message, b"a\0b")
        self.assertRaises(LocalProtocolError, messages.startup_message, [(b"user", b"a\0database\0b")])
        self.assertRaises(LocalProtocolError, messages.parameter_status, b"a", b"\0")

    def test_negotiation(self) -> None:
        """NegotiateProtocolVersion lists what is not known."""
        self.assertEqual(
            messages.negotiate_protocol_version(2, [b"_pq_.x"]),
            bytes.fromhex("76000000130000000200000001") + b"_pq_.x\0",
        )
