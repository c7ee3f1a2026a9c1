"""Lines of the log."""

from __future__ import annotations

import io

from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.services.logtext import text_observer

#: Colours, a line that looks like another event, a carriage return, a mark that turns the direction of writing.
HOSTILE = "\x1b[31mred\r2026-01-01T00:00:00+0000 [auth#info] root logged in\x00\x9b2J\u202e\x85\u2028"


class LineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.output = io.StringIO()
        self.log = Logger("test", observer=LogPublisher(text_observer(self.output)))

    def test_security_row_26_one_line(self) -> None:
        """An event is a line, whatever is in it; and so are its fields' classes and letters of other alphabets."""
        self.log.info("no user {name}", name=HOSTILE)
        self.log.info("Größe {size}", size=5)
        first, second = self.output.getvalue().splitlines()
        self.assertTrue(first.isprintable())
        self.assertIn("no user \\x1b[31mred\\r2026", first)
        self.assertTrue(second.endswith("Größe 5"))

    def test_lines(self) -> None:
        """A second line is indented, as those of a traceback are."""
        self.log.info("no user {name}", name="a\n2026-01-01T00:00:00+0000 [auth#info] root logged in")
        try:
            raise ValueError("x\x1b[2J\ny")
        except ValueError:
            self.log.failure("it failed")
        lines = self.output.getvalue().split("\n")
        self.assertTrue(all(line.startswith(("20", "\t")) or not line for line in lines))
        self.assertEqual(
            [line[25:36] for line in lines if not line.startswith("\t") and line], ["[test#info]", "[test#criti"]
        )
        self.assertNotIn("\x1b", self.output.getvalue())
