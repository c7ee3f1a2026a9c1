"""IAM tokens: the passwords of RDS and Aurora.

::

    database, user ──▶ region, role         of the configuration, or of the endpoint's name
                       CA                   ca_cert_file, else the region's bundle (awsbundle)
                       token                SigV4, for exactly the host, port and user that are dialled; 15 minutes
    TLS verified in full ──▶ the server asks for a password ──▶ only then the token is sent

A token that the server refuses is not shown again: permissions may just have been given, or credentials renewed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, TimeoutError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from teleport_db.amazon import Kind, parse_endpoint
from teleport_db.config.model import Amazon, Database
from teleport_db.db.aws import Sessions, Source, Token, explain
from teleport_db.db.awsbundle import Bundles
from teleport_db.db.credentials import Contexts, own_ca
from teleport_db.db.kept import Answer, Answers
from teleport_db.errors import AuthenticationFailed, DatabaseUnreachable, TeleportDBError
from teleport_db.interfaces import Credentials, ICredentialSource

#: Seconds that a token is used again, of the 900 that it is good for.
KEEP_SECONDS = 600.0
#: Seconds that AWS has for what a token needs: a role, or credentials of a container or an instance.
AWS_SECONDS = 20.0

#: Whose certificates are for all names beside the host's own.  Source: "Using TLS/SSL with RDS Proxy" of the RDS user
#: guide; custom endpoints come and go without a new certificate of the instances.
WILDCARDS = (Kind.CUSTOM, Kind.PROXY)


@implementer(ICredentialSource)
class AmazonCredentials:
    """IAM tokens for RDS and Aurora, from the default chain of AWS credentials.

    :param in_thread: runs a function off the reactor's thread, as ``deferToThread``.
    :param read_file: reads ``ca_cert_file``.
    """

    def __init__(
        self,
        *,
        in_thread: Callable[..., Deferred[Any]],
        read_file: Callable[[str], bytes],
        bundles: Bundles,
        clock: IReactorTime,
        sessions: Sessions | None = None,
    ) -> None:
        self._in_thread = in_thread
        self._read_file = read_file
        self._bundles = bundles
        self._clock = clock
        self._sessions = sessions or Sessions(now=clock.seconds)
        self._contexts = Contexts()
        self._kept: Answers[str] = Answers(clock=clock)
        #: boto3's sessions want one thread at a time, and an AWS that hangs is to hang one of ours only.
        self._locks: dict[Source, DeferredLock] = {}

    def credentials_for(self, database: Database, user: str) -> Deferred[Credentials]:
        """Fails with DatabaseUnreachable, whose words say what the agent's operator can do."""
        return Deferred.fromCoroutine(self._credentials(database, user))

    async def _credentials(self, database: Database, user: str) -> Credentials:
        amazon = database.amazon
        assert amazon is not None
        endpoint = parse_endpoint(database.uri.host)
        kind = Kind.INSTANCE if endpoint is None else endpoint.kind
        pem: bytes | None = own_ca(database, self._read_file)
        trust = "its certificate is verified with the CA file of this database service"
        if not pem and kind is Kind.PROXY:
            pem, trust = None, "RDS Proxy has public certificates: this agent's machine has to trust Amazon's roots"
        elif not pem:
            pem = await self._bundles.pem(amazon.region)
            trust = f"its certificate is verified with Amazon's bundle for {amazon.region}: check aws.region and uri"
        context = self._contexts.of(database.name, pem)
        source = Source.of(amazon)
        key = (source, database.uri, user)
        token = await self._kept.get(key, lambda: self._token(database, user, source))

        def advise(error: TeleportDBError) -> str:
            said = advice(error, amazon, user)
            if said:  # it was about the token, and not about a database that is not there
                self._kept.forget(key)
                self._sessions.forget(source)
            return said

        role = f" of {source.assume_role_arn}" if source.assume_role_arn else ""
        return Credentials(
            context,
            token.encode(),
            methods=("password",),
            name=f"an IAM token for {amazon.region}{role}",
            wildcard=kind in WILDCARDS,
            trust=trust,
            advise=advise,
        )

    async def _token(self, database: Database, user: str, source: Source) -> Answer[str]:
        uri = database.uri
        lock = self._locks.setdefault(source, DeferredLock())
        try:
            made: Token = await lock.run(
                self._in_thread, self._sessions.token, source, uri.host, uri.port, user
            ).addTimeout(AWS_SECONDS, self._clock)
        except TimeoutError as error:
            reason = f"AWS did not answer within {AWS_SECONDS:.0f} seconds: check this agent's network"
            raise no_token(database, reason) from error
        except TeleportDBError:
            raise
        except Exception as error:
            self._sessions.forget(source)
            raise no_token(database, explain(error, source), detail=str(error)) from error
        now = self._clock.seconds()
        return Answer(made.text, now + KEEP_SECONDS if made.lasting else now)


def no_token(database: Database, reason: str, *, detail: str = "") -> DatabaseUnreachable:
    """Why there is no token."""
    return DatabaseUnreachable(f'no IAM token for database service "{database.name}": {reason}', detail=detail)


def advice(error: TeleportDBError, amazon: Amazon, user: str) -> str:
    """What to do about a login that Amazon's database refused; "" when its own words are enough."""
    words = str(error).lower()
    grant = f'GRANT rds_iam TO "{user}", and the IAM authentication of the instance or cluster'
    if "pam authentication failed" in words:
        # The server's one sentence for whatever is wrong with a token.
        resource = amazon.resource_id or amazon.cluster_id or amazon.instance_id or "this database"
        return (
            f'Amazon does not take the IAM token of "{user}": this agent\'s AWS identity needs rds-db:connect on '
            f"{resource} in {amazon.region} for that user, and its clock has to be right; "
            "at the agent, teleport db configure aws check says which step is missing"
        )
    if isinstance(error, AuthenticationFailed) and "asks for" in words:
        return f"a server of Amazon's that asks for this takes no IAM token of that user; check {grant}"
    if "password authentication failed" in words:
        return f"a server of Amazon's that says so took the IAM token for a password; check {grant}"
    return ""
