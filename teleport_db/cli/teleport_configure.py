"""``teleport db configure create``: a configuration file of a database service, for the flags given."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from teleport_db.cli.program import Arguments, Parser
from teleport_db.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from teleport_db.config.model import Database

#: What stands in the file for what was not said.
TOKEN, PROXY = "/var/lib/teleport/token", "teleport.example.com:3080"

_HEAD = """\
# A Teleport process with a database service, which dials out to the proxy and listens on no port.
# Start it with:  teleport start --config={file}
teleport:
  nodename: {nodename}
  data_dir: {data_dir}
  # The token it joins with, or the absolute path of a file that holds one (tctl tokens add --type=db).
  auth_token: {token}
  # The proxy's address.
  auth_servers: [{proxy}]
  # The pin of the cluster's authority; tctl status prints it.
{pins}
db_service:
  enabled: "yes"
"""

_TAIL = """\
auth_service:
  enabled: "no"
proxy_service:
  enabled: "no"
ssh_service:
  enabled: "no"
"""

_DISCOVERY = """\
  # Databases of RDS and Aurora with IAM authentication, found by their tags; '*' stands for any.
  aws:
  - types: [rds]
    regions: {regions}
    tags: {tags}
"""


def create_arguments(parser: Parser) -> None:
    """Declare the arguments of ``teleport db configure create``."""
    for flags, metavar, text in (
        (("--token",), "TOKEN", "join token, or the path of a file with it"),
        (("--proxy", "--auth-server"), "HOST:PORT", "the proxy's address"),
        (("--ca-pin",), "PIN", "pin of the cluster's CA"),
        (("--nodename",), "NAME", "name of this host in the cluster"),
        (("--data-dir",), "DIR", "where state is kept (default: /var/lib/teleport)"),
        (("--name", "--db-name"), "NAME", "name of the database service"),
        (("--protocol", "--db-protocol"), "PROTOCOL", "its protocol: postgres"),
        (("--uri", "--db-uri"), "HOST:PORT", "its address"),
        (("--labels",), "K=V,...", 'its labels: k=v,k2="v 2"'),
        (("--ca-cert", "--ca-cert-file", "--db-ca-cert"), "FILE", "PEM file of the authority of its certificate"),
        (("--aws-region", "--db-aws-region"), "REGION", "its AWS region, where its address does not tell"),
        (("--rds-discovery",), "REGION,...", "discover databases of RDS and Aurora in these regions"),
        (("--rds-tags",), "K=V,...", "those with these tags only"),
        (("-o", "--output"), "FILE", "write it there (default: print it)"),
    ):
        parser.add_argument(*flags, default="", metavar=metavar, help=text)


def create(arguments: Arguments) -> None:
    """Print a configuration file, or write it."""
    text = text_of(arguments)
    if not arguments.output:
        print(text, end="")
        return
    with open(arguments.output, "x", encoding="utf-8") as file:
        file.write(text)
    print(f"The configuration has been written to {arguments.output}; start it with:")
    print(f"  teleport start --config={arguments.output}")


def text_of(arguments: Arguments) -> str:
    """The file's text; it reads as a configuration.

    :raises UsageError: for what was not given, or cannot be.
    """
    from teleport_db.config import parse

    if not arguments.name and not arguments.rds_discovery:
        raise UsageError("which database? give --name and --uri, or --rds-discovery=REGION for those of RDS")
    text = _HEAD.format(
        file=arguments.output or "/etc/teleport.yaml",
        nodename=_quoted(arguments.nodename) if arguments.nodename else '"db"',
        data_dir=_quoted(arguments.data_dir or "/var/lib/teleport"),
        token=_quoted(arguments.token or TOKEN),
        proxy=_quoted(arguments.proxy or PROXY),
        pins=f"  ca_pin: {_quoted(arguments.ca_pin)}" if arguments.ca_pin else '  # ca_pin: "sha256:..."',
    )
    if arguments.rds_discovery:
        text += _DISCOVERY.format(
            regions=json.dumps([region.strip() for region in arguments.rds_discovery.split(",")]),
            tags=json.dumps(_tags(arguments.rds_tags), ensure_ascii=False),
        )
    if arguments.name:
        text += "  databases:\n" + _database(arguments)
    text += _TAIL
    try:
        parse(text, "the flags")
    except ConfigError as error:
        raise UsageError(f"{error.path}: {error.message}" if error.path else error.message) from error
    return text


def _quoted(text: str) -> str:
    # Every JSON text is YAML as well.
    return json.dumps(text, ensure_ascii=False)


def _tags(text: str) -> dict[str, str]:
    from teleport_db.config.values import parse_labels

    try:
        return dict(parse_labels(text).static) or {"*": "*"}
    except ValueError as error:
        raise UsageError(f"--rds-tags: {error}") from None


def _database(arguments: Arguments) -> str:
    from teleport_db.config.flags import Flags, from_flags

    flags = Flags(
        db_name=arguments.name,
        db_protocol=arguments.protocol,
        db_uri=arguments.uri,
        db_ca_cert=arguments.ca_cert,
        db_aws_region=arguments.aws_region,
        labels=arguments.labels,
    )
    [database] = from_flags(flags).db.databases
    lines = [
        f"  - name: {_quoted(database.name)}",
        f"    protocol: {_quoted(database.protocol)}",
        f"    uri: {_quoted(str(database.uri))}",
    ]
    if database.ca_cert_file:
        lines.append(f"    ca_cert_file: {_quoted(database.ca_cert_file)}")
    if database.amazon is not None:
        lines += [
            "    # Logins are by IAM tokens: teleport db configure aws check shows whether all is there.",
            "    aws:",
        ]
        lines.append(f"      region: {database.amazon.region}")
    return "\n".join([*lines, *_labels(database)]) + "\n"


def _labels(database: Database) -> list[str]:
    lines = []
    if database.static_labels:
        lines.append("    # What roles select databases by.")
        lines.append("    static_labels:")
        lines += [f"      {_quoted(key)}: {_quoted(value)}" for key, value in database.static_labels.items()]
    if database.dynamic_labels:
        lines.append("    dynamic_labels:")
        for key, label in database.dynamic_labels.items():
            item: dict[str, Any] = {"name": key, "command": list(label.command), "period": f"{label.period:g}s"}
            lines.append(f"    - {json.dumps(item, ensure_ascii=False)}")
    return lines
