"""Join tokens: static ones from the configuration, dynamic ones that work once, or as often as they say.

::

    /token/HASH  {"prefix", "roles", "databases": [...] | null, "uses": n,
                  "redeemed": {fingerprint of a key: the answer, null once its host has arrived}}

Each use of a dynamic token is bound to the public key that redeems it, by compare-and-swap, which counts the
uses as well.  Who lost the answer asks again with the same key and gets the same answer, until the host has
shown its certificate; everybody else, and everybody after the token has expired, hears that it is not valid.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from teleport_db.api.resources import Resource, check_name
from teleport_db.auth import body as fields
from teleport_db.auth.recorder import Recorder
from teleport_db.auth.secrets import NewToken, hashed, new_token
from teleport_db.auth.signing import HOUR, bounded_ttl
from teleport_db.auth.times import rfc3339, seconds_of
from teleport_db.config.model import StaticToken
from teleport_db.errors import AlreadyExists, BadRequest, NotFound
from teleport_db.interfaces import IBackend, Item

PREFIX = "/token/"
#: Seconds: an hour, at most two days.
DEFAULT_TTL, MAX_TTL = HOUR, 48 * HOUR
#: Characters of a token somebody chose, of what listings show of it, and of the name it has there.
MIN_LENGTH, SHOWN, NAME = 8, 4, 16
#: What the words of ``--type`` mean, and which roles a token can give.
ROLE_WORDS = {"db": "db", "database": "db", "proxy": "proxy", "auth": "auth", "node": "node"}
GIVEN = ("proxy", "db")
#: Hosts that one dynamic token lets in at most; until they have arrived their answers are kept with it.
MAX_USES = 100


def normal_roles(words: Sequence[str]) -> tuple[str, ...]:
    """``database`` and ``db`` as one; BadRequest for a role that there is not."""
    unknown = [word for word in words if word.strip().lower() not in ROLE_WORDS]
    if unknown or not words:
        raise BadRequest("a token's roles are db (or database) and proxy")
    return tuple(dict.fromkeys(ROLE_WORDS[word.strip().lower()] for word in words))


@attrs.frozen
class Grant:
    """What a token that was shown allows.

    :param databases: the database services a host may serve; None for any.
    :param item: of a dynamic token.
    """

    roles: tuple[str, ...]
    databases: tuple[str, ...] | None = None
    item: Item | None = None


def uses_left(item: Item) -> int:
    """How many hosts more a dynamic token lets in."""
    return int(item.value["uses"]) - len(item.value["redeemed"])


def listed(item: Item) -> dict[str, Any]:
    """A dynamic token as listings show it: named by a part of its hash, never by itself."""
    databases = item.value["databases"]
    return {
        "name": item.key.removeprefix(PREFIX)[:NAME],
        "prefix": item.value["prefix"],
        "roles": item.value["roles"],
        "labels": {} if databases is None else {"databases": ",".join(databases)},
        "expires": None if item.expires is None else rfc3339(item.expires),
        "uses": item.value["uses"],
        "uses_left": uses_left(item),
        "static": False,
    }


class JoinTokens:
    """All join tokens of the cluster.

    :param static: from the configuration, paths already read.
    """

    def __init__(
        self,
        backend: IBackend,
        recorder: Recorder,
        *,
        static: Sequence[StaticToken],
        clock: IReactorTime,
        token: NewToken = new_token,
    ) -> None:
        self._backend = backend
        self._recorder = recorder
        self._static = [(hashed(entry.token), entry) for entry in static]
        self._clock = clock
        self._token = token

    async def find(self, token: str) -> Grant | None:
        """What ``token`` allows, whether it was redeemed or not; None when it is not valid."""
        digest = hashed(token)
        found = None
        for known, entry in self._static:
            if hmac.compare_digest(known, digest):
                found = Grant(normal_roles(entry.roles))
        if found is not None:
            return found
        try:
            item = await self._backend.get(PREFIX + digest)
        except NotFound:
            return None
        databases = item.value["databases"]
        return Grant(tuple(item.value["roles"]), None if databases is None else tuple(databases), item)

    # The API.

    async def create(
        self,
        roles: Sequence[str],
        *,
        ttl: float = 0,
        value: str = "",
        databases: Sequence[str] = (),
        uses: int = 1,
        by: str,
    ) -> dict[str, Any]:
        """A new dynamic token: the answer of ``POST /v1/tokens``.

        :param ttl: seconds, 0 for an hour.
        :param value: the token itself, "" for a random one.
        :param databases: the only services that its holder may serve; none for any.
        :param uses: how many hosts it lets in.
        """
        normal = normal_roles(roles)
        if not set(normal) <= set(GIVEN):
            raise BadRequest("a token's roles are db (or database) and proxy")
        if value and (len(value) < MIN_LENGTH or not value.isprintable() or set(value) & set(" /?#")):
            raise BadRequest(f"a token has at least {MIN_LENGTH} characters, no space and none of / ? #")
        if not 1 <= uses <= MAX_USES:
            raise BadRequest(
                f"a token works 1 to {MAX_USES} times; for more there are tokens in the configuration file"
            )
        names = [check_name("db", name) for name in databases]
        token = value or self._token()
        if any(hmac.compare_digest(known, hashed(token)) for known, _ in self._static):
            raise AlreadyExists("there is a token of this value already")
        expires = self._clock.seconds() + bounded_ttl(ttl, DEFAULT_TTL, MAX_TTL)
        stored: dict[str, Any] = {
            "prefix": token[:SHOWN],
            "roles": list(normal),
            "databases": names or None,
            "uses": uses,
            "redeemed": {},
        }
        try:
            item = await self._backend.create(PREFIX + hashed(token), stored, expires)
        except AlreadyExists:
            raise AlreadyExists("there is a token of this value already") from None
        await self._recorder.record(
            "join_token.create",
            user=by,
            name=listed(item)["name"],
            roles=list(normal),
            databases=names,
            uses=uses,
            expires=rfc3339(expires),
        )
        return {"token": token, "roles": list(normal), "databases": names, "uses": uses, "expires": rfc3339(expires)}

    async def create_resource(self, resource: Resource, *, by: str) -> Resource:
        """The same from ``kind: token``, whose name is the token."""
        ttl = seconds_of(resource.expires) - self._clock.seconds() if resource.expires else 0
        if resource.expires and ttl <= 0:
            raise BadRequest("the token would be over before it begins")
        answer = await self.create(
            fields.texts(resource.spec, "roles"),
            ttl=ttl,
            value=resource.name,
            databases=fields.texts(resource.spec, "databases", ()),
            uses=fields.whole({"uses": 1, **resource.spec}, "uses"),
            by=by,
        )
        return Resource("token", resource.name, {"roles": answer["roles"]}, None, answer["expires"])

    async def listing(self) -> list[dict[str, Any]]:
        """Static ones first; those that are used up are gone as far as anybody is concerned."""
        static: list[dict[str, Any]] = [
            {
                "name": digest[:NAME],
                "prefix": entry.token[:SHOWN],
                "roles": list(normal_roles(entry.roles)),
                "labels": {},
                "expires": None,
                "uses": None,
                "uses_left": None,
                "static": True,
            }
            for digest, entry in self._static
        ]
        items = await self._backend.range(PREFIX)
        return static + [listed(item) for item in items if uses_left(item) > 0]

    async def resources(self) -> list[Resource]:
        """The same as resources."""
        return [
            Resource("token", entry["name"], {**entry, "name": entry["prefix"] + "..."}, None, entry["expires"] or "")
            for entry in await self.listing()
        ]

    async def delete(self, name: str, *, by: str) -> None:
        """Remove a dynamic token by its value, or by the name that listings give it."""
        if any(hmac.compare_digest(digest, hashed(name)) or digest[:NAME] == name for digest, _ in self._static):
            raise BadRequest("this token stands in the configuration file; remove it there")
        for item in await self._backend.range(PREFIX):
            digest = item.key.removeprefix(PREFIX)
            if hmac.compare_digest(digest, hashed(name)) or digest[:NAME] == name:
                await self._backend.delete(item.key)
                await self._recorder.record("join_token.delete", user=by, name=digest[:NAME])
                return
        raise NotFound("there is no such token")
