"""Files that say what roles are expected to do, as one tests the rules of a firewall.

::

    kind: role             as tctl create -f takes them; a file may have the very roles that are going to be created
    kind: user, kind: db   the same, of a user roles and traits, of a database service labels
    kind: access_test      users and databases in short, and what is expected:

    spec:
      users:     {alice: {roles: [developer], traits: {db_names: [main]}}}
      databases: {aurora: {env: dev}}
      expect:
      - allow: {user: alice, db: aurora, db_user: [alice, bob], db_name: main}
      - deny: {user: alice, db: aurora, db_user: postgres, db_name: main}
        because: denies database user

A list stands for each of its entries.  What a file does not have, the caller looks up in the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product

import attrs

from teleport_db.access.checker import LOGICAL, PHYSICAL, Decision, check_session, quoted
from teleport_db.access.fields import Field
from teleport_db.access.roles import Role, parse_role
from teleport_db.config.model import frozen_mapping
from teleport_db.config.yamltext import Document

KIND, VERSION = "access_test", "v1"

#: The most sessions that the lists of one expectation may stand for.
SESSION_LIMIT = 10_000

#: What an expectation says of a session, in the order of the texts.
_ASKED = ("user", "db", "db_user", "db_name", "replication", "role", "from")


@attrs.frozen
class Person:
    """A user of the cluster, as far as decisions go."""

    roles: tuple[str, ...] = ()
    traits: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=frozen_mapping)


@attrs.frozen
class Expectation:
    """What is expected of one session.

    :param place: file and line.
    :param asked: what it says of the session, by the keys of the file.
    :param because: what the refusal has to say; "" for anything.
    """

    place: str
    allow: bool
    asked: Mapping[str, str]
    because: str = ""

    def __str__(self) -> str:
        asked = ", ".join(f"{key} {quoted(self.asked[key])}" for key in _ASKED if key in self.asked)
        return f"{'allow' if self.allow else 'deny'} {asked}"


@attrs.frozen
class Outcome:
    """What became of an expectation.

    :param said: what was decided instead; "" when it holds.
    """

    expectation: Expectation
    said: str = ""

    @property
    def holds(self) -> bool:
        return not self.said

    def __str__(self) -> str:
        return f"{self.expectation.place}: {self.expectation}: {self.said or 'holds'}"


@attrs.define
class Suite:
    """The expectations of some files, and the roles, users and databases that they are about.

    :param absent: roles that are nowhere.
    """

    roles: dict[str, Role] = attrs.field(factory=dict)
    users: dict[str, Person] = attrs.field(factory=dict)
    databases: dict[str, Mapping[str, str]] = attrs.field(factory=dict)
    expectations: list[Expectation] = attrs.field(factory=list)
    absent: set[str] = attrs.field(factory=set)

    def unknown_users(self) -> list[str]:
        """Users that are spoken of and not there."""
        return _unknown((one.asked["user"] for one in self.expectations), self.users)

    def unknown_databases(self) -> list[str]:
        """Database services that are spoken of and not there."""
        return _unknown((one.asked["db"] for one in self.expectations), self.databases)

    def unknown_roles(self) -> list[str]:
        """Roles that the users hold and that are not there."""
        return _unknown((name for user in self.users.values() for name in user.roles), {*self.roles, *self.absent})

    def run(self) -> Iterator[Outcome]:
        """Decide on each expectation; nothing may be unknown any more."""
        for one in self.expectations:
            decision = self._decide(one.asked)
            said = decision.public or "; ".join(decision.reasons)
            if decision.allowed != one.allow:
                yield Outcome(one, f"is {'allowed' if decision.allowed else 'refused'}: {said}")
            elif one.because not in "\n".join((said, *decision.reasons)):
                yield Outcome(one, f"is refused, but not because {quoted(one.because)}: {said}")
            else:
                yield Outcome(one)

    def _decide(self, asked: Mapping[str, str]) -> Decision:
        person = self.users[asked["user"]]
        for name in person.roles:
            if name in self.absent:
                return Decision(False, (f"role {quoted(name)} does not exist",))
        return check_session(
            [self.roles[name] for name in person.roles],
            person.traits,
            service=asked["db"],
            labels=self.databases[asked["db"]],
            db_user=asked["db_user"],
            db_name=asked.get("db_name") or asked["db_user"],
            replication=asked.get("replication", ""),
            role_targets=[asked["role"]] if "role" in asked else [],
            address=asked.get("from"),
        )


def _unknown(names: Iterable[str], known: Iterable[str]) -> list[str]:
    return sorted(set(names) - set(known))


def add_document(suite: Suite, document: Document) -> None:
    """Take over one document of a file.

    :raises ConfigError: with line, column and path of what cannot be taken.
    """
    top = Field.of(document.node, "")
    kind = top.need("kind")
    match kind.word((KIND, "role", "user", "db")):
        case "role":
            role = parse_role(document.node)
            _once(top, suite.roles, role.name)
            suite.roles[role.name] = role
        case "user":
            metadata, spec = _resource(top)
            name = metadata.need("name").text()
            _once(top, suite.users, name)
            suite.users[name] = _person(spec.keys("roles", "traits"))
        case "db":
            metadata, _ = _resource(top)
            name = metadata.need("name").text()
            _once(top, suite.databases, name)
            suite.databases[name] = _labels(metadata.get("labels"))
        case _:
            _add_tests(suite, top)


def _once(top: Field, known: Mapping[str, object], name: str) -> None:
    if name in known:
        raise top.error(f"{top.need('kind').text()} {quoted(name)} is there twice")


def _resource(top: Field) -> tuple[Field, Field]:
    top.keys("kind", "version", "metadata", "spec")
    return top.need("metadata"), top.get("spec")


def _person(spec: Field) -> Person:
    traits = spec.get("traits")
    return Person(spec.get("roles").texts(), {name: traits.get(name).texts() for name in traits.names()})


def _labels(labels: Field) -> dict[str, str]:
    return {key: labels.get(key).text() for key in labels.names()}


def _add_tests(suite: Suite, top: Field) -> None:
    top.keys("kind", "version", "metadata", "spec")
    top.need("version").word((VERSION,))
    spec = top.need("spec").keys("users", "databases", "expect")
    users, databases = spec.get("users"), spec.get("databases")
    for name in users.names():
        _once(top, suite.users, name)
        suite.users[name] = _person(users.get(name).keys("roles", "traits"))
    for name in databases.names():
        _once(top, suite.databases, name)
        suite.databases[name] = _labels(databases.get(name))
    for item in spec.need("expect").items():
        suite.expectations += _expected(item)


def _expected(item: Field) -> Iterator[Expectation]:
    item.keys("allow", "deny", "because")
    allow, deny, because = item.get("allow"), item.get("deny"), item.get("because")
    if allow.present == deny.present:
        raise item.error("one of allow and deny belongs here")
    if allow.present and because.present:
        raise because.error("goes with deny: it is what the refusal has to say")
    asked = (allow if allow.present else deny).keys(*_ASKED)
    for key in ("user", "db", "db_user"):
        asked.need(key)
    said = {key: _values(key, asked.get(key)) for key in _ASKED if asked.get(key).present}
    count = 1
    for values in said.values():
        count *= len(values)
    if count > SESSION_LIMIT:
        raise asked.error(f"the lists stand for {count} sessions: {SESSION_LIMIT} at most")
    place = f"{item.source}:{item.node.line}" if item.node else item.source
    for values in product(*said.values()):
        yield Expectation(place, allow.present, dict(zip(said, values, strict=True)), because.text(default=""))


def _values(key: str, field: Field) -> tuple[str, ...]:
    """What stands at a key, each of a list; ``replication`` takes yes and database."""
    if key == "from":
        found = tuple(item.network() for item in field.items())
        if any("/" in address for address in found):
            raise field.error("one client has an address, not a network")
    elif key == "replication":
        kinds = {True: PHYSICAL, False: ""}
        found = tuple(LOGICAL if item.value == LOGICAL else kinds[item.boolean()] for item in field.items())
    else:
        found = field.texts()
    if not found:
        raise field.error("at least one belongs here")
    return found
