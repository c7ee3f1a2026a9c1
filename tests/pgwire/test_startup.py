"""Who a startup message makes its sender, by the rows of PostgreSQL's traps."""

from __future__ import annotations

import struct

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import AccessDenied, AuthenticationFailed, RemoteProtocolError
from teleport_db.pgwire.startup import MAX_STARTUP, Opening, Startup, StartupMessage
from tests.pgwire.wire import startup

BOB = (b"user", b"bob")


def read(*parameters: tuple[bytes, bytes], version: int = 3 << 16) -> StartupMessage:
    return StartupMessage.parse(startup(*parameters, version=version))


class NameTests(SynchronousTestCase):
    """Names are those the server will use."""

    def test_row_1_missing_database_is_the_user(self) -> None:
        """Missing or empty, the database is that of the user's name."""
        self.assertEqual(read(BOB).database, "bob")
        self.assertEqual(read(BOB, (b"database", b"")).database, "bob")
        self.assertEqual(read(BOB, (b"database", b"db")).database, "db")
        self.assertEqual(read((b"database", b"db"), BOB).user, "bob")

    def test_row_1_names_of_parameters_keep_their_case(self) -> None:
        """``Database`` is a setting nobody knows, not the database."""
        self.assertEqual(read(BOB, (b"Database", b"other")).database, "bob")

    def test_row_1_no_user(self) -> None:
        """The server has no user to fall back on either."""
        for parameters in ((), ((b"user", b""),), ((b"database", b"db"),)):
            self.assertRaises(AuthenticationFailed, read, *parameters)

    def test_row_2_truncation(self) -> None:
        """63 bytes are a name, 64 would open another one."""
        self.assertEqual(read(BOB, (b"database", b"x" * 63)).database, "x" * 63)
        for parameters in (
            (BOB, (b"database", b"x" * 63 + b"-allowed")),
            (BOB, (b"database", b"x" * 64)),
            ((b"user", b"x" * 64), (b"database", b"db")),
            (BOB, (b"database", "é".encode() * 32)),
        ):
            error = self.assertRaises(AccessDenied, read, *parameters)
            self.assertIn("first 63", str(error))

    def test_row_3_duplicates(self) -> None:
        """Of two the last would win; nobody gets to find out."""
        for name in (b"user", b"database", b"options", b"replication", b"role"):
            twice = ((name, b"a"), (name, b"b"))
            error = self.assertRaises(RemoteProtocolError, read, *((BOB, *twice) if name != b"user" else twice))
            self.assertIn(f"{name.decode()!r} twice", str(error))
        self.assertRaises(RemoteProtocolError, read, BOB, (b"role", b"a"), (b"ROLE", b"b"))

    def test_row_3_duplicate_names_cannot_forge_a_line(self) -> None:
        """The name comes from the client."""
        error = self.assertRaises(RemoteProtocolError, read, BOB, (b"a\nFATAL", b""), (b"a\nFATAL", b""))
        self.assertNotIn("\n", str(error))

    def test_row_16_names_that_are_no_text(self) -> None:
        """Roles are written in UTF-8; a name that is not is refused, not guessed."""
        self.assertRaises(AccessDenied, read, (b"user", b"\xff"))
        self.assertRaises(AccessDenied, read, BOB, (b"database", b"caf\xe9"))
        self.assertEqual(read((b"user", "žofie".encode())).user, "žofie")

    def test_raw_is_kept(self) -> None:
        """What goes on is what came."""
        raw = startup(BOB, (b"options", b"\xff\xfe"), (b"application_name", b"psql\xff"))
        message = StartupMessage.parse(raw)
        self.assertEqual(message.raw, raw)
        self.assertEqual(message.application_name, "psql\ufffd")
        self.assertEqual(message.parameters[1], (b"options", b"\xff\xfe"))
        self.assertNotIn("raw", repr(message))


class ReplicationTests(SynchronousTestCase):
    """A replication connection streams the whole server, whatever the database name says."""

    def test_row_4_replication(self) -> None:
        """What PostgreSQL reads as true, as ``database``, or not at all, is refused."""
        for value in (
            b"database",
            b"true",
            b"t",
            b"on",
            b"1",
            b"yes",
            b"TRUE",
            b"y",
            b"",
            b"o",
            b"2",
            b"\xff",
            b"falsee",
        ):
            message = read(BOB, (b"replication", value))
            self.assertIsNotNone(message.replication, value)
            error = self.assertRaises(AccessDenied, message.check)
            self.assertEqual(error.reasons, ("replication",))
            message.check(allow_replication=True)

    def test_row_4_no_replication(self) -> None:
        """What PostgreSQL reads as false is an ordinary connection."""
        for value in (b"false", b"f", b"off", b"of", b"0", b"no", b"n", b"FALSE"):
            message = read(BOB, (b"replication", value))
            self.assertIsNone(message.replication, value)
            message.check()
        self.assertIsNone(read(BOB).replication)


class SensitiveTests(SynchronousTestCase):
    """Parameters that change who the effective user is."""

    def test_row_7_direct(self) -> None:
        """As parameters of their own, in any case."""
        for name in (b"role", b"ROLE", b"session_authorization", b"Session_Authorization"):
            message = read(BOB, (name, b"postgres"))
            self.assertEqual(message.sensitive_parameters(), ((name, b"postgres"),))
            self.assertRaises(AccessDenied, message.check)
            message.check(allow_role_change=True)

    def test_row_7_targets(self) -> None:
        """Whom they would make of the user, however they are spelt; ``none`` is nobody else."""
        table: list[tuple[bytes, bytes, tuple[str, ...]]] = [
            (b"role", b"admin", ("admin",)),
            (b"ROLE", b"none", ()),
            (b"session_authorization", b"none", ("none",)),
            (b"options", b"-c role=admin", ("admin",)),
            (b"options", b"-crole=a=b --Session-Authorization=c -e -c role=none", ("a=b", "c")),
            (b"options", b"-c role=two\\ words", ("two words",)),
            (b"options", b"-c\\ role=x", ("x",)),
            (b"options", b"-c role=back\\\\slash -ecROLE=back\\\\slash", ("back\\slash",)),
            (b"options", b"-c role=", ("",)),
            (b"options", b"-c search_path=role", ()),
        ]
        for name, value, expected in table:
            self.assertEqual(read(BOB, (name, value)).role_targets, expected, value)
        two = read(BOB, (b"role", b"a"), (b"options", b"--role=b"))
        self.assertEqual(two.role_targets, ("a", "b"))
        for strange in (b"x" * 64, b"\xff"):
            message = read(BOB, (b"role", strange))
            self.assertRaises(AccessDenied, getattr, message, "role_targets")

    def test_row_7_options(self) -> None:
        """In ``options``, however a command line of the server may spell it."""
        for options in (
            b"-c role=x",
            b"-crole=x",
            b"--role=x",
            b"-c ROLE=x",
            b"-ecrole=x",
            b"-e -c role=x",
            b"-ec role=x",
            b"-e-role=x",
            b"-c session_authorization=x",
            b"--session-authorization=x",
            b"-c session-authorization=x",
            b"-c search_path=a -c role=x",
            b"-c\trole=x",
            b"-c\nrole=x",
            b"-c ro\\le=x",
            b"\\-c role=x",
            b"-c role\\==x",
            b"-c rol\\e=x\\ y",
            b"-c application_name=\\ role=1 -c role=x",
            b"-c role=",
        ):
            message = read(BOB, (b"options", options))
            self.assertEqual(message.sensitive_parameters(), ((b"options", options),), options)
            self.assertRaises(AccessDenied, message.check)

    def test_row_7_harmless_options(self) -> None:
        """Other settings go on; all are there for the audit log."""
        for options in (
            b"",
            b" ",
            b"\\",
            b"-c search_path=role",
            b"-c search_path=role,session_authorization",
            b"--search-path=x",
            b"-c myapp.role=x",
            b"-c session_replication_role=replica",
            b"-c statement_timeout=5min",
            b"-c role",
            b"-c application_name=a\\ role=b",
        ):
            message = read(BOB, (b"options", options), (b"search_path", b"x"))
            self.assertEqual(message.sensitive_parameters(), (), options)
            message.check()


class VersionTests(SynchronousTestCase):
    """Versions: a minor is for the server to negotiate, a major is not."""

    def test_row_9_minor_versions(self) -> None:
        """3.0, 3.2, 3.9999 and ``_pq_.`` options pass as they are."""
        for minor in (0, 1, 2, 9999, 65535):
            message = read(BOB, (b"_pq_.test", b"1"), version=3 << 16 | minor)
            self.assertEqual(message.version & 0xFFFF, minor)

    def test_row_9_major_versions(self) -> None:
        """2.0 and 4.0 are refused by name, as are request codes nobody knows."""
        for major, minor in ((0, 0), (1, 0), (2, 0), (4, 0), (1234, 5681), (65535, 65535)):
            error = self.assertRaises(RemoteProtocolError, read, BOB, version=major << 16 | minor)
            self.assertIn(f"{major}.{minor}", str(error))


class LengthTests(SynchronousTestCase):
    """Lengths are checked before anything is waited for."""

    def test_row_12_largest(self) -> None:
        """10,004 bytes are taken, 10,005 are not."""
        base = len(startup(BOB, (b"x", b"")))
        raw = startup(BOB, (b"x", b"y" * (MAX_STARTUP - base)))
        self.assertEqual(len(raw), 10_004)
        [event] = Opening(encrypted=True).feed(raw)
        assert isinstance(event, Startup)
        self.assertEqual(event.message.raw, raw)
        self.assertRaises(RemoteProtocolError, StartupMessage.parse, startup(BOB, (b"x", b"y" * (10_005 - base))))

    def test_row_12_impossible_lengths(self) -> None:
        """Four bytes are enough to refuse."""
        for length in (0, 1, 2, 3, 4, 5, 6, 7, 10_005, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            for encrypted in (False, True):
                opening = Opening(encrypted=encrypted)
                self.assertRaises(RemoteProtocolError, opening.feed, struct.pack(">I", length))
                self.assertEqual(opening.buffered, 0)

    def test_row_12_a_length_that_lies(self) -> None:
        """A message is read only as what its length says."""
        raw = startup(BOB)
        for wrong in (raw + b"\0", raw[:-1], b"", raw[:3]):
            self.assertRaises(RemoteProtocolError, StartupMessage.parse, wrong)

    def test_layout(self) -> None:
        """Pairs of strings and one NUL, which is the last byte, as the server has it."""
        for body in (b"", b"user", b"user\0", b"user\0\0", b"\0bob\0\0", b"x", b"\0\0"):
            raw = struct.pack(">II", 8 + len(body), 3 << 16) + body
            self.assertRaises(RemoteProtocolError, StartupMessage.parse, raw)
        for body in (b"user\0bob", b"user\0bob\0", b"user\0bob\0db\0\0", b"user\0bob\0\0\0", b"user\0bob\0\0x\0\0"):
            raw = struct.pack(">II", 8 + len(body), 3 << 16) + body
            self.assertRaises(RemoteProtocolError, StartupMessage.parse, raw)
