"""The seams that others may implement.

Keys are text such as ``/role/access``; values are JSON objects; revisions are whole numbers that only
grow, one sequence for a whole backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from zope.interface import Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IStreamClientEndpoint

    from teleport_db.errors import TeleportDBError
    from teleport_db.identity import DatabaseRoute


@attrs.frozen
class Item:
    """One stored value.

    :param revision: of the write that made it.
    :param expires: seconds since the epoch, or None for ever.
    """

    key: str
    value: dict[str, Any]
    revision: int
    expires: float | None = None


@attrs.frozen
class Change:
    """One write that a watcher is told of.  ``item`` is None when the key went away."""

    key: str
    revision: int
    item: Item | None


@attrs.frozen
class Credentials:
    """What the agent shows to a database.

    :param context: the client's TLS context, with its certificate where certificates are the way in.
    :param password: answers a request for a password over verified TLS; None where there is none.
    :param methods: the requests that it answers, in the words of libpq's ``require_auth``: ``password``,
        ``md5``, ``scram-sha-256``; with ``none`` a server need not ask.
    :param name: what this is, for the agent's log: ``the password in /etc/...``.
    :param compute: does a calculation of up to half a second (SCRAM's) away from the reactor's thread;
        without it that is done on the spot.
    :param wildcard: the server's certificate may be one for ``*`` in the place of its name's first part.
    :param trust: how the server's certificate is verified, for people when it does not.
    :param advise: from a login's failure to what can be done about it, in a sentence; "" for nothing to add.
    """

    context: Any
    password: bytes | None = attrs.field(default=None, repr=False)
    methods: tuple[str, ...] = ("none", "password")
    name: str = ""
    compute: Callable[[Callable[[], bytes]], Deferred[bytes]] | None = attrs.field(default=None, repr=False, eq=False)
    wildcard: bool = False
    trust: str = "its certificate: tctl auth sign --format=db"
    advise: Callable[[TeleportDBError], str] | None = attrs.field(default=None, repr=False, eq=False)


class IBackend(Interface):
    """Keys with JSON values and revisions.  All methods answer with a Deferred.

    Expired items are never returned, whether they were swept or not.
    """

    def get(key: str) -> Deferred[Item]:
        """One item; fails with :class:`~teleport_db.errors.NotFound`."""

    def range(prefix: str) -> Deferred[list[Item]]:
        """All items whose key starts with ``prefix``, in the order of their keys."""

    def create(key: str, value: Mapping[str, Any], expires: float | None = None) -> Deferred[Item]:
        """Write a key that is not there; fails with :class:`~teleport_db.errors.AlreadyExists`."""

    def put(key: str, value: Mapping[str, Any], expires: float | None = None) -> Deferred[Item]:
        """Write a key, whatever was there."""

    def compare_and_swap(
        key: str, revision: int, value: Mapping[str, Any], expires: float | None = None
    ) -> Deferred[Item]:
        """Replace the item of exactly this revision.

        Fails with :class:`~teleport_db.errors.RevisionConflict`, or NotFound.
        """

    def delete(key: str, revision: int | None = None) -> Deferred[None]:
        """Remove a key (of exactly this revision when one is given); fails as above."""

    def watch(prefix: str, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call ``listener`` with each later change below ``prefix``, in order.

        Returns a function that ends the watch.
        """

    def revision() -> Deferred[int]:
        """The revision of the newest write."""


class IAuditLog(Interface):
    """Where events become durable."""

    def emit(events: Sequence[Mapping[str, Any]]) -> Deferred[None]:
        """Keep a batch; fires when it is durable, fails with AuditUnavailable."""


class ICredentialSource(Interface):
    """Knows how one kind of database is logged in to."""

    def credentials_for(database: Any, user: str) -> Deferred[Credentials]:
        """What to show to ``database`` (a ``config.Database``) as ``user``."""


class IRouter(Interface):
    """Finds the agents of a database service."""

    def endpoints_for(route: DatabaseRoute) -> list[IStreamClientEndpoint]:
        """Endpoints to try in this order.

        Raises NoSuchDatabase for a name nobody ever announced, AgentOffline when all who did are gone.
        """


class ITurns(Interface):
    """What a reactor may provide beside ``IReactorTime``: a cheap way to do something once a turn."""

    def at_turns_end(call: Callable[[], object]) -> None:
        """Call this once, when all events of the present turn were handed on; before anything is waited for.

        There is no way to take it back, and what it raises goes to the log.  What asks for it while turns end is
        called at the end of the next.
        """
