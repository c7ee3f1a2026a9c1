"""Binary values as PostgreSQL shows them."""

from __future__ import annotations

import contextlib
import struct
import uuid

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.pgwire.values import _READERS, readable
from tests.pgwire.test_properties import PROPERTY


def numeric(weight: int, sign: int, scale: int, *digits: int) -> bytes:
    return struct.pack(f">HhHH{len(digits)}H", len(digits), weight, sign, scale, *digits)


#: Type, value and text, as PostgreSQL's binary COPY and its output functions have them.
VALUES: list[tuple[int, bytes, str]] = [
    (16, b"\1", "t"),
    (16, b"\0", "f"),
    (17, b"\0\xff", "\\x00ff"),
    (20, b"\xff" * 8, "-1"),
    (21, b"\x7f\xff", "32767"),
    (23, b"\0\0\1\0", "256"),
    (25, "ж".encode(), "ж"),
    (26, b"\xff" * 4, "4294967295"),
    (114, b'{"a":1}', '{"a":1}'),
    (700, struct.pack(">f", 0.1), "0.100000001"),
    (700, struct.pack(">f", 2.0), "2"),
    (701, struct.pack(">d", 0.1), "0.1"),
    (701, struct.pack(">d", float("-inf")), "-Infinity"),
    (701, struct.pack(">d", float("nan")), "NaN"),
    (1043, b"x", "x"),
    (1082, struct.pack(">i", 0), "2000-01-01"),
    (1082, struct.pack(">i", -1), "1999-12-31"),
    (1082, struct.pack(">i", 0x7FFFFFFF), "infinity"),
    (1114, struct.pack(">q", 1_500_000), "2000-01-01 00:00:01.500000"),
    (1184, struct.pack(">q", 86_400_000_000), "2000-01-02 00:00:00+00"),
    (1184, struct.pack(">q", -(1 << 63)), "-infinity"),
    (1700, numeric(0, 0, 2, 12, 3400), "12.34"),
    (1700, numeric(0, 0x4000, 2, 12, 3400), "-12.34"),
    (1700, numeric(1, 0, 0, 1), "10000"),
    (1700, numeric(-2, 0, 8, 5), "0.00000005"),
    (1700, numeric(0, 0, 0), "0"),
    (1700, numeric(0, 0xC000, 0), "NaN"),
    (2950, uuid.UUID(int=5).bytes, "00000000-0000-0000-0000-000000000005"),
    (3802, b"\1[1, 2]", "[1, 2]"),
]


class ValueTests(SynchronousTestCase):
    def test_values(self) -> None:
        for oid, data, text in VALUES:
            self.assertEqual(readable(data, oid), text)

    def test_none_of_its_type(self) -> None:
        """Sizes that are wrong, types that are not known, dates beyond the calendar."""
        for oid, data in (
            (23, b"\0"),
            (16, b"\2"),
            (2950, b"x"),
            (1700, b"\0\1"),
            (1700, numeric(0, 0, 0, 10_000)),
            (1700, numeric(30_000, 0, 0, 1)),
            (1082, struct.pack(">i", 0x7FFFFFF0)),
            (1114, struct.pack(">q", 1 << 62)),
            (3802, b"\2[]"),
            (25, b"\xff"),
            (600, bytes(16)),
        ):
            self.assertRaises(ValueError, readable, data, oid)

    @PROPERTY
    @given(st.sampled_from(sorted(_READERS)), st.binary(max_size=40))
    def test_anything(self, oid: int, data: bytes) -> None:
        """Whatever is sent as whatever type is text, or no value."""
        with contextlib.suppress(ValueError):
            self.assertIsInstance(readable(data, oid), str)
