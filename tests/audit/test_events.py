"""Events and their JSON."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import uuid
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.events import CODES, FAILURE_CODES, EncodedEvent, encode, list_fields, make_event, timestamp
from teleport_db.audit.uids import uid_source
from teleport_db.pgwire.statements import (
    Bind,
    Close,
    Execute,
    FunctionCall,
    Parse,
    StatementPart,
)
from tests.audit.samples import NOW, session

COMMON = {
    "ei", "event", "uid", "code", "time", "cluster_name", "user", "sid", "db_service", "db_protocol", "db_uri",
    "db_name", "db_user", "server_id",
}  # fmt: skip


class FormTests(SynchronousTestCase):
    """What every event is."""

    def everything(self) -> list[EncodedEvent]:
        events = session()
        return [
            events.start(NOW, client_address="10.0.0.1:5000", roles=["dba"], parameters={"user": "bob"}),
            events.query(NOW, b"select 1"),
            events.query(NOW, "select 'ж\u2028\x7f\x9b'".encode()),
            events.query(NOW, b"select '\xff'"),
            events.message(NOW, Parse(b"s", b"select $1", (23,))),
            events.message(NOW, Bind(b"p", b"s", (0,), (b"5", None))),
            events.message(NOW, Execute(b"p", 10)),
            events.message(NOW, Close(b"P", b"p")),
            events.message(NOW, Close(b"S", b"s")),
            events.message(NOW, FunctionCall(957, (b"\0\0\0\5", None))),
            events.message(NOW, StatementPart("Query", 0, b"select")),
            events.malformed(NOW, b"\0\1\2"),
            events.end(NOW, "client closed"),
        ]

    def test_common_fields(self) -> None:
        """All have them, and are numbered without a gap."""
        made = self.everything()
        for number, event in enumerate(made):
            self.assertEqual(event["ei"], number)
            self.assertLessEqual(COMMON, set(event))
            self.assertEqual(event["time"], "2025-11-24T16:00:00.125Z")
            uuid.UUID(event["uid"])
        self.assertEqual(len({event["uid"] for event in made}), len(made))

    def test_json(self) -> None:
        """The encoded form is ``json.dumps`` of the dict, byte for byte, and reads back as it."""
        for event in self.everything():
            self.assertEqual(encode(event), json.dumps(dict(event), separators=(",", ":")))
            self.assertEqual(json.loads(encode(event)), event)

    def test_lines(self) -> None:
        """No byte of a client's begins a line, ends a string or moves a cursor."""
        events = session(user='a\n"\\\u2028', db_name="\x1b[2J", sid="\r")
        hostile = b'\n{"ei":1,"event":"user.login"}\r\x1b[2J\x00\xc2\x9b"\\'
        for event in (
            events.query(NOW, hostile),
            events.message(NOW, Parse(hostile, hostile)),
            events.message(NOW, Bind(hostile, hostile, (), (hostile,))),
            events.start(NOW, parameters={"a\n": "b\n"}, error="x\ny"),
            events.end(NOW, "a\nb"),
        ):
            encoded = encode(event)
            self.assertTrue(encoded.isascii() and encoded.isprintable())
            self.assertEqual(len(encoded.splitlines()), 1)
            self.assertEqual(json.loads(encoded), event)

    def test_codes(self) -> None:
        names = [(event["event"], event["code"]) for event in self.everything()]
        for pair in (
            ("db.session.start", "TDB00I"),
            ("db.session.query", "TDB02I"),
            ("db.session.postgres.statements.parse", "TPG00I"),
            ("db.session.postgres.statements.bind", "TPG01I"),
            ("db.session.postgres.statements.execute", "TPG02I"),
            ("db.session.postgres.statements.close", "TPG03I"),
            ("db.session.postgres.function", "TPG04I"),
            ("db.session.malformed_packet", "TDB06I"),
            ("db.session.end", "TDB01I"),
        ):
            self.assertIn(pair, names)
        self.assertEqual(session().start(NOW, success=False)["code"], "TDB00W")
        self.assertEqual((CODES["user.login"], FAILURE_CODES["user.login"]), ("T1000I", "T1000W"))

    def test_cannot_be_changed(self) -> None:
        """Nobody changes an event whose JSON is made; a dict of it is one like any other."""
        event: Any = session().query(NOW, b"select 1")
        with self.assertRaises(TypeError):
            event["user"] = "x"
        with self.assertRaises(TypeError):
            del event["user"]
        for same in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
            self.assertEqual((same, encode(same)), (event, encode(event)))
        changed = {**event, "user": "x"}
        self.assertEqual(json.loads(encode(changed))["user"], "x")

    def test_make_event(self) -> None:
        event = make_event("user.login", uid="u", time=NOW, cluster_name="root", user="alice", error=None)
        self.assertEqual(
            event,
            {
                "ei": 0, "event": "user.login", "uid": "u", "code": "T1000I", "time": "2025-11-24T16:00:00.125Z",
                "user": "alice", "cluster_name": "root",
            },
        )  # fmt: skip
        self.assertEqual(make_event("user.login", "T1000W", uid="u", time=0, cluster_name="root")["code"], "T1000W")

    def test_timestamp(self) -> None:
        for now, text in (
            (0, "1970-01-01T00:00:00.000Z"),
            (0.9999, "1970-01-01T00:00:00.999Z"),
            (1_764_000_000.0, "2025-11-24T16:00:00.000Z"),
            (1_764_000_000.9996, "2025-11-24T16:00:00.999Z"),
            (1_764_000_001.0, "2025-11-24T16:00:01.000Z"),
        ):
            self.assertEqual(timestamp(now), text)

    def test_uids(self) -> None:
        """They are version 4 of RFC 9562, made of nothing but what was drawn."""
        new_uid = uid_source(lambda size: b"\xff" * size)
        self.assertEqual(new_uid(), "ffffffff-ffff-4fff-bfff-ffffffffffff")
        real = uid_source()
        made = {real() for _ in range(1000)}
        self.assertEqual(len(made), 1000)
        for uid in made:
            self.assertEqual((uuid.UUID(uid).version, uuid.UUID(uid).variant), (4, uuid.RFC_4122))

    def test_withdraw(self) -> None:
        """An event that could not be kept leaves no gap."""
        events = session()
        events.query(NOW, b"select 1")
        events.withdraw()
        self.assertEqual(events.end(NOW)["ei"], 0)


class StatementTests(SynchronousTestCase):
    """What the audited messages become."""

    def test_fields(self) -> None:
        events = session()
        parse = events.message(NOW, Parse(b"s", b"select $1", (23,)))
        self.assertEqual((parse["statement_name"], parse["query"]), ("s", "select $1"))
        bind = events.message(NOW, Bind(b"p", b"s", (0, 1, 0), (b"5", b"\0\5", None, b"x")))
        self.assertEqual((bind["portal_name"], bind["statement_name"]), ("p", "s"))
        self.assertEqual(bind["parameters"], ["5", "", None, "x"])
        self.assertEqual(bind["parameters_base64"], {"1": "AAU="})
        execute = events.message(NOW, Execute(b"p", 10))
        self.assertEqual((execute["portal_name"], execute["row_limit"]), ("p", 10))
        self.assertEqual(events.message(NOW, Close(b"P", b"p"))["portal_name"], "p")
        self.assertEqual(events.message(NOW, Close(b"S", b"s"))["statement_name"], "s")
        call = events.message(NOW, FunctionCall(957, (b"1", None)))
        self.assertEqual((call["function_oid"], call["function_args"]), (957, ["1", None]))
        numbered = events.message(NOW, Parse(b"s", b"select 1"), number=7)
        self.assertEqual((numbered["statement_id"], numbered["query"]), (7, "select 1"))
        self.assertEqual(base64.b64decode(events.malformed(NOW, b"\0\xff")["payload"]), b"\0\xff")

    def test_one_format_for_all(self) -> None:
        bind = session().message(NOW, Bind(b"", b"", (1,), (b"5", b"6")))
        self.assertEqual(bind["parameters_base64"], {"0": "NQ==", "1": "Ng=="})

    def test_undecodable(self) -> None:
        """What is not UTF-8 is kept exactly, beside what can be read."""
        event = session().query(NOW, b"select '\xe4'")
        self.assertEqual(base64.b64decode(event["db_query_base64"]), b"select '\xe4'")
        self.assertEqual(event["db_query"], "select '\ufffd'")
        bind = session().message(NOW, Bind(b"", b"", (), (b"\xff",)))
        self.assertEqual(bind["parameters_base64"], {"0": "/w=="})

    def test_redacted(self) -> None:
        """Wherever SQL can be."""
        sql = b"ALTER ROLE r PASSWORD 'secret\xff'"
        events = session()
        large = b"name\0" + sql + b"\0\0\0"
        for event in (
            events.query(NOW, sql),
            events.query(NOW, b"alter role r password 'secret'"),
            events.message(NOW, Parse(b"", sql)),
            events.message(NOW, StatementPart("Query", 0, sql, True, 9, "ab")),
            events.message(NOW, StatementPart("Parse", 0, large, True, 9, "ab")),
            events.start(NOW, parameters={"password": "secret"}),
        ):
            encoded = encode(event)
            self.assertIn("***", encoded)
            self.assertNotIn("secret", encoded)
            self.assertNotIn(base64.b64encode(b"secret").decode()[:8], encoded)

    def test_secret_parameters(self) -> None:
        """Parameters that may be passwords are stars; those that are not wanted are not there."""
        events = session()
        bind = Bind(b"p", b"s", (), (b"secret", None, b"\xff"))
        self.assertEqual(events.message(NOW, bind, secret=True)["parameters"], ["***", None, "***"])
        self.assertNotIn("parameters_base64", events.message(NOW, bind, secret=True))
        for message, name in ((bind, "parameters"), (FunctionCall(957, (b"x",)), "function_args")):
            event = events.message(NOW, message, parameters=False)
            self.assertFalse([field for field in event if field.startswith(name)])
        self.assertEqual(events.message(NOW, bind, parameters=False)["portal_name"], "p")

    def test_malformed(self) -> None:
        """What nobody can read is kept, but for its header where it may be a password or parameters."""
        events = session()
        for payload, kept in (
            (b"z\0\0\0\x09xxxxx", 10),
            (b"p\0\0\0\x09xxxxx", 5),
            (b"Q\0\0\0\x40alter role r PassWord 'x'", 5),
            (b"Q\0\0\0\x40select 'http://u:p@h'", 5),
        ):
            self.assertEqual(len(base64.b64decode(events.malformed(NOW, payload)["payload"])), kept, payload)
        events.parameters = False
        self.assertEqual(len(base64.b64decode(events.malformed(NOW, b"B\0\0\0\x09xxxxx")["payload"])), 5)

    def test_known_types(self) -> None:
        """Binary values of known types are text."""
        fields = list_fields("p", (b"\0\0\0\5", b"\0\5", None, b"7"), (1, 1, 1, 0), (23, 23, 23, 23))
        self.assertEqual(fields, {"p": ["5", "", None, "7"], "p_base64": {"1": "AAU="}})

    def test_parts(self) -> None:
        """Numbered parts, the last with the whole's length and hash."""
        events = session()
        first = events.message(NOW, StatementPart("Query", 0, b"ALTER ROLE r PASS"))
        second = events.message(NOW, StatementPart("Query", 1, b"WORD 'sec"))
        third = events.message(NOW, StatementPart("Query", 2, b"ret' LOGIN", True, 36, "ab"))
        self.assertEqual([event["part"] for event in (first, second, third)], [0, 1, 2])
        self.assertEqual([event["last_part"] for event in (first, second, third)], [False, False, True])
        self.assertNotIn("sha256", first)
        self.assertEqual((third["total_length"], third["sha256"]), (36, "ab"))
        text = "".join(event["db_query"] for event in (first, second, third))
        self.assertEqual(text, "ALTER ROLE r PASSWORD '******' LOGIN")

    def test_parts_of_parse(self) -> None:
        """The name is no SQL, and cannot be used to hide some."""
        events = session()
        first = events.message(NOW, StatementPart("Parse", 0, b"password '\0DROP TABLE t; "))
        last = events.message(NOW, StatementPart("Parse", 1, b"SELECT 'x'\0\0\0", True, 1, "ab"))
        self.assertEqual((first["statement_name"], first["query"]), ("password '", "DROP TABLE t; "))
        self.assertEqual(last["query"], "SELECT 'x'\0\0\0")
        self.assertEqual(last["event"], "db.session.postgres.statements.parse")

    def test_parts_of_bind(self) -> None:
        events = session()
        part = StatementPart("Bind", 0, b"p\0s\0secret")
        for secret, parameters, kept in ((True, True, "***"), (False, False, "***"), (False, True, "p\0s\0secret")):
            event = events.message(NOW, part, number=3, secret=secret, parameters=parameters)
            self.assertEqual((event["data"], event["code"], event["statement_id"]), (kept, "TPG01I", 3))
        call = events.message(NOW, StatementPart("FunctionCall", 0, b"\xff\xfe"))
        self.assertEqual((call["data_base64"], call["code"]), ("//4=", "TPG04I"))
        self.assertNotIn("data_base64", events.message(NOW, StatementPart("Bind", 0, b"\xff"), secret=True))
