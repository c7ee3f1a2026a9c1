"""Passwords in connection strings and in addresses, such as subscriptions and dblink are given.

::

    host=db user=repl password=***                 all of a text, at least one key beside the password
    postgresql://repl:***@db/shop?sslpassword=***  anywhere in a text, of any scheme

What is taken out must never be SQL that runs: the text may be a body of PL/pgSQL, or a piece of SQL that is put
together and whose beginning is elsewhere, within a string, a comment or outside of both.  Outside, ``a=b c=d`` and
``a://b:`` are no SQL, whatever they are: so a value before the password is one word or a string.  And within a string
or a comment that began elsewhere, nothing in or before what is taken out can end it: no line, no ``*/``, no quote, no
``$tag$``.  A password that has such a thing in it stays; behind the word CONNECTION, where there is no SQL, it goes
as well.
"""

from __future__ import annotations

import re

Spans = list[tuple[int, int]]

#: Keys of a connection string whose values are secret.
_SECRET = frozenset({"password", "sslpassword"})

_VALUE = r"(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))"
_ANY_ITEM = re.compile(rf"(?a)\s*([a-z_]+)\s*=\s*{_VALUE}(?=\s|\Z)", re.DOTALL)
_ITEM = re.compile(r"(?a)[ \t]*([a-z_]+)[ \t]*=[ \t]*(?:'([^'\\\r\n]*)'|([^\s'\\]+))(?=[ \t]|\Z)")

#: A value before a password: no operator at its end, and no word that takes what follows.
_BEFORE = re.compile(r"(?!(?:not|case)\Z)[a-z0-9_](?:[\w.:/,@%+-]*\w)?", re.ASCII | re.IGNORECASE)
#: A password behind another value, without quotes; one that comes first; one in quotes, which may be outside of them.
_BEHIND = re.compile(r"[^\"$*]*(?:\$[^\"$*]*)?")
_FIRST = re.compile(r"[^\"$*();]*")
_QUOTED = re.compile(r"[\w!@#%^&.,:?~=+-]*", re.ASCII)
_COMMENT = re.compile(r"--|/\*")

# In none of the three a blank, a quote, a star or more than one dollar.
_USERINFO = re.compile(r"(?a)[a-z][a-z0-9+.-]{0,30}://[^\s/@:?#$'\"\\*]*:([^\s/@?#$'\"\\*]*(?:\$[^\s/@?#$'\"\\*]*)?)@")
_ADDRESS = re.compile(r"(?a)[a-z][a-z0-9+.-]{0,30}://[^\s$'\"\\*]*")
_PARAMETER = re.compile(r"(?a)[?&](?:ssl)?password=([^\s&#$'\"\\*]*)")


def secrets(text: str, *, connection: bool = False) -> Spans:
    """Where the passwords are, in order and apart from each other.

    :param connection: it is a connection string for certain, and no SQL.
    """
    found: Spans = []
    if "=" in text and "password" in text:
        found = _any_connection_string(text) if connection else _connection_string(text)
    if "://" not in text:
        return found
    spans = [match.span(1) for match in _USERINFO.finditer(text)]
    for address in _ADDRESS.finditer(text):
        spans += [match.span(1) for match in _PARAMETER.finditer(text, *address.span())]
    return merged(found, [span for span in spans if span[0] < span[1]])


def merged(one: Spans, other: Spans) -> Spans:
    """What is in either, in order, without overlaps."""
    spans: Spans = []
    for start, end in sorted(one + other):
        if spans and start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return spans


def _connection_string(text: str) -> Spans:
    """The passwords of a text that is ``key=value key=value`` and nothing else, and of which none can be SQL."""
    spans: Spans = []
    position = count = 0
    rest = len(text.rstrip(" \t"))
    while position < rest:
        item = _ITEM.match(text, position)
        if item is None:
            return []
        key, quoted, plain = item.groups()
        if key in _SECRET:
            if not _may_go(quoted, plain, first=not count):
                return []
            spans.append(item.span(3 if quoted is None else 2))
        elif not spans and plain is not None and (_BEFORE.fullmatch(plain) is None or _COMMENT.search(plain)):
            return []
        count, position = count + 1, item.end()
    return [span for span in spans if span[0] < span[1]] if count > 1 else []


def _may_go(quoted: str | None, plain: str | None, *, first: bool) -> bool:
    if quoted is not None:
        return _QUOTED.fullmatch(quoted) is not None and "--" not in quoted
    assert plain is not None
    return (_FIRST if first else _BEHIND).fullmatch(plain) is not None and not (first and "--" in plain)


def _any_connection_string(text: str) -> Spans:
    """The same of what is no SQL."""
    spans: Spans = []
    position, rest = 0, len(text.rstrip())
    while position < rest:
        item = _ANY_ITEM.match(text, position)
        if item is None:
            break
        position = item.end()
        if item[1] in _SECRET:
            spans.append(item.span(2 if item[2] is not None else 3))
    return [span for span in spans if span[0] < span[1]]
