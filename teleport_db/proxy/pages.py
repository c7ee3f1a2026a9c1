"""The pages a person sees: an invite or a reset, redeemed by setting a password and a one-time code.

::

    GET  /web/invite/TOKEN    form: password twice, the code of the QR shown      cookie __Host-csrf
    POST /web/invite/TOKEN    cookie and hidden field must be one; then auth decides

Plain HTML that needs no script.  Everything said by a visitor is escaped by the template; no page may be
framed, cached, or name its token to another site (:mod:`teleport_db.proxy.web` sets the headers).
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote

import attrs
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from twisted.web.template import Tag, flattenString, tags
from werkzeug.exceptions import HTTPException

from teleport_db.api.client import APIClient
from teleport_db.errors import (
    AccessDenied,
    AuthenticationFailed,
    BadRequest,
    ConnectionTrouble,
    NotFound,
    RemoteProtocolError,
    TeleportDBError,
)
from teleport_db.net.answers import log_fault, routing_status
from teleport_db.proxy import markup
from teleport_db.proxy.style import ICON, STYLE, STYLE_VERSION

log = Logger()

#: The cookie that a form's hidden field must repeat; the prefix keeps other hosts from setting it.
COOKIE = b"__Host-csrf"

#: Bytes of a form, and fields in it.
MAX_FORM, MAX_FIELDS = 32768, 16

#: Characters of a password; auth decides, the page tells before it has to.
MIN_PASSWORD, MAX_PASSWORD = 8, 1024

_FORM_TYPE = b"application/x-www-form-urlencoded"
_CSRF = re.compile(rb"[A-Za-z0-9_-]{20,64}")

#: purpose -> title, what to do, the button.
_WORDS = {
    "invite": ("Set up your account", "Choose a password", "Create account"),
    "reset": ("Reset your password", "Choose a new password", "Set new password"),
}

#: Status -> title of a page that tells of an error.
_TITLES = {
    400: "That could not be read",
    403: "That was refused",
    404: "Nothing here",
    405: "That does not work here",
    421: "Unknown name",
    503: "The cluster cannot be reached",
}


class LinkGone(NotFound):
    """The token of a link does not count, or not here."""


@attrs.frozen
class Pages:
    """The routes of the pages.

    :param address: of the proxy as people write it.
    :param hosts: gives the names by which this proxy may be visited; others are refused.
    """

    api: APIClient
    cluster: str
    address: str
    hosts: Callable[[], frozenset[str]]
    new_secret: Callable[[], str] = secrets.token_urlsafe

    def add_to(self, app: Klein) -> None:
        """The routes of the web certificate's side."""

        @app.route("/", methods=["GET"])
        def root(request: Request) -> Deferred[bytes]:
            return self._show(request, self._root())

        @app.route("/web/style.css", methods=["GET"])
        def style(request: Request) -> bytes:
            return _file(request, b"text/css; charset=utf-8", STYLE)

        @app.route("/favicon.ico", methods=["GET"], endpoint="favicon")
        @app.route("/web/icon.svg", methods=["GET"])
        def icon(request: Request) -> bytes:
            return _file(request, b"image/svg+xml", ICON)

        def redeeming(purpose: str) -> None:
            @app.route(f"/web/{purpose}/<token>", methods=["GET"], endpoint=f"{purpose}_form")
            def form(request: Request, token: str) -> Deferred[bytes]:
                return self._show(request, self._form(request, purpose, token))

            @app.route(f"/web/{purpose}/<token>", methods=["POST"], endpoint=f"{purpose}_redeem")
            def redeem(request: Request, token: str) -> Deferred[bytes]:
                return self._show(request, self._redeem(request, purpose, token))

        redeeming("invite")
        redeeming("reset")

    # Answers.

    def _show(self, request: Request, making: Coroutine[Any, Any, Tag]) -> Deferred[bytes]:
        made: Deferred[Tag] = Deferred.fromCoroutine(making)
        return made.addCallbacks(partial(_html, request), partial(self.refuse, request))

    def refuse(self, request: Request, failure: Failure) -> Deferred[bytes]:
        """The page that tells of an error, be it ours, the router's or a fault."""
        error = failure.value
        if isinstance(error, CancelledError):
            raise error
        if isinstance(error, HTTPException):
            status, text = routing_status(request, error), "Check the address; the page does not exist."
        elif isinstance(error, TeleportDBError):
            status, text = error.status, error.public
            if status >= 500:
                log.error("a page failed: {why} {detail}", why=error.public, detail=error.detail)
        else:
            status, text = 500, f"It is our fault, not yours. The log has the details under id {log_fault(failure)}."
        request.setResponseCode(status)
        return _html(request, self._problem(request, status, error, text))

    def _problem(self, request: Request, status: int, error: BaseException | None, text: str) -> Tag:
        title = _TITLES.get(status, "Something went wrong")
        more: list[Tag] = []
        if isinstance(error, LinkGone):
            title = "This link does not work"
            more = [
                tags.p(
                    "Links work once, and for a limited time. "
                    "Your administrator can make a new one, and should know if somebody else used this one:"
                ),
                tags.pre(tags.code("tctl users reset YOUR-NAME")),
            ]
        elif status == 503:
            request.setHeader(b"retry-after", b"30")
            more = [tags.p("Wait a moment, then ", tags.a(href="")("try again"), ".")]
        return self._page(title, markup.note("bad", text), *more, bad=True)

    def _page(self, title: str, *content: Tag | str, bad: bool = False) -> Tag:
        """A whole page around some content; what went wrong is said first, in the window's title."""
        return tags.html(lang="en")(
            tags.head(
                tags.meta(charset="utf-8"),
                tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
                tags.meta(name="color-scheme", content="light dark"),
                tags.title(f"{'Error: ' if bad else ''}{title} · {self.cluster}"),
                tags.link(rel="icon", type="image/svg+xml", href="/web/icon.svg"),
                tags.link(rel="stylesheet", href=f"/web/style.css?{STYLE_VERSION}"),
            ),
            tags.body(
                tags.header(tags.img(src="/web/icon.svg", alt=""), tags.span(self.cluster)),
                Tag("main")(tags.h1(title), *content),
                tags.footer("Teleport Database Access"),
            ),
        )

    async def _root(self) -> Tag:
        return self._page(
            "Database access",
            tags.p("There is nothing to do in the browser: log in from a terminal."),
            markup.commands(self.address, "YOUR-NAME"),
        )

    # Invites and resets.

    async def _invite(self, purpose: str, token: str) -> dict[str, Any]:
        """What auth knows of the token."""
        invite = await self._ask("GET", token)
        if invite["purpose"] != purpose:
            raise LinkGone("This link is for something else; open it exactly as you got it.")
        return invite

    async def _ask(self, method: str, token: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call auth; what is no fault of the visitor's becomes ConnectionTrouble."""
        try:
            return await self.api.call(method, f"/v1/invites/{quote(token, safe='')}", body)
        except NotFound as error:
            raise LinkGone(error.public) from error
        except (ConnectionTrouble, RemoteProtocolError, AccessDenied, AuthenticationFailed) as error:
            raise ConnectionTrouble(
                "The authentication service does not answer at the moment."
                + (" Your password may be set already: then this link does not work any more." if body else ""),
                detail=f"{error} {error.detail}",
            ) from error

    async def _form(self, request: Request, purpose: str, token: str, problem: str = "", field: str = "") -> Tag:
        """The form; what was wrong with the last try stands above it.

        :param field: that the problem is about, which is told there as well.
        """
        invite = await self._invite(purpose, token)
        title, choose, button = _WORDS[purpose]
        wrong = {field: problem}
        fields: list[Any] = [
            tags.input(type="hidden", name="csrf", value=self._csrf(request)),
            *markup.field("username", "User", value=invite["user"], readonly="", autocomplete="username"),
            *markup.field(
                "password",
                choose,
                hint=f"At least {MIN_PASSWORD} characters. A few random words are good and easy to type.",
                type="password",
                autocomplete="new-password",
                minlength=str(MIN_PASSWORD),
                maxlength=str(MAX_PASSWORD),
                required="",
                problem=wrong.get("password", ""),
            ),
            *markup.field(
                "password_again",
                "Repeat the password",
                type="password",
                autocomplete="new-password",
                required="",
                problem=wrong.get("password_again", ""),
            ),
        ]
        if invite["otp"] is not None:
            fields += markup.second_factor(invite, wrong.get("otp", ""))
        fields += [tags.button(type="submit")(button), tags.p(class_="hint")(markup.until(invite["expires"]))]
        content: list[Any] = [tags.p("To reach the databases of ", tags.strong(self.cluster), ".")]
        if problem:
            content.append(markup.note("bad", problem))
        # The address is the one the form came from, whatever its query.
        content.append(tags.form(method="post", action=f"/web/{purpose}/{quote(token, safe='')}")(fields))
        return self._page(title, *content, bad=bool(problem))

    def _csrf(self, request: Request) -> str:
        """The cookie that the browser has, or a new one."""
        value = request.getCookie(COOKIE) or b""
        if not _CSRF.fullmatch(value):
            value = self.new_secret().encode()
            cookie = COOKIE + b"=" + value + b"; Path=/; Secure; HttpOnly; SameSite=Strict"
            request.responseHeaders.addRawHeader(b"set-cookie", cookie)
        return value.decode()

    async def _redeem(self, request: Request, purpose: str, token: str) -> Tag:
        """Check the form and let auth decide."""
        form = _read_form(request)
        again = partial(self._form, request, purpose, token)
        cookie = request.getCookie(COOKIE) or b""
        if not _CSRF.fullmatch(cookie) or not hmac.compare_digest(cookie, form.get("csrf", "").encode()):
            request.setResponseCode(403)
            return await again("The form was too old, or your browser keeps no cookies. Please fill it in again.")
        password = form.get("password", "")
        if password != form.get("password_again", ""):
            request.setResponseCode(400)
            return await again("The two passwords are not the same.", "password_again")
        otp = re.sub(r"\s", "", form.get("otp", "")) or None
        # A link for something else must not count here either.
        await self._invite(purpose, token)
        try:
            done = await self._ask("POST", token, {"password": password, "otp": otp})
        except TeleportDBError as error:
            if error.status >= 500 or isinstance(error, LinkGone):
                raise
            request.setResponseCode(error.status)
            field = "otp" if "code" in error.public else "password"
            return await again(markup.sentence(error.public), field if isinstance(error, BadRequest) else "")
        return self._page(
            "You are all set",
            markup.note("good", f"The password of {done['user']} is set."),
            tags.p(
                "Now log in from a terminal, with this password" + (" and the next code of your app:" if otp else ":")
            ),
            markup.commands(self.address, done["user"]),
            tags.p(class_="hint")("You can close this page."),
        )


def _read_form(request: Any) -> dict[str, str]:
    """The fields of the body, each once; those of the address do not count."""
    kind = (request.getHeader(b"content-type") or b"").partition(b";")[0].strip().lower()
    body = request.content.read(MAX_FORM + 1)
    if kind != _FORM_TYPE or len(body) > MAX_FORM:
        raise BadRequest("This is not the form of this page.")
    try:
        fields = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError as error:
        raise BadRequest("This is not the form of this page.") from error
    form = dict(fields)
    if len(form) != len(fields):
        raise BadRequest("This is not the form of this page.")
    return form


def _file(request: Any, kind: bytes, content: bytes) -> bytes:
    request.setHeader(b"content-type", kind)
    request.setHeader(b"content-length", b"%d" % len(content))
    request.setHeader(b"cache-control", b"public, max-age=86400")
    return content


def _html(request: Any, tag: Tag) -> Deferred[bytes]:
    def finish(html: bytes) -> bytes:
        body = b"<!DOCTYPE html>\n" + html
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"content-length", b"%d" % len(body))
        return body

    flat: Deferred[bytes] = flattenString(request, tag)
    return flat.addCallback(finish)
