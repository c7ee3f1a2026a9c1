"""The agent's byte path, once a session's login is done.

::

    frontend bytes -> scanner -> audit record written -> database      (nothing goes on unrecorded)
    backend bytes  ---------------------------------> client           (opaque but for the end of each chunk)

No Deferred, no log line and no object a message but the audited ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from teleport_db.errors import TeleportDBError
from teleport_db.pgwire.frontend import FrontendScanner, FunctionCall, Query, Statement, StatementPart, Sync
from teleport_db.pgwire.messages import HEADER, HEADER_SIZE, ready_for_query

#: ReadyForQuery but for its last byte, the state of the transaction.
READY = ready_for_query()[:-1]


class FrontendRelay:
    """What the client sends, from the first message after its login.

    :param record: writes statements into the spool, or raises AuditUnavailable.
    :param forward: the database's ``transport.write``.
    :param failed: told of the error that ends the session.
    """

    def __init__(
        self,
        *,
        record: Callable[[Sequence[Statement]], None],
        forward: Callable[[bytes], Any],
        failed: Callable[[TeleportDBError], None],
    ) -> None:
        self._scanner = FrontendScanner()
        self._scan = self._scanner.feed
        #: Chunks so far: another number than before means that the client was heard of.
        self.heard = 0
        self._rounds = 0
        self._record = record
        self._forward = forward
        self._failed = failed

    def receive(self, data: bytes) -> None:
        """Some bytes of the client."""
        self.heard += 1
        try:
            forward, found = self._scan(data)
            for message in found:
                whole = not isinstance(message, StatementPart) or message.last
                self._rounds += whole and isinstance(message, Query | FunctionCall | Sync | StatementPart)
            statements = [message for message in found if isinstance(message, Statement)]
            if statements:
                self._record(statements)
        except TeleportDBError as error:
            self._failed(error)
            return
        if forward:
            self._forward(forward)

    @property
    def rounds(self) -> int:
        """How many ReadyForQuery the database owes for all that was received."""
        return self._rounds


class BackendRelay:
    """What the database sends, from its ReadyForQuery on.

    :param rounds: gives how many ReadyForQuery the client is owed by now.

    It is passed on as it comes.  That the last chunk ended with ReadyForQuery is noted, no more: so a word
    of our own is put between two messages and never into a row.
    """

    def __init__(self, forward: Callable[[bytes], Any], rounds: Callable[[], int] = lambda: 0) -> None:
        self._forward = forward
        self._rounds = rounds
        self._answered = 0
        self._ready = True
        self._chunk = b""
        self._whole = False

    def receive(self, data: bytes) -> None:
        """Some bytes of the database."""
        before = self._ready
        self._ready = ready = data[-6:-1] == READY
        if self._rounds() - self._answered > 1:
            # A pipeline.  A row that looks like a ReadyForQuery only lets the idle clock run a little early.
            self._answered += data.count(READY)
        elif ready:
            self._answered = self._rounds()
        if ready:
            self._chunk = b""
        else:
            self._chunk, self._whole = data, before
        self._forward(data)

    @property
    def idle(self) -> bool:
        """Whether the database has answered all that it was asked."""
        return self._ready and self._answered >= self._rounds()

    @property
    def between_messages(self) -> bool:
        """Whether what was passed on ended with a whole message; False when that is not known."""
        if self._ready:
            return True
        if not self._whole:
            return False
        chunk, position = self._chunk, 0
        while position + HEADER_SIZE <= len(chunk):
            position += 1 + int(HEADER.unpack_from(chunk, position)[1])
        return position == len(chunk)
