"""The parts that pages are made of: fields with their labels, notes, commands, the second factor."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import segno
from twisted.web.template import Tag, tags


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
