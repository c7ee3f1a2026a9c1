"""``db_service.databases[].credentials``: which secret logs in as which database user.

::

    credentials:
      password_file: /etc/teleport/db.password       # or password_env: NAME; for who is not named below
      users:
        alice: {password_file: /etc/teleport/alice.password}
        bob: {password_env: BOB_PASSWORD}
      require_auth: [scram-sha-256]

The file says where secrets are and never what they are, so that it can be shown to anybody.
"""

from __future__ import annotations

import re
from typing import Any

from teleport_db.config.model import PasswordLogin, Secret
from teleport_db.config.readers import Reader, choice, many, same, scalar, section
from teleport_db.config.values import shown
from teleport_db.config.yamltext import Node

#: As libpq's ``require_auth`` and ``pg_hba.conf`` call them.
METHODS = ("scram-sha-256", "md5", "password", "none")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: Bytes of a name that PostgreSQL does not cut.
_NAME_LIMIT = 63


def parse_secret_path(text: str) -> str:
    """An absolute path: a daemon's own directory is not the one it was started in.

    Something else may be the secret itself, so it is not repeated.
    """
    if not text.startswith("/") or _CONTROL.search(text):
        raise ValueError("not the absolute path of a file: put what belongs here into a file, and its path here")
    return text


def parse_variable(text: str) -> str:
    """The name of an environment variable.  Something else may be the secret itself, so it is not repeated."""
    if not _VARIABLE.fullmatch(text):
        raise ValueError("not the name of an environment variable (letters, digits and _)")
    return text


_SOURCE = {"password_file": scalar(parse_secret_path), "password_env": scalar(parse_variable)}


def _without_secrets(node: Node) -> None:
    if node.kind == "mapping" and "password" in node.entries:
        raise node.entries["password"][0].error(
            "a password does not belong in this file: say where it is, with password_file or password_env"
        )


def _one_source(node: Node, found: dict[str, str]) -> Secret | None:
    if len(found) > 1:
        raise node.entries["password_env"][0].error("password_file or password_env, not both")
    return Secret(found.get("password_file", ""), found.get("password_env", "")) if found else None


_user_keys: Reader[dict[str, str]] = section(dict, _SOURCE)


def _user(node: Node) -> Secret:
    _without_secrets(node)
    secret = _one_source(node, _user_keys(node))
    if secret is None:
        raise node.error("password_file or password_env is missing")
    return secret


def _users(node: Node) -> dict[str, Secret]:
    if node.kind != "mapping":
        raise node.error("users are a mapping, as in alice: {password_file: /etc/teleport/alice.password}")
    found = {}
    for name, (at, value) in node.entries.items():
        if not name or _CONTROL.search(name) or len(name.encode()) > _NAME_LIMIT:
            raise at.error(f"not the name of a database user: {shown(name)} ({_NAME_LIMIT} bytes at most)")
        found[name] = _user(value)
    return found


_keys: Reader[dict[str, Any]] = section(
    dict, {**_SOURCE, "users": _users, "require_auth": many(scalar(choice(same(*METHODS), ("gss", "sspi", "oauth"))))}
)


def password_login(node: Node) -> PasswordLogin:
    """The reader of the section."""
    _without_secrets(node)
    found = _keys(node)
    users, require_auth = found.pop("users", {}), found.pop("require_auth", ())
    default = _one_source(node, found)
    if default is None and not users:
        raise node.error("nobody's password is here: password_file, password_env or users is missing")
    return PasswordLogin(default, users, require_auth)
