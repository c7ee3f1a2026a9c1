"""What the agent shows to databases.

Self-hosted: a client certificate with CN = database user, signed by the cluster's db_client CA, asked of
auth once in its life.  Amazon: an IAM token as the password, given only over verified TLS.  Servers that
want passwords: :mod:`teleport_db.db.passwords`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from teleport_db.api.client import Call
from teleport_db.certs.keys import new_key, private_pem, public_pem
from teleport_db.certs.tls import KeyPair, client_context
from teleport_db.config.model import Database
from teleport_db.errors import DatabaseUnreachable
from teleport_db.interfaces import Credentials, ICredentialSource

#: A certificate with less than this share of its life left is replaced before it is used again.
RENEW_SHARE = 0.2

#: Certificates kept at most; a role may allow any database user, and each has one of its own.
MAX_KEPT = 1000


@attrs.define
class _Kept:
    credentials: Credentials
    until: float


class _Asked:
    """A call under way, and who waits for it."""

    fetching: Deferred[Any] | None = None

    def __init__(self) -> None:
        self.waiting: list[Deferred[Credentials]] = []

    def join(self) -> Deferred[Credentials]:
        one: Deferred[Credentials] = Deferred(self._leave)
        self.waiting.append(one)
        return one

    def _leave(self, one: Deferred[Credentials]) -> None:
        if one in self.waiting:
            self.waiting.remove(one)
        if not self.waiting and self.fetching is not None:
            self.fetching.cancel()


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
        #: The longest unused first.
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._asked: dict[tuple[str, str], _Asked] = {}

    def credentials_for(self, database: Database, user: str) -> Deferred[Credentials]:
        """Sessions that want the same at once share one call; it is cancelled when none of them waits any more."""
        name = (database.name, user)
        kept = self._kept.pop(name, None)
        if kept is not None and self._clock.seconds() < kept.until:
            self._kept[name] = kept
            return succeed(kept.credentials)
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = _Asked()
            waiting = asked.join()
            asked.fetching = Deferred.fromCoroutine(self._fetch(database, user))
            asked.fetching.addBoth(self._fetched, name, asked)
            return waiting
        return asked.join()

    def _fetched(self, result: _Kept | Failure, name: tuple[str, str], asked: _Asked) -> None:
        if self._asked.get(name) is asked:
            del self._asked[name]
        if not isinstance(result, Failure):
            self._kept[name] = result
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        waiting, asked.waiting = asked.waiting, []
        for one in waiting:
            if isinstance(result, Failure):
                one.errback(result)
            else:
                one.callback(result.credentials)

    async def _fetch(self, database: Database, user: str) -> _Kept:
        key = new_key()
        now = self._clock.seconds()
        answer = await self._call(
            "POST",
            "/v1/certificates/database-client",
            {"service": database.name, "user": user, "public_key": public_pem(key.public_key()).decode()},
        )
        ca = read_ca(database.ca_cert_file, self._read_file) if database.ca_cert_file else answer["db_ca"].encode()
        pair = KeyPair(answer["certificate"].encode(), private_pem(key))
        expires = datetime.fromisoformat(answer["expires"]).timestamp()
        credentials = Credentials(client_context(cas=[ca], pair=pair), name=f'a certificate of "{user}"')
        return _Kept(credentials, expires - RENEW_SHARE * (expires - now))


def read_ca(path: str, read_file: Callable[[str], bytes]) -> bytes:
    """The PEM of a CA of the database's owner; DatabaseUnreachable with words when it cannot be read."""
    try:
        return read_file(path)
    except OSError as error:
        raise DatabaseUnreachable(
            f"the CA file of the database cannot be read at the agent: {error.strerror}", detail=path
        ) from error


@implementer(ICredentialSource)
class AmazonCredentials:
    """IAM tokens for RDS and Aurora, from the default chain of AWS credentials.

    :param in_thread: runs a function off the reactor's thread, as ``deferToThread``.
    """

    def __init__(self, *, in_thread: Callable[..., Deferred[Any]], read_file: Callable[[str], bytes]) -> None:
        self._in_thread = in_thread
        self._read_file = read_file
        self._clients: dict[str, Any] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}

    def credentials_for(self, database: Database, user: str) -> Deferred[Credentials]:
        return Deferred.fromCoroutine(self._credentials(database, user))

    async def _credentials(self, database: Database, user: str) -> Credentials:
        context = self._contexts.get(database.name)
        if context is None:
            cas = [read_ca(database.ca_cert_file, self._read_file)] if database.ca_cert_file else None
            context = self._contexts[database.name] = client_context(cas=cas)
        try:
            token = await self._in_thread(self._token, database, user)
        except Exception as error:
            raise DatabaseUnreachable(
                f'no IAM token could be made for database service "{database.name}": '
                "check the AWS credentials of its agent",
                detail=str(error),
            ) from error
        return Credentials(context, token.encode(), name=f"an IAM token of {database.aws.region}")

    def _token(self, database: Database, user: str) -> str:
        region = database.aws.region
        if region not in self._clients:
            import boto3  # takes a third of a second, and only databases of Amazon need it

            self._clients[region] = boto3.session.Session(region_name=region).client("rds")
        token: str = self._clients[region].generate_db_auth_token(
            DBHostname=database.uri.host, Port=database.uri.port, DBUsername=user, Region=region
        )
        return token


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
