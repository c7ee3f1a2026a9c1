"""The auth server: all its parts, put together.

::

                        ┌─ Authorities ─ Signing ──┐
    http.py ── AuthServer ─ Users ─ Roles ─ Locks  ├─ Proofs ─ Logins ─ Devices ─ Invites ─ JoinTokens ─ Joining
                        └─ Presence ─ Losses ─ Watch
                                  │
                        IBackend, IAuditLog
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
from argon2 import PasswordHasher
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime

import teleport_db
from teleport_db.audit.checkpoints import Checkpoint
from teleport_db.audit.finding import Page
from teleport_db.audit.query import Query
from teleport_db.audit.shipped import Run
from teleport_db.audit.writing import Position
from teleport_db.auth.authorities import KINDS, Authorities, load_or_create
from teleport_db.auth.certificates import UserCertificates
from teleport_db.auth.databases import Databases
from teleport_db.auth.devices import Devices
from teleport_db.auth.failures import Failures
from teleport_db.auth.invites import Invites
from teleport_db.auth.joining import Joining
from teleport_db.auth.locks import Locks
from teleport_db.auth.logins import Logins
from teleport_db.auth.losses import LOST_SECONDS, Losses
from teleport_db.auth.passwords import Passwords
from teleport_db.auth.preference import Preference
from teleport_db.auth.presence import Presence
from teleport_db.auth.proofs import Proofs
from teleport_db.auth.reads import Reads
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.refusals import Refusals
from teleport_db.auth.removals import Removals
from teleport_db.auth.roles import Roles
from teleport_db.auth.signing import AdminCredentials, Signing
from teleport_db.auth.times import rfc3339
from teleport_db.auth.tokens import JoinTokens
from teleport_db.auth.users import Users
from teleport_db.auth.watch import Watch
from teleport_db.certs.keys import spki_pin
from teleport_db.config.model import AuthService, StaticToken
from teleport_db.errors import AlreadyExists, ConfigError, LocalProtocolError
from teleport_db.interfaces import IBackend


class AuditLog(Protocol):
    """What auth needs of the audit log; :class:`teleport_db.audit.log.AuditLog` has it."""

    def emit(self, events: Sequence[Any]) -> Deferred[None]:
        """As :meth:`teleport_db.interfaces.IAuditLog.emit`."""

    def receive(self, source: str, events: Sequence[tuple[int, Mapping[str, Any] | Run]]) -> Deferred[int]:
        """Keep numbered events of a host; fires with the last number that is durable."""

    def open_sources(self) -> set[str]:
        """Hosts that have sessions without an end."""

    def lose(self, source: str, *, before: int | None = None) -> Deferred[int]:
        """End the sessions of a host that is lost; see :meth:`teleport_db.audit.log.AuditLog.lose`."""

    def search(
        self,
        query: Query = ...,
        *,
        limit: int,
        after: int | None = None,
        oldest_first: bool = False,
        joined: bool = False,
    ) -> Deferred[Page]:
        """Events; see :meth:`teleport_db.audit.log.AuditLog.search`."""

    def recorded_sessions(
        self, *, user: str | None = None, sid: str | None = None, limit: int, after: int | None = None
    ) -> Deferred[tuple[list[dict[str, Any]], int | None]]:
        """Sessions that were let in, the newest first, and where to go on."""

    def checkpoint(self) -> Deferred[Checkpoint | None]:
        """Sign all that there is."""

    def changed(self) -> Deferred[None]:
        """Fires when there is more."""

    @property
    def position(self) -> Position:
        """The end of the log."""


def read_static(tokens: Sequence[StaticToken]) -> list[StaticToken]:
    """The configuration's tokens, those that are paths replaced by what the file holds."""
    return [attrs.evolve(token, token=_read(token.token)) if token.is_path else token for token in tokens]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            value = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"the file {path} with a token cannot be read: {why}", path="auth_service.tokens") from error
    if not value:
        raise ConfigError(f"the file {path} holds no token", path="auth_service.tokens")
    return value


class AuthServer:
    """One cluster's auth server.

    :param audit: where every change is written before it is answered.
    :param reactor: for its threads; :param clock: seconds since the epoch, the reactor when None.
    :param proxy_address: ``host:port`` that invites and ``tctl`` name.
    :param hasher: of passwords; tests take a cheap one.
    :param lost_after: seconds of silence after which an agent's sessions are ended for it.
    :param sinks: gives the state of each sink of the audit log.

    The parts are there after :meth:`start`.
    """

    authorities: Authorities
    signing: Signing
    logins: Logins
    certificates: UserCertificates
    joining: Joining

    def __init__(
        self,
        backend: IBackend,
        audit: AuditLog,
        cluster_name: str,
        config: AuthService,
        *,
        reactor: IReactorFromThreads,
        clock: IReactorTime | None = None,
        proxy_address: str = "",
        hasher: PasswordHasher | None = None,
        lost_after: float = LOST_SECONDS,
        sinks: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self.backend = backend
        self.sinks = sinks
        self.audit = audit
        self.cluster_name = cluster_name
        #: Limits of sessions that hold beside those of roles.
        self.session_defaults = {
            "client_idle_timeout": config.client_idle_timeout,
            "disconnect_expired_cert": config.disconnect_expired_cert,
        }
        self.proxy_address = proxy_address
        self.clock: IReactorTime = IReactorTime(reactor) if clock is None else clock
        self.recorder = Recorder(audit, cluster_name, clock=self.clock)  # type: ignore[arg-type]
        self.refusals = Refusals(self.recorder, clock=self.clock)
        self.reads = Reads(self.recorder, clock=self.clock)
        self.passwords = Passwords(reactor, hasher)
        self.roles = Roles(backend, self.recorder)
        self.users = Users(backend, self.recorder, self.roles, clock=self.clock)
        self.locks = Locks(backend, self.recorder, clock=self.clock)
        self.preference = Preference(backend, self.recorder, config.authentication.second_factor)
        self.presence = Presence(backend, self.recorder, clock=self.clock)
        self.databases = Databases(backend, self.recorder)
        self.removals = Removals(backend, self.recorder, self.presence, clock=self.clock)
        self.losses = Losses(
            audit,
            clock=self.clock,
            lost_after=lost_after,
            silent=lambda heard: Deferred.fromCoroutine(self.presence.attendance.silent(heard)),
        )
        self.watch = Watch(backend, clock=self.clock)
        self.tokens = JoinTokens(backend, self.recorder, static=read_static(config.tokens), clock=self.clock)
        self.failures = Failures(backend, clock=self.clock)
        self.proofs = Proofs(
            backend,
            self.recorder,
            users=self.users,
            passwords=self.passwords,
            preference=self.preference,
            failures=self.failures,
            clock=self.clock,
        )
        self.devices = Devices(
            backend,
            self.recorder,
            proofs=self.proofs,
            preference=self.preference,
            cluster=cluster_name,
            clock=self.clock,
        )
        self.invites = Invites(
            backend,
            self.recorder,
            users=self.users,
            passwords=self.passwords,
            preference=self.preference,
            devices=self.devices,
            refusals=self.refusals,
            cluster=cluster_name,
            clock=self.clock,
        )

    def start(self) -> Deferred[None]:
        """Make or load the authorities and the built-in roles; fires when calls can be taken."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self._check_cluster()
        self.authorities = await load_or_create(self.backend, self.cluster_name, clock=self.clock)
        self.signing = Signing(self.authorities, self.cluster_name, clock=self.clock)
        self.logins = Logins(
            self.backend,
            self.recorder,
            users=self.users,
            passwords=self.passwords,
            proofs=self.proofs,
            locks=self.locks,
            signing=self.signing,
            refusals=self.refusals,
        )
        self.certificates = UserCertificates(
            users=self.users, presence=self.presence, proofs=self.proofs, signing=self.signing, clock=self.clock
        )
        self.joining = Joining(
            self.backend,
            self.recorder,
            tokens=self.tokens,
            signing=self.signing,
            refusals=self.refusals,
            clock=self.clock,
            check_host=self.removals.check_id,
        )
        await self.roles.start()
        await self.locks.start()
        await self.removals.start()
        await self.watch.start()
        await self.passwords.start()
        self.losses.start()

    async def _check_cluster(self) -> None:
        """The name is in every certificate: a state of another cluster is not taken over silently."""
        try:
            item = await self.backend.create("/cluster/name", {"name": self.cluster_name})
        except AlreadyExists:
            item = await self.backend.get("/cluster/name")
        if item.value["name"] != self.cluster_name:
            raise ConfigError(
                f"the state in data_dir belongs to the cluster {item.value['name']!r}; "
                "set that name, or use another data_dir",
                path="auth_service.cluster_name",
            )

    def stop(self) -> None:
        """Answer who waits and end the threads; the backend is closed by whoever opened it."""
        self.losses.stop()
        self.watch.stop()
        self.removals.stop()
        self.locks.stop()
        self.passwords.stop()

    # For services in the same process.

    @property
    def ca_pin(self) -> str:
        """What agents pin: ``sha256:`` and hexadecimal digits."""
        return self.authorities.ca_pin

    def issue_host(
        self,
        roles: Sequence[str],
        names: Sequence[str],
        public_key: bytes | str,
        host_id: str = "",
        *,
        scope: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Certificates for a service in this process: the answer that a join would get.

        :param roles: some of auth, proxy, db.
        :param names: DNS names and addresses beside those that the roles bring.
        :param public_key: PEM.
        :param host_id: a new one when empty.
        """
        if not hasattr(self, "signing"):
            raise LocalProtocolError("the auth server has not started")
        key = public_key.decode() if isinstance(public_key, bytes) else public_key
        return self.signing.host(host_id or str(uuid.uuid4()), roles, key, names=names, scope=scope)

    def local_admin_credentials(self) -> AdminCredentials:
        """A new key and certificate for ``tctl`` on this host, a year long."""
        return self.signing.admin()

    async def ping(self) -> dict[str, Any]:
        """The answer of ``GET /v1/ping``."""
        return {
            "cluster": self.cluster_name,
            "version": teleport_db.__version__,
            "second_factor": await self.preference.second_factor(),
        }

    def cas(self) -> dict[str, Any]:
        """The answer of ``GET /v1/cas``: the authorities' certificates."""
        return {"cluster": self.cluster_name, **self.authorities.certificates()}

    def status(self) -> dict[str, Any]:
        """The answer of ``GET /v1/status``."""
        cas = [
            {
                "kind": kind,
                "pin": spki_pin(getattr(self.authorities, kind).certificate),
                "not_after": rfc3339(getattr(self.authorities, kind).certificate.not_valid_after_utc.timestamp()),
                "rotation": "never updated",
            }
            for kind in KINDS
        ]
        return {
            "cluster": self.cluster_name,
            "version": teleport_db.__version__,
            "proxy_address": self.proxy_address,
            "ca_pins": [self.ca_pin],
            "cas": cas,
        }
