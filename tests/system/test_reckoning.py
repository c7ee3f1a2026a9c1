"""What is compared after a crash is compared to the end."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.system.crash.reckoning import difference


class DifferenceTests(SynchronousTestCase):
    def test_copy(self) -> None:
        """A copy may lag behind a log that goes on; it may have no other line, and none that the log has not."""
        log = [b"1\n", b"2\n"]
        self.assertEqual([*difference(log, log)], [])
        self.assertEqual([*difference(log[:1], log)], [])
        self.assertEqual([*difference([b"1\n", b"3\n"], log)], ["the sink's line 2 is b'3\\n', the log's b'2\\n'"])
        self.assertEqual([*difference([*log, b"2\n"], log)], ["the sink's line 3 is b'2\\n', the log has no more"])
