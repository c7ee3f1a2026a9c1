"""AWS as the agent and the commands see it: whose credentials, for which region, and what its refusals mean.

::

    the default chain          environment, shared files, container, instance: boto3 finds them
      └ sts:AssumeRole         where assume_role_arn says so; taken again before it expires
          └ client(...)        of one region

Everything here blocks: call it in a thread, one at a time for each :class:`Source`.  boto3 is imported when the first
session is made: that takes a third of a second, and only databases of Amazon need it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs

from teleport_db.config.model import Amazon

#: Seconds that sessions are kept, so that credentials which somebody has changed are found without a restart.
SESSION_SECONDS = 900.0
#: A role is taken anew so many seconds before it ends.
ROLE_MARGIN = 300.0
#: Seconds that a token of RDS is good for; its maker cannot choose.
#: Source: "Connecting to your DB instance using IAM authentication".
TOKEN_SECONDS = 900
#: Seconds for a connection to AWS, and for its answer.
CONNECT_SECONDS, READ_SECONDS = 4, 8
#: How a role's session is called in AWS's own audit log.
SESSION_NAME = "teleport-db"

CLOCK = "the clock of this agent's machine is wrong: AWS takes at most some minutes of difference"


@attrs.frozen
class Source:
    """Whose credentials, and where: what a session is made for."""

    region: str
    assume_role_arn: str = ""
    external_id: str = attrs.field(default="", repr=False)

    @classmethod
    def of(cls, amazon: Amazon) -> Source:
        """The source of a database."""
        return cls(amazon.region, amazon.assume_role_arn, amazon.external_id)


@attrs.frozen
class Token:
    """A password for one login.

    :param lasting: the credentials that signed it live longer than it does.
    """

    text: str = attrs.field(repr=False)
    lasting: bool


@attrs.define
class Session:
    """A session of boto3's in one region; its clients are made once."""

    boto: Any
    region: str
    until: float
    clients: dict[str, Any] = attrs.field(factory=dict)

    def client(self, name: str) -> Any:
        """A client: ``rds``, ``sts``, ``iam``."""
        if name not in self.clients:
            from botocore.config import Config

            patience = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": 2, "mode": "standard"},
            )
            self.clients[name] = self.boto.client(name, region_name=self.region, config=patience)
        return self.clients[name]


class Sessions:
    """The sessions of a process.

    :param now: seconds since the epoch.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._sessions: dict[Source, Session] = {}

    def get(self, source: Source) -> Session:
        """The session of a source; what botocore raises when there are no credentials to take the role with."""
        session = self._sessions.get(source)
        if session is None or self._now() >= session.until:
            session = self._sessions[source] = self._make(source)
        return session

    def forget(self, source: Source) -> None:
        """Look for credentials anew the next time."""
        self._sessions.pop(source, None)

    def token(self, source: Source, host: str, port: int, user: str) -> Token:
        """A token for exactly this host, port and user."""
        session = self.get(source)
        text: str = session.client("rds").generate_db_auth_token(
            DBHostname=host, Port=port, DBUsername=user, Region=source.region
        )
        # Only credentials that end know when; keys of the environment or of a file are somebody's to renew.
        ending = getattr(session.boto.get_credentials(), "refresh_needed", None)
        lasting = ending is None or not ending(refresh_in=TOKEN_SECONDS)
        return Token(text, lasting and (not source.assume_role_arn or session.until - self._now() >= TOKEN_SECONDS))

    def _make(self, source: Source) -> Session:
        import boto3

        session = Session(
            boto3.session.Session(region_name=source.region), source.region, self._now() + SESSION_SECONDS
        )
        if not source.assume_role_arn:
            return session
        wanted = {"RoleArn": source.assume_role_arn, "RoleSessionName": SESSION_NAME}
        if source.external_id:
            wanted["ExternalId"] = source.external_id
        given = session.client("sts").assume_role(**wanted)["Credentials"]
        taken = boto3.session.Session(
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
            region_name=source.region,
        )
        return Session(taken, source.region, given["Expiration"].timestamp() - ROLE_MARGIN)


#: Codes of AWS's services, with what to do about them.
_CODES = {
    "ExpiredToken": "the AWS credentials of this agent have expired: renew them",
    "ExpiredTokenException": "the AWS credentials of this agent have expired: renew them",
    "RequestExpired": CLOCK,
    "RequestTimeTooSkewed": CLOCK,
    "InvalidClientTokenId": "AWS does not know the access key of this agent; renew it",
    "UnrecognizedClientException": "AWS does not know the access key of this agent in that region",
    "InvalidAccessKeyId": "AWS does not know the access key of this agent",
    "AuthFailure": "AWS does not know the access key of this agent",
    "SignatureDoesNotMatch": "the secret access key of this agent is not the one of its access key",
    "IncompleteSignature": "the secret access key of this agent is not the one of its access key",
    "OptInRequired": "this region is not enabled in the AWS account: enable it, or correct aws.region",
    "RegionDisabledException": "AWS STS is not enabled in this region: enable it in the account",
}
THROTTLED = (
    *("Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded", "TooManyRequestsException"),
    *("SlowDown", "RequestThrottledException", "PriorRequestNotComplete", "BandwidthLimitExceeded"),
)
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized")
_PERMISSIONS = {"AssumeRole": "sts", "GetCallerIdentity": "sts", "SimulatePrincipalPolicy": "iam"}
#: botocore's classes for which there is nobody to talk to.
_UNREACHABLE = (
    *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError"),
    *("ProxyConnectionError", "ConnectionError", "NewConnectionError"),
)


def code_of(error: Exception) -> str:
    """The code of a service's refusal, else the name of what went wrong."""
    response = getattr(error, "response", None)
    found = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return str(found) or type(error).__name__


def permission_of(error: Exception) -> str:
    """What was not allowed, as policies call it: ``rds:DescribeDBInstances``."""
    operation = str(getattr(error, "operation_name", "") or "a call")
    service = _PERMISSIONS.get(operation, "rds" if "DB" in operation else "iam")
    return f"{service}:{operation}"


def explain(error: Exception, source: Source, *, verbose: bool = False) -> str:
    """What went wrong at AWS and what to do, in one line; nothing of it is secret.

    What AWS itself says names accounts and identities: that is for the agent's own log.

    :param verbose: whoever reads this has these credentials, and may read AWS's words where there are none of ours.
    """
    code = code_of(error)
    role = source.assume_role_arn
    if code in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"):
        return (
            "there are no AWS credentials on this agent's machine: give it an instance or container role, a shared "
            "credentials file, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if code in DENIED and getattr(error, "operation_name", "") == "AssumeRole":
        return (
            f"AWS does not let this agent assume the role {role}: allow it sts:AssumeRole there, and name it "
            "(and external_id) in the role's trust policy"
        )
    if code in DENIED:
        return f"AWS does not allow {permission_of(error)} to this agent's identity: attach a policy that does"
    if code == "SignatureDoesNotMatch" and ("expired" in str(error) or "not yet current" in str(error)):
        return CLOCK
    if code in _CODES:
        return _CODES[code]
    if code in THROTTLED:
        return f"AWS takes no more calls of this account just now ({code}): it is to be tried again later"
    if code in ("SSLError", "ProxyConnectionError") or code in _UNREACHABLE:
        return (
            f"AWS could not be reached in {source.region} ({code}): check this agent's network, HTTPS_PROXY or VPC "
            "endpoints, and aws.region"
        )
    return f"AWS refused: {error}" if verbose else f"AWS refused ({code}); this agent's log has its words"
