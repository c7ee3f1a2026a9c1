"""The API's calls about the audit log: finding events, sessions, checkpoints.

Whoever has a rule for ``event`` reads events.  A session's own user sees its session, and so does who has a rule
for ``session``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from teleport_db.audit.query import FIELDS, Query, wanted_words
from teleport_db.auth.server import AuthServer
from teleport_db.auth.times import seconds_of
from teleport_db.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from teleport_db.auth.calls import Call

#: Events of one answer, and sessions.
MAX_FOUND, MAX_SESSIONS = 10_000, 1000

#: Seconds that a call waits for events to come.
MAX_WAIT = 50


class AuditCalls:
    """One method a route."""

    _server: AuthServer

    async def search_audit(self, call: Call) -> dict[str, Any]:
        """Events: newest first, or oldest first, which can wait for some to come.

        A page ends before its limit where it has become large; ``more`` says that there may be more by now.
        """
        oldest_first = _choice(call, "order", "newest", "oldest")
        limit, after, wait = call.whole("limit"), call.whole("after"), call.whole("wait") or 0
        query = _query(call)
        audit = self._server.audit
        criteria = {name: value for name, value in attrs.asdict(query).items() if value is not None}
        await self._server.reads.record("audit.read", by=call.by, criteria=criteria)
        if oldest_first and wait:
            await self._grown(after or 0, min(wait, MAX_WAIT))
        page = await audit.search(
            query,
            limit=min(1000 if limit is None else limit, MAX_FOUND),
            after=after,
            oldest_first=oldest_first,
            joined=_choice(call, "joined", "0", "1"),
        )
        answer: dict[str, Any] = {"events": page.events, "next": page.next, "more": page.full, "last": page.upto}
        if page.behind:
            answer["indexing"] = {"missing": page.behind, "total": page.total}
        return answer

    async def _grown(self, after: int, wait: int) -> None:
        """Until the log has more than ``after`` lines, or ``wait`` seconds have gone."""
        if self._server.audit.position.count > after:
            return
        changed = self._server.audit.changed()
        timer = self._server.clock.callLater(wait, changed.cancel)
        changed.addErrback(lambda _: None)
        try:
            await changed
        finally:
            if timer.active():
                timer.cancel()

    async def make_checkpoint(self, call: Call) -> dict[str, Any]:
        """Sign all that the log has now; the newest checkpoint as it stands in the log."""
        checkpoint = await self._server.audit.checkpoint()
        if checkpoint is None:
            raise NotFound("the audit log has no line yet")
        return {"checkpoint": checkpoint.line.decode("ascii").rstrip("\n")}

    async def list_sinks(self, call: Call) -> dict[str, Any]:
        """Where the log is sent on to, and how far each of those is."""
        return {"sinks": self._server.sinks(), "last": self._server.audit.position.count}

    async def list_sessions(self, call: Call) -> dict[str, Any]:
        """Recorded sessions, the newest first: the caller's own, or all for who may list them."""
        limit = call.whole("limit")
        user = call.query.get("user") or None
        if not call.caller.may(("session", "list")):
            user = call.by
        sessions, following = await self._server.audit.recorded_sessions(
            user=user, limit=min(100 if limit is None else limit, MAX_SESSIONS), after=call.whole("after")
        )
        return {"sessions": [_session(session) for session in sessions], "next": following}

    async def session_events(self, call: Call) -> dict[str, Any]:
        """The events of one session, the oldest first."""
        sid = call.parameters["sid"]
        found, _ = await self._server.audit.recorded_sessions(sid=sid, limit=1)
        mine = bool(found) and found[0]["user"] == call.by and call.caller.user is not None
        if not found or not (mine or call.caller.may(("session", "read"))):
            # Who may not see a session does not learn that there is one.
            raise NotFound("there is no such session, or no role of yours lets you see it")
        # Not as its ``sid``: it is no event of the session's, whose events are counted.
        await self._server.reads.record("session.recording.access", by=call.by, session_id=sid)
        given = call.whole("limit")
        limit = min(1000 if given is None else given, MAX_FOUND)
        page = await self._server.audit.search(
            Query(sid=sid),
            limit=limit,
            after=call.whole("after"),
            oldest_first=True,
            joined=_choice(call, "joined", "0", "1"),
        )
        following = page.next if page.full else None
        return {"session": _session(found[0]), "events": page.events, "next": following}


def _session(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "first" and value is not None}


def _choice(call: Call, name: str, no: str, yes: str) -> bool:
    value = call.query.get(name) or no
    if value not in (no, yes):
        raise BadRequest(f"{name} is {no} or {yes}")
    return value == yes


def _query(call: Call) -> Query:
    """What is looked for."""
    text = call.query.get("text") or None
    if text is not None and not wanted_words(text):
        raise BadRequest("text: there is no word in it")
    return Query(
        **{name: call.query.get(name) or None for name in FIELDS},
        text=text,
        since=_when(call.query.get("since")),
        until=_when(call.query.get("until")),
    )


def _when(text: str | None) -> float | None:
    """A time of the query: seconds since the epoch, or RFC 3339."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return seconds_of(text)
