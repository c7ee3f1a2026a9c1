"""Passwords go, everything else stays."""

from __future__ import annotations

import random

from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit import redaction
from teleport_db.audit.redaction import PartRedaction, Reading, redact

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

#: The same of options, connection strings and addresses.
STRINGS = [
    (b"CREATE USER MAPPING FOR r SERVER s OPTIONS (user 'u', sslpassword 'secret')",
     b"CREATE USER MAPPING FOR r SERVER s OPTIONS (user 'u', sslpassword '***')"),
    (b"CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (\"secret_access_key\" 'secret', Passwd E'secret')",
     b"CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (\"secret_access_key\" '***', Passwd E'***')"),
    (b"ALTER USER MAPPING FOR r SERVER s OPTIONS (SET U&\"p\\0061ssw\\+00006frd\" 'secret')",
     b"ALTER USER MAPPING FOR r SERVER s OPTIONS (SET U&\"p\\0061ssw\\+00006frd\" '***')"),
    (b"CREATE SUBSCRIPTION s CONNECTION 'host=h password=secret user=u' PUBLICATION p",
     b"CREATE SUBSCRIPTION s CONNECTION 'host=h password=*** user=u' PUBLICATION p"),
    (b"ALTER SUBSCRIPTION s CONNECTION /* ' */ E'password = secret'",
     b"ALTER SUBSCRIPTION s CONNECTION /* ' */ E'password = ***'"),
    (b"ALTER SUBSCRIPTION s CONNECTION 'host=h\n password=''se$$ c*/ret x''\n user=u'",
     b"ALTER SUBSCRIPTION s CONNECTION 'host=h\n password=''***''\n user=u'"),
    (b"CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:secret@h/d?sslpassword=secret' PUBLICATION p",
     b"CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:***@h/d?sslpassword=***' PUBLICATION p"),
    (b"SELECT dblink_connect('c', 'host=10.0.0.1,h2 dbname=d user=u password=s(e)cret--')",
     b"SELECT dblink_connect('c', 'host=10.0.0.1,h2 dbname=d user=u password=***')"),
    (b"SELECT * FROM dblink('password=secret host=h', 'SELECT 1') AS t(n int)",
     b"SELECT * FROM dblink('password=*** host=h', 'SELECT 1') AS t(n int)"),
    (b"SELECT dblink_connect($$user='u x' password='secret' sslmode=require$$)",
     b"SELECT dblink_connect($$user='u x' password='***' sslmode=require$$)"),
    (b"ALTER SYSTEM SET primary_conninfo = 'host=h user=u password=''secret'''",
     b"ALTER SYSTEM SET primary_conninfo = 'host=h user=u password=''***'''"),
    (b"COPY t FROM PROGRAM 'curl https://u:secret@h/x?a=1&password=secret&b=2'",
     b"COPY t FROM PROGRAM 'curl https://u:***@h/x?a=1&password=***&b=2'"),
    (b"SELECT 'amqp://:se$cret@h'", b"SELECT 'amqp://:***@h'"),
    (b"SELECT 'a://h/?password=seca://u:ret@h'", b"SELECT 'a://h/?password=***'"),
    (b"DO $$BEGIN PERFORM dblink_connect('host=h password=secret'); END$$",
     b"DO $$BEGIN PERFORM dblink_connect('host=h password=***'); END$$"),
    (b"DO $$BEGIN EXECUTE 'CREATE SUBSCRIPTION s CONNECTION ''host=h password=secret'' PUBLICATION p'; END$$",
     b"DO $$BEGIN EXECUTE 'CREATE SUBSCRIPTION s CONNECTION ''host=h password=***'' PUBLICATION p'; END$$"),
]  # fmt: skip

#: What runs stays, however it is made to look like one of those: pieces of SQL that others may stand around.
PIECES = [
    "password=f()",
    "host=h, password=f()",
    "a= password=f()",
    "a=not password=f()",
    "a=CASE password=f()",
    "a=b+ password=f()",
    "a=b\npassword=f()",
    "a=b--\tpassword=f()",
    "a=/* password=*/f()",
    "a=b password=*/f()",
    "a=b password=$$||f()||$$",
    "a=b password=$x$||f()",
    "a=$$ password=$$||f()",
    'a=b password="||f()||"',
    "a=b password='||f()||'",
    "a=b password=' union select f from t where '' = '",
    "password=f() a=b",
    "password=f()-- a=b",
    "password='\\'||f()||' x=1",
    "password=1;call/**/f a=b",
    "a='\\' password='||f()||'",
    "a://b:$$||f()||$$@",
    "a://b:*/f()/*@",
    "a://b:'||f()||'@",
    'a://b:"||f()||"@',
    "a://b:--\nf()@",
    "a://*/1&password=f()",
    "a://$$?password=$$||f()",
    "x&password=f()",
    "a:b?password=f()",
]

#: The same in SQL that makes SQL.
DYNAMIC = [
    (b"DO $$BEGIN ALTER ROLE r PASSWORD 'secret'; END$$", b"DO $$BEGIN ALTER ROLE r PASSWORD '***'; END$$"),
    (b"DO $$BEGIN EXECUTE 'ALTER ROLE r PASSWORD ''se''''secret''; DROP TABLE t'; END$$",
     b"DO $$BEGIN EXECUTE 'ALTER ROLE r PASSWORD ''***''; DROP TABLE t'; END$$"),
    (b"DO $a$BEGIN EXECUTE $b$ALTER ROLE r PASSWORD $c$secret$c$$b$; END$a$",
     b"DO $a$BEGIN EXECUTE $b$ALTER ROLE r PASSWORD $c$***$c$$b$; END$a$"),
    (b"DO $$BEGIN EXECUTE 'ALTER ROLE r PASSWORD ' || quote_literal('sec''ret') || ' LOGIN'; END$$",
     b"DO $$BEGIN EXECUTE 'ALTER ROLE r PASSWORD ' || quote_literal('***') || ' LOGIN'; END$$"),
    (b"DO $$BEGIN EXECUTE format('ALTER ROLE %I PASSWORD %L VALID UNTIL %L', 'r', 'secret', now()); END$$",
     b"DO $$BEGIN EXECUTE format('ALTER ROLE %I PASSWORD %L VALID UNTIL %L', 'r', '***', now()); END$$"),
    (b"DO $$BEGIN execute pg_catalog.format('ALTER ROLE %2$I PASSWORD %1$L', 'secret', r); END$$",
     b"DO $$BEGIN execute pg_catalog.format('ALTER ROLE %2$I PASSWORD %1$L', '***', r); END$$"),
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
    b"DO $$BEGIN EXECUTE '/*' || ' password ' || quote_literal('*/DROP TABLE t'); END$$",
    b"DO $$BEGIN s := ' password ' || quote_literal('*/DROP TABLE t'); EXECUTE '/*' || s; END$$",
    b"DO $$BEGIN EXECUTE '/* password ' || quote_literal('*/DROP TABLE t'); END$$",
    b"DO $$BEGIN EXECUTE 'a '' password ' || quote_literal(';DROP TABLE t;'); END$$",
    b"DO $$BEGIN EXECUTE 'select 1 as password ' || 'from t; DROP TABLE t'; END$$",
    b"DO $$BEGIN EXECUTE format('/* password %L', '*/DROP TABLE t'); END$$",
    b"DO $$BEGIN EXECUTE format('password %s', 'DROP TABLE t'); END$$",
    b"DO $$BEGIN EXECUTE format('%s password %L', 'DROP TABLE t', x); END$$",
    b"DO $$BEGIN EXECUTE format('%*s password %L', 1, 'DROP TABLE t', x); END$$",
    b"DO $$BEGIN EXECUTE x || format('password %L', '*/DROP TABLE t'); END$$",
]


class RedactTests(SynchronousTestCase):
    """A whole statement."""

    def test_passwords(self) -> None:
        for sql, kept in PASSWORDS + STRINGS + DYNAMIC:
            self.assertEqual(redact(sql), kept)

    def test_pieces(self) -> None:
        """No text that may run is taken for a connection string or an address."""
        for piece in PIECES:
            quoted = piece.replace("'", "''")
            for sql in (f"DO $q$BEGIN x := {piece}; END$q$", f"SELECT e('{quoted}')", f"DO $q$EXECUTE '{quoted}'$q$"):
                self.assertEqual(redact(sql.encode()), sql.encode())
        for kept in ("SELECT $1 AS token, 'x'", "UPDATE t SET password = 'x' WHERE a = 'http://h/@'"):
            self.assertEqual(redact(kept.encode()), kept.encode())

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
            b"connection",
            b"a=b ",
            b"password=x",
            b"a://u:p@h",
            b"?password=",
            b"execute ",
            b"format(",
            b"||quote_literal(",
            b"%L",
        ]
        for _ in range(3000):
            sql = b"".join(source.choices(words, k=source.randrange(20)))
            redacted = redact(sql)
            self.assertEqual(redact(redacted).count(b"***"), redacted.count(b"***"), sql)
            if b"'" not in sql and b"$" not in sql:
                self.assertEqual(redacted, sql)
            places = [
                place for span in Reading(standard=True).feed(sql.decode("latin-1"), final=True) for place in span
            ]
            self.assertEqual(places, sorted(places), sql)

    def test_looked_for_quickly(self) -> None:
        """What is not looked into, because nothing in it looks like a password, has none in it."""
        source = random.Random(11)
        words = [
            *(
                b"password",
                b"PassWd",
                b"token",
                b"aws_",
                b"secret_access_key",
                b'U&"p\\0061ssword"',
                b"ssl",
                b"E",
                b"U&",
            ),
            *(b"'", b"''", b"\\", b'"', b"$$", b"$a$", b"--", b"/*", b"*/", b"\n", b" ", b"-", b"%L", b"connection"),
            *(b"a=b ", b"password=x", b"a://u:p@h", b"?password=q", b"execute ", b"format(", b"||quote_literal(", b")"),
        ]
        for _ in range(2000):
            sql = b"".join(source.choices(words, k=source.randrange(16)))
            cut = source.randrange(len(sql) + 1)

            def both(sql: bytes = sql, cut: int = cut) -> tuple[bytes, bytes]:
                parts = PartRedaction()
                return redact(sql), parts.feed(sql[:cut], final=False) + parts.feed(sql[cut:], final=True)

            quick = both()
            with MonkeyPatcher(
                (redaction, "_suspicious", lambda lowered: True), (redaction, "speaks_of_secrets", bool)
            ):
                self.assertEqual(both(), quick, sql)

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
            b"a",
            b"a://",
            b"a://b:",
            b"a=b ",
            b"password=",
            b"password=a ",
            b"&password=",
        ):
            many = piece * (200_000 // len(piece))
            redact(b"password " + many)
            redact(b"connection '" + many + b"password=x'")
            redact(b"select 'a=b " + many.replace(b"'", b"") + b" password=$*'")


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
        for sql, kept in [*PASSWORDS, *STRINGS[:2]]:
            got = self.feed(*(sql[i : i + 1] for i in range(len(sql))))
            self.assertEqual(plain(got), plain(kept))

    def test_untouched(self) -> None:
        for sql in UNTOUCHED:
            for cut in range(len(sql) + 1):
                self.assertEqual(self.feed(sql[:cut], sql[cut:]), sql, cut)
