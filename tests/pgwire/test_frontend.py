"""The scanner finds what is audited, releases exactly what came, and nothing too early."""

from __future__ import annotations

import hashlib
import struct

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import RemoteProtocolError
from teleport_db.pgwire.frontend import (
    MAX_PART,
    MAX_PAYLOAD,
    Bind,
    Close,
    CopyEnd,
    Describe,
    Execute,
    FrontendMessage,
    FrontendScanner,
    FunctionCall,
    MalformedMessage,
    Parse,
    Query,
    Statement,
    StatementPart,
    Sync,
)
from teleport_db.pgwire.messages import FLUSH, SYNC, TERMINATE, message
from tests.pgwire.wire import (
    COPY_DONE,
    DESCRIBE,
    bind,
    close,
    copy_data,
    cuts,
    execute,
    function_call,
    parse,
    query,
)

#: Each audited message and what it says.
AUDITED: list[tuple[bytes, Statement]] = [
    (query(b"SELECT 1"), Query(b"SELECT 1")),
    (query(b""), Query(b"")),
    (query(b"SELECT '\xff\xfe'"), Query(b"SELECT '\xff\xfe'")),
    (parse(b"s", b"SELECT $1", [23, 0]), Parse(b"s", b"SELECT $1", (23, 0))),
    (parse(b"", b""), Parse(b"", b"")),
    (bind(b"", b"s"), Bind(b"", b"s")),
    (bind(b"p", b"s", [1], [b"\0\0\0\x01", None, b""], [1]), Bind(b"p", b"s", (1,), (b"\0\0\0\x01", None, b""))),
    (bind(b"", b"", [1] * 20, [b"x"] * 20, [0, 1]), Bind(b"", b"", (1,) * 20, (b"x",) * 20)),
    (execute(b""), Execute(b"", 0)),
    (execute(b"p", 50), Execute(b"p", 50)),
    (execute(b"", -1), Execute(b"", -1)),
    (close(b"S", b"s"), Close(b"S", b"s")),
    (close(b"P", b""), Close(b"P", b"")),
    (function_call(963, [b"\0\0\0\x05", None]), FunctionCall(963, (b"\0\0\0\x05", None), (1,))),
    (function_call(0xFFFFFFFF, [], []), FunctionCall(0xFFFFFFFF, ())),
]
UNAUDITED = [
    SYNC,
    FLUSH,
    TERMINATE,
    COPY_DONE,
    copy_data(b"1\t2\n"),
    copy_data(b""),
    message(b"f", b"no\0"),
    message(b"p", b"pw\0"),
]


def scan(*chunks: bytes) -> tuple[bytes, list[Statement], FrontendScanner]:
    scanner = FrontendScanner()
    released, statements = b"", []
    for chunk in chunks:
        data, found = scanner.feed(chunk)
        released += data
        statements += [message for message in found if isinstance(message, Statement)]
    return released, statements, scanner


def body_of(parts: list[Statement]) -> bytes:
    return b"".join(part.data for part in parts if isinstance(part, StatementPart))


class MessageTests(SynchronousTestCase):
    """Each message alone, then all of them in a row."""

    def test_each_divided_everywhere(self) -> None:
        """An audited message is held until it is whole, however the network divides it."""
        for wire, expected in AUDITED:
            for first, second in cuts(wire):
                scanner = FrontendScanner()
                released, found = scanner.feed(first)
                if second:
                    self.assertEqual((released, found), (b"", []))
                    self.assertEqual(scanner.buffered, len(first))
                    released, found = scanner.feed(second)
                self.assertEqual((released, found), (wire, [expected]))
                self.assertTrue(scanner.between_messages)

    def test_unaudited_stream(self) -> None:
        """Of what is not audited no more is held than a header."""
        for wire in UNAUDITED:
            for first, second in cuts(wire):
                scanner = FrontendScanner()
                released, found = scanner.feed(first)
                self.assertEqual(released, first if len(first) >= 5 else b"")
                released += scanner.feed(second)[0]
                self.assertEqual(released, wire)
                self.assertFalse([message for message in found if isinstance(message, Statement)])

    def test_what_answers_are_told_by(self) -> None:
        """Sync, Describe and the end of a COPY are given, and where each message ends in what is released."""
        wire = DESCRIBE + SYNC + query(b"x") + COPY_DONE + message(b"f", b"no\0") + FLUSH + message(b"D", b"Sname\0")
        given = [Describe(b"P", b""), Sync(), Query(b"x"), CopyEnd(), CopyEnd(), Describe(b"S", b"name")]
        edges = [7, 12, 19, 24, 32, len(wire)]
        for first, second in cuts(wire):
            scanner = FrontendScanner()
            found: list[FrontendMessage] = []
            ends: list[int] = []
            before = 0
            for chunk in (first, second):
                released, messages = scanner.feed(chunk)
                self.assertEqual(len(messages), len(scanner.ends))
                found += messages
                ends += [before + end for end in scanner.ends]
                before += len(released)
            self.assertEqual((found, ends), (given, edges))

    def test_ends_around_parts(self) -> None:
        """Also of the parts of a large message and of its neighbours."""
        wire = query(b"one") + query(b"b" * (2 * MAX_PART + 9)) + SYNC + query(b"three")
        for size in (1000, 65536, len(wire)):
            scanner, before, ends = FrontendScanner(), 0, []
            for start in range(0, len(wire), size):
                released, messages = scanner.feed(wire[start : start + size])
                self.assertEqual(len(messages), len(scanner.ends))
                ends += [before + end for end in scanner.ends]
                before += len(released)
            first, large = len(query(b"one")), len(query(b"b" * (2 * MAX_PART + 9)))
            parts = [first + 5 + MAX_PART, first + 5 + 2 * MAX_PART, first + large]
            self.assertEqual(ends, [first, *parts, first + large + 5, len(wire)])

    def test_row_13_pipelines_divided_everywhere(self) -> None:
        """Everything in a row: in order, byte by byte the same."""
        wire = b"".join(one + other for (one, _), other in zip(AUDITED, UNAUDITED * 2, strict=False))
        expected = [statement for _, statement in AUDITED]
        for first, second in cuts(wire):
            released, statements, _ = scan(first, second)
            self.assertEqual((released, statements), (wire, expected))
        released, statements, _ = scan(*(bytes([byte]) for byte in wire))
        self.assertEqual((released, statements), (wire, expected))

    def test_row_5_function_call_is_audited(self) -> None:
        """Large objects are made of it, and so is pg_read_file without a word of SQL."""
        _, statements, _ = scan(function_call(3293, [b"/etc/passwd"]))
        self.assertEqual(statements, [FunctionCall(3293, (b"/etc/passwd",), (1,))])

    def test_row_16_sql_stays_bytes(self) -> None:
        """LATIN1, SJIS or nothing at all: the client's encoding is none of ours."""
        for sql in (b"SELECT 'caf\xe9'", bytes(range(1, 256))):
            self.assertEqual(scan(query(sql))[1], [Query(sql)])
            self.assertEqual(scan(parse(sql, sql))[1], [Parse(sql, sql)])


class CopyTests(SynchronousTestCase):
    """COPY passes as it came."""

    def test_row_13_chunks_are_not_copied(self) -> None:
        """A chunk within CopyData, or of whole ones, is released as the object it came as."""
        scanner = FrontendScanner()
        chunk = b"x" * 65536
        first = struct.pack(">cI", b"d", 4 + 3 * len(chunk))
        self.assertIs(scanner.feed(first)[0], first)
        for _ in range(3):
            self.assertIs(scanner.feed(chunk)[0], chunk)
            self.assertEqual(scanner.buffered, 0)
        rows = copy_data(b"row\n") * 1000
        self.assertIs(scanner.feed(rows)[0], rows)
        half = rows[:-2]
        self.assertIs(scanner.feed(half)[0], half)
        self.assertEqual(
            scanner.feed(rows[-2:] + COPY_DONE + query(b"x")),
            (rows[-2:] + COPY_DONE + query(b"x"), [CopyEnd(), Query(b"x")]),
        )

    def test_row_13_the_end_of_the_data(self) -> None:
        """Once CopyData is over nothing more passes as data, whatever its last chunk brought along."""
        big = query(b"b" * 70_000)
        for behind in (b"", SYNC[:3], query(b"SELECT 1")[:9], big[:20], big[:-1], big):
            scanner = FrontendScanner()
            scanner.feed(copy_data(b"1234567890")[:-6])
            scanner.feed(b"567890" + behind)
            rest = (
                SYNC[3:] if behind == SYNC[:3] else query(b"SELECT 1")[9:] if len(behind) == 9 else big[len(behind) :]
            )
            if behind:
                scanner.feed(rest)
            self.assertTrue(scanner.between_messages)
            self.assertEqual(scanner.feed(query(b"x")), (query(b"x"), [Query(b"x")]))

    def test_row_13_data_that_looks_like_messages(self) -> None:
        """What is in CopyData is data."""
        wire = copy_data(query(b"DROP TABLE x")) + COPY_DONE
        for first, second in cuts(wire):
            self.assertEqual(scan(first, second)[:2], (wire, []))


class LengthTests(SynchronousTestCase):
    """Impossible lengths are refused on the header."""

    def test_row_12_impossible_lengths(self) -> None:
        """Below 4, and from 1 GiB on, for every type; nothing is held."""
        for kind in b"QPBECFDSHdcfXp":
            for length in (0, 1, 2, 3, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
                scanner = FrontendScanner()
                error = self.assertRaises(MalformedMessage, scanner.feed, struct.pack(">BI", kind, length))
                self.assertIn(str(length), str(error))
                self.assertEqual(scanner.buffered, 0)

    def test_row_12_names_are_small(self) -> None:
        """Execute and Close hold a name: PostgreSQL takes 10,000 bytes of them."""
        for kind in (b"E", b"C"):
            self.assertRaises(MalformedMessage, scan, kind + struct.pack(">I", 10_001))
            self.assertEqual(scan(kind + struct.pack(">I", 10_000))[:2], (b"", []))

    def test_row_12_lengths_are_never_computed_again(self) -> None:
        """CVE-2024-27304: what goes on is what came, also of more than one maximum."""
        wire = query(b"x" * 70_000) + query(b"y")
        self.assertEqual(scan(wire)[0], wire)


class MalformedTests(SynchronousTestCase):
    """What is none of PostgreSQL's closes, with nothing of it forwarded."""

    BAD = (
        message(b"Q", b""),
        message(b"Q", b"SELECT 1"),
        message(b"Q", b"SELECT 1\0\0"),
        message(b"Q", b"SELECT 1\0; DROP TABLE x\0"),
        message(b"P", b""),
        message(b"P", b"s\0"),
        message(b"P", b"s\0SELECT 1\0"),
        message(b"P", b"s\0SELECT 1\0\0"),
        message(b"P", b"s\0SELECT 1\0\0\x01"),
        message(b"P", b"s\0SELECT 1\0\0\0x"),
        message(b"B", b""),
        message(b"B", b"\0"),
        message(b"B", b"\0\0"),
        message(b"B", b"\0\0\0\0\0\0"),
        message(b"B", b"\0\0\xff\xff"),
        message(b"B", b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
        message(b"B", b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0"),
        message(b"B", b"\0\0\0\0\0\0\0\0x"),
        message(b"E", b""),
        message(b"E", b"\0"),
        message(b"E", b"p\0\0\0\0"),
        message(b"E", b"\0\0\0\0\0\0"),
        message(b"C", b""),
        message(b"C", b"S"),
        message(b"C", b"X\0"),
        message(b"C", b"Ss"),
        message(b"C", b"Ss\0x\0"),
        message(b"F", b""),
        message(b"F", b"\0\0\0\x01\0\0\0\0"),
        message(b"F", b"\0\0\0\x01\0\0\0\0\0\0x"),
    )

    def test_each(self) -> None:
        """Alone, and in front of messages whose bytes could be taken for its own."""
        for wire in self.BAD:
            for behind in (b"", b"\0" * 200, query(b"SELECT 1") * 20):
                error = self.assertRaises(MalformedMessage, scan, wire + behind)
                self.assertEqual(error.payload, (wire + behind)[:MAX_PAYLOAD])

    def test_divided(self) -> None:
        """However it is divided, not a byte of it goes on."""
        for wire in self.BAD:
            for first, second in cuts(wire):
                scanner = FrontendScanner()
                if second:
                    self.assertEqual(scanner.feed(first), (b"", []))
                    self.assertRaises(MalformedMessage, scanner.feed, second)

    def test_unknown_types(self) -> None:
        """Every type that is not a frontend's, also of a later protocol, also a backend's."""
        for kind in set(range(256)) - set(b"QPBECFDSHdcfXp"):
            self.assertRaises(MalformedMessage, scan, query(b"x") + struct.pack(">BI", kind, 4))

    def test_nothing_of_the_chunk_is_released(self) -> None:
        """A chunk with one bad message in it runs nothing, and what follows is not read."""
        scanner = FrontendScanner()
        self.assertRaises(RemoteProtocolError, scanner.feed, query(b"SELECT 1") + message(b"!"))
        for _ in range(2):
            error = self.assertRaises(MalformedMessage, scanner.feed, query(b"SELECT 2"))
            self.assertEqual(error.payload, message(b"!"))

    def test_words(self) -> None:
        """One line without a byte of the client's that could forge another."""
        for kind in (b"\n", b"!", b"Z", b"\xff"):
            error = self.assertRaises(MalformedMessage, scan, message(kind))
            self.assertTrue(str(error).isprintable())


class LargeTests(SynchronousTestCase):
    """No size is too big."""

    def check(self, wire: bytes, whole: bytes, kind: str, size: int) -> list[Statement]:
        scanner = FrontendScanner()
        released, parts = 0, []
        for start in range(0, len(wire), size):
            data, found = scanner.feed(wire[start : start + size])
            self.assertEqual(data, wire[released : released + len(data)])
            released += len(data)
            parts += found
            # Never more released than recorded, and the last byte with the last part.
            self.assertLessEqual(released, 5 + len(body_of(parts)) + (1 if released == len(wire) else 0))
            self.assertEqual(released == len(wire), start + size >= len(wire))
            self.assertLessEqual(scanner.buffered, MAX_PART + 5 + 1)
        self.assertEqual(body_of(parts), whole)
        *others, last = parts
        for number, part in enumerate(parts):
            assert isinstance(part, StatementPart)
            self.assertEqual((part.kind, part.number), (kind, number))
            self.assertTrue(0 < len(part.data) <= MAX_PART + (kind != "Query"))
        for part in others:
            assert isinstance(part, StatementPart)
            self.assertEqual((part.last, part.total_length, part.sha256), (False, 0, ""))
        assert isinstance(last, StatementPart)
        self.assertEqual((last.last, last.total_length), (True, len(whole)))
        self.assertEqual(last.sha256, hashlib.sha256(whole).hexdigest())
        self.assertTrue(scanner.between_messages)
        return parts

    def test_boundary(self) -> None:
        """64 KiB of SQL is one statement; a byte more is two parts."""
        sql = b"x" * MAX_PART
        self.assertEqual(scan(query(sql))[1], [Query(sql)])
        self.assertEqual(len(self.check(query(sql + b"y"), sql + b"y", "Query", 1 << 20)), 2)

    def test_sizes_and_divisions(self) -> None:
        """The parts are the same whatever the chunks."""
        for size in (MAX_PART + 1, 2 * MAX_PART, 2 * MAX_PART + 1, 3 * MAX_PART + 77):
            sql = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
            wire = query(sql)
            expected = self.check(wire, sql, "Query", len(wire))
            for chunk in (1000, 4096, 65535, 65536, 65537, 100_000):
                self.assertEqual(self.check(wire, sql, "Query", chunk), expected)

    def test_divided_around_every_edge(self) -> None:
        """Cuts near the header, the parts' ends and the last byte."""
        sql = b"s" * (2 * MAX_PART + 3)
        wire = query(sql)
        edges = [0, 5, 5 + MAX_PART, 5 + 2 * MAX_PART, len(wire)]
        for edge in edges:
            for cut in range(max(edge - 3, 1), min(edge + 4, len(wire))):
                released, parts, _ = scan(wire[:cut], wire[cut:])
                self.assertEqual(released, wire)
                self.assertEqual(body_of(parts), sql)
                self.assertEqual(len(parts), 3)

    def test_byte_by_byte(self) -> None:
        """The slowest client costs no more memory, nor time that grows with the square."""
        sql = b"s" * (MAX_PART + 10)
        self.check(query(sql), sql, "Query", 1)

    def test_other_kinds(self) -> None:
        """Parse, Bind and FunctionCall keep their bodies as sent."""
        big = b"v" * (3 * MAX_PART)
        for wire, kind in (
            (parse(b"s", big, [23]), "Parse"),
            (bind(b"p", b"s", [1], [big, None]), "Bind"),
            (function_call(952, [big]), "FunctionCall"),
        ):
            self.check(wire, wire[5:], kind, 65536)

    def test_characters_stay_whole(self) -> None:
        """A part ends between UTF-8 characters, so that each is text by itself."""
        for shift in range(4):
            for character in ("é", "€", "😀"):
                sql = b"x" * shift + character.encode() * MAX_PART
                for part in self.check(query(sql), sql, "Query", 65536):
                    assert isinstance(part, StatementPart)
                    part.data.decode("utf-8")

    def test_no_text_at_all(self) -> None:
        """Bytes that are no UTF-8 are divided too."""
        for byte in (0x80, 0xC3, 0xFF):
            sql = bytes([byte]) * (2 * MAX_PART + 5)
            self.check(query(sql), sql, "Query", 65536)

    def test_nul_within(self) -> None:
        """A large Query with a NUL in it, or none at its end, never gets its last byte."""
        for body in (b"x" * 70_000 + b"\0" + b"y" * 70_000 + b"\0", b"x" * 200_000, b"\0" * 70_000):
            wire = message(b"Q", body)
            scanner = FrontendScanner()
            released = b""
            with self.assertRaises(MalformedMessage) as raised:
                for start in range(0, len(wire), 10_000):
                    released += scanner.feed(wire[start : start + 10_000])[0]
            self.assertLess(len(released), len(wire) - 1)
            self.assertEqual(raised.exception.payload, wire[:MAX_PAYLOAD])
            self.assertRaises(MalformedMessage, scanner.feed, b"x")

    def test_neighbours(self) -> None:
        """Messages in the chunks before and behind come in their order."""
        big = b"b" * 100_000
        wire = query(b"one") + SYNC + query(big) + parse(b"", b"two") + query(big) + query(b"three")
        for chunk in (1 << 20, 65536, 50_000, 7):
            released, statements, _ = scan(*(wire[start : start + chunk] for start in range(0, len(wire), chunk)))
            self.assertEqual(released, wire)
            names = [type(item).__name__ for item in statements]
            self.assertEqual(names, ["Query", *["StatementPart"] * 2, "Parse", *["StatementPart"] * 2, "Query"])
