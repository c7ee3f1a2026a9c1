"""Discovery of a process: what looks for databases at AWS and gives them to the agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from teleport_db.config.model import Config
from teleport_db.db.agent import Agent
from teleport_db.db.awsdiscovery import Discovery
from teleport_db.services.hosts import Host


def make_discovery(config: Config, agent: Agent, host: Host, *, reactor: Any) -> Discovery:
    """The discovery of ``db_service.aws``, for an agent with these certificates."""

    def in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), function, *args)

    def allowed(name: str) -> bool:
        scope = host.credentials.scope
        return scope is None or name in scope

    return Discovery(config.db.aws, serve=agent.serve, allowed=allowed, in_thread=in_thread, clock=reactor)
