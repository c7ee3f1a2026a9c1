"""``teleport.yaml``: a table of readers, one a key.

The type of a value is what its key wants and not what YAML 1.1 makes of it: ``enabled`` is yes or no
with or without quotes, a token of digits stays text, ``0.0.0.0:3025`` needs no thought.  A key that is
in no table is refused, with the nearest one that is; so is, in one line, what Teleport has and this
system does not have yet.
"""

from __future__ import annotations

from typing import Any

import attrs

from teleport_db.config import later, values
from teleport_db.config.amazon import amazon_discovery, amazon_login, ca_url, check_region
from teleport_db.config.credentials import password_login
from teleport_db.config.durations import parse_duration
from teleport_db.config.model import (
    AUTH_PORT,
    SSH_PROXY_PORT,
    TUNNEL_PORT,
    WEB_PORT,
    Address,
    Amazon,
    AuditFiles,
    AuditSettings,
    Authentication,
    AuthService,
    Config,
    Database,
    DatabaseService,
    DynamicLabel,
    Log,
    ProxyService,
    Storage,
    Teleport,
)
from teleport_db.config.readers import (
    Reader,
    boolean,
    choice,
    listed,
    many,
    nonempty,
    same,
    scalar,
    section,
    text_of,
)
from teleport_db.config.sinks import Sink
from teleport_db.config.yamltext import Node, compose

_SEVERITIES = {"debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error"}


def parse(text: str, source: str) -> Config:
    """The configuration in ``text``; what is not in it has Teleport's defaults.

    Each key is checked on its own; :func:`teleport_db.config.check` looks at the whole, after the flags.

    :param text: YAML, 1 MiB at most.
    :param source: the file's name, for errors.
    :raises ConfigError: with the line and the key's path.
    """
    root = compose(text, source)
    return Config() if root is None or root.is_null else _config(root)


def _idle(text: str) -> float:
    return 0.0 if text.lower() == "never" else parse_duration(text)


def _address(port: int | None, *, listen: bool = False) -> Reader[Address]:
    return scalar(lambda text: values.parse_address(text, port, listen=listen))


# Databases


def _labels(node: Node) -> tuple[tuple[str, str], ...]:
    if node.kind != "mapping":
        raise node.error("labels are a mapping, as in env: dev")
    found = []
    for key, (at, value) in node.entries.items():
        try:
            found.append((values.parse_label_key(key), values.parse_label_value(text_of(value))))
        except ValueError as error:
            raise at.error(str(error)) from None
    return tuple(found)


def _dynamic_label(name: str, command: tuple[str, ...], period: float = 60.0) -> tuple[str, DynamicLabel]:
    return name, DynamicLabel(command, period)


_database_keys: Reader[dict[str, Any]] = section(
    dict,
    {
        "name": scalar(values.parse_service_name),
        "description": scalar(values.parse_label_value),
        "protocol": scalar(values.parse_protocol),
        "uri": _address(None),
        "ca_cert_file": scalar(nonempty),
        "aws": amazon_login,
        "credentials": password_login,
        "labels": _labels,
        "static_labels": _labels,
        "dynamic_labels": listed(
            section(
                _dynamic_label,
                {
                    "name": scalar(values.parse_label_key),
                    "command": many(scalar(nonempty)),
                    "period": scalar(values.parse_period),
                },
                required=("name", "command"),
            )
        ),
    },
    later=later.DATABASE,
    required=("name", "protocol", "uri"),
)


def _database(node: Node) -> Database:
    found = _database_keys(node)
    if "credentials" in found and "aws" in found:
        raise node.entries["credentials"][0].error("aws means IAM tokens: one of the two, not both")
    try:
        check_region(found.get("aws", Amazon()), found["uri"])
    except ValueError as error:
        raise node.entries["aws"][1].error(str(error)) from None
    labels: dict[str, str | DynamicLabel] = {}
    for key in ("labels", "static_labels", "dynamic_labels"):
        for name, value in found.pop(key, ()):
            if name in labels:
                raise node.entries[key][0].error(f"label {name} is given twice")
            labels[name] = value
    return Database(
        **found,
        static_labels={name: value for name, value in labels.items() if isinstance(value, str)},
        dynamic_labels={name: value for name, value in labels.items() if isinstance(value, DynamicLabel)},
    )


def _databases(node: Node) -> tuple[Database, ...]:
    databases = listed(_database)(node)
    lines: dict[str, int] = {}
    for item, database in zip(node.items, databases, strict=True):
        if database.name in lines:
            at = item.entries["name"][1]
            raise at.error(f"{database.name} is the name of another database (line {lines[database.name]})")
        lines[database.name] = item.line
    return databases


_selector_keys: Reader[dict[str, Any]] = section(
    dict, {"labels": lambda node: node}, later=("aws",), required=("labels",)
)


def _resource_selector(node: Node) -> dict[str, tuple[str, ...]]:
    """``labels: {env: [dev, stage], team: "*"}``: which of the registered databases are served."""
    from teleport_db.config.databases import selector  # takes a while, and few files have one

    labels: Node = _selector_keys(node)["labels"]
    if labels.kind != "mapping" or not labels.entries:
        raise labels.error("labels are a mapping, as in env: dev, or '*': '*' for every database")
    found = {}
    for key, (at, value) in labels.entries.items():
        texts = many(scalar(nonempty))(value)
        try:
            if key != "*":
                values.parse_label_key(key)
            selector({key: texts})
        except ValueError as error:
            raise at.error(str(error)) from None
        found[key] = texts
    return found


# Sections with a rule of their own


def _log_format(node: Node) -> str:
    """``format: json``, or Teleport's ``format: {output: json}``."""
    formats = scalar(choice(same("text", "json")))
    if node.kind != "mapping":
        return formats(node)
    found: dict[str, str] = section(dict, {"output": formats}, later=("extra_fields",))(node)
    return found.get("output", "text")


def _switched_off(name: str) -> Reader[None]:
    """A service of Teleport's that is not part of this system: fine as long as it is off."""

    def read(node: Node) -> None:
        at, enabled = node.entries.get("enabled", (node, None))
        # Teleport starts a service whose section does not say no.
        if enabled is None or enabled.is_null or scalar(boolean)(enabled):
            raise at.error(f"{name} is not part of this system: say enabled: no, or leave the section out")

    return read


_proxy_keys = section(
    lambda public_addr=(), **found: ProxyService(public_addresses=public_addr, **found),
    {
        "enabled": scalar(boolean),
        "listen_addr": _address(SSH_PROXY_PORT, listen=True),
        "web_listen_addr": _address(WEB_PORT, listen=True),
        "tunnel_listen_addr": _address(TUNNEL_PORT, listen=True),
        "public_addr": many(_address(WEB_PORT)),
        "https_key_file": scalar(nonempty),
        "https_cert_file": scalar(nonempty),
    },
    later=later.PROXY,
)


def _proxy(node: Node) -> ProxyService:
    proxy = _proxy_keys(node)
    for key, other in (("https_key_file", "https_cert_file"), ("https_cert_file", "https_key_file")):
        if getattr(proxy, key) and not getattr(proxy, other):
            raise node.entries[key][0].error(f"{other} is missing: both or neither")
    return proxy


def _sinks(node: Node) -> tuple[Sink, ...]:
    from teleport_db.config.sinkreaders import audit_sinks  # few files have one

    return audit_sinks(node)


# The tables

_teleport = section(
    Teleport,
    {
        "nodename": scalar(values.parse_name),
        "data_dir": scalar(nonempty),
        "auth_token": scalar(values.parse_token),
        "auth_servers": many(_address(AUTH_PORT)),
        "ca_pin": many(scalar(values.parse_ca_pin)),
        "log": section(
            Log,
            {"output": scalar(nonempty), "severity": scalar(choice(_SEVERITIES)), "format": _log_format},
        ),
        "storage": section(Storage, {"type": scalar(choice(same("sqlite"), later.STORAGE_TYPES))}, later=later.STORAGE),
        "advertise_ip": scalar(values.parse_host),
        "pid_file": scalar(nonempty),
        "diag_addr": _address(None, listen=True),
    },
    later=later.TELEPORT,
)

_auth = section(
    AuthService,
    {
        "enabled": scalar(boolean),
        "listen_addr": _address(AUTH_PORT, listen=True),
        "cluster_name": scalar(values.parse_name),
        "tokens": many(scalar(values.parse_static_token)),
        "authentication": section(
            Authentication,
            {
                "type": scalar(choice(same("local"), ("github", "saml", "oidc"))),
                "second_factor": scalar(choice(same("off", "otp", "on", "optional"), ("u2f", "webauthn"))),
            },
            later=later.AUTHENTICATION,
        ),
        "session_recording": scalar(choice(same("node", "node-sync", "proxy", "proxy-sync", "off"))),
        "client_idle_timeout": scalar(_idle),
        "disconnect_expired_cert": scalar(boolean),
        "audit": section(
            AuditFiles,
            {
                "max_file": scalar(values.parse_size),
                "retention": scalar(values.parse_retention),
                "compress": scalar(boolean),
                "sinks": _sinks,
            },
        ),
    },
    later=later.AUTH,
)

_SECTIONS: dict[str, Reader[Any]] = {
    "teleport": _teleport,
    "auth_service": _auth,
    "proxy_service": _proxy,
    "db_service": section(
        DatabaseService,
        {
            "enabled": scalar(boolean),
            "databases": _databases,
            "resources": listed(_resource_selector),
            "resource_commands": scalar(boolean),
            "auth_away": scalar(choice(same("best_effort", "strict"))),
            "auth_away_max_age": scalar(parse_duration),
            "aws": listed(amazon_discovery),
            "rds_ca_url": ca_url,
            "audit": section(
                AuditSettings,
                {"durability": scalar(choice(same("write", "fsync"))), "statement_messages": scalar(boolean)},
            ),
        },
        later=later.DB,
    ),
    "ssh_service": _switched_off("the SSH service"),
    "app_service": _switched_off("the application service"),
    "kubernetes_service": _switched_off("the Kubernetes service"),
    "windows_desktop_service": _switched_off("the Windows desktop service"),
}


def _config(root: Node) -> Config:
    found: dict[str, Any] = section(dict, _SECTIONS, later=later.SECTIONS)(root)
    names = {"teleport": "teleport", "auth_service": "auth", "proxy_service": "proxy", "db_service": "db"}
    return attrs.evolve(Config(), **{names[key]: value for key, value in found.items() if key in names})
