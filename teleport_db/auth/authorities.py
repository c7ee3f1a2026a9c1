"""The four certificate authorities: made once, at the cluster's first start."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.certs.authority import Authority, AuthorityKind
from teleport_db.certs.keys import spki_pin
from teleport_db.errors import AlreadyExists, NotFound
from teleport_db.interfaces import IBackend, Item

#: In the order in which ``tctl status`` lists them.
KINDS: tuple[AuthorityKind, ...] = ("user", "host", "db", "db_client")
PREFIX = "/authority/"


@attrs.frozen
class Authorities:
    """The authorities of one cluster."""

    user: Authority
    host: Authority
    db: Authority
    db_client: Authority

    @property
    def ca_pin(self) -> str:
        """What an agent pins: the host CA's public key, ``sha256:`` and hexadecimal digits."""
        return spki_pin(self.host.certificate)

    def certificates(self) -> dict[str, str]:
        """Each kind's certificate as PEM."""
        return {kind: getattr(self, kind).certificate_pem.decode() for kind in KINDS}


async def load_or_create(backend: IBackend, cluster: str, *, clock: IReactorTime) -> Authorities:
    """The stored authorities; those that are missing are made.

    ``create`` decides between two servers that start at once: who comes second takes the first one's.
    """
    return Authorities(*[await _one(backend, cluster, kind, clock) for kind in KINDS])


async def _one(backend: IBackend, cluster: str, kind: AuthorityKind, clock: IReactorTime) -> Authority:
    key = PREFIX + kind
    try:
        item = await backend.get(key)
    except NotFound:
        made = Authority.create(kind, cluster, now=clock.seconds())
        value = {"certificate": made.certificate_pem.decode(), "key": made.key_pem.decode()}
        try:
            item = await backend.create(key, value)
        except AlreadyExists:
            item = await backend.get(key)
    return _loaded(kind, item)


def _loaded(kind: AuthorityKind, item: Item) -> Authority:
    return Authority.load(kind, item.value["certificate"].encode(), item.value["key"].encode())
