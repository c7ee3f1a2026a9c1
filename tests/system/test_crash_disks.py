"""Spool and log on disks that are full or broken: refused in words, nothing lost, and on it goes once there is room."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.pgwire.messages import TERMINATE, message
from tests import postgres
from tests.system.crash import disks
from tests.system.crash.apart import AGENT, AUTH, SERVICE, Apart, build
from tests.system.crash.fuse import SEGMENT
from tests.system.crash.ledger import OK
from tests.system.crash.reckoning import Reckoning
from tests.system.raw import Raw, context, error
from tests.system.support import Failed, shared, until

#: AuditUnavailable's.
NO_AUDIT = "58030"
#: Statements that fill whatever is left of a block.
MANY = 200


class Hand:
    """Somebody's session by hand, with everything that it saw in the ledger.

    :ivar refused: the SQLSTATE with which it was not let in.
    """

    def __init__(self, world: Apart, name: str) -> None:
        self._ledger, settings = world.ledger, world.person(name).settings(SERVICE)
        self._raw = Raw(int(settings["port"]))
        said = self._raw.secure(context(settings)).startup(user=settings["user"], database=settings["dbname"])
        self.refused = error(said).get("C", "")
        self.word = ""

    def ask(self) -> str:
        """Run a statement; ``ok``, or the SQLSTATE with which the session ended."""
        statement = self._ledger.begin("by hand", "Hand")
        self.word = statement.word
        said = self._raw.ask(message(b"Q", f"SELECT '{self.word}'\0".encode()))
        if said and said[-1][0] == b"Z":
            statement.seen = OK
        return statement.seen or error(said).get("C", "")

    def until_refused(self) -> str:
        """Run statements until one is not; the SQLSTATE."""
        return next((state for state in (self.ask() for _ in range(MANY)) if state != OK), OK)

    def close(self) -> None:
        """As psql does it."""
        if self._raw.socket.fileno() >= 0:
            self._raw.send(TERMINATE)
            self._raw.close()


class DiskCase(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world: Apart = shared(build)
        self.hands: list[Hand] = []
        self.addCleanup(lambda: [hand.close() for hand in self.hands])
        self.until_works()  # the test before this one may have started an agent anew

    def hand(self, name: str = "alice") -> Hand:
        """A session."""
        hand = Hand(self.world, name)
        self.hands.append(hand)
        return hand

    def until_works(self, name: str = "alice") -> None:
        """New sessions are let in, and their statements run."""

        def works() -> bool:
            hand = self.hand(name)
            return not hand.refused and hand.ask() == OK

        until(works, "a session to work")

    def assertAgree(self) -> None:
        """Clients, PostgreSQL and the log, once everything has come through."""
        for hand in self.hands:
            hand.close()
        self.assertEqual(Reckoning(self.world).violations(), [])


class SpoolTests(DiskCase):
    """The agent's."""

    def test_no_larger_files(self) -> None:
        """A write that ends half way is taken back; other sessions are refused, and go on when there is room."""
        agent, spool = self.world.running[AGENT], self.world.spools()[0]
        os.truncate(agent.log, 0)  # it is a file of the process's, too
        running, idle = self.hand(), self.hand()
        self.assertEqual(running.ask(), OK)

        def written() -> int:
            self.assertEqual(running.ask(), OK)
            return max(spool.glob("*.jsonl")).stat().st_size

        # Not at the end of a segment: the next one begins with nothing, and would be small enough.
        until(lambda: written() < SEGMENT // 2, "a segment with room")
        with disks.no_larger_files(agent.pid, written() + 700):
            self.assertEqual(running.until_refused(), NO_AUDIT)
            self.assertEqual(self.hand().refused, NO_AUDIT)
        self.assertEqual(idle.ask(), OK)
        self.until_works()
        self.assertAgree()

    def test_full(self) -> None:
        """No room at all, not even for the ends of sessions: they come when there is some."""
        spool = self.world.spools()[0]
        with disks.small_disk(self.world, AGENT, spool):
            self.until_works()
            running, idle = self.hand(), self.hand()
            with disks.filled(spool):
                self.assertEqual(running.until_refused(), NO_AUDIT)
                self.assertEqual(self.hand().refused, NO_AUDIT)
            self.assertEqual(idle.ask(), OK)
            self.until_works()
            self.assertAgree()

    test_full.skip = disks.why_no_small_disk()  # type: ignore[attr-defined]

    def test_broken(self) -> None:
        """A disk that loses what it was given: what waits for it never runs, and nothing does before a restart."""
        agent = self.world.running[AGENT]
        running, strict = self.hand(), self.hand("carol")
        self.assertEqual((running.ask(), strict.ask()), (OK, OK))
        with disks.broken_disk(agent.pid):
            self.assertEqual(strict.ask(), NO_AUDIT)
            self.assertEqual(running.until_refused(), NO_AUDIT)
        self.assertEqual(self.hand().refused, NO_AUDIT)
        self.assertNotIn(strict.word, self.world.postgres.log)
        agent.kill()
        self.world.begin(AGENT).until_up()
        self.until_works("carol")
        self.assertAgree()

    test_broken.skip = disks.why_no_tracing()  # type: ignore[attr-defined]


class LogTests(DiskCase):
    """Auth's: sessions go on, and what they do waits in the spools."""

    def test_full(self) -> None:
        """What auth itself does is refused meanwhile, for it could not be recorded."""
        log = self.world.directory / "data" / "audit"
        hand = self.hand()
        with disks.small_disk(self.world, AUTH, log, 32 * disks.MEBIBYTE):
            with disks.filled(log):
                for number in range(MANY):
                    self.assertEqual(hand.ask(), OK)
                    if number % 20 == 0:
                        self.assertEqual(self.hand().refused, "")
                said = until(self.refused, "auth to refuse")
                self.assertIn("the audit log cannot be written", said)
            self.assertAgree()

    test_full.skip = disks.why_no_small_disk()  # type: ignore[attr-defined]

    def refused(self) -> str:
        """What a change of auth's state is answered, when it is refused."""
        try:
            self.world.tctl("tokens", "add", "--type=db")
        except Failed as error:
            return str(error)
        return ""

    def test_broken(self) -> None:
        """What it could not sync it takes back, and asks for again."""
        hand = self.hand()
        with disks.broken_disk(self.world.running[AUTH].pid):
            for _ in range(50):
                self.assertEqual(hand.ask(), OK)
            until(lambda: "cannot be written" in self.world.running[AUTH].said, "the log to fail")
        self.assertEqual(hand.ask(), OK)
        self.assertAgree()

    test_broken.skip = disks.why_no_tracing()  # type: ignore[attr-defined]
