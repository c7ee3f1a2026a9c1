"""Everything that auth signs.

::

    user CA       tsh login (usage login), tsh db login (database, with a route), tctl auth sign (file)
    host CA       a server and a client certificate for each service of the cluster
    db CA         server certificates for PostgreSQL
    db_client CA  short client certificates with which an agent logs in to PostgreSQL; CN is the database user
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.auth.authorities import Authorities
from teleport_db.auth.times import rfc3339
from teleport_db.certs.authority import Authority
from teleport_db.certs.keys import load_public, new_key, pem, private_pem
from teleport_db.errors import BadRequest
from teleport_db.identity import Identity, agent_name, auth_name, proxy_name

HOUR, DAY = 3600.0, 86400.0
#: Seconds that a host's certificates live; a host renews them long before.
HOST_TTL = 30 * DAY
#: The local administrator's; made anew at each start of auth.
ADMIN_TTL = 365 * DAY
#: Default and most for ``tctl auth sign --format=db`` and ``--format=file``.
DATABASE_SERVER_TTL, MAX_DATABASE_SERVER_TTL = 90 * DAY, 3650 * DAY
FILE_TTL, MAX_FILE_TTL = 12 * HOUR, 365 * DAY
#: An agent asks for one a login to PostgreSQL, or keeps it this long.
DATABASE_CLIENT_TTL = HOUR
#: Certificates have whole seconds.
MIN_TTL = 1.0


@attrs.frozen
class Signed:
    """A certificate as PEM and the second it ends (since the epoch)."""

    certificate: str
    expires: float


@attrs.frozen
class AdminCredentials:
    """What ``tctl`` on the auth host shows; all PEM."""

    key_pem: bytes = attrs.field(repr=False)
    certificate_pem: bytes
    cas_pem: bytes


class Signing:
    """Signs with the authorities of one cluster."""

    def __init__(self, authorities: Authorities, cluster: str, *, clock: IReactorTime) -> None:
        self.authorities = authorities
        self.cluster = cluster
        self._clock = clock

    def _sign(self, authority: Authority, public_key: str, **options: Any) -> Signed:
        certificate = authority.issue(load_public(public_key.encode()), now=self._clock.seconds(), **options)
        return Signed(pem(certificate).decode(), certificate.not_valid_after_utc.timestamp())

    def user(self, identity: Identity, public_key: str, ttl: float) -> Signed:
        """A certificate of the user CA for ``ttl`` seconds."""
        return self._sign(
            self.authorities.user,
            public_key,
            common_name=identity.name,
            ttl=ttl,
            server=False,
            identity=identity,
        )

    def host(
        self,
        host_id: str,
        roles: Sequence[str],
        public_key: str,
        *,
        names: Sequence[str] = (),
        scope: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Both certificates of a host, and all that it must trust: the answer to a join.

        :param names: further DNS names and addresses of the server's certificate.
        :param scope: the database services it may serve; None for any.
        """
        own = {"auth": auth_name(self.cluster), "proxy": proxy_name(self.cluster)}
        all_names = [agent_name(host_id, self.cluster), *(own[role] for role in roles if role in own), *names]
        identity = Identity(
            kind="host",
            name=host_id,
            cluster=self.cluster,
            roles=tuple(roles),
            scope=None if scope is None else tuple(scope),
        )
        host = self.authorities.host
        server = self._sign(
            host, public_key, common_name=host_id, ttl=HOST_TTL, server=True, names=tuple(dict.fromkeys(all_names))
        )
        client = self._sign(host, public_key, common_name=host_id, ttl=HOST_TTL, server=False, identity=identity)
        cas = self.authorities.certificates()
        return {
            "host_id": host_id,
            "cluster": self.cluster,
            "roles": list(roles),
            "server_certificate": server.certificate,
            "client_certificate": client.certificate,
            "host_ca": cas["host"],
            "user_ca": cas["user"],
            "db_ca": cas["db"],
            "scope": None if scope is None else list(scope),
            "expires": rfc3339(min(server.expires, client.expires)),
        }

    def admin(self) -> AdminCredentials:
        """A key and a certificate for the local administrator."""
        key = new_key()
        now = self._clock.seconds()
        certificate = self.authorities.host.issue(
            key.public_key(),
            common_name="admin",
            now=now,
            ttl=ADMIN_TTL,
            server=False,
            identity=Identity(kind="host", name="admin", cluster=self.cluster, roles=("admin",)),
        )
        return AdminCredentials(private_pem(key), pem(certificate), self.authorities.host.certificate_pem)

    def database_server(self, hosts: Sequence[str], public_key: str, ttl: float) -> Signed:
        """A certificate that a PostgreSQL server shows; every host is a SAN, the first is the CN."""
        if not hosts:
            raise BadRequest("name at least one host of the database server")
        return self._sign(
            self.authorities.db, public_key, common_name=hosts[0][:64], ttl=ttl, server=True, names=tuple(hosts)
        )

    def database_client(self, user: str, public_key: str) -> Signed:
        """A certificate that logs in to PostgreSQL as ``user`` (method ``cert`` of pg_hba.conf)."""
        return self._sign(
            self.authorities.db_client, public_key, common_name=user, ttl=DATABASE_CLIENT_TTL, server=False
        )


def bounded_ttl(asked: float, default: float, most: float) -> float:
    """Seconds between one and ``most``; 0 asks for the default.  BadRequest above ``most``."""
    ttl = asked or default
    if ttl > most:
        raise BadRequest(f"the life asked for is too long: at most {most / HOUR:g} hours")
    return max(ttl, MIN_TTL)
