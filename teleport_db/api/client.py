"""The client of the HTTPS API for services, on the reactor.

::

    call("GET", "/v1/watch", ...)  ──┐  a connection each while they last,
    call("PUT", "/v1/presence") ─────┤  kept for the next calls
                                     └─▶ IStreamClientEndpoint (mutual TLS already) ─▶ auth

Where the connection runs, over TCP or through an agent's tunnel, is the endpoint's affair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IConsumer, IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from teleport_db.api.answers import MAX_ANSWER, content, target
from teleport_db.errors import ConnectionTrouble, RemoteProtocolError, TeleportDBError

#: Seconds for a whole call unless it says otherwise.
TIMEOUT = 30.0
#: Idle connections that are kept, and for how long: less than a server keeps them, so that a call is
#: seldom sent into a connection that is just being closed.
KEPT, KEPT_FOR = 4, 20

#: :meth:`APIClient.call`, for whoever needs nothing else of the client.
Call = Callable[..., "Deferred[dict[str, Any]]"]


@implementer(IAgentEndpointFactory)
class OneEndpoint:
    """Whatever the address says, there is one way to the server."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        return self._endpoint


class Pieces(Sized, Iterable[bytes]):
    """A large body that is made while it is sent, a few tens of KB at a time; ``len`` gives its bytes."""


@implementer(IBodyProducer)
class Body:
    """A body that is there already, or is made in pieces.

    :param clock: with it pieces are written one a turn of the reactor: what else there is to do waits for one of them,
        not for all.
    """

    def __init__(self, data: bytes | Pieces, clock: IReactorTime | None = None) -> None:
        self._pieces = iter((data,) if isinstance(data, bytes) else data)
        self._left = self.length = len(data)
        self._clock = clock
        self._consumer: IConsumer | None = None
        self._next: IDelayedCall | None = None
        self._paused = False
        self._written: Deferred[None] = Deferred(lambda _: self.stopProducing())

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._consumer = consumer
        self._go_on()
        return self._written

    def _go_on(self) -> None:
        self._next = None
        while self._consumer is not None and not self._paused:
            piece = next(self._pieces)
            self._left -= len(piece)
            self._consumer.write(piece)  # which may pause this, or stop it
            if not self._left:
                self._consumer = None
                self._written.callback(None)
            elif self._clock is not None:
                self._soon()
                return

    def _soon(self) -> None:
        if self._clock is not None and self._next is None and self._consumer is not None:
            self._next = self._clock.callLater(0, self._go_on)

    def pauseProducing(self) -> None:
        """The other side does not keep up."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It does again."""
        self._paused = False
        self._soon()

    def stopProducing(self) -> None:
        """Nobody takes any more."""
        self._consumer = None
        if self._next is not None:
            self._next.cancel()
            self._next = None


class _Answer(Protocol):
    """Collects a body; fires ``whole``, whose cancellation closes the connection."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0
        self.whole: Deferred[bytes] = Deferred(lambda _: self._close())

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._length += len(data)
        if self._length > MAX_ANSWER:
            self._fail(RemoteProtocolError(f"the answer is larger than {MAX_ANSWER >> 20} MiB"))
            self._close()
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone, PotentialDataLoss):
            if not self.whole.called:
                self.whole.callback(b"".join(self._parts))
        else:
            self._fail(reason.value or ConnectionError())

    def _fail(self, error: BaseException) -> None:
        if not self.whole.called:
            self.whole.errback(error)


class APIClient:
    """Calls the API; any number at once, each on a connection of its own while it lasts.

    :param endpoint: connects to the server, TLS and the check of its name included.
    :param host: what the ``Host`` header says: the server's TLS name.
    :param timeout: seconds for a whole call that does not say otherwise.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, host: str, *, reactor: IReactorTime, timeout: float = TIMEOUT
    ) -> None:
        self.host = host
        self._reactor = reactor
        self._timeout = timeout
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = KEPT
        self._pool.cachedConnectionTimeout = KEPT_FOR
        # It would repeat a DELETE as well, of which nobody knows whether it was done.
        self._pool.retryAutomatically = False
        self._agent = Agent.usingEndpointFactory(reactor, OneEndpoint(endpoint), self._pool)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | Pieces | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[dict[str, Any]]:
        """Call the API; fires with the answer's object.

        :param body: an object, or its JSON, perhaps in pieces.
        :param query: parameters; those that are None are left out.
        :param timeout: seconds for the whole call.

        Fails with the class of :mod:`teleport_db.errors` that the answer's code names, ConnectionTrouble when
        there is no answer, RemoteProtocolError for one that cannot be understood.  Cancelling closes the
        call's connection; what was called for may have been done.
        """
        seconds = self._timeout if timeout is None else timeout
        called: Deferred[dict[str, Any]] = Deferred.fromCoroutine(self._call(method, target(path, query), body))
        called.addErrback(unwrapped).addTimeout(seconds, self._reactor)
        return called.addErrback(self._translate)

    def close(self) -> Deferred[None]:
        """Close the connections that are kept; fires when they are."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed.addCallback(lambda _: None)

    async def _call(self, method: str, address: str, body: Mapping[str, Any] | bytes | Pieces | None) -> dict[str, Any]:
        headers = Headers({b"accept": [b"application/json"], b"host": [self.host.encode("ascii")]})
        producer = None
        if body is not None:
            headers.addRawHeader(b"content-type", b"application/json")
            # As UTF-8: with six-byte escapes a batch of events could outgrow what a body may have.
            if isinstance(body, Mapping):
                text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
                body = text.encode("utf-8", "backslashreplace")
            producer = Body(body, self._reactor)
        uri = b"https://" + self.host.encode("ascii") + address.encode()
        response: IResponse = await self._agent.request(method.encode(), uri, headers, producer)
        answer = _Answer()
        response.deliverBody(answer)
        return content(response.code, await answer.whole, self.host)

    def _translate(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, TeleportDBError | CancelledError):
            return failure
        if isinstance(error, TimeoutError):
            raise ConnectionTrouble(f"{self.host} does not answer") from error
        raise ConnectionTrouble(f"the connection to {self.host} failed", detail=str(error)) from error


def unwrapped(failure: Failure) -> Failure:
    """What happened, where HTTP only says that it did: ``ResponseNeverReceived([why, ...])``."""
    for reason in getattr(failure.value, "reasons", None) or ():
        if isinstance(getattr(reason, "value", None), TeleportDBError | CancelledError):
            raise reason.value
    return failure
