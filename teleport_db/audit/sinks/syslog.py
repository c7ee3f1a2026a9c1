"""A sink over syslog: RFC 5424 in RFC 5425, which is TLS always.

::

    dial, verify ──▶ write a batch ──▶ our buffers are empty ──▶ the other kernel has acknowledged it ──▶ taken
                                                                    connection lost within 10 s of that ──▶ go back

Syslog has no acknowledgement.  What the other side's kernel has may still be lost when its program ends, so whatever
was sent in the last seconds before a connection broke is sent again over the next.  Who must be certain takes HTTPS.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IPullProducer, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

import teleport_db
from teleport_db.audit.shipping import ThreadHook
from teleport_db.audit.sinks.peers import PeerEndpoint
from teleport_db.audit.sinks.reading import Batch, Place, State
from teleport_db.audit.sinks.rfc5424 import Format
from teleport_db.audit.sinks.target import go_nowhere
from teleport_db.config.sinks import SyslogSink
from teleport_db.errors import ConnectionTrouble

#: Of a batch: bytes and messages; seconds that lines wait for others to come along.
BATCH, MESSAGES, GATHER = 256 << 10, 1000, 1.0

#: Seconds that a batch may take.
SEND_SECONDS = 30.0

#: Seconds that a connection has to outlive a batch, or it is sent again.
SETTLE = 10.0

#: Seconds between two questions whether the other kernel has everything.
ASK = 0.05


@implementer(IPullProducer)
class _Link(Protocol):
    """One connection.  The other side has nothing to say, and nobody listens."""

    def __init__(self, lost: Any) -> None:
        self._lost = lost
        self._data = b""
        self._written: Deferred[None] | None = None
        self.open = False
        self.closed: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.open = True

    def write(self, data: bytes) -> Deferred[None]:
        """Fires when the kernel has all of it."""
        self._data = data
        self._written = Deferred()
        written = self._written
        assert self.transport is not None
        self.transport.registerProducer(self, False)  # type: ignore[attr-defined]
        return written

    def resumeProducing(self) -> None:
        """The first time: write.  The second time: it is all gone."""
        assert self.transport is not None
        data, self._data = self._data, b""
        if data:
            self.transport.write(data)
            return
        written, self._written = self._written, None
        self.transport.unregisterProducer()  # type: ignore[attr-defined]
        if written is not None:
            written.callback(None)

    def stopProducing(self) -> None:
        """The connection is gone, and says so itself."""

    def unacknowledged(self) -> int:
        """Bytes that the other kernel has not acknowledged; 0 where that cannot be known."""
        below = self.transport
        while below is not None and not hasattr(below, "getHandle"):
            below = getattr(below, "transport", None)
        if below is None:
            return 0
        try:
            answer = fcntl.ioctl(below.getHandle().fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError, AttributeError):
            return 0  # closed, or a system that does not tell
        return int(struct.unpack("i", answer)[0])

    def abort(self) -> None:
        """Close at once."""
        if self.open and self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.open = False
        written, self._written = self._written, None
        if written is not None and not written.called:
            written.errback(ConnectionTrouble("the connection broke"))
        self._lost(self)
        self.closed.callback(None)


class SyslogTarget:
    """One receiver.

    :param hostname: this machine's, for the messages.
    :param in_thread: where messages are made.
    :param endpoint: in place of one that dials the sink's host.
    """

    max_bytes, max_records, gather = BATCH, MESSAGES, GATHER

    def __init__(
        self,
        sink: SyslogSink,
        *,
        hostname: str,
        reactor: Any,
        in_thread: ThreadHook,
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        self.state: State = {}
        self.go_back: Callable[[Place], None] = go_nowhere
        self._reactor, self._in_thread, self._where = reactor, in_thread, sink.target
        self._endpoint = endpoint or PeerEndpoint(sink, sink.host, sink.port, reactor=reactor)
        self._format = Format(sink.facility, hostname, sink.app_name, teleport_db.__version__, sink.max_message)
        self._link: _Link | None = None
        self._recent: deque[tuple[float, Place]] = deque()  # when a batch was taken, and where it began

    def send(self, batch: Batch) -> Deferred[None]:
        """See :class:`~teleport_db.audit.sinks.target.Target`."""
        sending: Deferred[None] = Deferred.fromCoroutine(self._send(batch))
        sending.addTimeout(SEND_SECONDS, self._reactor)
        return sending.addErrback(self._failed)

    def close(self) -> Deferred[None]:
        """See :class:`~teleport_db.audit.sinks.target.Target`."""
        link, self._link = self._link, None
        if link is None or not link.open or link.transport is None:
            return succeed(None)
        link.transport.loseConnection()
        return link.closed

    async def _send(self, batch: Batch) -> None:
        link = self._link
        if link is None:
            factory: Any = Factory.forProtocol(lambda: _Link(self._lost))
            factory.noisy = False
            connected: Any = await self._endpoint.connect(factory)
            link = self._link = connected
            assert link is not None
        frames = await self._in_thread(lambda: self._format.frames(list(batch.records), batch.first))
        if not link.open:
            raise ConnectionTrouble(f"{self._where} closed the connection")
        await link.write(frames)
        while link.unacknowledged():
            await deferLater(self._reactor, ASK)
            if not link.open:
                raise ConnectionTrouble(f"{self._where} closed the connection")
        self._forget()
        self._recent.append((self._reactor.seconds(), batch.begin))

    def _forget(self) -> None:
        """What is older than the time to settle has arrived."""
        now = self._reactor.seconds()
        while self._recent and self._recent[0][0] <= now - SETTLE:
            self._recent.popleft()

    def _lost(self, link: _Link) -> None:
        if link is not self._link:
            return
        self._link = None
        self._forget()
        if self._recent:
            self.go_back(self._recent[0][1])
            self._recent.clear()

    def _failed(self, failure: Failure) -> Failure:
        link = self._link
        if link is not None:
            self._lost(link)
            link.abort()  # who knows what half of a message it has
        if failure.check(TimeoutError):
            raise ConnectionTrouble(f"{self._where} takes nothing within {SEND_SECONDS:g} seconds")
        return failure
