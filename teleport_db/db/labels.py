"""Labels whose values are the output of commands, run again each period.

A command that fails, takes longer than its period or prints nothing of use leaves the last value; a label
without any value yet is absent, so no role matches it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.config.model import DynamicLabel

log = Logger()

#: The longest value of a label, in characters.
MAX_VALUE = 1024

#: Seconds a command may take, whatever its period.
MAX_SECONDS = 10.0

#: Runs a command and answers with what it printed.
Run = Callable[[tuple[str, ...]], "Deferred[bytes]"]


def run_command(in_thread: Callable[..., Deferred[Any]]) -> Run:
    """Runs a label's command without a shell, off the reactor's thread.

    :param in_thread: as ``deferToThread``.
    """

    def call(command: tuple[str, ...]) -> bytes:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=MAX_SECONDS
        ).stdout

    return lambda command: in_thread(call, command)


class DynamicLabels:
    """The dynamic labels of one database service.

    :param changed: called when a value is another than before.
    """

    def __init__(
        self, labels: Mapping[str, DynamicLabel], *, run: Run, clock: IReactorTime, changed: Callable[[], None]
    ) -> None:
        self._labels = dict(labels)
        self._run = run
        self._clock = clock
        self._changed = changed
        self._loops: list[LoopingCall] = []
        self.values: dict[str, str] = {}

    def start(self) -> None:
        """Run every command now, and again each period."""
        for name, label in self._labels.items():
            loop = LoopingCall(self._refresh, name, label)
            loop.clock = self._clock
            self._loops.append(loop)
            loop.start(label.period).addErrback(
                lambda reason: log.failure("a label's command is not run any more", reason)
            )

    def stop(self) -> None:
        """Run none any more; what was known stays."""
        for loop in self._loops:
            if loop.running:
                loop.stop()
        self._loops.clear()

    def _refresh(self, name: str, label: DynamicLabel) -> Deferred[None]:
        def printed(output: bytes) -> None:
            value = output.decode("utf-8", "replace").strip()[:MAX_VALUE]
            if self._loops and value and value != self.values.get(name):
                self.values[name] = value
                self._changed()

        def failed(reason: Failure) -> None:
            log.warn("the command of label {name} failed: {reason}", name=name, reason=reason.getErrorMessage())

        running = self._run(label.command)
        running.addTimeout(min(label.period, MAX_SECONDS), self._clock)
        return running.addCallbacks(printed, failed)
