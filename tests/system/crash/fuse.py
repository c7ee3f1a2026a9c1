"""A service in a process that kills itself, -9, at a named point.

::

    python -m tests.system.crash.fuse agent ORDERS [POINT PASSES] -- start --roles=db ...
    echo "POINT PASSES" > ORDERS; kill -USR1 PID        from now on counted: the PASSES-th time is the end

The services know nothing of it.  Where they are wired together, what they use is replaced by subclasses that say
where they are: so a service that is not started in this way has no switch that could kill it, and pays nothing.
The audit log has such a hook of its own, for it has points that no subclass sees.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

#: Bytes of a segment of the agent's spool: the next one is begun every other second.
SEGMENT = 64 * 1024
#: Bytes of log between two ``state.json``, and seconds to a checkpoint: likewise.
STATE_EVERY, CHECKPOINT_SECONDS = 128 * 1024, 1.0
#: Seconds after which a shipment that was sent is on its way.
UNDER_WAY = 0.003

#: By victim, its points, and how many passes under load are a second or two.
POINTS: dict[str, dict[str, int]] = {
    "agent": {
        "statement not recorded": 200,
        "statement recorded": 200,
        "statement forwarded": 200,
        "result not recorded": 200,
        "result recorded": 200,
        "result forwarded": 200,
        "result gone": 200,
        "answer forwarded in part": 20,
        "answer gone in part": 20,
        "segment full": 2,
        "segment begun": 2,
        "before the fsync": 40,
        "behind the fsync": 40,
        "shipment read": 8,
        "shipment sent": 8,
        "shipment under way": 8,
        "acknowledged": 8,
        "acknowledgement kept": 8,
    },
    "auth": {
        "shipment received": 8,
        "file made": 2,
        "written": 10,
        "synced": 10,
        "key made": 2,
        "key overwritten": 2,
        "packed": 2,
        "renamed": 2,
        "before the answer": 8,
        "behind the answer": 8,
        "before the sink": 4,
        "behind the sink": 4,
        "before the state": 2,
        "behind the state": 2,
    },
    "proxy": {
        "client connected": 10,
        "session asked for": 10,
        "statement passed on": 200,
        "answer passed on": 200,
        "shipment passed on": 16,
        "acknowledgement passed on": 16,
        "agent attached": 1,
    },
}

#: Those that a process comes to once it is started, and not under load.
AT_START = {"agent attached"}


class Fuse:
    """Burns at one point.

    :param orders: the file that names point and passes when SIGUSR1 comes.
    """

    def __init__(self, orders: Path, point: str = "", passes: int = 0) -> None:
        self._orders, self._point, self._left = orders, point, passes

    def at(self, point: str) -> None:
        """We are there."""
        if point == self._point:
            self._left -= 1
            if self._left <= 0:
                self.burn()

    def burn(self) -> None:
        """kill -9, said beforehand."""
        os.write(2, f"killed at: {self._point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def order(self, number: int, frame: object) -> None:
        """Take the order that the file has."""
        self._point, _, passes = self._orders.read_text().strip().rpartition(" ")
        self._left = int(passes)


def replace(module: ModuleType, name: str, made: Any) -> None:
    """Put ``made`` where the module uses ``name``."""
    assert hasattr(module, name), f"{module.__name__} does not use {name} any more"
    setattr(module, name, made)


def around(at: Callable[[str], None], before: str, function: Callable[..., Any], behind: str) -> Callable[..., Any]:
    """The function with a point on either side; "" for none."""

    def call(*args: Any, **more: Any) -> Any:
        if before:
            at(before)
        answer = function(*args, **more)
        if behind:
            at(behind)
        return answer

    return call


def wire_agent(at: Callable[[str], None]) -> None:
    """The points of the db service."""
    from twisted.internet import reactor

    from teleport_db.audit.spool import Spool
    from teleport_db.db import agent, session
    from teleport_db.db.relay import BackendRelay, FrontendRelay
    from teleport_db.services import dbservice

    class FusedSpool(Spool):
        def __init__(self, directory: str, **more: Any) -> None:
            super().__init__(directory, segment_bytes=SEGMENT, **more)

        def _next_segment(self) -> None:
            around(at, "segment full", super()._next_segment, "segment begun")()

        def begin_sync(self) -> Callable[[], int]:
            return around(at, "before the fsync", super().begin_sync(), "behind the fsync")

        def read(self, *args: Any, **more: Any) -> Any:
            return around(at, "", super().read, "shipment read")(*args, **more)

        def acknowledge(self, number: int) -> None:
            around(at, "acknowledged", super().acknowledge, "acknowledgement kept")(number)

    class FusedFrontend(FrontendRelay):
        def __init__(self, executions: Any, *, record: Any, forward: Any, **more: Any) -> None:
            record = around(at, "statement not recorded", record, "statement recorded")
            super().__init__(executions, record=record, forward=around(at, "", forward, "statement forwarded"), **more)

    class FusedBackend(BackendRelay):
        def __init__(self, executions: Any, *, record: Any, forward: Any, **more: Any) -> None:
            def forwarding(data: bytes) -> None:
                forward(data)
                at("result forwarded" if executions.idle else "answer forwarded in part")
                reactor.callLater(0, gone)  # what a turn of the reactor has written left with its end

            def gone() -> None:
                at("result gone" if executions.idle else "answer gone in part")

            record = around(at, "result not recorded", record, "result recorded")
            super().__init__(executions, record=record, forward=forwarding, **more)

    sender = agent.sender

    def fused_sender(*args: Any) -> Any:
        send = sender(*args)

        def sending(events: Any) -> Any:
            sent = send(events)
            at("shipment sent")
            reactor.callLater(UNDER_WAY, at, "shipment under way")
            return sent

        return sending

    assert hasattr(Spool, "_next_segment")
    replace(dbservice, "Spool", FusedSpool)
    replace(session, "FrontendRelay", FusedFrontend)
    replace(session, "BackendRelay", FusedBackend)
    replace(agent, "sender", fused_sender)


def wire_auth(at: Callable[[str], None]) -> None:
    """The points of auth: those of the log's own hook, and some around it."""
    from teleport_db.audit import log
    from teleport_db.audit.sinks import service
    from teleport_db.audit.sinks.file import FileTarget
    from teleport_db.services import authservice

    class FusedLog(log.AuditLog):
        def receive(self, *args: Any) -> Any:
            return around(at, "shipment received", super().receive, "")(*args)

        def _finish(self, *args: Any) -> None:
            around(at, "before the answer", super()._finish, "behind the answer")(*args)

        def _keep_state(self) -> Any:
            at("before the state")
            return super()._keep_state().addCallback(lambda _: at("behind the state"))

    class FusedTarget(FileTarget):
        def _append(self, data: bytes) -> None:
            around(at, "before the sink", super()._append, "behind the sink")(data)

    assert hasattr(log.AuditLog, "_finish")
    assert hasattr(log.AuditLog, "_keep_state")
    assert hasattr(FileTarget, "_append")
    replace(service, "FileTarget", FusedTarget)
    replace(log, "STATE_EVERY", STATE_EVERY)
    replace(log, "CHECKPOINT_SECONDS", CHECKPOINT_SECONDS)
    replace(authservice, "AuditLog", partial(FusedLog, at=at))


def wire_proxy(at: Callable[[str], None]) -> None:
    """The points of the proxy."""
    from teleport_db.proxy import forward, frontend, router
    from teleport_db.services import proxyservice

    class FusedFrontend(frontend.PostgresFrontend):
        def connectionMade(self) -> None:
            around(at, "client connected", super().connectionMade, "")()

        def dataReceived(self, data: bytes) -> None:
            around(at, "", super().dataReceived, "statement passed on" if self.other else "session asked for")(data)

    class FusedAgentSide(frontend.AgentSide):
        def dataReceived(self, data: bytes) -> None:
            around(at, "", super().dataReceived, "answer passed on")(data)

    class FusedForwarder(forward.Forwarder):
        def dataReceived(self, data: bytes) -> None:
            around(at, "", super().dataReceived, "shipment passed on")(data)

    class FusedFar(forward._Far):
        def dataReceived(self, data: bytes) -> None:
            around(at, "", super().dataReceived, "acknowledgement passed on")(data)

    class FusedRouter(router.Router):
        def attach(self, *args: Any) -> None:
            around(at, "", super().attach, "agent attached")(*args)

    replace(proxyservice, "PostgresFrontend", FusedFrontend)
    replace(frontend, "AgentSide", FusedAgentSide)
    replace(proxyservice, "Forwarder", FusedForwarder)
    replace(forward, "_Far", FusedFar)
    replace(proxyservice, "Router", FusedRouter)


WIRING = {"agent": wire_agent, "auth": wire_auth, "proxy": wire_proxy}


def main(words: Sequence[str]) -> int:
    """Run ``teleport`` with a fuse."""
    own, command = words[: words.index("--")], words[words.index("--") + 1 :]
    victim, orders, *point = own
    fuse = Fuse(Path(orders), point[0], int(point[1])) if point else Fuse(Path(orders))
    signal.signal(signal.SIGUSR1, fuse.order)
    WIRING[victim](fuse.at)
    from teleport_db.cli import teleport

    return teleport.main(list(command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
