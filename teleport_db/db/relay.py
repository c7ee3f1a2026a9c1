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
from teleport_db.pgwire.frontend import FrontendScanner, Statement
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
        self._scan = FrontendScanner().feed
        self._record = record
        self._forward = forward
        self._failed = failed

    def receive(self, data: bytes) -> None:
        """Some bytes of the client."""
        try:
            forward, statements = self._scan(data)
            if statements:
                self._record(statements)
        except TeleportDBError as error:
            self._failed(error)
            return
        if forward:
            self._forward(forward)


class BackendRelay:
    """What the database sends, from its ReadyForQuery on.

    It is passed on as it comes.  That the last chunk ended with ReadyForQuery is noted, no more: so a word
    of our own is put between two messages and never into a row.
    """

    def __init__(self, forward: Callable[[bytes], Any]) -> None:
        self._forward = forward
        self._ready = True
        self._chunk = b""
        self._whole = False

    def receive(self, data: bytes) -> None:
        """Some bytes of the database."""
        before = self._ready
        self._ready = ready = data[-6:-1] == READY
        if ready:
            self._chunk = b""
        else:
            self._chunk, self._whole = data, before
        self._forward(data)

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
