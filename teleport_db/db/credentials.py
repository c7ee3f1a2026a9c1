"""What the agent shows to databases.

Self-hosted: a client certificate with CN = database user, signed by the cluster's db_client CA, asked of
auth once in its life.  Amazon: an IAM token, :mod:`teleport_db.db.awstokens`.  Servers that want passwords:
:mod:`teleport_db.db.passwords`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from teleport_db.api.client import Call
from teleport_db.certs.keys import new_key, private_pem, public_pem
from teleport_db.certs.tls import KeyPair, client_context
from teleport_db.config.model import Database
from teleport_db.db.kept import Answer, Answers
from teleport_db.errors import ConfigError, ConnectionTrouble, DatabaseUnreachable
from teleport_db.interfaces import Credentials, ICredentialSource

#: A certificate with less than this share of its life left is replaced before it is used again.
RENEW_SHARE = 0.2


class Contexts:
    """TLS contexts by database service, made again when the authorities' certificates have changed."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[bytes | None, ssl.SSLContext]] = {}

    def of(self, name: str, pem: bytes | None) -> ssl.SSLContext:
        """The context of a database service.

        :param pem: its authorities; None for those that the system trusts.
        :raises DatabaseUnreachable: when there is no certificate in it.
        """
        made_of, context = self._made.get(name, (b"", None))
        if context is None or made_of != pem:
            try:
                context = client_context(cas=None if pem is None else [pem])
            except ConfigError as error:
                raise DatabaseUnreachable(
                    f'the CA file of database service "{name}" cannot be used at its agent', detail=str(error)
                ) from error
            self._made[name] = pem, context
        return context


@implementer(ICredentialSource)
class CertificateCredentials:
    """Client certificates, one a database service and user, kept until they grow old.

    :param call: the API client's ``call``.
    :param read_file: reads ``ca_cert_file``.
    """

    def __init__(self, call: Call, *, clock: IReactorTime, read_file: Callable[[str], bytes]) -> None:
        self._call = call
        self._clock = clock
        self._read_file = read_file
        self.kept: Answers[Credentials] = Answers(clock=clock)

    def credentials_for(self, database: Database, user: str) -> Deferred[Credentials]:
        """Sessions that want the same at once share one call; it is cancelled when none of them waits any more."""
        # A name may lead elsewhere later, or be verified with another authority.
        where = database.name, database.uri, database.ca_cert_file, database.ca_cert
        return self.kept.get((where, user), lambda: self._fetch(database, user))

    async def _fetch(self, database: Database, user: str) -> Answer[Credentials]:
        key = new_key()
        now = self._clock.seconds()
        body = {"service": database.name, "user": user, "public_key": public_pem(key.public_key()).decode()}
        try:
            answer = await self._call("POST", "/v1/certificates/database-client", body)
        except ConnectionTrouble as error:
            raise ConnectionTrouble(
                f'the auth service cannot be reached, which has to sign a certificate of database user "{user}" for the'
                " agent; try again in a moment",
                detail=str(error),
            ) from error
        ca = own_ca(database, self._read_file) or answer["db_ca"].encode()
        pair = KeyPair(answer["certificate"].encode(), private_pem(key))
        expires = datetime.fromisoformat(answer["expires"]).timestamp()
        credentials = Credentials(client_context(cas=[ca], pair=pair), name=f'a certificate of "{user}"')
        return Answer(credentials, expires - RENEW_SHARE * (expires - now))


def own_ca(database: Database, read_file: Callable[[str], bytes]) -> bytes:
    """The PEM of a database's own authority, empty where it has none; DatabaseUnreachable as :func:`read_ca`."""
    return read_ca(database.ca_cert_file, read_file) if database.ca_cert_file else database.ca_cert.encode()


def read_ca(path: str, read_file: Callable[[str], bytes]) -> bytes:
    """The PEM of a CA of the database's owner; DatabaseUnreachable with words when it cannot be read."""
    try:
        return read_file(path)
    except OSError as error:
        raise DatabaseUnreachable(
            f"the CA file of the database cannot be read at the agent: {error.strerror}", detail=path
        ) from error


@implementer(ICredentialSource)
class ByKind:
    """Chooses the source by what the configuration says of a database."""

    def __init__(
        self, certificates: ICredentialSource, amazon: ICredentialSource, passwords: ICredentialSource
    ) -> None:
        self._certificates = certificates
        self._amazon = amazon
        self._passwords = passwords

    def credentials_for(self, database: Database, user: str) -> Deferred[Credentials]:
        source = self._certificates
        if database.credentials is not None:
            source = self._passwords
        elif database.amazon is not None:
            source = self._amazon
        answer: Deferred[Credentials] = source.credentials_for(database, user)
        return answer
