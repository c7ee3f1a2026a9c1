"""The db service of a process: the agent, with what it needs of the machine."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from teleport_db.alpn import ALPN_AUTH, ALPN_TUNNEL
from teleport_db.audit.spool import Spool
from teleport_db.certs.tls import client_context, server_context
from teleport_db.config.databases import selector
from teleport_db.config.model import Config
from teleport_db.db.agent import Agent, HostContexts
from teleport_db.db.away import BEST_EFFORT, AuthAway, Kept
from teleport_db.db.awsbundle import BundleFiles, Bundles
from teleport_db.db.awstokens import AmazonCredentials
from teleport_db.db.credentials import ByKind, CertificateCredentials
from teleport_db.db.labels import run_command
from teleport_db.db.passwords import PasswordCredentials
from teleport_db.db.registered import Wanted
from teleport_db.net.tcp import connector
from teleport_db.services.hosts import Host, HostCredentials

#: Sessions of TLS with proxies that are remembered: each proxy begins one a minute, and OpenSSL keeps it for two hours.
MAX_REMEMBERED = 1000


class TunnelContexts:
    """Gives the contexts of an agent's present credentials."""

    def __init__(self, credentials: Callable[[], HostCredentials]) -> None:
        self._credentials = credentials
        self._made: tuple[HostCredentials, HostContexts] | None = None

    def __call__(self) -> HostContexts:
        held, made = self._credentials(), self._made
        if made is None or made[0] is not held:
            contexts = tunnel_contexts(held)
        elif made[1].serving.session_stats()["number"] > MAX_REMEMBERED:
            # What a context remembers goes with it; the next stream of each proxy begins with a whole handshake.
            contexts = attrs.evolve(made[1], serving=serving_context(held))
        else:
            return made[1]
        self._made = held, contexts
        return contexts


def serving_context(held: HostCredentials) -> ssl.SSLContext:
    """The context for streams that proxies open.  Their sessions are kept here, so that all share one of a proxy's."""
    return server_context(held.server, client_cas=[held.host_ca], client_required=True, remember=True)


def tunnel_contexts(held: HostCredentials) -> HostContexts:
    """The contexts of an agent with these credentials."""
    return HostContexts(
        serving=serving_context(held),
        tunnel=client_context(cas=[held.host_ca], pair=held.client, alpn=[ALPN_TUNNEL]),
        calling=client_context(cas=[held.host_ca], pair=held.client, alpn=[ALPN_AUTH]),
    )


def make_agent(config: Config, host: Host, proxies: list[tuple[str, int]], *, reactor: Any) -> Agent:
    """The agent of a configuration.

    :param proxies: addresses of the proxies' tunnel ports.
    """

    def in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), function, *args)

    def read_file(path: str) -> bytes:
        return Path(path).read_bytes()

    bundles = Bundles(
        BundleFiles(os.path.join(config.teleport.data_dir, "aws"), base=config.db.rds_ca_url, now=reactor.seconds),
        in_thread=in_thread,
        clock=reactor,
    )
    # Kept, because an endpoint remembers which address of a name answers.
    dialled = lru_cache(maxsize=1024)(partial(connector, reactor))
    return Agent(
        cluster=host.credentials.cluster,
        host_id=host.credentials.host_id,
        databases=config.db.databases,
        spool=Spool(os.path.join(config.teleport.data_dir, "spool", "db")),
        contexts=TunnelContexts(lambda: host.credentials),
        host_ca=lambda: host.credentials.host_ca,
        user_ca=lambda: host.credentials.user_ca,
        proxies=[connector(reactor, *address) for address in proxies],
        dial=lambda database: dialled(database.uri.host, database.uri.port),
        credentials=lambda api: ByKind(
            CertificateCredentials(api.call, clock=reactor, read_file=read_file),
            AmazonCredentials(in_thread=in_thread, read_file=read_file, bundles=bundles, clock=reactor),
            PasswordCredentials(
                in_thread=in_thread,
                read_file=read_file,
                db_ca=lambda: host.credentials.db_ca,
                environment=os.environ,
            ),
        ),
        run=run_command(in_thread),
        in_thread=in_thread,
        reactor=reactor,
        wanted=Wanted(
            tuple(selector(labels) for labels in config.db.resources),
            host.credentials.scope,
            config.db.resource_commands,
        ),
        away=AuthAway(config.db.auth_away, config.db.auth_away_max_age, clock=reactor),
        kept=Kept(os.path.join(config.teleport.data_dir, "policy"), in_thread=in_thread)
        if config.db.auth_away == BEST_EFFORT
        else None,
        audit=config.db.audit,
    )
