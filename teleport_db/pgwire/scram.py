"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the client's side.

::

    agent                                                database
                                                   ◀──   the mechanisms that it knows
    p=tls-server-end-point,,n=,r=NONCE             ──▶
                                                   ◀──   r=NONCE+MORE,s=SALT,i=ITERATIONS
        PBKDF2, by the caller: it may take half a second
    c=BINDING,r=NONCE+MORE,p=PROOF                 ──▶   that we know the password
                                                   ◀──   v=SIGNATURE             that it knew it before

The user's name is empty: PostgreSQL takes the startup's.  The nonce is the caller's, so all of this is a
function of its input.

Source: RFC 5802, RFC 7677, RFC 5929 (the binding), RFC 4013 (the password); PostgreSQL's documentation,
"SASL Authentication", and its ``saslprep.c`` for what happens to passwords that RFC 4013 refuses.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import re
import stringprep
import unicodedata
from collections.abc import Sequence

import attrs

from teleport_db.errors import AuthenticationFailed, LocalProtocolError, RemoteProtocolError

PLAIN, PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"

#: Iterations of PBKDF2 that a server may ask for: a third of a second of a processor.  PostgreSQL's default is 4,096,
#: and its ``scram_iterations`` goes up to 2^31.  There is no lower bound: the server has our password's hash anyway.
MAX_ITERATIONS = 1_000_000
#: Bytes of one message of a server; PostgreSQL's have about 100.
MAX_MESSAGE = 4096

_NONCE = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
_ITERATIONS = re.compile(r"[1-9][0-9]{0,9}")
_EXTENSION = re.compile(r"[A-Za-z]=.+")


class Step(enum.Enum):
    """How far an exchange is."""

    NEW = enum.auto()
    FIRST_SENT = enum.auto()
    DERIVING = enum.auto()
    FINAL_SENT = enum.auto()
    PROVED = enum.auto()
    FAILED = enum.auto()


class Received(enum.Enum):
    """What comes from outside."""

    MECHANISMS = enum.auto()
    SERVER_FIRST = enum.auto()
    KEY = enum.auto()
    SERVER_FINAL = enum.auto()


#: The one order there is; what is missing here is an error.
TRANSITIONS = {
    (Step.NEW, Received.MECHANISMS): Step.FIRST_SENT,
    (Step.FIRST_SENT, Received.SERVER_FIRST): Step.DERIVING,
    (Step.DERIVING, Received.KEY): Step.FINAL_SENT,
    (Step.FINAL_SENT, Received.SERVER_FINAL): Step.PROVED,
}


@attrs.frozen
class Derivation:
    """A calculation to do before the exchange goes on; it needs nothing but itself, so any thread can do it."""

    password: bytes = attrs.field(repr=False)
    salt: bytes
    iterations: int

    def run(self) -> bytes:
        """The salted password, 32 bytes."""
        return hashlib.pbkdf2_hmac("sha256", self.password, self.salt, self.iterations)


class ScramClient:
    """One exchange.

    :param password: as the owner wrote it, in any encoding.
    :param nonce: printable ASCII without a comma, new for each exchange and not to be guessed.
    :param binding: the hash of the server's certificate, as ``tls-server-end-point`` has it; None where
        there is none to bind to.
    :param user: PostgreSQL takes no notice of it.
    """

    def __init__(self, password: bytes, *, nonce: str, binding: bytes | None, user: str = "") -> None:
        if not _NONCE.fullmatch(nonce):
            raise LocalProtocolError("a nonce is printable and has no comma")
        self._password = password
        self._nonce = nonce
        self._user = user.replace("=", "=3D").replace(",", "=2C")
        self._binding = binding
        self._step = Step.NEW
        self._header = ""
        self._first = ""
        self._final = ""
        self._server_first = ""
        self._server_signature = b""

    @property
    def proved(self) -> bool:
        """The server has shown that it knows the password's hash."""
        return self._step is Step.PROVED

    def _enter(self, received: Received) -> Step:
        """The step that follows; until that is reached, a failure is the end."""
        following = TRANSITIONS.get((self._step, received))
        if following is None:
            raise RemoteProtocolError("the database's SCRAM messages come in no order there is")
        self._step = Step.FAILED
        return following

    def begin(self, offered: Sequence[str]) -> tuple[str, bytes]:
        """Choose a mechanism of those offered: its name and client-first-message.

        :raises AuthenticationFailed: none of them can be spoken.
        """
        following = self._enter(Received.MECHANISMS)
        if self._binding is not None and PLUS in offered:
            chosen, self._header = PLUS, "p=tls-server-end-point,,"
        elif PLAIN in offered:
            # y: a server that does offer PLUS learns that somebody took it off its list, and refuses.
            chosen, self._header = PLAIN, "n,," if self._binding is None else "y,,"
        else:
            raise AuthenticationFailed(
                f"the database offers {_listed(offered)} only, and its agent speaks SCRAM-SHA-256"
                + (" (its certificate's signature has no hash to bind to)" if PLUS in offered else "")
            )
        self._first = f"n={self._user},r={self._nonce}"
        self._step = following
        return chosen, (self._header + self._first).encode()

    def server_first(self, data: bytes) -> Derivation:
        """Take the server-first-message.

        :raises RemoteProtocolError: it is none, or asks for too much work.
        """
        following = self._enter(Received.SERVER_FIRST)
        self._server_first = text = _text(data)
        if text.startswith("m="):
            raise RemoteProtocolError("the database asks for an extension of SCRAM that is not known here")
        nonce, salt, iterations = _attributes(text, "rsi")
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce) or not _NONCE.fullmatch(nonce):
            raise RemoteProtocolError("the database did not add to the nonce of this login; is it another login's?")
        if not _ITERATIONS.fullmatch(iterations):
            raise RemoteProtocolError("the database sent a malformed number of SCRAM iterations")
        if int(iterations) > MAX_ITERATIONS:
            raise RemoteProtocolError(
                f"the database asks for {iterations} SCRAM iterations; at most {MAX_ITERATIONS} are done "
                "(its setting scram_iterations, when the password was set)"
            )
        binding = self._binding if self._header.startswith("p=") and self._binding else b""
        encoded = base64.b64encode(self._header.encode() + binding).decode()
        self._final = f"c={encoded},r={nonce}"
        prepared, self._password = saslprep(self._password), b""
        derivation = Derivation(prepared, _decoded(salt), int(iterations))
        self._step = following
        return derivation

    def keyed(self, salted_password: bytes) -> bytes:
        """The client-final-message, with what :meth:`Derivation.run` gave."""
        following = self._enter(Received.KEY)
        message = ",".join((self._first, self._server_first, self._final)).encode()
        client_key = _hmac(salted_password, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), message)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = _hmac(_hmac(salted_password, b"Server Key"), message)
        self._step = following
        return f"{self._final},p={base64.b64encode(proof).decode()}".encode()

    def server_final(self, data: bytes) -> None:
        """Take the server-final-message and verify it.

        :raises AuthenticationFailed: the server does not know the password, or says that we do not.
        """
        following = self._enter(Received.SERVER_FINAL)
        text = _text(data)
        if text.startswith("e="):
            raise AuthenticationFailed(f"the database refused the login: {text[2:202]}")
        (signature,) = _attributes(text, "v")
        if not hmac.compare_digest(_decoded(signature), self._server_signature):
            raise AuthenticationFailed("the database could not prove that it knows the password: it may be another one")
        self._step = following


def saslprep(password: bytes) -> bytes:
    """The password as PostgreSQL prepares it: RFC 4013, and as it is where that refuses it.

    As in ``saslprep.c``, ASCII stays as it is, and the characters are looked at before normalization.
    """
    try:
        text = password.decode()
    except UnicodeDecodeError:
        return password
    if text.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if stringprep.in_table_c12(char) or not stringprep.in_table_b1(char)
    )
    if not mapped or any(map(_prohibited, mapped)) or not _one_direction(mapped):
        return password
    return unicodedata.normalize("NFKC", mapped).encode()


def _prohibited(char: str) -> bool:
    return (
        stringprep.in_table_a1(char)
        or stringprep.in_table_c12(char)
        or stringprep.in_table_c21_c22(char)
        or stringprep.in_table_c3(char)
        or stringprep.in_table_c4(char)
        or stringprep.in_table_c5(char)
        or stringprep.in_table_c6(char)
        or stringprep.in_table_c7(char)
        or stringprep.in_table_c8(char)
        or stringprep.in_table_c9(char)
    )


def _one_direction(text: str) -> bool:
    """RFC 3454, section 6: what is written from the right begins and ends so, with nothing from the left in it."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _text(data: bytes) -> str:
    if len(data) > MAX_MESSAGE:
        raise RemoteProtocolError(f"the database sent a SCRAM message of {len(data)} bytes; at most {MAX_MESSAGE} go")
    text = data.decode("ascii", "replace")
    if not data.isascii() or not text.isprintable():
        raise RemoteProtocolError("the database sent a SCRAM message that is no text")
    return text


def _attributes(text: str, names: str) -> list[str]:
    """The values of exactly these attributes in this order; behind them only extensions that may be ignored."""
    parts = text.split(",")
    if [part[:2] for part in parts[: len(names)]] != [f"{name}=" for name in names] or not all(
        _EXTENSION.fullmatch(part) for part in parts[len(names) :]
    ):
        raise RemoteProtocolError("the database sent a malformed SCRAM message")
    return [part[2:] for part in parts[: len(names)]]


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise RemoteProtocolError("the database sent a SCRAM message whose base64 cannot be read")
    return data


def _listed(names: Sequence[str]) -> str:
    shown = ["".join(char if char.isprintable() else "?" for char in name[:40]) for name in names[:8]]
    return ", ".join(shown) or "no mechanism"
