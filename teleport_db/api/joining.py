"""How a process that has nothing but a token becomes a member of a cluster.

::

    joiner                                          proxy (3080) or auth (3025)
      | TLS teleport-join, unverified           ->      |
      | GET /webapi/cas                         ->      | the host CA: kept only if its pin is ours
      | without a pin: GET /webapi/cas over verified HTTPS instead
      | TLS teleport-join, verified with that CA ->     |
      | POST /webapi/join: token, public key    ->      | certificates of the host CA

Never trust on first use: with neither a pin nor a web certificate that verifies, joining is refused.
The token is sent only to who holds a certificate of the verified CA.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IStreamClientEndpoint

from teleport_db.alpn import ALPN_HTTP, ALPN_JOIN
from teleport_db.api.client import APIClient
from teleport_db.certs.keys import load_certificates, pem, spki_pin
from teleport_db.certs.tls import client_context
from teleport_db.errors import AuthenticationFailed, ConfigError, ConnectionTrouble, TeleportDBError
from teleport_db.net.tlslayer import TLSClientEndpoint, is_address


@attrs.frozen
class Door:
    """Where to join.

    :param address: as a person would write it, ``host:port``.
    :param role: ``proxy`` or ``auth``: whose certificate is expected there.
    """

    endpoint: IStreamClientEndpoint
    address: str
    host: str
    role: str = "proxy"


@attrs.frozen
class Cluster:
    """A cluster whose host CA is trusted."""

    name: str
    host_ca: bytes


async def find_cluster(door: Door, *, pins: Sequence[str], insecure: bool, reactor: Any) -> Cluster:
    """Learn the host CA of the cluster behind a door, and verify it.

    :param pins: ``sha256:...`` of the CA's public key; one of them must fit when there are any.
    :raises AuthenticationFailed: when it cannot be verified.
    """
    if pins or insecure:
        answer = await _ask(door, client_context(cas=[], alpn=[ALPN_JOIN], verify=False), name=None, reactor=reactor)
    else:
        try:
            answer = await _ask(door, client_context(cas=None, alpn=[ALPN_HTTP]), name=door.host, reactor=reactor)
        except AuthenticationFailed as error:
            raise AuthenticationFailed(
                f"the certificate of {door.address} cannot be verified ({error}); "
                "give --ca-pin=sha256:... (tctl status prints it), or --insecure on a network you trust"
            ) from error
    try:
        name, certificates = answer["cluster"], load_certificates(answer["host"].encode())
    except (KeyError, AttributeError, ConfigError) as error:
        raise ConnectionTrouble(f"{door.address} does not answer as a cluster does") from error
    if not isinstance(name, str):
        raise ConnectionTrouble(f"{door.address} does not answer as a cluster does")
    if pins:
        # Only what a pin vouches for is trusted: behind the right certificate anybody may put his own.
        found = [spki_pin(certificate) for certificate in certificates]
        certificates = [certificate for certificate in certificates if spki_pin(certificate) in pins]
        if not certificates:
            raise AuthenticationFailed(
                f"the CA of {door.address} has the pin {found[0]}, not {' or '.join(pins)}; is it the right cluster?"
            )
    return Cluster(name=name, host_ca=b"".join(map(pem, certificates)))


async def join(
    door: Door,
    cluster: Cluster,
    *,
    token: str,
    roles: Sequence[str],
    public_key: bytes,
    name: str,
    names: Sequence[str],
    reactor: Any,
) -> Mapping[str, Any]:
    """Trade a token for certificates; answers as ``POST /v1/join``."""
    client = _client(
        door,
        client_context(cas=[cluster.host_ca], alpn=[ALPN_JOIN]),
        name=f"{door.role}.{cluster.name}",
        reactor=reactor,
    )
    try:
        answer: Mapping[str, Any] = await client.call(
            "POST",
            "/v1/join" if door.role == "auth" else "/webapi/join",
            {
                "token": token,
                "roles": list(roles),
                "public_key": public_key.decode(),
                "name": name,
                "names": list(names),
            },
        )
    except TeleportDBError as error:
        if isinstance(error, ConnectionTrouble):
            raise
        raise type(error)(f"{door.address} refused to let this process join: {error}") from error
    finally:
        await client.close()
    return answer


def _client(door: Door, context: ssl.SSLContext, *, name: str | None, reactor: Any) -> APIClient:
    sni = name if name is not None else (None if is_address(door.host) else door.host)
    endpoint = TLSClientEndpoint(door.endpoint, context, name=name, server_hostname=sni, clock=reactor)
    return APIClient(endpoint, door.host, reactor=reactor)


async def _ask(door: Door, context: ssl.SSLContext, *, name: str | None, reactor: Any) -> dict[str, Any]:
    client = _client(door, context, name=name, reactor=reactor)
    try:
        answer: dict[str, Any] = await client.call("GET", "/v1/cas" if door.role == "auth" else "/webapi/cas")
    finally:
        await client.close()
    return answer
