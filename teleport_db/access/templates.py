"""``prefix{{internal.db_names}}suffix``: where a role speaks of its user's traits.

The expressions::

    {{internal.db_names}}           what an administrator set for the user: db_names, db_users, logins
    {{external.team}}               any trait; {{external["team"]}} when its name has signs in it
    {{email.local(external.email)}} the part of an address before its @

Each value of the trait makes one entry.  A missing trait makes none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import attrs

Traits = Mapping[str, Sequence[str]]

#: The traits that administrators set.
INTERNAL = ("db_names", "db_users", "logins")

_VARIABLE = r"""(internal|external)(?:\.([A-Za-z0-9_-]+)|\["([^"{}\[\]]+)"\])"""
_EXPRESSION = re.compile(rf"\s*{_VARIABLE}\s*")
_CALL = re.compile(rf"\s*email\.local\(\s*{_VARIABLE}\s*\)\s*")


@attrs.frozen
class Template:
    """One parsed entry.

    :param function: ``email.local`` or "".
    """

    scope: str
    trait: str
    prefix: str = ""
    suffix: str = ""
    function: str = ""

    def values(self, traits: Traits) -> list[str]:
        """The entries that a user's traits make of it, each a literal."""
        found = []
        for value in traits.get(self.trait, ()):
            text = _local_part(value) if self.function else value
            if text:
                found.append(self.prefix + text + self.suffix)
        return found

    @property
    def takes_wildcard(self) -> bool:
        """Whether ``*`` in the trait means everything: only where an administrator sets it, and alone."""
        return self.scope == "internal" and not (self.prefix or self.suffix or self.function)


@lru_cache(maxsize=4096)
def parse_entry(text: str) -> Template | None:
    """The template in ``text``, or None when it has none and stands for itself.

    :raises ValueError: with a sentence, for half a template or one that is not known.
    """
    if "{{" not in text and "}}" not in text:
        return None
    prefix, opened, rest = text.partition("{{")
    expression, closed, suffix = rest.partition("}}")
    if not (opened and closed) or any(sign in part for part in (prefix, suffix) for sign in ("{{", "}}")):
        raise ValueError(f"{text!r}: one {{{{...}}}} belongs in an entry")
    function = ""
    match = _EXPRESSION.fullmatch(expression)
    if match is None:
        match, function = _CALL.fullmatch(expression), "email.local"
    if match is None:
        raise ValueError(
            f"{text!r} is not a template this version knows: internal.NAME, external.NAME, email.local(external.NAME)"
        )
    scope, trait = match[1], match[2] or match[3]
    if scope == "internal" and trait not in INTERNAL:
        raise ValueError(f"{text!r}: the internal traits are {', '.join(INTERNAL)}; others are external.{trait}")
    return Template(scope, trait, prefix, suffix, function)


def _local_part(address: str) -> str:
    """What stands before the one @ of a plain address; "" when it is none."""
    local, _, domain = address.partition("@")
    return local if domain and "@" not in domain and not re.search(r"[\s<>\",;]", address) else ""
