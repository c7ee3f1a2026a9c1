"""Clients at work: each writes down what it saw complete before it goes on.

::

    begin   a word is made up and written down, then the statement is sent with it
    seen    ok, or the SQLSTATE, is written down as soon as the CommandComplete or ErrorResponse is there

Some speak the protocol by hand, message by message, so that what they saw is what came; others are psycopg and psql.
"""

from __future__ import annotations

import logging
import random
import ssl
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg

from teleport_db.pgwire.messages import TERMINATE, message, parse_error
from tests.system.crash.ledger import OK, Ledger, Statement
from tests.system.raw import Raw, context
from tests.system.support import PATIENCE, Person

SYNC, FLUSH = message(b"S"), message(b"H")
#: Of the server's output buffer: what ends there comes in two pieces.
BUFFER = 8192


# A pipeline whose connection is lost says so a second time, as a warning.
logging.getLogger("psycopg").setLevel(logging.ERROR)


class Lost(Exception):
    """The session is over."""


class Client(threading.Thread):
    """Opens sessions, one after the other.

    :param going: cleared while nobody is to work.
    """

    def __init__(self, name: str, person: Person, service: str, ledger: Ledger, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.person, self.ledger = person, ledger
        self.settings = person.settings(service)
        self.conninfo = person.service(service)
        self.random = random.Random(seed)
        self.going, self.ending = threading.Event(), threading.Event()
        self.resting = threading.Event()
        self.trouble = ""

    def run(self) -> None:
        while not self.ending.is_set():
            if not self.going.is_set():
                self.resting.set()
                self.going.wait(0.2)
                continue
            self.resting.clear()
            try:
                self.session()
            except (Lost, OSError, psycopg.OperationalError, psycopg.InterfaceError) as error:
                if isinstance(error, TimeoutError):
                    self.ledger.hung.append(f"{self.name}: {error}")
                self.ending.wait(self.random.uniform(0.05, 0.3))
            except Exception as error:
                self.trouble = f"{self.name}: {type(error).__name__}: {error}"
                break
        self.resting.set()

    @property
    def wanted(self) -> bool:
        """Whether there is more to do."""
        return self.going.is_set() and not self.ending.is_set()

    def pause(self) -> None:
        """A moment's thought, so that a machine has time for all of them."""
        time.sleep(self.random.uniform(0, 0.06))

    def begin(self, kind: str, *, parameter: bool = False) -> Statement:
        """Write down what is about to be sent."""
        return self.ledger.begin(kind, self.name, parameter=parameter)

    def session(self) -> None:
        """One session, from its login to its end."""
        raise NotImplementedError


class RawClient(Client):
    """The protocol by hand: simple queries, several in one, batches, COPY, errors."""

    _raw: Raw
    _context: ssl.SSLContext | None = None

    def session(self) -> None:
        self._context = self._context or context(self.settings)
        self._prepared: dict[str, int] = {}
        with Raw(int(self.settings["port"])) as self._raw:
            found = self._raw.secure(self._context).startup(
                user=self.settings["user"], database=self.settings["dbname"]
            )
            if not found or found[-1][0] != b"Z":
                self._refused(found)
            self.ledger.sessions += 1
            works: Sequence[Callable[[], None]] = (
                *(self.simple, self.simple, self.several, self.failing, self.wide, self.written),
                *(self.batches, self.batches, self.prepared, self.copy_in, self.copy_out, self.large),
            )
            for _ in range(self.random.randrange(3, 60)):
                if not self.wanted:
                    break
                self.random.choice(works)()
                self.pause()
            self._raw.send(TERMINATE)

    def _refused(self, found: Sequence[tuple[bytes, bytes]]) -> None:
        for kind, body in found:
            if kind == b"E":
                code = parse_error(body).get("C", "")
                self.ledger.refusals[code] = self.ledger.refusals.get(code, 0) + 1
        raise Lost

    def answers(self, *batches: Sequence[Statement], when_ready: bool = False) -> None:
        """Read what comes of batches, each up to its ReadyForQuery; what is said of a statement is noted at once.

        :param when_ready: it is complete when the server is ready, not with the first CommandComplete.
        """
        for batch in batches:
            waiting = deque(batch)
            while True:
                one = self._raw.message()
                if one is None:
                    raise Lost
                kind, body = one
                if kind == b"Z":
                    for statement in waiting if when_ready else ():
                        statement.seen = OK
                    break
                if kind == b"E":
                    fields = parse_error(body)
                    if fields.get("S") == "FATAL":
                        self._refused([one])
                    waiting[0].seen = fields["C"]
                    waiting.clear()  # the server skips the rest of them
                elif kind == b"C" and not when_ready:
                    waiting.popleft().seen = OK
                elif kind == b"G":
                    self._feed()

    def _query(self, text: str) -> None:
        self._raw.send(message(b"Q", text.encode() + b"\0"))

    def simple(self) -> None:
        """A row."""
        statement = self.begin("simple")
        self._query(f"SELECT '{statement.word}'")
        self.answers([statement])

    def written(self) -> None:
        """A row that stays."""
        statement = self.begin("insert")
        self._query(f"INSERT INTO written VALUES ('{statement.word}')")
        self.answers([statement])

    def several(self) -> None:
        """Several statements in one query: complete when the server is ready."""
        statement = self.begin("several")
        self._query(f"SELECT '{statement.word}'; INSERT INTO written VALUES ('several'); SELECT 2")
        self.answers([statement], when_ready=True)

    def failing(self) -> None:
        """An error."""
        statement = self.begin("error")
        self._query(f"SELECT 1/0 AS {statement.word}")
        self.answers([statement])

    def wide(self) -> None:
        """A result that fills the server's buffer to the byte, or nearly: its end comes in pieces."""
        statement = self.begin("wide")
        # RowDescription, DataRow, CommandComplete; then ReadyForQuery begins the next piece, or a little before.
        around = (25 + len(statement.word) + 1) + 11 + 14 + self.random.choice((0, 0, 0, 1, 3, 6, -5))
        self._query(f"SELECT repeat('x', {BUFFER - around}) AS {statement.word}")
        self.answers([statement])

    def large(self) -> None:
        """A text in parts."""
        if self.random.random() < 0.8:
            return
        statement = self.begin("large")
        self._query(f"/* {statement.word} */ SELECT length('{'y' * 150_000}')")
        self.answers([statement])

    def _bind(self, name: str, statement: Statement) -> bytes:
        values = statement.word.encode()
        body = b"\0" + name.encode() + b"\0" + struct.pack("!hhi", 0, 1, len(values)) + values + struct.pack("!h", 0)
        return message(b"B", body) + message(b"E", b"\0" + struct.pack("!i", 0))

    def _parse(self, name: str, text: str) -> bytes:
        return message(b"P", name.encode() + b"\0" + text.encode() + b"\0" + struct.pack("!h", 0))

    def batches(self) -> None:
        """A pipeline: batches of several executions, some with an error, behind which the server skips."""
        sent, wanted = b"", []
        for _ in range(self.random.randrange(1, 5)):
            batch = []
            for _ in range(self.random.randrange(1, 6)):
                statement = self.begin("pipelined", parameter=True)
                fails = self.random.random() < 0.1
                sent += self._parse("", "SELECT $1::text::int" if fails else f"SELECT $1::text, {self.ledger.number()}")
                sent += self._bind("", statement)
                batch.append(statement)
            sent += SYNC
            wanted.append(batch)
        self._raw.send(sent)
        self.answers(*wanted)

    def prepared(self) -> None:
        """One that was prepared long before; the first time it is prepared, without waiting for that."""
        name = self.random.choice("abc")
        sent = b"" if name in self._prepared else self._parse(name, f"SELECT $1::text AS {name}")
        self._prepared[name] = 1
        batch = [self.begin("prepared", parameter=True) for _ in range(self.random.randrange(1, 4))]
        for statement in batch:
            sent += self._bind(name, statement) + self.random.choice((b"", FLUSH))
        self._raw.send(sent + SYNC)
        self.answers(batch)

    def copy_in(self) -> None:
        """Rows in; a bad one sometimes."""
        statement = self.begin("copy in")
        self._query(f"/* {statement.word} */ COPY copied FROM STDIN")
        self.answers([statement])

    def _feed(self) -> None:
        bad = "no number\tbad\n" if self.random.random() < 0.2 else ""
        for _ in range(self.random.randrange(1, 4)):
            self._raw.send(message(b"d", b"".join(b"%d\trow\n" % number for number in range(50))))
        self._raw.send(message(b"d", bad.encode()) + message(b"c"))

    def copy_out(self) -> None:
        """Rows out."""
        statement = self.begin("copy out")
        rows = self.random.randrange(1, 3000)
        self._query(f"COPY (SELECT generate_series(1, {rows}) AS {statement.word}) TO STDOUT")
        self.answers([statement])


class PsycopgClient(Client):
    """libpq as Python programs use it."""

    def session(self) -> None:
        with psycopg.connect(**self.settings, autocommit=True, connect_timeout=int(PATIENCE)) as connection:  # type: ignore[arg-type]
            self.ledger.sessions += 1
            for _ in range(self.random.randrange(3, 60)):
                if not self.wanted:
                    break
                self.random.choice((self.one, self.prepared, self.pipeline, self.copy))(connection)
                self.pause()

    def _noted(self, statement: Statement, call: Callable[[], Any]) -> None:
        try:
            call()
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise
        except psycopg.Error as error:
            statement.seen = str(error.sqlstate)
        else:
            statement.seen = OK

    def one(self, connection: psycopg.Connection[Any]) -> None:
        """A simple query; an error sometimes."""
        statement = self.begin("psycopg simple")
        value = "1/0" if self.random.random() < 0.2 else "1"
        self._noted(statement, lambda: connection.execute(f"SELECT {value} AS {statement.word}".encode()))

    def prepared(self, connection: psycopg.Connection[Any]) -> None:
        """A prepared one."""
        statement = self.begin("psycopg prepared", parameter=True)
        call = lambda: connection.execute("SELECT %s::text", (statement.word,), prepare=True)  # noqa: E731
        self._noted(statement, call)

    def pipeline(self, connection: psycopg.Connection[Any]) -> None:
        """Sixteen at once."""
        batch = [self.begin("psycopg pipelined", parameter=True) for _ in range(16)]
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::text || 'x'", (each.word,)) for each in batch]
        for statement, cursor in zip(batch, cursors, strict=True):
            if cursor.fetchone() is not None:
                statement.seen = OK

    def copy(self, connection: psycopg.Connection[Any]) -> None:
        """Rows in."""
        statement = self.begin("psycopg copy")

        def call() -> None:
            text = f"/* {statement.word} */ COPY copied FROM STDIN".encode()
            with connection.cursor() as cursor, cursor.copy(text) as copy:
                for number in range(20):
                    copy.write_row((number, "psycopg"))

        self._noted(statement, call)


class PsqlClient(Client):
    """psql with a file of statements; what it printed it saw complete."""

    statements = 60

    def session(self) -> None:
        script = self.person.home / f"{self.name}.sql"
        batch = [self.begin("psql") for _ in range(self.statements)]
        script.write_text("".join(f"SELECT '{statement.word}';\n" for statement in batch))
        command = [*self.person.world.client("psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
        try:
            said = subprocess.run(
                [*command, "-f", str(script), self.conninfo],
                cwd=self.person.home,
                env=self.person.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(str(error)) from error
        printed = set(said.stdout.splitlines())
        for statement in batch:
            if statement.word in printed:
                statement.seen = OK
        if said.returncode:
            raise Lost
        self.ledger.sessions += 1


class Crowd:
    """All clients.

    :param people: take turns.
    """

    def __init__(
        self,
        people: Sequence[Person],
        service: str,
        ledger: Ledger,
        *,
        seed: int,
        sizes: Mapping[type[Client], int],
    ) -> None:
        self.ledger = ledger
        self.clients: list[Client] = []
        for kind, size in sizes.items():
            for _ in range(size):
                number = len(self.clients)
                person = people[number % len(people)]
                name = f"{kind.__name__}-{number}-{person.name}"
                self.clients.append(kind(name, person, service, self.ledger, seed * 1000 + number))
        for client in self.clients:
            client.start()

    def work(self) -> None:
        """Everybody begins."""
        for client in self.clients:
            client.going.set()

    def rest(self) -> list[str]:
        """Everybody ends what is under way; who does not, and what went wrong."""
        for client in self.clients:
            client.going.clear()
        late = [client.name for client in self.clients if not client.resting.wait(2 * PATIENCE)]
        return [f"{name} does not come to an end" for name in late] + [
            client.trouble for client in self.clients if client.trouble
        ]

    def close(self) -> None:
        """Everybody goes home."""
        for client in self.clients:
            client.ending.set()
            client.going.set()
        for client in self.clients:
            client.join(2 * PATIENCE)

    def until_more(self, statements: int, seconds: float = PATIENCE) -> bool:
        """Wait until so many more are complete; whether they came."""
        wanted, deadline = self.ledger.complete + statements, time.monotonic() + seconds
        while self.ledger.complete < wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True
