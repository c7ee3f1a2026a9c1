"""What the names of prepared statements and portals mean to the server, now and to what was just sent.

A name means what was *confirmed* (ParseComplete, BindComplete).  What was sent and is not answered yet is
*pending*: within its batch it counts, since the server skips the rest of the batch if it fails; beyond, who
needs the name has to wait.
"""

from __future__ import annotations

from typing import Any, Final

from teleport_db.pgwire.prepared import BIND, CLOSE, NAME_SIZE, PARSE, Portal, Prepared
from teleport_db.pgwire.statements import Bind, Parse

#: Bytes of texts and parameters that a session keeps.
MAX_HELD: Final = 4 << 20
#: Names of statements, and of portals, that a session keeps.
MAX_NAMES: Final = 4000


class MustWait(Exception):
    """What the name means depends on an answer that has not come.  Never leaves the package."""


class Owed:
    """What the server owes an answer to, other than an execution.

    :ivar what: a statement or a portal as it will be when the server has agreed; None when it is gone then.
    :ivar names: the names it is about.
    """

    __slots__ = ("batch", "cost", "kind", "name", "names", "what")

    def __init__(self, kind: int, batch: int, *, cost: int = 0) -> None:
        self.kind = kind
        self.batch = batch
        self.cost = cost
        self.name = b""
        self.what: Any = None
        self.names: _Names | None = None


class _Names:
    """The names of one kind, and their share of what is kept."""

    __slots__ = ("confirmed", "held", "pending")

    def __init__(self) -> None:
        self.confirmed: dict[bytes, Any] = {}
        self.pending: dict[bytes, Owed] = {}
        self.held = 0

    def find(self, name: bytes, batch: int) -> Any:
        """What the name will mean, None when that is not known; MustWait."""
        if name in self.pending:
            owed = self.pending[name]
            if owed.batch != batch:
                raise MustWait
            return owed.what
        return self.confirmed.get(name)

    def send(self, kind: int, batch: int, name: bytes, what: Any, cost: int) -> Owed:
        """The name is to mean something else."""
        owed = Owed(kind, batch, cost=cost)
        owed.name, owed.what, owed.names = name, what, self
        self.held += cost
        self.pending[name] = owed
        return owed

    def settle(self, owed: Owed) -> None:
        """It was answered, or never will be."""
        self.held -= owed.cost
        if self.pending.get(owed.name) is owed:
            del self.pending[owed.name]

    def confirm(self, owed: Owed) -> None:
        """The server has agreed."""
        self.settle(owed)
        self.replace(owed.name, owed.what)

    def replace(self, name: bytes, what: Any) -> None:
        """The name means something else, nothing if that is None."""
        self.drop(name)
        if what is not None and len(self.confirmed) < MAX_NAMES:
            self.confirmed[name] = what
            self.held += what.cost

    def drop(self, name: bytes) -> None:
        """The name means nothing any more."""
        gone = self.confirmed.pop(name, None)
        if gone is not None:
            self.held -= gone.cost


class Names:
    """The names of one session.

    Those whose text or parameters would be too much are kept without: :meth:`parse` and :meth:`bind` say so.

    :ivar batch: counts the Syncs that were sent.
    """

    __slots__ = ("batch", "portals", "statements")

    def __init__(self) -> None:
        self.batch = 0
        self.statements = _Names()
        self.portals = _Names()

    @property
    def held(self) -> int:
        """Bytes that are kept; a portal counts its statement's text once more, since it may outlive that."""
        return self.statements.held + self.portals.held

    def statement(self, name: bytes) -> Prepared | None:
        """The statement of a Bind; MustWait."""
        found: Prepared | None = self.statements.find(name[:NAME_SIZE], self.batch)
        return found

    def portal(self, name: bytes) -> Portal | None:
        """The portal of an Execute; MustWait."""
        found: Portal | None = self.portals.find(name[:NAME_SIZE], self.batch)
        return found

    def described(self, name: bytes) -> Prepared | None:
        """The statement of a Describe."""
        pending = self.statements.pending.get(name[:NAME_SIZE])
        found: Prepared | None = self.statements.confirmed.get(name[:NAME_SIZE]) if pending is None else pending.what
        return found

    def has_room(self, names: _Names, cost: int) -> bool:
        """Whether one more of this size can be kept."""
        kept = self.statements.held + self.portals.held + cost
        return kept <= MAX_HELD and len(names.confirmed) + len(names.pending) < MAX_NAMES

    def parse(self, message: Parse, since: int) -> tuple[Prepared, bool]:
        """The statement that a Parse asks for, and whether its text can be kept."""
        prepared = Prepared(message.sql, message.parameter_types, since)
        return prepared, self.has_room(self.statements, prepared.cost)

    def bind(self, message: Bind, since: int) -> tuple[Portal, bool]:
        """The portal that a Bind asks for, and whether its parameters can be kept; MustWait."""
        prepared = self.statement(message.statement)
        cost = 0 if prepared is None else prepared.cost
        if message.parameters:
            cost += sum([len(value) for value in message.parameters if value])
        portal = Portal(prepared, message.statement[:NAME_SIZE], message, since)
        portal.cost = cost
        return portal, self.has_room(self.portals, cost)

    def prepare(self, name: bytes, prepared: Prepared) -> Owed:
        """A Parse goes on."""
        return self.statements.send(PARSE, self.batch, name[:NAME_SIZE], prepared, prepared.cost)

    def portal_from(self, name: bytes, portal: Portal) -> Owed:
        """A Bind goes on."""
        return self.portals.send(BIND, self.batch, name[:NAME_SIZE], portal, portal.cost)

    def close(self, kind: bytes, name: bytes) -> Owed:
        """A Close goes on."""
        names = self.portals if kind == b"P" else self.statements
        return names.send(CLOSE, self.batch, name[:NAME_SIZE], None, 0)

    def deallocate(self, name: bytes) -> None:
        """SQL has dropped a statement; an empty name is all that have one."""
        for gone in [name[:NAME_SIZE]] if name else [known for known in self.statements.confirmed if known]:
            self.statements.drop(gone)

    def end_transaction(self) -> None:
        """Portals end with their transaction."""
        if self.portals.confirmed:
            for name in list(self.portals.confirmed):
                self.portals.drop(name)
