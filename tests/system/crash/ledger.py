"""What clients have sent, and what they saw of it.

::

    t12x    a word in the text of a statement, p13x one in its parameters: one execution has it, and no other
"""

from __future__ import annotations

from itertools import count

import attrs

#: What came of a statement that ran to its end.
OK = "ok"


@attrs.define
class Statement:
    """One execution.

    :param word: by which it is found in the logs.
    :param seen: what its client saw of it; "" for nothing.
    """

    word: str
    kind: str
    client: str
    seen: str = ""


class Ledger:
    """What all clients have written down."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.statements: dict[str, Statement] = {}
        #: Sessions that clients were let into, and clients that waited for an answer in vain.
        self.sessions = 0
        self.hung: list[str] = []
        #: What clients were told at the end of a session, or instead of one: SQLSTATE -> how often.
        self.refusals: dict[str, int] = {}

    def number(self) -> int:
        """A new one."""
        return next(self._numbers)

    def begin(self, kind: str, client: str, *, parameter: bool = False) -> Statement:
        """A statement is about to be sent."""
        statement = Statement(f"{'p' if parameter else 't'}{self.number()}x", kind, client)
        self.statements[statement.word] = statement
        return statement

    @property
    def complete(self) -> int:
        """How many were seen complete."""
        return sum(1 for statement in list(self.statements.values()) if statement.seen)
