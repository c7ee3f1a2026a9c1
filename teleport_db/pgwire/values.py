"""Parameters in binary format as the text that PostgreSQL would show, for the common types.

Sources: the send functions of src/backend/utils/adt.  What is not of the size or the form of its type is none
of ours: it raises, and the caller keeps the bytes.
"""

from __future__ import annotations

import datetime
import math
import struct
from collections.abc import Callable
from typing import Final

#: Days from 0001-01-01 to 2000-01-01, PostgreSQL's first day.
_EPOCH: Final = datetime.date(2000, 1, 1).toordinal()
_MIDNIGHT: Final = datetime.datetime(2000, 1, 1)

_INT16S = struct.Struct(">4H")


def _number(form: str) -> Callable[[bytes], str]:
    read = struct.Struct(form).unpack
    return lambda data: str(read(data)[0])


def _float(form: str, digits: int) -> Callable[[bytes], str]:
    read = struct.Struct(form).unpack

    def text(data: bytes) -> str:
        value: float = read(data)[0]
        if not math.isfinite(value):
            return {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
        shown = f"{value:.{digits}g}" if digits < 17 else repr(value)
        return shown.removesuffix(".0")

    return text


def _bool(data: bytes) -> str:
    return {b"\0": "f", b"\1": "t"}[data]


def _text(data: bytes) -> str:
    return data.decode()


def _jsonb(data: bytes) -> str:
    if data[:1] != b"\1":
        raise ValueError("not a version of jsonb that is known")
    return data[1:].decode()


def _bytea(data: bytes) -> str:
    return "\\x" + data.hex()


def _uuid(data: bytes) -> str:
    if len(data) != 16:
        raise ValueError("no uuid")
    digits = data.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _date(data: bytes) -> str:
    (days,) = struct.unpack(">i", data)
    if days in (0x7FFFFFFF, -0x80000000):
        return "infinity" if days > 0 else "-infinity"
    return datetime.date.fromordinal(_EPOCH + days).isoformat()


def _timestamp(zone: str) -> Callable[[bytes], str]:
    def text(data: bytes) -> str:
        (micros,) = struct.unpack(">q", data)
        if micros in (0x7FFFFFFFFFFFFFFF, -0x8000000000000000):
            return "infinity" if micros > 0 else "-infinity"
        return (_MIDNIGHT + datetime.timedelta(microseconds=micros)).isoformat(" ") + zone

    return text


def _numeric(data: bytes) -> str:
    """Groups of four decimal digits: how many, the power of 10,000 of the first, sign, digits behind the point."""
    count, weight, sign, scale = _INT16S.unpack_from(data)
    if sign in (0xC000, 0xD000, 0xF000):
        return {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}[sign]
    weight -= (weight & 0x8000) << 1
    if len(data) != 8 + 2 * count or sign not in (0, 0x4000) or scale > 1000 or not -300 <= weight <= 300:
        raise ValueError("no numeric, or one that is too long to be shown")
    digits = struct.unpack_from(f">{count}H", data, 8)
    if max(digits, default=0) > 9999:
        raise ValueError("no numeric")
    groups = {weight - index: digit for index, digit in enumerate(digits)}
    before = "".join(f"{groups.get(power, 0):04d}" for power in range(max(weight, 0), -1, -1)).lstrip("0") or "0"
    behind = "".join(f"{groups.get(-1 - index, 0):04d}" for index in range((scale + 3) // 4))[:scale]
    return ("-" if sign else "") + before + ("." + behind if behind else "")


#: Readers by the OID of the type.
_READERS: Final[dict[int, Callable[[bytes], str]]] = {
    16: _bool,
    17: _bytea,
    19: _text,  # name
    20: _number(">q"),
    21: _number(">h"),
    23: _number(">i"),
    25: _text,
    26: _number(">I"),  # oid
    114: _text,  # json
    700: _float(">f", 9),
    701: _float(">d", 17),
    1042: _text,  # bpchar
    1043: _text,  # varchar
    1082: _date,
    1114: _timestamp(""),
    1184: _timestamp("+00"),
    1700: _numeric,
    2950: _uuid,
    3802: _jsonb,
}


def readable(data: bytes, oid: int) -> str:
    """A binary value of a type as text.

    :raises ValueError: the type is not known here, or the value is none of it.
    """
    reader = _READERS.get(oid)
    if reader is None:
        raise ValueError("a type that is not known")
    try:
        return reader(data)
    except (struct.error, KeyError, OverflowError) as error:
        raise ValueError("not a value of its type") from error
