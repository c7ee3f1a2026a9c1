"""All sinks of an auth server."""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from teleport_db.audit.events import make_event
from teleport_db.audit.logfile import LogFile
from teleport_db.audit.shipping import ThreadHook
from teleport_db.audit.sinks.delivery import Delivery
from teleport_db.audit.sinks.file import FileTarget
from teleport_db.audit.sinks.target import Log, Target
from teleport_db.audit.uids import uid_source
from teleport_db.config.sinks import FileSink, HTTPSSink, S3Sink, Sink, SyslogSink


def make_target(sink: Sink, *, cluster: str, hostname: str, reactor: Any, in_thread: ThreadHook) -> Target:
    """The other side of a sink; what a kind needs is imported when there is one."""
    match sink:
        case FileSink():
            return FileTarget(sink, in_thread=in_thread)
        case SyslogSink():
            from teleport_db.audit.sinks.syslog import SyslogTarget

            return SyslogTarget(sink, hostname=hostname, reactor=reactor, in_thread=in_thread)
        case HTTPSSink():
            from teleport_db.audit.sinks.https import HTTPSTarget

            return HTTPSTarget(sink, cluster=cluster, reactor=reactor, in_thread=in_thread)
        case S3Sink():
            from teleport_db.audit.sinks.s3 import S3Target

            return S3Target(sink, cluster=cluster, in_thread=in_thread)
        case _:
            raise TypeError(f"a sink of an unknown kind: {sink!r}")


class Sinks:
    """The sinks of a configuration, beside the audit log.

    :param thread: makes the thread of the sink with this name, which nobody else uses.
    :param hostname: of this machine, for syslog.
    """

    log = Logger()

    def __init__(
        self,
        sinks: Sequence[Sink],
        log: Log,
        *,
        thread: Callable[[str], ThreadHook],
        cluster: str,
        hostname: str,
        reactor: Any,
        new_uid: Callable[[], str] | None = None,
        random: Callable[[], float] = _random.random,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._cluster, self._clock = log, cluster, reactor
        self._new_uid = new_uid or uid_source()
        self.deliveries: list[Delivery] = []
        for sink in sinks:
            in_thread = thread(sink.name)
            target = make_target(sink, cluster=cluster, hostname=hostname, reactor=reactor, in_thread=in_thread)
            delivery = Delivery(
                sink,
                target,
                log,
                clock=reactor,
                in_thread=in_thread,
                tell=self._tell,
                random=random,
                elapsed=elapsed,
            )
            self.deliveries.append(delivery)

    def start(self) -> None:
        """Send from now on."""
        for delivery in self.deliveries:
            delivery.start()

    def stop(self) -> Deferred[None]:
        """Send nothing more; fires when the threads are done."""
        all_done: Deferred[Any] = gatherResults([delivery.stop() for delivery in self.deliveries])
        return all_done.addCallback(lambda _: None)

    def statuses(self) -> list[dict[str, Any]]:
        """Each sink's, in the order of the configuration; for the API."""
        return [delivery.status() for delivery in self.deliveries]

    def needed(self) -> LogFile | None:
        """The oldest file of the log that a sink has not read to its end; None when there is no sink."""
        files = [delivery.needed for delivery in self.deliveries]
        return min((file for file in files if file is not None), default=None)

    @property
    def behind(self) -> int:
        """Lines of the log that the one which is the furthest behind lacks."""
        return max((delivery.behind for delivery in self.deliveries), default=0)

    @property
    def failing(self) -> int:
        """How many do not work."""
        return sum(bool(delivery.troubles.error) for delivery in self.deliveries)

    def _tell(self, event: str, **fields: Any) -> None:
        """Have an event in the audit log; a log that cannot be written has been complained of already."""
        made = make_event(event, uid=self._new_uid(), time=self._clock.seconds(), cluster_name=self._cluster, **fields)
        self._source.emit([made]).addErrback(lambda _: None)
