"""Random UUIDs in numbers: the operating system is asked once for 64 of them."""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["pure_uuids", "uid_source", "uuids"]

_BATCH = 64


def pure_uuids(random: bytes) -> list[str]:
    """A UUID of each 16 random bytes."""
    digits = random.hex()
    return [
        f"{digits[i : i + 8]}-{digits[i + 8 : i + 12]}-4{digits[i + 13 : i + 16]}-"
        f"{'89ab'[int(digits[i + 16], 16) & 3]}{digits[i + 17 : i + 20]}-{digits[i + 20 : i + 32]}"
        for i in range(0, 32 * (len(random) // 16), 32)
    ]


try:
    from teleport_db._speed import uuids
except ImportError:  # it was installed without a compiler
    uuids = pure_uuids


def uid_source(entropy: Callable[[int], bytes] = os.urandom) -> Callable[[], str]:
    """A function that returns a new UUID (version 4, RFC 9562) at each call.

    :param entropy: so many random bytes, as ``os.urandom``.
    """
    ready: list[str] = []

    def new_uid() -> str:
        if not ready:
            ready.extend(uuids(entropy(16 * _BATCH)))
        return ready.pop()

    return new_uid
