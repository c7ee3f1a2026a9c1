"""OpenSSL's errors in our words."""

from __future__ import annotations

import ssl

from teleport_db.errors import AuthenticationFailed, ConnectionTrouble, TeleportDBError

#: Alerts by which a peer refuses our certificate, as OpenSSL spells their reasons.
_REFUSED = (
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
    "CERTIFICATE_REQUIRED",
    "HANDSHAKE_FAILURE_CERTIFICATE",
)


class Unverified(AuthenticationFailed):
    """The peer showed a certificate that does not verify."""


def trouble(error: ssl.SSLError) -> TeleportDBError:
    """One of our errors, with words, for one of OpenSSL's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unverified(f"the other side's certificate does not verify: {error.verify_message}")
    reason = (error.reason or "").upper()
    words = reason.lower().replace("_", " ")
    if "_ALERT_" in reason:
        alert = words.split(" alert ", 1)[1]
        if reason.endswith(_REFUSED):
            return AuthenticationFailed(f"the other side refused our certificate: {alert}")
        return ConnectionTrouble(f"the other side ended TLS: {alert}")
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return AuthenticationFailed("the other side has no certificate")
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
        return ConnectionTrouble("the other side does not speak TLS here", detail=words)
    if isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING":
        return ConnectionTrouble("TLS was cut short", detail=words)
    return ConnectionTrouble(f"TLS failed: {words or error}")
