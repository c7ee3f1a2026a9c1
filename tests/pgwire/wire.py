"""Frontend messages for tests, built apart from the code that reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from teleport_db.pgwire.messages import message

DESCRIBE = message(b"D", b"P\0")
COPY_DONE = message(b"c")


def query(sql: bytes) -> bytes:
    return message(b"Q", sql + b"\0")


def parse(name: bytes, sql: bytes, types: Sequence[int] = ()) -> bytes:
    return message(b"P", name + b"\0" + sql + b"\0" + struct.pack(f">H{len(types)}I", len(types), *types))


def values(formats: Sequence[int], items: Sequence[bytes | None]) -> bytes:
    body = struct.pack(f">H{len(formats)}HH", len(formats), *formats, len(items))
    return body + b"".join(b"\xff" * 4 if item is None else struct.pack(">i", len(item)) + item for item in items)


def bind(
    portal: bytes,
    statement: bytes,
    formats: Sequence[int] = (),
    parameters: Sequence[bytes | None] = (),
    results: Sequence[int] = (),
) -> bytes:
    body = portal + b"\0" + statement + b"\0" + values(formats, parameters)
    return message(b"B", body + struct.pack(f">H{len(results)}H", len(results), *results))


def execute(portal: bytes, limit: int = 0) -> bytes:
    return message(b"E", portal + b"\0" + struct.pack(">i", limit))


def close(kind: bytes, name: bytes) -> bytes:
    return message(b"C", kind + name + b"\0")


def function_call(oid: int, arguments: Sequence[bytes | None], formats: Sequence[int] = (1,)) -> bytes:
    return message(b"F", struct.pack(">I", oid) + values(formats, arguments) + struct.pack(">H", 1))


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


def startup(*parameters: tuple[bytes, bytes], version: int = 3 << 16) -> bytes:
    """A startup message without any check: names may be empty or come twice."""
    body = b"".join(name + b"\0" + value + b"\0" for name, value in parameters) + b"\0"
    return struct.pack(">II", 8 + len(body), version) + body


def cuts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every division of `data` in two, the one that leaves nothing behind included."""
    for cut in range(len(data) + 1):
        yield data[:cut], data[cut:]
