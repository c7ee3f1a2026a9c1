"""One process of a cluster: its services in order, its start, its end."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
    jsonFileLogObserver,
)
from twisted.python.failure import Failure

from teleport_db.certs.files import write_public
from teleport_db.certs.keys import load_certificates
from teleport_db.config.model import Config, check
from teleport_db.config.sinks import FileSink
from teleport_db.db.agent import Agent
from teleport_db.errors import ConfigError, TeleportDBError
from teleport_db.services.authservice import AuthProcess, reachable
from teleport_db.services.dbservice import make_agent
from teleport_db.services.diagnostics import Diagnostics, Gauge
from teleport_db.services.discovery import make_discovery
from teleport_db.services.hosts import Host, Issue, keep_id, obtain
from teleport_db.services.logtext import text_observer
from teleport_db.services.membership import become_member
from teleport_db.services.proxyservice import ProxyProcess, proxy_names
from teleport_db.services.starts import Starts

log = Logger()


class Teleport(MultiService):
    """All services of a configuration.

    ``startService`` begins to open them; :attr:`ready` fires when all are open, or fails with the error
    that kept one from opening.

    :param config: with the host's names filled in, or without.
    """

    auth: AuthProcess | None = None
    proxy: ProxyProcess | None = None
    agent: Agent | None = None
    _agent_host: Host | None = None
    _starts: Starts | None = None

    def __init__(self, config: Config, *, reactor: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.config = config.on_host(socket.gethostname())
        check(self.config)
        self._reactor = reactor
        self._opening: Deferred[None] | None = None
        self.ready: Deferred[None] = Deferred()

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._opening = Deferred.fromCoroutine(self._open())
        self._opening.addCallbacks(self.ready.callback, self._failed)

    def _failed(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self.ready.errback(reason)

    async def _open(self) -> None:
        check_authorities(self.config)
        check_sinks(self.config)
        make_data_dir(self.config.teleport.data_dir)
        if self.config.teleport.diag_addr is not None:
            diagnostics = Diagnostics(
                self.config.teleport.diag_addr,
                ready=lambda: self.ready.called,
                gauges=self._gauges,
                reactor=self._reactor,
            )
            diagnostics.open()
            diagnostics.setServiceParent(self)  # type: ignore[no-untyped-call]
        if self.config.auth.enabled:
            auth = AuthProcess(self.config, reactor=self._reactor)
            await auth.open()
            auth.setServiceParent(self)  # type: ignore[no-untyped-call]
            self.auth = auth
        if self.config.proxy.enabled:
            await self._open_proxy()
        if self.config.db.enabled:
            await self._open_agent()
        self._starts = Starts(self.config, self._record)
        await self._starts.started()
        log.info("all services are up")

    async def _record(self, event: str, **fields: Any) -> None:
        """Keep an event of this process's: at auth, or by the spool of a service."""
        if self.auth is not None:
            await self.auth.record(event, **fields)
        else:
            member = self.proxy or self.agent
            assert member is not None
            member.record(event, **fields)

    async def _open_proxy(self) -> None:
        names = proxy_names(self.config)
        if self.auth is not None:
            host, address = await self._local_host(self.auth, "proxy", names), self.auth.address
        else:
            host = await become_member(
                self.config,
                "proxy",
                door_role="auth",
                names=names,
                renew=self._renew("proxy", names),
                reactor=self._reactor,
            )
            first = self.config.teleport.auth_servers[0]
            address = first.host, first.port
        proxy = ProxyProcess(self.config, host, address, reactor=self._reactor)
        try:
            proxy.open()
        except BaseException:
            await proxy.stopService()
            raise
        proxy.setServiceParent(self)  # type: ignore[no-untyped-call]
        self.proxy = proxy

    async def _open_agent(self) -> None:
        if self.auth is not None:
            host = await self._local_host(self.auth, "db", [])
        else:
            host = await become_member(
                self.config, "db", door_role="proxy", names=[], renew=self._renew("db", []), reactor=self._reactor
            )
        if self.proxy is not None:
            listening = self.config.proxy.web_listen_addr
            proxies = [(reachable(listening.host), self.proxy.web_port.getHost().port)]  # type: ignore[attr-defined]
        elif self.config.teleport.auth_servers:
            proxies = [(address.host, address.port) for address in self.config.teleport.auth_servers]
        else:
            raise ConfigError(
                "a database service needs a proxy: enable proxy_service, or give the address of one",
                path="teleport.auth_servers",
            )
        agent = make_agent(self.config, host, proxies, reactor=self._reactor)
        self.agent = agent
        agent.setServiceParent(self)  # type: ignore[no-untyped-call]
        host.start()
        self._agent_host = host
        if self.config.db.aws:
            # Behind the agent, so that it stops first.
            make_discovery(self.config, agent, host, reactor=self._reactor).setServiceParent(self)  # type: ignore[no-untyped-call]

    async def _local_host(self, auth: AuthProcess, role: str, names: list[str]) -> Host:
        """Certificates from auth in this very process, under an id that stays."""
        host_id = keep_id(os.path.join(self.config.teleport.data_dir, "hosts", f"{role}.id"))

        async def issue(public_key: bytes) -> Mapping[str, Any]:
            return await auth.issue_host(role, names, public_key, host_id)

        return Host(await obtain(issue, path=None), renew=issue, path=None, clock=self._reactor)

    def _renew(self, role: str, names: list[str]) -> Issue:
        """Renewal through the service's own client of the API, once it has one."""

        async def renew(public_key: bytes) -> Mapping[str, Any]:
            member = self.proxy if role == "proxy" else self.agent
            assert member is not None
            api = member.api
            answer: Mapping[str, Any] = await api.call(
                "POST", "/v1/renew", {"public_key": public_key.decode(), "names": names}
            )
            return answer

        return renew

    def _gauges(self) -> dict[str, Gauge]:
        """The figures of the services that are up."""
        gauges = {}
        if self.auth is not None and self.config.auth.audit.sinks:
            sinks = self.auth.sinks
            gauges["teleport_db_audit_sinks_behind"] = Gauge("lines of the audit log not sent on", lambda: sinks.behind)
            gauges["teleport_db_audit_sinks_failing"] = Gauge("sinks that take nothing", lambda: sinks.failing)
        if self.proxy is not None:
            gateway, router = self.proxy.gateway, self.proxy.router
            gauges["teleport_db_proxy_sessions"] = Gauge("PostgreSQL sessions open", lambda: len(gateway.sessions))
            gauges["teleport_db_proxy_agents"] = Gauge("agents connected", lambda: router.agents)
        if self.agent is not None:
            agent = self.agent
            gauges["teleport_db_agent_sessions"] = Gauge("PostgreSQL sessions open", lambda: agent.session_count)
            gauges["teleport_db_agent_tunnels"] = Gauge("proxies connected", lambda: agent.tunnel_count)
            gauges["teleport_db_agent_spool_pending"] = Gauge("events not yet shipped", lambda: agent.spool_pending)
        return gauges

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._agent_host is not None:
            self._agent_host.stop()
        if self._starts is not None:
            await self._starts.stopped()
        # The agent ships its last events through the proxy to auth, so they close in this order.
        for service in reversed(list(self)):
            await _finished(service.stopService())
        self.running = 0


async def _finished(stopping: object) -> None:
    """Wait for a service's end, where it has one to wait for."""
    if isinstance(stopping, Deferred):
        await stopping


def check_authorities(config: Config) -> None:
    """The CA files of the databases are there and hold certificates; ConfigError otherwise."""
    for number, database in enumerate(config.db.databases if config.db.enabled else ()):
        path = database.ca_cert_file
        if not path:
            continue
        key = f"db_service.databases[{number}].ca_cert_file"
        try:
            load_certificates(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError((error.strerror or str(error)).lower(), source=path, path=key) from error
        except ConfigError as error:
            raise ConfigError(error.message, source=path, path=key) from error


def check_sinks(config: Config) -> None:
    """No sink writes into the data directory, by whatever links it may be named; ConfigError otherwise."""
    if not config.auth.enabled:
        return
    data_dir = Path(config.teleport.data_dir).resolve()
    for number, sink in enumerate(config.auth.audit.sinks):
        if isinstance(sink, FileSink) and data_dir in Path(sink.path).parent.resolve().joinpath("file").parents:
            raise ConfigError(
                f"this leads into {data_dir}, which has the cluster's own files: choose another directory",
                source=sink.path,
                path=f"auth_service.audit.sinks[{number}].path",
            )


def make_data_dir(path: str) -> None:
    """The data directory, readable by nobody else; ConfigError when it cannot be."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
        found = os.stat(path)
        if found.st_mode & 0o022:
            # Who may write into it can put other files in the place of ours.
            if found.st_uid == os.geteuid():
                os.chmod(path, found.st_mode & ~0o022)
            else:
                log.warn("{path} can be written to by others; make it 0700", path=path)
    except OSError as error:
        raise ConfigError(
            f"cannot be used: {(error.strerror or str(error)).lower()}; give another with --data-dir",
            source=path,
            path="teleport.data_dir",
        ) from error


#: Twisted's own modules that tell of every factory's start and stop.
CHATTY = ("twisted.internet.protocol", "twisted.web.client")

_LEVELS = {"debug": LogLevel.debug, "info": LogLevel.info, "warning": LogLevel.warn, "error": LogLevel.error}


def start_logging(config: Config) -> None:
    """Send the log where the configuration says."""
    settings = config.teleport.log
    output: Any
    match settings.output:
        case "stderr":
            output = sys.stderr
        case "stdout":
            output = sys.stdout
        case path:
            try:
                output = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - as long as the process lives
            except OSError as error:
                raise ConfigError(
                    f"the log cannot be written: {error.strerror}", source=path, path="teleport.log.output"
                ) from error
    observer: ILogObserver = (jsonFileLogObserver if settings.format == "json" else text_observer)(output)
    level = LogLevel.debug if config.debug else _LEVELS[settings.severity]
    predicate = LogLevelFilterPredicate(defaultLogLevel=level)
    if not config.debug:
        for namespace in CHATTY:
            predicate.setLogLevelForNamespace(namespace, LogLevel.warn)
    filtering = FilteringLogObserver(observer, [predicate])
    globalLogPublisher.addObserver(filtering)


def explain(reason: Failure) -> str:
    """An error of the start in one line for a person."""
    error = reason.value
    if isinstance(error, TeleportDBError):
        return str(error)
    if isinstance(error, CannotListenError):
        number = getattr(error.socketError, "errno", 0)
        words = os.strerror(number).lower() if number else str(error.socketError)
        return f"cannot listen on {error.interface or '0.0.0.0'}:{error.port}: {words}"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror}"
    return f"unexpected error: {type(error).__name__}: {error}"


def run(config: Config, *, reactor: Any = None) -> int:
    """Run the services until a signal; the exit code.

    What keeps them from starting is told in one line on stderr.
    """
    if reactor is None:
        from twisted.internet import reactor
    code = 0
    why: list[str] = []

    def failed(reason: Failure) -> None:
        nonlocal code
        code = 1
        why.append(explain(reason))
        if not isinstance(reason.value, (TeleportDBError, CannotListenError)):
            log.failure("the start failed", reason)
        reactor.stop()

    def ready(_: None) -> None:
        print("teleport: all services are up", flush=True)
        # What is there now stays: looking through it for garbage, again and again, would hold up all sessions.
        gc.collect()
        gc.freeze()

    start_logging(config)
    service = Teleport(config, reactor=reactor)
    if config.teleport.pid_file:
        write_public(config.teleport.pid_file, f"{os.getpid()}\n".encode())
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.callWhenRunning(service.startService)
    service.ready.addCallbacks(ready, failed)
    service.ready.addErrback(lambda reason: log.failure("the start failed", reason))
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        reactor.run()
    finally:
        if config.teleport.pid_file:
            with contextlib.suppress(OSError):
                os.unlink(config.teleport.pid_file)
    # Last, below what the log says of the end.
    for line in why:
        print(f"teleport: {line}", file=sys.stderr, flush=True)
    return code
