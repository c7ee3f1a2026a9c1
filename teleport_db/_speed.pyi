from collections.abc import Sequence

from teleport_db.audit.shipped import Found
from teleport_db.pgwire.walk import Answer

def walk(data: bytes, left: int, rows: int, size: int) -> tuple[list[Answer], int, int, int, bytes]: ...
def mentions(sql: bytes) -> bool: ...
def split(content: bytes, most: int) -> list[Found] | None: ...
def chain_run(
    head: bytes, first: int, content: bytes, places: bytes, begin: int, end: int, chain: str
) -> tuple[bytes, str]: ...
def whole(data: bytes, first: int, most: int) -> tuple[int, int]: ...
def uuids(random: bytes) -> list[str]: ...
def query_event(ei: int, uid: str, now: float, id: int, sql: bytes, tail: bytes) -> bytes | None: ...
def bound_event(
    ei: int, uid: str, now: float, id: int, pieces: str, values: Sequence[bytes | None], tail: bytes
) -> bytes | None: ...
def result_event(
    ei: int,
    uid: str,
    now: float,
    id: int,
    affected: int,
    rows: int,
    sent: int,
    received: int,
    duration: float,
    tag: bytes,
    tail: bytes,
) -> bytes | None: ...
