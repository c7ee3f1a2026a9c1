"""What binds a login to the TLS it is said in: ``tls-server-end-point`` of RFC 5929, section 4.

Whoever relays a login through a TLS of his own has another certificate, and so another binding.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes


def server_end_point(certificate_der: bytes) -> bytes | None:
    """The hash of a server's certificate, with the hash function of its signature.

    MD5 and SHA-1 are replaced by SHA-256.  None where the signature names no hash function of its own
    (Ed25519): the RFC leaves that open, and PostgreSQL and libpq fail on it.
    """
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        algorithm = certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate_der)
    return digest.finalize()
