"""A sink over HTTPS: batches of JSON lines, each a POST, each acknowledged by a 2xx.

::

    POST /ingest HTTP/1.1
    Content-Type: application/x-ndjson
    X-Audit-Cluster: root
    X-Audit-First: 1001            the number of the first record, from 1 on, in all that this sink was sent
    X-Audit-Count: 2

    {"ei":0,"event":"db.session.start",...}
    {"ei":1,"event":"db.session.query",...}

Who has record 1002 already drops what comes again.  Anything but a 2xx, an answer that never comes, a connection that
breaks: the same records are sent again, later.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer

from teleport_db.alpn import ALPN_HTTP
from teleport_db.api.client import Body, OneEndpoint, unwrapped
from teleport_db.audit.shipping import ThreadHook
from teleport_db.audit.sinks.peers import PeerEndpoint
from teleport_db.audit.sinks.reading import Batch, Place, State
from teleport_db.audit.sinks.target import NotTaken, go_nowhere
from teleport_db.config.sinks import HTTPSSink
from teleport_db.errors import ConfigError, ConnectionTrouble, RemoteProtocolError, TeleportDBError
from teleport_db.hostport import host_port

#: Seconds that lines wait for others to come along.
GATHER = 1.0

#: Seconds for which an idle connection is kept.
KEPT_FOR = 20

#: Bytes of an answer that are read; nobody looks at them.
MAX_ANSWER = 64 << 10

#: Bytes of an answer before its body: the status line and headers, and whatever answers of 1xx came before.
MAX_HEAD = 64 << 10

#: The longest value of a header, bytes.
MAX_HEADER = 16 << 10

#: What is worth a hint.
_HINTS = {
    401: "it does not take the credentials in header_files",
    403: "it does not take the credentials in header_files",
    404: "there is nothing at the path of url",
    413: "the batch is too large for it",
    415: "it takes no JSON lines",
}


class _Head:
    """How much may still come before an answer's body."""

    def __init__(self) -> None:
        #: Bytes; None while no head is waited for.
        self.left: int | None = None


class _Connection(ProtocolWrapper):
    """Bounds the head of an answer: Twisted's parser takes headers in for as long as they come."""

    factory: _Connections
    _too_long = False

    def dataReceived(self, data: bytes) -> None:
        head = self.factory.head
        while data and head.left is not None and not self._too_long:
            piece, data = data[: head.left], data[head.left :]
            head.left -= len(piece)
            # Whoever waits for the answer sets ``left`` to None in the middle of this.
            super().dataReceived(piece)  # type: ignore[no-untyped-call]
            if head.left == 0:
                self._too_long = True
                self.transport.abortConnection()  # type: ignore[union-attr]
        if data and not self._too_long:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def loseConnection(self) -> None:
        # The parser does this to a line that is too long for it, and says nothing.
        self._too_long = self.factory.head.left is not None
        super().loseConnection()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._too_long:
            reason = Failure(RemoteProtocolError(self.factory.words))
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class _Connections(WrappingFactory[_Connection]):
    protocol = _Connection
    noisy = False

    def __init__(self, wrapped: Any, head: _Head, words: str) -> None:
        super().__init__(wrapped)  # type: ignore[no-untyped-call]
        self.head, self.words = head, words


@implementer(IStreamClientEndpoint)
class _Bounded:
    """Connects quietly, and bounds what comes before the body of an answer."""

    def __init__(self, below: IStreamClientEndpoint, head: _Head, words: str) -> None:
        self._below, self._head, self._words = below, head, words

    def connect(self, protocolFactory: Any) -> Deferred[IProtocol]:
        """As an endpoint's."""
        protocolFactory.noisy = False  # it would tell of each connection, in the log of the service
        connected: Deferred[Any] = self._below.connect(_Connections(protocolFactory, self._head, self._words))
        return connected.addCallback(lambda connection: connection.wrappedProtocol)


class _Drain(Protocol):
    """Reads an answer's body and forgets it; ``whole`` fires at its end."""

    def __init__(self) -> None:
        self._left = MAX_ANSWER
        self.whole: Deferred[None] = Deferred(lambda _: self._close())

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if self._left < 0 or reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(None)
        else:
            self.whole.errback(ConnectionTrouble("the connection broke in the middle of the answer"))


class HTTPSTarget:
    """One address.

    :param in_thread: where bodies are packed and the files of headers read.
    :param endpoint: in place of one that dials the sink's host.
    """

    def __init__(
        self,
        sink: HTTPSSink,
        *,
        cluster: str,
        reactor: Any,
        in_thread: ThreadHook,
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        self.max_bytes, self.max_records, self.gather = sink.batch_bytes, sink.batch_events, GATHER
        self.state: State = {}
        self.go_back: Callable[[Place], None] = go_nowhere
        self._sink, self._cluster, self._reactor, self._in_thread = sink, cluster, reactor, in_thread
        if endpoint is None:
            endpoint = PeerEndpoint(sink, sink.host, sink.port, reactor=reactor, alpn=(ALPN_HTTP,))
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost, self._pool.cachedConnectionTimeout = 1, KEPT_FOR
        self._pool.retryAutomatically = False
        self._head = _Head()
        words = f"the answer of {self._where} is too long: more than {MAX_HEAD >> 10} KiB come before its body"
        bounded = _Bounded(endpoint, self._head, words)
        self._agent = Agent.usingEndpointFactory(reactor, OneEndpoint(bounded), self._pool)

    @property
    def _where(self) -> str:
        return self._sink.target

    def send(self, batch: Batch) -> Deferred[None]:
        """See :class:`~teleport_db.audit.sinks.target.Target`."""
        sending: Deferred[None] = Deferred.fromCoroutine(self._send(batch))
        sending.addErrback(unwrapped).addTimeout(self._sink.timeout, self._reactor)
        return sending.addErrback(self._translated)

    def close(self) -> Deferred[None]:
        """See :class:`~teleport_db.audit.sinks.target.Target`."""
        closed: Deferred[Any] = self._pool.closeCachedConnections()
        return closed.addCallback(lambda _: None)

    async def _send(self, batch: Batch) -> None:
        body, given = await self._in_thread(lambda: (self._body(batch), self._given()))
        # With a port of its own, as RFC 9110, 7.2, wants it.
        host = host_port(self._sink.host, self._sink.port).removesuffix(":443")
        headers = Headers(
            {
                "Host": [host],
                "User-Agent": ["teleport-db"],
                "Content-Type": ["application/x-ndjson"],
                "X-Audit-Cluster": [self._cluster],
                "X-Audit-First": [str(batch.first)],
                "X-Audit-Count": [str(len(batch.records))],
            }
        )
        if self._sink.compress:
            headers.setRawHeaders("Content-Encoding", ["gzip"])
        for name, value in given.items():
            headers.setRawHeaders(name, [value])
        uri = f"https://{host}{self._sink.path}".encode("ascii")
        self._head.left = MAX_HEAD
        try:
            response: IResponse = await self._agent.request(b"POST", uri, headers, Body(body))
        finally:
            self._head.left = None
        answer = _Drain()
        response.deliverBody(answer)
        await answer.whole
        self._judge(response)

    def _body(self, batch: Batch) -> bytes:
        return gzip.compress(batch.data, 6, mtime=0) if self._sink.compress else batch.data

    def _given(self) -> Mapping[str, str]:
        """The headers of the configuration; files are read each time, so that a new token needs no restart."""
        found = dict(self._sink.headers)
        for name, path in self._sink.header_files.items():
            try:
                with open(path, encoding="latin-1") as file:
                    value = file.read(MAX_HEADER + 1).strip()
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise ConfigError(f"the header {name} cannot be read: {why}", source=path) from error
            if not value or len(value) > MAX_HEADER or not (value.isascii() and value.isprintable()):
                raise ConfigError(f"there is no value of the header {name} in it", source=path)
            found[name] = value
        return found

    def _judge(self, response: IResponse) -> None:
        """Raise NotTaken for anything but a 2xx."""
        status = response.code
        if 200 <= status < 300:
            return
        said = f"{self._where} answers {status}"
        if 300 <= status < 400:
            raise NotTaken(f"{said}: redirects are not followed; give the address that it leads to")
        hint = f": {_HINTS[status]}" if status in _HINTS else ""
        wait = self._wait(response) if status in (429, 503) else 0.0
        raise NotTaken(said + hint, wait=wait, too_large=status == 413)

    def _wait(self, response: IResponse) -> float:
        """Seconds of Retry-After, which has those or a date; 0 for what has neither."""
        values = response.headers.getRawHeaders("retry-after") or [""]
        text = values[0].strip()[:64]
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            moment = parsedate_to_datetime(text).timestamp()
            return max(moment - float(self._reactor.seconds()), 0.0)
        except (ValueError, OverflowError):
            return 0.0

    def _translated(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, TeleportDBError | CancelledError):
            return failure
        if isinstance(error, TimeoutError):
            raise ConnectionTrouble(f"{self._where} does not answer within {self._sink.timeout:g} seconds") from error
        raise ConnectionTrouble(f"the connection to {self._where} broke", detail=type(error).__name__) from error
