"""The certificates of one service of a cluster: had from auth, kept on disk, renewed in time.

::

    DATA/hosts/ROLE.json      host id, key and certificates; written whole or not at all, 0600

In the process of auth they are made anew at each start, under the same id.  A process that joined by token
reads them back, and renews them when half their life is over.
"""

from __future__ import annotations

import json
import os
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import attrs
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from teleport_db.certs.files import read_secret, write_secret
from teleport_db.certs.keys import load_private, new_key, private_pem, public_pem
from teleport_db.certs.tls import KeyPair
from teleport_db.errors import ConfigError

log = Logger()

#: Seconds between two looks at how old the certificates are.
CHECK_SECONDS = 3600.0


@attrs.frozen
class HostCredentials:
    """What a host has and trusts; certificates and keys are PEM.

    :param expires: seconds since the epoch.
    """

    host_id: str
    cluster: str
    server: KeyPair
    client: KeyPair
    host_ca: bytes
    user_ca: bytes
    db_ca: bytes
    scope: tuple[str, ...] | None
    expires: float

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any], key_pem: bytes) -> HostCredentials:
        """From what ``POST /v1/join`` answers, and the key that was asked for."""
        scope = answer.get("scope")
        return cls(
            host_id=answer["host_id"],
            cluster=answer["cluster"],
            server=KeyPair(answer["server_certificate"].encode(), key_pem),
            client=KeyPair(answer["client_certificate"].encode(), key_pem),
            host_ca=answer["host_ca"].encode(),
            user_ca=answer["user_ca"].encode(),
            db_ca=answer["db_ca"].encode(),
            scope=None if scope is None else tuple(scope),
            expires=datetime.fromisoformat(answer["expires"]).timestamp(),
        )

    def half_life(self) -> float:
        """When half of the certificates' life is over, in seconds since the epoch."""
        begins = x509.load_pem_x509_certificate(self.client.certificate_pem).not_valid_before_utc.timestamp()
        return (begins + self.expires) / 2


def load(path: str) -> HostCredentials | None:
    """What was kept, or None; ConfigError when it cannot be used."""
    try:
        value = json.loads(read_secret(path))
        key_pem = value.pop("key").encode()
        load_private(key_pem)
        return HostCredentials.from_answer(value, key_pem)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ConfigError) as error:
        raise ConfigError(f"cannot be used ({error}); remove it and join again with a token", source=path) from error


def keep_id(path: str) -> str:
    """The id that stays the same however often certificates are made anew."""
    try:
        with open(path, encoding="ascii") as file:
            return str(uuid.UUID(file.read().strip()))
    except FileNotFoundError:
        host_id = str(uuid.uuid4())
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_secret(path, host_id.encode() + b"\n")
        return host_id
    except ValueError as error:
        raise ConfigError("holds no host id; remove it", source=path) from error


def _pending_key(path: str) -> bytes:
    try:
        return read_secret(path)
    except FileNotFoundError:
        key_pem = private_pem(new_key())
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_secret(path, key_pem)
        return key_pem


#: Trades a public key (PEM) for what ``POST /v1/join`` answers.
Issue = Callable[[bytes], Awaitable[Mapping[str, Any]]]


class Host:
    """The present credentials of one service, and the TLS contexts made of them.

    :param renew: gets certificates for a new key of the same host.
    :param path: where they are kept; None keeps them in memory.
    """

    def __init__(self, credentials: HostCredentials, *, renew: Issue, path: str | None, clock: IReactorTime) -> None:
        self.credentials = credentials
        self._renew = renew
        self._path = path
        self._clock = clock
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self.renew_if_due()))
        self._loop.clock = clock

    def start(self) -> None:
        """Look now and then whether renewal is due."""
        self._loop.start(CHECK_SECONDS).addErrback(lambda reason: log.failure("certificates are not renewed", reason))

    def stop(self) -> None:
        """Look no more."""
        if self._loop.running:
            self._loop.stop()

    async def renew_if_due(self) -> None:
        """Renew past half of the certificates' life; a failure is tried again at the next look."""
        if self._clock.seconds() < self.credentials.half_life():
            return
        try:
            self.credentials = await obtain(self._renew, path=self._path)
        except Exception as error:
            log.warn(
                "the certificates of host {id} were not renewed: {error}", id=self.credentials.host_id, error=error
            )
            return
        self._contexts.clear()
        log.info("the certificates of host {id} were renewed", id=self.credentials.host_id)

    def context(self, name: str, make: Callable[[HostCredentials], ssl.SSLContext]) -> Callable[[], ssl.SSLContext]:
        """A function that gives the context of this name, made again only after a renewal."""

        def get() -> ssl.SSLContext:
            context = self._contexts.get(name)
            if context is None:
                context = self._contexts[name] = make(self.credentials)
            return context

        return get


async def obtain(issue: Issue, *, path: str | None) -> HostCredentials:
    """New certificates for a new key.

    The key is on disk before it is used: an answer that got lost can be had again by this key only.
    """
    pending = f"{path}.pending"
    key_pem = private_pem(new_key()) if path is None else _pending_key(pending)
    answer = await issue(public_pem(load_private(key_pem).public_key()))
    credentials = HostCredentials.from_answer(answer, key_pem)
    if path is not None:
        write_secret(path, json.dumps({**answer, "key": key_pem.decode()}).encode())
        os.unlink(pending)
    return credentials
