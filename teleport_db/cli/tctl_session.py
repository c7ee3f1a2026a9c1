"""Whom ``tctl`` calls.

::

    --identity FILE                    the identity in the file, through the proxy it names
    -c FILE, --data-dir DIR            the administrator's identity of the auth service on this host
    --proxy, or nothing of the above   tsh's login, unless an auth service has run here
"""

from __future__ import annotations

import os
import re

from teleport_db.api.http import Client
from teleport_db.cli.profile import Store
from teleport_db.cli.program import Arguments
from teleport_db.cli.session import Credentials, identity_file, live_login, local_administrator
from teleport_db.cli.values import proxy_address
from teleport_db.errors import UsageError

#: Where the file and the data are unless a flag says so.
CONFIG_FILE, DATA_DIR = "/etc/teleport.yaml", "/var/lib/teleport"

# A data directory that needs no YAML reader to be read: one plain key of two blanks' depth under teleport.
_PLAIN_DATA_DIR = re.compile(r"^ +data_dir: *[\"']?(/[A-Za-z0-9_./-]+)[\"']?[ \t]*(?:#.*)?$", re.MULTILINE)


def client(arguments: Arguments) -> Client:
    """A client for the command's flags."""
    return credentials(arguments).client()


def credentials(arguments: Arguments) -> Credentials:
    """The credentials that the command's flags choose."""
    found = _chosen(arguments)
    if arguments.auth_server:
        found = found._replace(address=proxy_address("--auth-server", arguments.auth_server))
    return found


def _chosen(arguments: Arguments) -> Credentials:
    if arguments.identity:
        return identity_file(arguments.identity, arguments.proxy or arguments.auth_server)
    if arguments.config and arguments.proxy:
        raise UsageError("--proxy and --config: the one calls from elsewhere, the other on the auth host")
    if arguments.data_dir or arguments.config:
        return local_administrator(arguments.data_dir or data_dir(arguments.config))
    local = data_dir(CONFIG_FILE) if os.path.exists(CONFIG_FILE) else DATA_DIR
    if not arguments.proxy and (os.path.exists(f"{local}/admin") or Store.of_environment().load() is None):
        return local_administrator(local)
    return live_login(proxy=arguments.proxy, identity=None).credentials


def data_dir(path: str) -> str:
    """The data directory that a configuration file names, or Teleport's own."""
    with open(path, encoding="utf-8") as file:
        text = file.read(1024 * 1024 + 1)
    plain = _PLAIN_DATA_DIR.findall(text)
    if len(plain) == 1 and text.count("data_dir") == 1:
        return str(plain[0])
    from teleport_db.config import parse

    return parse(text, path).teleport.data_dir
