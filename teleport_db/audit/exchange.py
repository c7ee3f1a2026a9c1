"""The two events of a common exchange as JSON: a Query, or a Bind with what runs it; and that it came to its end.

::

    {"ei":5,"event":"db.session.query","uid":"...","code":"TDB02I","time":"...","statement_id":3,"db_query":"...",TAIL
    {"ei":6,"event":"db.session.result","uid":"...","code":"TDB10I","time":"...","statement_id":3,"success":true,...,TAIL

Each function has a compiled twin, which stands in for it where that was built.  ASCII, exactly as
:class:`teleport_db.audit.executions.ExecutionEvents` makes them one piece at a time.

Of all of them ``ei`` counts the session's events, ``uid`` is a UUID, ``now`` in seconds since the epoch, ``id`` of the
statement, and ``tail`` what all events of the session end with, from its comma on.
"""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quote

from teleport_db.audit.moments import timestamp

__all__ = [
    "bound_event",
    "milliseconds",
    "pure_bound_event",
    "pure_query_event",
    "pure_result_event",
    "query_event",
    "result_event",
]

# Arguments go by position, for the twins' sake.
# ruff: noqa: PLR0917


def pure_query_event(
    ei: int, uid: str, now: float, id: int, sql: bytes, values: Sequence[bytes | None], tail: bytes
) -> bytes | None:
    """A Query that is about to run, or the unnamed statement; None when its text or a value is no UTF-8.

    :param values: of its parameters, as text; a tuple.
    """
    try:
        text = quote(sql.decode())
    except UnicodeDecodeError:
        return None
    return pure_bound_event(ei, uid, now, id, f'"db_query":{text}', values, tail)


def pure_bound_event(
    ei: int, uid: str, now: float, id: int, pieces: str, values: Sequence[bytes | None], tail: bytes
) -> bytes | None:
    """A named statement that is about to run; None when a value is no UTF-8.

    :param pieces: the fields of its statement, as JSON.
    :param values: of its parameters, as text; a tuple.
    """
    if values:
        try:
            shown = [quote(value.decode()) if value is not None else "null" for value in values]
        except UnicodeDecodeError:
            return None
        pieces = f'{pieces},"db_query_parameters":[{",".join(shown)}]'
    head = f'{{"ei":{ei},"event":"db.session.query","uid":"{uid}","code":"TDB02I","time":"{timestamp(now)}",'
    return f'{head}"statement_id":{id},{pieces}'.encode("ascii") + tail


def pure_result_event(
    ei: int,
    uid: str,
    now: float,
    id: int,
    affected: int,
    rows: int,
    sent: int,
    received: int,
    duration: float,
    tag: bytes,
    tail: bytes,
) -> bytes | None:
    """One that came to its end; None when its tag is no UTF-8.

    :param duration: in seconds; what else is said of it are the fields of an
        :class:`~teleport_db.pgwire.prepared.Execution`.
    """
    try:
        text = quote(tag.decode())
    except UnicodeDecodeError:
        return None
    head = f'{{"ei":{ei},"event":"db.session.result","uid":"{uid}","code":"TDB10I","time":"{timestamp(now)}",'
    said = (
        f'{head}"statement_id":{id},"success":true,"affected_records":{affected},"rows":{rows},"bytes_sent":{sent},'
        f'"bytes_received":{received},"duration_ms":{milliseconds(duration)},"command_tag":{text}'
    )
    return said.encode("ascii") + tail


def milliseconds(duration: float) -> float:
    """Seconds as they are recorded: in milliseconds, to the microsecond."""
    return int(duration * 1e6 + 0.5) / 1000 if duration > 0 else 0.0


try:
    from teleport_db._speed import bound_event, query_event, result_event
except ImportError:  # it was installed without a compiler
    bound_event, query_event, result_event = pure_bound_event, pure_query_event, pure_result_event
