"""The guide's steps for one database of Amazon's, walked through: which is done, and which is missing.

::

    credentials ─▶ identity ─▶ clock ─▶ database ─▶ IAM authentication ─▶ policy ─▶ certificates ─▶ TLS ─▶ login

A step that needs one which is missing is skipped.  Everything blocks; nothing is changed but that the bundle of
Amazon's authorities is kept, as the agent would keep it.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import attrs

from teleport_db.amazon import Kind, parse_endpoint
from teleport_db.certs.tls import client_context, verify_name
from teleport_db.config.model import Amazon, Database
from teleport_db.db.aws import Session, Sessions, Source, explain
from teleport_db.db.awsbundle import BundleFiles
from teleport_db.db.awslookup import (
    Identity,
    Resource,
    allowed_to_connect,
    attached_policies,
    clock_ahead,
    find_resource,
    present_identity,
)
from teleport_db.db.awstokens import WILDCARDS, advice
from teleport_db.db.backend import DatabaseRefused
from teleport_db.db.credentials import own_ca
from teleport_db.errors import TeleportDBError, UsageError
from teleport_db.pgwire.login import BackendLogin, BackendTLS, Done, Refused, Secret, Send
from teleport_db.pgwire.messages import PROTOCOL_3_0, TERMINATE

OK, MISSING, SKIPPED = "ok", "MISSING", "skipped"
#: Seconds for the connection, and for each answer of the database.
PATIENCE = 10.0
#: Seconds that clocks may differ by.  Source: "Troubleshooting AWS Signature Version 4".
MAX_AHEAD = 300.0


@attrs.frozen
class Step:
    """One step.

    :param text: what was found, or what to do.
    """

    title: str
    state: str
    text: str


class _Missing(Exception):
    """The step is missing: what to do."""


class Check:
    """The steps of one database.

    :param user: the database user to log in as; "" tries none.
    :param files: where the bundles are.
    """

    def __init__(
        self,
        database: Database,
        amazon: Amazon,
        *,
        sessions: Sessions,
        files: BundleFiles,
        read_file: Callable[[str], bytes],
        user: str = "",
        db_name: str = "postgres",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._amazon = database, amazon
        self._sessions, self._files, self._read_file = sessions, files, read_file
        self._user, self._db_name, self._now = user, db_name, now
        endpoint = parse_endpoint(database.uri.host)
        self._kind = Kind.INSTANCE if endpoint is None else endpoint.kind
        self._session: Session | None = None
        self._identity: Identity | None = None
        self._resource: Resource | None = None
        self._pem: bytes | None = None
        self._trusted = self._reached = False

    def steps(self) -> Iterator[Step]:
        """Walk."""
        aws = self._session_there
        yield self._step("AWS credentials", self._credentials)
        yield self._step("identity", self._who, needs=aws)
        yield self._step("clock", self._clock, needs=aws)
        yield self._step("database", self._find, needs=aws)
        yield self._step("IAM authentication", self._enabled, needs=lambda: self._resource is not None)
        yield self._step("policy", self._policy, needs=lambda: bool(self._resource and self._identity))
        yield self._step("certificates", self._certificates)
        yield self._step("TLS", self._tls, needs=lambda: self._trusted)
        if not self._user:
            yield Step("login", SKIPPED, "give --db-user to have a login tried")
            return
        yield self._step("login", self._log_in, needs=lambda: self._session_there() and self._reached)

    def _session_there(self) -> bool:
        return self._session is not None

    def _step(self, title: str, walk: Callable[[], str], *, needs: Callable[[], bool] = lambda: True) -> Step:
        if not needs():
            return Step(title, SKIPPED, "it needs a step that is missing")
        try:
            return Step(title, OK, walk())
        except _Missing as missing:
            return Step(title, MISSING, str(missing))
        except TeleportDBError as error:
            return Step(title, MISSING, str(error))
        except (OSError, ValueError) as error:
            return Step(title, MISSING, str(error) or type(error).__name__)
        except Exception as error:  # botocore's, which have no common name without importing it
            return Step(title, MISSING, explain(error, Source.of(self._amazon), verbose=True))

    def _credentials(self) -> str:
        session = self._sessions.get(Source.of(self._amazon))
        credentials = session.boto.get_credentials()
        if credentials is None:
            raise _Missing(
                "there are none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, write a shared credentials file, or "
                "give this machine a role"
            )
        credentials.get_frozen_credentials()
        self._session = session
        role = self._amazon.assume_role_arn
        return f"those of the role {role}" if role else f"found ({credentials.method})"

    def _who(self) -> str:
        assert self._session is not None
        try:
            self._identity = present_identity(self._session)
        except UsageError:
            raise _Missing("it is neither a user nor a role: give the agent one of its own") from None
        return self._identity.arn

    def _clock(self) -> str:
        assert self._session is not None
        ahead = clock_ahead(self._session, self._now)
        if abs(ahead) > MAX_AHEAD:
            where = "ahead of" if ahead > 0 else "behind"
            raise _Missing(f"it is {abs(ahead):.0f} seconds {where} AWS's: set it, and keep it by NTP")
        return "it agrees with AWS's"

    def _find(self) -> str:
        assert self._session is not None
        self._resource = find_resource(self._session, self._database, self._amazon)
        return f"{self._resource.title}, {self._resource.resource_id}"

    def _enabled(self) -> str:
        assert self._resource is not None
        if self._resource.iam is None:
            return "not looked at: only the resource id is known"
        if not self._resource.iam:
            raise _Missing(
                f'switch on "Password and IAM database authentication" of {self._resource.title}, in RDS or '
                "with aws rds modify-db-... --enable-iam-database-authentication"
            )
        return "switched on"

    def _policy(self) -> str:
        assert self._session is not None and self._resource is not None and self._identity is not None
        arn = self._resource.arn(self._amazon.region, self._user or "*")
        try:
            allowed, how = allowed_to_connect(self._session, self._identity, arn), "by IAM's simulation"
        except Exception:  # whoever may not ask for a simulation may perhaps read
            documents = attached_policies(self._session, self._identity)
            allowed, how = (
                allows(documents, "rds-db:connect", arn),
                "by the policies attached; others were not looked at",
            )
        if not allowed:
            raise _Missing(
                f"{self._identity.kind} {self._identity.name} may not rds-db:connect to {arn}: "
                "teleport db configure bootstrap attaches what is needed"
            )
        return f"rds-db:connect on {arn} is allowed, {how}"

    def _certificates(self) -> str:
        own = own_ca(self._database, self._read_file)
        if own:
            self._pem, self._trusted = own, True
            return "the CA file of the database"
        if self._kind is Kind.PROXY:
            self._trusted = True
            return "RDS Proxy has public ones: this machine's roots are used"
        region = self._amazon.region
        found = self._files.read(region)
        self._pem = self._files.fetch(region) if found is None else found[0]
        self._trusted = True
        return f"{self._files.path(region)}{' was fetched' if found is None else ''}"

    def _connect(self) -> Any:
        uri = self._database.uri
        context = client_context(cas=None if self._pem is None else [self._pem])
        try:
            plain = socket.create_connection((uri.host, uri.port), timeout=PATIENCE)
        except OSError as error:
            raise _Missing(
                f"{uri} cannot be reached: {error.strerror or error}; check the security group and the network"
            ) from error
        try:
            asking = BackendTLS()
            plain.sendall(asking.start())
            while not asking.feed(_some(plain, 1)):
                pass
            secured = context.wrap_socket(plain, server_hostname=uri.host)
            verify_name(secured.getpeercert(binary_form=True) or b"", uri.host, wildcard=self._kind in WILDCARDS)
        except BaseException:
            plain.close()
            raise
        return secured

    def _tls(self) -> str:
        with self._connect() as secured:
            self._reached = True
            return f"{self._database.uri} is verified, {secured.version()}"

    def _log_in(self) -> str:
        uri, user = self._database.uri, self._user
        token = self._sessions.token(Source.of(self._amazon), uri.host, uri.port, user)
        words = ("user", user, "database", self._db_name)
        parameters = b"".join(word.encode() + b"\0" for word in words) + b"\0"
        startup = struct.pack("!II", 8 + len(parameters), PROTOCOL_3_0) + parameters
        login = BackendLogin(startup, secret=Secret(token.text.encode(), ("password",)))
        try:
            with self._connect() as secured:
                secured.sendall(login.start())
                while True:
                    for event in login.feed(_some(secured, 65536)):
                        if isinstance(event, Send):
                            secured.sendall(event.data)
                        elif isinstance(event, Refused):
                            raise DatabaseRefused(event.fields, event.raw)
                        elif isinstance(event, Done):
                            secured.sendall(TERMINATE)
                            return f'"{user}" is let in to "{self._db_name}"'
        except TeleportDBError as error:
            said = advice(error, self._amazon, user)
            raise _Missing(f"{error}{f'; {said}' if said else ''}") from error


def _some(source: Any, most: int) -> bytes:
    data: bytes = source.recv(most)
    if not data:
        raise OSError(0, "the database closed the connection")
    return data


def allows(documents: Iterable[Mapping[str, Any]], action: str, arn: str) -> bool:
    """Whether identity policies allow an action, as far as they alone tell: conditions count as fulfilled.

    Source: "Policy evaluation logic" of the IAM user guide.
    """
    found = False
    for document in documents:
        for statement in _listed(document.get("Statement")):
            if _matches(statement, "Action", action, ignoring_case=True) and _matches(statement, "Resource", arn):
                if statement.get("Effect") == "Deny":
                    return False
                found = found or statement.get("Effect") == "Allow"
    return found


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _matches(statement: Mapping[str, Any], key: str, text: str, *, ignoring_case: bool = False) -> bool:
    def fits(pattern: str) -> bool:
        # IAM knows * and ? only; fnmatch has sets in square brackets as well.
        shape = re.sub(r"\[", "[[]", pattern)
        return fnmatchcase(text.lower(), shape.lower()) if ignoring_case else fnmatchcase(text, shape)

    if f"Not{key}" in statement:
        return not any(fits(str(one)) for one in _listed(statement[f"Not{key}"]))
    return any(fits(str(one)) for one in _listed(statement.get(key)))
