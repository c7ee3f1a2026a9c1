"""The events of statements: before they run, and what came of them."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.events import EncodedEvent, encode
from teleport_db.audit.executions import MAX_ENCODED
from teleport_db.pgwire import names
from teleport_db.pgwire.messages import SYNC, error_response, message, ready_for_query
from teleport_db.pgwire.prepared import CommitFailed, Execution
from tests.audit.samples import NOW, session
from tests.pgwire.test_executions import Both
from tests.pgwire.wire import bind, execute, function_call, parse, query

READY = ready_for_query()
BATCH = message(b"1") + message(b"2") + message(b"C", b"SELECT 1\0") + READY


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.both = Both()
        self.events = session()

    def made(self, *wires: bytes) -> list[EncodedEvent]:
        """The events before these messages of the client go on."""
        self.both.scanner.feed(b"")
        found = []
        for wire in wires:
            _, messages = self.both.scanner.feed(wire)
            self.both.executions.sent(messages, self.both.scanner.ends)
            for one in self.both.executions.made:
                if not isinstance(one, Execution):
                    found.append(self.events.recorded(NOW, one))
                elif one.whole:
                    found.append(self.events.execution(NOW, one))
            self.both.executions.made.clear()
        for event in found:
            self.assertJSON(event)
        return found

    def done(self, data: bytes, duration: float = 0.0) -> list[EncodedEvent]:
        """The events before these answers go on."""
        self.both.executions.answered(self.both.walk.feed(data))
        found = []
        for one in self.both.executions.done:
            if isinstance(one, Execution):
                found.append(self.events.outcome(NOW, one, duration))
            elif isinstance(one, CommitFailed):
                found.append(self.events.commit_failed(NOW, one))
            else:
                found.append(self.events.refused(NOW, one))
        self.both.executions.done.clear()
        for event in found:
            self.assertJSON(event)
        return found

    def assertJSON(self, event: EncodedEvent) -> None:
        """It is what ``json.dumps`` would make of it, on one line, with a number of its own."""
        encoded = encode(event)
        self.assertEqual(encoded, json.dumps(dict(event), separators=(",", ":")))
        self.assertTrue(encoded.isascii() and encoded.isprintable())
        self.assertEqual((event["user"], event["server_id"]), ("alice", "5603cd43-1172-4f1f-8e35-2bf74dfecf15"))


class QueryTests(Case):
    def test_simple(self) -> None:
        (event,) = self.made(query(b"select '\n\"'"))
        self.assertEqual((event["event"], event["code"], event["ei"]), ("db.session.query", "TDB02I", 0))
        self.assertEqual((event["statement_id"], event["db_query"]), (1, "select '\n\"'"))

    def test_row_16_undecodable(self) -> None:
        (event,) = self.made(query(b"select '\xff'"))
        self.assertEqual((event["db_query"], event["db_query_base64"]), ("select '\ufffd'", "c2VsZWN0ICf/Jw=="))

    def test_redacted(self) -> None:
        """Simple and prepared, and the parameters of what speaks of a password."""
        sql = b"ALTER ROLE r PASSWORD 'secret'"
        update = b"UPDATE u SET password = $1"
        events = self.made(query(sql), parse(b"s", sql) + bind(b"", b"s") + execute(b""))
        events += self.made(parse(b"", update) + bind(b"", b"", [], [b"secret", None]) + execute(b""))
        self.assertEqual(events[2]["db_query_parameters"], ["***", None])
        for event in events:
            self.assertIn("***", encode(event))
            self.assertNotIn("secret", encode(event))

    def test_prepared(self) -> None:
        """Names only where there are some; the same each time."""
        self.made(parse(b"s", b"select $1", [23]))
        for _ in range(2):
            (event,) = self.made(bind(b"p", b"s", [1], [b"\0\0\0\5"]) + execute(b"p", 9))
            self.assertEqual(event["db_query"], "select $1")
            self.assertEqual((event["statement_name"], event["portal_name"], event["row_limit"]), ("s", "p", 9))
            self.assertEqual(event["db_query_parameters"], ["5"])
        (event,) = self.made(parse(b"", b"select 1") + bind(b"", b"") + execute(b"") + SYNC)
        for name in ("statement_name", "portal_name", "row_limit", "db_query_parameters", "db_query_doubtful"):
            self.assertNotIn(name, event)

    def test_long_texts_are_not_kept_twice(self) -> None:
        sql = b"select '" + b"x" * MAX_ENCODED + b"'"
        for _ in range(2):
            events = self.made(parse(b"s", sql) + bind(b"", b"s") + execute(b""))
            self.assertEqual(events[0]["db_query"], sql.decode())

    def test_parameters(self) -> None:
        """Text as text, common types decoded, the rest in base64; or none, as a role wants it."""
        wire = parse(b"", b"x", [23, 600, 25]) + bind(b"", b"", [1, 1, 0], [b"\0\0\1\0", b"ab", b"\xff"]) + execute(b"")
        (event,) = self.made(wire)
        self.assertEqual(event["db_query_parameters"], ["256", "", ""])
        self.assertEqual(event["db_query_parameters_base64"], {"1": "YWI=", "2": "/w=="})
        self.events.parameters = False
        (event,) = self.made(wire)
        self.assertNotIn("db_query_parameters", event)

    def test_secrets_in_parameters(self) -> None:
        """Connection strings and addresses lose their passwords, in text and binary form."""
        value, kept = b"host=h user=u password=secret", "host=h user=u password=***"
        for formats in ([], [1]):
            wire = parse(b"", b"select dblink_connect($1)", [25]) + bind(b"", b"", formats, [value]) + execute(b"")
            (event,) = self.made(wire)
            self.assertEqual(event["db_query_parameters"], [kept])
        wire = parse(b"", b"x") + bind(b"", b"", [], [b"https://u:secret@h", b"\xff://"]) + execute(b"")
        self.assertEqual(self.made(wire)[0]["db_query_parameters"], ["https://u:***@h", ""])

    def test_function_call(self) -> None:
        (event,) = self.made(function_call(957, [b"\1", None]))
        self.assertEqual((event["function_oid"], event["db_query"]), (957, "fastpath function call: OID 957"))
        self.assertEqual(event["db_query_parameters_base64"], {"0": "AQ=="})

    def test_names_of_sql(self) -> None:
        """What SQL made has a name and no text; a name that it may have taken over is marked."""
        self.made(parse(b"old", b"select 1") + SYNC)
        self.done(message(b"1") + READY)
        self.made(query(b"prepare s as select 1"))
        events = self.made(bind(b"", b"s") + execute(b""), execute(b"cursor"), bind(b"", b"old") + execute(b""))
        self.assertEqual([event["db_query"] for event in events], ["", "", "select 1"])
        self.assertEqual((events[0]["statement_name"], events[1]["portal_name"]), ("s", "cursor"))
        self.assertEqual([event.get("db_query_doubtful") for event in events], [None, None, True])

    def test_large(self) -> None:
        """Parts have the id of their statement, and executions of what is not kept refer to it."""
        parts = self.made(query(b"x" * 70_000))
        self.assertEqual({part["statement_id"] for part in parts}, {1})
        self.assertEqual("".join(part["db_query"] for part in parts), "x" * 70_000)
        *parts, one = self.made(parse(b"s", b"y" * 70_000) + bind(b"p", b"s", [], [b"z" * 70_000]) + execute(b"p"))
        self.assertEqual([part["code"] for part in parts], ["TPG00I"] * 2 + ["TPG01I"] * 2)
        self.assertEqual((one["parsed_as"], one["bound_as"]), (parts[0]["statement_id"], parts[2]["statement_id"]))
        self.assertEqual((one["db_query"], one["db_query_sha256"]), ("", parts[1]["sha256"]))
        self.assertEqual(one["db_query_length"], parts[1]["total_length"])
        *_, call = self.made(function_call(952, [b"w" * 70_000]))
        self.assertEqual(call["function_oid"], 952)

    def test_beyond_the_bound(self) -> None:
        self.both.executions.names.statements.held = names.MAX_HELD
        event, one = self.made(parse(b"s", b"select 1") + bind(b"", b"s") + execute(b""))
        self.assertEqual((event["code"], event["query"], event["statement_id"]), ("TPG00I", "select 1", 1))
        self.assertEqual((one["db_query"], one["parsed_as"], one["db_query_length"]), ("", 1, 8))

    def test_messages(self) -> None:
        """The published events of each message, where they are asked for."""
        self.both.executions._messages = True
        wire = parse(b"s", b"select 1") + bind(b"p", b"s") + execute(b"p") + message(b"C", b"Ss\0") + SYNC
        codes = [event["code"] for event in self.made(wire + function_call(957, []))]
        self.assertEqual(codes, ["TPG00I", "TPG01I", "TPG02I", "TDB02I", "TPG03I", "TPG04I", "TDB02I"])


class ResultTests(Case):
    def test_success(self) -> None:
        (made,) = self.made(query(b"select 1"))
        (event,) = self.done(message(b"D", b"\0\0") * 3 + message(b"C", b"SELECT 3\0") + READY, 0.0125)
        self.assertEqual((event["event"], event["code"], event["ei"]), ("db.session.result", "TDB10I", 1))
        self.assertEqual((event["statement_id"], event["success"]), (made["statement_id"], True))
        self.assertEqual((event["rows"], event["affected_records"], event["command_tag"]), (3, 3, "SELECT 3"))
        self.assertEqual((event["bytes_sent"], event["bytes_received"]), (14, 3 * 7 + 14 + 6))
        self.assertEqual(event["duration_ms"], 12.5)
        for name in ("sqlstate", "error", "command_tags", "statements", "suspended", "skipped"):
            self.assertNotIn(name, event)

    def test_failure(self) -> None:
        self.made(query(b"a;b"))
        (event,) = self.done(message(b"C", b"UPDATE 2\0") * 2 + error_response("ERROR", "42P01", "no secrets") + READY)
        self.assertEqual((event["success"], event["sqlstate"]), (False, "42P01"))
        self.assertEqual((event["command_tags"], event["statements"]), (["UPDATE 2", "UPDATE 2"], 2))
        self.assertNotIn("secrets", encode(event))

    def test_skipped(self) -> None:
        self.made(parse(b"", b"bad") + bind(b"", b"") + execute(b"") + SYNC)
        (event,) = self.done(error_response("ERROR", "42601", "no") + READY)
        self.assertEqual((event["success"], event["skipped"], event["sqlstate"]), (False, True, "42601"))

    def test_suspended(self) -> None:
        self.made(parse(b"", b"x") + bind(b"", b"") + execute(b"", 5) + SYNC)
        (event,) = self.done(message(b"1") + message(b"2") + message(b"s") + READY)
        self.assertEqual((event["success"], event["suspended"]), (True, True))
        self.assertNotIn("command_tag", event)

    def test_commit(self) -> None:
        self.made(parse(b"", b"x") + bind(b"", b"") + execute(b"") + SYNC)
        _, event = self.done(BATCH[:-6] + error_response("ERROR", "23503", "no") + READY)
        self.assertEqual((event["statement_id"], event["success"], event["sqlstate"]), (1, False, "23503"))

    def test_refused(self) -> None:
        """What was never prepared is told of as a statement that failed."""
        self.made(parse(b"s", b"selekt 'x'") + SYNC)
        (event,) = self.done(error_response("ERROR", "42601", "no") + READY)
        self.assertEqual((event["event"], event["code"]), ("db.session.query", "TDB02W"))
        self.assertEqual((event["db_query"], event["statement_name"]), ("selekt 'x'", "s"))
        self.assertEqual((event["success"], event["sqlstate"]), (False, "42601"))

    def test_lost(self) -> None:
        self.made(query(b"x"))
        self.both.executions.lost()
        (event,) = self.done(b"")
        self.assertEqual((event["success"], "error" in event), (False, True))

    def test_hostile_tag(self) -> None:
        """A server's words cannot begin a line."""
        self.made(query(b"x"))
        (event,) = self.done(message(b"C", b"\xff\n\x1b[2J 5\0") + READY)
        self.assertEqual(event["affected_records"], 5)
