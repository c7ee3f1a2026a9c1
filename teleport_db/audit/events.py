"""Events in the form Teleport publishes: flat JSON objects.

::

    {"ei": 5, "event": "db.session.query", "uid": "...", "code": "TDB02I", "time": "2026-11-22T16:05:00.125Z",
     "db_query": "select 1", "cluster_name": "root", "user": "alice", "sid": "...", "db_service": "aurora", ...}

JSON in ASCII, so that no byte of a client's can begin a line or move a terminal's cursor.  Text that is not
UTF-8 stands in a field of its own, ``..._base64``, beside what of it can be read.

Events of a session are made on the byte path: what all of them share is encoded once.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Final, NoReturn

from teleport_db.audit.codes import CODES, FAILURE_CODES
from teleport_db.audit.redaction import STARS, PartRedaction, redact

__all__ = ["CODES", "FAILURE_CODES", "EncodedEvent", "SessionEvents", "encode", "make_event", "timestamp"]

#: Named statements with a password that are remembered for a session; above that all parameters are redacted.
MAX_SENSITIVE: Final = 1000

_encode = json.JSONEncoder(separators=(",", ":")).encode
_second = (0, "1970-01-01T00:00:00.")


def timestamp(now: float) -> str:
    """Seconds since the epoch as RFC 3339, UTC, with milliseconds: ``2026-11-22T16:05:00.125Z``."""
    global _second  # noqa: PLW0603 - the last second's text: time.gmtime costs more than the rest of an event
    thousandths = int(now * 1000)
    seconds = thousandths // 1000
    known, text = _second
    if seconds != known:
        text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(seconds))
        _second = (seconds, text)
    return f"{text}{thousandths - seconds * 1000:03d}Z"


class EncodedEvent(dict[str, Any]):
    """An event whose JSON is made already; it cannot be changed, because the JSON would not be."""

    __slots__ = ("json",)

    def __init__(self, fields: dict[str, Any], encoded: str) -> None:
        super().__init__(fields)
        self.json = encoded

    def _frozen(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("an event that was made is not changed; make a dict of it")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _frozen

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodedEvent, (dict(self), self.json)


def encode(event: Mapping[str, Any]) -> str:
    """One line of JSON, without its end: exactly ``json.dumps`` with compact separators."""
    if type(event) is EncodedEvent:
        return event.json
    return _encode(event if isinstance(event, dict) else dict(event))


def make_event(
    event: str, code: str = "", *, uid: str, time: float, cluster_name: str, ei: int = 0, **fields: Any
) -> dict[str, Any]:
    """An event outside of sessions.

    :param code: empty takes that of :data:`CODES`.
    :param time: seconds since the epoch.
    :param fields: more of them; None is left out.
    """
    made = {"ei": ei, "event": event, "uid": uid, "code": code or CODES[event], "time": timestamp(time)}
    made.update((name, value) for name, value in fields.items() if value is not None)
    made["cluster_name"] = cluster_name
    return made


class SessionEvents:
    """The events of one session, numbered from 0 by ``ei``, passwords taken out.

    Every method takes the time as seconds since the epoch and returns the next event; whoever makes one
    must append it, else the log has a gap.

    :param new_uid: a new unique id at each call (:func:`teleport_db.audit.uids.uid_source`).
    """

    def __init__(
        self,
        *,
        cluster_name: str,
        server_id: str,
        sid: str,
        user: str,
        db_service: str,
        db_protocol: str,
        db_uri: str,
        db_name: str,
        db_user: str,
        new_uid: Callable[[], str],
    ) -> None:
        self._shared: dict[str, Any] = {
            "cluster_name": cluster_name,
            "user": user,
            "sid": sid,
            "db_service": db_service,
            "db_protocol": db_protocol,
            "db_uri": db_uri,
            "db_name": db_name,
            "db_user": db_user,
            "server_id": server_id,
        }
        self._tail = "," + _encode(self._shared)[1:]
        self._new_uid = new_uid
        self._next = 0
        self._sensitive: set[bytes] = set()
        self._redaction = PartRedaction()
        self._named = False  # the name in a Parse that comes in parts is whole
        self._secret_bind = False
        self._part_name = b""

    def _event(self, now: float, event: str, code: str, fields: dict[str, Any]) -> EncodedEvent:
        made = {
            "ei": self._next,
            "event": event,
            "uid": self._new_uid(),
            "code": code,
            "time": timestamp(now),
            **fields,
        }
        self._next += 1
        encoded = _encode(made)[:-1] + self._tail
        made.update(self._shared)
        return EncodedEvent(made, encoded)

    def start(
        self,
        now: float,
        *,
        success: bool = True,
        client_address: str = "",
        roles: Sequence[str] = (),
        parameters: Mapping[str, str] | None = None,
        error: str = "",
        message: str = "",
        policy_age: float | None = None,
    ) -> EncodedEvent:
        """The session begins, or was refused.

        :param client_address: ``host:port``.
        :param parameters: of the startup message.
        :param error: for whoever reads the log; ``message`` is what the client was told.
        :param policy_age: seconds, where auth was away and it was decided by what was known before.
        """
        fields: dict[str, Any] = {"success": success}
        if policy_age is not None:
            fields["auth_away"], fields["policy_age"] = True, int(policy_age)
        if error:
            fields["error"] = error
        if message:
            fields["message"] = message
        fields["addr.remote"] = client_address
        fields["roles"] = list(roles)
        fields["parameters"] = {
            name: "***" if "password" in name.lower() else value for name, value in (parameters or {}).items()
        }
        return self._event(now, "db.session.start", "TDB00I" if success else "TDB00W", fields)

    def end(self, now: float, reason: str = "") -> EncodedEvent:
        """The session is over."""
        return self._event(now, "db.session.end", "TDB01I", {"reason": reason})

    def withdraw(self) -> None:
        """The event made last could not be appended: its number goes to the next."""
        self._next -= 1

    def query(self, now: float, sql: bytes) -> EncodedEvent:
        """SQL goes to the database, by the simple protocol."""
        if b"password" in sql.lower():
            sql = redact(sql)
        try:
            text = sql.decode()
        except UnicodeDecodeError:
            return self._event(now, "db.session.query", "TDB02I", _text_fields("db_query", sql))
        # What _event does, once more without its generality: this is most of what sessions do.
        number, uid, moment = self._next, self._new_uid(), timestamp(now)
        self._next = number + 1
        made = {
            "ei": number,
            "event": "db.session.query",
            "uid": uid,
            "code": "TDB02I",
            "time": moment,
            "db_query": text,
            **self._shared,
        }
        return EncodedEvent(
            made,
            f'{{"ei":{number},"event":"db.session.query","uid":{quote(uid)},"code":"TDB02I",'
            f'"time":"{moment}","db_query":{quote(text)}{self._tail}',
        )

    def result(
        self,
        now: float,
        *,
        success: bool,
        affected_records: int = 0,
        duration: float = 0.0,
        size: int = 0,
        sqlstate: str = "",
        error: str = "",
    ) -> EncodedEvent:
        """What came of a statement; ``duration`` in seconds, ``size`` in bytes."""
        fields: dict[str, Any] = {"success": success, "affected_records": affected_records}
        fields["duration_ms"], fields["bytes"] = round(duration * 1000, 3), size
        if sqlstate:
            fields["sqlstate"] = sqlstate
        if error:
            fields["error"] = error
        return self._event(now, "db.session.result", "TDB10I", fields)

    def malformed(self, now: float, payload: bytes) -> EncodedEvent:
        """A message that is none of PostgreSQL's; the session ends."""
        return self._event(now, "db.session.malformed_packet", "TDB06I", {"payload": b64encode(payload).decode()})

    def cancel(self, now: float, client_address: str) -> EncodedEvent:
        """Somebody with the session's key asks to cancel what it is running; ``host:port`` of who."""
        return self._event(now, "db.session.cancel", CODES["db.session.cancel"], {"addr.remote": client_address})

    def statement(self, now: float, statement: Any) -> EncodedEvent:
        """Any audited message of :mod:`teleport_db.pgwire.frontend`, before it goes on."""
        if type(statement).__name__ == "Query":
            return self.query(now, statement.sql)
        event, fields = _FORMS[type(statement).__name__](self, statement)
        return self._event(now, event, CODES[event], fields)

    def _parse(self, statement: Any) -> tuple[str, dict[str, Any]]:
        self._remember(statement.name, b"password" in statement.sql.lower())
        fields = _text_fields("statement_name", statement.name)
        fields |= _text_fields("query", redact(statement.sql))
        return "db.session.postgres.statements.parse", fields

    def _bind(self, statement: Any) -> tuple[str, dict[str, Any]]:
        fields = _text_fields("portal_name", statement.portal) | _text_fields("statement_name", statement.statement)
        if self._is_sensitive(statement.statement):
            fields["parameters"] = [None if value is None else "***" for value in statement.parameters]
        else:
            fields |= _list_fields("parameters", statement.parameters, statement.formats)
        return "db.session.postgres.statements.bind", fields

    def _execute(self, statement: Any) -> tuple[str, dict[str, Any]]:
        fields = _text_fields("portal_name", statement.portal)
        if statement.limit:
            fields["row_limit"] = statement.limit
        return "db.session.postgres.statements.execute", fields

    def _close(self, statement: Any) -> tuple[str, dict[str, Any]]:
        if statement.kind == b"P":
            return "db.session.postgres.statements.close", _text_fields("portal_name", statement.name)
        self._sensitive.discard(statement.name)
        return "db.session.postgres.statements.close", _text_fields("statement_name", statement.name)

    def _function(self, statement: Any) -> tuple[str, dict[str, Any]]:
        fields: dict[str, Any] = {"function_oid": statement.oid}
        return "db.session.postgres.function", fields | _list_fields("function_args", statement.arguments)

    def _part(self, part: Any) -> tuple[str, dict[str, Any]]:
        """A piece of a message of more than 64 KiB: ``part`` counts from 0, the last says how long all are."""
        if part.number == 0:
            self._redaction, self._named = PartRedaction(), False
            self._secret_bind = part.kind == "Bind" and self._is_sensitive(_second_name(part.data))
        data, field = part.data, "data"
        fields: dict[str, Any] = {"part": part.number, "last_part": part.last}
        if part.kind == "Parse" and not self._named:
            # Not to be read as SQL: a name could open a literal.
            name, nul, data = data.partition(b"\0")
            self._named = bool(nul)
            fields |= _text_fields("statement_name", name)
            self._part_name = name
        if part.kind == "Parse" and b"password" in data.lower():
            self._remember(self._part_name, True)
        if part.kind in ("Query", "Parse"):
            data = self._redaction.feed(data, final=part.last)
            field = "db_query" if part.kind == "Query" else "query"
        elif self._secret_bind:
            data = STARS
        fields |= _text_fields(field, data)
        if part.last:
            fields |= {"total_length": part.total_length, "sha256": part.sha256}
        return _PART_EVENTS[part.kind], fields

    def _remember(self, name: bytes, sensitive: bool) -> None:
        """Which statements' parameters may be passwords.

        A name stays so until it is closed: the server refuses to prepare it again, and runs the first.
        """
        if sensitive:
            if len(self._sensitive) <= MAX_SENSITIVE:
                self._sensitive.add(name)
        elif not name:
            self._sensitive.discard(name)

    def _is_sensitive(self, name: bytes) -> bool:
        return name in self._sensitive or len(self._sensitive) > MAX_SENSITIVE


_FORMS: dict[str, Callable[[SessionEvents, Any], tuple[str, dict[str, Any]]]] = {
    "Parse": SessionEvents._parse,
    "Bind": SessionEvents._bind,
    "Execute": SessionEvents._execute,
    "Close": SessionEvents._close,
    "FunctionCall": SessionEvents._function,
    "StatementPart": SessionEvents._part,
}

_PART_EVENTS = {
    "Query": "db.session.query",
    "Parse": "db.session.postgres.statements.parse",
    "Bind": "db.session.postgres.statements.bind",
    "FunctionCall": "db.session.postgres.function",
}


def _second_name(body: bytes) -> bytes:
    """The statement's name in the beginning of a Bind's body."""
    names = body.split(b"\0", 2)
    return names[1] if len(names) > 1 else b""


def _text_fields(name: str, data: bytes) -> dict[str, Any]:
    """``name`` with the text, and where it is not UTF-8 ``name_base64`` with every byte."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {name: data.decode(errors="replace"), f"{name}_base64": b64encode(data).decode()}


def _list_fields(name: str, values: Sequence[bytes | None], formats: Sequence[int] = ()) -> dict[str, Any]:
    """``name`` with texts and nulls, and ``name_base64`` with what is binary or no UTF-8, by index."""
    texts: list[str | None] = []
    binary: dict[str, str] = {}
    for index, value in enumerate(values):
        if value is None:
            texts.append(None)
            continue
        format_code = formats[index] if index < len(formats) > 1 else formats[0] if len(formats) == 1 else 0
        try:
            if format_code:
                raise UnicodeDecodeError("binary", b"", 0, 0, "")
            texts.append(value.decode())
        except UnicodeDecodeError:
            texts.append("")
            binary[str(index)] = b64encode(value).decode()
    return {name: texts, f"{name}_base64": binary} if binary else {name: texts}
