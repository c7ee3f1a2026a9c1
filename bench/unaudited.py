"""An agent that records no statement, to measure what recording costs: no product has this switch.

It is started as ``teleport start`` is, with the same flags.
"""

from __future__ import annotations

import sys

from teleport_db.cli import teleport
from teleport_db.db.relay import BackendRelay, FrontendRelay


def client_sends(relay: FrontendRelay, data: bytes) -> None:
    """Pass on, and look at nothing."""
    relay.heard += 1
    relay._forward(data)


def database_sends(relay: BackendRelay, data: bytes) -> None:
    """Likewise."""
    relay._forward(data)


FrontendRelay.receive = client_sends  # type: ignore[method-assign]
BackendRelay.receive = database_sends  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(teleport.main(["start", *sys.argv[1:]]))
