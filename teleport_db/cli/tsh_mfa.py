"""``tsh mfa``: the devices that make one's codes; ``tsh passwd``: another password.

::

    tsh                                       auth
     │── GET  /v1/mfa ──────────────────────────▶│   which devices there are
     │   a code of one of them, or the password
     │── POST /v1/mfa ──────────────────────────▶│
     │◀── a secret ──────────────────────────────│   shown as a picture and as text
     │   the first code that it makes
     │── POST /v1/mfa/confirm ──────────────────▶│   now it counts
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from teleport_db.api.http import Client
from teleport_db.cli import asking
from teleport_db.cli.output import clean, emit, format_argument, table
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tsh_db import flags_login
from teleport_db.errors import BadRequest, NotFound

#: How often somebody may mistype the first code of a new device.
TRIES = 3
OF_A_DEVICE = "One-time code of a device that you have, or a recovery code"


def ls_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh mfa ls``."""
    format_argument(parser)


def ls(arguments: Arguments) -> None:
    """List one's devices, and how many recovery codes are left."""
    with flags_login(arguments).credentials.client() as client:
        found = client.call("GET", "/v1/mfa")
    devices = found.get("devices") or []

    def text() -> str:
        if not devices:
            return "You have no devices; add one: tsh mfa add"
        rows = ([device.get(key, "") for key in ("name", "type", "added", "last_used")] for device in devices)
        left = found.get("recovery_codes")
        return table(["Name", "Type", "Added", "Last Used"], rows) + f"\n\nRecovery codes left: {left}"

    emit(found, arguments.format, text)


def add_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh mfa add``."""
    parser.add_argument("--name", default="", metavar="NAME", help="what to call it (default: otp, otp-2, ...)")
    parser.add_argument("--type", choices=("TOTP",), default="TOTP", help="one-time codes by time (the only type)")


def add(arguments: Arguments) -> None:
    """Add a device for one-time codes."""
    login = flags_login(arguments)
    with login.credentials.client() as client:
        there = client.call("GET", "/v1/mfa").get("devices")
        client.close()  # whoever looks for a telephone may take longer than auth waits
        if there:
            proof = {"otp": asking.code(OF_A_DEVICE)}
        else:
            proof = {"password": asking.password(f"Password of Teleport user {login.credentials.info.name}")}
        begun = client.call("POST", "/v1/mfa", {"name": arguments.name, **proof})
        client.close()
        print(_scan(str(begun.get("uri", "")), str(begun.get("secret", ""))), flush=True)
        done = _confirm(client)
    print(f'Device "{clean(str(done.get("name", "")))}" has been added.')
    _print_codes(done.get("recovery_codes") or ())


def _confirm(client: Client) -> dict[str, Any]:
    """Ask for the new device's first code; at a terminal again when it does not fit."""
    for left in reversed(range(TRIES)):
        try:
            return client.call("POST", "/v1/mfa/confirm", {"otp": asking.code("Code that the new device shows")})
        except BadRequest as error:
            if not left or not sys.stdin.isatty():
                raise
            client.close()
            print(f"{clean(str(error))}", file=sys.stderr)
    raise AssertionError("unreachable")


def rm_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh mfa rm``."""
    parser.add_argument("name", metavar="NAME", help="a device of tsh mfa ls")


def rm(arguments: Arguments) -> None:
    """Remove a device; what auth would refuse in any case is refused before a code is asked for."""
    with flags_login(arguments).credentials.client() as client:
        mine = client.call("GET", "/v1/mfa")
        names = [device.get("name") for device in mine.get("devices") or ()]
        if arguments.name not in names:
            raise NotFound(f"you have no device {clean(arguments.name)}; see tsh mfa ls")
        if len(names) == 1 and mine.get("second_factor") in {"otp", "on"}:
            raise BadRequest("this is your last device, and logging in takes one; add another first: tsh mfa add")
        client.close()
        client.call("POST", "/v1/mfa/remove", {"name": arguments.name, "otp": asking.code(OF_A_DEVICE)})
    print(f'Device "{clean(arguments.name)}" has been removed.')


def recovery_codes_arguments(parser: Parser) -> None:
    """``tsh mfa recovery-codes`` has no arguments of its own."""


def recovery_codes(arguments: Arguments) -> None:
    """Make new recovery codes; those that there were count no more."""
    with flags_login(arguments).credentials.client() as client:
        answer = client.call("POST", "/v1/mfa/recovery-codes", {"otp": asking.code(OF_A_DEVICE)})
    _print_codes(answer.get("recovery_codes") or ())


def passwd_arguments(parser: Parser) -> None:
    """``tsh passwd`` has no arguments of its own."""


def passwd(arguments: Arguments) -> None:
    """Change the password; logins that are open go on until they expire."""
    login = flags_login(arguments)
    name = login.credentials.info.name
    with login.credentials.client() as client:
        mine = client.call("GET", "/v1/mfa")
        client.close()
        body: dict[str, Any] = {"old": asking.password(f"Present password of Teleport user {name}")}
        if asking.wants_code(str(mine.get("second_factor")), mine.get("devices")):
            body["otp"] = asking.code("One-time code, or a recovery code")
        body["password"] = asking.new_password()
        client.call("POST", "/v1/password", body)
    print(f"The password of {clean(name)} is changed. Logins that are open go on until they expire.")


def _print_codes(codes: Sequence[object]) -> None:
    if codes:
        print(
            "\nYour recovery codes: if you lose your device, each of these logs you in once, in the place of a\n"
            "one-time code. Print them or write them down now; they are not shown again.\n"
        )
        print("\n".join(f"  {clean(str(code))}" for code in codes))


def _scan(uri: str, secret: str) -> str:
    """What to do with a new secret: a picture where the terminal can show one, and text in any case."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    picture = [picture_of(uri, colour=sys.stdout.isatty()), ""] if encoding == "utf8" else []
    how = "Scan this with your authenticator app, or type the key into it:" if picture else "Give this to your app:"
    return "\n".join([how, "", *picture, f"  Key: {clean(secret)}", f"  URI: {clean(uri)}", ""])


def picture_of(uri: str, *, colour: bool) -> str:
    """A QR code of half blocks, two rows of the picture in a line, with the quiet border that scanners want.

    :param colour: dark on light whatever the terminal's own colours are; else the colours of paper are assumed.
    """
    import segno

    rows = [bytes(row) for row in segno.make(uri, error="l").matrix_iter(border=2)]
    if len(rows) % 2:
        rows.append(bytes(len(rows[0])))
    blocks = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}
    lines = (
        "".join(blocks[upper, lower] for upper, lower in zip(rows[at], rows[at + 1], strict=True))
        for at in range(0, len(rows), 2)
    )
    return "\n".join(f"\x1b[30;107m{line}\x1b[0m" if colour else line for line in lines)
