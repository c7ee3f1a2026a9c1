"""TLS above any transport, by ``ssl.MemoryBIO``.

One class serves the outer TLS over TCP, the inner one over a stream of the tunnel, and the database's::

    upper protocol          dataReceived ▲   │ write
    ────────────────────────────────────┼───┼──────────────  TLSLayer is the transport of what is above
                     decrypt, join once  │   │ encrypt
    transport below         dataReceived │   ▼ write         ... and the protocol of what is below

Handshake, in both roles (RFC 8446 section 2)::

    makeConnection ─▶ HANDSHAKE ── done, check() passes ─▶ OPEN ─▶ upper.makeConnection(layer)
                          └── alert, time, size, end, check() raises ─▶ failed(why), closed

Ends (RFC 8446 section 6.1): a ``close_notify`` is the clean end, and the upper protocol hears
``ConnectionDone``; an end of the bytes below without it may be an attacker's and is ``ConnectionLost``.

Nothing is buffered here: what is written goes down encrypted at once, so producers above are registered
directly with the transport below; while reading is paused, what had arrived stays as it came and the
transport below is paused.

The module is long because it is one state machine, and its two halves share every flag.
"""

# mypy: disallow-untyped-calls=False
# (Failure has no annotations in Twisted.)

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.certs.tls import shared
from teleport_db.clienthello import resumes
from teleport_db.errors import ConnectionTrouble
from teleport_db.net.tlserrors import trouble

#: The largest record's plaintext (RFC 8446 section 5.1); one read always takes a whole record.
RECORD = 16384

#: The bytes in front of each record; the last two are its length (RFC 8446 section 5.1).
RECORD_HEADER = 5

#: Bytes given to OpenSSL at once: a whole record of TLS 1.3.  A BIO never shrinks, and one that has once
#: held 64 KiB would keep 90 for as long as the session idles.
FEED = RECORD + 22

#: Decrypted bytes joined for one delivery, about: what one read of a socket brings, and a record begun before.
DELIVERY = 131072

#: Bytes a peer may send before its handshake is complete.
MAX_HANDSHAKE = 65536


class State(Enum):
    """Where the connection is."""

    NEW = auto()
    HANDSHAKE = auto()
    OPEN = auto()
    #: Refused or broken, the transport below is closing; nothing more is read or written.
    FAILED = auto()
    LOST = auto()


#: A member of an enum costs a look-up each time, and this one is asked for with every record.
_OPEN = State.OPEN


@implementer(ITransport, IConsumer, IPushProducer, ISSLTransport, IHalfCloseableProtocol)
class TLSLayer(Protocol):
    """TLS between a protocol above and a transport below.

    Bytes that were read before TLS started are fed in by the caller: ``makeConnection(transport)``,
    then ``dataReceived(sniffed)``.

    :param upper: connected after the handshake and ``check``; never told anything otherwise.  It stays
        in the attribute ``protocol``, which may be replaced as that of Twisted's transports.
    :param server_hostname: the name sent as SNI.
    :param check: called once the handshake is done; if it raises, the connection is closed.
    :param timeout: seconds for the handshake.
    :param failed: hears why, once, if ``upper`` was never connected: a Failure with a
        :class:`~teleport_db.errors.TeleportDBError`, or with what ``check`` raised.
    :param connected: called once, just after ``upper`` was connected and before it is given data.
    :param session: of an earlier connection with this context, to be resumed if the server will.
    :param resumable: given the session of this one, once, when the server has given a ticket for it.

    After the handshake: ``peer_certificate`` (DER), ``alpn``, ``version`` (as ``"TLSv1.3"``), ``resumed``: then nobody
    has checked the certificate anew.
    """

    #: There are four of these to an idle session, and as many attributes do not fit into a shared dictionary.
    __slots__ = (
        "_backlog",
        "_check",
        "_clock",
        "_connected",
        "_context",
        "_delivering",
        "_end_below",
        "_end_told",
        "_failed",
        "_half_closing",
        "_handshake_bytes",
        "_held",
        "_incoming",
        "_lost_below",
        "_outgoing",
        "_paused",
        "_paused_below",
        "_producer",
        "_read_closed",
        "_reason",
        "_resumable",
        "_state",
        "_timeout",
        "_timer",
        "_tls",
        "_write_closed",
        "alpn",
        "connected",
        "disconnecting",
        "peer_certificate",
        "protocol",
        "resumed",
        "transport",
        "version",
    )

    transport: Any

    def __init__(
        self,
        upper: Any,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        clock: IReactorTime,
        server_hostname: str | None = None,
        check: Callable[[TLSLayer], None] | None = None,
        timeout: float = 10.0,
        failed: Callable[[Failure], None] | None = None,
        connected: Callable[[], None] | None = None,
        session: ssl.SSLSession | None = None,
        resumable: Callable[[ssl.SSLSession], None] | None = None,
    ) -> None:
        self.protocol = upper
        self.transport = None
        self.connected = 0
        self.disconnecting = False
        self.peer_certificate: bytes | None = None
        self.alpn: str | None = None
        self.version = ""
        self.resumed = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._context: ssl.SSLContext | None = context  # of a server that has heard nothing yet
        if not server_side:
            self._context = None
            self._tls = context.wrap_bio(
                self._incoming, self._outgoing, server_hostname=server_hostname, session=session
            )
        self._resumable = resumable
        self._check = check
        self._failed = failed
        self._connected = connected
        self._clock = clock
        self._timeout = timeout
        self._timer: IDelayedCall | None = None
        self._state = State.NEW
        self._handshake_bytes = 0
        self._paused = False  # by the protocol above
        self._paused_below = False
        self._delivering = False
        self._backlog: memoryview | None = None  # encrypted, not yet given to OpenSSL
        self._held: list[bytes] = []  # decrypted before close_notify had to be sent
        self._producer: Any = None
        self._read_closed = False  # close_notify came
        self._write_closed = False  # close_notify went
        self._half_closing = False  # asked to, waiting for the producer
        self._end_told = False  # ... and the protocol above has heard of it
        self._end_below = False  # the bytes below ended
        self._lost_below: Failure | None = None  # the connection below is gone, held bytes are not yet delivered
        self._reason: Failure | None = None  # what the protocol above will be told

    def __repr__(self) -> str:
        return f"<TLSLayer {self._state.name} of {type(getattr(self, 'protocol', None)).__name__}>"

    # The handshake.

    def connectionMade(self) -> None:
        """The transport below is there: the handshake starts, on a server with the first bytes of the client."""
        self._state = State.HANDSHAKE
        self._timer = self._clock.callLater(self._timeout, self._timed_out)
        if self._context is None:
            self._shake()

    def _begin(self, context: ssl.SSLContext, first: bytes) -> None:
        """Make a server's end of TLS, now that a client says something.

        One that resumes a session has a ticket, and is given no other: to make one costs a quarter of that handshake.
        """
        self._context = None
        tickets = context.num_tickets
        if tickets and resumes(first):
            context.num_tickets = 0  # as it is now, so a connection stays
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        finally:
            context.num_tickets = tickets

    def _timed_out(self) -> None:
        self._timer = None
        if self._state is State.HANDSHAKE:
            self._fail(Failure(ConnectionTrouble(f"no TLS handshake within {self._timeout:g} seconds")), abort=True)
        else:
            self._abort_below()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            if self._handshake_bytes > MAX_HANDSHAKE:
                self._fail(Failure(ConnectionTrouble("the TLS handshake is too large")), abort=True)
            elif self._end_below:
                self._fail(Failure(_cut_short()))
            return
        except ssl.SSLError as error:
            self._flush()
            self._fail(Failure(trouble(error)))
            return
        self.version = self._tls.version() or ""
        self.alpn = self._tls.selected_alpn_protocol()
        certificate = self._tls.getpeercert(binary_form=True)
        self.peer_certificate = None if certificate is None else shared(certificate)
        self.resumed = bool(self._tls.session_reused)
        if self._check is not None:
            try:
                self._check(self)
            except Exception:
                # Any exception refuses.  The other side gets no close_notify:
                # a refusal must not look like a clean end.
                self._fail(Failure())
                return
        if self._state is not State.HANDSHAKE:
            return
        self._cancel_timer()
        if self.peer_certificate is not None:
            self._below("settled", None)  # of TCP
        self._state = State.OPEN
        connected, self._connected, self._check, self._failed = self._connected, None, None, None
        self._delivering = True
        try:
            self.protocol.makeConnection(self)
            if connected is not None:
                connected()
        finally:
            # The handshake's last flight goes down with what the protocol above said at once, as one write.
            self._flush()
            self._delivering = False
        self._deliver()

    def _fail(self, why: Failure, *, abort: bool = False) -> None:
        """The handshake failed: close below, and tell whoever waits."""
        if self._state is not State.HANDSHAKE:
            return
        failed = self._refuse()
        if abort:
            self._abort_below()
        else:
            self._close_below(bounded=True)
        if failed is not None:
            failed(why)

    def _refuse(self) -> Callable[[Failure], None] | None:
        self._state = State.FAILED
        self.disconnecting = True
        self._cancel_timer()
        failed, self._failed, self._check, self._connected = self._failed, None, None, None
        return failed

    # The protocol of the transport below.

    def dataReceived(self, data: bytes) -> None:
        """Encrypted bytes from below."""
        if self._state is _OPEN:
            if self.disconnecting or self._read_closed:
                return
            if len(data) <= FEED and self._backlog is None:
                self._incoming.write(data)
            else:
                self._backlog = memoryview(data if self._backlog is None else b"".join((self._backlog, data)))
            if not (self._paused or self._delivering):
                self._deliver()
        elif self._state is State.HANDSHAKE:
            if self._context is not None:
                self._begin(self._context, data)
            self._incoming.write(data)
            self._handshake_bytes += len(data)
            self._shake()

    def _decrypt(self) -> bytes:
        """What is there, up to about :data:`DELIVERY`; notes the end in ``_read_closed`` or ``_reason``."""
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            return data
        if self._backlog is not None:
            return self._decrypt_backlog(self._backlog)
        incoming, read = self._incoming, self._tls.read
        pieces: list[bytes] = []
        size = 0
        while size < DELIVERY and incoming.pending:
            try:
                data = read(RECORD)
            except ssl.SSLError as error:
                if self._unreadable(error):
                    continue
                break
            if not data:
                self._read_closed = True
                break
            if not (pieces or incoming.pending):
                return data  # one record, the usual case
            pieces.append(data)
            size += len(data)
        return b"".join(pieces)

    def _decrypt_backlog(self, backlog: memoryview) -> bytes:
        """As :meth:`_decrypt`, of much that came at once.

        OpenSSL is given one record at a time, for to be asked in the middle of one costs an exception.  Where the next
        one begins is known once one was read, from what that left; what is given is all, and in order, in any case.
        """
        read, write = self._tls.read, self._incoming.write
        pieces: list[bytes] = []
        size, given, end = 0, 0, len(backlog)
        begins, last_header = -1, end - RECORD_HEADER  # where the next record does; -1: that is not known
        while size < DELIVERY:
            until = given if begins < 0 and self._incoming.pending else given + FEED
            if begins >= 0:
                length = backlog[begins + 3] << 8 | backlog[begins + 4] if begins <= last_header else FEED
                if length < FEED:
                    until = begins + RECORD_HEADER + length
                else:
                    begins = -1
            if until > given:
                if given == end:
                    break
                write(backlog[given:until])
                given = until if until < end else end
            try:
                data = read(RECORD)
            except ssl.SSLError as error:
                if self._unreadable(error):
                    begins = -1
                    continue
                break
            if not data:
                self._read_closed = True
                break
            pieces.append(data)
            size += len(data)
            begins = until if begins >= 0 else given - self._incoming.pending
        self._backlog = backlog[given:] if given < end else None
        return b"".join(pieces)

    def _unreadable(self, error: ssl.SSLError) -> bool:
        """What there was instead of data; whether more may follow."""
        if isinstance(error, ssl.SSLWantReadError):
            # A part of a record, or TLS's own messages: the first of these are a server's tickets.
            if self._resumable is not None:
                self._keep_session()
            return True
        if isinstance(error, ssl.SSLZeroReturnError):
            self._read_closed = True
        else:
            self._reason = Failure(trouble(error))
        return False

    def _keep_session(self) -> None:
        """Give the session away if it can be resumed; asked once, because to ask costs a copy of it."""
        resumable, self._resumable = self._resumable, None
        session = self._tls.session
        if resumable is not None and session is not None and session.has_ticket:
            resumable(session)

    def _owed(self) -> bool:
        """Whether the protocol above may be owed something that has arrived."""
        return bool(self._incoming.pending or self._held or self._backlog)

    def _deliver(self) -> None:
        """Hand up what can be decrypted, as long as the protocol above takes it; then see to the end."""
        self._delivering = True
        try:
            while not self._paused and not self.disconnecting:
                data = self._decrypt()
                if not data:
                    break
                self.protocol.dataReceived(data)
                if not (self._incoming.pending or self._held or self._backlog):
                    break
        except BaseException:
            # The transport below decides what an exception means; but if it is gone, nobody asks again.
            if self._lost_below is not None:
                self._gone(self._lost_below)
            raise
        finally:
            self._delivering = False
        if self._outgoing.pending:
            self._flush()  # answers of TLS itself: a key update, an alert
        if (
            self._paused != self._paused_below
            or self._read_closed
            or self._end_below
            or self._reason is not None
            or self._lost_below is not None
        ):
            self._settle()

    def _settle(self) -> None:
        """After a delivery: the ends that are due, and the pause below as it is above."""
        if self._state is not State.OPEN:
            return
        drained = self.disconnecting or not self._owed()
        if not self.disconnecting and self._lost_below is None:
            if self._reason is not None:
                self._broken()
            elif self._read_closed and not self._held:
                self._peer_closed()
            elif self._end_below and drained and not self._read_closed:
                self._reason = _truncated()
                self._broken(abort=True)
            if self._state is not State.OPEN:
                return
        if self._lost_below is None:
            self._sync_pause()
        elif drained or self._reason is not None or (self._read_closed and not self._held):
            self._gone(self._lost_below)

    def _sync_pause(self) -> None:
        """Pause or resume below as the protocol above wants it."""
        if self._paused == self._paused_below or self._end_below or self.disconnecting:
            return
        self._paused_below = self._paused
        if self._paused:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def _peer_closed(self) -> None:
        """close_notify came: a half-close for a protocol that knows them, the end for others."""
        if self._end_told:
            return
        self._end_told = True
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is not None:
            half.readConnectionLost()
            if self._state is State.OPEN and self._write_closed and not self.disconnecting:
                self.disconnecting = True
                self._close_below(bounded=True)
            return
        self._stop_producer()
        self._reason = Failure(ConnectionDone())
        self.disconnecting = True
        self._send_close_notify()
        self._close_below(bounded=True)

    def _broken(self, *, abort: bool = False) -> None:
        """Records that are not the peer's, an alert, a cut: nothing more can be read or written."""
        self.disconnecting = self._write_closed = True
        self._stop_producer()
        if abort:
            self._abort_below()
        else:
            self._close_below(bounded=True)

    def readConnectionLost(self) -> None:
        """The bytes below ended (from a transport that can half-close)."""
        if self._end_below:
            return
        self._end_below = True
        if self._state is State.HANDSHAKE:
            if self._context is None:
                self._shake()
            else:
                self._fail(Failure(_cut_short()))
        elif self._state is State.OPEN and not self._delivering:
            self._settle()

    def writeConnectionLost(self) -> None:
        """The half-close below is done."""
        if self._state is State.OPEN:
            half = IHalfCloseableProtocol(self.protocol, None)
            if half is not None:
                half.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The transport below is gone; the protocol above hears of it after what it is still owed."""
        if self._state is not State.OPEN:
            handshaking = self._state is State.HANDSHAKE
            failed = self._refuse()
            self._state = State.LOST
            if handshaking and failed is not None:
                failed(Failure(_cut_short()))
            return
        if self._lost_below is not None:
            return
        self._cancel_timer()
        self._lost_below = reason
        if self._paused and not self.disconnecting and self._owed():
            self._producer = None  # the transport below has stopped it
        elif not self._delivering:
            self._gone(reason)

    def _gone(self, below: Failure) -> None:
        reason = self._reason
        if reason is None and self._read_closed and IHalfCloseableProtocol(self.protocol, None) is None:
            # The clean end had come, and a protocol that knows no half-close was owed nothing else.
            reason = Failure(ConnectionDone())
        if reason is None:
            ended = self._read_closed or (self.disconnecting and self._write_closed)
            reason = _truncated() if below.check(ConnectionDone) and not ended else below
        self._state = State.LOST
        self.disconnecting = True
        self._producer = None
        self._held.clear()
        protocol = self.protocol
        if self._resumable is not None:
            self._keep_session()
        if not self._read_closed:
            # Nobody reads this close_notify.  But OpenSSL forgets a session when a connection of it goes without one,
            # and others are to resume it.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        del self._tls, self._incoming, self._outgoing, self.protocol
        protocol.connectionLost(reason)

    # The transport of the protocol above.

    def write(self, data: bytes) -> None:
        """Encrypt and hand down at once; dropped after the end, as by every transport."""
        if self._write_closed or self._state is not _OPEN or not data:
            return
        if self.disconnecting and self._producer is None:
            return
        try:
            if len(data) <= RECORD:
                self._tls.write(data)
                sealed = self._outgoing.read()
            else:
                sealed = self._seal(memoryview(data))
        except ssl.SSLError as error:
            if self._reason is None:
                self._reason = Failure(trouble(error))
            if not self._delivering and not self.disconnecting:
                self._broken()
            return
        self.transport.write(sealed)

    def _seal(self, data: memoryview) -> bytes:
        """Encrypt record by record, and join once; see :data:`FEED`."""
        pieces = []
        for at in range(0, len(data), RECORD):
            self._tls.write(data[at : at + RECORD])
            pieces.append(self._outgoing.read())
        return b"".join(pieces)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """One write of all the pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Send close_notify and close below after what was written.

        As with Twisted's transports a registered producer may finish first: the close waits until it is
        unregistered.  Nothing is delivered any more.
        """
        if self.disconnecting or self._state is not State.OPEN:
            if self._state is State.HANDSHAKE:
                self._fail(Failure(ConnectionTrouble("the connection was given up during the TLS handshake")))
            return
        self.disconnecting = True
        if self._lost_below is not None:
            # Gone already, only held bytes were still owed.  Not from here: callers do not expect it.
            self._clock.callLater(0, self._give_up)
        elif self._producer is None:
            self._finish()

    def _give_up(self) -> None:
        if self._state is State.OPEN and self._lost_below is not None:
            self._gone(self._lost_below)

    def _finish(self) -> None:
        self._send_close_notify()
        self._close_below()

    def loseWriteConnection(self) -> None:
        """Send close_notify and half-close below; reading goes on.  Waits for a registered producer."""
        if self._state is not State.OPEN or self._write_closed or self.disconnecting:
            return
        if self._producer is not None:
            self._half_closing = True
            return
        self._send_close_notify()
        lose = getattr(self.transport, "loseWriteConnection", None)
        if self._read_closed:
            self.disconnecting = True
            self._close_below(bounded=True)
        elif lose is not None:
            lose()

    def cutConnection(self) -> None:
        """Close below after what was written, and send no close_notify.

        So ends a process that was killed; who passes on such an end must not make a clean one of it.
        """
        if self.disconnecting or self._state is not State.OPEN:
            self.loseConnection()
            return
        self.disconnecting = self._write_closed = True
        if self._lost_below is not None:
            self._clock.callLater(0, self._give_up)
            return
        if self._producer is not None:
            self._producer = None
            self.transport.unregisterProducer()
        self._flush()
        self._close_below()

    def abortConnection(self) -> None:
        """Drop the connection below at once, and whatever waits."""
        if self._state is State.LOST:
            return
        self.disconnecting = self._write_closed = True
        if self._lost_below is not None:
            self._clock.callLater(0, self._give_up)
            return
        self._abort_below()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """The transport below paces it: every write here is one write there."""
        if self._producer is not None:
            raise RuntimeError(f"cannot register {producer!r}: {self._producer!r} was never unregistered")
        if self._state is not State.OPEN or self._write_closed or self._lost_below is not None:
            producer.stopProducing()
            return
        self._producer = producer
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """The producer is done; a close that waited for it goes on."""
        if self._producer is None:
            return
        self._producer = None
        if self._lost_below is None:
            self.transport.unregisterProducer()
        if self._state is State.OPEN and self._lost_below is None and not self._write_closed:
            if self.disconnecting:
                self._finish()
            elif self._half_closing:
                self.loseWriteConnection()

    def pauseProducing(self) -> None:
        """Deliver nothing until :meth:`resumeProducing`; reading below stops too."""
        self._paused = True
        if self._state is State.OPEN and not self._delivering and self._lost_below is None:
            self._sync_pause()

    def resumeProducing(self) -> None:
        """Deliver what was held, then let the transport below read again."""
        self._paused = False
        if self._state is State.OPEN and not self._delivering:
            self._deliver()

    def stopProducing(self) -> None:
        """As :meth:`loseConnection`."""
        self.loseConnection()

    def getPeer(self) -> Any:
        """The peer of the transport below."""
        return self.transport.getPeer()

    def getHost(self) -> Any:
        """This side's address of the transport below."""
        return self.transport.getHost()

    def getPeerCertificate(self) -> Any:
        """The peer's certificate as pyOpenSSL's ``X509``, or None."""
        if self.peer_certificate is None:
            return None
        from OpenSSL.crypto import FILETYPE_ASN1, load_certificate

        return load_certificate(FILETYPE_ASN1, self.peer_certificate)

    def getTcpNoDelay(self) -> bool:
        """As the transport below; one that is no TCP delays nothing."""
        return bool(self._below("getTcpNoDelay", True))

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Passed on to a transport below that knows it."""
        self._below("setTcpNoDelay", None, enabled)

    def getTcpKeepAlive(self) -> bool:
        """As the transport below; False for one that is no TCP."""
        return bool(self._below("getTcpKeepAlive", False))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Passed on to a transport below that knows it."""
        self._below("setTcpKeepAlive", None, enabled)

    def _below(self, name: str, default: Any, *args: Any) -> Any:
        method = getattr(self.transport, name, None)
        return default if method is None else method(*args)

    # Downwards.

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())

    def _send_close_notify(self) -> None:
        if self._write_closed:
            return
        # OpenSSL looks for the peer's close_notify in the same call, and data before it breaks the
        # connection for good: so what has arrived is decrypted first.
        held, self._held = self._held, []
        while not self._read_closed and self._reason is None and (self._incoming.pending or self._backlog):
            data = self._decrypt()
            if not data:
                break
            held.append(data)
        self._held = held
        self._write_closed = True
        # WantRead: the peer's has not come yet.  Anything else: there is nobody to tell.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def _close_below(self, *, bounded: bool = False) -> None:
        """Close below after what was written; ``bounded``: abort if that takes longer than the timeout."""
        if bounded and self._timer is None:
            self._timer = self._clock.callLater(self._timeout, self._timed_out)
        self.transport.loseConnection()

    def _abort_below(self) -> None:
        abort = getattr(self.transport, "abortConnection", None) or self.transport.loseConnection
        abort()

    def _stop_producer(self) -> None:
        """The producer above has nobody to write to any more."""
        producer, self._producer = self._producer, None
        if producer is not None:
            self.transport.unregisterProducer()
            producer.stopProducing()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def _truncated() -> Failure:
    return Failure(ConnectionLost("the connection ended without TLS close_notify"))


def _cut_short() -> ConnectionTrouble:
    return ConnectionTrouble("the connection was closed during the TLS handshake")
