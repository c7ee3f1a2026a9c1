"""Passwords out of SQL, and nothing else out of it.

``ALTER ROLE bob PASSWORD 'secret'`` becomes ``ALTER ROLE bob PASSWORD '***'``: the literal behind the word
PASSWORD, or behind another of :data:`WORDS` as options of foreign servers have them, in every way PostgreSQL lets one
be written, also inside the strings and bodies that dynamic SQL is made of; and the password in a literal that is a
connection string or has an address with one (:mod:`teleport_db.audit.connstrings`).  Searching for the word would
not do: in ``/* password ' */ DROP TABLE t; -- '`` it would hide the statement from the audit log.  So the text is
read as PostgreSQL's scanner reads it (scan.l: comments nest, ``E''`` has backslashes, ``$tag$``, quoted identifiers),
and nothing is ever taken out but of a literal.

How a backslash in ``''`` is read depends on ``standard_conforming_strings``, which a client can set.  Both
readings are made, and only what both call a password goes: nobody can choose one to hide a statement.

A text may come in parts, as those of more than 64 KiB do; a reading goes on where the last part ended.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from teleport_db.audit.connstrings import Spans, merged, secrets

#: What stands for a password that was taken out.
STARS = b"***"

#: Names of options whose value is secret, beside PASSWORD itself.
WORDS = (
    *("password", "passwd", "passphrase", "sslpassword", "secret", "secret_key", "secret_access_key"),
    *("aws_secret_access_key", "access_token", "auth_token", "token"),
)

#: Strings inside strings are followed this deep.
_MAX_DEPTH = 4

_WORD = r"A-Za-z0-9_$\x80-\xff"
_TOKEN = re.compile(
    rf"""(?: (?<![{_WORD}]) (?P<prefix> [eE] | [uU]& | [nNbBxX] ) )? (?P<quote> ' )
    | (?P<password> (?<![{_WORD}]) (?i: {"|".join(WORDS)} ) (?![{_WORD}]) | "(?: {"|".join(WORDS)} )" )
    | (?P<connection> (?<![{_WORD}]) (?i: connection ) (?![{_WORD}]) )
    | (?: (?<![{_WORD}]) (?P<unicode> [uU]& ) )? (?P<identifier> " )
    | (?P<dollar> (?<![{_WORD}]) \$ (?: [A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]* )? \$ )
    | (?P<line> -- )
    | (?P<comment> /\* )""",
    re.VERBOSE,
)
#: What at the end of a part may be the beginning of a token.
_UNFINISHED = re.compile(rf"(?:[{_WORD}&]{{1,80}}|[-/])\Z")
# Nothing follows the last group of these three, so they never go back into it.  No group is possessive:
# Python before 3.11.5 matches those wrongly (CPython issue 106052).
#: Where the word does not occur: text, and literals that end alike in every reading.
_NOTHING = re.compile(r"""(?:[^'"$/\\-]++|'[^'\\]*+')*""")
_PLAIN = re.compile(r"[^']*+(?:''[^']*+)*")
_ESCAPED = re.compile(r"[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*", re.DOTALL)
_COMMENT = re.compile(r"/\*|\*/")


class Reading:
    """One reading of a text, in as many parts as it comes in.

    :param standard: how a backslash in a plain literal is read, as by ``standard_conforming_strings``.
    """

    def __init__(self, *, standard: bool, depth: int = 0) -> None:
        self._standard = standard
        self._nested = depth
        self._carry = ""
        self._armed = False  # nothing but space and comments since the word PASSWORD
        self._connects = False  # the same of the word CONNECTION, and then whether it is its literal that is open
        self._follows = False  # nothing but space since a password: a literal on a new line belongs to it
        self._open = ""  # what ends the construct that the last part ended in
        self._body: re.Pattern[str] | None = None
        # Whether the construct that is open began in this part: what is in the middle of SQL reads as other SQL.
        self._whole = True
        self._unicode = False  # the identifier that is open has escapes
        self._secret = False
        self._comments = 0
        self._composed: Spans = []  # passwords further on that SQL puts together with a text that was read

    def feed(self, part: str, *, final: bool) -> Spans:
        """The spans of passwords in ``part``, one character a byte; ``final`` when nothing follows."""
        text, base = self._carry + part, len(self._carry)
        self._carry = ""
        unfinished = None if final else _UNFINISHED.search(text, max(0, len(text) - 100))
        limit = unfinished.start() if unfinished else len(text)
        whole = _TOKEN.match(text, limit)
        if whole is not None and whole["dollar"]:
            limit = len(text)  # the tag is whole, and what looked like the rest of a word is the literal
        quick = not _suspicious(text.lower())
        spans: Spans = []
        position, self._whole = 0, not self._open
        while True:
            if self._open:
                position = self._inside(text, position, final, spans)
                if self._open:
                    break
                self._whole = True
            if quick and position < limit and not (self._armed or self._follows or self._connects):
                skipped = _NOTHING.match(text, position, limit)
                position = skipped.end() if skipped else position
            token = _TOKEN.search(text, position)
            if token is None or token.start() >= limit:
                self._between(text[position : max(limit, position)])
                self._carry = text[max(limit, position) :]
                break
            self._between(text[position : token.start()])
            if not final and token["identifier"] and _may_be_word(text[token.start() :]):
                self._carry = text[token.start() :]
                break
            position = self._opening(token)
        spans, self._composed = merged(spans, self._composed), []
        return [(max(start - base, 0), end - base) for start, end in spans if end > base]

    @property
    def armed(self) -> bool:
        """Whether a literal that follows is a password."""
        return self._armed and not self._open

    def _between(self, gap: str) -> None:
        if gap and not gap.isspace():
            self._armed = self._follows = self._connects = False

    def _opening(self, token: re.Match[str]) -> int:
        if token["password"] or token["connection"]:
            self._armed, self._connects, self._follows = bool(token["password"]), bool(token["connection"]), False
        elif token["line"]:
            self._open = "\n"
        elif token["comment"]:
            self._open, self._comments = "*/", 1
        elif token["identifier"]:
            self._open, self._armed, self._follows, self._connects = '"', False, False, False
            self._unicode = bool(token["unicode"])
        else:
            self._secret = self._armed or (self._follows and bool(token["quote"]) and not token["prefix"])
            self._armed = self._follows = False
            self._open = token["dollar"] or "'"
            prefix = token["prefix"] or ""
            escapes = prefix in ("e", "E") or (prefix in ("", "n", "N") and not self._standard)
            self._body = None if token["dollar"] else _ESCAPED if escapes else _PLAIN
        return token.end()

    def _inside(self, text: str, position: int, final: bool, spans: Spans) -> int:
        """Read on to the end of what is open; whether it was reached shows in ``_open``."""
        if self._open == "*/":
            return self._comment(text, position, final)
        if self._body is not None:
            found = self._body.match(text, position)
            end = found.end() if found else position
            # A quote that ends the part may be the first of two.
            closed = end < len(text) - (not final) and text[end] == "'"
        else:
            end = text.find(self._open, position)
            closed = end >= 0
            if not closed:
                end = len(text) - (0 if final else _overlap(text, position, self._open))
        if self._open == '"' and closed:
            self._armed = self._unicode and _spelt(text[position:end]) in WORDS
        if self._open not in ("\n", '"'):
            if self._secret:
                # A backslash that ends the part is within; a quote may be the end.
                within = len(text) if not closed and text[end:] == "\\" else end
                if position < within:
                    spans.append((position, within))
            elif closed and self._whole and self._nested < _MAX_DEPTH:
                self._look_into(text, position, end, spans)
                if final and self._open == "'":
                    self._composed += _composed(text, position, end, standard=self._standard)
        if not closed:
            self._carry = "" if final else text[end:]
            return end
        literal = self._open not in ("\n", '"')
        self._follows = literal and self._secret
        self._connects &= not literal
        end += len(self._open)
        self._open, self._body = "", None
        return end

    def _comment(self, text: str, position: int, final: bool) -> int:
        for found in _COMMENT.finditer(text, position):
            self._comments += 1 if found[0] == "/*" else -1
            position = found.end()
            if not self._comments:
                self._open = ""
                return position
        if not final and position < len(text) and text[-1] in "*/":
            self._carry = text[-1]
        return len(text)

    def _look_into(self, text: str, start: int, end: int, spans: Spans) -> None:
        """Passwords in a literal that may be SQL itself, a connection string or an address."""
        content = text[start:end]
        if not _suspicious(content.lower()):
            return
        reading = Reading(standard=self._standard, depth=self._nested + 1)
        if self._body is None or "''" not in content:
            found = merged(reading.feed(content, final=True), secrets(content, connection=self._connects))
            spans += [(start + a, start + b) for a, b in found]
            return
        # Doubled quotes are single ones inside; remember where each character was.
        where = _undoubled(content)
        inner = "".join(content[i] for i in where)
        where.append(len(content))
        found = merged(reading.feed(inner, final=True), secrets(inner, connection=self._connects))
        spans += [(start + where[a], start + where[b]) for a, b in found]


_EXECUTE = re.compile(r"(?i)(?<![\w$])execute\s+(?P<format>(?:pg_catalog\s*\.\s*)?format\s*\(\s*)?\'\Z")
_TEXT = r"\'([^\'\\]*(?:\'\'[^\'\\]*)*)\'"
_QUOTED = re.compile(rf"(?i)\s*\|\|\s*(?:pg_catalog\s*\.\s*)?quote_(?:literal|nullable)\s*\(\s*{_TEXT}\s*\)")
_SPECIFIER = re.compile(r"%(?:(\d{1,3})\$)?(-?[\d*]*)(.)", re.DOTALL)
_ARGUMENT = re.compile(rf"\s*,\s*(?:{_TEXT}|[^,()\'\"$\\]*)(?=\s*[,)])")


def _composed(text: str, start: int, end: int, *, standard: bool) -> Spans:
    """Passwords that become one by ``EXECUTE 'ALTER ROLE r PASSWORD ' || quote_literal('***')`` or ``format``.

    The literal from ``start`` to ``end`` is what the new SQL begins with, so that it is certain what is around them.
    """
    begun = _EXECUTE.search(text, max(0, start - 100), start)
    content = text[start:end]
    if begun is None or "\\" in content:
        return []
    sql = content.replace("''", "'")
    if begun["format"] is None:
        found = _QUOTED.match(text, end + 1) if _wants_password(sql, standard) else None
        return [] if found is None else [found.span(1)]
    wanted, count = set(), 0
    for found in _SPECIFIER.finditer(sql):
        if "*" in found[2]:
            return []
        if found[3] != "%":
            count = int(found[1]) if found[1] else count + 1
            if found[3] == "L" and _wants_password(sql[: found.start()], standard):
                wanted.add(count)
    spans: Spans = []
    position = end + 1
    for number in range(1, max(wanted, default=0) + 1):
        argument = _ARGUMENT.match(text, position)
        if argument is None:
            break
        position = argument.end()
        if number in wanted and argument[1]:
            spans.append(argument.span(1))
    return spans


def _wants_password(sql: str, standard: bool) -> bool:
    """Whether a literal that followed would be a password."""
    reading = Reading(standard=standard, depth=_MAX_DEPTH)
    reading.feed(sql, final=True)
    return reading.armed


def _overlap(text: str, position: int, tag: str) -> int:
    """How many characters at the end of the text may be the beginning of ``tag``."""
    for size in range(min(len(tag) - 1, len(text) - position), 0, -1):
        if text.endswith(tag[:size]):
            return size
    return 0


#: What follows a word whose literal is looked for: that, a comment, what makes a literal of another; or the end.
_BEHIND = r"""\"?\s*(?:--|/\*|\$|%|=|[enbxu]?&?(?:'|\Z)|[-/]\Z)"""
#: In lower case, what has to be in a text, and to look like this, for anything in it to be taken out.  Each begins with
#: what ``re`` looks for quickly: a long text of rows with addresses and words takes a millisecond.
_SUSPECTS = (
    ("pass", re.compile(f"pass(?:word|wd|phrase){_BEHIND}")),
    ("secret", re.compile(f"secret(?:_access)?(?:_key)?{_BEHIND}")),
    ("token", re.compile(f"token{_BEHIND}")),
    ("://", re.compile(r"""://[^\s/@:?#$'"\\*]*:[^\s/@?#'"\\*]*@""")),
    ('u&"', re.compile('u&"')),
)
_QUOTED_WORDS = tuple(f'"{word}"' for word in WORDS)
_ESCAPE = re.compile(r"\\(?:\\|\+([0-9A-Fa-f]{6})|([0-9A-Fa-f]{4}))")


def _may_be_word(beginning: str) -> bool:
    """Whether a quoted identifier that begins so may be one of the words."""
    return any(word.startswith(beginning) for word in _QUOTED_WORDS)


def _spelt(identifier: str) -> str:
    """What ``U&"..."`` says, with the usual escape character."""

    def letter(found: re.Match[str]) -> str:
        number = int(found[1] or found[2] or "5c", 16)
        return chr(number) if number < 0x110000 else ""

    return _ESCAPE.sub(letter, identifier)


def _undoubled(content: str) -> list[int]:
    where, i = [], 0
    while i < len(content):
        where.append(i)
        i += 2 if content.startswith("''", i) else 1
    return where


def _both(first: Spans, second: Spans) -> Spans:
    """What is in both; each list is in order and without overlaps."""
    both, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start < end:
            both.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return both


def _without(sql: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    pieces, position = [], 0
    for start, end in spans:
        pieces += [sql[position:start], STARS]
        position = end
    pieces.append(sql[position:])
    return b"".join(pieces)


def speaks_of_secrets(data: bytes) -> bool:
    """Whether there may be something to take out."""
    lowered = data.lower()
    # One by one: a loop takes twice as long, and this is asked of every statement.
    hinted = b"pass" in lowered or b"secret" in lowered or b"token" in lowered or b"://" in lowered
    return (hinted or b'u&"' in lowered) and _suspicious(lowered.decode("latin-1"))


def _suspicious(lowered: str) -> bool:
    return any(hint in lowered and pattern.search(lowered) is not None for hint, pattern in _SUSPECTS)


def redact(sql: bytes) -> bytes:
    """SQL whose passwords are ``***``; every byte else as it was, in any encoding that extends ASCII."""
    if (b"'" not in sql and b"$" not in sql) or not speaks_of_secrets(sql):  # nothing goes but of a literal
        return sql
    text = sql.decode("latin-1")
    spans = Reading(standard=True).feed(text, final=True)
    if spans and "\\" in text:
        spans = _both(spans, Reading(standard=False).feed(text, final=True))
    return _without(sql, spans) if spans else sql


def redact_value(text: str) -> str:
    """A value beside SQL, without the passwords in it where it is a connection string or has an address."""
    if "password" not in text and "://" not in text:
        return text
    pieces, position = [], 0
    for start, end in secrets(text):
        pieces += [text[position:start], STARS.decode()]
        position = end
    return "".join((*pieces, text[position:]))


class PartRedaction:
    """:func:`redact` for a text that comes in parts.  Dynamic SQL that lies across two is not looked into."""

    def __init__(self) -> None:
        self._readings = (Reading(standard=True), Reading(standard=False))

    def feed(self, part: bytes, *, final: bool) -> bytes:
        """The next part without its passwords."""
        text = part.decode("latin-1")
        first, second = (reading.feed(text, final=final) for reading in self._readings)
        return _without(part, _both(first, second))
