"""The server's side of SCRAM-SHA-256, for tests: written from RFC 5802 apart from the client's.

It keeps what PostgreSQL keeps of a password, a verifier, and says yes or no.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from hashlib import pbkdf2_hmac, sha256

import attrs


@attrs.define
class ScramServer:
    """One exchange.

    :param binding: of this server's own certificate; None where it offers no PLUS.
    """

    password: bytes
    salt: bytes = b"0123456789abcdef"
    iterations: int = 4096
    more: bytes = b"more"
    binding: bytes | None = None
    plus: bool = False
    gs2: bytes = b""
    bare: bytes = b""
    first: bytes = b""

    def answer_first(self, mechanism: str, data: bytes) -> bytes:
        """The server-first-message."""
        flag, authzid, self.bare = data.split(b",", 2)
        assert authzid == b""
        self.plus = mechanism == "SCRAM-SHA-256-PLUS"
        assert flag == b"p=tls-server-end-point" if self.plus else flag in (b"n", b"y"), flag
        # RFC 5802, section 6: y to a server that does offer PLUS is a downgrade.
        assert not (flag == b"y" and self.binding is not None), "the list of mechanisms was tampered with"
        self.gs2 = flag + b",,"
        user, nonce = self.bare.split(b",")
        assert user.startswith(b"n=") and nonce.startswith(b"r=")
        self.first = b"%s%s,s=%s,i=%d" % (nonce, self.more, b64encode(self.salt), self.iterations)
        return self.first

    def answer_final(self, data: bytes) -> bytes | None:
        """The server-final-message; None for a wrong password or binding."""
        without_proof, proof = data.rsplit(b",p=", 1)
        bound, nonce = without_proof.split(b",")
        if self.plus:
            assert self.binding is not None
        expected = b64encode(self.gs2 + (self.binding if self.plus and self.binding else b""))
        if bound != b"c=" + expected or nonce != self.first.split(b",")[0]:
            return None
        salted = pbkdf2_hmac("sha256", self.password, self.salt, self.iterations)
        stored = sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        message = self.bare + b"," + self.first + b"," + without_proof
        signature = hmac.digest(stored, message, "sha256")
        key = bytes(a ^ b for a, b in zip(b64decode(proof), signature, strict=True))
        if sha256(key).digest() != stored:
            return None
        return b"v=" + b64encode(hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256"))
