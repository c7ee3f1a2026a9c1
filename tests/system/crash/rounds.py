"""Kill, start again, let everything come through, once more.

::

    clients at work ─▶ the fuse is lit ─▶ dead ─▶ started again ─▶ clients get on ─▶ spools shipped ─▶ next round
                                                     │
                                                     └ every third time with a fuse that burns while it starts
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection
from itertools import cycle
from pathlib import Path

import attrs

from tests import postgres
from tests.system.crash.apart import PEOPLE, SERVICE, Apart
from tests.system.crash.fuse import AT_START, POINTS
from tests.system.crash.reckoning import Reckoning
from tests.system.crash.traffic import Client, Crowd, PsqlClient, PsycopgClient, RawClient
from tests.system.support import Process

#: Clients of each kind.
SIZES: dict[type[Client], int] = {RawClient: 7, PsycopgClient: 4, PsqlClient: 1}
#: Seconds until a fuse must have burned; then the process is killed where it is.
BURNING = 8.0
#: Statements that clients have to see complete before the next round.
MORE = 40
#: What a kill at no named point is called.
ANYWHERE = "anywhere"
#: Every so often, from the second round on, a process is killed once more while it starts.
EARLY = 3


@attrs.frozen
class Kill:
    """One kill.

    :param point: that was ordered; ``died`` is where it came.
    """

    victim: str
    number: int
    point: str
    passes: int
    died: str
    early: bool = False

    def __str__(self) -> str:
        when = " while it started" if self.early else ""
        return f"{self.victim} {self.number}: {self.point} ({self.passes}){when}, killed {self.died}"


class Campaign:
    """Rounds on one cluster.

    :param say: is told how it goes, a line at a time.
    :param points: where to kill; everywhere unless given.
    """

    def __init__(
        self,
        world: Apart,
        *,
        seed: int,
        say: Callable[[str], None] = lambda line: None,
        points: Collection[str] = (),
    ) -> None:
        self._world, self._say, self._points = world, say, points
        self._random = random.Random(seed)
        people = [world.person(name) for name in PEOPLE]
        self.crowd = Crowd(people, SERVICE, world.ledger, seed=seed, sizes=SIZES)
        self.ledger = world.ledger
        self.reckoning = Reckoning(world)
        self.kills: list[Kill] = []
        self.violations: list[str] = []

    def close(self) -> None:
        """The clients go home."""
        self.crowd.close()

    def run(self, victim: str, rounds: int, *, check_every: int = 10) -> None:
        """So many rounds of one victim; what does not agree afterwards is in :attr:`violations`."""
        points = cycle(self._order(victim))
        for number in range(1, rounds + 1):
            self.crowd.work()
            try:
                self._round(victim, number, next(points))
            except AssertionError as error:
                self.violations.append(f"{victim} {number}: {error}")
                return
            if number % check_every == 0 or number == rounds:
                self.check()

    def _order(self, victim: str) -> list[str]:
        points = [*POINTS[victim], ANYWHERE, ANYWHERE]
        if self._points:
            points = [point for point in points if point in self._points]
        self._random.shuffle(points)
        return points

    def _round(self, victim: str, number: int, point: str) -> None:
        began, world = time.monotonic(), self._world
        if not self.crowd.until_more(MORE):
            self.violations.append(f"{victim} {number}: the clients do not get on")
        process = world.running[victim]
        passes = 0
        if point == ANYWHERE or point in AT_START:
            time.sleep(self._random.uniform(0, 0.5))
            process.kill()
        else:
            passes = self._passes(POINTS[victim][point])
            world.order(victim, point, passes)
        self.kills.append(Kill(victim, number, point, passes, self._dead(process)))
        if point in AT_START:
            self._early(victim, number, point)
        elif number % EARLY == 2:
            points = [point for point in POINTS[victim] if not self._points or point in self._points]
            self._early(victim, number, self._random.choice(points))
        world.begin(victim).until_up()
        world.until_shipped()
        self._say(f"{self.kills[-1]}; {self.ledger.complete} statements, {time.monotonic() - began:.1f} s")

    def _passes(self, most: int) -> int:
        return max(1, round(most ** self._random.random()))

    def _early(self, victim: str, number: int, point: str) -> None:
        """Start it with a fuse that is lit: it dies while it starts, or soon afterwards."""
        passes = self._passes(min(4, POINTS[victim][point]))
        process = self._world.begin(victim, point, passes)
        self.kills.append(Kill(victim, number, point, passes, self._dead(process), early=True))

    def _dead(self, process: Process) -> str:
        """Wait for its end; where that came."""
        deadline = time.monotonic() + BURNING
        while process.code is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.code is None:
            process.kill()
            return ANYWHERE
        if process.code != -9:
            self.violations.append(f"{process.name} ended with {process.code}: {process.said[-2000:]}")
        _, found, point = process.said.rpartition("killed at: ")
        return f"at: {point.strip()}" if found else ANYWHERE

    def check(self) -> None:
        """Have the clients rest, everything come through, and compare."""
        self.violations += self.crowd.rest()
        try:
            found = self.reckoning.violations()
        except AssertionError as error:
            found = [str(error)]
        self.violations += [line for line in found if line not in self.violations]
        self._say(f"checked: {self.reckoning.events} events, {len(found)} violations")

    def points(self) -> Counter[tuple[str, str]]:
        """Kills by victim and point."""
        return Counter((kill.victim, kill.died.removeprefix("at: ")) for kill in self.kills)

    def unreached(self) -> list[str]:
        """Points that were ordered more than once, and where no process ever came: they are not wired any more."""
        ordered = Counter((kill.victim, kill.point) for kill in self.kills if kill.point != ANYWHERE)
        reached = self.points()
        return [
            f"{victim}: was to be killed {times} times at {point!r}, and never came there"
            for (victim, point), times in ordered.items()
            if times > 1 and not reached[victim, point]
        ]

    def evidence(self) -> Path:
        """A copy of the logs, the spools and the ledger, for who looks for the reason."""
        kept: Path = postgres.temporary_directory("teleport-db-crash-")
        shutil.copytree(self._world.directory / "data" / "audit", kept / "audit")
        for spool in self._world.spools():
            shutil.copytree(spool, kept / spool.relative_to(self._world.directory))
        for log in self._world.directory.glob("*.log"):
            shutil.copy(log, kept)
        (kept / "postgresql.log").write_text(self._world.postgres.log)
        (kept / "ledger").write_text(
            "".join(f"{each.word} {each.client} {each.kind}: {each.seen}\n" for each in self.ledger.statements.values())
        )
        (kept / "kills").write_text("".join(f"{kill}\n" for kill in self.kills))
        (kept / "violations").write_text("".join(f"{line}\n" for line in self.violations))
        return kept
