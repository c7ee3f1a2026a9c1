"""The web side of a proxy as one site: its pages and its web API behind one guard.

::

    request ─▶ guard: headers, Host, Origin ─▶ routes ─▶ pages (HTML)
                         └─ refused             └─ none     web API (JSON), below /webapi/
                              in HTML or JSON, with the same headers

Pages answer to the proxy's own names only.  The web API answers to any, since
``tsh`` may come by an address that only its user knows, and since there is no cookie that would stand for
somebody; what a browser sends on behalf of another site is refused on both sides.
"""

# mypy: disallow-untyped-calls=False, disallow-subclassing-any=False
# (twisted.web has few annotations.)

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from teleport_db.errors import AccessDenied, BadRequest, NotFound, TeleportDBError
from teleport_db.net.http import BoundedSite
from teleport_db.proxy.pages import Pages
from teleport_db.proxy.webapi import API_PATH, WebAPI, refuse

log = Logger()

#: Headers of every answer of the web side.  The referrer goes to our own pages only, so that no other site
#: learns a token; with ``no-referrer`` browsers would send forms with the origin "null" (Fetch, "append a
#: request Origin header"), which is what forms of strangers look like.
SECURITY_HEADERS = {
    b"content-security-policy": b"default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    b"base-uri 'none'; frame-ancestors 'none'",
    b"strict-transport-security": b"max-age=31536000",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    b"x-robots-tag": b"noindex, nofollow",
}

#: A name, an IPv4 address or an IPv6 address in brackets, and perhaps a port (RFC 9110, 7.2).  Labels are
#: bounded as DNS does.
_HOST = re.compile(r"(?P<name>[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?|\[[0-9a-f:.]{2,45}\])(?::(?P<port>\d{0,5}))?")


class Misdirected(TeleportDBError):
    """Asked for by a name that is not this proxy's (RFC 9110, 15.5.20)."""

    status = 421
    code = "bad_request"


@attrs.frozen
class Host:
    """What a ``Host`` or ``Origin`` header names."""

    name: str
    port: int

    @classmethod
    def parse(cls, header: bytes) -> Host:
        """BadRequest for what names no host."""
        found = _HOST.fullmatch(header.decode("latin-1").lower())
        if found is None or len(found["name"]) > 253:
            raise BadRequest("the request names no host that there could be")
        return cls(found["name"].rstrip(".").strip("[]"), int(found["port"] or 443))


def check_host(request: Request, hosts: frozenset[str]) -> None:
    """Misdirected unless the pages may be visited by this name: one of ours, or the address that was dialled."""
    host = _host(request)
    local = str(getattr(request.getHost(), "host", ""))
    if host.name != local and host.name not in {name.lower().rstrip(".").strip("[]") for name in hosts}:
        raise Misdirected(
            f'this proxy is not known by the name "{host.name}"; '
            "open it by another one, or add this one to proxy_service.public_addr"
        )


def check_origin(request: Request) -> None:
    """AccessDenied for what a browser sends on behalf of another site."""
    for origin in request.requestHeaders.getRawHeaders(b"origin", []):
        scheme, _, rest = origin.partition(b"://")
        try:
            same = scheme.lower() == b"https" and Host.parse(rest) == _host(request)
        except BadRequest:
            same = False
        if not same:
            raise AccessDenied("this was sent by another site")
    fetched = request.requestHeaders.getRawHeaders(b"sec-fetch-site", [])
    if request.method not in (b"GET", b"HEAD") and set(fetched) - {b"same-origin", b"none"}:
        raise AccessDenied("this was sent by another site")


def _host(request: Request) -> Host:
    headers = request.requestHeaders.getRawHeaders(b"host", [])
    if len(headers) != 1:
        raise BadRequest("the request must name one host")
    return Host.parse(headers[0])


class Guard(Resource):
    """Looks at a request before any route does.

    :param routes: what answers if nothing is wrong.
    :param refused: writes the answer of a refusal.
    """

    isLeaf = True

    def __init__(
        self, routes: IResource, hosts: Callable[[], frozenset[str]], refused: Callable[[Any, Failure], Deferred[bytes]]
    ) -> None:
        super().__init__()
        self._routes = routes
        self._hosts = hosts
        self._refused = refused

    def render(self, request: Request) -> Any:
        request.responseHeaders.removeHeader(b"server")
        for name, value in SECURITY_HEADERS.items():
            request.setHeader(name, value)
        try:
            self._check(request)
        except TeleportDBError:

            def finish(body: bytes) -> None:
                request.write(body)
                request.finish()

            self._refused(request, Failure()).addCallback(finish).addErrback(
                lambda failure: log.failure("a refusal could not be written", failure)
            )
            return NOT_DONE_YET
        return self._routes.render(request)

    def _check(self, request: Request) -> None:
        _host(request)
        if not is_api(request):
            check_host(request, self._hosts())
        check_origin(request)
        try:
            request.method.decode()
            b"/".join(request.postpath or ()).decode()
        except UnicodeDecodeError:
            raise NotFound("There is nothing here.") from None


def is_api(request: Request) -> bool:
    """Whether the answer is JSON."""
    return bool(request.path.startswith(API_PATH))


def web_resource(webapi: WebAPI, pages: Pages) -> IResource:
    """Everything that stands behind the web certificate."""
    app = Klein()
    webapi.add_to(app)
    pages.add_to(app)

    def refused(request: Any, failure: Failure) -> Deferred[bytes]:
        return refuse(request, failure) if is_api(request) else pages.refuse(request, failure)

    app.handle_errors(Exception)(refused)
    guard: IResource = Guard(app.resource(), pages.hosts, refused)
    return guard


def web_site(resource: IResource, *, reactor: IReactorTime) -> BoundedSite:
    """The site of a resource; bodies are parsed by whoever asked for one, not before."""
    return BoundedSite(resource, reactor=reactor, strangers=True, parsePOSTFormSubmission=False)
