"""What a database asks for before it lets somebody in, and the answers.

::

    AuthenticationOk                                  nobody is asked: trust, or the certificate of TLS said it all
    AuthenticationCleartextPassword   PasswordMessage
    AuthenticationMD5Password(salt)   PasswordMessage(md5(md5(password + user) + salt))
    AuthenticationSASL(mechanisms)    SASLInitialResponse
    AuthenticationSASLContinue        SASLResponse         once the caller has done the Derivation
    AuthenticationSASLFinal           -                    and only behind this one AuthenticationOk

All of it happens inside a TLS that has verified the server; so a password in clear is one that the owner of
the agent meant this server to have.  Who wants less names the methods that are answered (libpq's
``require_auth``).

Source: protocol sections "Start-up", "SASL Authentication"; libpq's ``fe-auth.c`` for what is downgrade.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Collection

import attrs

from teleport_db.errors import AuthenticationFailed, LocalProtocolError, RemoteProtocolError
from teleport_db.pgwire.messages import (
    AUTHENTICATION_CLEARTEXT_CODE,
    AUTHENTICATION_METHODS,
    AUTHENTICATION_OK_CODE,
    message,
    password_message,
)
from teleport_db.pgwire.scram import Derivation, ScramClient

__all__ = ["METHODS", "PASSWORDS", "Accepted", "Answer", "Authentication", "Derivation", "Secret"]

#: Methods in libpq's words (``require_auth``); ``none`` is a server that asks for nothing.
METHODS = ("none", "password", "md5", "scram-sha-256")
#: What is answered when nothing else is said: a token in clear, as Amazon takes it.
PASSWORDS = ("none", "password")

MD5_CODE, SASL_CODE, SASL_CONTINUE_CODE, SASL_FINAL_CODE = 5, 10, 11, 12

#: The method that a first request belongs to.
_METHOD = {
    AUTHENTICATION_OK_CODE: "none",
    AUTHENTICATION_CLEARTEXT_CODE: "password",
    MD5_CODE: "md5",
    SASL_CODE: "scram-sha-256",
    SASL_CONTINUE_CODE: "scram-sha-256",
    SASL_FINAL_CODE: "scram-sha-256",
}


class _Stage(enum.Enum):
    UNASKED = enum.auto()
    ANSWERED = enum.auto()
    SCRAM = enum.auto()
    PROVED = enum.auto()  # and proving back
    ACCEPTED = enum.auto()


#: What may be asked when; what is missing here is the server's error.
_TRANSITIONS = {
    (_Stage.UNASKED, AUTHENTICATION_OK_CODE): _Stage.ACCEPTED,
    (_Stage.UNASKED, AUTHENTICATION_CLEARTEXT_CODE): _Stage.ANSWERED,
    (_Stage.UNASKED, MD5_CODE): _Stage.ANSWERED,
    (_Stage.UNASKED, SASL_CODE): _Stage.SCRAM,
    (_Stage.ANSWERED, AUTHENTICATION_OK_CODE): _Stage.ACCEPTED,
    (_Stage.SCRAM, SASL_CONTINUE_CODE): _Stage.SCRAM,
    (_Stage.SCRAM, SASL_FINAL_CODE): _Stage.PROVED,
    (_Stage.PROVED, AUTHENTICATION_OK_CODE): _Stage.ACCEPTED,
}

#: Bytes behind the code of the requests that have a fixed length.
_LENGTHS = {AUTHENTICATION_OK_CODE: 0, AUTHENTICATION_CLEARTEXT_CODE: 0, MD5_CODE: 4}


@attrs.frozen
class Secret:
    """What there is to answer with.

    :param password: as its owner wrote it.
    :param methods: those of :data:`METHODS` that it may be used for.
    :param nonce: for SCRAM: printable ASCII without a comma, new for each login.
    :param binding: the ``tls-server-end-point`` of the TLS this is said in; None where there is none.
    """

    password: bytes = attrs.field(repr=False)
    methods: Collection[str] = PASSWORDS
    nonce: str = ""
    binding: bytes | None = None


@attrs.frozen
class Answer:
    """A message to send."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Accepted:
    """That was AuthenticationOk."""


class Authentication:
    """The requests of one login.

    :param user: the database user, for MD5 and for words.
    :param secret: None where TLS alone tells who we are.
    """

    def __init__(self, user: str, secret: Secret | None) -> None:
        self._user = user
        self._secret = secret
        self._stage = _Stage.UNASKED
        self._scram: ScramClient | None = None

    def forget(self) -> None:
        """The login is over."""
        self._secret = self._scram = None

    def take(self, body: bytes) -> Answer | Derivation | Accepted | None:
        """Take the body of an Authentication message.

        :return: what to do; None is to wait for the next.
        :raises RemoteProtocolError: it is malformed or out of order.
        :raises AuthenticationFailed: it is not answered here.
        """
        if len(body) < 4:
            raise RemoteProtocolError("the database sent a malformed request to authenticate")
        code, data = int.from_bytes(body[:4], "big"), body[4:]
        if len(data) != _LENGTHS.get(code, len(data)):
            raise RemoteProtocolError("the database sent a malformed request to authenticate")
        self._check(code)
        following = _TRANSITIONS.get((self._stage, code))
        if following is None:
            raise RemoteProtocolError(
                "the database lets us in before it has shown that it knows the password"
                if code == AUTHENTICATION_OK_CODE
                else f"the database asks for {AUTHENTICATION_METHODS[code]} where it has no place"
            )
        self._stage = following
        if code == AUTHENTICATION_OK_CODE:
            return Accepted()
        return self._reply(code, data)

    def _check(self, code: int) -> None:
        """Whether this is a method that is answered here at all."""
        method = _METHOD.get(code)
        name = AUTHENTICATION_METHODS.get(code, f"a method unknown here (number {code})")
        if self._secret is None:
            if method != "none":
                raise AuthenticationFailed(
                    f'the database asks for {name} of user "{self._user}", which is not supported; '
                    "give that user the method cert in its pg_hba.conf, or its agent the password "
                    "(db_service.databases[].credentials)"
                )
        elif method == "none":
            if self._stage is _Stage.UNASKED and method not in self._secret.methods:
                raise AuthenticationFailed(
                    f'the database lets user "{self._user}" in without asking for anything, '
                    "which require_auth of its credentials does not allow"
                )
        elif method not in self._secret.methods:
            answered = ", ".join(known for known in METHODS if known in self._secret.methods and known != "none")
            raise AuthenticationFailed(
                f'the database asks for {name} of user "{self._user}"; its agent answers {answered} only'
            )

    def _reply(self, code: int, data: bytes) -> Answer | Derivation | None:
        assert self._secret is not None
        secret = self._secret
        if code == AUTHENTICATION_CLEARTEXT_CODE:
            return Answer(password_message(secret.password))
        if code == MD5_CODE:
            return Answer(password_message(md5_password(self._user, secret.password, data)))
        if code == SASL_CODE:
            self._scram = ScramClient(secret.password, nonce=secret.nonce, binding=secret.binding)
            mechanism, first = self._scram.begin(_mechanisms(data))
            return Answer(message(b"p", mechanism.encode() + b"\0" + struct.pack(">I", len(first)) + first))
        assert self._scram is not None
        if code == SASL_CONTINUE_CODE:
            return self._scram.server_first(data)
        self._scram.server_final(data)
        return None

    def derived(self, salted_password: bytes) -> bytes:
        """The message to send once a Derivation is done."""
        if self._scram is None:
            raise LocalProtocolError("nothing was to be derived")
        return message(b"p", self._scram.keyed(salted_password))


def md5_password(user: str, password: bytes, salt: bytes) -> bytes:
    """The answer to a request for an MD5 password."""
    try:
        inner = hashlib.md5(password + user.encode()).hexdigest()  # noqa: S324 - what the protocol says
        return b"md5" + hashlib.md5(inner.encode() + salt).hexdigest().encode()  # noqa: S324
    except ValueError as error:  # a machine with FIPS 140
        raise AuthenticationFailed(
            "the database asks for an MD5 password, and its agent's machine does not allow MD5; use scram-sha-256"
        ) from error


def _mechanisms(data: bytes) -> list[str]:
    """The names of an AuthenticationSASL: each ends in NUL, and the list in another."""
    if not data.endswith(b"\0") or (len(data) > 1 and not data.endswith(b"\0\0")):
        raise RemoteProtocolError("the database sent a malformed list of SASL mechanisms")
    names = data[:-2].split(b"\0") if len(data) > 1 else []
    if b"" in names:
        raise RemoteProtocolError("the database sent a malformed list of SASL mechanisms")
    return [name.decode("ascii", "replace") for name in names]
