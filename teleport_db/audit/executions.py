"""The events of statements: one before each execution, one with what came of it.

::

    {"event": "db.session.query", "code": "TDB02I", "statement_id": 7, "db_query": "select $1", ...}
    {"event": "db.session.result", "code": "TDB10I", "statement_id": 7, "success": true, "rows": 1, ...}

They are made on the byte path, so their JSON is put together from pieces, of which those of a prepared statement
are made once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Final

from teleport_db.audit.codes import CODES, FAILURE_CODES
from teleport_db.audit.events import EncodedEvent, SessionEvents, list_fields, text_fields, value_texts
from teleport_db.audit.exchange import bound_event, milliseconds, query_event, result_event
from teleport_db.audit.redaction import STARS, redact
from teleport_db.pgwire.prepared import CommitFailed, Execution, Portal, Prepared, Recorded, Refused

QUERY, RESULT = "db.session.query", "db.session.result"

#: Characters of a prepared statement's JSON that are kept with it.
MAX_ENCODED: Final = 1024

_encode = json.JSONEncoder(separators=(",", ":")).encode


def _pieces(fields: dict[str, Any]) -> str:
    """Fields as a piece of JSON that something follows."""
    return _encode(fields)[1:-1] + ","


def _text(sql: bytes) -> str:
    """``"db_query":...,``"""
    sql = redact(sql)
    try:
        return f'"db_query":{quote(sql.decode())},'
    except UnicodeDecodeError:
        return _pieces(text_fields("db_query", sql))


class ExecutionEvents(SessionEvents):
    """The events of one session, those of its statements included."""

    def begun(self, now: float, one: Execution) -> bytes:
        """The same as :meth:`execution` of an exchange that :class:`~teleport_db.pgwire.express.Express` follows."""
        sql, bound, pieces = one.sql, one.bound, ""
        values: Sequence[bytes | None] = ()
        if bound is not None:
            statement, formats, values, sql, types = bound
            if sql is None:
                assert one.prepared is not None
                pieces = one.prepared.encoded or _statement(statement, one.prepared)
                types = one.prepared.types
            if not self.parameters:
                values = ()
            elif formats:  # not all of them are text
                shown = value_texts(values, formats, types)
                if shown is None:
                    return self.execution(now, one).json.encode("ascii")
                values = shown
        if sql is None:
            made = bound_event(self._next, self._new_uid(), now, one.id, pieces, values, self._ending)
        else:
            made = query_event(self._next, self._new_uid(), now, one.id, sql, values, self._ending)
        if made is None:
            return self.execution(now, one).json.encode("ascii")
        self._next += 1
        return made

    def ended(self, now: float, one: Execution, duration: float) -> bytes:
        """The same as :meth:`outcome` of such an exchange."""
        made = result_event(
            *(self._next, self._new_uid(), now, one.id, one.affected, one.rows, one.sent, one.received, duration),
            *(one.tags[0], self._ending),
        )
        if made is None:
            return self.outcome(now, one, duration).json.encode("ascii")
        self._next += 1
        return made

    def execution(self, now: float, one: Execution) -> EncodedEvent:
        """It is about to run."""
        if one.sql is not None:
            pieces = _text(one.sql)
        elif one.function is not None:
            pieces = self._call(one)
        else:
            pieces = self._portal(one, one.portal if one.bound is None else one.bound_portal())
        begin = self._begin(now, QUERY, "TDB02I")
        return EncodedEvent(f'{begin}"statement_id":{one.id},{pieces[:-1]}{self._tail}')

    def _call(self, one: Execution) -> str:
        function = one.function
        assert function is not None
        fields: dict[str, Any] = {"db_query": f"fastpath function call: OID {function.oid}"}
        fields["function_oid"] = function.oid
        if self.parameters and function.arguments:
            fields |= list_fields("db_query_parameters", function.arguments, function.formats)
        return _pieces(fields)

    def _portal(self, one: Execution, portal: Portal | None) -> str:
        fields: dict[str, Any] = {}
        if one.portal_name:
            fields = text_fields("portal_name", one.portal_name)
        if one.limit:
            fields["row_limit"] = one.limit
        if one.doubtful:
            fields["db_query_doubtful"] = True
        if portal is None:
            return '"db_query":"",' + (_pieces(fields) if fields else "")
        pieces = _statement(portal.statement, portal.prepared) + ","
        if portal.number:
            fields["bound_as"] = portal.number
        elif self.parameters and portal.bind is not None and portal.bind.parameters:
            pieces += _parameters(portal)
        return pieces + _pieces(fields) if fields else pieces

    def outcome(self, now: float, one: Execution, duration: float) -> EncodedEvent:
        """What came of it.

        :param duration: in seconds.
        """
        more = ""
        if one.tags:
            more = f',"command_tag":{quote(one.tags[-1].decode(errors="replace"))}'
        if one.sqlstate:
            more += f',"sqlstate":{quote(one.sqlstate)}'
        if one.completed > 1 or one.suspended or one.skipped or one.lost:
            more += "," + _pieces(_unusual(one))[:-1]
        begin = self._begin(now, RESULT, "TDB10I")
        return EncodedEvent(
            f'{begin}"statement_id":{one.id},"success":{"true" if one.success else "false"},'
            f'"affected_records":{one.affected},"rows":{one.rows},"bytes_sent":{one.sent},'
            f'"bytes_received":{one.received},"duration_ms":{milliseconds(duration)}{more}{self._tail}'
        )

    def commit_failed(self, now: float, failed: CommitFailed) -> EncodedEvent:
        """The end of a batch failed: this is the last word on its last execution."""
        fields = {"statement_id": failed.id, "success": False, "sqlstate": failed.sqlstate}
        return self._event(now, RESULT, CODES[RESULT], fields | {"error": "the commit at the end of its batch failed"})

    def refused(self, now: float, refused: Refused) -> EncodedEvent:
        """The database did not prepare it, so it never ran."""
        prepared = refused.prepared
        fields: dict[str, Any] = text_fields("statement_name", refused.name) if refused.name else {}
        if prepared.sql is not None:
            fields |= text_fields("db_query", redact(prepared.sql))
        else:
            fields |= {"db_query": "", "parsed_as": prepared.number}
        fields |= {"success": False, "sqlstate": refused.sqlstate, "error": "the database did not prepare it"}
        return self._event(now, QUERY, FAILURE_CODES[QUERY], fields)

    def recorded(self, now: float, recorded: Recorded) -> EncodedEvent:
        """A message that is recorded beside executions."""
        return self.message(
            now, recorded.message, number=recorded.number, secret=recorded.secret, parameters=self.parameters
        )


def _unusual(one: Execution) -> dict[str, Any]:
    """What most results do not have."""
    fields: dict[str, Any] = {}
    if one.completed > 1:
        fields["command_tags"] = [tag.decode(errors="replace") for tag in one.tags]
        fields["statements"] = one.completed
    if one.suspended:
        fields["suspended"] = True
    if one.skipped:
        fields |= {"skipped": True, "error": "not run: a message before it in its batch failed"}
    if one.lost:
        fields["error"] = "the session ended before the database had answered"
    return fields


def _statement(name: bytes, prepared: Prepared | None) -> str:
    """Text and name of a statement: ``"db_query":...,"statement_name":...``"""
    if prepared is not None and prepared.encoded is not None:
        return prepared.encoded
    if prepared is None:
        pieces = '"db_query":"",'
    elif prepared.sql is None:
        pieces = _pieces(
            {
                "db_query": "",
                "parsed_as": prepared.number,
                "db_query_length": prepared.length,
                "db_query_sha256": prepared.sha256,
            }
        )
    else:
        pieces = _text(prepared.sql)
    if name:
        pieces += _pieces(text_fields("statement_name", name))
    pieces = pieces[:-1]
    if prepared is not None and len(pieces) <= MAX_ENCODED:
        prepared.encoded = pieces
    return pieces


def _parameters(portal: Portal) -> str:
    """``"db_query_parameters":[...],``"""
    bind, prepared = portal.bind, portal.prepared
    assert bind is not None
    if portal.secret:
        stars = STARS.decode()
        return _pieces({"db_query_parameters": [None if value is None else stars for value in bind.parameters]})
    if not bind.formats:
        try:
            shown = [quote(value.decode()) if value is not None else "null" for value in bind.parameters]
            pieces = f'"db_query_parameters":[{",".join(shown)}],'
            if "password" not in pieces and "://" not in pieces:
                return pieces
        except UnicodeDecodeError:
            pass
    types = () if prepared is None else prepared.types
    return _pieces(list_fields("db_query_parameters", bind.parameters, bind.formats, types))
