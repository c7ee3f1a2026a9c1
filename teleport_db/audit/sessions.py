"""Which sessions have begun and not ended, and the numbers of their events.

::

    agent        start 0   query 1   ....................   query 2            end 3
    auth                             end 2 (agent_lost)   reopened 3
    in the log   start 0   query 1   end 2   reopened 3   query 4            end 5
                                                          recorded_ei 2      recorded_ei 3

An agent that is not heard of may be dead, or only cut off and at work.  The end that auth makes up for it takes
the session's next number, as an end of the agent's would.  Should events of the session come nevertheless, auth
first takes the end back with ``db.session.reopened``, which names its ``uid``; the agent's events follow with
numbers behind those, and ``recorded_ei`` is what the agent had given them.  So ``(sid, ei)`` has no gap and no
duplicate whatever comes late, and a session is over when its last event is an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from teleport_db.audit.events import make_event
from teleport_db.audit.shipped import Run, ShippedStatement

#: The source of the auth server's own events.
OWN = "auth"

#: Sessions of one source that are followed: agents have a thousand at most for each of their proxies, and who
#: posts more is making them up.
MAX_SESSIONS = 10_000

#: Characters of a field that is kept of a session.
MAX_FIELD = 512

Event = dict[str, Any]
Record = tuple[str, int, Mapping[str, Any] | ShippedStatement | Run]

#: What of a start every event of the session has.
_SESSION = ("user", "sid", "db_service", "db_protocol", "db_uri", "db_name", "db_user", "server_id", "cluster_name")


@attrs.frozen
class OpenSession:
    """A session that has begun and not ended.

    :param source: who recorded it.
    :param next_ei: the number its next event would have.
    :param start: its ``db.session.start``, or what that has of all events.
    """

    source: str
    sid: str
    next_ei: int
    start: Mapping[str, Any] = attrs.field(repr=False)

    def event(self, name: str, now: float, *, uid: str, **more: Any) -> Event:
        """The session's next event, made by auth; ``now`` in seconds since the epoch."""
        fields: dict[str, Any] = {name: value for name, value in self.start.items() if name in _SESSION}
        cluster = str(fields.pop("cluster_name", ""))
        return make_event(name, uid=uid, time=now, cluster_name=cluster, ei=self.next_ei, **more, **fields)

    def lost(self, now: float, *, uid: str, reason: str = "agent_lost") -> Event:
        """The end that nobody was there to record."""
        return self.event("db.session.end", now, uid=uid, reason=reason)


@attrs.define
class _Session:
    """What is known of a session.

    :param begun: the number its source gave the record of its start.
    :param next_ei: of the log.
    :param shift: how many numbers of the log are auth's.
    :param lost: the ``uid`` of the end that auth made up; empty while there is none that holds.
    """

    source: str
    begun: int
    next_ei: int
    start: dict[str, str] = attrs.field(repr=False)
    shift: int = 0
    lost: str = ""


class Sessions:
    """The sessions of all sources, as the lines of the log have it."""

    def __init__(self, kept: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._of: dict[str, dict[str, _Session]] = {}
        self._known: dict[str, _Session] = {}
        for sid, fields in (kept or {}).items():
            self._add(sid, _Session(**fields))

    def _add(self, sid: str, session: _Session) -> None:
        own = self._of.setdefault(session.source, {})
        if len(own) < MAX_SESSIONS:
            own[sid] = self._known[sid] = session

    def _remove(self, sid: str) -> None:
        source = self._known.pop(sid).source
        own = self._of[source]
        del own[sid]
        if not own:
            del self._of[source]

    def kept(self) -> dict[str, dict[str, Any]]:
        """All of it as JSON, to be given to a new one."""
        return {sid: attrs.asdict(session) for sid, session in self._known.items()}

    def take(self, source: str, seq: int, event: Mapping[str, Any] | ShippedStatement | Run) -> None:
        """A line was written, or those of a run."""
        if isinstance(event, (ShippedStatement, Run)):
            newest = event.newest if isinstance(event, Run) else {event.sid: event.ei}
            for own, last in newest.items():
                followed = self._known.get(own)
                if followed is not None and followed.source == source:
                    followed.next_ei = last + 1
            return
        sid, name, ei = event.get("sid"), event.get("event"), event.get("ei", -1)
        if not isinstance(sid, str) or len(sid) > MAX_FIELD or not _is_number(ei):
            return
        known = self._known.get(sid)
        if known is None:
            if name == "db.session.start" and event.get("success"):
                self._add(sid, _Session(source, seq, ei + 1, _shared(event)))
        elif source == OWN:
            if name in ("db.session.end", "db.session.reopened"):
                self._take_own(known, event)
        elif source == known.source:  # an agent has no say about another's sessions
            if name == "db.session.end":
                self._remove(sid)
            else:
                known.next_ei = ei + 1

    def _take_own(self, known: _Session, event: Mapping[str, Any]) -> None:
        known.next_ei, known.shift = event["ei"] + 1, known.shift + 1
        if event.get("event") == "db.session.end":
            known.start, known.lost = {}, str(event.get("uid"))
        else:
            known.start, known.lost = _shared(event), ""

    def numbered(self, records: Iterable[Record], now: float, new_uid: Callable[[], str]) -> Iterator[Record]:
        """Records as they go into the log: behind what auth made up of their sessions, which is taken back.

        None of them may be an end that auth makes up.
        """
        returned: set[str] = set()
        for source, seq, event in self._divided(records):
            if isinstance(event, Run) or (isinstance(event, ShippedStatement) and not self._moved(source, event.sid)):
                yield source, seq, event
                continue
            if isinstance(event, ShippedStatement):
                event = event.decoded()  # noqa: PLW2901 - it gets another number
            sid, ei = event.get("sid"), event.get("ei", -1)
            known = self._known.get(sid) if isinstance(sid, str) else None
            if known is None or known.source != source or not _is_number(ei):
                yield source, seq, event
                continue
            assert isinstance(sid, str)
            shift = known.shift
            if known.lost:
                if sid not in returned:
                    returned.add(sid)
                    session = OpenSession(source, sid, known.next_ei, _shared(event))
                    yield OWN, 0, session.event("db.session.reopened", now, uid=new_uid(), revokes=known.lost)
                shift += 1
            yield source, seq, {**event, "ei": ei + shift, "recorded_ei": ei} if shift else event

    def _divided(self, records: Iterable[Record]) -> Iterator[Record]:
        """A run comes in one piece unless one of its events gets another number."""
        for source, seq, event in records:
            if isinstance(event, Run) and any(self._moved(source, sid) for sid in event.newest):
                for number, one in event.one_by_one():
                    yield source, number, one
            else:
                yield source, seq, event

    def _moved(self, source: str, sid: str) -> bool:
        """Whether events of a source's session get other numbers."""
        followed = self._known.get(sid)
        return followed is not None and followed.source == source and bool(followed.shift or followed.lost)

    def open(self, source: str | None = None) -> list[OpenSession]:
        """Sessions without an end, of one source or of all."""
        found = self._known if source is None else self._of.get(source, {})
        return [
            OpenSession(session.source, sid, session.next_ei, session.start)
            for sid, session in found.items()
            if not session.lost
        ]

    def sources(self) -> set[str]:
        """Who has sessions without an end."""
        return {source for source, own in self._of.items() if any(not session.lost for session in own.values())}

    def older(self, source: str, before: int | None) -> Sequence[str]:
        """Ids of a source's sessions that began before this number of its; all without one."""
        own = self._of.get(source, {})
        return [sid for sid, session in own.items() if before is None or session.begun < before]

    def losses(self, source: str, before: int | None, now: float, new_uid: Callable[[], str]) -> list[Record]:
        """The ends of a lost source's sessions, to be written before anything else of it is."""
        older = set(self.older(source, before))
        return [(OWN, 0, session.lost(now, uid=new_uid())) for session in self.open(source) if session.sid in older]

    def forget(self, source: str, before: int) -> None:
        """Nothing more comes of sessions that were lost and began before this number."""
        for sid in self.older(source, before):
            if self._known[sid].lost:
                self._remove(sid)


def _is_number(ei: object) -> bool:
    """Whether an event's number is one; what an agent sends may be anything, and have thousands of digits."""
    return type(ei) is int and 0 <= ei < 1 << 53


def _shared(event: Mapping[str, Any]) -> dict[str, str]:
    return {name: event[name][:MAX_FIELD] for name in _SESSION if isinstance(event.get(name), str)}
