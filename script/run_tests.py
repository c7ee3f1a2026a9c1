"""Run the suite under Trial and end with ``N passed, N failed, N skipped``."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Seconds after which a run that hangs says where, and ends.
PATIENCE = 13 * 60


def main(names: list[str]) -> int:
    """Run these names (default: everything); the exit status."""
    from twisted.trial.reporter import TextReporter
    from twisted.trial.runner import TestLoader, TrialRunner

    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    suite = TestLoader().loadByNames(names or ["tests"], recurse=True)
    result = TrialRunner(TextReporter, tracebackFormat="default", realTimeErrors=True).run(suite)
    faulthandler.cancel_dump_traceback_later()
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    if result.testsRun == 0:
        failed += 1
        print("no tests were found")
    sys.stderr.flush()
    print(f"{result.successes} passed, {failed} failed, {len(result.skips)} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(main(sys.argv[1:]))
