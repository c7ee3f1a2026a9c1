"""Decisions, with their reasons.

Deny beats allow::

    a role allows   labels match  and  user matches  and  name matches; one role has to do all three
    a role denies   within its labels, or everywhere without any:
                    user matches  or  name matches; everything when it has labels alone

The names are those that PostgreSQL will use; making them so is the caller's part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from teleport_db.access.roles import Options, Role
from teleport_db.access.templates import Traits
from teleport_db.access.traits import ANYTHING, ExpandedRole, Selectors, expand


@attrs.frozen
class Decision:
    """Whether, and why.

    :param reasons: for the audit log: each role that had a say.
    :param public: one line for the user when it is refused; "" when it is allowed.
    """

    allowed: bool
    reasons: tuple[str, ...]
    public: str = ""


def check_session(
    roles: Sequence[Role],
    traits: Traits,
    *,
    service: str,
    labels: Mapping[str, str],
    db_user: str,
    db_name: str,
) -> Decision:
    """Whether a user with ``roles`` and ``traits`` may open a session.

    :param service: the database service, for the texts only.
    :param labels: the service's, static and dynamic ones.
    :param db_user: the effective database user.
    :param db_name: the effective database name.
    """
    expanded = [expand(role, traits) for role in roles]
    wanted = f"access to db {_quoted(service)} as user {_quoted(db_user)}"
    denied = [
        f"role {_quoted(role.name)} denies {what}"
        for role in expanded
        for what in _denied(role.deny, labels, service, db_user, db_name)
    ]
    if denied:
        return Decision(False, tuple(denied), f"{wanted} denied: {denied[0]}")
    within = [role for role in expanded if role.allow.matches_labels(labels)]
    allowing = [role for role in within if db_user in role.allow.users and db_name in role.allow.names]
    if allowing:
        return Decision(True, tuple(f"role {_quoted(role.name)} allows it" for role in allowing))
    missing, ask = _missing(within, service, db_user, db_name)
    reasons = [f"role {_quoted(role.name)}: {_lack(role, labels, db_user, db_name)}" for role in expanded]
    return Decision(
        False, (missing, *reasons), f"{wanted} denied: {missing}; ask an administrator for a role with {ask}"
    )


def _denied(deny: Selectors, labels: Mapping[str, str], service: str, db_user: str, db_name: str) -> list[str]:
    """What a deny block has against a session; nothing when it does not apply."""
    if deny.has_labels and not deny.matches_labels(labels):
        return []
    found = []
    if db_user in deny.users:
        found.append(f"database user {_quoted(db_user)}")
    if db_name in deny.names:
        found.append(f"database {_quoted(db_name)}")
    if deny.has_labels and not (deny.has_names or deny.has_users):
        found.append(f"database service {_quoted(service)}")
    return found


def _missing(within: Sequence[ExpandedRole], service: str, db_user: str, db_name: str) -> tuple[str, str]:
    """What no role allows, and the part of a role that would."""
    if not within:
        return f"no role of yours allows database service {_quoted(service)}", "db_labels that match it"
    user, name = f"database user {_quoted(db_user)}", f"database {_quoted(db_name)}"
    has_user = any(db_user in role.allow.users for role in within)
    has_name = any(db_name in role.allow.names for role in within)
    if not has_user and not has_name:
        return f"no role of yours allows {user}, nor {name}", "these in db_users and db_names"
    if not has_user:
        return f"no role of yours allows {user}", "it in db_users"
    if not has_name:
        return f"no role of yours allows {name}", "it in db_names"
    return f"no single role of yours allows {user} together with {name}", "both"


def _lack(role: ExpandedRole, labels: Mapping[str, str], db_user: str, db_name: str) -> str:
    allow = role.allow
    lacks = [] if allow.matches_labels(labels) else ["labels do not match"]
    lacks += [] if db_user in allow.users else [f"database user {_quoted(db_user)} is not in it"]
    lacks += [] if db_name in allow.names else [f"database {_quoted(db_name)} is not in it"]
    return ", ".join(lacks)


def _denied_outright(deny: Selectors, labels: Mapping[str, str]) -> bool:
    """Whether a deny block leaves no session at all to a service."""
    if deny.has_labels and not deny.matches_labels(labels):
        return False
    alone = deny.has_labels and not (deny.has_names or deny.has_users)
    return alone or deny.names.everything or deny.users.everything


def visible(roles: Sequence[Role], traits: Traits, labels: Mapping[str, str]) -> bool:
    """Whether ``tsh db ls`` shows a service: a role's labels match, and no role denies all of it."""
    expanded = [expand(role, traits) for role in roles]
    if any(_denied_outright(role.deny, labels) for role in expanded):
        return False
    return any(role.allow.matches_labels(labels) for role in expanded)


def allowed_names(
    roles: Sequence[Role], traits: Traits, labels: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The database users and the database names open to a user on a service, for people to read.

    Sorted; ``*`` first where any is allowed.  Those that are denied are left out; which user goes with
    which name is for :func:`check_session` to say.
    """
    if not visible(roles, traits, labels):
        return (), ()
    expanded = [expand(role, traits) for role in roles]
    allow = [role.allow for role in expanded if role.allow.matches_labels(labels)]
    deny = [role.deny for role in expanded if not role.deny.has_labels or role.deny.matches_labels(labels)]

    def open_to(allowed: Iterable[tuple[bool, frozenset[str]]], denied: Iterable[frozenset[str]]) -> tuple[str, ...]:
        pairs = list(allowed)
        literals = {name for _, names in pairs for name in names} - {name for names in denied for name in names}
        everything = (ANYTHING,) if any(everything for everything, _ in pairs) else ()
        return everything + tuple(sorted(literals - set(everything)))

    return (
        open_to(((one.users.everything, one.users.literals) for one in allow), (one.users.literals for one in deny)),
        open_to(((one.names.everything, one.names.literals) for one in allow), (one.names.literals for one in deny)),
    )


def allows(roles: Sequence[Role], resource_kind: str, verb: str) -> bool:
    """Whether the roles' rules allow ``verb`` on resources of a kind; deny beats allow."""
    if any(rule.matches(resource_kind, verb) for role in roles for rule in role.deny.rules):
        return False
    return any(rule.matches(resource_kind, verb) for role in roles for rule in role.allow.rules)


def combined_options(roles: Sequence[Role]) -> Options:
    """The options of all roles together: of each, the strictest.

    ``source_addresses`` is empty: each role's own list has to contain a client's address.
    """
    options = [role.options for role in roles]

    def least(values: Iterable[float]) -> float:
        return min((value for value in values if value), default=0)

    return Options(
        max_session_ttl=least(one.max_session_ttl for one in options),
        client_idle_timeout=least(one.client_idle_timeout for one in options),
        disconnect_expired_cert=any(one.disconnect_expired_cert for one in options),
        require_session_mfa=any(one.require_session_mfa for one in options),
        max_db_connections=int(least(one.max_db_connections for one in options)),
        record_session=max((one.record_session for one in options), default=""),
        record_parameters=all(one.record_parameters for one in options),
    )


def _quoted(text: str) -> str:
    """``text`` for a message: in quotes, on one line, of bounded length."""
    cut = text if len(text) <= 64 else text[:61] + "..."
    return '"' + "".join(letter if letter.isprintable() and letter not in '"\\' else "?" for letter in cut) + '"'
