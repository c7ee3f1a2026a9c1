"""A session's audit record: each event is in the spool before what it tells of happens.

::

    start(success) | failure             ei 0
    statements and what came of them,
    cancels, malformed messages          ei 1, 2, ...   a number that was not written goes to the next event
    end                                  after a successful start only
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from teleport_db.audit.events import EncodedEvent
from teleport_db.audit.executions import ExecutionEvents
from teleport_db.config.model import Database
from teleport_db.errors import AuditUnavailable
from teleport_db.identity import Identity
from teleport_db.pgwire.executions import Executions
from teleport_db.pgwire.prepared import CommitFailed, Execution
from teleport_db.pgwire.startup import StartupMessage

log = Logger()


class Append(Protocol):
    """Writes events, or their JSON, into the spool, or raises AuditUnavailable.

    ``closing`` events end a session, and may use what the spool keeps free for that.
    """

    def __call__(self, events: Sequence[Mapping[str, Any] | bytes], *, closing: bool = False) -> None: ...


class SessionRecord:
    """What is written of one session.

    :param append_one: as ``append``, for the JSON of one event that ends nothing.
    :ivar identity: whose session it is, once that was verified.
    :ivar message: what the client asked for, once it has.
    :ivar database: where the session leads, once that was found.
    :ivar policy_age: how old in seconds is what it was decided on, where auth was away.
    """

    identity: Identity | None = None
    message: StartupMessage | None = None
    database: Database | None = None
    policy_age: float | None = None

    def __init__(
        self,
        append: Append,
        *,
        append_one: Callable[[bytes], None] | None = None,
        clock: IReactorTime,
        new_uid: Callable[[], str],
        cluster: str,
        server_id: str,
        sid: str,
        client_address: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._append = append
        self._append_one = append_one or (lambda event: append((event,)))
        self._monotonic = monotonic
        self._finished = 0.0
        self._parameters = True
        self._clock = clock
        self._new_uid = new_uid
        self._cluster, self._server_id = cluster, server_id
        self._sid, self._client_address = sid, client_address
        self._made: ExecutionEvents | None = None

    @property
    def service(self) -> str:
        """The database service; empty as long as it is not known."""
        return self.database.name if self.database else ""

    @property
    def _events(self) -> ExecutionEvents:
        """Makes the events; first asked for when all that they say is known."""
        if self._made is None:
            identity, message, database = self.identity, self.message, self.database
            self._made = ExecutionEvents(
                cluster_name=self._cluster,
                server_id=self._server_id,
                sid=self._sid,
                user=identity.name if identity else "",
                db_service=self.service,
                db_protocol=database.protocol if database else "postgres",
                db_uri=str(database.uri) if database else "",
                db_name=message.database if message else "",
                db_user=message.user if message else "",
                new_uid=self._new_uid,
            )
            self._made.parameters = self._parameters
        return self._made

    def _write(self, made: Sequence[Mapping[str, Any] | bytes], *, closing: bool = False) -> None:
        try:
            self._append(made, closing=closing)
        except BaseException:
            for _ in made:
                self._events.withdraw()
            raise

    def _write_last(self, *made: Mapping[str, Any]) -> None:
        """For what ends a session anyway: a spool that cannot be written is logged, nothing runs for it."""
        if not made:
            return
        try:
            self._write(made, closing=True)
        except AuditUnavailable as error:
            log.error("an event of session {id} was not recorded: {detail}", id=self._sid, detail=error.detail)

    def start(self) -> None:
        """The client is about to be let in; AuditUnavailable when it must not be."""
        self._write([self._start(success=True)])

    def failure(self, told: str, reasons: str = "") -> None:
        """The client was not let in.

        :param told: what it was told.
        :param reasons: for whoever reads the log, where they are others.
        """
        self._write_last(self._start(success=False, error=reasons or told, message=told))

    def _start(self, **more: Any) -> Mapping[str, Any]:
        return self._events.start(
            self._clock.seconds(),
            client_address=self._client_address,
            roles=self.identity.roles if self.identity else (),
            parameters=_readable(self.message) if self.message else {},
            policy_age=self.policy_age,
            **more,
        )

    def record_parameters(self, wanted: bool) -> None:
        """Whether values that statements are given are recorded, from now on."""
        self._parameters = wanted
        if self._made is not None:
            self._made.parameters = wanted

    def statements(self, executions: Executions) -> None:
        """Write what runs, before it goes on, and what came of others; AuditUnavailable when nothing must go on."""
        made, done, finished = executions.made, executions.done, self._finished
        events = self._statements(executions)
        if not events:
            return
        try:
            self._write(events)
        except BaseException:
            for one in made:
                if isinstance(one, Execution):
                    one.id = 0  # it does not run, so nothing will come of it
            executions.done, self._finished = done, finished  # what has come of others is said with the last words
            raise

    def begins(self, one: Execution) -> None:
        """Write one exchange that is about to go on; AuditUnavailable when it must not."""
        one.started = self._monotonic()
        events = self._made or self._events
        event = events.begun(self._clock.seconds(), one)
        one.sql = None  # it may be long until it is done
        try:
            self._append_one(event)
        except BaseException:
            events.withdraw()
            one.id = 0
            raise

    def ends(self, one: Execution) -> None:
        """Write what came of it, before it goes on; AuditUnavailable when it must not."""
        if not one.id:
            return
        moment = self._monotonic()
        began = max(one.started, self._finished)  # behind the one before it, in a pipeline
        events = self._made or self._events
        event = events.ended(self._clock.seconds(), one, moment - began)
        try:
            self._append_one(event)
        except BaseException:
            events.withdraw()
            raise
        self._finished = moment

    def _statements(self, executions: Executions) -> list[EncodedEvent]:
        now, moment, events = self._clock.seconds(), self._monotonic(), self._events
        found = []
        for made in executions.made:
            if isinstance(made, Execution):
                made.started = moment
                if made.whole:
                    found.append(events.execution(now, made))
                made.sql = made.portal = made.function = None  # it may be long until it is done
            else:
                found.append(events.recorded(now, made))
        executions.made = []
        for done in executions.done:
            if isinstance(done, Execution):
                if not done.id:
                    continue
                # In a pipeline one begins when the one before it is done.
                began = moment if done.skipped else max(done.started, self._finished)
                found.append(events.outcome(now, done, moment - began))
                self._finished = moment
            elif isinstance(done, CommitFailed):
                found.append(events.commit_failed(now, done))
            else:
                found.append(events.refused(now, done))
        executions.done = []
        return found

    def lost(self, executions: Executions) -> None:
        """The session is over: write what is left to say of its statements, but for those that never went on."""
        for one in executions.made:
            if isinstance(one, Execution):
                one.id = 0
        executions.made = []
        self._write_last(*self._statements(executions))

    def malformed(self, payload: bytes) -> None:
        """A message that is none of PostgreSQL's."""
        self._write_last(self._events.malformed(self._clock.seconds(), payload))

    def cancel(self, client_address: str) -> None:
        """A cancel request, before it goes on; AuditUnavailable when it must not."""
        self._write([self._events.cancel(self._clock.seconds(), client_address)])

    def end(self, reason: str) -> None:
        """A session that was started is over."""
        self._write_last(self._events.end(self._clock.seconds(), reason))


def _readable(message: StartupMessage) -> dict[str, str]:
    """The startup parameters as text; what is no UTF-8 stays visible."""
    return {
        name.decode("utf-8", "backslashreplace"): value.decode("utf-8", "backslashreplace")
        for name, value in message.parameters
    }
