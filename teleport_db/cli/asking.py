"""What people are asked for and must not be seen to type: at the terminal, or a line each from a pipe.

A pipe is read a byte at a time, so that what follows is still there for the program that comes next, ``psql``.
"""

from __future__ import annotations

import getpass
import os
import sys
from typing import Any

from teleport_db.cli.output import clean
from teleport_db.errors import UsageError

#: Characters of a new password; auth decides, this tells before it has to.
MIN_PASSWORD = 8


def secret(prompt: str) -> str:
    """One line, without its end; "" when there is nothing more.

    :param prompt: without the colon; shown at a terminal only.
    """
    if sys.stdin.isatty():
        return getpass.getpass(f"{clean(prompt)}: ")
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode("utf-8", "surrogateescape").rstrip("\r")


def password(prompt: str) -> str:
    """A password that there is.

    :raises UsageError: for an empty one.
    """
    typed = secret(prompt)
    if not typed:
        raise UsageError("a password is needed: type it, or give it as a line of the input")
    return typed


def code(prompt: str = "One-time code") -> str:
    """A one-time code.

    :raises UsageError: for an empty one.
    """
    typed = secret(prompt).strip()
    if not typed:
        raise UsageError("a one-time code is needed: type it, or give it as a line of the input")
    return typed


def new_password() -> str:
    """A new password, typed twice.

    :raises UsageError: when the two are not one, or it is too short.
    """
    first = secret(f"New password, at least {MIN_PASSWORD} characters")
    if len(first) < MIN_PASSWORD:
        raise UsageError(f"a password has at least {MIN_PASSWORD} characters")
    if secret("The new password again") != first:
        raise UsageError("the two new passwords are not the same; nothing was changed")
    return first


def wants_code(second_factor: str, devices: Any) -> bool:
    """Whether a code goes with the password.

    :param second_factor: the cluster's; :param devices: those of the user.
    """
    return second_factor in {"otp", "on"} or (second_factor == "optional" and bool(devices))
