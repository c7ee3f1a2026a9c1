"""The flags of ``teleport start`` over the file.

A flag wins over its key.  ``--roles`` says which services run, whatever the file says; a database
given by flags joins those of the file, or takes the place of the one of its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from teleport_db.amazon import parse_region
from teleport_db.config import values
from teleport_db.config.amazon import check_region
from teleport_db.config.model import AUTH_PORT, Address, Amazon, Config, Database
from teleport_db.errors import ConfigError

T = TypeVar("T")


@attrs.frozen
class Flags:
    """Each flag as it was typed; "" and () where it was not given.

    :param auth_servers: one a time ``--auth-server`` was given; each may be a list divided by commas.
    """

    debug: bool = False
    insecure: bool = False
    roles: str = ""
    token: str = attrs.field(default="", repr=False)
    ca_pins: tuple[str, ...] = ()
    auth_servers: tuple[str, ...] = ()
    nodename: str = ""
    labels: str = ""
    pid_file: str = ""
    diag_addr: str = ""
    data_dir: str = ""
    cluster_name: str = ""
    db_name: str = ""
    db_protocol: str = ""
    db_uri: str = ""
    db_ca_cert: str = ""
    db_aws_region: str = ""


def from_flags(flags: Flags) -> Config:
    """What flags alone say, over the defaults."""
    return merge(Config(), flags)


def merge(config: Config, flags: Flags) -> Config:
    """``config`` with ``flags`` over it.

    :raises ConfigError: whose source is the flag.
    """
    teleport: dict[str, Any] = {
        "nodename": _read("--nodename", flags.nodename, values.parse_name),
        "data_dir": flags.data_dir or None,
        "auth_token": _read("--token", flags.token, values.parse_token),
        "auth_servers": tuple(
            _read_some("--auth-server", text.strip(), _auth_server)
            for given in flags.auth_servers
            for text in given.split(",")
        ),
        "ca_pin": tuple(_read_some("--ca-pin", text, values.parse_ca_pin) for text in flags.ca_pins),
        "pid_file": flags.pid_file or None,
        "diag_addr": _read("--diag-addr", flags.diag_addr, _diag_address),
        "log": attrs.evolve(config.teleport.log, severity="debug") if flags.debug else None,
    }
    cluster_name = _read("--cluster-name", flags.cluster_name, values.parse_name) or config.auth.cluster_name
    merged = attrs.evolve(
        config,
        teleport=attrs.evolve(config.teleport, **{key: value for key, value in teleport.items() if value}),
        auth=attrs.evolve(config.auth, cluster_name=cluster_name),
        insecure=flags.insecure or config.insecure,
        debug=flags.debug or config.debug,
    )
    return _with_database(_with_roles(merged, flags), flags)


def _with_roles(config: Config, flags: Flags) -> Config:
    roles = _read("--roles", flags.roles, values.parse_system_roles)
    if roles is None:
        return config
    if "node" in roles:
        raise ConfigError("node, the SSH service, is not part of this system (auth, proxy, db are)", source="--roles")
    return attrs.evolve(
        config,
        auth=attrs.evolve(config.auth, enabled="auth" in roles),
        proxy=attrs.evolve(config.proxy, enabled="proxy" in roles),
        db=attrs.evolve(config.db, enabled="db" in roles),
    )


def _with_database(config: Config, flags: Flags) -> Config:
    """The database of the ``--db-*`` flags added, and the database service switched on for it."""
    if not flags.db_name:
        for name in ("db_protocol", "db_uri", "db_ca_cert", "db_aws_region", "labels"):
            if getattr(flags, name):
                raise ConfigError("--db-name is missing", source="--" + name.replace("_", "-"))
        return config
    if not flags.db_uri:
        raise ConfigError("--db-uri is missing", source="--db-name")
    labels = _read_some("--labels", flags.labels, values.parse_labels)
    uri = _read_some("--db-uri", flags.db_uri, values.parse_address)
    aws = Amazon(region=_read("--db-aws-region", flags.db_aws_region, parse_region) or "")
    _read_some("--db-aws-region", "", lambda _: check_region(aws, uri))
    database = Database(
        name=_read_some("--db-name", flags.db_name, values.parse_service_name),
        protocol=_read_some("--db-protocol", flags.db_protocol or "postgres", values.parse_protocol),
        uri=uri,
        ca_cert_file=flags.db_ca_cert,
        aws=aws,
        static_labels=labels.static,
        dynamic_labels=labels.dynamic,
    )
    others = tuple(other for other in config.db.databases if other.name != database.name)
    return attrs.evolve(config, db=attrs.evolve(config.db, enabled=True, databases=(*others, database)))


def _read_some(flag: str, text: str, reader: Callable[[str], T]) -> T:
    try:
        return reader(text)
    except ValueError as error:
        raise ConfigError(str(error), source=flag) from None


def _read(flag: str, text: str, reader: Callable[[str], T]) -> T | None:
    return _read_some(flag, text, reader) if text else None


def _auth_server(text: str) -> Address:
    return values.parse_address(text, AUTH_PORT)


def _diag_address(text: str) -> Address:
    return values.parse_address(text, listen=True)
