"""One-time codes by time (RFC 6238: SHA-1, six digits, steps of 30 seconds)."""

from __future__ import annotations

import hmac

import pyotp

STEP = 30
#: Stands in where there is no secret, so that both take the same time.
_DUMMY = "A" * 32


def new_secret() -> str:
    """160 random bits in base32 (RFC 4226, section 4, recommends that length)."""
    return pyotp.random_base32(32)


def provisioning_uri(secret: str, user: str, cluster: str) -> str:
    """What the QR code shows."""
    return pyotp.TOTP(secret).provisioning_uri(name=f"{user}@{cluster}", issuer_name="Teleport")


def matching_step(secret: str | None, code: str, now: float, after: int = 0) -> int | None:
    """The step that ``code`` belongs to: the present one or a neighbour, later than ``after``.

    None for a wrong code, one that was used, and when there is no secret.
    """
    totp = pyotp.TOTP(secret or _DUMMY)
    present = int(now) // STEP
    given = code.strip().replace(" ", "").encode("utf-8", "surrogatepass")
    found = None
    for step in (present - 1, present, present + 1):
        if hmac.compare_digest(totp.generate_otp(step).encode(), given) and step > after:
            found = step
    return found if secret else None
