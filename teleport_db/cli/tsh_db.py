"""``tsh db ls``, ``tsh db login``, ``tsh db logout``."""

from __future__ import annotations

import sys
import time
from typing import Any

from teleport_db.api.http import Client
from teleport_db.cli import asking, pgservice
from teleport_db.cli.certinfo import CertificateInfo, read_certificate
from teleport_db.cli.output import clean, emit, format_argument, labels, table
from teleport_db.cli.profile import read_text
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.session import Login, live_login, tsh_login
from teleport_db.errors import AuthenticationFailed, NotFound, RemoteProtocolError, SecondFactorRequired, UsageError


def ls_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh db ls``."""
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show protocols, addresses, and the users and names you may use"
    )
    format_argument(parser)


def ls(arguments: Arguments) -> None:
    """List databases; one that is logged in carries ``>``."""
    login = flags_login(arguments)
    with login.credentials.client() as client:
        databases = listed(client)
    logged_in = set(login.store.databases(login.profile))
    if arguments.format != "text":
        emit([{**db, "logged_in": db.get("name") in logged_in} for db in databases], arguments.format, str)
        return
    extra = ["Protocol", "URI", "Users", "Names"] if arguments.verbose else []
    headers = ["Name", "Description", *extra, "Labels", "Connect"]
    rows = []
    for db in databases:
        name = str(db.get("name", ""))
        here = name in logged_in
        more = [db.get("protocol", ""), db.get("uri", ""), _open(db.get("users")), _open(db.get("names"))]
        last = [labels(db.get("labels")), _connect(login, name) if here else ""]
        rows.append([f"> {name}" if here else name, db.get("description", ""), *more[: len(extra)], *last])
    print(table(headers, rows))


def _open(names: object) -> str:
    """Database users or names that are open, ``*`` for any."""
    return ",".join(map(str, names)) if isinstance(names, list) else ""


def _connect(login: Login, name: str) -> str:
    """The command for a database that is logged in; what is not in its section stands there to be filled in."""
    user, database = defaults(login, name)
    return psql_command(login, name, "" if user else "<user>", "" if database else "<database>")


def listed(client: Client) -> list[dict[str, Any]]:
    """The databases that the caller may see, by name."""
    items = client.call("GET", "/v1/databases").get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RemoteProtocolError("the list of databases cannot be read")
    return sorted(items, key=lambda db: str(db.get("name", "")))


def login_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh db login``."""
    parser.add_argument("name", metavar="NAME", help="a database of tsh db ls")
    parser.add_argument("--db-user", default="", metavar="USER", help="database user to connect as by default")
    parser.add_argument("--db-name", default="", metavar="NAME", help="database name to connect to by default")


def login(arguments: Arguments) -> None:
    """Get a certificate, write the section of the service file, say how to connect."""
    login = flags_login(arguments)
    with login.credentials.client() as client:
        found = next((db for db in listed(client) if db.get("name") == arguments.name), None)
        if found is None:
            raise NotFound(f"there is no database {clean(arguments.name)} that you may connect to; see tsh db ls")
        if found.get("protocol", "postgres") != "postgres":
            raise UsageError(f"protocol {found['protocol']} is not supported by this version")
        user = arguments.db_user or _only(found.get("users"))
        database = arguments.db_name or _only(found.get("names"))
        given = obtain(login, client, arguments.name, user, database)
    user, database = user or "<user>", database or "<database>"
    print(f'Connection information for database "{arguments.name}" has been saved.')
    if given.identity.get("mfa"):
        print("The certificate is good for one minute; a session that it opens goes on as long as your login.")
    print("\nConnect to it with:\n")
    print(f"  $ {psql_command(login, arguments.name, user, database)}")
    print(f'\nor set the environment for any client of libpq:\n\n  $ eval "$(tsh db env {arguments.name})"')


def obtain(login: Login, client: Client, name: str, user: str, database: str, *, ask: bool = True) -> CertificateInfo:
    """A certificate for a database service, in its file, and the section that leads to it.

    :param ask: for a one-time code, where a role of the user's wants one; else that is SecondFactorRequired.
    """
    route = {"service": name, "user": user, "database": database}
    for flag, value in (("--db-user", user), ("--db-name", database)):
        if not value.isprintable() or value != value.strip():
            raise UsageError(f"{flag}: {value!r} cannot be written to a service file")
    info = login.credentials.info
    path = login.store.database_path(login.profile, name)
    ttl = max(1, int(info.not_after - time.time()))
    body = {"public_key": info.public_key, "ttl": ttl, "route": route}
    certificate = str(_certify(client, name, body, ask=ask).get("certificate", ""))
    given = read_certificate(certificate, "the answer of the auth server")
    if given.public_key != info.public_key or given.route.get("service") != name:
        raise RemoteProtocolError("the auth server answered with a certificate for something else")
    with login.store.locked():
        if login.authority_file != login.store.authority_path(login.profile):
            login.store.write(login.authority_file, login.credentials.host_ca)
        login.store.write(path, certificate)
        settings = connection(login, name, user, database)
        section = pgservice.section_name(login.profile.cluster, name)
        pgservice.change(lambda text: pgservice.update(text, section, settings))
    return given


def _certify(client: Client, name: str, body: dict[str, Any], *, ask: bool) -> dict[str, Any]:
    try:
        return client.call("POST", "/v1/certificates/user", body)
    except SecondFactorRequired as error:
        if not ask:
            raise
        client.close()  # whoever looks for a telephone may take longer than auth waits
        print(clean(str(error)), file=sys.stderr)
    return client.call("POST", "/v1/certificates/user", {**body, "otp": asking.code(f"One-time code for {name}")})


def connection(login: Login, name: str, user: str, database: str) -> dict[str, str]:
    """What libpq needs to connect to a database service, by its own names."""
    host, port = login.profile.postgres
    return {
        "host": host,
        "port": str(port),
        "user": user,
        "dbname": database,
        "sslmode": "verify-ca" if login.profile.insecure else "verify-full",
        "sslrootcert": login.authority_file,
        "sslcert": login.store.database_path(login.profile, name),
        "sslkey": login.credentials.key_file,
        "gssencmode": "disable",
    }


def defaults(login: Login, name: str) -> tuple[str, str]:
    """The database user and name of the last ``tsh db login``; empty when there was none."""
    try:
        path = login.store.database_path(login.profile, name)
        route = read_certificate(read_text(path), path).route
    except (AuthenticationFailed, FileNotFoundError):
        return "", ""
    return str(route.get("user") or ""), str(route.get("database") or "")


def logout_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh db logout``."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a database; all that are logged in unless given")


def logout(arguments: Arguments) -> None:
    """Remove certificates and sections; an expired login can do so too."""
    login = tsh_login(proxy=arguments.proxy, identity=arguments.identity)
    names = login.store.databases(login.profile)
    if arguments.name and arguments.name not in names:
        raise NotFound(f"you are not logged in to database {clean(arguments.name)}")
    if not names:
        raise NotFound("you are not logged in to any database")
    for name in forget(login, [arguments.name] if arguments.name else names):
        print(f'Logged out of database "{name}".')


def forget(login: Login, names: list[str]) -> list[str]:
    """Remove the certificate and the section of each; returns the names."""
    with login.store.locked():
        for name in names:
            login.store.remove(login.store.database_path(login.profile, name))
            section = pgservice.section_name(login.profile.cluster, name)
            pgservice.change(lambda text, section=section: pgservice.remove(text, section))  # type: ignore[misc]
    return names


def flags_login(arguments: Arguments) -> Login:
    """The live login that the global flags choose."""
    return live_login(proxy=arguments.proxy, identity=arguments.identity, insecure=arguments.insecure)


def conninfo(login: Login, name: str, user: str = "", database: str = "") -> str:
    """A connection string of libpq: ``service=root-aurora user=alice``."""
    pairs = {"service": pgservice.section_name(login.profile.cluster, name), "user": user, "dbname": database}
    return " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items() if value)


def psql_command(login: Login, name: str, user: str = "", database: str = "") -> str:
    """The ``psql`` command for a database, for a shell."""
    text = conninfo(login, name, user, database)
    if any(c in text for c in "\"\\$`!'"):
        import shlex

        return f"psql {shlex.quote(text)}"
    return f'psql "{text}"'


def _quoted(value: str) -> str:
    if value and not any(c.isspace() or c in "'\\" for c in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _only(values: object) -> str:
    """The one value there is to choose, or nothing."""
    if isinstance(values, list) and len(values) == 1 and values[0] != "*":
        return clean(str(values[0]))
    return ""
