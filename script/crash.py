"""kill -9 of auth, proxy and agent under load, and whether the audit log has everything that a client saw.

::

    a dozen clients ──▶ proxy ──▶ agent ──▶ PostgreSQL, log_statement = all        each a process of its own
                          └──────────────▶ auth, audit log

A round kills its victim at one of the named points of ``tests/system/crash/fuse.py`` or anywhere, starts it again,
and waits until the clients get on and the spools are shipped.  Every tenth round the clients rest, and what they
saw, what PostgreSQL ran and what the audit log has are compared.  The exit status is 1 when they do not agree; a
copy of all logs is kept then.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.system.crash.rounds import Campaign

ROOT = Path(__file__).resolve().parent.parent
#: Violations that are shown; the rest is in the copy that is kept.
SHOWN = 20


def show(campaign: Campaign, victims: list[str], seconds: float) -> None:
    """What was done, as a table, and what came of it."""
    from tests.system.crash.fuse import POINTS
    from tests.system.crash.rounds import ANYWHERE

    points = campaign.points()
    print(f"\n{'victim':8}{'point':28}{'kills':>6}")
    for victim in victims:
        for point in (*POINTS[victim], ANYWHERE):
            print(f"{victim:8}{point:28}{points[victim, point]:6}")
    ledger, reckoning = campaign.ledger, campaign.reckoning
    print(
        f"\n{len(campaign.kills)} kills in {seconds:.0f} s; {len(ledger.statements)} statements sent in"
        f" {ledger.sessions} sessions, {ledger.complete} seen complete;"
        f" {reckoning.events} events of {len(reckoning.sessions)} sessions in the log"
    )
    print(f"{len(campaign.violations)} violations")


def main() -> int:
    """The exit status."""
    sys.path.insert(0, str(ROOT))
    from tests import postgres
    from tests.system.crash import apart
    from tests.system.crash.fuse import POINTS
    from tests.system.crash.rounds import Campaign
    from tests.system.support import demo

    parser = argparse.ArgumentParser(prog="script/crash", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="of each victim; default: 50")
    parser.add_argument("--victim", choices=(*apart.VICTIMS, "all"), default="all", help="default: all, in turn")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 16), help="decides what is done, and where")
    parser.add_argument("--point", action="append", metavar="POINT", help="only here; may be repeated")
    parser.add_argument("--spares", type=int, default=0, metavar="N", help="agents beside the victim, to go on with")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds is 1 at least")
    if postgres.skip:
        print(postgres.skip, file=sys.stderr)
        return 1
    points = arguments.point or []
    known = [point for own in POINTS.values() for point in own]
    if unknown := [point for point in points if point not in known]:
        parser.error(f"no such point: {unknown[0]}; there are: {', '.join(known)}")
    victims = list(apart.VICTIMS) if arguments.victim == "all" else [arguments.victim]
    victims = [victim for victim in victims if not points or {*points} & {*POINTS[victim]}]
    if not victims:
        parser.error(f"{arguments.victim} has no such point")
    print(f"seed {arguments.seed}", flush=True)
    with demo.interruptible(), contextlib.ExitStack() as stack:
        world = apart.build(arguments.spares)
        stack.callback(world.close)
        began = time.monotonic()
        campaign = Campaign(world, seed=arguments.seed, say=lambda line: print(line, flush=True), points=points)
        stack.callback(campaign.close)
        for victim in victims:
            campaign.run(victim, arguments.rounds)
        campaign.violations += [*campaign.reckoning.indexed(), *campaign.unreached()]
        show(campaign, victims, time.monotonic() - began)
        for violation in campaign.violations[:SHOWN]:
            print(f"  {violation}")
        if campaign.violations:
            print(f"everything is kept in {campaign.evidence()}")
            same = [f"--victim={arguments.victim}", f"--rounds={arguments.rounds}", f"--seed={arguments.seed}"]
            same += [f"--spares={arguments.spares}", *(f"--point={point}" for point in points)]
            print(f"again: ./script/crash {shlex.join(same)}")
    return int(bool(campaign.violations))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
