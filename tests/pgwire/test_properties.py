"""What holds for every session, however it is divided."""

from __future__ import annotations

import itertools
import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import TeleportDBError
from teleport_db.pgwire import messages
from teleport_db.pgwire.frontend import (
    MAX_PART,
    Bind,
    Close,
    Execute,
    FrontendScanner,
    FunctionCall,
    Parse,
    Query,
    Statement,
    StatementPart,
)
from teleport_db.pgwire.startup import Opening, Startup, StartupMessage
from tests.pgwire import wire

# Deterministic, and nothing written to the checkout.
PROPERTY = settings(
    max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)

text = st.binary(max_size=20).map(lambda value: value.replace(b"\0", b"."))
value = st.none() | st.binary(max_size=20)
formats = st.lists(st.sampled_from([0, 1]), max_size=20)
values = st.lists(value, max_size=20)
int32 = st.integers(-(2**31), 2**31 - 1)
oid = st.integers(0, 2**32 - 1)
Wired = tuple[bytes, Statement | None]


def _bind(portal: bytes, name: bytes, codes: list[int], items: list[bytes | None], results: list[int]) -> Wired:
    return wire.bind(portal, name, codes, items, results), Bind(portal, name, tuple(codes), tuple(items))


def _query_near_the_limit(extra: int, byte: int) -> Wired:
    sql = bytes([byte]) * (MAX_PART + extra)
    return wire.query(sql), Query(sql)


wired: st.SearchStrategy[Wired] = st.one_of(
    st.builds(lambda sql: (wire.query(sql), Query(sql)), text),
    st.builds(
        lambda name, sql, types: (wire.parse(name, sql, types), Parse(name, sql, tuple(types))),
        text,
        text,
        st.lists(oid, max_size=5),
    ),
    st.builds(_bind, text, text, formats, values, formats),
    st.builds(lambda portal, limit: (wire.execute(portal, limit), Execute(portal, limit)), text, int32),
    st.builds(lambda kind, name: (wire.close(kind, name), Close(kind, name)), st.sampled_from([b"S", b"P"]), text),
    st.builds(
        lambda number, items, codes: (
            wire.function_call(number, items, codes),
            FunctionCall(number, tuple(items), tuple(codes)),
        ),
        oid,
        values,
        formats,
    ),
    st.builds(
        lambda kind, body: (messages.message(kind, body), None),
        st.sampled_from([b"S", b"H", b"d", b"c", b"f", b"X", b"p"]),
        st.binary(max_size=60),
    ),
)
large: st.SearchStrategy[Wired] = st.builds(
    _query_near_the_limit,
    st.integers(-3, 3) | st.integers(MAX_PART - 3, MAX_PART + 3),
    st.sampled_from([0x61, 0x80, 0xE2]),
)


def divide(data: bytes, marks: list[int]) -> list[bytes]:
    """`data` in pieces; the marks are places, taken modulo its length."""
    places = sorted({0, len(data), *(mark % (len(data) + 1) for mark in marks)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def join_parts(statements: list[Statement]) -> list[Statement]:
    """The statements with the parts of each large Query put together again."""
    whole: list[Statement] = []
    sql = b""
    for statement in statements:
        if not isinstance(statement, StatementPart):
            whole.append(statement)
            continue
        sql += statement.data
        if statement.last:
            whole.append(Query(sql))
            sql = b""
    return whole


class ScannerProperties(SynchronousTestCase):
    """The scanner against the list of what was sent."""

    def run_session(self, session: list[Wired], marks: list[int]) -> None:
        sent = b"".join(data for data, _ in session)
        scanner = FrontendScanner()
        released, statements = 0, []
        for piece in divide(sent, marks):
            data, found = scanner.feed(piece)
            # Forwarded bytes are exactly the bytes received.
            self.assertEqual(data, sent[released : released + len(data)])
            released += len(data)
            statements += [message for message in found if isinstance(message, Statement)]
            self.assertLessEqual(scanner.buffered, MAX_PART + 6)
            self.check_recorded(session, released, statements)
        self.assertEqual(released, len(sent))
        self.assertEqual(join_parts(statements), [item for _, item in session if item is not None])
        self.assertTrue(scanner.between_messages)

    def check_recorded(self, session: list[Wired], released: int, statements: list[Statement]) -> None:
        """No byte of an audited message was released before it was returned, but for recorded parts."""
        whole = join_parts(statements)
        parts = 0
        for statement in reversed(statements):
            if not isinstance(statement, StatementPart) or statement.last:
                break
            parts += len(statement.data)
        end = count = 0
        for data, statement in session:
            start, end = end, end + len(data)
            if statement is None:
                continue
            if released >= end:
                count += 1
            elif released > start:
                self.assertLessEqual(released - start - 5, parts)
        self.assertGreaterEqual(len(whole), count)

    @PROPERTY
    @given(st.lists(wired, max_size=12), st.lists(st.integers(0, 10**6), max_size=12))
    def test_sessions(self, session: list[Wired], marks: list[int]) -> None:
        """Any messages, in any pieces."""
        self.run_session(session, marks)

    @settings(PROPERTY, max_examples=30)
    @given(st.lists(wired | large, max_size=4), large, st.lists(st.integers(0, 10**6), max_size=6))
    def test_large_sessions(self, session: list[Wired], one: Wired, marks: list[int]) -> None:
        """The same around the size from which a message goes on in parts."""
        self.run_session([*session, one, *session[:1]], marks)

    @PROPERTY
    @given(st.lists(wired, max_size=4), st.binary(max_size=40), st.lists(st.integers(0, 10**6), max_size=6))
    def test_noise(self, session: list[Wired], noise: bytes, marks: list[int]) -> None:
        """Whatever comes, what goes on is a beginning of it, and only our own errors are raised."""
        sent = b"".join(data for data, _ in session) + noise
        scanner = FrontendScanner()
        released = 0
        try:
            for piece in divide(sent, marks):
                data, _ = scanner.feed(piece)
                self.assertEqual(data, sent[released : released + len(data)])
                released += len(data)
        except TeleportDBError as error:
            self.assertEqual(error.sqlstate, "08P01")


class StartupProperties(SynchronousTestCase):
    """Startup messages, built by one side and read by the other."""

    @PROPERTY
    @given(
        st.text(min_size=1, max_size=15).filter(lambda name: "\0" not in name),
        st.text(max_size=15).filter(lambda name: "\0" not in name),
        st.dictionaries(text.filter(bool).map(bytes.lower), text, max_size=5),
        st.lists(st.integers(0, 10**6), max_size=5),
    )
    def test_round_trip(self, user: str, database: str, others: dict[bytes, bytes], marks: list[int]) -> None:
        """Names come out as they went in, the message as it was, in any pieces."""
        parameters = {**others, b"user": user.encode(), b"database": database.encode()}
        raw = messages.startup_message(parameters.items())
        opening = Opening(encrypted=True)
        events = [event for piece in divide(raw, marks) for event in opening.feed(piece)]
        [event] = events
        assert isinstance(event, Startup)
        self.assertEqual((event.message.user, event.message.database), (user, database or user))
        self.assertEqual(event.message.parameters, tuple(parameters.items()))
        self.assertEqual((event.message.raw, event.rest), (raw, b""))

    @PROPERTY
    @given(st.binary(max_size=80))
    def test_noise(self, body: bytes) -> None:
        """Anything in a startup's frame is read or refused in words."""
        try:
            message = StartupMessage.parse(struct.pack(">II", 8 + len(body), 3 << 16) + body)
            message.check()
        except TeleportDBError as error:
            self.assertTrue(str(error).isprintable())

    @PROPERTY
    @given(st.text("-ceE \\\t=rolex_", max_size=20))
    def test_role_is_found_in_any_options(self, noise: str) -> None:
        """A setting of the role behind whole words is found whatever stands before it."""
        words = noise.rstrip("\\").encode()
        raw = wire.startup((b"user", b"bob"), (b"options", words + b" -c role=x"))
        self.assertTrue(StartupMessage.parse(raw).sensitive_parameters())


class ErrorProperties(SynchronousTestCase):
    """Errors, both ways."""

    @PROPERTY
    @given(st.text(), st.text(), st.text())
    def test_round_trip(self, message: str, detail: str, hint: str) -> None:
        """Whatever the words, the framing holds."""
        data = messages.error_response("FATAL", "28000", message, detail, hint)
        self.assertEqual(struct.unpack_from(">I", data, 1)[0], len(data) - 1)
        fields = messages.parse_error(data[5:])
        self.assertEqual((fields["S"], fields["C"]), ("FATAL", "28000"))

    @PROPERTY
    @given(st.binary())
    def test_noise(self, body: bytes) -> None:
        """Reading never raises."""
        messages.parse_error(body)
