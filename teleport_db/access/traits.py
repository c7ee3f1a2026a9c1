"""A role as it stands for one user: templates filled in, patterns compiled.

A trait's value is a literal: ``*``, a glob or a regular expression in it is text like any other.
The one exception is ``*`` where an administrator sets it, that is in an
``{{internal.…}}`` entry of its own (``tctl users add --db-names='*'``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from teleport_db.access.matching import Texts, compile_pattern, is_pattern
from teleport_db.access.roles import Conditions, Role
from teleport_db.access.templates import Traits, parse_entry

ANYTHING = "*"


@attrs.frozen
class Selectors:
    """One block, ``allow`` or ``deny``, for one user.

    Whether a block speaks of labels, names or users at all is known from the role as it was written:
    a deny block whose only name came from a trait the user lacks denies nothing, instead of turning
    into one that denies everything.

    :param labels: each key with its values; ``*`` with everything for any service at all.
    :param replication: whether ``replication`` was written among the names; no trait stands for it.
    """

    labels: tuple[tuple[str, Texts], ...]
    names: Texts
    users: Texts
    has_labels: bool
    has_names: bool
    has_users: bool
    replication: bool

    def matches_labels(self, labels: Mapping[str, str]) -> bool:
        """Whether a service with ``labels`` is selected: every key has to match; no key selects nothing."""
        return self.has_labels and not self.unmatched(labels)

    def unmatched(self, labels: Mapping[str, str]) -> list[str]:
        """The keys whose label is another one, or is not there."""
        return [
            key for key, values in self.labels if key != ANYTHING and (key not in labels or labels[key] not in values)
        ]


@attrs.frozen
class ExpandedRole:
    """A role for one user."""

    name: str
    allow: Selectors
    deny: Selectors


def expand(role: Role, traits: Traits) -> ExpandedRole:
    """``role`` for a user with ``traits``."""
    return ExpandedRole(role.name, _selectors(role.allow, traits), _selectors(role.deny, traits))


def _selectors(conditions: Conditions, traits: Traits) -> Selectors:
    return Selectors(
        labels=tuple((key, _label_values(values, traits)) for key, values in conditions.db_labels.items()),
        names=_names(conditions.db_names, traits),
        users=_names(conditions.db_users, traits),
        has_labels=bool(conditions.db_labels),
        has_names=bool(conditions.db_names),
        has_users=bool(conditions.db_users),
        replication=conditions.replication,
    )


def _names(entries: Sequence[str], traits: Traits) -> Texts:
    everything = False
    literals: list[str] = []
    for entry in entries:
        template = parse_entry(entry)
        found = [entry] if template is None else template.values(traits)
        if template is None or template.takes_wildcard:
            everything = everything or ANYTHING in found
            found = [text for text in found if text != ANYTHING]
        literals += found
    return Texts(everything, frozenset(literals))


def _label_values(entries: Sequence[str], traits: Traits) -> Texts:
    literals: list[str] = []
    patterns: list[Any] = []
    for entry in entries:
        template = parse_entry(entry)
        if template is not None:
            literals += template.values(traits)
        elif is_pattern(entry) and entry != ANYTHING:
            patterns.append(compile_pattern(entry))
        else:
            literals.append(entry)
    return Texts(ANYTHING in entries, frozenset(literals), tuple(patterns))
