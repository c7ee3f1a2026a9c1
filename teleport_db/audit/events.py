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
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from teleport_db.audit.codes import CODES, FAILURE_CODES
from teleport_db.audit.moments import timestamp
from teleport_db.audit.redaction import STARS, PartRedaction, redact, redact_value, speaks_of_secrets
from teleport_db.pgwire.messages import HEADER_SIZE
from teleport_db.pgwire.values import readable

__all__ = ["CODES", "FAILURE_CODES", "EncodedEvent", "SessionEvents", "encode", "make_event", "timestamp"]

_encode = json.JSONEncoder(separators=(",", ":")).encode


class EncodedEvent(Mapping[str, Any]):
    """An event as its JSON; read as a mapping it is decoded, once."""

    __slots__ = ("_fields", "json")

    def __init__(self, encoded: str) -> None:
        self.json = encoded
        self._fields: dict[str, Any] | None = None

    @property
    def _decoded(self) -> dict[str, Any]:
        if self._fields is None:
            self._fields = json.loads(self.json)
        assert self._fields is not None
        return self._fields

    def __getitem__(self, name: str) -> Any:
        return self._decoded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded)

    def __len__(self) -> int:
        return len(self._decoded)

    def __repr__(self) -> str:
        return f"EncodedEvent({self.json!r})"


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
    :ivar parameters: whether values that statements are given are recorded.
    """

    parameters = True

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
        shared = {
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
        self._tail = "," + _encode(shared)[1:]
        self._ending = self._tail.encode("ascii")
        self._new_uid = new_uid
        self._next = 0
        self._redaction = PartRedaction()
        self._named = False  # the name in a Parse that comes in parts is whole

    def _event(self, now: float, event: str, code: str, fields: dict[str, Any]) -> EncodedEvent:
        return EncodedEvent(self._begin(now, event, code) + _encode(fields)[1:-1] + self._tail)

    def _begin(self, now: float, event: str, code: str) -> str:
        """The next event's JSON up to its own fields; ``_tail`` follows behind those."""
        number = self._next
        self._next = number + 1
        return (
            f'{{"ei":{number},"event":"{event}","uid":{quote(self._new_uid())},"code":"{code}",'
            f'"time":"{timestamp(now)}",'
        )

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

    def malformed(self, now: float, payload: bytes) -> EncodedEvent:
        """A message that is none of PostgreSQL's; the session ends.

        Nobody knows what is in it: where that may be a password, or parameters that are not wanted, its header is kept.
        """
        if not self.parameters or payload[:1] == b"p" or speaks_of_secrets(payload):
            payload = payload[:HEADER_SIZE]
        return self._event(now, "db.session.malformed_packet", "TDB06I", {"payload": b64encode(payload).decode()})

    def cancel(self, now: float, client_address: str) -> EncodedEvent:
        """Somebody with the session's key asks to cancel what it is running; ``host:port`` of who."""
        return self._event(now, "db.session.cancel", CODES["db.session.cancel"], {"addr.remote": client_address})

    def message(
        self, now: float, statement: Any, *, number: int = 0, secret: bool = False, parameters: bool = True
    ) -> EncodedEvent:
        """An audited message of :mod:`teleport_db.pgwire.frontend` on its own, before it goes on.

        :param number: the statement id that others refer to it by.
        :param secret: its parameters may be passwords.
        :param parameters: whether they are recorded at all.
        """
        event, fields = _FORMS[type(statement).__name__](self, statement)
        values = "function_args" if event.endswith("function") else "parameters"
        if values in fields:
            if not parameters:
                fields = {name: value for name, value in fields.items() if not name.startswith(values)}
            elif secret:
                fields[values] = [None if value is None else STARS.decode() for value in fields[values]]
                fields.pop(values + "_base64", None)
        elif "data" in fields and (secret or not parameters):
            fields.pop("data_base64", None)
            fields["data"] = STARS.decode()
        return self._event(now, event, CODES[event], {"statement_id": number, **fields} if number else fields)

    def _parse(self, statement: Any) -> tuple[str, dict[str, Any]]:
        fields = text_fields("statement_name", statement.name)
        fields |= text_fields("query", redact(statement.sql))
        return "db.session.postgres.statements.parse", fields

    def _bind(self, statement: Any) -> tuple[str, dict[str, Any]]:
        fields = text_fields("portal_name", statement.portal) | text_fields("statement_name", statement.statement)
        fields |= list_fields("parameters", statement.parameters, statement.formats)
        return "db.session.postgres.statements.bind", fields

    def _execute(self, statement: Any) -> tuple[str, dict[str, Any]]:
        fields = text_fields("portal_name", statement.portal)
        if statement.limit:
            fields["row_limit"] = statement.limit
        return "db.session.postgres.statements.execute", fields

    def _close(self, statement: Any) -> tuple[str, dict[str, Any]]:
        name = "portal_name" if statement.kind == b"P" else "statement_name"
        return "db.session.postgres.statements.close", text_fields(name, statement.name)

    def _function(self, statement: Any) -> tuple[str, dict[str, Any]]:
        fields: dict[str, Any] = {"function_oid": statement.oid}
        fields |= list_fields("function_args", statement.arguments, statement.formats)
        return "db.session.postgres.function", fields

    def _part(self, part: Any) -> tuple[str, dict[str, Any]]:
        """A piece of a message of more than 64 KiB: ``part`` counts from 0, the last says how long all are."""
        if part.number == 0:
            self._redaction, self._named = PartRedaction(), False
        data, field = part.data, "data"
        fields: dict[str, Any] = {"part": part.number, "last_part": part.last}
        if part.kind == "Parse" and not self._named:
            # Not to be read as SQL: a name could open a literal.
            name, nul, data = data.partition(b"\0")
            self._named = bool(nul)
            fields |= text_fields("statement_name", name)
        if part.kind in ("Query", "Parse"):
            data = self._redaction.feed(data, final=part.last)
            field = "db_query" if part.kind == "Query" else "query"
        fields |= text_fields(field, data)
        if part.last:
            fields |= {"total_length": part.total_length, "sha256": part.sha256}
        return _PART_EVENTS[part.kind], fields


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


def text_fields(name: str, data: bytes) -> dict[str, Any]:
    """``name`` with the text, and where it is not UTF-8 ``name_base64`` with every byte."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {name: data.decode(errors="replace"), f"{name}_base64": b64encode(data).decode()}


def _format(formats: Sequence[int], index: int) -> int:
    if len(formats) == 1:
        return formats[0]
    return formats[index] if index < len(formats) else 0


def value_texts(
    values: Sequence[bytes | None], formats: Sequence[int], types: Sequence[int]
) -> tuple[bytes | None, ...] | None:
    """Values as :func:`list_fields` shows them, in UTF-8; None when one in binary cannot be shown so.

    Those that are text are as they were: the caller has looked for passwords in them.
    """
    shown: list[bytes | None] = []
    for index, value in enumerate(values):
        if value is None or not _format(formats, index):
            shown.append(value)
            continue
        try:
            shown.append(redact_value(readable(value, types[index] if index < len(types) else 0)).encode())
        except ValueError:
            return None
    return tuple(shown)


def list_fields(
    name: str, values: Sequence[bytes | None], formats: Sequence[int] = (), types: Sequence[int] = ()
) -> dict[str, Any]:
    """``name`` with texts and nulls, passwords taken out, and ``name_base64`` with what is no text, by index.

    :param formats: of the values, as in a Bind.
    :param types: OIDs, as far as they are known; binary values of common types are shown as PostgreSQL shows them.
    """
    texts: list[str | None] = []
    binary: dict[str, str] = {}
    for index, value in enumerate(values):
        if value is None:
            texts.append(None)
            continue
        try:
            if _format(formats, index):
                text = readable(value, types[index] if index < len(types) else 0)
            else:
                text = value.decode()
            texts.append(redact_value(text))
        except ValueError:
            texts.append("")
            binary[str(index)] = b64encode(value).decode()
    return {name: texts, f"{name}_base64": binary} if binary else {name: texts}
