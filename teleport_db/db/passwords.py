"""Passwords that the agent's owner has put into files or into the environment.

They are read at each login and kept no longer than that: whoever changes a file has changed the password,
and what mounts secrets (Kubernetes, Vault's agent, systemd) needs to tell nobody.  The agent asks auth for no
certificate here; the server is verified in full all the same, with ``ca_cert_file`` or the cluster's own
authority.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger
from zope.interface import implementer

from teleport_db.config.model import Database, Secret
from teleport_db.db.credentials import Contexts, own_ca
from teleport_db.errors import AuthenticationFailed, DatabaseUnreachable
from teleport_db.interfaces import Credentials, ICredentialSource
from teleport_db.pgwire.authentication import METHODS

log = Logger()

#: The longest password, in bytes: some are tokens.  PostgreSQL takes less than 64 KiB.
MAX_PASSWORD = 16 * 1024

#: Calculations for SCRAM at the same time; each may take a third of a second of a processor.
AT_ONCE = 2


def read_secret(path: str) -> tuple[bytes, int]:
    """The content of a regular file, at most a byte more than a password has, and the file's mode; OSError."""

    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)  # nobody waits for a pipe's writer

    with open(path, "rb", opener=at_once) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is not a regular file")
        return file.read(MAX_PASSWORD + 3), mode


def password_in(text: bytes) -> bytes:
    """The password of a file or a variable: its one line without the line's end.

    :raises ValueError: with the reason why there is none; it repeats nothing.
    """
    line = text.removesuffix(b"\n").removesuffix(b"\r")
    if not line:
        raise ValueError("it is empty")
    if len(line) > MAX_PASSWORD:
        raise ValueError(f"it is longer than {MAX_PASSWORD} bytes")
    if b"\n" in line or b"\0" in line:
        raise ValueError("it has more than one line, or is no text")
    return line


@implementer(ICredentialSource)
class PasswordCredentials:
    """The passwords of ``databases[].credentials``.

    :param in_thread: runs a function off the reactor's thread, as ``deferToThread``.
    :param read_file: reads ``ca_cert_file``.
    :param db_ca: gives the PEM of the cluster's authority for database servers.
    :param environment: the process's variables.
    """

    def __init__(
        self,
        *,
        in_thread: Callable[..., Deferred[Any]],
        read_file: Callable[[str], bytes],
        db_ca: Callable[[], bytes],
        environment: Mapping[str, str],
    ) -> None:
        self._in_thread = in_thread
        self._read_file = read_file
        self._db_ca = db_ca
        self._environment = environment
        self._computing = DeferredSemaphore(AT_ONCE)
        self._contexts = Contexts()
        self._complained: set[str] = set()

    def credentials_for(self, database: Database, user: str) -> Deferred[Credentials]:
        return Deferred.fromCoroutine(self._credentials(database, user))

    async def _credentials(self, database: Database, user: str) -> Credentials:
        assert database.credentials is not None
        secret = database.credentials.secret_for(user)
        if secret is None:
            raise AuthenticationFailed(
                f'the agent of database service "{database.name}" has no password for database user "{user}"; '
                "its operator can add one to credentials.users"
            )
        pem, password = await self._in_thread(self._read, database, user, secret)
        return Credentials(
            self._contexts.of(database.name, pem),
            password,
            methods=database.credentials.require_auth or METHODS,
            name=f"the password in {secret}",
            compute=self._compute,
        )

    def _read(self, database: Database, user: str, secret: Secret) -> tuple[bytes, bytes]:
        """The authority's certificate and the password; in a thread, for a file may be far away."""
        return own_ca(database, self._read_file) or self._db_ca(), self._password(database, user, secret)

    def _password(self, database: Database, user: str, secret: Secret) -> bytes:
        trouble = f'the password of database user "{user}" for database service "{database.name}" cannot be used'
        try:
            if secret.file:
                text, mode = read_secret(secret.file)
                self._complain(secret.file, mode)
            elif secret.env in self._environment:
                text = self._environment[secret.env].encode("utf-8", "surrogateescape")
            else:
                raise ValueError("its environment variable is not set")
            return password_in(text)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise DatabaseUnreachable(f"{trouble} at its agent: {reason}", detail=str(secret)) from None

    def _complain(self, path: str, mode: int) -> None:
        """Once a file: others than its owner and group can read it. Where secrets are mounted that may be meant."""
        if mode & stat.S_IROTH and path not in self._complained:
            self._complained.add(path)
            log.warn("every user of this machine can read the password in {path}", path=path)

    def _compute(self, calculation: Callable[[], bytes]) -> Deferred[bytes]:
        return self._computing.run(self._in_thread, calculation)
