"""Labels whose values commands print."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config.model import DynamicLabel
from teleport_db.db.labels import MAX_SECONDS, MAX_VALUE, DynamicLabels


class LabelTests(SynchronousTestCase):
    """One label, every 60 seconds."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.runs: list[Deferred[bytes]] = []
        self.changes = 0
        label = DynamicLabel(command=("/bin/zone",), period=60.0)
        self.labels = DynamicLabels({"zone": label}, run=self.run_it, clock=self.clock, changed=self.changed)
        self.labels.start()

    def run_it(self, command: tuple[str, ...]) -> Deferred[bytes]:
        self.assertEqual(command, ("/bin/zone",))
        self.runs.append(Deferred())
        return self.runs[-1]

    def changed(self) -> None:
        self.changes += 1

    def prints(self, output: bytes) -> None:
        self.runs[-1].callback(output)
        self.clock.advance(60)

    def test_value(self) -> None:
        """Absent until it was printed; only changes are told."""
        self.assertEqual(self.labels.values, {})
        for output in (b" a\n", b"a", b"b"):
            self.prints(output)
        self.assertEqual((self.labels.values, self.changes), ({"zone": "b"}, 2))

    def test_nothing_of_use(self) -> None:
        """No output leaves the last value; a long one is cut, an undecodable one replaced."""
        self.prints(b"a")
        self.prints(b" \n")
        self.assertEqual(self.labels.values, {"zone": "a"})
        self.prints(b"x" * 5000)
        self.assertEqual(len(self.labels.values["zone"]), MAX_VALUE)
        self.prints(b"\xff")
        self.assertEqual(self.labels.values, {"zone": "\ufffd"})

    def test_failure(self) -> None:
        """A command that fails or takes too long leaves the last value and is run again."""
        self.prints(b"a")
        self.runs[-1].errback(OSError("no such command"))
        self.clock.advance(60)
        self.clock.advance(MAX_SECONDS)
        self.clock.advance(60)
        self.assertEqual(len(self.runs), 4)
        self.assertEqual(self.labels.values, {"zone": "a"})

    def test_stop(self) -> None:
        """After the stop nothing runs, and what still prints changes nothing."""
        self.labels.stop()
        self.runs[-1].callback(b"late")
        self.clock.advance(600)
        self.assertEqual((len(self.runs), self.labels.values, self.changes), (1, {}, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])
