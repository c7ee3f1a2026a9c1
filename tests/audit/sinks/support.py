"""An audit log, a sink on it, and another side that does as it is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from teleport_db.audit.log import AuditLog
from teleport_db.audit.shipping import ThreadHook, inline
from teleport_db.audit.sinks.delivery import Delivery
from teleport_db.audit.sinks.reading import Batch, Place, State
from teleport_db.audit.sinks.target import Target, go_nowhere
from teleport_db.config.sinks import FileSink, Sink
from teleport_db.errors import ConnectionTrouble
from tests.audit.test_log import LogCase, Thread


class FakeTarget:
    """Keeps what it is sent.

    :ivar answers: what becomes of the next sends: an exception to fail with, a Deferred to wait for.
    """

    def __init__(self, *, max_bytes: int = 1 << 20, max_records: int = 1000, gather: float = 1.0) -> None:
        self.max_bytes, self.max_records, self.gather = max_bytes, max_records, gather
        self.state: State = {}
        self.go_back: Callable[[Place], None] = go_nowhere
        self.batches: list[Batch] = []
        self.answers: list[Exception | Deferred[None] | None] = []
        self.closed = 0

    def send(self, batch: Batch) -> Deferred[None]:
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            return fail(answer)
        self.batches.append(batch)
        self.state = {"sent": batch.first - 1 + len(batch.records)}
        return succeed(None) if answer is None else answer

    def close(self) -> Deferred[None]:
        self.closed += 1
        return succeed(None)

    @property
    def records(self) -> list[dict[str, Any]]:
        """All that came, decoded."""
        return [json.loads(record) for batch in self.batches for record in batch.records]

    @property
    def numbers(self) -> list[int]:
        """The ``n`` of the events that came."""
        events = [record["event"] if "source" in record else record for record in self.records]
        return [event["n"] for event in events if "n" in event]


def numbered(
    first: int, count: int, size: int = 10, name: str = "db.session.query"
) -> list[tuple[int, dict[str, Any]]]:
    """Events of a host, as :meth:`AuditLog.receive` takes them."""
    return [
        (n, {"ei": n, "event": name, "uid": f"u{n}", "code": "TDB02I", "time": "2027-01-15T08:00:00.125Z", "n": n}
         | {"pad": "x" * size})
        for n in range(first, first + count)
    ]  # fmt: skip


class SinkCase(LogCase):
    """``self.source`` is a log; ``self.begin()`` starts a sink on it."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(os, "fsync", lambda fd: None)  # what is killed here is never more than a process
        self.source = self.log()
        self.target = FakeTarget()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.delivery: Delivery | None = None
        self.in_thread: ThreadHook = inline
        self.next_number = 1
        self.addCleanup(self.end)

    def write(self, count: int, size: int = 10, name: str = "db.session.query") -> None:
        """Have the log so many more events."""
        assert self.opened is not None
        self.successResultOf(self.opened.receive("host", numbered(self.next_number, count, size, name)))
        self.next_number += count

    def sink(self, **more: Any) -> Sink:
        return FileSink(**{"name": "one", "path": "/nowhere", **more})

    def begin(
        self,
        sink: Sink | None = None,
        target: Target | None = None,
        *,
        in_thread: ThreadHook = inline,
        elapsed: Callable[[], float] = lambda: 0.0,
    ) -> Delivery:
        """A sink, started; a second one takes the place of the first as a process's does that was killed."""
        self.end()
        assert self.opened is not None
        self.in_thread = in_thread
        self.delivery = Delivery(
            sink or self.sink(),
            target or self.target,
            self.opened,
            clock=self.clock,
            in_thread=in_thread,
            tell=self.tell,
            random=lambda: 1.0,
            elapsed=elapsed,
        )
        self.delivery.start()
        return self.delivery

    def tell(self, event: str, **fields: Any) -> None:
        self.said.append((event, fields))

    def end(self) -> None:
        if self.delivery is not None:
            stopped = self.delivery.stop()
            if isinstance(self.in_thread, Thread):
                self.in_thread.finish()
            self.successResultOf(stopped)
            self.delivery = None

    def reopen(self, **more: Any) -> AuditLog:
        """The log as another process finds it."""
        self.end()
        return self.log(**more)

    def lines(self) -> bytes:
        """The log's bytes, all files."""
        assert self.opened is not None
        return log_bytes(self.opened)


def log_bytes(log: AuditLog) -> bytes:
    """What the files of a log have, the oldest first."""
    from teleport_db.audit import logfile

    directory = Path(log.directory)
    return b"".join(b"".join(file.lines(directory)) for file in logfile.files(directory))


AWAY = ConnectionTrouble("cannot reach siem.example.com:443: connection refused")
