"""``tctl tokens``: secrets by which a host joins the cluster."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from teleport_db.cli.output import clean, duration, emit, format_argument, labels, table
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tctl_session import client
from teleport_db.cli.values import seconds
from teleport_db.errors import UsageError


def add_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl tokens add``."""
    parser.add_argument("--type", required=True, metavar="A,B", help="what may join: db (database), proxy")
    parser.add_argument("--ttl", default="1h", metavar="TIME", help="life of the token, as 5m (default: 1h)")
    parser.add_argument("--value", metavar="TOKEN", help="the token itself (default: a random one)")
    parser.add_argument("--uses", type=int, default=1, metavar="N", help="how many hosts may join with it (default: 1)")
    parser.add_argument("--db-name", metavar="NAME", help="the database service it is for; no other one may be served")
    parser.add_argument("--db-protocol", metavar="PROTOCOL", help="protocol of the database: postgres")
    parser.add_argument("--db-uri", metavar="HOST:PORT", help="address of the database")
    format_argument(parser)


def add(arguments: Arguments) -> None:
    """Create a token and print the command that uses it."""
    roles = _checked("--type", arguments.type)
    database = _database(arguments)
    if arguments.uses < 1:
        raise UsageError(f"--uses: at least one is needed, not {arguments.uses}")
    if database and "db" not in roles:
        raise UsageError("--db-name goes with --type=db")
    body = {
        "roles": roles,
        "ttl": seconds("--ttl", arguments.ttl),
        "value": arguments.value,
        "uses": arguments.uses,
        "databases": [database["--db-name"]] if database else [],
    }
    with client(arguments) as api:
        answer = api.call("POST", "/v1/tokens", body)
        status = api.call("GET", "/v1/status")
    token, pins = str(answer.get("token", "")), [str(pin) for pin in status.get("ca_pins") or []]
    proxy = str(status.get("proxy_address") or "PROXY:3080")
    command = _start_command(roles, token, pins, proxy, database)
    facts = {
        "token": token,
        "roles": answer.get("roles", roles),
        "expires": answer.get("expires"),
        "uses": arguments.uses,
        "ca_pins": pins,
        "auth_server": proxy,
        "command": " ".join(command),
    }
    emit(facts, arguments.format, lambda: _told(token, body["ttl"], arguments.uses, roles, command))


def ls_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl tokens ls``."""
    format_argument(parser)


def ls(arguments: Arguments) -> None:
    """List tokens: a prefix of each, for the whole is a secret."""
    with client(arguments) as api:
        tokens = api.call("GET", "/v1/tokens").get("items", [])

    def text() -> str:
        # Where every token works once, or always, there is nothing to count: then the columns are Teleport's.
        counted = any((token.get("uses") or 1) > 1 for token in tokens)
        headers = ["Token", "Type", "Labels", "Expiry Time (UTC)", *(["Uses Left"] if counted else [])]
        rows = ([*_row(token), *([_uses(token)] if counted else [])] for token in tokens)
        return table(headers, rows) if tokens else "There are no active tokens."

    emit(tokens, arguments.format, text)


def rm_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl tokens rm``."""
    parser.add_argument("token", metavar="TOKEN", help="the token, or its name in tctl tokens ls --format=json")


def rm(arguments: Arguments) -> None:
    """Delete a token; hosts that have joined with it stay."""
    with client(arguments) as api:
        api.call("DELETE", f"/v1/tokens/{quote(arguments.token, safe='')}")
    print(f"Token {_prefix(arguments.token)} has been deleted.")


def _checked(flag: str, text: str) -> list[str]:
    from teleport_db.config.values import parse_system_roles

    try:
        return list(parse_system_roles(text))
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _database(arguments: Arguments) -> dict[str, str]:
    """The flags that describe a database, checked as ``teleport start`` would; empty when there are none."""
    from teleport_db.config.values import parse_address, parse_protocol, parse_service_name

    flags = {"--db-name": arguments.db_name, "--db-protocol": arguments.db_protocol, "--db-uri": arguments.db_uri}
    given = {flag: value for flag, value in flags.items() if value}
    if not given:
        return {}
    if "--db-name" not in given:
        raise UsageError(f"--db-name is missing beside {next(iter(given))}")
    given.setdefault("--db-protocol", "postgres")
    readers = {"--db-name": parse_service_name, "--db-protocol": parse_protocol, "--db-uri": parse_address}
    for flag, value in given.items():
        try:
            readers[flag](value)  # type: ignore[operator]
        except ValueError as error:
            raise UsageError(f"{flag}: {error}") from None
    return {flag: given[flag] for flag in flags if flag in given}


def _start_command(roles: list[str], token: str, pins: list[str], proxy: str, database: dict[str, str]) -> list[str]:
    import shlex

    flags = {"--roles": ",".join(roles), "--token": token}
    words = [*flags.items(), *(("--ca-pin", pin) for pin in pins), ("--auth-server", proxy), *database.items()]
    return ["teleport start", *(f"{flag}={shlex.quote(value)}" for flag, value in words)]


def _told(token: str, life: int, uses: int, roles: list[str], command: list[str]) -> str:
    lines = [
        f"The invite token: {clean(token)}",
        f"This token will expire in {duration(life)}.",
        *([f"Until then {uses} hosts may join with it."] if uses > 1 else []),
        "",
        f"Run this on the host that joins as {', '.join(roles)}:",
        "",
        # Without a prompt before it: it is there to be pasted.
        "  " + " \\\n    ".join(map(clean, command)),
    ]
    if "db" in roles and not any(word.startswith("--db-name") for word in command):
        lines += ["", "and add --db-name, --db-protocol and --db-uri, or -c FILE, for the databases it serves."]
    return "\n".join(lines)


def _row(token: dict[str, Any]) -> list[str]:
    expires = token.get("expires")
    shown = str(expires).replace("T", " ").removesuffix("Z").partition(".")[0] if expires else "never"
    return [
        _prefix(str(token.get("prefix") or token.get("name") or "")),
        ",".join(map(str, token.get("roles") or [])),
        labels(token.get("labels")),
        shown,
    ]


def _uses(token: dict[str, Any]) -> str:
    return f"{token.get('uses_left')} of {token.get('uses')}" if token.get("uses") else "any"


def _prefix(token: str) -> str:
    return f"{token[:6].rstrip('.…*')}..."
