"""The pages a person sees: an invite or a reset, redeemed by setting a password and a one-time code.

::

    GET  /web/invite/TOKEN    form: password twice, the code of the QR shown      cookie __Host-csrf
    POST /web/invite/TOKEN    cookie and hidden field must be one; then auth decides, and recovery codes are shown
    /web/password             :mod:`teleport_db.proxy.passwordpage`

Plain HTML that needs no script.  Everything said by a visitor is escaped by the template; no page may be
framed, cached, or name its token to another site (:mod:`teleport_db.proxy.web` sets the headers).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from urllib.parse import quote

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
from teleport_db.proxy import forms, markup, passwordpage
from teleport_db.proxy.style import ICON, STYLE, STYLE_VERSION
from teleport_db.proxy.webapi import client_host

log = Logger()

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
        password = passwordpage.PasswordPage(self.api, self.cluster, self.address, self.page, self.new_secret)

        @app.route(passwordpage.PATH, methods=["GET"], endpoint="password_form")
        def password_form(request: Request) -> Deferred[bytes]:
            return self._show(request, password.form(request))

        @app.route(passwordpage.PATH, methods=["POST"], endpoint="password_change")
        def password_change(request: Request) -> Deferred[bytes]:
            return self._show(request, password.change(request))

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
        return self.page(title, markup.note("bad", text), *more, bad=True)

    def page(self, title: str, *content: Tag | str, bad: bool = False) -> Tag:
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
        return self.page(
            "Database access",
            tags.p("There is nothing to do in the browser: log in from a terminal."),
            markup.commands(self.address, "YOUR-NAME"),
            tags.p(tags.a(href=passwordpage.PATH)(passwordpage.TITLE)),
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
            tags.input(type="hidden", name="csrf", value=forms.csrf(request, self.new_secret)),
            *markup.field("username", "User", value=invite["user"], readonly="", autocomplete="username"),
            *markup.new_password(choose, wrong),
        ]
        if invite["otp"] is not None:
            fields += markup.second_factor(invite, wrong.get("otp", ""))
        fields += [tags.button(type="submit")(button), tags.p(class_="hint")(markup.until(invite["expires"]))]
        content: list[Any] = [tags.p("To reach the databases of ", tags.strong(self.cluster), ".")]
        if problem:
            content.append(markup.note("bad", problem))
        # The address is the one the form came from, whatever its query.
        content.append(tags.form(method="post", action=f"/web/{purpose}/{quote(token, safe='')}")(fields))
        return self.page(title, *content, bad=bool(problem))

    async def _redeem(self, request: Request, purpose: str, token: str) -> Tag:
        """Check the form and let auth decide."""
        form = forms.read_form(request)
        again = partial(self._form, request, purpose, token)
        if not forms.is_ours(request, form):
            request.setResponseCode(403)
            return await again(forms.STALE)
        password = form.get("password", "")
        if password != form.get("password_again", ""):
            request.setResponseCode(400)
            return await again("The two passwords are not the same.", "password_again")
        otp = forms.code_of(form)
        # A link for something else must not count here either.
        await self._invite(purpose, token)
        try:
            body = {"password": password, "otp": otp, "client_address": client_host(request)}
            done = await self._ask("POST", token, body)
        except TeleportDBError as error:
            if error.status >= 500 or isinstance(error, LinkGone):
                raise
            request.setResponseCode(error.status)
            field = "otp" if "code" in error.public else "password"
            return await again(markup.sentence(error.public), field if isinstance(error, BadRequest) else "")
        return self.page(
            "You are all set",
            markup.note("good", f"The password of {done['user']} is set."),
            tags.p(
                "Now log in from a terminal, with this password" + (" and the next code of your app:" if otp else ":")
            ),
            markup.commands(self.address, done["user"]),
            *(markup.recovery_codes(done["recovery_codes"]) if done["recovery_codes"] else ()),
            tags.p(class_="hint")("You can close this page."),
        )


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
