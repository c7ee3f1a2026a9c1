"""What all sessions of an agent share: whom it serves, which databases, and what a session works with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import attrs
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from teleport_db.audit.commits import Told
from teleport_db.certs.tls import peer_identity
from teleport_db.config.model import AuditSettings, Database
from teleport_db.db.policy import Policy
from teleport_db.db.record import Append
from teleport_db.errors import AuthenticationFailed, NoSuchDatabase
from teleport_db.identity import Identity
from teleport_db.interfaces import ICredentialSource


@attrs.frozen
class Served:
    """A database service as this agent serves it.

    :param labels: gives the static and the present dynamic labels.
    """

    database: Database
    labels: Callable[[], Mapping[str, str]]


@attrs.frozen
class Surroundings:
    """What all sessions of an agent share.

    :param dial: the plain endpoint of a database's address.
    :param user_ca: gives the user CA's certificate, PEM.
    :param policy_age: how old what is known of the cluster is, in seconds, None while auth is there.
    :param admit: AgentOffline when nobody new may be let in by what is known.
    :param synced: calls its argument when all that was appended is on the disk.
    :param monotonic: seconds of a clock that nobody sets.
    :param sessions_of: how many sessions of a user there are at this agent, those being opened included.
    """

    cluster: str
    server_id: str
    served: Mapping[str, Served]
    policy: Policy
    append: Append
    credentials: ICredentialSource
    dial: Callable[[Database], IStreamClientEndpoint]
    user_ca: Callable[[], bytes]
    clock: IReactorTime
    new_uid: Callable[[], str]
    sessions_of: Callable[[str], int]
    append_one: Callable[[bytes], None] | None = None
    policy_age: Callable[[], float | None] = lambda: None
    admit: Callable[[], None] = lambda: None
    audit: AuditSettings = attrs.field(factory=AuditSettings)
    synced: Callable[[Told], None] = lambda told: told(None)
    monotonic: Callable[[], float] = time.monotonic

    def identify(self, certificate: bytes) -> Identity:
        """Whose session it is, by the client's certificate (DER) alone.

        :raises AuthenticationFailed: it is not of this cluster's user CA, has expired, or leads to no database.
        """
        identity = peer_identity(certificate, user_ca=self.user_ca(), host_ca=None, now=self.clock.seconds())
        route = identity.route
        if identity.usage != "database" or route is None or {route.cluster, identity.cluster} != {self.cluster}:
            raise AuthenticationFailed(
                "this certificate names no database service of this cluster; run: tsh db login NAME"
            )
        return identity

    def find(self, identity: Identity) -> Served:
        """Where the certificate leads, only there; NoSuchDatabase when that is not served here."""
        assert identity.route is not None
        served = self.served.get(identity.route.service)
        if served is None:
            raise NoSuchDatabase(f'this agent does not serve database service "{identity.route.service}"')
        return served
