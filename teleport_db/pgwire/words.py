"""Words because of which a statement needs a closer look."""

from __future__ import annotations

from typing import Final

__all__ = ["WORDS", "mentions", "pure_mentions"]

#: SQL with one of these, in any case of letters, may make or drop a name, or hold what must not be shown.
WORDS: Final = (b"prepare", b"declare", b"deallocate", b"pass", b"secret", b"token", b"://", b"u&")


def pure_mentions(sql: bytes) -> bool:
    """Whether there is one of :data:`WORDS` in it."""
    lowered = sql.lower()
    return any(word in lowered for word in WORDS)


try:
    from teleport_db._speed import mentions
except ImportError:  # it was installed without a compiler
    mentions = pure_mentions
