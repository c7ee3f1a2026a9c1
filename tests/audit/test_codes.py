"""Every event is documented, and each that is has somebody who records it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.codes import CODES, FAILURE_CODES

ROOT = Path(__file__).parents[2]


def rows() -> list[tuple[set[str], set[str]]]:
    """The names and the codes of each row of the documentation's tables."""
    found = []
    for row in re.split(r"\n   \* - ", (ROOT / "docs" / "events.rst").read_text())[1:]:
        first, second = re.split(r"\n     - ", row)[:2]
        names = re.findall(r"``([\w.]+)``", first)
        whole = [name if not name.startswith(".") else names[0].rpartition(".")[0] + name for name in names]
        found.append((set(whole), set(re.findall(r"\bT[A-Z]*[0-9]{2,4}[IWE]\b", second))))
    return [row for row in found if row[0]]


class DocumentedTests(SynchronousTestCase):
    def test_table(self) -> None:
        """The documentation has each event with its codes, and no other."""
        documented = {(name, code) for names, codes in rows() for name in names for code in codes}
        names = {name for found, _ in rows() for name in found}
        codes = {code for _, found in rows() for code in found}
        known = {*CODES.items(), *FAILURE_CODES.items()}
        self.assertEqual(names, {name for name, _ in known})
        self.assertEqual(codes, {code for _, code in known})
        self.assertEqual(known - documented, set())

    def test_codes(self) -> None:
        """A code is one event's."""
        codes = [*CODES.values(), *FAILURE_CODES.values()]
        self.assertEqual(sorted(codes), sorted(set(codes)))
        for name, code in FAILURE_CODES.items():
            self.assertIn(code[-1], "WE", name)

    def test_recorded(self) -> None:
        """Something records it."""
        said: set[str] = set()
        for path in (ROOT / "teleport_db").rglob("*.py"):
            if path.name != "codes.py":
                tree = ast.parse(path.read_text())
                said |= {
                    node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str
                }
        self.assertEqual({*CODES, *FAILURE_CODES} - said, set())
