"""The one tree of errors.

Every class knows what each kind of peer is told: an SQLSTATE for a PostgreSQL client, a status and a
code for a caller of an HTTPS API.  ``str(error)`` is the public text: one or two lines that say what is
wrong and what to do, fit for whoever is on the other side.  What only a log may say goes into
``detail``.

SQLSTATEs are those of appendix A of PostgreSQL's documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class TeleportDBError(Exception):
    """Something this system refuses or could not do.

    :param public: the text for the other side; never a secret, never SQL.
    :param detail: what only the log may say.
    """

    sqlstate: ClassVar[str] = "XX000"
    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    default: ClassVar[str] = "something unexpected happened"

    def __init__(self, public: str = "", *, detail: str = "") -> None:
        self.public = public or self.default
        self.detail = detail
        super().__init__(self.public)


class UsageError(TeleportDBError):
    """A command was called wrongly; the exit code is 2."""

    status = 400
    code = "usage"


class ConfigError(TeleportDBError):
    """The configuration file, or a flag that stands for a part of it, cannot be used.

    :param message: what is wrong and what to do.
    :param source: the file, or ``--flag``.
    :param line: the line in the file, counted from 1; 0 when there is none.
    :param column: the column in that line, counted from 1; 0 when nobody asks for it.
    :param path: the key's path, as ``db_service.databases[0].uri``.
    """

    status = 400
    code = "config"

    def __init__(self, message: str, *, source: str = "", line: int = 0, column: int = 0, path: str = "") -> None:
        self.message, self.source, self.line, self.column, self.path = message, source, line, column, path
        where = ":".join([source, *(str(number) for number in (line, column) if number)])
        super().__init__(": ".join(part for part in (where, path, message) if part))


class RemoteProtocolError(TeleportDBError):
    """The peer broke the protocol; the connection is closed."""

    sqlstate = "08P01"
    status = 400
    code = "protocol"
    default = "the protocol was broken"


class LocalProtocolError(TeleportDBError):
    """This side was asked to break the protocol: a fault of the caller, never of the peer."""

    code = "local_protocol"


class AuthenticationFailed(TeleportDBError):
    """Nobody can tell who the peer is: no certificate, an expired one, one without a route."""

    sqlstate = "28000"
    status = 401
    code = "unauthenticated"
    default = "authentication failed"


class SecondFactorRequired(AuthenticationFailed):
    """It is known who asks, and a one-time code has to say that somebody is there; ask again with one."""

    code = "mfa_required"


class AccessDenied(TeleportDBError):
    """It is known who asks, and that it is not allowed.

    :param reasons: every reason the decision had, for the audit log.
    """

    sqlstate = "42501"
    status = 403
    code = "forbidden"
    default = "access denied"

    def __init__(self, public: str = "", *, reasons: Sequence[str] = (), detail: str = "") -> None:
        super().__init__(public, detail=detail)
        self.reasons = tuple(reasons)


class NoSuchDatabase(TeleportDBError):
    """No agent has ever announced a database service of this name."""

    sqlstate = "3D000"
    status = 404
    code = "no_such_database"


class AgentOffline(TeleportDBError):
    """The database service is known and none of its agents is connected."""

    sqlstate = "08006"
    status = 503
    code = "agent_offline"


class DatabaseUnreachable(TeleportDBError):
    """The agent could not reach the database, or could not trust what answered."""

    sqlstate = "08006"
    status = 503
    code = "database_unreachable"


class ConnectionTrouble(TeleportDBError):
    """A service of this system could not be reached."""

    sqlstate = "08006"
    status = 503
    code = "unreachable"


class LimitExceeded(TeleportDBError):
    """A limit was reached; trying later may help."""

    sqlstate = "53300"
    status = 429
    code = "limit"


class SessionCut(TeleportDBError):
    """A running session was ended: a lock, an expiry, an idle time, a shutdown."""

    sqlstate = "57P01"
    status = 503
    code = "cut"


class AuditUnavailable(TeleportDBError):
    """The audit record cannot be written, so nothing may go on."""

    sqlstate = "58030"
    status = 503
    code = "audit"
    default = "the audit log cannot be written; the session ends here"


class AuditTampered(TeleportDBError):
    """The audit log is not what was written."""

    code = "audit_tampered"
    default = "the audit log was changed"


class BadRequest(TeleportDBError):
    """A call of the API that cannot be taken as it stands."""

    status = 400
    code = "bad_request"


class NotFound(TeleportDBError):
    """There is no such thing."""

    status = 404
    code = "not_found"


class AlreadyExists(TeleportDBError):
    """There is one of that name already."""

    status = 409
    code = "already_exists"


class RevisionConflict(TeleportDBError):
    """Somebody else changed it since it was read."""

    status = 409
    code = "revision_conflict"


#: Classes an HTTPS API's client raises again from the ``code`` of the answer.
BY_CODE: dict[str, type[TeleportDBError]] = {
    cls.code: cls
    for cls in (
        RemoteProtocolError,
        AuthenticationFailed,
        SecondFactorRequired,
        AccessDenied,
        NoSuchDatabase,
        AgentOffline,
        DatabaseUnreachable,
        ConnectionTrouble,
        LimitExceeded,
        SessionCut,
        AuditUnavailable,
        BadRequest,
        NotFound,
        AlreadyExists,
        RevisionConflict,
    )
}
