"""The page on which somebody changes the password, by the old one; nobody has to be logged in for it.

::

    GET  /web/password    form: user, old password, code where one is asked for, new password twice
    POST /web/password    as the form of an invite; auth counts failures by user and address, as those of a login
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from twisted.web.server import Request
from twisted.web.template import Tag, tags

from teleport_db.api.client import APIClient
from teleport_db.errors import AccessDenied, BadRequest, ConnectionTrouble, RemoteProtocolError, TeleportDBError
from teleport_db.proxy import forms, markup
from teleport_db.proxy.webapi import client_host

PATH = "/web/password"
TITLE = "Change your password"


@attrs.frozen
class PasswordPage:
    """The form and what comes of it.

    :param address: of the proxy as people write it.
    :param page: makes a whole page of a title and some content, :meth:`Pages.page`.
    """

    api: APIClient
    cluster: str
    address: str
    page: Callable[..., Tag]
    new_secret: Callable[[], str]

    async def form(self, request: Request, problem: str = "", field: str = "", user: str = "") -> Tag:
        """The form; what was wrong with the last try stands above it.

        :param field: that the problem is about; :param user: who was typed then.
        """
        second_factor = str((await self._ask("GET", "/v1/ping"))["second_factor"])
        wrong = {field: problem}
        fields: list[Any] = [
            tags.input(type="hidden", name="csrf", value=forms.csrf(request, self.new_secret)),
            *markup.field("username", "User", value=user, autocomplete="username", required=""),
            *markup.field(
                "old_password",
                "Your present password",
                type="password",
                autocomplete="current-password",
                required="",
                problem=wrong.get("old_password", ""),
            ),
            *([] if second_factor == "off" else markup.present_code(optional=second_factor == "optional")),
            *markup.new_password("Choose a new password", wrong),
            tags.button(type="submit")(TITLE),
        ]
        content: list[Any] = [tags.p("For the databases of ", tags.strong(self.cluster), ".")]
        if problem:
            content.append(markup.note("bad", problem))
        content.append(tags.form(method="post", action=PATH)(fields))
        return self.page(TITLE, *content, bad=bool(problem))

    async def change(self, request: Request) -> Tag:
        """Check the form and let auth decide."""
        form = forms.read_form(request)
        user = form.get("username", "").strip()
        again = partial(self.form, request, user=user)
        if not forms.is_ours(request, form):
            request.setResponseCode(403)
            return await again(forms.STALE)
        if form.get("password") != form.get("password_again"):
            request.setResponseCode(400)
            return await again("The two new passwords are not the same.", "password_again")
        body = {
            "user": user,
            "old": form.get("old_password", ""),
            "otp": forms.code_of(form),
            "password": form.get("password", ""),
            "client_address": client_host(request),
        }
        if not user or not body["old"]:
            request.setResponseCode(400)
            return await again("User and present password are needed.")
        try:
            done = await self._ask("POST", "/v1/password", body)
        except TeleportDBError as error:
            if error.status >= 500:
                raise
            request.setResponseCode(403 if isinstance(error, AccessDenied) else error.status)
            return await again(markup.sentence(error.public), "password" if isinstance(error, BadRequest) else "")
        return self._changed(str(done["user"]))

    def _changed(self, user: str) -> Tag:
        return self.page(
            "Your password is changed",
            markup.note("good", f"The password of {user} is changed."),
            tags.p("From now on log in with it. Logins that are open go on until they expire."),
            markup.commands(self.address, user),
            tags.p(class_="hint")("You can close this page."),
        )

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call auth; what is no fault of the visitor's becomes ConnectionTrouble."""
        try:
            return await self.api.call(method, path, body)
        except (ConnectionTrouble, RemoteProtocolError) as error:
            raise ConnectionTrouble(
                "The authentication service does not answer at the moment."
                + (" Your password may be changed already: then the old one does not work any more." if body else ""),
                detail=f"{error} {error.detail}",
            ) from error
