"""The auth service of a process: state, audit log, API on 3025, the local administrator's identity."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from teleport_db.alpn import ALPN_AUTH, ALPN_JOIN
from teleport_db.audit.log import AuditLog
from teleport_db.audit.shipping import ThreadHook
from teleport_db.audit.sinks.service import Sinks
from teleport_db.auth.http import auth_site
from teleport_db.auth.server import AuthServer
from teleport_db.certs.files import write_secret
from teleport_db.certs.tls import peer_identity, server_context
from teleport_db.config.model import Config
from teleport_db.errors import AuditUnavailable, AuthenticationFailed
from teleport_db.net.origin import OriginFactory
from teleport_db.net.tcp import listen
from teleport_db.net.tlslayer import TLSServerFactory
from teleport_db.net.unsettled import Unsettled
from teleport_db.services.closing import Closers
from teleport_db.services.hosts import Host, keep_id, obtain
from teleport_db.storage.sqlite import SQLiteBackend

log = Logger()


class AuthProcess(Service):
    """Auth, from its configuration; :meth:`open` before anything else of the process.

    :ivar server: the :class:`AuthServer`.
    :ivar address: ``host:port`` at which this process reaches the API.
    """

    server: AuthServer
    host: Host
    port: IListeningPort
    address: tuple[str, int]

    def __init__(self, config: Config, *, reactor: Any) -> None:
        self._config = config
        self._reactor = reactor
        # Whoever waits for an acknowledgement waits for nobody who searches, and for no file that is packed.
        self._pools = [ThreadPool(minthreads=0, maxthreads=1, name=f"audit {use}") for use in ("log", "index", "files")]
        self._closers = Closers()

    async def open(self) -> None:
        """Load or make the state, and listen; what was opened is closed again when that fails."""
        try:
            await self._open()
        except BaseException:
            await self._closers.close()
            raise

    async def _open(self) -> None:
        config, reactor = self._config, self._reactor
        data = config.teleport.data_dir
        os.makedirs(os.path.join(data, "storage"), mode=0o700, exist_ok=True)
        for pool in self._pools:
            pool.start()
            self._closers.add(pool.stop)
        writing, indexing, packing = (partial(deferToThreadPool, reactor, pool) for pool in self._pools)
        self.audit = AuditLog(
            os.path.join(data, "audit"),
            clock=reactor,
            in_thread=writing,
            index_thread=indexing,
            pack_thread=packing,
            keeping=config.auth.audit,
            cluster=config.auth.cluster_name,
        )
        self._closers.add(self.audit.close)
        self.sinks = Sinks(
            config.auth.audit.sinks,
            self.audit,
            thread=self._sink_thread,
            cluster=config.auth.cluster_name,
            hostname=config.teleport.nodename,
            reactor=reactor,
        )
        self._closers.add(self.sinks.stop)
        self.audit.needed = self.sinks.needed
        self.audit.start()
        self.backend = SQLiteBackend(os.path.join(data, "storage", "state.sqlite"), reactor=reactor, clock=reactor)
        self._closers.add(self.backend.close)
        proxy = config.proxy.public_address(config.teleport.nodename)
        self.server = AuthServer(
            self.backend,
            self.audit,
            config.auth.cluster_name,
            config.auth,
            reactor=reactor,
            proxy_address=str(proxy),
            sinks=self.sinks.statuses,
        )
        self._closers.add(self.server.stop)
        await self.server.start()
        host_id = keep_id(os.path.join(data, "hosts", "auth.id"))

        async def issue(public_key: bytes) -> dict[str, Any]:
            return await self.issue_host("auth", ["localhost", "127.0.0.1", "::1"], public_key, host_id)

        self.host = Host(await obtain(issue, path=None), renew=issue, path=None, clock=reactor)
        authorities = self.server.cas()
        clients = (authorities["user"].encode(), authorities["host"].encode())
        context = self.host.context(
            "api", lambda host: server_context(host.server, client_cas=clients, alpn=[ALPN_AUTH, ALPN_JOIN])
        )
        site = auth_site(self.server, reactor=reactor)
        secured = TLSServerFactory(site, context, clock=reactor, unsettled=Unsettled())
        factory = OriginFactory(secured, self._check_proxy, clock=reactor)
        address = config.auth.listen_addr
        self.port = listen(reactor, address.port, factory, interface=address.host)
        self._closers.add(self.port.stopListening)
        bound: Any = self.port.getHost()
        self.address = reachable(address.host), bound.port
        await self._write_admin(data)
        self.sinks.start()
        log.info(
            "auth of cluster {cluster} listens on {address}",
            cluster=self.server.cluster_name,
            address=bound,
        )

    def _sink_thread(self, name: str) -> ThreadHook:
        """A thread for one sink: what waits for its other side keeps no other waiting."""
        pool = ThreadPool(minthreads=0, maxthreads=1, name=f"audit sink {name}")
        pool.start()
        self._closers.add(pool.stop)
        return partial(deferToThreadPool, self._reactor, pool)

    def _check_proxy(self, certificate: bytes) -> None:
        """Only a proxy of this cluster, locked or removed it is none, says where a connection comes from."""
        server = self.server
        identity = peer_identity(
            certificate, user_ca=None, host_ca=server.cas()["host"].encode(), now=self._reactor.seconds()
        )
        if "proxy" not in identity.roles:
            raise AuthenticationFailed(f"{identity.name} is no proxy")
        server.removals.check(identity)
        server.locks.check(identity)

    async def record(self, event: str, **fields: Any) -> None:
        """Keep an event of this process's in the audit log."""
        await self.server.recorder.record(event, server_id=self.host.credentials.host_id, **fields)

    async def issue_host(self, role: str, names: list[str], public_key: bytes, host_id: str) -> dict[str, Any]:
        """Certificates for a service of this process, recorded: the answer that a join would get."""
        issued = self.server.issue_host([role], names, public_key, host_id)
        await self._signed(host_id, role, issued["expires"])
        return issued

    async def _signed(self, name: str, role: str, expires: str | None = None) -> None:
        """Who has this process has its authorities: a disk that is full keeps it from recording, not from starting."""
        try:
            await self.server.recorder.record("cert.create", user=name, cert_type="host", roles=[role], expires=expires)
        except AuditUnavailable as error:
            log.error("a certificate of this process's was not recorded: {detail}", detail=error.detail)

    async def _write_admin(self, data: str) -> None:
        """The identity with which ``tctl`` on this host calls; made anew at each start."""
        admin = self.server.local_admin_credentials()
        await self._signed("admin", "admin")
        directory = os.path.join(data, "admin")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        write_secret(os.path.join(directory, "key.pem"), admin.key_pem)
        write_secret(os.path.join(directory, "cert.pem"), admin.certificate_pem)
        write_secret(os.path.join(directory, "cas.pem"), admin.cas_pem)
        write_secret(os.path.join(directory, "address"), ("{}:{}\n".format(*self.address)).encode())

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self.host.start()

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self.host.stop()
        await self._closers.close()


def reachable(host: str) -> str:
    """The address by which this machine reaches its own listener on ``host``."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
