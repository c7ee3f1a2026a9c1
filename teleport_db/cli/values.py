"""Values of flags, read so that what is wrong with them is said by the flag's name.

The small languages themselves are :mod:`teleport_db.config.values`'s; they are imported by the few
commands that need them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from teleport_db.errors import AuthenticationFailed, UsageError

T = TypeVar("T")

WEB_PORT = 3080


def _read(flag: str, text: str, reader: Callable[[str], T]) -> T:
    try:
        return reader(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def seconds(flag: str, text: str) -> int:
    """A length of time as ``1h30m``, in whole seconds, at least one."""
    from teleport_db.config.durations import parse_duration

    found = int(_read(flag, text, parse_duration))
    if found < 1:
        raise UsageError(f"{flag}: at least one second is needed, not {text}")
    return found


def proxy_address(flag: str, text: str) -> tuple[str, int]:
    """The host and port of a proxy; ``https://`` before it and a missing port are fine."""
    from teleport_db.config.values import parse_address

    bare = text.removeprefix("https://").rstrip("/")
    address = _read(flag, bare, lambda text: parse_address(text, WEB_PORT))
    return address.host, address.port


def split_address(text: str) -> tuple[str, int]:
    """``host:port`` as this system itself wrote it; ValueError for anything else."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"not host:port: {text.strip()[:80]!r}")
    return host.strip("[]"), int(port)


def items(text: str | None) -> list[str]:
    """``a,b`` as a list, without blanks and empty ones."""
    return [item.strip() for item in (text or "").split(",") if item.strip()]


def file_name(what: str, name: str) -> str:
    """``name`` if it can be one part of a path.

    Names of clusters and hosts come from other machines; none of them may lead out of a directory.
    """
    if not name or name.startswith(".") or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        raise AuthenticationFailed(f"{what} {name[:80]!r} cannot be part of a file's name")
    return name
