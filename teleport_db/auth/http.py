"""The auth server's HTTPS API: JSON over mutual TLS.

::

    TLS layer (certificate, if any) ─▶ BoundedSite ─▶ Klein route ─▶ Caller ─▶ table ─▶ Calls ─▶ JSON

Whatever goes wrong is ``{"error": {"code", "message"}}`` with the status of its class; the unexpected is
an internal error with an id, and the rest of it stays in the log.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from cryptography import x509
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import Site
from werkzeug.exceptions import HTTPException

from teleport_db.auth.calls import Call, Calls
from teleport_db.auth.recorder import REMOTE
from teleport_db.auth.routes import ROUTES, Caller, Route, authorize
from teleport_db.auth.server import AuthServer
from teleport_db.certs.authority import BACKDATE
from teleport_db.certs.tls import peer_identity
from teleport_db.errors import AccessDenied, AuthenticationFailed, BadRequest, LimitExceeded, NotFound, TeleportDBError
from teleport_db.identity import Identity
from teleport_db.net import answers
from teleport_db.net.http import BoundedSite

#: Verified certificates that are remembered; each saves two signatures a call.
KNOWN_CERTIFICATES = 1000


class API:
    """Answers the calls of one auth server."""

    def __init__(self, server: AuthServer) -> None:
        self._server = server
        self._calls = Calls(server)
        self._known: OrderedDict[bytes, tuple[Identity, float, float]] = OrderedDict()

    def resource(self) -> IResource:
        """The API as a resource of twisted.web."""
        app = Klein()
        for route in ROUTES:
            app.route(route.path, methods=[route.method], endpoint=route.does)(_named(route, self._render))
        app.handle_errors(HTTPException)(answers.write_error)
        return app.resource()

    def _render(self, route: Route, request: IRequest, **parameters: Any) -> Deferred[bytes]:
        called = Deferred.fromCoroutine(self._answer(route, request, parameters))
        written = called.addCallback(partial(answers.write, request, 200))
        answer = written.addErrback(partial(answers.write_error, request))
        # Who has begun to change something finishes, audit and all, though nobody may wait any more.
        return answer if route.method == "GET" else _shielded(answer)

    async def _answer(self, route: Route, request: Any, parameters: dict[str, str]) -> dict[str, Any]:
        REMOTE.set(str(getattr(request.getClientAddress(), "host", "")))
        try:
            caller = await self.caller(request, shipping=route.does == "ship_audit")
            authorize(route, caller, parameters)
        except (AccessDenied, AuthenticationFailed) as error:
            await self._refused(route, request, error)
            raise
        try:
            return await self._called(route, request, caller, parameters)
        except (AccessDenied, LimitExceeded) as error:
            if not route.recorded:
                await self._refused(route, request, error)
            raise

    async def _called(self, route: Route, request: Any, caller: Caller, parameters: dict[str, str]) -> dict[str, Any]:
        content = request.content.read() if request.content is not None else b""
        body = {} if route.raw else answers.json_object(content)
        call = Call(caller, body, _query(request), parameters, content)
        answer: dict[str, Any] = await getattr(self._calls, route.does)(call)
        return answer

    async def _refused(self, route: Route, request: Any, error: TeleportDBError) -> None:
        """Somebody with a certificate of the cluster's may not do this; who shows none says nothing of anybody."""
        certificate = getattr(request.transport, "peer_certificate", None)
        if certificate is None:
            return
        authorities = self._server.authorities
        try:
            name = peer_identity(
                certificate,
                user_ca=authorities.user.certificate_pem,
                host_ca=authorities.host.certificate_pem,
                now=None,  # of one that has expired as well
            ).name
        except TeleportDBError:
            name = ""
        call = f"{route.method} {route.path}"
        await self._server.refusals.record("auth", error.public, caller=name, user=name, method=call)

    async def caller(self, request: Any, *, shipping: bool = False) -> Caller:
        """Who calls, verified for every call: a connection may outlive a certificate, a lock begin meanwhile.

        :param shipping: of events, which a host may do for a moment after it was removed.
        """
        certificate = getattr(request.transport, "peer_certificate", None)
        address = str(getattr(request.getClientAddress(), "host", ""))
        if certificate is None:
            return Caller(None, address)
        identity, begins, expires = self._identity(certificate)
        self._server.removals.check(identity, shipping=shipping)
        self._server.locks.check(identity)
        if identity.kind == "host":
            return Caller(identity, address, expires)
        if identity.usage not in ("login", "file"):
            raise AccessDenied("the certificate of one database calls nothing here; use the one of your login")
        try:
            user, roles = await self._server.users.with_roles(identity.name)
        except NotFound:
            raise AuthenticationFailed("the user of this certificate does not exist any more") from None
        if begins + BACKDATE < user.created:
            raise AuthenticationFailed("the user of this certificate was removed; log in again")
        self._server.locks.check_user(user.name, user.roles)
        return Caller(identity, address, expires, user, tuple(roles))

    def _identity(self, certificate: bytes) -> tuple[Identity, float, float]:
        now = self._server.clock.seconds()
        known = self._known.get(certificate)
        if known is not None and known[1] <= now < known[2]:
            self._known.move_to_end(certificate)
            return known
        authorities = self._server.authorities
        identity = peer_identity(
            certificate,
            user_ca=authorities.user.certificate_pem,
            host_ca=authorities.host.certificate_pem,
            now=now,
        )
        if identity.cluster != self._server.cluster_name:
            raise AuthenticationFailed("the certificate belongs to another cluster")
        parsed = x509.load_der_x509_certificate(certificate)
        begins, until = parsed.not_valid_before_utc.timestamp(), parsed.not_valid_after_utc.timestamp()
        self._known[certificate] = (identity, begins, until)
        if len(self._known) > KNOWN_CERTIFICATES:
            self._known.popitem(last=False)
        return identity, begins, until


def auth_site(server: AuthServer, *, reactor: IReactorTime) -> Site:
    """The API as a factory for connections above :class:`teleport_db.net.tlslayer.TLSLayer`.

    The TLS context asks for a client certificate and takes calls without one (``lenient_clients`` or
    ``client_cas`` without ``client_required``).
    """
    return BoundedSite(API(server).resource(), reactor=reactor, strangers=True)


def _named(route: Route, render: Callable[..., Deferred[bytes]]) -> Callable[..., Deferred[bytes]]:
    def answer(request: IRequest, **parameters: Any) -> Deferred[bytes]:
        return render(route, request, **parameters)

    answer.__name__ = route.does
    return answer


def _query(request: Any) -> dict[str, str]:
    try:
        return {name.decode(): values[-1].decode() for name, values in request.args.items()}
    except UnicodeDecodeError as error:
        raise BadRequest("the query is no UTF-8") from error


def _shielded(inner: Deferred[bytes]) -> Deferred[bytes]:
    """Fires as ``inner``; cancelling gives up waiting and lets ``inner`` go on."""
    outer: Deferred[bytes] = Deferred()
    inner.addBoth(outer.callback)
    return outer
