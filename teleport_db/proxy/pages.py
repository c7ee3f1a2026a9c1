"""The pages a person sees: an invite or a reset, redeemed by setting a password and a one-time code.

::

    GET  /web/invite/TOKEN    form: password twice, the code of the QR shown      cookie __Host-csrf
    POST /web/invite/TOKEN    cookie and hidden field must be one; then auth decides

Plain HTML that needs no script.  Everything said by a visitor is escaped by the template; no page may be
framed, cached, or name its token to another site.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import segno
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.server import Request
from twisted.web.template import Tag, flattenString, tags

from teleport_db.api.client import APIClient
from teleport_db.errors import AuthenticationFailed, BadRequest, NotFound, TeleportDBError

log = Logger()

#: The cookie that a form's hidden field must repeat; the prefix keeps other hosts from setting it.
COOKIE = b"__Host-csrf"

#: Headers of every answer of the web side.
SECURITY_HEADERS = {
    b"content-security-policy": b"default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; "
    b"base-uri 'none'; frame-ancestors 'none'",
    b"strict-transport-security": b"max-age=31536000",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"cross-origin-opener-policy": b"same-origin",
}

STYLE = b"""\
:root { color-scheme: light dark; --accent: #3b5bdb; --bad: #c92a2a; --line: #8884; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; display: grid; justify-items: center; }
main { width: 100%; max-width: 26rem; padding: 2rem 1.25rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
label { display: block; margin: 1.25rem 0 .25rem; font-weight: 600; }
input { width: 100%; padding: .65rem .75rem; font: inherit; border: 1px solid var(--line); border-radius: .5rem; }
button { width: 100%; margin-top: 1.5rem; padding: .75rem; font: inherit; font-weight: 600; color: #fff;
  background: var(--accent); border: 0; border-radius: .5rem; cursor: pointer; }
input:focus-visible, button:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.bad { border-left: 4px solid var(--bad); padding: .5rem .75rem; margin: 1rem 0; }
.quiet { opacity: .75; font-size: .9rem; margin: .25rem 0; }
.qr { display: block; width: 12rem; height: 12rem; margin: 1rem auto; background: #fff; border-radius: .5rem; }
code { overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid var(--line); border-radius: .5rem; }
"""


def page(title: str, *content: Tag | str) -> Tag:
    """A whole page around some content."""
    return tags.html(lang="en")(
        tags.head(
            tags.meta(charset="utf-8"),
            tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
            tags.title(title),
            tags.link(rel="stylesheet", href="/web/style.css"),
        ),
        tags.body(tags.main(tags.h1(title), *content)),
    )


@attrs.frozen
class Pages:
    """The routes of the pages.

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
            secure(request)
            request.setHeader(b"content-type", b"text/css; charset=utf-8")
            return STYLE

        def redeeming(purpose: str) -> None:
            @app.route(f"/web/{purpose}/<token>", methods=["GET"], endpoint=f"{purpose}_form")
            def form(request: Request, token: str) -> Deferred[bytes]:
                return self._show(request, self._form(request, purpose, token))

            @app.route(f"/web/{purpose}/<token>", methods=["POST"], endpoint=f"{purpose}_redeem")
            def redeem(request: Request, token: str) -> Deferred[bytes]:
                return self._show(request, self._redeem(request, purpose, token))

        redeeming("invite")
        redeeming("reset")

        @app.handle_errors
        def not_found(request: Any, failure: Any) -> Deferred[bytes]:
            status = getattr(failure.value, "code", 500)
            if not isinstance(status, int):
                status = 500
            if status >= 500:
                log.failure("a page failed", failure)
            return self._show(request, self._error(request, status, "There is nothing here."))

    def _show(self, request: Request, making: Coroutine[Any, Any, Tag]) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self._render(request, making))

    async def _render(self, request: Request, making: Coroutine[Any, Any, Tag]) -> bytes:
        secure(request)
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        try:
            if request.getRequestHostname().decode("latin-1") not in self.hosts():
                making.close()
                tag = await self._error(request, 421, "This proxy is not known by that name.")
            else:
                tag = await making
        except TeleportDBError as error:
            tag = await self._error(request, error.status, error.public)
        html: bytes = await flattenString(request, tag)
        return b"<!DOCTYPE html>\n" + html

    async def _root(self) -> Tag:
        return page(
            f"Cluster {self.cluster}",
            tags.p("This is a database access proxy. Log in from a terminal:"),
            tags.pre(tags.code(f"tsh login --proxy={self.address} --user=you\ntsh db ls")),
        )

    async def _error(self, request: Request, status: int, text: str) -> Tag:
        request.setResponseCode(status)
        return page("This did not work", tags.p(class_="bad")(text))

    async def _invite(self, purpose: str, token: str) -> dict[str, Any]:
        """What auth knows of the token, with words for one that is no good."""
        try:
            invite = await self.api.call("GET", f"/v1/invites/{token}")
        except (NotFound, AuthenticationFailed) as error:
            raise NotFound(
                "This link was used already, has expired, or was never made. "
                "Ask your administrator for a new one: tctl users reset NAME"
            ) from error
        if invite["purpose"] != purpose:
            raise NotFound("This link is for something else; open it exactly as you got it.")
        return invite

    async def _form(self, request: Request, purpose: str, token: str, problem: str = "") -> Tag:
        """The form; what was wrong with the last try stands above it."""
        invite = await self._invite(purpose, token)
        csrf = request.getCookie(COOKIE) or b""
        if not csrf:
            csrf = self.new_secret().encode()
            request.addCookie(COOKIE, csrf, path=b"/", secure=True, httpOnly=True, sameSite=b"strict")
        title = "Welcome" if purpose == "invite" else "New password"
        content: list[Any] = [tags.p(f"Set the password of {invite['user']} in cluster {self.cluster}.")]
        if problem:
            content.append(tags.p(class_="bad", role="alert")(problem))
        fields: list[Any] = [
            tags.input(type="hidden", name="csrf", value=csrf.decode("latin-1")),
            tags.input(type="hidden", name="username", value=invite["user"], autocomplete="username"),
            *_field("password", "Password", type="password", autocomplete="new-password", minlength="8", required=""),
            *_field("password_again", "Password again", type="password", autocomplete="new-password", required=""),
        ]
        if invite["otp"] is not None:
            fields += self._otp(invite)
        fields.append(tags.button(type="submit")("Set password"))
        content.append(tags.form(method="post", action="")(fields))
        return page(title, *content)

    def _otp(self, invite: dict[str, Any]) -> list[Any]:
        optional = invite["second_factor"] == "optional"
        code = segno.make(invite["otp"]["uri"], error="m").svg_data_uri(border=3)
        more = {} if optional else {"required": ""}
        return [
            tags.p(
                "Scan this with your authenticator app, then enter the code it shows."
                + (" You may leave the code empty to go without one." if optional else "")
            ),
            tags.img(class_="qr", src=code, alt="QR code of the one-time password's secret"),
            tags.p(class_="quiet")("Or type the secret: ", tags.code(id="otp-secret")(invite["otp"]["secret"])),
            *_field(
                "otp", "One-time code", inputmode="numeric", autocomplete="one-time-code", pattern="[0-9 ]*", **more
            ),
        ]

    async def _redeem(self, request: Request, purpose: str, token: str) -> Tag:
        """Check the form and let auth decide."""
        self._check_origin(request)
        form = {name: values[0] for name, values in (request.args or {}).items()}
        cookie = request.getCookie(COOKIE) or b""
        if not cookie or not hmac.compare_digest(cookie, form.get(b"csrf", b"")):
            request.setResponseCode(403)
            return await self._form(request, purpose, token, "Your browser kept no cookie for this form; try again.")
        try:
            password, again = form[b"password"].decode(), form[b"password_again"].decode()
            otp = form.get(b"otp", b"").decode().replace(" ", "")
        except (KeyError, UnicodeDecodeError) as error:
            raise BadRequest("The form was not filled in.") from error
        if password != again:
            request.setResponseCode(400)
            return await self._form(request, purpose, token, "The two passwords are not the same.")
        try:
            done = await self.api.call("POST", f"/v1/invites/{token}", {"password": password, "otp": otp or None})
        except NotFound:
            await self._invite(purpose, token)
            raise
        except TeleportDBError as error:
            if error.status >= 500:
                raise
            request.setResponseCode(400)
            return await self._form(request, purpose, token, error.public)
        return page(
            "All set",
            tags.p(f"The password of {done['user']} is set. Log in from a terminal:"),
            tags.pre(tags.code(f"tsh login --proxy={self.address} --user={done['user']}")),
        )

    def _check_origin(self, request: Request) -> None:
        """A form may be sent from our own pages only."""
        origin = request.getHeader(b"origin")
        if origin is None:
            return
        host = request.getHeader(b"host") or b""
        if origin != b"https://" + host:
            raise BadRequest("This form came from another site.")


def _field(name: str, label: str, **attributes: str) -> list[Any]:
    identifier = name.replace("_", "-")
    return [tags.label(for_=identifier)(label), tags.input(id=identifier, name=name, **attributes)]


def secure(request: Request) -> None:
    """Set the headers that every answer of the web side carries."""
    for name, value in SECURITY_HEADERS.items():
        request.setHeader(name, value)
