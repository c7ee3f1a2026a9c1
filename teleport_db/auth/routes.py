"""Every route of the API and who may call it, in one table.

What is not in the table does not exist; what a row does not allow is refused.  The local administrator
(host role ``admin``) may call every route.  Users come with a certificate of ``tsh login`` or an identity
file; those of one database call nothing.
"""

from __future__ import annotations

from typing import Any

import attrs

from teleport_db.access import Role, allows
from teleport_db.auth.users import User
from teleport_db.errors import AccessDenied, AuthenticationFailed
from teleport_db.identity import Identity

#: Stands for the kind in the address.
KIND = "{kind}"


@attrs.frozen
class Route:
    """One call.

    :param does: the name of the method that answers it.
    :param raw: its body is read by the method itself.
    :param recorded: what it refuses it records itself.
    :param anyone: needs no certificate.
    :param hosts: host roles that may call it.
    :param user: every user may, for itself.
    :param rule: users whose roles' rules allow this (resource, verb).
    """

    method: str
    path: str
    does: str
    anyone: bool = False
    hosts: tuple[str, ...] = ()
    user: bool = False
    rule: tuple[str, str] | None = None
    raw: bool = False
    recorded: bool = False


ROUTES = (
    Route("GET", "/v1/ping", "ping", anyone=True),
    Route("GET", "/v1/cas", "cas", anyone=True),
    Route("GET", "/v1/status", "status", hosts=("auth", "proxy", "db"), user=True),
    # People prove who they are at a proxy.
    Route("POST", "/v1/login", "login", hosts=("proxy",), recorded=True),
    Route("GET", "/v1/invites/<token>", "show_invite", hosts=("proxy",)),
    Route("POST", "/v1/invites/<token>", "redeem_invite", hosts=("proxy",)),
    Route("POST", "/v1/password", "change_password", hosts=("proxy",), user=True, recorded=True),
    Route("GET", "/v1/mfa", "list_devices", user=True),
    Route("POST", "/v1/mfa", "begin_device", user=True),
    Route("POST", "/v1/mfa/confirm", "confirm_device", user=True),
    Route("POST", "/v1/mfa/remove", "remove_device", user=True),
    Route("POST", "/v1/mfa/recovery-codes", "renew_recovery_codes", user=True),
    # Hosts; the token or the certificate is what counts.
    Route("POST", "/v1/join", "join", anyone=True, recorded=True),
    Route("POST", "/v1/renew", "renew", hosts=("proxy", "db")),
    Route("PUT", "/v1/presence", "announce", hosts=("db",)),
    Route("DELETE", "/v1/presence", "leave", hosts=("db",)),
    Route("GET", "/v1/watch", "watch", hosts=("auth", "proxy", "db")),
    Route("POST", "/v1/audit", "ship_audit", hosts=("proxy", "db"), raw=True),
    # Certificates.
    Route("POST", "/v1/certificates/user", "sign_user", user=True),
    Route("POST", "/v1/certificates/identity", "sign_identity", rule=("cert_authority", "create")),
    Route("POST", "/v1/certificates/database-server", "sign_database_server", rule=("cert_authority", "create")),
    Route("POST", "/v1/certificates/database-client", "sign_database_client", hosts=("db",)),
    # Administration.
    Route("GET", "/v1/databases", "databases", user=True, hosts=("proxy",)),
    Route("GET", "/v1/audit", "search_audit", rule=("event", "list")),
    Route("POST", "/v1/audit/checkpoint", "make_checkpoint", rule=("event", "list")),
    Route("GET", "/v1/audit/sinks", "list_sinks", rule=("event", "list")),
    Route("GET", "/v1/sessions", "list_sessions", user=True),
    Route("GET", "/v1/sessions/<sid>/events", "session_events", user=True),
    Route("GET", "/v1/access/explain", "explain_access", user=True),
    Route("GET", "/v1/access/list", "list_access", user=True),
    Route("POST", "/v1/users", "add_user", rule=("user", "create")),
    Route("POST", "/v1/users/<name>/reset", "reset_user", rule=("user", "update")),
    Route("POST", "/v1/users/<name>/unlock", "unlock_user", rule=("user", "update")),
    Route("GET", "/v1/tokens", "list_tokens", rule=("token", "list")),
    Route("POST", "/v1/tokens", "add_token", rule=("token", "create")),
    Route("DELETE", "/v1/tokens/<name>", "delete_token", rule=("token", "delete")),
    Route("GET", "/v1/resources/<kind>", "list_resources", rule=(KIND, "list")),
    Route("GET", "/v1/resources/<kind>/<name>", "get_resource", rule=(KIND, "readnosecrets")),
    Route("POST", "/v1/resources/<kind>", "create_resource", rule=(KIND, "create")),
    Route("PUT", "/v1/resources/<kind>/<name>", "update_resource", rule=(KIND, "update")),
    Route("DELETE", "/v1/resources/<kind>/<name>", "delete_resource", rule=(KIND, "delete")),
)


@attrs.frozen
class Caller:
    """Who calls.

    :param identity: None for who showed no certificate.
    :param address: of the connection.
    :param expires: of the certificate, seconds since the epoch.
    :param user: a user's record of now, not the certificate's copy; with its ``roles``.
    """

    identity: Identity | None
    address: str
    expires: float = 0.0
    user: User | None = None
    roles: tuple[Role, ...] = ()

    @property
    def name(self) -> str:
        """For the audit log."""
        return "" if self.identity is None else self.identity.name

    @property
    def is_admin(self) -> bool:
        """Whether this is the local administrator."""
        return self.identity is not None and self.identity.kind == "host" and "admin" in self.identity.roles

    def may(self, rule: tuple[str, str]) -> bool:
        """Whether the rules of a user's roles allow a verb on a kind."""
        return self.is_admin or (self.user is not None and allows(self.roles, *rule))


def authorize(route: Route, caller: Caller, parameters: dict[str, Any]) -> None:
    """Raise AuthenticationFailed or AccessDenied unless the table lets ``caller`` in."""
    if route.anyone or caller.is_admin:
        return
    if caller.identity is None:
        raise AuthenticationFailed("this call needs a certificate; log in first")
    if caller.identity.kind == "host":
        if not set(caller.identity.roles) & set(route.hosts):
            raise AccessDenied(f"no host with the roles {', '.join(caller.identity.roles)} may do this")
        return
    if route.user:
        return
    if route.rule is not None:
        kind, verb = route.rule
        rule = (str(parameters.get("kind", "")) if kind == KIND else kind, verb)
        if caller.may(rule):
            return
        raise AccessDenied(f'no role of yours allows "{verb}" on "{rule[0][:64]}"')
    raise AccessDenied("no user may do this")
