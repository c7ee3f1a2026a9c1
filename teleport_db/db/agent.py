"""The agent as a service: one tunnel to each proxy address, kept for ever.

::

    startService   spool opened, labels started; what was known of the cluster read again, if it is young enough
    tunnel up      roles watched, events shipped                           all through the tunnel
    roles known    presence announced, and the services to the proxy: not before a session can be decided on;
                   databases that are registered in the cluster are served as well, if their labels match
    tunnel lost    sessions of it end; dialled again, 1 to 60 seconds, full jitter
    stopService    presence withdrawn, sessions told (57P01), tunnels drained
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.application.internet import ClientService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from teleport_db.api.client import APIClient
from teleport_db.api.sending import sender
from teleport_db.audit.commits import GroupCommit
from teleport_db.audit.events import make_event
from teleport_db.audit.shipping import Shipper, ThreadHook
from teleport_db.audit.spool import Spool
from teleport_db.audit.uids import uid_source
from teleport_db.config.model import AuditSettings, Database
from teleport_db.db.away import BEST_EFFORT, AuthAway, Kept
from teleport_db.db.knowledge import Knowledge
from teleport_db.db.labels import Run
from teleport_db.db.late import LastWords
from teleport_db.db.registered import Wanted
from teleport_db.db.serving import Serving
from teleport_db.db.session import Session
from teleport_db.db.streams import Announcements, IncomingStream, proxies_only
from teleport_db.db.surroundings import Surroundings
from teleport_db.db.tunnels import AgentTunnel, TunnelEndpoint, full_jitter
from teleport_db.errors import SessionCut
from teleport_db.identity import auth_name
from teleport_db.interfaces import ICredentialSource
from teleport_db.net.tlslayer import TLSClientEndpoint, TLSServerFactory
from teleport_db.tunnel.header import CancelHeader, SessionHeader
from teleport_db.tunnel.protocol import TunnelProtocol

log = Logger()

#: What is recorded unless the configuration says otherwise.
RECORDED = AuditSettings()

#: Seconds between two announcements of presence; auth forgets an agent after three of them.
PRESENCE_SECONDS = 15.0

#: Seconds between two looks at the limits of sessions.
LIMIT_SECONDS = 0.5

#: The source of the databases of the file, and of the flags.
CONFIGURATION = "the configuration"

#: The source of those that are registered in the cluster.
RESOURCES = "the cluster's resources"

#: Seconds a stop waits for what must still be said.
STOP_SECONDS = 5.0


@attrs.frozen
class HostContexts:
    """The TLS contexts of one set of host certificates.

    :param serving: for streams that proxies open; wants a certificate of the host CA.
    :param tunnel: for the tunnel, ALPN ``teleport-tunnel``.
    :param calling: for calls of the auth API.
    """

    serving: ssl.SSLContext
    tunnel: ssl.SSLContext
    calling: ssl.SSLContext


class Agent(MultiService):
    """Serves databases through tunnels.

    :param host_id: from the agent's certificate.
    :param contexts: gives the present TLS contexts.
    :param host_ca: gives the host CA, PEM; ``user_ca`` the user CA.
    :param proxies: plain endpoints of the proxies' tunnel ports.
    :param dial: the plain endpoint of a database.
    :param credentials: made with the agent's API client, so given as a function of it.
    :param run: runs the command of a dynamic label.
    :param in_thread: where the spool is synced.
    :param audit: what is recorded of statements.
    :param wanted: which of the cluster's databases are served beside those of ``databases``.
    :param away: what holds while auth is away; best effort for an hour unless given.
    :param kept: where what is known is kept for the next start; nowhere when None.
    """

    def __init__(
        self,
        *,
        cluster: str,
        host_id: str,
        databases: Sequence[Database],
        spool: Spool,
        contexts: Callable[[], HostContexts],
        host_ca: Callable[[], bytes],
        user_ca: Callable[[], bytes],
        proxies: Sequence[IStreamClientEndpoint],
        dial: Callable[[Database], IStreamClientEndpoint],
        credentials: Callable[[APIClient], ICredentialSource],
        run: Run,
        in_thread: ThreadHook,
        reactor: Any,
        uniform: Callable[[float, float], float] = random.uniform,
        wanted: Wanted | None = None,
        away: AuthAway | None = None,
        kept: Kept | None = None,
        audit: AuditSettings = RECORDED,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wanted = wanted or Wanted()
        self._away = away or AuthAway(BEST_EFFORT, 3600.0, clock=reactor)
        self._cluster = cluster
        self._host_id = host_id
        self._contexts = contexts
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._spool, self._late = spool, LastWords(spool)
        self._began = spool.last + 1
        self._tunnels: list[TunnelProtocol] = []
        self._sessions: dict[int, Session] = {}
        self._serving = Serving(run=run, clock=reactor, changed=self._labels_changed)
        self._serving.replace(CONFIGURATION, databases)
        self._registered: tuple[Database, ...] = ()
        self.announcements = Announcements(lambda: list(self._serving.served) if self.policy.heard else [])
        api_endpoint = TLSClientEndpoint(
            TunnelEndpoint(lambda: self._tunnels), lambda: contexts().calling, name=auth_name(cluster), clock=reactor
        )
        self.api = APIClient(api_endpoint, auth_name(cluster), reactor=reactor)
        self._knowledge = Knowledge(
            self.api.call,
            cluster=cluster,
            host_id=host_id,
            away=self._away,
            kept=kept,
            clock=reactor,
            first=self._ready_to_serve,
            changed=self._policy_changed,
            uniform=uniform,
        )
        self.policy = self._knowledge.policy
        commits = GroupCommit(spool, in_thread)
        self._shipper = Shipper(spool, sender(self.api.call, lambda: host_id), clock=reactor, commits=commits)
        self._presence = LoopingCall(self._announce)
        self._presence.clock = reactor
        self._soon: IDelayedCall | None = None
        self._limits = LoopingCall(self._check_limits)
        self._limits.clock = reactor
        self._around = Surroundings(
            cluster=cluster,
            server_id=host_id,
            served=self._serving.served,
            policy=self.policy,
            append=self._append,
            append_one=self._append_one,
            credentials=credentials(self.api),
            dial=dial,
            user_ca=user_ca,
            clock=reactor,
            new_uid=uid_source(),
            sessions_of=self._sessions_of,
            policy_age=self._away.age,
            admit=self._away.admit,
            audit=audit,
            synced=commits.synced,
        )
        check = proxies_only(host_ca, reactor, lambda name: self.policy.check_host(name, reactor.seconds()))
        incoming = Factory.forProtocol(
            lambda: IncomingStream(
                check=check,
                open_session=self._open_session,
                cancel=self._cancel,
                announcements=self.announcements,
                clock=reactor,
            )
        )
        self._accept = TLSServerFactory(incoming, lambda: contexts().serving, clock=reactor)
        for endpoint in proxies:
            ClientService(
                TLSClientEndpoint(endpoint, lambda: contexts().tunnel, name=f"proxy.{cluster}", clock=reactor),
                Factory.forProtocol(self._make_tunnel),
                retryPolicy=full_jitter(uniform),
                clock=reactor,
            ).setServiceParent(self)

    @property
    def session_count(self) -> int:
        """Sessions that are open, or being opened."""
        return len(self._sessions)

    @property
    def tunnel_count(self) -> int:
        """Proxies that are connected."""
        return len(self._tunnels)

    @property
    def spool_pending(self) -> int:
        """Events that auth has not acknowledged."""
        return self._spool.pending

    def serve(self, source: str, databases: Sequence[Database]) -> None:
        """Serve these databases from now on, in the place of those that this source gave before.

        Sessions whose database is gone, or is another one by the same name, are ended; proxies and auth hear of it.

        :param source: who says so, for the log; the file's databases are those of :data:`CONFIGURATION`.
        """
        gone = self._serving.replace(source, databases)
        for session in list(self._sessions.values()):
            if session.service in gone:
                session.cut(SessionCut(f'database service "{session.service}" is not served here any more'))
            else:
                session.reconsider()  # its labels may be others
        self.announcements.changed()
        self._announce_soon()

    # Starting and stopping.

    def startService(self) -> None:
        self._serving.start()
        super().startService()  # type: ignore[no-untyped-call]
        self._knowledge.start()
        self._shipper.start()
        self._limits.start(LIMIT_SECONDS).addErrback(
            lambda reason: log.failure("the limits of sessions are not checked any more", reason)
        )

    def stopService(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._stop())

    def _sessions_of(self, user: str) -> int:
        return sum(1 for session in self._sessions.values() if session.user == user)

    def _check_limits(self) -> None:
        now = self._clock.seconds()
        for session in list(self._sessions.values()):
            session.check_limits(now)
        if self._late.waiting and self._late.write() is None:
            self._shipper.notify()

    def _reconsider(self) -> None:
        for session in list(self._sessions.values()):
            session.reconsider()

    def _cut_sessions(self) -> None:
        for session in list(self._sessions.values()):
            session.cut(SessionCut("the agent of this database is shutting down; connect again"))

    async def _stop(self) -> None:
        # First nothing is offered any more, so that no session begins among the last words.
        self.announcements.close()
        self._cut_sessions()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._presence.running:
            self._presence.stop()
        self._serving.stop()
        self._knowledge.stop()
        if self._limits.running:
            self._limits.stop()
        if self._tunnels:
            await self._last_words()
        await self._shipper.stop()
        await self.api.close()
        self._cut_sessions()  # those that a proxy had begun before it heard
        await gatherResults([tunnel.drain(STOP_SECONDS) for tunnel in self._tunnels])
        stopped = maybeDeferred(super().stopService)
        # One that was dialled again meanwhile writes on, and the close that its service asks for waits for that.
        for tunnel in list(self._tunnels):
            tunnel.close()
        await stopped
        self._spool.close()

    async def _last_words(self) -> None:
        """Ship what is left and withdraw the presence, within reason: what stays is shipped at the next start."""
        for saying in (self._shipper.flush(), self.api.call("DELETE", "/v1/presence")):
            try:
                await saying.addTimeout(STOP_SECONDS, self._clock)
            except Exception as error:
                log.info("stopping without a last word: {error}", error=error)

    # Tunnels.

    def _make_tunnel(self) -> TunnelProtocol:
        return AgentTunnel(
            client=True,
            clock=self._clock,
            accept=self._accept,
            opened=self._tunnel_opened,
            closed=self._tunnel_closed,
        )

    def _tunnel_opened(self, tunnel: TunnelProtocol) -> None:
        self._tunnels.append(tunnel)
        log.info("tunnel to the proxy is open")
        if not self._presence.running:
            self._presence.start(PRESENCE_SECONDS).addErrback(
                lambda reason: log.failure("presence is not announced any more", reason)
            )
        self._knowledge.retry_now()
        self._shipper.retry_now()

    def _tunnel_closed(self, tunnel: TunnelProtocol, reason: Failure) -> None:
        if tunnel in self._tunnels:
            self._tunnels.remove(tunnel)
            log.warn("tunnel to the proxy is lost: {reason}", reason=reason.getErrorMessage())
        if not self._tunnels and self._presence.running:
            self._presence.stop()
        if self.policy.removed(self._host_id):
            # Every proxy would close it again.
            for dialling in list(self):
                maybeDeferred(dialling.stopService)

    # What is known of the cluster.

    def _policy_changed(self) -> None:
        self._take_up()
        self._reconsider()

    def _take_up(self) -> None:
        """Serve those of the registered databases that are wanted now, and no others."""
        registered = self.policy.databases
        if registered == self._registered:
            return
        self._registered = registered
        self.serve(RESOURCES, self._wanted.of(registered))

    # Presence.

    def _labels_changed(self) -> None:
        """A dynamic label has another value: roles may decide otherwise by it."""
        self._reconsider()
        self._announce_soon()

    def _ready_to_serve(self) -> None:
        """The roles are known, so sessions can be decided on: from now on the services are offered."""
        self.announcements.changed()
        self._announce()

    def _announce_soon(self) -> None:
        """Labels changed; several changes of a moment are one announcement."""
        if self._soon is None and self._tunnels:
            self._soon = self._clock.callLater(0.2, self._announce_now)

    def _announce_now(self) -> None:
        self._soon = None
        self._announce()

    def _announce(self) -> Deferred[None]:
        if not self.policy.heard:
            return succeed(None)
        body: dict[str, Any] = {}
        if self._spool.acknowledged >= self._began - 1:
            # Auth has all of an earlier life of this agent's: sessions of it that have no end get none from here.
            body["began"] = self._began
        body["databases"] = [
            {
                "name": served.database.name,
                "description": served.database.description,
                "protocol": served.database.protocol,
                "uri": str(served.database.uri),
                "labels": dict(served.labels()),
            }
            for served in self._serving.served.values()
        ]

        def failed(reason: Failure) -> None:
            log.warn("presence could not be announced: {reason}", reason=reason.getErrorMessage())

        return self.api.call("PUT", "/v1/presence", body).addCallbacks(lambda answer: None, failed)

    # Events.

    def record(self, event: str, **fields: Any) -> None:
        """Put an event that is of no session into the spool; AuditUnavailable when that cannot be."""
        about = {"cluster_name": self._cluster, "server_id": self._host_id, **fields}
        self._append([make_event(event, uid=self._around.new_uid(), time=self._clock.seconds(), **about)])

    def _append(self, events: Sequence[Mapping[str, Any] | bytes], *, closing: bool = False) -> None:
        if closing:
            self._late.append(events)
        else:
            self._spool.append(events)
        self._shipper.notify()

    def _append_one(self, event: bytes) -> None:
        self._spool.append_one(event)
        self._shipper.notify()

    # Streams.

    def _open_session(self, header: SessionHeader, transport: Any) -> Session:
        session = Session(self._around, header, transport, closed=self._session_closed)
        self._sessions[id(session)] = session
        return session

    def _session_closed(self, session: Session) -> None:
        self._sessions.pop(id(session), None)

    def _cancel(self, header: CancelHeader) -> Deferred[None]:
        for session in list(self._sessions.values()):
            cancelling = session.cancel(header)
            if cancelling is not None:
                return cancelling
        log.info("a cancel request from {peer} fits no session", peer=header.client_address)
        return succeed(None)
