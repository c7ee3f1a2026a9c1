"""Reads the fields of a JSON body: each is what it should be, and bounded, or the call is refused.

A body is what a stranger sent.  What is missing, of another type or too large is a
:class:`~teleport_db.errors.BadRequest` that names the field, never a KeyError.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from teleport_db.errors import BadRequest

#: Characters of an ordinary field.
MAX_TEXT = 4096
#: Entries of a list or a mapping.
MAX_ENTRIES = 1000
#: A number is seconds: no life is longer, and JSON's whole numbers have no end.
MAX_NUMBER = 1 << 53


def mapping(value: object, what: str) -> dict[str, Any]:
    """``value`` as an object of JSON."""
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be an object")
    return value


def text(body: Mapping[str, Any], name: str, default: str | None = None, *, limit: int = MAX_TEXT) -> str:
    """A string; without ``default`` it must be there and not be empty."""
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (not value and default is None):
        raise BadRequest(f"{name} must be a text")
    if len(value) > limit or "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRequest(f"{name} is too long, or no text at all")
    return value


def address(body: Mapping[str, Any], name: str, default: str) -> str:
    """An IP address in its one spelling, without a zone; null, absent and empty are ``default``.

    An IPv4 address that is written as an IPv6 one is the IPv4 address.
    """
    value = text(body, name, "", limit=64)
    if not value:
        return default
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError:
        raise BadRequest(f"{name} must be an IP address") from None
    if isinstance(parsed, ipaddress.IPv6Address):
        # A zone is a name of the machine's that saw the address, and any text may be one.
        parsed = parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed))
    return str(parsed)


def number(body: Mapping[str, Any], name: str, default: float) -> float:
    """A number, zero or more; null and absent are ``default``."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_NUMBER:
        raise BadRequest(f"{name} must be a number, zero or more, and no larger than {MAX_NUMBER}")
    return float(value)


def whole(body: Mapping[str, Any], name: str) -> int:
    """A whole number that must be there."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise BadRequest(f"{name} must be a whole number")
    return value


def texts(body: Mapping[str, Any], name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """A list of strings without repetitions, in its order; null and absent are ``default``."""
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise BadRequest(f"{name} must be a list of texts")
    return tuple(dict.fromkeys(text({name: entry}, name) for entry in value))


def objects(body: Mapping[str, Any], name: str, *, limit: int = MAX_ENTRIES) -> list[dict[str, Any]]:
    """A list of objects that must be there."""
    value = body.get(name)
    if not isinstance(value, list) or len(value) > limit:
        raise BadRequest(f"{name} must be a list of at most {limit} objects")
    return [mapping(entry, name) for entry in value]


def labels(body: Mapping[str, Any], name: str = "labels") -> dict[str, str]:
    """A mapping of texts; null and absent are none."""
    value = mapping(body.get(name) or {}, name)
    if len(value) > MAX_ENTRIES:
        raise BadRequest(f"{name} has too many entries")
    return {text({name: key}, name): text(value, key, "") for key in value}
