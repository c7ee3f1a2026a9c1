"""What of a configuration is another than it was: key by key, for the audit log, secrets left out.

::

    {"key": "auth_service.audit.retention", "from": "31536000", "to": "86400"}
    {"key": "auth_service.tokens", "from": "***", "to": "***"}
    {"key": "db_service.databases[aurora].uri", "from": "", "to": "db:5432"}         a key that was not there is ""
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from teleport_db.config.model import Address, Config, Secret

#: Characters of a value that are kept.
MAX_VALUE = 500

#: Sections of the file by the configuration's attributes.
_SECTIONS = {"auth": "auth_service", "proxy": "proxy_service", "db": "db_service"}

_STARS = "***"

#: Parts of the names of what may be secret beside what says so itself, by not being in its ``repr``.
_SECRET = ("token", "password", "secret", "authorization", "headers")

#: A key's value as it may be told, and a hash by which it is compared where that is not all of it.
Value = tuple[str, str]


def settings(config: Config, salt: bytes) -> dict[str, Value]:
    """Every key with its value; of services that are off, only that they are.

    :param salt: random bytes, the same for what is to be compared.
    """
    return {key: (told, hashed(whole, salt) if told != whole else "") for key, told, whole in _walk("", config, False)}


def hashed(value: str, salt: bytes) -> str:
    """Says whether a value is another, and nothing else to who has no salt."""
    return hashlib.sha256(salt + value.encode("utf-8", "surrogatepass")).hexdigest()


def changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> list[dict[str, str]]:
    """The keys that are others, in their order."""
    return [
        {"key": key, "from": before.get(key, ("", ""))[0], "to": after.get(key, ("", ""))[0]}
        for key in dict.fromkeys((*before, *after))
        if before.get(key, ("", "")) != after.get(key, ("", ""))
    ]


def _walk(path: str, value: Any, secret: bool) -> Iterator[tuple[str, str, str]]:
    """Keys below ``path``: each with what may be told of it, and the whole."""
    if attrs.has(type(value)) and not isinstance(value, Address | Secret):
        if getattr(value, "enabled", True) is False:
            yield f"{path}.enabled", "no", "no"
            return
        for field in attrs.fields(type(value)):
            name = _SECTIONS.get(field.name, field.name) if not path else field.name
            hidden = secret or not field.repr or any(word in field.name for word in _SECRET)
            yield from _walk(f"{path}.{name}" if path else name, getattr(value, field.name), hidden)
    elif isinstance(value, Mapping):
        for key in value:
            hidden = secret or any(word in str(key).lower() for word in _SECRET)
            yield from _walk(f"{path}.{key}", value[key], hidden)
    elif isinstance(value, tuple) and secret:
        whole = repr([attrs.astuple(one) if attrs.has(type(one)) else one for one in value]) if value else ""
        yield path, _STARS if value else "", whole
    elif isinstance(value, tuple) and any(attrs.has(type(one)) for one in value):
        for number, one in enumerate(value):
            yield from _walk(f"{path}[{getattr(one, 'name', number)}]", one, secret)
    else:
        whole = _text(value)
        yield path, (_STARS if whole else "") if secret else whole[:MAX_VALUE], whole


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, Mapping):
        return "; ".join(f"{key}={_text(value[key])}" for key in value)
    return "" if value is None else str(value)
