"""Tokens that are handed out once and kept as hashes only."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

#: Makes a new token of 128 random bits, as Teleport's.
NewToken = Callable[[], str]


def new_token() -> str:
    """128 random bits in hexadecimal."""
    return secrets.token_hex(16)


def hashed(token: str) -> str:
    """What is kept of a token.

    SHA-256 without salt or stretching: a token is random, nobody can try them all.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
