"""Who a certificate speaks for, as one X.509 extension.

The extension is not critical, so that OpenSSL and every database driver accept a certificate that carries
it.  Its value is UTF-8 JSON of at most 32 KiB::

    1.3.9999.7.1  {"v": 1, "kind": "user", "name": "alice", "cluster": "root", "roles": ["access"], ...}

Reading is strict: a field that this version does not know might be a restriction, and a restriction that
is not understood must not be dropped.  Whether the certificate can be believed at all is for
:mod:`teleport_db.certs.tls` to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, cast

import attrs
from cryptography import x509

from teleport_db.errors import AuthenticationFailed, BadRequest

#: Below 1.3.9999, which nobody was given and which Teleport's own certificates use as well.
IDENTITY_OID = x509.ObjectIdentifier("1.3.9999.7.1")

#: Bytes of JSON that one certificate may carry; a TLS peer reads it before anybody is authenticated.
MAX_IDENTITY = 32 * 1024

Kind = Literal["user", "host"]

#: What a user's certificate may be used for: a login of ``tsh``, one database, an identity file.
USAGES = ("login", "database", "file")

#: The system roles of a host.  ``admin`` is the local administrator of the auth host.
HOST_ROLES = ("auth", "proxy", "db", "admin")

_NO_TRAITS: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def _texts_of(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


def _scope_of(values: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _frozen_traits(traits: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({name: tuple(values) for name, values in traits.items()})


@attrs.frozen
class DatabaseRoute:
    """The one database service that a certificate leads to.

    :param cluster: the cluster whose agents serve it.
    :param service: what ``tsh db ls`` lists.
    :param user: the database user asked for at ``tsh db login``, a default; empty when none was.
    :param database: the same for the database name.
    """

    cluster: str
    service: str
    user: str = ""
    database: str = ""
    protocol: str = "postgres"


@attrs.frozen
class Identity:
    """What the cluster's authorities say about the holder of a key.

    :param kind: ``user`` is signed by the user CA only, ``host`` by the host CA only.
    :param name: the user's name, or the host's id.
    :param roles: names of roles for a user; some of :data:`HOST_ROLES` for a host.
    :param traits: of a user; values are literals.
    :param usage: one of :data:`USAGES` for a user, empty for a host.
    :param route: goes with usage ``database``.
    :param scope: the database services a host may serve; None is any.
    :param mfa: of usage ``database``: a one-time code was asked for just then.  Such a certificate lives for a
        minute, and a session that it opened goes on until
    :param login_expires: the end of the login, seconds since the epoch; 0 without ``mfa``.
    """

    kind: Kind
    name: str
    cluster: str
    roles: tuple[str, ...] = attrs.field(default=(), converter=_texts_of)
    traits: Mapping[str, tuple[str, ...]] = attrs.field(default=_NO_TRAITS, converter=_frozen_traits, hash=False)
    usage: str = ""
    route: DatabaseRoute | None = None
    scope: tuple[str, ...] | None = attrs.field(default=None, converter=_scope_of)
    mfa: bool = False
    login_expires: int = 0


def auth_name(cluster: str) -> str:
    """The DNS name in the auth server's certificate."""
    return f"auth.{cluster}"


def proxy_name(cluster: str) -> str:
    """The DNS name in every proxy's certificate, beside its public addresses."""
    return f"proxy.{cluster}"


def agent_name(host_id: str, cluster: str) -> str:
    """The DNS name in the certificate of an agent."""
    return f"{host_id}.{cluster}"


def to_extension(identity: Identity) -> x509.UnrecognizedExtension:
    """The extension that carries ``identity``.

    Raises BadRequest for what :func:`from_certificate` would refuse: an unknown usage, a missing route,
    more than :data:`MAX_IDENTITY` bytes.
    """
    fields: dict[str, Any] = {"v": 1, "kind": identity.kind, "name": identity.name, "cluster": identity.cluster}
    if identity.roles:
        fields["roles"] = list(identity.roles)
    if identity.traits:
        fields["traits"] = {name: list(values) for name, values in identity.traits.items()}
    if identity.usage:
        fields["usage"] = identity.usage
    if identity.route is not None:
        fields["route"] = attrs.asdict(identity.route)
    if identity.scope is not None:
        fields["scope"] = list(identity.scope)
    if identity.mfa or identity.login_expires:
        fields |= {"mfa": identity.mfa, "login_expires": identity.login_expires}
    value = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        _read(value)
    except ValueError as error:
        raise BadRequest(f"no certificate can carry this identity: {error}") from error
    return x509.UnrecognizedExtension(IDENTITY_OID, value)


def from_certificate(certificate: x509.Certificate) -> Identity:
    """The identity that a certificate carries; nothing is verified here.

    Raises AuthenticationFailed when there is none or it is malformed.
    """
    try:
        extension = certificate.extensions.get_extension_for_oid(IDENTITY_OID).value
    except x509.ExtensionNotFound:
        raise AuthenticationFailed("the certificate names nobody of this cluster; log in again") from None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise AuthenticationFailed("the certificate cannot be read", detail=str(error)) from error
    try:
        return _read(cast(x509.UnrecognizedExtension, extension).value)
    except ValueError as error:
        raise AuthenticationFailed("the identity in the certificate cannot be read", detail=str(error)) from error


def _read(value: bytes) -> Identity:
    if len(value) > MAX_IDENTITY:
        raise ValueError(f"it has {len(value)} bytes, {MAX_IDENTITY} are allowed")
    try:
        fields = _object(json.loads(value.decode("utf-8"), object_pairs_hook=_no_duplicates), "the identity")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if fields.pop("v", None) != 1:
        raise ValueError("it is of an unknown version")
    kind = fields.pop("kind", None)
    if kind not in ("user", "host"):
        raise ValueError("kind is neither user nor host")
    route, scope = fields.pop("route", None), fields.pop("scope", None)
    mfa, login_expires = fields.pop("mfa", False), fields.pop("login_expires", 0)
    if not isinstance(mfa, bool) or isinstance(login_expires, bool) or not isinstance(login_expires, int):
        raise ValueError("mfa is no truth value, or login_expires no number")
    traits = _object(fields.pop("traits", {}), "traits")
    identity = Identity(
        kind=kind,
        name=_text(fields.pop("name", None), "name"),
        cluster=_text(fields.pop("cluster", None), "cluster"),
        roles=_texts(fields.pop("roles", []), "roles"),
        traits={name: _texts(values, f"traits.{name}") for name, values in traits.items()},
        usage=_text(fields.pop("usage", ""), "usage", empty=True),
        route=None if route is None else _route(route),
        scope=None if scope is None else _texts(scope, "scope"),
        mfa=mfa,
        login_expires=login_expires,
    )
    if fields:
        raise ValueError(f"it has unknown fields: {', '.join(sorted(fields))}")
    _check(identity)
    return identity


def _check(identity: Identity) -> None:
    if identity.kind == "host":
        if identity.usage or identity.route is not None or identity.traits:
            raise ValueError("a host has no usage, route or traits")
        if not identity.roles or not set(identity.roles) <= set(HOST_ROLES):
            raise ValueError("a host has some of the roles " + ", ".join(HOST_ROLES))
    else:
        if identity.scope is not None:
            raise ValueError("a user has no scope")
        if identity.usage not in USAGES:
            raise ValueError("a user's usage is one of " + ", ".join(USAGES))
        if (identity.route is not None) != (identity.usage == "database"):
            raise ValueError("a route goes with the usage database, and only with it")
    if identity.mfa != (identity.login_expires > 0) or (identity.mfa and identity.usage != "database"):
        raise ValueError("mfa and login_expires go together, with the usage database")


def _route(value: Any) -> DatabaseRoute:
    fields = _object(value, "route")
    route = DatabaseRoute(
        cluster=_text(fields.pop("cluster", None), "route.cluster"),
        service=_text(fields.pop("service", None), "route.service"),
        user=_text(fields.pop("user", ""), "route.user", empty=True),
        database=_text(fields.pop("database", ""), "route.database", empty=True),
        protocol=_text(fields.pop("protocol", None), "route.protocol"),
    )
    if fields:
        raise ValueError(f"route has unknown fields: {', '.join(sorted(fields))}")
    return route


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field stands there twice")
    return fields


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    return value


def _text(value: Any, where: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise ValueError(f"{where} is no text")
    value.encode("utf-8")  # a lone surrogate, which JSON can spell, is a ValueError here
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is no list")
    return tuple(_text(item, where, empty=True) for item in value)
