"""The checker against an oracle that shares no line with it, on role sets made by dice.

``TELEPORT_DB_ROLE_SETS`` says how many of them; 100,000 unless it is set.
"""

from __future__ import annotations

import fnmatch
import os
import random
import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.access import Conditions, Role, check_session, visible

COUNT = int(os.environ.get("TELEPORT_DB_ROLE_SETS", "100000"))

Block = dict[str, Any]


def oracle(roles: list[tuple[Block, Block]], traits: dict[str, list[str]], labels: Any, user: str, name: str) -> bool:
    """Whether it is allowed, straight from the words of the specification."""

    def says(entries: list[str], text: str, of_label: bool = False) -> bool:
        for entry in entries:
            template = re.match(r"(.*)\{\{(internal|external)\.(\w+)\}\}(.*)", entry)
            if template:
                before, scope, trait, after = template.groups()
                for value in traits.get(trait, []):
                    any_name = value == "*" and scope == "internal" and before + after == "" and not of_label
                    if any_name or before + value + after == text:
                        return True
                continue
            pattern = re.fullmatch(f"({entry})", text) if entry[0] == "^" else fnmatch.fnmatchcase(text, entry)
            if entry in ("*", text) or (of_label and pattern):
                return True
        return False

    def here(block: Block) -> bool:
        for key, values in block["l"].items():
            if key != "*" and not (key in labels and says(values, labels[key], True)):
                return False
        return block["l"] != {}

    for _, deny in roles:
        if deny["l"] == {} or here(deny):
            if says(deny["u"], user) or says(deny["n"], name):
                return False
            if deny["l"] and deny["u"] == [] and deny["n"] == []:
                return False
    return any(here(allow) and says(allow["u"], user) and says(allow["n"], name) for allow, _ in roles)


NAMES = ["a", "b", "A", "*", "{{internal.db_names}}", "{{external.x}}", "{{external.none}}", "p{{external.x}}"]
VALUES = ["a", "ab", "*", "a*", "*b", "^a.?$", "^a|b$", "{{external.x}}", "p{{external.none}}"]
TEXTS = ["a", "a", "b", "A", "ab", "pa", "*", ""]


def some(dice: random.Random, of: list[str], most: int) -> list[str]:
    return dice.sample(of, int(dice.random() * (most + 1)))


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
    labels = {key: tuple(values) for key, values in made["l"].items()}
    return Conditions(db_labels=labels, db_names=tuple(made["n"]), db_users=tuple(made["u"]))


class PropertyTests(SynchronousTestCase):
    """Deny beats allow, and everything else that the oracle knows."""

    def test_against_the_oracle(self) -> None:
        """The same answer on every role set; both answers are common among them."""
        dice = random.Random(20201117)
        allowed = 0
        for number in range(COUNT):
            made = [(block(dice, 0.95), block(dice, 0.2)) for _ in range(dice.choice((1, 1, 2, 3)))]
            traits = {"x": some(dice, TEXTS, 2), "db_names": some(dice, TEXTS, 2)}
            labels = {key: dice.choice(TEXTS) for key in some(dice, ["k", "k", "m"], 3)}
            user, name = dice.choice(TEXTS), dice.choice(TEXTS)
            roles = [Role(f"r{n}", conditions(allow), conditions(deny)) for n, (allow, deny) in enumerate(made)]
            # An empty name never reaches a decision, and an empty value of a trait is none.
            given = {key: [value for value in values if value] for key, values in traits.items()}
            expected = oracle(made, given, labels, user, name)
            decision = check_session(roles, traits, service="s", labels=labels, db_user=user, db_name=name)
            if decision.allowed != expected or (expected and not visible(roles, traits, labels)):
                self.fail(f"set {number}: {made} {traits} {labels} {user!r} {name!r}: {decision}")
            allowed += expected
        self.assertGreater(allowed, COUNT // 10)
        self.assertLess(allowed, COUNT - COUNT // 10)
