"""Password hashes: argon2id, off the reactor's thread, at most two at once.

A hash takes 64 MiB and a tenth of a second on purpose.  Two at once leave the machine usable while
somebody guesses; who comes when too many wait already is told to come again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from teleport_db.errors import BadRequest, LimitExceeded

#: Characters of a new password.  The upper bound keeps a hash's time a matter of its parameters.
MIN_LENGTH, MAX_LENGTH = 8, 1024
#: At once, and waiting (each waits at most this many halves of a tenth of a second).
THREADS, MAX_WAITING = 2, 200


def default_hasher() -> PasswordHasher:
    """argon2id with RFC 9106's memory (64 MiB, 3 passes); one lane, since two run beside each other."""
    return PasswordHasher(time_cost=3, memory_cost=65536, parallelism=1)


def check_new(password: str) -> None:
    """Refuse a new password that is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise BadRequest(f"a password has at least {MIN_LENGTH} characters and at most {MAX_LENGTH}")


class Passwords:
    """Hashes and verifies in two threads of its own."""

    def __init__(self, reactor: IReactorFromThreads, hasher: PasswordHasher | None = None) -> None:
        self._reactor = reactor
        self._hasher = hasher or default_hasher()
        self._pool = ThreadPool(0, THREADS, "passwords")
        self._waiting = 0
        #: Verified against where there is no account, so that both take the same time.
        self._dummy = ""

    def start(self) -> Deferred[None]:
        """Start the threads, and make the hash that stands for unknown accounts."""
        self._pool.start()
        return self.hash("nobody has this password").addCallback(self._set_dummy)

    def stop(self) -> None:
        """Wait for the threads, a tenth of a second."""
        if self._pool.started:
            self._pool.stop()

    def hash(self, password: str) -> Deferred[str]:
        """An encoded hash with its own salt and parameters."""
        return self._in_thread(self._hasher.hash, password.encode("utf-8", "surrogatepass"))

    def verify(self, encoded: str | None, password: str) -> Deferred[bool]:
        """Whether ``password`` is the one of ``encoded``; None takes as long and is never right."""
        return self._in_thread(self._verify, encoded or self._dummy, password).addCallback(
            lambda right: right and encoded is not None
        )

    def _verify(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password[:MAX_LENGTH].encode("utf-8", "surrogatepass"))
        except (Argon2Error, InvalidHashError):
            return False

    def _set_dummy(self, encoded: str) -> None:
        self._dummy = encoded

    def _in_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._counted(function, *args))

    async def _counted(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._waiting >= MAX_WAITING:
            raise LimitExceeded("too many logins wait already; try again in a minute")
        self._waiting += 1
        try:
            return await deferToThreadPool(self._reactor, self._pool, function, *args)
        finally:
            self._waiting -= 1
