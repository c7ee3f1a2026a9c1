"""Decisions, with their reasons.

Deny beats allow::

    a role allows   labels match  and  user matches  and  name matches; one role has to do all three,
                    and to name "replication", and whom the client's parameters make of the user, where it comes to that
    a role denies   within its labels, or everywhere without any:
                    user matches  or  name matches; everything when it has labels alone
    a role limits   every role with source_addresses has to have the client's address in them

The names are those that PostgreSQL will use; making them so is the caller's part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from teleport_db.access.limits import outside
from teleport_db.access.roles import Role
from teleport_db.access.templates import Traits
from teleport_db.access.traits import ANYTHING, ExpandedRole, Selectors, expand

#: The kinds of replication connections: of one database's changes, and of the whole server.
LOGICAL, PHYSICAL = "database", "true"


@attrs.frozen
class Say:
    """What one role says to a session.

    :param limits: what its limits have against the session.
    :param denies: what its deny block has against it.
    :param lacks: what its allow block does not have; nothing when it allows the session.
    :param within: whether its allow block is about this database service.
    """

    role: str
    limits: tuple[str, ...]
    denies: tuple[str, ...]
    lacks: tuple[str, ...]
    within: bool

    @property
    def verdict(self) -> str:
        """``deny``, ``allow``, or ``nothing``."""
        return "deny" if self.limits or self.denies else "nothing" if self.lacks else "allow"

    def __str__(self) -> str:
        name = f"role {quoted(self.role)}"
        if self.limits or self.denies:
            return f"{name} " + ", ".join(self.limits + self.denies)
        return f"{name}: " + ", ".join(self.lacks) if self.lacks else f"{name} allows it"


@attrs.frozen
class Decision:
    """Whether, and why.

    :param reasons: for the audit log: each role that had a say.
    :param public: one line for the user when it is refused; "" when it is allowed.
    :param says: each role's, in the order of the roles.
    """

    allowed: bool
    reasons: tuple[str, ...]
    public: str = ""
    says: tuple[Say, ...] = ()


@attrs.frozen
class _Need:
    """One thing that the allowing role has to have.

    :param what: for the texts.  :param ask: what to ask an administrator for, and where it belongs.
    """

    what: str
    ask: tuple[str, str]
    met: Callable[[Selectors], bool]


@attrs.frozen
class _Asked:
    """What a session asks for."""

    service: str
    labels: Mapping[str, str]
    users: tuple[str, ...]
    db_name: str
    replication: str
    address: str | None

    def needs(self) -> list[_Need]:
        user, *targets = self.users
        needs = [_user(user, f"database user {quoted(user)}")]
        if self.replication != PHYSICAL:
            name = self.db_name
            needs.append(
                _Need(f"database {quoted(name)}", (quoted(name), "db_names"), lambda block: name in block.names)
            )
        if self.replication:
            needs.append(
                _Need("replication connections", ('"replication"', "db_names"), lambda block: block.replication)
            )
        becoming = "to which the connection's parameters would change"
        return needs + [_user(target, f"database user {quoted(target)}, {becoming}") for target in targets]

    def denied(self, deny: Selectors) -> list[str]:
        """What a deny block has against the session; nothing when it does not apply."""
        if deny.has_labels and not deny.matches_labels(self.labels):
            return []
        found = [f"denies database user {quoted(user)}" for user in self.users if user in deny.users]
        if self.replication != PHYSICAL and self.db_name in deny.names:
            found.append(f"denies database {quoted(self.db_name)}")
        elif self.replication and deny.replication:
            found.append("denies replication connections")
        elif self.replication and deny.names:
            found.append("denies a database, and a replication connection can read all of them")
        if deny.has_labels and not (deny.has_names or deny.has_users):
            found.append(f"denies database service {quoted(self.service)}")
        return found

    def limited(self, role: Role) -> list[str]:
        """What a role's limits have against the session."""
        if self.address is None or not outside(role.options.source_addresses, self.address):
            return []
        listed = ", ".join(role.options.source_addresses[:4]) + (", ..." if role.options.source_addresses[4:] else "")
        return [f"admits clients from {listed} only (source_addresses), not from {quoted(self.address)[1:-1]}"]


def _user(user: str, what: str) -> _Need:
    return _Need(what, (quoted(user), "db_users"), lambda block: user in block.users)


def check_session(
    roles: Sequence[Role],
    traits: Traits,
    *,
    service: str,
    labels: Mapping[str, str],
    db_user: str,
    db_name: str,
    replication: str = "",
    role_targets: Sequence[str] = (),
    address: str | None = None,
) -> Decision:
    """Whether a user with ``roles`` and ``traits`` may open a session.

    :param service: the database service, for the texts only.
    :param labels: the service's, static and dynamic ones.
    :param db_user: the effective database user.
    :param db_name: the effective database name; one of the whole server's replication has none.
    :param replication: LOGICAL, PHYSICAL, or "" for an ordinary connection.
    :param role_targets: the database users to which the client's parameters would change.
    :param address: the client's IP address; None when nobody connects yet.
    """
    asked = _Asked(service, labels, (db_user, *role_targets), db_name, replication, address)
    needs = asked.needs()
    expanded = [expand(role, traits) for role in roles]
    says = tuple(_say(role, one, asked, needs) for role, one in zip(roles, expanded, strict=True))
    wanted = f"access to db {quoted(service)} as user {quoted(db_user)}"
    against = [say for say in says if say.limits or say.denies]
    if against:
        # The limits first: who comes from somewhere else learns nothing of the rest.
        first = next((say for say in against if say.limits), against[0])
        public = f"{wanted} denied: role {quoted(first.role)} {(first.limits + first.denies)[0]}"
        return Decision(False, tuple(map(str, against)), public, says)
    allowing = tuple(str(say) for say in says if not say.lacks)
    if allowing:
        return Decision(True, allowing, "", says)
    within = [one for one in expanded if one.allow.matches_labels(labels)]
    missing, ask = _missing(within, [role.name for role in roles], service, needs)
    public = f"{wanted} denied: {missing}; ask an administrator for {ask}"
    return Decision(False, (missing, *map(str, says)), public, says)


def _say(role: Role, expanded: ExpandedRole, asked: _Asked, needs: Sequence[_Need]) -> Say:
    allow = expanded.allow
    within = allow.matches_labels(asked.labels)
    if allow.has_labels or allow.has_names or allow.has_users:
        lacks = [] if within else [_unmatched(allow, asked.labels)]
        lacks += [f"{need.what} is not in it" for need in needs if not need.met(allow)]
    else:
        lacks = ["it allows no databases"]
    return Say(role.name, tuple(asked.limited(role)), tuple(asked.denied(expanded.deny)), tuple(lacks), within)


def _unmatched(allow: Selectors, labels: Mapping[str, str]) -> str:
    """Which of the service's labels are not those that a role wants."""
    keys = allow.unmatched(labels)
    shown = [f"{key} is {quoted(labels[key])}" if key in labels else f"{key} is missing" for key in keys[:4]]
    return f"labels do not match ({', '.join(shown)})" if shown else "it has no db_labels"


def _missing(
    within: Sequence[ExpandedRole], names: Sequence[str], service: str, needs: Sequence[_Need]
) -> tuple[str, str]:
    """What no role allows, and what to ask for."""
    if not within:
        whose = f"none of your roles ({_several(names)}) allows" if names else "you have no role that allows"
        return f"{whose} database service {quoted(service)}", "a role whose db_labels match it"
    one = len(within) == 1
    lacking = [need for need in needs if not any(need.met(role.allow) for role in within)]
    if not lacking:
        together = " together with ".join(need.what for need in needs)
        return f"no single role of yours allows {together}", "one role with all of it"
    whose = f"role {quoted(within[0].name)} does" if one else f"your roles {_several([r.name for r in within])} do"
    asks: dict[str, list[str]] = {}
    for need in lacking:
        asks.setdefault(need.ask[1], []).append(need.ask[0])
    ask = " and ".join(f"{', '.join(dict.fromkeys(words))} in {where}" for where, words in asks.items())
    return f"{whose} not allow " + ", nor ".join(
        need.what for need in lacking
    ), f"{ask} of {'it' if one else 'one of them'}"


def _several(names: Sequence[str]) -> str:
    """Names of roles, of bounded length."""
    return ", ".join(map(quoted, names[:4])) + (", ..." if names[4:] else "")


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


def quoted(text: str) -> str:
    """``text`` for a message: in quotes, on one line, of bounded length."""
    if len(text) <= 64 and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    cut = text if len(text) <= 64 else text[:61] + "..."
    return '"' + "".join(letter if letter.isprintable() and letter not in '"\\' else "?" for letter in cut) + '"'
