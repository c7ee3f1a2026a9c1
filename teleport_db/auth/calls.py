"""What each route of the table does: reads the fields, asks the part that knows, shapes the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from teleport_db.api.resources import Resource, check_kind, check_name, read
from teleport_db.audit.shipped import Run
from teleport_db.auth import body as fields
from teleport_db.auth import storing
from teleport_db.auth.accesscalls import AccessCalls
from teleport_db.auth.auditcalls import AuditCalls
from teleport_db.auth.certificates import asking
from teleport_db.auth.routes import Caller
from teleport_db.auth.server import AuthServer
from teleport_db.auth.shipment import Shipment, read_shipment
from teleport_db.auth.signing import DATABASE_SERVER_TTL, MAX_DATABASE_SERVER_TTL, Signed, bounded_ttl
from teleport_db.auth.times import rfc3339
from teleport_db.auth.watch import PROXY_KINDS
from teleport_db.errors import AccessDenied, AlreadyExists, BadRequest, NotFound, RevisionConflict
from teleport_db.identity import Identity

#: What every host says of its own process.
OF_PROCESSES = frozenset({"service.start", "service.stop", "config.update"})


@attrs.frozen
class Call:
    """One call: who, and everything that was sent.

    :param parameters: from the path.
    :param content: the body as it came, which ``body`` is made of unless the route takes it raw.
    """

    caller: Caller
    body: dict[str, Any]
    query: dict[str, str]
    parameters: dict[str, str]
    content: bytes = attrs.field(default=b"", repr=False)

    @property
    def by(self) -> str:
        """Who calls, for the audit log."""
        return self.caller.name

    def host(self) -> Identity:
        """The calling host; AccessDenied for everybody who is none that could do this for itself."""
        identity = self.caller.identity
        if identity is None or identity.kind != "host" or self.caller.is_admin:
            raise AccessDenied("only a host does this, for itself")
        return identity

    def own(self) -> str:
        """The name of the user who calls; AccessDenied for hosts, which have no second factors."""
        if self.caller.user is None:
            raise AccessDenied("only a user does this, for itself; an administrator makes a reset")
        return self.caller.user.name

    def whole(self, name: str) -> int | None:
        """A number of the query."""
        value = self.query.get(name)
        if value is None or value == "":
            return None
        if not value.isascii() or not value.isdigit() or len(value) > 18:
            raise BadRequest(f"{name} must be a whole number")
        return int(value)


class Calls(AccessCalls, AuditCalls):
    """The API's calls, one method a route."""

    def __init__(self, server: AuthServer) -> None:
        self._server = server
        self._listers: dict[str, Any] = {
            "user": server.users,
            "role": server.roles,
            "lock": server.locks,
            "db": server.databases,
            "db_server": server.removals,
        }

    # What everybody may know.

    async def ping(self, call: Call) -> dict[str, Any]:
        return await self._server.ping()

    async def cas(self, call: Call) -> dict[str, Any]:
        return self._server.cas()

    async def status(self, call: Call) -> dict[str, Any]:
        return self._server.status()

    # People.

    async def login(self, call: Call) -> dict[str, Any]:
        return await self._server.logins.login(
            fields.text(call.body, "user"),
            fields.text(call.body, "password", ""),
            fields.text(call.body, "otp", "", limit=64),
            public_key=fields.text(call.body, "public_key"),
            ttl=fields.number(call.body, "ttl", 0),
            address=fields.address(call.body, "client_address", call.caller.address),
        )

    async def show_invite(self, call: Call) -> dict[str, Any]:
        return await self._server.invites.show(call.parameters["token"])

    async def redeem_invite(self, call: Call) -> dict[str, Any]:
        return await self._server.invites.redeem(
            call.parameters["token"],
            fields.text(call.body, "password"),
            fields.text(call.body, "otp", "", limit=64),
            address=fields.address(call.body, "client_address", call.caller.address),
        )

    async def change_password(self, call: Call) -> dict[str, Any]:
        """A user's own, with a certificate; or anybody's who knows the old one, at a proxy."""
        caller = call.caller
        if caller.user is not None:
            name, address = caller.user.name, caller.address
        elif caller.is_admin:
            raise AccessDenied("only a user does this; an administrator makes a reset")
        else:
            name = fields.text(call.body, "user")
            address = fields.address(call.body, "client_address", caller.address)
        old, new = fields.text(call.body, "old"), fields.text(call.body, "password")
        code = fields.text(call.body, "otp", "", limit=64)
        await self._server.logins.change(name, old, code, new, address=address)
        return {"user": name}

    # Second factors, each user's own.

    async def list_devices(self, call: Call) -> dict[str, Any]:
        found = await self._server.devices.listing(call.own())
        return {**found, "session_mfa": bool(asking(call.caller.roles))}

    async def begin_device(self, call: Call) -> dict[str, Any]:
        return await self._server.devices.begin(
            call.own(),
            fields.text(call.body, "name", "", limit=64),
            password=fields.text(call.body, "password", ""),
            code=fields.text(call.body, "otp", "", limit=64),
            address=call.caller.address,
        )

    async def confirm_device(self, call: Call) -> dict[str, Any]:
        code = fields.text(call.body, "otp", limit=64)
        return await self._server.devices.confirm(call.own(), code, address=call.caller.address)

    async def remove_device(self, call: Call) -> dict[str, Any]:
        name, code = fields.text(call.body, "name", limit=64), fields.text(call.body, "otp", "", limit=64)
        return await self._server.devices.remove(call.own(), name, code=code, address=call.caller.address)

    async def renew_recovery_codes(self, call: Call) -> dict[str, Any]:
        code = fields.text(call.body, "otp", "", limit=64)
        return await self._server.devices.renew(call.own(), code=code, address=call.caller.address)

    # Hosts.

    async def join(self, call: Call) -> dict[str, Any]:
        return await self._server.joining.join(
            fields.text(call.body, "token", limit=256),
            fields.texts(call.body, "roles", ("db",)),
            public_key=fields.text(call.body, "public_key"),
            name=fields.text(call.body, "name", "", limit=256),
            names=fields.texts(call.body, "names", ()),
            address=call.caller.address,
        )

    async def renew(self, call: Call) -> dict[str, Any]:
        return await self._server.joining.renew(
            call.host(),
            public_key=fields.text(call.body, "public_key"),
            names=fields.texts(call.body, "names", ()),
        )

    async def announce(self, call: Call) -> dict[str, Any]:
        host = call.host()
        began = None if call.body.get("began") is None else fields.whole(call.body, "began")
        await self._server.joining.arrived(host.name)
        answer = await self._server.presence.announce(host, fields.objects(call.body, "databases"))
        self._server.losses.heard(host.name, began=began)
        return answer

    async def leave(self, call: Call) -> dict[str, Any]:
        await self._server.presence.leave(call.host())
        return {}

    async def watch(self, call: Call) -> dict[str, Any]:
        kinds = [kind for kind in call.query.get("kinds", "").split(",") if kind]
        timeout = call.whole("timeout")
        caller = call.caller.identity
        if caller is not None and caller.kind == "host" and set(caller.roles) == {"proxy"}:
            beyond = set(kinds) - set(PROXY_KINDS)
            if beyond:
                raise AccessDenied(f"a proxy does not hear of {sorted(beyond)[0][:64]}s")
        changes = await self._server.watch.changes(kinds, call.whole("since"), 50 if timeout is None else timeout)
        return {**changes, "session_defaults": self._server.session_defaults}

    async def ship_audit(self, call: Call) -> dict[str, Any]:
        host = call.host()
        events = read_shipment(call.content)
        _check_events(host, events, self._server.cluster_name)
        self._server.losses.heard(host.name)
        return {"acknowledged": await self._server.audit.receive(host.name, events)}

    # Certificates.

    async def sign_user(self, call: Call) -> dict[str, Any]:
        """A certificate of the caller's own for one database service, never longer than the caller's."""
        service = fields.text(fields.mapping(call.body.get("route"), "route"), "service", limit=64)
        self._server.locks.check_database(service)
        identity, signed = await self._server.certificates.database(call.caller, call.body)
        assert identity.route is not None
        more = {"mfa": True} if identity.mfa else {}
        await self._signed(call, "user", signed.expires, usage="database", db_service=identity.route.service, **more)
        return self._for_user(signed)

    async def sign_identity(self, call: Call) -> dict[str, Any]:
        """A user's identity file."""
        identity, signed = await self._server.certificates.file(call.body)
        await self._signed(call, "user", signed.expires, usage="file", name=identity.name)
        return self._for_user(signed)

    async def sign_database_server(self, call: Call) -> dict[str, Any]:
        hosts = fields.texts(call.body, "hosts")
        ttl = bounded_ttl(fields.number(call.body, "ttl", 0), DATABASE_SERVER_TTL, MAX_DATABASE_SERVER_TTL)
        signed = self._server.signing.database_server(hosts, fields.text(call.body, "public_key"), ttl)
        await self._signed(call, "db", signed.expires, names=list(hosts))
        return {
            "certificate": signed.certificate,
            "ca": self._server.cas()["db_client"],
            "expires": rfc3339(signed.expires),
        }

    async def sign_database_client(self, call: Call) -> dict[str, Any]:
        host = call.host()
        service = check_name("db", fields.text(call.body, "service", limit=64))
        if host.scope is not None and service not in host.scope:
            raise AccessDenied(f"the join token of this agent does not allow the database {service!r}")
        user = fields.text(call.body, "user", limit=64)
        signed = self._server.signing.database_client(user, fields.text(call.body, "public_key"))
        await self._signed(call, "db_client", signed.expires, db_service=service, db_user=user)
        return {
            "certificate": signed.certificate,
            "db_ca": self._server.cas()["db"],
            "expires": rfc3339(signed.expires),
        }

    def _for_user(self, signed: Signed) -> dict[str, Any]:
        """The answer with a user's certificate."""
        return {
            "certificate": signed.certificate,
            "host_ca": self._server.cas()["host"],
            "cluster": self._server.cluster_name,
            "expires": rfc3339(signed.expires),
        }

    async def _signed(self, call: Call, kind: str, expires: float, **more: Any) -> None:
        await self._server.recorder.record(
            "cert.create", user=call.by, cert_type=kind, expires=rfc3339(expires), **more
        )

    # Administration.

    async def databases(self, call: Call) -> dict[str, Any]:
        user = call.caller.user
        listing = self._server.presence.listing
        return {"items": await (listing(None, {}) if user is None else listing(call.caller.roles, user.traits))}

    async def add_user(self, call: Call) -> dict[str, Any]:
        ttl = self._server.invites.invite_ttl(fields.number(call.body, "ttl", 0))
        name = check_name("user", fields.text(call.body, "name"))
        resource = Resource("user", name, {key: call.body[key] for key in ("roles", "traits") if call.body.get(key)})
        await self._server.users.create(resource, force=False, by=call.by)
        return await self._server.invites.invite(name, ttl, by=call.by)

    async def reset_user(self, call: Call) -> dict[str, Any]:
        ttl = fields.number(call.body, "ttl", 0)
        return await self._server.invites.reset(call.parameters["name"], ttl, by=call.by)

    async def unlock_user(self, call: Call) -> dict[str, Any]:
        """Forget the failed logins of a user, who may try again at once."""
        user = await self._server.users.find(call.parameters["name"])
        sources = await self._server.failures.forget(user.name)
        await self._server.recorder.record("user.unlock", user=call.by, name=user.name, sources=sources)
        return {"user": user.name, "sources": sources}

    async def list_tokens(self, call: Call) -> dict[str, Any]:
        return {"items": await self._server.tokens.listing()}

    async def add_token(self, call: Call) -> dict[str, Any]:
        return await self._server.tokens.create(
            fields.texts(call.body, "roles"),
            ttl=fields.number(call.body, "ttl", 0),
            value=fields.text(call.body, "value", "", limit=256),
            databases=fields.texts(call.body, "databases", ()),
            uses=fields.whole({"uses": 1, **call.body}, "uses"),
            by=call.by,
        )

    async def delete_token(self, call: Call) -> dict[str, Any]:
        await self._server.tokens.delete(call.parameters["name"], by=call.by)
        return {}

    # Resources.

    async def _list(self, kind: str) -> list[Resource]:
        if kind == "token":
            return await self._server.tokens.resources()
        if kind == "cluster_auth_preference":
            return [await self._server.preference.get()]
        found: list[Resource] = await self._listers[check_kind(kind)].list()
        return found

    async def list_resources(self, call: Call) -> dict[str, Any]:
        return {"items": [resource.to_json() for resource in await self._list(call.parameters["kind"])]}

    async def get_resource(self, call: Call) -> dict[str, Any]:
        kind, name = call.parameters["kind"], call.parameters["name"]
        if kind in self._listers:
            one: Resource = await self._listers[kind].get(name)
            return one.to_json()
        for resource in await self._list(kind):
            if resource.name == name:
                return resource.to_json()
        raise NotFound(f"there is no {kind} {name[:64]!r}")

    async def create_resource(self, call: Call) -> dict[str, Any]:
        kind = check_kind(call.parameters["kind"])
        force = call.query.get("force") in ("1", "true")
        if force and not call.caller.may((kind, "update")):
            raise AccessDenied(f'no role of yours allows "update" on "{kind}"')
        resource = read(call.body, kind)
        if kind == "token":
            made = await self._server.tokens.create_resource(resource, by=call.by)
        elif kind == "cluster_auth_preference":
            made = await self._create_preference(resource, force=force, by=call.by)
        elif kind == "db_server":
            raise BadRequest("a db_server is an agent: it is there when it has joined (tctl tokens add --type=db)")
        else:
            made = await self._listers[kind].create(resource, force=force, by=call.by)
        return made.to_json()

    async def _create_preference(self, resource: Resource, *, force: bool, by: str) -> Resource:
        if not force and (await self._server.preference.get()).revision is not None:
            what = storing.reference(resource)
            raise AlreadyExists(f"there is a {what} already; tctl create --force replaces it")
        return await self._put_preference(resource, resource.revision if force else None, by)

    async def _put_preference(self, resource: Resource, revision: int | None, by: str) -> Resource:
        try:
            return await self._server.preference.put(resource, revision=revision, by=by)
        except (RevisionConflict, NotFound):
            raise storing.changed_meanwhile(storing.reference(resource)) from None

    async def update_resource(self, call: Call) -> dict[str, Any]:
        kind, name = check_kind(call.parameters["kind"]), call.parameters["name"]
        resource = read(call.body, kind, name)
        if kind == "cluster_auth_preference":
            return (await self._put_preference(resource, resource.revision, call.by)).to_json()
        if kind not in self._listers or kind == "db_server":
            raise BadRequest(f"a {kind} cannot be changed")
        if resource.revision is None:
            raise BadRequest("metadata.revision must say which revision is replaced")
        updated: Resource = await self._listers[kind].update(resource, by=call.by)
        return updated.to_json()

    async def delete_resource(self, call: Call) -> dict[str, Any]:
        kind, name = check_kind(call.parameters["kind"]), call.parameters["name"]
        if kind == "token":
            await self._server.tokens.delete(name, by=call.by)
        elif kind == "cluster_auth_preference":
            await self._server.preference.delete(by=call.by)
        else:
            await self._listers[kind].delete(name, by=call.by)
        return {}


def _check_events(host: Identity, events: Shipment, cluster: str) -> None:
    """An agent writes its own sessions' events, a proxy those it refused; nobody writes others'."""
    name, serves = host.name, "db" in host.roles
    for _, event in events:
        if isinstance(event, Run):
            if not serves or event.server_id != name or event.cluster_name != cluster:
                raise AccessDenied("a host ships events of its own only")
        else:
            _check_event(host, event, cluster)


def _check_event(host: Identity, event: Mapping[str, Any], cluster: str) -> None:
    kind = event.get("event")
    if not isinstance(kind, str) or not isinstance(event.get("code"), str):
        raise BadRequest("an event has an event and a code")
    if event.get("server_id") != host.name or event.get("cluster_name") != cluster:
        raise AccessDenied("a host ships events of its own only")
    if "db" in host.roles and kind.startswith("db.session."):
        return
    if "proxy" in host.roles and kind == "db.session.start" and event.get("success") is False:
        return
    if kind in OF_PROCESSES:
        return
    raise AccessDenied(f"this host may not write events of the kind {kind[:64]!r}")
