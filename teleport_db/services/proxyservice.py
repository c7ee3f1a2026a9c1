"""The proxy service of a process: the public ports, the web side, and the tunnels' router."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, IProtocol
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

import teleport_db
from teleport_db.alpn import ALPN_AUTH, ALPN_HTTP, ALPN_JOIN, ALPN_POSTGRESQL, ALPN_TUNNEL
from teleport_db.api.client import APIClient
from teleport_db.api.sending import sender
from teleport_db.api.watching import Watcher
from teleport_db.audit.events import SessionEvents, make_event
from teleport_db.audit.shipping import Shipper
from teleport_db.audit.spool import Spool
from teleport_db.audit.uids import uid_source
from teleport_db.certs.files import read_secret, write_public, write_secret
from teleport_db.certs.keys import der, load_certificate, load_private
from teleport_db.certs.tls import KeyPair, client_context, peer_identity, server_context
from teleport_db.certs.web import self_signed, serves
from teleport_db.config.model import Address, Config
from teleport_db.errors import AuditUnavailable, AuthenticationFailed, ConfigError
from teleport_db.identity import Identity, auth_name
from teleport_db.net.http import BoundedSite
from teleport_db.net.origin import OriginSigner
from teleport_db.net.tcp import ACKNOWLEDGES, connector, listen
from teleport_db.net.tlslayer import TLSClientEndpoint
from teleport_db.proxy.barred import KINDS, Barred
from teleport_db.proxy.forward import Forwarder
from teleport_db.proxy.frontend import Gateway, PostgresFrontend, Refusal, Sessions
from teleport_db.proxy.pages import Pages
from teleport_db.proxy.router import AgentTunnel, Router
from teleport_db.proxy.sniffer import Door, FrontDoor
from teleport_db.proxy.web import web_resource, web_site
from teleport_db.proxy.webapi import WebAPI
from teleport_db.services.closing import Closers
from teleport_db.services.hosts import Host

log = Logger()

#: Seconds until auth is asked again which databases there are, when it did not answer.
ASK_AGAIN_SECONDS = 5.0

#: Seconds from a lock or a removal of an agent, which the agent hears of as well, until its tunnel is closed.
DROP_SECONDS = 1.0


def proxy_names(config: Config) -> list[str]:
    """The names and addresses that clients may reach this proxy by: SANs of its certificate."""
    public = [address.host for address in config.proxy.public_addresses]
    names = [*public, config.teleport.nodename, "localhost", "127.0.0.1", "::1"]
    if config.teleport.advertise_ip:
        names.append(config.teleport.advertise_ip)
    listening = config.proxy.web_listen_addr.host
    if listening not in ("", "0.0.0.0", "::"):
        names.append(listening)
    return list(dict.fromkeys(name for name in names if name))


class ProxyProcess(Service):
    """The proxy, from its configuration.

    :param host: its certificates.
    :param auth: where auth's API is.
    """

    web_port: IListeningPort

    def __init__(self, config: Config, host: Host, auth: tuple[str, int], *, reactor: Any) -> None:
        self._config = config
        self._host = host
        self._reactor = reactor
        self._auth = connector(reactor, *auth)
        cluster = host.credentials.cluster
        calling = host.context(
            "calling", lambda held: client_context(cas=[held.host_ca], pair=held.client, alpn=[ALPN_AUTH])
        )
        endpoint = TLSClientEndpoint(self._auth, calling, name=auth_name(cluster), clock=reactor)
        self.api = APIClient(endpoint, auth_name(cluster), reactor=reactor)
        self.router = Router(
            context=host.context("agents", lambda held: client_context(cas=[held.host_ca], pair=held.client)),
            clock=reactor,
        )
        self._barred = Barred(clock=reactor, changed=self._drop_soon)
        self._dropping: IDelayedCall | None = None
        self._watch = Watcher(self.api.call, KINDS, self._barred.apply, clock=reactor)
        self._signer: tuple[KeyPair, OriginSigner] | None = None
        self._asking: Deferred[None] | None = None
        self._closers = Closers()
        self._spool = Spool(os.path.join(config.teleport.data_dir, "spool", "proxy"))
        self._shipper = Shipper(
            self._spool,
            sender(self.api.call, lambda: host.credentials.host_id),
            clock=reactor,
            in_thread=self._in_thread,
        )
        self._new_uid = uid_source()
        self.gateway = Gateway(
            cluster=cluster,
            router=self.router,
            sessions=Sessions(),
            user_ca=lambda: host.credentials.user_ca,
            refused=self._refused,
            clock=reactor,
        )

    # What stands behind each door.

    def open(self) -> None:
        """Listen; ConfigError or CannotListenError when that is not possible.

        :meth:`stopService` closes what was opened, also when this fails half way.
        """
        front = self._front_door()
        listening = self._config.proxy.web_listen_addr
        self.web_port = listen(self._reactor, listening.port, front, interface=listening.host)
        self._closers.add(self.web_port.stopListening)
        tunnel = self._config.proxy.tunnel_listen_addr
        if tunnel != listening:
            self._closers.add(listen(self._reactor, tunnel.port, front, interface=tunnel.host).stopListening)
        log.info("proxy listens on {address}", address=self.web_port.getHost())

    def _front_door(self) -> FrontDoor:
        host, reactor = self._host, self._reactor
        pair = web_pair(self._config, now=reactor.seconds())
        web_context = server_context(pair, alpn=[ALPN_HTTP])
        web, join = self._sites()
        postgres = Door(
            lambda address, settled: PostgresFrontend(self.gateway, address, settled),
            host.context(
                "postgres",
                lambda held: server_context(
                    held.server,
                    client_cas=[held.user_ca],
                    lenient_clients=True,
                    alpn=[ALPN_POSTGRESQL],
                    # No client of PostgreSQL resumes a session, and nor does its server offer that.
                    tickets=not ACKNOWLEDGES,
                ),
            ),
        )
        tunnel = Door(
            self._tunnel,
            host.context(
                "tunnel",
                lambda held: server_context(
                    held.server, client_cas=[held.host_ca], client_required=True, alpn=[ALPN_TUNNEL]
                ),
            ),
        )
        return FrontDoor(
            web=Door(_settle_at_once(web.buildProtocol), lambda: web_context),
            postgres=postgres,
            doors={
                ALPN_POSTGRESQL: postgres,
                ALPN_TUNNEL: tunnel,
                ALPN_JOIN: Door(
                    _settle_at_once(join.buildProtocol),
                    host.context("join", lambda held: server_context(held.server, alpn=[ALPN_JOIN])),
                ),
                ALPN_AUTH: Door(lambda address, settled: self._to_auth(settled), None),
            },
            cancel=self.gateway.cancel,
            refused=self.gateway.refuse_stranger,
            clock=reactor,
        )

    def _sites(self) -> tuple[BoundedSite, BoundedSite]:
        address = self.public_address()
        webapi = WebAPI(self.api, str(address), teleport_db.__version__)
        names = frozenset(proxy_names(self._config))
        pages = Pages(self.api, self.gateway.cluster, str(address), lambda: names)
        return (
            web_site(web_resource(webapi, pages), reactor=self._reactor),
            web_site(webapi.join_resource(), reactor=self._reactor),
        )

    def public_address(self) -> Address:
        """What people and agents are told."""
        return self._config.proxy.public_address(self._config.teleport.nodename)

    def _tunnel(self, address: IAddress, settled: Callable[[], None]) -> IProtocol:
        return AgentTunnel(
            identify=self._identify_agent,
            router=self.router,
            accept=Factory.forProtocol(self._to_auth),
            clock=self._reactor,
            settled=settled,
        )

    def _to_auth(self, answered: Callable[[], None] | None = None) -> Forwarder:
        """One connection that is passed on to auth, with where it comes from."""
        return Forwarder(self._auth, answered, preface=self._origin)

    def _origin(self, peer: IAddress) -> bytes:
        held = self._host.credentials
        if self._signer is None or self._signer[0] is not held.client:
            signer = OriginSigner(der(load_certificate(held.client.certificate_pem)), load_private(held.client.key_pem))
            self._signer = held.client, signer
        return self._signer[1].preface(peer, self._reactor.seconds())

    def _identify_agent(self, certificate: bytes | None) -> Identity:
        if certificate is None:
            raise AuthenticationFailed("a tunnel without a certificate")
        identity = peer_identity(
            certificate, user_ca=None, host_ca=self._host.credentials.host_ca, now=self._reactor.seconds()
        )
        if "db" not in identity.roles:
            raise AuthenticationFailed(f"{identity.name} is no agent of databases")
        self._barred.check(identity)
        return identity

    def _drop_soon(self) -> None:
        """Close the tunnels of agents that are barred now, once they have had the time to tell their clients why."""
        if self._dropping is None:
            self._dropping = self._reactor.callLater(DROP_SECONDS, self._drop)

    def _drop(self) -> None:
        self._dropping = None
        self.router.drop(self._barred.check)

    # Refusals that no agent saw.

    def _refused(self, refusal: Refusal) -> None:
        events = SessionEvents(
            cluster_name=self.gateway.cluster,
            server_id=self._host.credentials.host_id,
            sid=refusal.session_id,
            user=refusal.user,
            db_service=refusal.service,
            db_protocol="postgres",
            db_uri="",
            db_name=refusal.database_name,
            db_user=refusal.database_user,
            new_uid=self._new_uid,
        )
        event = events.start(
            self._reactor.seconds(),
            success=False,
            client_address=refusal.client_address,
            roles=(),
            parameters={},
            error=refusal.error.detail or refusal.error.public,
            message=refusal.error.public,
        )
        try:
            self._spool.append([event])
        except AuditUnavailable as error:
            log.error("a refused connection was not recorded: {detail}", detail=error.detail)
        self._shipper.notify()

    def record(self, event: str, **fields: Any) -> None:
        """Put an event of this process's into the spool; AuditUnavailable when that cannot be."""
        host, now = self._host.credentials, self._reactor.seconds()
        about = {"cluster_name": host.cluster, "server_id": host.host_id, **fields}
        self._spool.append([make_event(event, uid=self._new_uid(), time=now, **about)])
        self._shipper.notify()

    def _in_thread(self, function: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function)

    # Service.

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._host.start()
        self._shipper.start()
        self._watch.start()
        self._asking = Deferred.fromCoroutine(self._ask_for_services())
        self._asking.addErrback(lambda reason: log.debug("auth is not asked any more: {reason}", reason=reason))

    async def _ask_for_services(self) -> None:
        """Learn which services there are, so that one whose agents are still dialling is not said to be unknown."""
        while True:
            try:
                known = await self.api.call("GET", "/v1/databases")
                self.router.remember(item["name"] for item in known["items"])
            except CancelledError:
                raise
            except Exception as error:
                log.info("auth does not say which databases there are: {error}", error=error)
                await deferLater(self._reactor, ASK_AGAIN_SECONDS)
            else:
                return

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._host.stop()
        self._watch.stop()
        if self._dropping is not None:
            self._dropping.cancel()
        if self._asking is not None:
            self._asking.cancel()
        await self._closers.close()
        await self._shipper.stop()
        self.router.close()
        await self.api.close()
        self._spool.close()


def _settle_at_once(
    build: Callable[[IAddress], IProtocol | None],
) -> Callable[[IAddress, Callable[[], None]], IProtocol | None]:
    """HTTP counts its own time."""

    def building(address: IAddress, settled: Callable[[], None]) -> IProtocol | None:
        settled()
        return build(address)

    return building


def web_pair(config: Config, *, now: float) -> KeyPair:
    """The web certificate: the configured one, else a self-signed one that is made once."""
    proxy = config.proxy
    if proxy.https_key_file or proxy.https_cert_file:
        try:
            with open(proxy.https_cert_file, "rb") as certificate, open(proxy.https_key_file, "rb") as key:
                return KeyPair(certificate.read(), key.read())
        except OSError as error:
            raise ConfigError(
                f"cannot be read: {error.strerror}", path="proxy_service.https_cert_file", source=str(error.filename)
            ) from error
    return own_web_pair(os.path.join(config.teleport.data_dir, "web"), proxy_names(config), now=now)


def own_web_pair(directory: str, names: list[str], *, now: float) -> KeyPair:
    """The self-signed certificate kept in a directory; a new one when it is missing, old or for other names."""
    certificate_path, key_path = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    with contextlib.suppress(FileNotFoundError), open(certificate_path, "rb") as file:
        pair = KeyPair(file.read(), read_secret(key_path))
        if serves(pair, names, now=now):
            return pair
    pair = self_signed(names, now=now)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    write_secret(key_path, pair.key_pem)
    write_public(certificate_path, pair.certificate_pem)
    return pair
