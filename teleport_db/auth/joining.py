"""Hosts: how they join with a token, and how they renew what they got.

::

    /host/ID  {"roles", "scope", "name", "key": fingerprint, "token": HASH | null}

Refusals are in the audit log, within the bounds of :mod:`teleport_db.auth.refusals`: strangers could fill it.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from cryptography.hazmat.primitives import serialization
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from teleport_db.auth.recorder import Recorder
from teleport_db.auth.refusals import Refusals
from teleport_db.auth.signing import Signing
from teleport_db.auth.tokens import GIVEN, NAME, Grant, JoinTokens, normal_roles, uses_left
from teleport_db.auth.tokens import PREFIX as TOKENS
from teleport_db.certs.authority import general_name
from teleport_db.certs.keys import load_public
from teleport_db.errors import AccessDenied, AlreadyExists, BadRequest, NotFound, RevisionConflict
from teleport_db.identity import Identity, auth_name
from teleport_db.interfaces import IBackend, Item

log = Logger()

HOSTS = "/host/"
#: Names and addresses of one proxy.
MAX_NAMES = 64
INVALID = "the join token is not valid: it is unknown, over, or was used by somebody else"


def fingerprint(public_key: str) -> str:
    """SHA-256 of a public key's SPKI, in hexadecimal; BadRequest for what is no key."""
    der = load_public(public_key.encode("utf-8", "replace")).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


@attrs.frozen
class _Joiner:
    """A host that shows a token; ``key`` is its public key's fingerprint."""

    roles: tuple[str, ...]
    public_key: str
    key: str
    name: str
    names: tuple[str, ...]
    address: str


class Joining:
    """Makes hosts members of the cluster.

    :param check_host: refuses the id of a host that was removed.
    """

    def __init__(
        self,
        backend: IBackend,
        recorder: Recorder,
        *,
        tokens: JoinTokens,
        signing: Signing,
        refusals: Refusals,
        clock: IReactorTime,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        check_host: Callable[[str], None] = lambda host_id: None,
    ) -> None:
        self._backend = backend
        self._recorder = recorder
        self._tokens = tokens
        self._signing = signing
        self._refusals = refusals
        self._clock = clock
        self._new_id = new_id
        self._check_host = check_host

    async def join(
        self, token: str, roles: Sequence[str], *, public_key: str, name: str, names: Sequence[str], address: str
    ) -> dict[str, Any]:
        """Trade a token for a host's certificates; the answer of ``POST /v1/join``.

        :param name: the host's own name for itself, for people.
        :param names: further names and addresses of a proxy.
        """
        asked = normal_roles(roles or ("db",))
        key = fingerprint(public_key)
        try:
            return await self._join(token, asked, key, public_key=public_key, name=name, names=names, address=address)
        except AccessDenied as error:
            await self._refusals.record(
                "instance.join", error.public, caller="", node_name=name, roles=list(asked), method="token"
            )
            raise

    async def _join(
        self,
        token: str,
        asked: tuple[str, ...],
        key: str,
        *,
        public_key: str,
        name: str,
        names: Sequence[str],
        address: str,
    ) -> dict[str, Any]:
        grant = await self._tokens.find(token)
        if grant is None:
            log.warn("a host at {address} was refused: its token is not valid", address=address)
            raise AccessDenied(INVALID)
        if not set(asked) <= set(grant.roles) & set(GIVEN):
            raise AccessDenied(f"this join token does not allow the role {', '.join(asked)}")
        joiner = _Joiner(asked, public_key, key, name, tuple(self._names(asked, names)), address)
        if grant.item is None:
            return await self._join_static(grant, joiner)
        return await self._join_once(grant, grant.item, joiner)

    async def _join_static(self, grant: Grant, joiner: _Joiner) -> dict[str, Any]:
        # The same key is the same host, so that a lost answer leaves no ghost behind.
        host_id = str(uuid.UUID(bytes=bytes.fromhex(joiner.key)[:16], version=4))
        self._check_host(host_id)
        answer = self._sign(host_id, grant, joiner)
        with contextlib.suppress(AlreadyExists):
            await self._backend.create(HOSTS + host_id, _host(grant, joiner, None))
        stored = (await self._backend.get(HOSTS + host_id)).value
        if stored["key"] != joiner.key or tuple(stored["roles"]) != joiner.roles or stored["scope"] is not None:
            raise AccessDenied("this key has joined already, with other roles; make a new one")
        await self._joined(host_id, grant, joiner)
        return answer

    async def _join_once(self, grant: Grant, item: Item, joiner: _Joiner) -> dict[str, Any]:
        if joiner.key not in item.value["redeemed"]:
            item = await self._redeem(item, joiner, self._sign(self._new_id(), grant, joiner))
        answer = item.value["redeemed"][joiner.key]
        if answer is None:
            log.warn("a host at {address} was refused: it has joined with its token already", address=joiner.address)
            raise AccessDenied(INVALID)
        # After a crash between the two writes the repetition makes the host known.
        try:
            stored = _host(grant, joiner, item.key.removeprefix(TOKENS))
            await self._backend.create(HOSTS + answer["host_id"], stored)
        except AlreadyExists:
            return dict(answer)
        await self._joined(answer["host_id"], grant, joiner)
        return dict(answer)

    async def _redeem(self, item: Item, joiner: _Joiner, answer: dict[str, Any]) -> Item:
        """Bind one use of a token to a key; the token as it is then.

        Of many at once each takes a use of its own, in the order in which they swap: a round that was lost was won
        by somebody else, so there are no more rounds than uses.
        """
        while joiner.key not in item.value["redeemed"]:
            if not uses_left(item):
                log.warn("a host at {address} was refused: its token was used already", address=joiner.address)
                raise AccessDenied(INVALID)
            value = {**item.value, "redeemed": {**item.value["redeemed"], joiner.key: answer}}
            try:
                item = await self._backend.compare_and_swap(item.key, item.revision, value, item.expires)
            except RevisionConflict:
                # Perhaps by this very host, whose first answer got lost.
                item = await self._again(item.key)
            except NotFound:
                raise AccessDenied(INVALID) from None
        return item

    async def _again(self, key: str) -> Item:
        try:
            return await self._backend.get(key)
        except NotFound:
            raise AccessDenied(INVALID) from None

    def _sign(self, host_id: str, grant: Grant, joiner: _Joiner) -> dict[str, Any]:
        return self._signing.host(host_id, joiner.roles, joiner.public_key, names=joiner.names, scope=grant.databases)

    async def arrived(self, host_id: str) -> None:
        """A host has shown its certificate, so it has its answer: its token is over for it, and perhaps for good."""
        try:
            item = await self._backend.get(HOSTS + host_id)
        except NotFound:
            return
        if item.value["token"] is None:
            return
        with contextlib.suppress(NotFound):
            await self._settle(TOKENS + item.value["token"], item.value["key"])
        with contextlib.suppress(NotFound, RevisionConflict):
            await self._backend.compare_and_swap(item.key, item.revision, {**item.value, "token": None})

    async def _settle(self, token: str, key: str) -> None:
        """Forget the answer that a key got, and the token when nobody can use it any more; NotFound when it is gone."""
        while True:
            item = await self._backend.get(token)
            redeemed = {**item.value["redeemed"], key: None}
            with contextlib.suppress(RevisionConflict):
                if len(redeemed) >= item.value["uses"] and not any(redeemed.values()):
                    await self._backend.delete(token, item.revision)
                else:
                    value = {**item.value, "redeemed": redeemed}
                    await self._backend.compare_and_swap(token, item.revision, value, item.expires)
                return

    async def renew(self, caller: Identity, *, public_key: str, names: Sequence[str]) -> dict[str, Any]:
        """New certificates for a host that has valid ones: same id, same roles, same scope."""
        names = self._names(caller.roles, names)
        answer = self._signing.host(caller.name, caller.roles, public_key, names=names, scope=caller.scope)
        await self.arrived(caller.name)
        await self._recorder.record("cert.create", user=caller.name, cert_type="host", expires=answer["expires"])
        return answer

    def _names(self, roles: Sequence[str], names: Sequence[str]) -> list[str]:
        """The names a host may add: a proxy any but those of the cluster's own services; others none."""
        if "proxy" not in roles:
            return []
        if len(names) > MAX_NAMES:
            raise BadRequest(f"a proxy has at most {MAX_NAMES} names")
        cluster = self._signing.cluster.lower()
        spelled = []
        for name in filter(None, names):
            # As the certificate will spell it: there are many ways to write "auth" that IDNA makes one.
            found = str(general_name(name).value)
            lowered = found.lower()
            label = lowered.removesuffix("." + cluster)
            if lowered == auth_name(cluster) or (label != lowered and _is_id(label)):
                raise AccessDenied(f"{found} is the name of another service of the cluster")
            spelled.append(found)
        return spelled

    async def _joined(self, host_id: str, grant: Grant, joiner: _Joiner) -> None:
        await self._recorder.record(
            "instance.join",
            server_id=host_id,
            node_name=joiner.name,
            roles=list(joiner.roles),
            method="static token" if grant.item is None else "token",
            token=None if grant.item is None else grant.item.key.removeprefix(TOKENS)[:NAME],
            databases=list(grant.databases or ()),
            success=True,
        )


def _host(grant: Grant, joiner: _Joiner, token: str | None) -> dict[str, Any]:
    scope = None if grant.databases is None else list(grant.databases)
    return {"roles": list(joiner.roles), "scope": scope, "name": joiner.name, "key": joiner.key, "token": token}


def _is_id(label: str) -> bool:
    try:
        uuid.UUID(label)
    except ValueError:
        return False
    return True
