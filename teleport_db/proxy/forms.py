"""What comes back of a form, and whether it is one of ours.

::

    GET   ─▶  cookie __Host-csrf=X, hidden field csrf=X
    POST  ◀─  both, and they are the same: no other site can set the one or read the other
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from twisted.web.server import Request

from teleport_db.errors import BadRequest

#: The cookie that a form's hidden field must repeat; the prefix keeps other hosts from setting it.
COOKIE = b"__Host-csrf"

#: What a form is told that nobody of ours has sent.
STALE = "The form was too old, or your browser keeps no cookies. Please fill it in again."

#: Bytes of a form, and fields in it.
MAX_FORM, MAX_FIELDS = 32768, 16

_FORM_TYPE = b"application/x-www-form-urlencoded"
_CSRF = re.compile(rb"[A-Za-z0-9_-]{20,64}")


def csrf(request: Request, new_secret: Callable[[], str]) -> str:
    """What the hidden field says: the cookie that the browser has, or a new one."""
    value = request.getCookie(COOKIE) or b""
    if not _CSRF.fullmatch(value):
        value = new_secret().encode()
        cookie = COOKIE + b"=" + value + b"; Path=/; Secure; HttpOnly; SameSite=Strict"
        request.responseHeaders.addRawHeader(b"set-cookie", cookie)
    return value.decode()


def is_ours(request: Request, form: dict[str, str]) -> bool:
    """Whether cookie and hidden field are one."""
    cookie = request.getCookie(COOKIE) or b""
    return bool(_CSRF.fullmatch(cookie)) and hmac.compare_digest(cookie, form.get("csrf", "").encode())


def read_form(request: Any) -> dict[str, str]:
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


def code_of(form: dict[str, str]) -> str | None:
    """The one-time code without the blanks that people put into it; None when there is none."""
    return re.sub(r"\s", "", form.get("otp", "")) or None
