"""An agent that records no statement, to measure what recording costs: no product has this switch.

It is started as ``teleport start`` is, with the same flags.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from teleport_db.cli import teleport
from teleport_db.db.record import SessionRecord


def nothing(record: SessionRecord, statements: Sequence[Any]) -> None:
    """In the place of what writes statements down."""


SessionRecord.statements = nothing  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(teleport.main(["start", *sys.argv[1:]]))
