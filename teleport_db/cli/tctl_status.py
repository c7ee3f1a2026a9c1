"""``tctl status``, ``db ls``, ``lock``: what goes on in the cluster, and stopping it."""

from __future__ import annotations

import os
import time
from typing import Any

from teleport_db.api.http import resource_path
from teleport_db.cli.output import clean, emit, format_argument, labels, table, timestamp
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tctl_session import client
from teleport_db.cli.values import seconds
from teleport_db.errors import NotFound, UsageError

#: What can be locked, and what it is called.
LOCKED = {"user": "User", "role": "Role", "db": "Database service", "server_id": "Host"}


def status_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl status``."""
    format_argument(parser)


def status(arguments: Arguments) -> None:
    """Show the cluster."""
    with client(arguments) as api:
        facts = api.call("GET", "/v1/status")

    def text() -> str:
        cas = facts.get("cas") or []
        lines = [("Cluster", facts.get("cluster", "")), ("Version", facts.get("version", ""))]
        lines += [(f"{ca.get('kind')} CA", ca.get("rotation", "never updated")) for ca in cas]
        lines += [("CA pin", pin) for pin in facts.get("ca_pins") or []]
        width = max(len(title) for title, _ in lines)
        return "\n".join(f"{clean(title).ljust(width)}  {clean(str(value))}" for title, value in lines)

    emit(facts, arguments.format, text)


def db_ls_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl db ls``."""
    format_argument(parser)


def db_ls(arguments: Arguments) -> None:
    """List database services, one row each however many agents serve it."""
    with client(arguments) as api:
        found = api.call("GET", "/v1/databases").get("items", [])
    found.sort(key=lambda db: str(db.get("name", "")))
    rows = ([db.get("name", ""), db.get("protocol", ""), db.get("uri", ""), labels(db.get("labels"))] for db in found)
    emit(found, arguments.format, lambda: table(["Name", "Protocol", "Address", "Labels"], rows))


def lock_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl lock``."""
    parser.add_argument("--user", metavar="NAME", help="lock this Teleport user")
    parser.add_argument("--role", metavar="NAME", help="lock everybody with this role")
    parser.add_argument("--db", metavar="NAME", help="lock this database service")
    parser.add_argument("--server-id", metavar="ID", help="lock this agent or proxy; tctl get db_server lists agents")
    parser.add_argument("--ttl", metavar="TIME", help="how long, as 8h (default: until it is removed)")
    parser.add_argument("--message", default="", metavar="TEXT", help="what those who are locked out read")
    format_argument(parser)


def lock(arguments: Arguments) -> None:
    """Create a lock: sessions end now and no new ones begin."""
    target = {key: value for key in LOCKED if (value := getattr(arguments, key))}
    if len(target) != 1:
        raise UsageError("one target is needed: --user, --role, --db or --server-id")
    name = f"lock-{os.urandom(8).hex()}"
    metadata = {"name": name}
    if arguments.ttl:
        metadata["expires"] = timestamp(time.time() + seconds("--ttl", arguments.ttl))
    spec: dict[str, Any] = {"target": target}
    if arguments.message:
        spec["message"] = arguments.message
    body = {"kind": "lock", "version": "v2", "metadata": metadata, "spec": spec}
    with client(arguments) as api:
        try:
            made = api.call("POST", resource_path("lock"), body)
        except NotFound as error:
            raise NotFound(f"this auth server has no locks: {error.public}") from error
    kind, value = next(iter(target.items()))
    emit(
        made or body,
        arguments.format,
        lambda: (
            f"{LOCKED[kind]} {clean(repr(value))} is locked"
            f"{' until ' + metadata['expires'] if arguments.ttl else ''}; tctl rm lock/{name} unlocks."
        ),
    )
