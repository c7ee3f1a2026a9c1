"""The web API of a proxy: what ``tsh login`` and joining processes ask, passed to auth.

::

    GET  /webapi/ping     cluster, version, second factor                web certificate
    GET  /webapi/cas      the cluster's authorities, public parts        web or host certificate
    POST /webapi/login    password, code, public key -> certificate      web certificate
    POST /webapi/join     token, public key -> certificates              host certificate, ALPN teleport-join

The proxy adds the client's address, which the limit of failed logins counts by, and nothing else.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

import attrs
from klein import Klein
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from teleport_db.api.client import APIClient
from teleport_db.errors import (
    AccessDenied,
    AuthenticationFailed,
    BadRequest,
    ConnectionTrouble,
    RemoteProtocolError,
)
from teleport_db.net import answers

#: What every path of this side begins with.
API_PATH = b"/webapi/"

#: Fields that a login may carry.
LOGIN_FIELDS = ("user", "password", "otp", "public_key", "ttl")

#: Fields that a joining process may send.
JOIN_FIELDS = ("token", "roles", "public_key", "name", "names")


class UnsupportedMediaType(BadRequest):
    """A body of another kind: HTML forms can send any body to any site, but not as JSON."""

    status = 415


def json_body(request: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    """The request's JSON object, of these fields only; BadRequest otherwise."""
    media_type = (request.getHeader(b"content-type") or b"").partition(b";")[0]
    if media_type.strip().lower() != b"application/json":
        raise UnsupportedMediaType("the body must be application/json")
    value = answers.json_object(request.content.read())
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise BadRequest(f"unknown field {unknown[0][:64]!r}")
    return value


def answer(request: IRequest, asking: Coroutine[Any, Any, dict[str, Any]]) -> Deferred[bytes]:
    """Turn a coroutine's result, or the error it raises, into a JSON answer."""
    asked: Deferred[dict[str, Any]] = Deferred.fromCoroutine(asking)
    return asked.addCallbacks(partial(answers.write, request, 200), partial(answers.write_error, request))


def refuse(request: IRequest, failure: Failure) -> Deferred[bytes]:
    """The JSON answer to a call that reached no route."""
    return succeed(answers.write_error(request, failure))


@attrs.frozen
class WebAPI:
    """The routes, over the proxy's client of the auth API.

    :param address: of the proxy as people write it.
    """

    api: APIClient
    address: str
    version: str

    async def ping(self) -> dict[str, Any]:
        """What a client must know before it logs in."""
        said = await self._public("/v1/ping")
        return {
            "cluster": said["cluster"],
            "version": self.version,
            "second_factor": said["second_factor"],
            "proxy_address": self.address,
        }

    async def cas(self) -> dict[str, Any]:
        """The authorities' certificates."""
        return await self._public("/v1/cas")

    async def login(self, body: dict[str, Any], client_address: str) -> dict[str, Any]:
        """A login, from this address."""
        return await self._ask("/v1/login", {"otp": None, **body, "client_address": client_address})

    async def join(self, body: dict[str, Any]) -> dict[str, Any]:
        """A process that joins by its token."""
        return await self._ask("/v1/join", body)

    async def _public(self, path: str) -> dict[str, Any]:
        """What auth tells everybody: if it refuses, that is between the proxy and auth, not the caller's fault."""
        try:
            return await self.api.call("GET", path)
        except (AccessDenied, AuthenticationFailed, RemoteProtocolError) as error:
            raise ConnectionTrouble("the proxy and the auth service do not agree", detail=str(error)) from error

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self.api.call("POST", path, body)
        except RemoteProtocolError as error:
            raise ConnectionTrouble("the auth service did not answer as one", detail=str(error)) from error

    def add_to(self, app: Klein) -> None:
        """The routes of the web certificate's side."""

        @app.route("/webapi/ping", methods=["GET"])
        def ping(request: IRequest) -> Deferred[bytes]:
            return answer(request, self.ping())

        @app.route("/webapi/cas", methods=["GET"])
        def cas(request: IRequest) -> Deferred[bytes]:
            return answer(request, self.cas())

        @app.route("/webapi/login", methods=["POST"])
        def login(request: IRequest) -> Deferred[bytes]:
            async def logging_in() -> dict[str, Any]:
                return await self.login(json_body(request, LOGIN_FIELDS), client_host(request))

            return answer(request, logging_in())

    def join_resource(self) -> IResource:
        """The side of ALPN ``teleport-join``."""
        app = Klein()

        @app.route("/webapi/cas", methods=["GET"])
        def cas(request: IRequest) -> Deferred[bytes]:
            return answer(request, self.cas())

        @app.route("/webapi/join", methods=["POST"])
        def join(request: IRequest) -> Deferred[bytes]:
            async def joining() -> dict[str, Any]:
                return await self.join(json_body(request, JOIN_FIELDS))

            return answer(request, joining())

        app.handle_errors(Exception)(refuse)
        return app.resource()


def client_host(request: IRequest) -> str:
    """The client's address without its port, as failed logins are counted by."""
    return str(getattr(request.getClientAddress(), "host", ""))
