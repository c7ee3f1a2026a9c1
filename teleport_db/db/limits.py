"""How long a running session may go on: its certificate's end, and its idle time.

The idle clock stands still while anything runs: it counts from the moment when the database had answered
all that it was asked, and nothing was heard of the client since.
"""

from __future__ import annotations

from functools import lru_cache

import attrs
from cryptography import x509

from teleport_db.access.limits import Limits
from teleport_db.certs.authority import BACKDATE
from teleport_db.certs.tls import KEPT
from teleport_db.errors import AccessDenied, SessionCut
from teleport_db.identity import Identity


@lru_cache(maxsize=KEPT)
def certificate_end(certificate: bytes) -> float:
    """Until when a certificate (DER) is valid, in seconds since the epoch."""
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()


@lru_cache(maxsize=KEPT)
def certificate_begin(certificate: bytes) -> float:
    """When a certificate (DER) was signed, in seconds since the epoch."""
    return x509.load_der_x509_certificate(certificate).not_valid_before_utc.timestamp() + BACKDATE


def check_present(identity: Identity, limits: Limits) -> None:
    """Raise AccessDenied where a role wants a one-time code for each session, and the certificate had none."""
    if limits.require_session_mfa and not identity.mfa:
        service = identity.route.service if identity.route else "NAME"
        asks = f"{limits.whose('require_session_mfa')} asks for a one-time code at each login to a database"
        raise AccessDenied(
            f"access denied: {asks}; run: tsh db connect {service} (or tsh db login {service})",
            reasons=(f"{asks} (require_session_mfa), and the certificate was given without one",),
        )


def words(seconds: float) -> str:
    """A time as a person says it: ``10 minutes``."""
    for size, name in ((3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {name}" + ("s" if count != 1 else "")
    return f"{seconds:g} seconds"


@attrs.define
class SessionLimits:
    """The limits of one session.

    :param options: of the user's roles and the cluster together, the strictest.
    :param valid_until: of the certificate, seconds since the epoch.
    :param active_at: when the session was last known to do something.
    :param heard: the count of client's chunks at that time.
    """

    options: Limits
    valid_until: float
    active_at: float
    heard: int = 0

    def check(self, now: float, *, heard: int, idle: bool) -> SessionCut | None:
        """Why the session must end now, or None.

        :param heard: chunks of the client so far.
        :param idle: whether the database has answered all that it was asked.
        """
        if self.options.disconnect_expired_cert and now >= self.valid_until:
            return SessionCut(
                "the certificate of this session has expired, and "
                f"{self.options.whose('disconnect_expired_cert')} ends it then (disconnect_expired_cert);"
                " log in again: tsh login, tsh db login"
            )
        if not idle or heard != self.heard:
            self.heard, self.active_at = heard, now
        elif 0 < self.options.client_idle_timeout <= now - self.active_at:
            return SessionCut(
                f"this session was idle for {words(self.options.client_idle_timeout)}, which is all that "
                f"{self.options.whose('client_idle_timeout')} allows (client_idle_timeout); connect again"
            )
        return None
