"""The parts that pages are made of: fields with their labels, notes, commands, the second factor."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import segno
from twisted.web.template import Tag, tags

#: Characters of a password; auth decides, the page tells before it has to.
MIN_PASSWORD, MAX_PASSWORD = 8, 1024


def second_factor(invite: Mapping[str, Any], problem: str) -> list[Any]:
    """The second half of the form: scan, then prove it."""
    optional = invite["second_factor"] == "optional"
    uri = str(invite["otp"]["uri"])
    picture = segno.make(uri, error="m").svg_data_uri(border=4)
    more = {} if optional else {"required": ""}
    return [
        tags.h2("Add your authenticator app" + (" (optional)" if optional else "")),
        tags.p("Scan this picture with the app on your phone."),
        tags.img(class_="qr", src=picture, alt="QR code for the authenticator app", width="208", height="208"),
        tags.p(class_="app")("On that phone? ", tags.a(href=uri)("Open the app")),
        tags.p(class_="hint")(
            "Or type this key into the app:",
            tags.code(class_="secret", id="otp-secret")(invite["otp"]["secret"]),
        ),
        *field(
            "otp",
            "Code that the app shows now",
            hint="Leave it empty to go without one." if optional else "",
            inputmode="numeric",
            autocomplete="one-time-code",
            pattern="[0-9 ]*",
            maxlength="12",
            title="six digits",
            problem=problem,
            **more,
        ),
    ]


def present_code(*, optional: bool) -> list[Any]:
    """The field for a code of somebody who has an app already, or a recovery code."""
    hint = "Of your app, or a recovery code."
    return field(
        "otp",
        "One-time code",
        hint=hint + (" Leave it empty if you have none." if optional else ""),
        autocomplete="one-time-code",
        autocapitalize="none",
        spellcheck="false",
        maxlength="32",
        **({} if optional else {"required": ""}),
    )


def new_password(choose: str, wrong: Mapping[str, str]) -> list[Any]:
    """The two fields for a new password.

    :param wrong: what was wrong with the last try, by the field.
    """
    return [
        *field(
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
        *field(
            "password_again",
            "Repeat the password",
            type="password",
            autocomplete="new-password",
            required="",
            problem=wrong.get("password_again", ""),
        ),
    ]


def recovery_codes(codes: Sequence[str]) -> list[Tag]:
    """The codes, and what they are for."""
    return [
        tags.h2("Your recovery codes"),
        tags.p(
            "If you lose your phone, each of these logs you in once, in the place of the app's code. "
            "Print them or write them down now: they are not shown again."
        ),
        tags.ul(class_="codes")([tags.li(tags.code(code)) for code in codes]),
    ]


def field(name: str, label: str, *, hint: str = "", problem: str = "", **attributes: Any) -> list[Any]:
    """A label, what is to know and what was wrong, and the field."""
    identifier = name.replace("_", "-")
    said = [(f"{identifier}-{kind}", kind, text) for kind, text in (("problem", problem), ("hint", hint)) if text]
    if said:
        attributes["aria-describedby"] = " ".join(told for told, _, _ in said)
    if problem:
        attributes["aria-invalid"] = "true"
    return [
        tags.label(for_=identifier)(label),
        *(tags.p(class_=kind, id=told)(text) for told, kind, text in said),
        tags.input(id=identifier, name=name, **attributes),
    ]


def note(kind: str, text: str) -> Tag:
    """A box that says how it went: ``good`` or ``bad``."""
    role = "alert" if kind == "bad" else "status"
    return tags.div(class_=f"note {kind}", role=role)(tags.p(sentence(text)))


def commands(address: str, user: str) -> Tag:
    """What to type in a terminal next; lines break between options only."""
    options: list[Tag | str] = [tags.span(f"--proxy={address}"), " ", tags.span(f"--user={shlex.quote(user)}")]
    return tags.pre(tags.code("tsh login ", *options, "\ntsh db ls"))


def sentence(text: str) -> str:
    """A line of an error as people write it on a page."""
    line = text[:1].upper() + text[1:]
    return line if line.endswith((".", "!", "?")) else line + "."


def until(expires: str) -> str:
    """How long a link works, from a moment of RFC 3339."""
    moment = datetime.fromisoformat(expires)
    return f"This link works once, until {moment:%H:%M} UTC on {moment.day} {moment:%B %Y}."
