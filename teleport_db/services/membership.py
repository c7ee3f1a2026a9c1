"""How a proxy or an agent comes by its certificates when auth is not in its process.

Kept certificates are used as long as they are valid; otherwise the token is traded for new ones, and a
cluster that cannot be reached just now is tried again: a machine may boot before its cluster does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.task import deferLater
from twisted.logger import Logger

from teleport_db.api.joining import Door, find_cluster, join
from teleport_db.config.model import Address, Config
from teleport_db.errors import ConfigError, ConnectionTrouble
from teleport_db.net.tcp import connector
from teleport_db.services.hosts import Host, Issue, load, obtain

log = Logger()

#: Seconds between attempts to join: the first, and the most.
RETRY_SECONDS = (1.0, 30.0)


def read_token(config: Config) -> str:
    """The join token; a path is read."""
    token = config.teleport.auth_token
    if not token.startswith("/"):
        return token
    try:
        with open(token, encoding="utf-8") as file:
            return file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the token's file cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}",
            source=token,
            path="teleport.auth_token",
        ) from error


def credentials_path(config: Config, role: str) -> str:
    """Where a joined service keeps what it got."""
    return os.path.join(config.teleport.data_dir, "hosts", f"{role}.json")


async def become_member(
    config: Config,
    role: str,
    *,
    door_role: str,
    names: Sequence[str],
    renew: Issue,
    reactor: Any,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Host:
    """The host of a service that is not in auth's process.

    :param door_role: what listens at the configured addresses, ``proxy`` or ``auth``.
    :raises ConfigError: without a token and without kept certificates.
    """
    path = credentials_path(config, role)
    held = load(path)
    if held is not None and held.expires > reactor.seconds():
        return Host(held, renew=renew, path=path, clock=reactor)
    token = read_token(config)
    if not token:
        raise ConfigError(
            "a token is needed to join: get one with tctl tokens add", path="teleport.auth_token", source="--token"
        )

    async def issue(public_key: bytes) -> Mapping[str, Any]:
        return await _join_somewhere(
            config,
            door_role,
            {"token": token, "roles": [role], "public_key": public_key, "names": names},
            reactor=reactor,
        )

    wait = RETRY_SECONDS[0]
    while True:
        try:
            held = await obtain(issue, path=path)
        except ConnectionTrouble as error:
            log.warn("joining failed and is tried again: {error}", error=error)
            await deferLater(reactor, uniform(wait / 2, wait), lambda: None)
            wait = min(wait * 2, RETRY_SECONDS[1])
            continue
        log.info("joined cluster {cluster} as {role} {id}", cluster=held.cluster, role=role, id=held.host_id)
        return Host(held, renew=renew, path=path, clock=reactor)


async def _join_somewhere(
    config: Config, door_role: str, asking: Mapping[str, Any], *, reactor: Any
) -> Mapping[str, Any]:
    """Join at the first address that can be reached."""
    trouble: ConnectionTrouble | None = None
    for address in config.teleport.auth_servers:
        door = _door(address, door_role, reactor)
        try:
            cluster = await find_cluster(door, pins=config.teleport.ca_pin, insecure=config.insecure, reactor=reactor)
            return await join(door, cluster, name=config.teleport.nodename, reactor=reactor, **asking)
        except ConnectionTrouble as error:
            trouble = error
    raise trouble or ConnectionTrouble("there is no address to join at")


def _door(address: Address, role: str, reactor: Any) -> Door:
    return Door(connector(reactor, address.host, address.port), str(address), address.host, role)
