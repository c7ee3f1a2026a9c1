"""A thread that owns one SQLite connection and takes what waits for it in one go."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads

#: Jobs taken into one batch.
MAX_BATCH = 256


@attrs.frozen
class Outcome:
    """What became of one job: its answer, or why it failed."""

    value: Any = None
    error: BaseException | None = None


Job = Callable[[sqlite3.Connection], Any]
#: Runs a batch in the thread; one outcome a job, in their order.
Batch = Callable[[sqlite3.Connection, Sequence[Job]], Sequence[Outcome]]


class Worker:
    """Runs jobs in one thread of its own, in the order of their submission.

    :param open: makes the connection, in the thread; tried again with the next job when it failed.
    :param batch: runs the jobs that wait.
    :param answered: called in the reactor's thread with each value, just before its Deferred fires.
    :param translate: makes this system's error of a database's.
    """

    def __init__(
        self,
        name: str,
        reactor: IReactorFromThreads,
        *,
        open: Callable[[], sqlite3.Connection],
        batch: Batch,
        translate: Callable[[BaseException], BaseException],
        answered: Callable[[Any], None] = lambda value: None,
    ) -> None:
        self._name = name
        self._reactor = reactor
        self._open = open
        self._batch = batch
        self._translate = translate
        self._answered = answered
        self._queue: SimpleQueue[tuple[Job, Deferred[Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended: Deferred[None] = Deferred()

    def submit(self, job: Job) -> Deferred[Any]:
        """Run ``job`` in the thread.  Cancelling gives up the answer, not the job."""
        deferred: Deferred[Any] = Deferred()
        self._queue.put((job, deferred))
        if self._thread is None:
            # A daemon: a thread that waits for another program's lock must not hold up the process's end.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return deferred

    def stop(self) -> Deferred[None]:
        """Fires when everything submitted is done and the connection is closed.  Called once."""
        if self._thread is None:
            return succeed(None)
        self._queue.put(None)
        return self._ended

    # In the thread.

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        going = True
        while going:
            entries, going = self._take()
            if not entries:
                continue
            outcomes: Sequence[Outcome]
            try:
                if connection is None:
                    connection = self._open()
                outcomes = self._batch(connection, [job for job, _ in entries])
            except BaseException as error:
                # Nothing may leave this thread but by an answer: whoever waits would wait for ever.
                outcomes = [Outcome(error=self._translate(error))] * len(entries)
            answers = [(deferred, outcome) for (_, deferred), outcome in zip(entries, outcomes, strict=True)]
            self._call(self._deliver, answers)
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        self._call(self._ended.callback, None)

    def _take(self) -> tuple[list[tuple[Job, Deferred[Any]]], bool]:
        """What waits, at least one entry; False when this was the last of it."""
        entries: list[tuple[Job, Deferred[Any]]] = []
        entry = self._queue.get()
        while entry is not None:
            entries.append(entry)
            if len(entries) >= MAX_BATCH:
                return entries, True
            try:
                entry = self._queue.get_nowait()
            except Empty:
                return entries, True
        return entries, False

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        # A reactor that has stopped for good takes no calls any more; nobody waits then.
        with contextlib.suppress(Exception):
            self._reactor.callFromThread(function, *args)

    # In the reactor's thread.

    def _deliver(self, answers: Sequence[tuple[Deferred[Any], Outcome]]) -> None:
        for deferred, outcome in answers:
            if outcome.error is None:
                self._answered(outcome.value)
                deferred.callback(outcome.value)
            else:
                deferred.errback(outcome.error)
