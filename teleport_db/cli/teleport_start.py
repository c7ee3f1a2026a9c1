"""``teleport start`` and ``teleport configure``: flags over a file, and the services out of both."""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, Action
from collections.abc import Sequence
from typing import Any

from teleport_db.cli.program import Arguments, Parser
from teleport_db.errors import ConfigError, UsageError

#: Read when there is one and no ``-c`` was given, as Teleport does.
CONFIG_FILE = "/etc/teleport.yaml"

#: Teleport's flags that this version has not: what to say of each.
LATER = {
    "--app-name": "application access is not part of this system",
    "--app-uri": "application access is not part of this system",
    "--app-public-addr": "application access is not part of this system",
    "--permit-user-env": "SSH is not part of this system",
    "--advertise-ip": "set advertise_ip in the configuration file",
    "--listen-ip": "set the listen addresses in the configuration file",
    "--gops-addr": "there is no such agent in Python; --diag-addr serves metrics",
}


class _Later(Action):
    """A flag that is refused by its own sentence."""

    def __call__(
        self, parser: Any, namespace: Any, values: str | Sequence[Any] | None, option_string: str | None = None
    ) -> None:
        raise UsageError(f"{option_string}: {LATER[str(option_string)]}")


def start_arguments(parser: Parser) -> None:
    """Declare the arguments of ``teleport start``."""
    parser.add_argument("-c", "--config", metavar="FILE", help=f"configuration file (default: {CONFIG_FILE} if there)")
    parser.add_argument("-r", "--roles", default="", metavar="A,B", help="services to run: proxy,auth,db")
    parser.add_argument("--token", default="", metavar="TOKEN", help="join token, or the path of a file with it")
    parser.add_argument(
        "--ca-pin", action="append", default=[], metavar="PIN", help="pin of the cluster's CA; repeatable"
    )
    parser.add_argument(
        "--auth-server",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="what to join: the proxy's address for a database service; repeatable",
    )
    for flag, metavar, text in (
        ("--nodename", "NAME", "name of this host in the cluster"),
        ("--labels", "K=V,...", 'labels of the database: k=v,k2="v 2"; dynamic ones: k=[1m:/cmd arg]'),
        ("--pid-file", "FILE", "write the process's id there"),
        ("--diag-addr", "HOST:PORT", "serve health and metrics there"),
        ("--data-dir", "DIR", "where state is kept (default: /var/lib/teleport)"),
        ("--cluster-name", "NAME", "name of the cluster (auth)"),
        ("--db-name", "NAME", "name of the database service"),
        ("--db-protocol", "PROTOCOL", "its protocol: postgres"),
        ("--db-uri", "HOST:PORT", "its address"),
        ("--db-ca-cert", "FILE", "PEM file of the authority of its certificate"),
        ("--db-aws-region", "REGION", "its AWS region, for RDS and Aurora"),
    ):
        parser.add_argument(flag, default="", metavar=metavar, help=text)
    parser.add_argument(
        "--insecure", action="store_true", help="join through a proxy whose certificate cannot be verified"
    )
    for flag in LATER:
        parser.add_argument(flag, action=_Later, nargs="?", help=SUPPRESS)


def start(arguments: Arguments) -> int:
    """Run the services until a signal ends them."""
    config = merged(arguments)
    if sys.platform == "linux":
        from teleport_db.net import reactor

        reactor.install()  # before anything is imported that brings one
    from teleport_db import services

    return services.run(config)


def merged(arguments: Arguments) -> Any:
    """The configuration file with the flags over it, checked as a whole.

    :raises ConfigError: naming the file and its line, or the flag.
    """
    from teleport_db import config as model

    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in vars(arguments).items()
        if key not in {"config", "program", "ca_pin", "auth_server"} and "--" + key.replace("_", "-") not in LATER
    }
    flags = model.Flags(**given, ca_pins=tuple(arguments.ca_pin), auth_servers=tuple(arguments.auth_server))
    path = arguments.config or (CONFIG_FILE if os.path.exists(CONFIG_FILE) else "")
    base = model.parse(_read(path), path) if path else model.Config()
    whole = model.merge(base, flags)
    model.check(whole, path or "teleport start")
    return whole


def configure_arguments(parser: Parser) -> None:
    """Declare the arguments of ``teleport configure``."""
    parser.add_argument("-o", "--output", metavar="FILE", help="write it there (default: print it)")


def configure(arguments: Arguments) -> None:
    """Print a sample configuration file."""
    from teleport_db.config import sample_config

    if not arguments.output:
        print(sample_config(), end="")
        return
    with open(arguments.output, "x", encoding="utf-8") as file:
        file.write(sample_config())
    print(f"A sample configuration has been written to {arguments.output}.")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(2 * 1024 * 1024)
    except UnicodeDecodeError:
        raise ConfigError("not a text file", source=path) from None
