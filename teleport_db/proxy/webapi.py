"""The web API of a proxy: what ``tsh login`` and joining processes ask, passed to auth.

::

    GET  /webapi/ping     cluster, version, second factor                web certificate
    GET  /webapi/cas      the cluster's authorities, public parts        web or host certificate
    POST /webapi/login    password, code, public key -> certificate      web certificate
    POST /webapi/join     token, public key -> certificates              host certificate, ALPN teleport-join

The proxy adds the client's address, which the limit of failed logins counts by, and nothing else.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Coroutine
from typing import Any

import attrs
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from teleport_db.api.client import APIClient
from teleport_db.errors import BadRequest, TeleportDBError

log = Logger()

#: Fields that a login may carry.
LOGIN_FIELDS = ("user", "password", "otp", "public_key", "ttl")

#: Fields that a joining process may send.
JOIN_FIELDS = ("token", "roles", "public_key", "name", "names")


def json_body(request: IRequest, fields: tuple[str, ...]) -> dict[str, Any]:
    """The request's JSON object, of these fields only; BadRequest otherwise."""
    try:
        value = json.loads(request.content.read())
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise BadRequest(f'unknown field "{unknown[0][:64]}"')
    return value


def answer(request: IRequest, asking: Coroutine[Any, Any, dict[str, Any]]) -> Deferred[bytes]:
    """Turn a coroutine's result, or the error it raises, into a JSON answer."""

    async def answering() -> bytes:
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        try:
            value = await asking
        except TeleportDBError as error:
            request.setResponseCode(error.status)
            value = {"error": {"code": error.code, "message": error.public}}
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            log.failure("a call of the web API failed, id {error_id}", error_id=error_id)
            request.setResponseCode(500)
            value = {"error": {"code": "internal", "message": f"internal error, id {error_id}"}}
        return json.dumps(value).encode()

    return Deferred.fromCoroutine(answering())


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
        said = await self.api.call("GET", "/v1/ping")
        return {
            "cluster": said["cluster"],
            "version": self.version,
            "second_factor": said["second_factor"],
            "proxy_address": self.address,
        }

    async def cas(self) -> dict[str, Any]:
        """The authorities' certificates."""
        return await self.api.call("GET", "/v1/cas")

    async def login(self, body: dict[str, Any], client_address: str) -> dict[str, Any]:
        """A login, from this address."""
        return await self.api.call("POST", "/v1/login", {"otp": None, **body, "client_address": client_address})

    async def join(self, body: dict[str, Any]) -> dict[str, Any]:
        """A process that joins by its token."""
        return await self.api.call("POST", "/v1/join", body)

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

        return app.resource()


def client_host(request: IRequest) -> str:
    """The client's address without its port, as failed logins are counted by."""
    return str(getattr(request.getClientAddress(), "host", ""))
