"""The agent's byte path, once a session's login is done.

::

    frontend bytes -> scanner -> audit record written -> database      (nothing goes on unrecorded)
    backend bytes  ---------------------------------> client           (opaque)

No Deferred, no log line and no object a message but the audited ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from teleport_db.errors import TeleportDBError
from teleport_db.pgwire.frontend import FrontendScanner, Statement


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
