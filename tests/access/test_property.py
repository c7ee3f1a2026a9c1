"""The checker against an oracle that shares no line with it, on role sets made by dice.

``TELEPORT_DB_ROLE_SETS`` says how many of them; 100,000 unless it is set.
"""

from __future__ import annotations

import fnmatch
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.access import (
    LOGICAL,
    PHYSICAL,
    Conditions,
    Options,
    Role,
    Rule,
    check_session,
    parse_role,
    role_resource,
    visible,
)
from teleport_db.cli.output import to_yaml
from teleport_db.config import load_documents

COUNT = int(os.environ.get("TELEPORT_DB_ROLE_SETS", "100000"))

Block = dict[str, Any]
TEMPLATE = re.compile(r"(.*)\{\{(internal|external)\.(\w+)\}\}(.*)")


def oracle(roles: list[tuple[Block, Block]], traits: Any, labels: Any, users: Any, name: str, kind: str) -> bool:
    """Whether it is allowed, straight from the words of the specification."""

    def meant(entries: list[str]) -> Iterator[tuple[str, bool]]:
        for entry in entries:
            if template := TEMPLATE.match(entry):
                before, scope, trait, after = template.groups()
                for value in traits.get(trait, []):
                    yield before + value + after, (value, scope, before, after) == ("*", "internal", "", "")
            else:
                yield entry, entry == "*"

    def says(entries: list[str], text: str) -> bool:
        return any(everything or entry == text for entry, everything in meant(entries))

    def is_label(entry: str, text: str) -> bool:
        if TEMPLATE.match(entry):
            return any(text == value for value, _ in meant([entry]))
        return bool(re.fullmatch(f"({entry})", text) if entry[0] == "^" else fnmatch.fnmatchcase(text, entry))

    def here(block: Block) -> bool:
        for key, values in block["l"].items():
            if key != "*" and not (key in labels and any(is_label(value, labels[key]) for value in values)):
                return False
        return block["l"] != {}

    for _, deny in roles:
        if deny["l"] == {} or here(deny):
            if any(says(deny["u"], user) for user in users) or (kind != PHYSICAL and says(deny["n"], name)):
                return False
            if (kind and list(meant(deny["n"]))) or (deny["l"] and deny["u"] == [] and deny["n"] == []):
                return False
    named = [allow for allow, _ in roles if kind == "" or "replication" in allow["n"]]
    able = [allow for allow in named if kind == PHYSICAL or says(allow["n"], name)]
    return any(here(allow) and all(says(allow["u"], user) for user in users) for allow in able)


NAMES = [
    *("a", "b", "A", "*", "replication"),
    *("{{internal.db_names}}", "{{external.x}}", "{{external.none}}", "p{{external.x}}"),
]
VALUES = ["a", "ab", "*", "a*", "*b", "^a.?$", "^a|b$", "{{external.x}}", "p{{external.none}}"]
TEXTS = ["a", "a", "b", "A", "ab", "pa", "*", "", "replication"]
KINDS = ["", "", "", LOGICAL, PHYSICAL]


def some(dice: random.Random, of: list[str], most: int) -> list[str]:
    return dice.choices(of, k=int(dice.random() * (most + 1)))


def block(dice: random.Random, chance: float) -> Block:
    """A block; with ``chance`` it has each of its parts."""
    made: Block = {"l": {}, "n": [], "u": []}
    if dice.random() < chance:
        for key in some(dice, ["*", "k"], 2) or ["m"]:
            made["l"][key] = ["*"] if key == "*" else some(dice, VALUES, 3) or ["*"]
    for key in ("n", "u"):
        if dice.random() < chance:
            made[key] = some(dice, NAMES, 4) or ["*"]
    return made


def conditions(made: Block) -> Conditions:
    labels = {key: once(values) for key, values in made["l"].items()}
    return Conditions(db_labels=labels, db_names=once(made["n"]), db_users=once(made["u"]))


def once(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


class PropertyTests(SynchronousTestCase):
    """Deny beats allow, and everything else that the oracle knows."""

    def test_security_row_13_against_the_oracle(self) -> None:
        """The same answer on every role set; both answers are common among them, for each kind of connection."""
        dice = random.Random(20201117)
        seen = Counter[tuple[str, bool, bool]]()
        for number in range(COUNT):
            made = [(block(dice, 0.95), block(dice, 0.2)) for _ in range(dice.choice((1, 1, 2, 3)))]
            traits = {"x": some(dice, TEXTS, 2), "db_names": some(dice, TEXTS, 2)}
            labels = {key: dice.choice(TEXTS) for key in some(dice, ["k", "k", "m"], 3)}
            users, name = [dice.choice(TEXTS), *some(dice, TEXTS, 1)], dice.choice(TEXTS)
            kind = dice.choice(KINDS)
            roles = [Role(f"r{n}", conditions(allow), conditions(deny)) for n, (allow, deny) in enumerate(made)]
            # An empty name never reaches a decision, and an empty value of a trait is none.
            given = {key: [value for value in values if value] for key, values in traits.items()}
            expected = oracle(made, given, labels, users, name, kind)
            decision = check_session(
                roles,
                traits,
                service="s",
                labels=labels,
                db_user=users[0],
                db_name=name,
                replication=kind,
                role_targets=users[1:],
            )
            if decision.allowed != expected or (expected and not visible(roles, traits, labels)):
                self.fail(f"set {number}: {made} {traits} {labels} {users} {name!r} {kind!r}: {decision}")
            seen[kind, len(users) > 1, expected] += 1
        for kind in KINDS:
            for several in (False, True):
                self.assertGreater(min(seen[kind, several, True], seen[kind, several, False]), COUNT // 1000)


class RoundTripTests(SynchronousTestCase):
    """A role is its resource, as values and as a file."""

    def test_round_trip(self) -> None:
        """Written and read again it is the same role, whatever it says."""
        dice = random.Random(8)
        for number in range(1000):
            options = Options(
                max_session_ttl=dice.choice((0.0, 60.0, 28800.0, 5400.5)),
                client_idle_timeout=dice.choice((0.0, 1.5, 600.0)),
                disconnect_expired_cert=dice.random() < 0.5,
                require_session_mfa=dice.random() < 0.5,
                max_db_connections=dice.choice((0, 1, 1_000_000)),
                record_session=dice.choice(("", "strict", "best_effort")),
                record_parameters=dice.random() < 0.5,
                source_addresses=once(some(dice, ["10.0.0.0/8", "::1", "192.0.2.7", "2001:db8::/32"], 3)),
            )
            blocks = (attrs.evolve(conditions(block(dice, 0.5)), rules=self.rules(dice)) for _ in range(2))
            labels = {key: dice.choice(TEXTS) for key in some(dice, ["a", "b/c", "y"], 2)}
            role = Role(f"r{number}", *blocks, options, dice.choice(("", "Ein Wort: ü", "yes", "1")), labels)
            resource = role_resource(role)
            self.assertEqual(parse_role(resource), role)
            self.assertEqual(role_resource(parse_role(resource)), resource)
            (document,) = load_documents(to_yaml(resource), "f")
            self.assertEqual(parse_role(document.node), role)

    def rules(self, dice: random.Random) -> tuple[Rule, ...]:
        found = []
        for _ in range(int(dice.random() * 3)):
            resources, verbs = some(dice, ["role", "user", "*"], 2) or ["db"], some(dice, ["read", "*"], 2) or ["list"]
            found.append(Rule(once(resources), once(verbs)))
        return tuple(found)
