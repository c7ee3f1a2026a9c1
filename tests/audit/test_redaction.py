"""Passwords go, everything else stays."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.redaction import PartRedaction, redact

#: SQL with ``secret`` where a password is, and how it is kept.
PASSWORDS = [
    (b"CREATE ROLE r PASSWORD 'secret'", b"CREATE ROLE r PASSWORD '***'"),
    (b"alter user r with encrypted password\n'secret' valid until 'x'",
     b"alter user r with encrypted password\n'***' valid until 'x'"),
    (b"ALTER ROLE r PASSWORD E'se\\'secret\\\\' LOGIN", b"ALTER ROLE r PASSWORD E'***' LOGIN"),
    (b"ALTER ROLE r PASSWORD e'secret''' LOGIN", b"ALTER ROLE r PASSWORD e'***' LOGIN"),
    (b"ALTER ROLE r PASSWORD 'it''secret' LOGIN", b"ALTER ROLE r PASSWORD '***' LOGIN"),
    (b"ALTER ROLE r PASSWORD $$secret$$ LOGIN", b"ALTER ROLE r PASSWORD $$***$$ LOGIN"),
    (b"ALTER ROLE r PASSWORD $a$secret$$'$b$$a$ LOGIN", b"ALTER ROLE r PASSWORD $a$***$a$ LOGIN"),
    (b"ALTER ROLE r PASSWORD U&'secret!0041' UESCAPE '!'", b"ALTER ROLE r PASSWORD U&'***' UESCAPE '!'"),
    (b"ALTER ROLE r PASSWORD N'secret' LOGIN", b"ALTER ROLE r PASSWORD N'***' LOGIN"),
    (b"ALTER ROLE r PASSWORD'secret'", b"ALTER ROLE r PASSWORD'***'"),
    (b"ALTER ROLE r PASSWORD/* ' /* */ */'secret'", b"ALTER ROLE r PASSWORD/* ' /* */ */'***'"),
    (b"ALTER ROLE r PASSWORD -- '\n'secret'", b"ALTER ROLE r PASSWORD -- '\n'***'"),
    (b"ALTER ROLE r PASSWORD 'se'\n  'secret' LOGIN", b"ALTER ROLE r PASSWORD '***'\n  '***' LOGIN"),
    (b"CREATE USER MAPPING FOR r SERVER s OPTIONS (user 'u', \"password\" 'secret')",
     b"CREATE USER MAPPING FOR r SERVER s OPTIONS (user 'u', \"password\" '***')"),
    (b"ALTER ROLE a PASSWORD 'secret';ALTER ROLE b PASSWORD 'secret'",
     b"ALTER ROLE a PASSWORD '***';ALTER ROLE b PASSWORD '***'"),
    (b"ALTER ROLE r PASSWORD 'secret", b"ALTER ROLE r PASSWORD '***"),
    (b"ALTER ROLE r PASSWORD 'secret\\'", b"ALTER ROLE r PASSWORD '***'"),
    (b"ALTER ROLE \xff PASSWORD 'secret\xfe'", b"ALTER ROLE \xff PASSWORD '***'"),
]  # fmt: skip

#: The same in SQL that makes SQL.
DYNAMIC = [
    (b"DO $$BEGIN ALTER ROLE r PASSWORD 'secret'; END$$", b"DO $$BEGIN ALTER ROLE r PASSWORD '***'; END$$"),
    (b"DO $$BEGIN EXECUTE 'ALTER ROLE r PASSWORD ''se''''secret''; DROP TABLE t'; END$$",
     b"DO $$BEGIN EXECUTE 'ALTER ROLE r PASSWORD ''***''; DROP TABLE t'; END$$"),
    (b"DO $a$BEGIN EXECUTE $b$ALTER ROLE r PASSWORD $c$secret$c$$b$; END$a$",
     b"DO $a$BEGIN EXECUTE $b$ALTER ROLE r PASSWORD $c$***$c$$b$; END$a$"),
]  # fmt: skip

#: Nothing is taken out of these: what looks like a password is none, and would hide what is executed.
UNTOUCHED = [
    b"SELECT 1",
    b"SELECT password FROM t WHERE password = 'x'",
    b"ALTER ROLE r PASSWORD NULL; SELECT 'x'",
    b"/* password ' */ DROP TABLE t; -- '",
    b"-- password '\nDROP TABLE t; -- '",
    b"SELECT ' password '; DROP TABLE t; --'",
    b"SELECT 1 AS \" password '\"; DROP TABLE t; --'",
    b"SELECT $$ password '$$; DROP TABLE t; --'",
    b"SELECT $a$ $b$ password '$a$; DROP TABLE t; --'",
    b"SELECT a$b$, password, '; DROP TABLE t; --$b$'",
    b"SELECT xpassword 'x', passwordx 'x', \xe4password 'x', $password 'x'",
    b"SELECT '\\'; ALTER ROLE x PASSWORD '; DROP TABLE t; --'",
    b"SELECT E'\\' password '; DROP TABLE t; --'",
    b"/* /* */ password ' */ DROP TABLE t; -- '",
    b"SELECT password.'x'",
]


class RedactTests(SynchronousTestCase):
    """A whole statement."""

    def test_passwords(self) -> None:
        for sql, kept in PASSWORDS + DYNAMIC:
            self.assertEqual(redact(sql), kept)

    def test_untouched(self) -> None:
        for sql in UNTOUCHED:
            self.assertEqual(redact(sql), sql)

    def test_any_bytes(self) -> None:
        """Whatever comes is read to its end, and stays the same where it holds no literal."""
        source = random.Random(7)
        words = [
            b"password",
            b"'",
            b"''",
            b"\\",
            b'"',
            b"$$",
            b"$a$",
            b"--",
            b"/*",
            b"*/",
            b"\n",
            b" ",
            b"e",
            b"U&",
            b"\xff",
        ]
        for _ in range(3000):
            sql = b"".join(source.choices(words, k=source.randrange(20)))
            redacted = redact(sql)
            self.assertEqual(redact(redacted).count(b"***"), redacted.count(b"***"), sql)
            if b"'" not in sql and b"$" not in sql:
                self.assertEqual(redacted, sql)

    def test_long(self) -> None:
        """Time grows with the length and no faster, whatever the text is made of."""
        for piece in (
            b"'",
            b"''",
            b"\\",
            b"$",
            b"$a",
            b"$a$",
            b"/*",
            b"*/",
            b"password ",
            b"E'\\",
            b"--",
            b"-",
            b"$$'",
        ):
            redact(b"password " + piece * (200_000 // len(piece)))


def plain(sql: bytes) -> bytes:
    """Without the stars, of which each part has its own, and without what may be an end or not."""
    return sql.translate(None, b"*'$")


class PartTests(SynchronousTestCase):
    """A statement in parts, divided anywhere."""

    def feed(self, *parts: bytes) -> bytes:
        redaction = PartRedaction()
        last = len(parts) - 1
        return b"".join(redaction.feed(part, final=number == last) for number, part in enumerate(parts))

    def test_divided(self) -> None:
        """No part of a password is kept, and nothing else goes."""
        for sql, kept in PASSWORDS:
            for cut in range(len(sql) + 1):
                got = self.feed(sql[:cut], sql[cut:])
                self.assertEqual(plain(got), plain(kept), (sql, cut))

    def test_bytewise(self) -> None:
        for sql, kept in PASSWORDS:
            got = self.feed(*(sql[i : i + 1] for i in range(len(sql))))
            self.assertEqual(plain(got), plain(kept))

    def test_untouched(self) -> None:
        for sql in UNTOUCHED:
            for cut in range(len(sql) + 1):
                self.assertEqual(self.feed(sql[:cut], sql[cut:]), sql, cut)
