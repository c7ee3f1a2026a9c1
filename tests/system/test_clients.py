"""The client tools that people use, through the proxy.

psql, pg_dump, pgbench, psycopg, asyncpg, SQLAlchemy, pgjdbc; ``script/drivers`` runs the drivers' own tests.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import signal
import ssl
import sys
import threading
from pathlib import Path
from unittest import SkipTest

import asyncpg
import psycopg
from cryptography.hazmat.primitives import serialization
from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.support import PATIENCE, World, metrics_world, run, shared, until

#: Debian's libpostgresql-jdbc-java.
JDBC = Path("/usr/share/java/postgresql.jar")
#: A session with SQLAlchemy; the settings come from libpq's service file.
ORM = """
import sys
from sqlalchemy import ForeignKey, create_engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

class Base(DeclarativeBase):
    pass

class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")

class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")

engine = create_engine(f"postgresql+psycopg:///?service={sys.argv[1]}", pool_size=3)
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all(Author(name=f"author {n}", books=[Book(title=f"{n}.{m} ä") for m in range(5)]) for n in range(50))
    session.commit()
    try:
        session.add(Author(name="author 1"))
        session.flush()
    except IntegrityError as error:
        print(error.orig.sqlstate)
        session.rollback()
    author = session.scalars(select(Author).where(Author.name == "author 7")).one()
    print(sorted(book.title for book in author.books)[-1])
    session.delete(author)
    session.commit()
    streamed = session.execute(select(Book.title).order_by(Book.id), execution_options={"yield_per": 10})
    print(len(streamed.all()), session.scalar(select(func.count()).select_from(Author)))
Base.metadata.drop_all(engine)
"""


def build() -> World:
    """alice at her database, and another one to copy that into."""
    return metrics_world(sql="CREATE DATABASE copied OWNER alice;", names="metrics,copied")


class ClientTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.alice = self.world.person("alice")
        self.service = self.alice.service("aurora")

    def tool(self, name: str, *words: str, database: str = "metrics", typed: str = "") -> str:
        """Run a program of PostgreSQL as alice; its output."""
        command = [*self.world.client(name), *words, f"{self.service} dbname={database}"]
        return run(command, cwd=self.alice.home, environment=self.alice.environment, typed=typed).text

    def sleeping(self) -> bool:
        """Whether somebody waits in pg_sleep."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)%'"
        return self.world.postgres.sql(f"{query} AND pid <> pg_backend_pid()") != "0"

    def test_copy(self) -> None:
        r"""\copy in and out keeps every byte of 20,000 rows."""
        rows = "".join(f"{number}\trow {number} ä\n" for number in range(20000))
        (self.alice.home / "in.tsv").write_text(rows, encoding="utf-8")
        self.alice.psql(self.service, "CREATE TABLE copies (id int, words text)")
        self.alice.psql(self.service, r"\copy copies FROM 'in.tsv'")
        self.alice.psql(self.service, r"\copy (SELECT * FROM copies ORDER BY id) TO 'out.tsv'")
        self.assertEqual((self.alice.home / "out.tsv").read_text(encoding="utf-8"), rows)

    def test_meta_commands(self) -> None:
        r"""\d, \l, \du and \conninfo work."""
        self.alice.psql(self.service, "CREATE TABLE described (id int PRIMARY KEY)")
        said = self.alice.psql(self.service, "", "-c", r"\d described", "-c", r"\l", "-c", r"\du", "-c", r"\conninfo")
        for words in ("id|integer||not null|", "metrics|alice|UTF8", "\nalice|"):
            self.assertIn(words, said.out)

    def test_dump_and_restore(self) -> None:
        """pg_dump of a schema, restored with psql into another database."""
        self.alice.psql(
            self.service,
            "CREATE SCHEMA shop; CREATE TABLE shop.items (id serial PRIMARY KEY, name text NOT NULL, price numeric);"
            "CREATE VIEW shop.cheap AS SELECT name FROM shop.items WHERE price < 10;"
            "INSERT INTO shop.items (name, price) SELECT 'item ' || n, n FROM generate_series(1, 500) n",
        )
        dumped = self.tool("pg_dump", "--schema=shop", "--no-owner")
        self.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database="copied", typed=dumped)
        counted = "SELECT count(*), sum(price), (SELECT count(*) FROM shop.cheap) FROM shop.items"
        copied = self.alice.psql(self.alice.service("aurora", "alice", "copied"), counted)
        self.assertEqual(copied.out, "500|125250|9\n")

    def test_dump_and_restore_with_large_objects(self) -> None:
        """pg_dump -Fc -b and pg_restore: large objects, which libpq reads by function calls, arrive whole."""
        content = bytes(range(256)) * 3000
        (self.alice.home / "large").write_bytes(content)
        written = "CREATE TABLE papers AS SELECT :LASTOID::oid AS paper"
        self.alice.psql(self.service, "", typed=f"\\lo_import large\n{written};\n")
        self.tool("pg_dump", "-Fc", "-b", "--no-owner", "-t", "papers", "-f", "large.dump")
        command = [*self.world.client("pg_restore"), "--exit-on-error", "--no-owner", "-d"]
        conninfo = f"{self.service} dbname=copied"
        run([*command, conninfo, "large.dump"], cwd=self.alice.home, environment=self.alice.environment)
        copied = self.alice.service("aurora", "alice", "copied")
        paper = self.alice.psql(copied, "SELECT paper FROM papers").out.strip()
        self.alice.psql(copied, rf"\lo_export {paper} 'copied'")
        self.assertEqual((self.alice.home / "copied").read_bytes(), content)

    def test_pgbench(self) -> None:
        """pgbench in its three query modes, eight clients each, no transaction lost."""
        self.tool("pgbench", "-i", "-q")
        for mode in ("simple", "extended", "prepared"):
            said = self.tool("pgbench", "-S", "-n", "-c", "8", "-j", "2", "-t", "50", "-M", mode)
            self.assertIn("number of transactions actually processed: 400/400", said, mode)

    def test_psycopg(self) -> None:
        """psycopg 3: parameters, prepared statements, pipeline, COPY, binary."""
        with psycopg.connect(**self.alice.settings("aurora")) as connection, connection.cursor() as cursor:
            self.assertEqual(connection.execute("SELECT %s::int + 1", (41,)).fetchone(), (42,))
            for number in range(10):
                found = connection.execute("SELECT %s::text || 'x'", (str(number),), prepare=True).fetchone()
                self.assertEqual(found, (f"{number}x",))
            with connection.pipeline():
                cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(50)]
            self.assertEqual([each.fetchone() for each in cursors], [(number,) for number in range(50)])
            cursor.execute("CREATE TEMP TABLE piped (id int, data bytea)")
            with cursor.copy("COPY piped FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4", "bytea"])
                for number in range(100):
                    copy.write_row((number, bytes([number])))
            binary = connection.cursor(binary=True).execute("SELECT data FROM piped WHERE id = 7").fetchone()
            self.assertEqual(binary, (b"\x07",))
            connection.execute("SELECT %t::text", ("as it was typed",))
        ran = self.world.until_recorded(event="db.session.query", db_query_parameters=["as it was typed"])
        self.assertEqual([event["code"] for event in ran], ["TDB02I"])

    def test_asyncpg(self) -> None:
        """asyncpg: the extended protocol with binary parameters, and its own TLS."""
        settings = self.alice.settings("aurora")
        context = ssl.create_default_context(cafile=settings["sslrootcert"])
        context.load_cert_chain(settings["sslcert"], settings["sslkey"])

        async def ask() -> object:
            connection = await asyncpg.connect(
                host="localhost",
                port=self.world.web,
                user="alice",
                database="metrics",
                ssl=context,
                direct_tls=False,
                timeout=PATIENCE,
            )
            try:
                rows = await connection.fetch("SELECT n, $1::text AS t FROM generate_series(1, 1000) n", "ä")
                async with connection.transaction():
                    total = await connection.fetchval("SELECT sum(n) FROM unnest($1::int[]) n", [1, 2, 39])
                return len(rows), rows[-1]["t"], total
            finally:
                await connection.close()

        self.assertEqual(asyncio.run(ask()), (1000, "ä", 42))

    def test_sqlalchemy(self) -> None:
        """SQLAlchemy on psycopg: tables, relations, a unit of work, a constraint, rows as they come."""
        if importlib.util.find_spec("sqlalchemy") is None:
            raise SkipTest("SQLAlchemy is not installed in this Python: pip install sqlalchemy")
        words = [sys.executable, "-c", ORM, f"{self.world.cluster}-aurora"]
        said = run(words, cwd=self.alice.home, environment=self.alice.environment)
        self.assertEqual(said.out, "23505\n7.4 ä\n245 49\n")

    def test_pgjdbc(self) -> None:
        """pgjdbc: batches, portals with limits, server-side statements, errors, cancel."""
        if shutil.which("java") is None or not JDBC.exists():
            raise SkipTest("no java with pgjdbc (on Debian: apt-get install default-jdk libpostgresql-jdbc-java)")
        settings = self.alice.settings("aurora")
        key = self.alice.home / "key.pk8"
        key.touch(mode=0o600)
        private = serialization.load_pem_private_key(Path(settings["sslkey"]).read_bytes(), None)
        form = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key.write_bytes(private.private_bytes(*form))
        properties = {"user": "alice", "sslmode": "verify-full", "sslkey": str(key)}
        properties |= {name: settings[name] for name in ("sslcert", "sslrootcert")}
        words = [word for item in properties.items() for word in item]
        url = f"jdbc:postgresql://localhost:{self.world.web}/metrics"
        session = Path(__file__).with_name("Session.java")
        said = run(
            ["java", "-cp", str(JDBC), str(session), url, *words],
            cwd=self.alice.home,
            environment=self.alice.environment,
            seconds=2 * PATIENCE,
        )
        self.assertEqual(said.out, "counted 1000\n")

    def test_server_errors(self) -> None:
        """An error of the server comes through whole: SQLSTATE, position, hint, constraint."""
        with psycopg.connect(**self.alice.settings("aurora"), autocommit=True) as connection:
            with self.assertRaises(psycopg.errors.UndefinedColumn) as caught:
                connection.execute("SELECT nothing_like_it FROM pg_class")
            self.assertEqual(caught.exception.diag.statement_position, "8")
            connection.execute("CREATE TEMP TABLE checked (id int CONSTRAINT positive CHECK (id > 0))")
            with self.assertRaises(psycopg.errors.CheckViolation) as failed:
                connection.execute("INSERT INTO checked VALUES (-1)")
            self.assertEqual(failed.exception.diag.constraint_name, "positive")

    def test_cancel(self) -> None:
        """psycopg cancels what runs; the session goes on."""
        with psycopg.connect(**self.alice.settings("aurora"), autocommit=True) as connection:
            raised: list[BaseException] = []

            def sleep() -> None:
                try:
                    connection.execute("SELECT pg_sleep(60)")
                except psycopg.Error as error:
                    raised.append(error)

            thread = threading.Thread(target=sleep, daemon=True)
            thread.start()
            until(self.sleeping, "the query to run")
            connection.cancel_safe(timeout=PATIENCE)
            thread.join(PATIENCE)
            self.assertIsInstance(raised[0], psycopg.errors.QueryCanceled)
            self.assertEqual(connection.execute("SELECT 1").fetchone(), (1,))

    def test_interrupted_psql(self) -> None:
        """Ctrl-C in psql."""
        script = self.alice.home / "sleep.sql"
        script.write_text("SELECT pg_sleep(60);\nSELECT 'and goes on';\n")
        psql = self.world.start(
            "psql-sleep",
            *self.world.client("psql"),
            *("-X", "-f", str(script), self.service),
            environment=self.alice.environment,
        )
        until(self.sleeping, "the query to run")
        psql.signal(signal.SIGINT)
        psql.wait()
        self.assertIn("canceling statement due to user request", psql.said)

    def test_many_at_once(self) -> None:
        """Sessions next to each other do not mix."""
        connections = [psycopg.connect(**self.alice.settings("aurora"), autocommit=True) for _ in range(20)]
        try:
            for number, connection in enumerate(connections):
                connection.execute(f"SET application_name = 'number {number}'")
            said = [connection.execute("SHOW application_name").fetchone() for connection in connections]
        finally:
            for connection in connections:
                connection.close()
        self.assertEqual(said, [(f"number {number}",) for number in range(20)])

    def test_large_result(self) -> None:
        """30 MB in one result."""
        said = self.alice.psql(self.service, "SELECT repeat('x', 3000) FROM generate_series(1, 10000)")
        self.assertEqual(len(said.out), 30010000)

    def test_version_is_told(self) -> None:
        """The server's parameters reach the client, so that tools know what they speak to."""
        said = self.alice.psql(self.service, r"\echo :SERVER_VERSION_NUM")
        self.assertTrue(re.fullmatch(r"\d{6}\n", said.out), said.out)
