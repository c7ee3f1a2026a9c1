"""``teleport.yaml`` and the flags of ``teleport start``: text in, frozen values out.

Nothing here reads a file, a clock or a host's name.  What cannot be used is refused with
:class:`teleport_db.errors.ConfigError`, which names the file, the line and the key's path::

    teleport.yaml:12: auth_service.lisen_addr: unknown key (did you mean listen_addr?)
"""

from teleport_db.config.durations import format_duration, parse_duration
from teleport_db.config.flags import Flags, from_flags, merge
from teleport_db.config.model import (
    Address,
    Authentication,
    AuthService,
    Config,
    Database,
    DatabaseService,
    DynamicLabel,
    Log,
    PasswordLogin,
    ProxyService,
    Secret,
    StaticToken,
    Storage,
    Teleport,
    check,
)
from teleport_db.config.parser import parse
from teleport_db.config.sample import sample_config
from teleport_db.config.values import Labels, parse_address, parse_labels, parse_static_token, parse_system_roles
from teleport_db.config.yamltext import Document, load_documents

__all__ = [
    "Address",
    "AuthService",
    "Authentication",
    "Config",
    "Database",
    "DatabaseService",
    "Document",
    "DynamicLabel",
    "Flags",
    "Labels",
    "Log",
    "PasswordLogin",
    "ProxyService",
    "Secret",
    "StaticToken",
    "Storage",
    "Teleport",
    "check",
    "format_duration",
    "from_flags",
    "load_documents",
    "merge",
    "parse",
    "parse_address",
    "parse_duration",
    "parse_labels",
    "parse_static_token",
    "parse_system_roles",
    "sample_config",
]
