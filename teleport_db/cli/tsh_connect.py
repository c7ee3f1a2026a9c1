"""``tsh db env``, ``tsh db config``, ``tsh db connect``, ``tsh play``: using a login.

None but ``play`` and ``connect`` speaks with the cluster; ``connect`` asks whether a role wants a one-time code by
now, and does without the answer while auth is away.
"""

from __future__ import annotations

import os
import sys
import time

from teleport_db.cli import tsh_db
from teleport_db.cli.certinfo import CertificateInfo, blocks, der, read_certificate
from teleport_db.cli.output import clean, emit, format_argument
from teleport_db.cli.profile import read_text
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.session import Login, tsh_login
from teleport_db.errors import AuthenticationFailed, ConnectionTrouble, NotFound, UsageError

#: Seconds that a client gets to connect with a certificate that lives for a minute.
STARTING = 20.0
#: Seconds that auth gets to say whether a code is wanted; then the certificate that there is has to do.
ASKING = 5.0

#: libpq's environment variable of each key of a connection service.
VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "gssencmode": "PGGSSENCMODE",
}


def env_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh db env``."""
    _name_argument(parser)
    parser.add_argument("--unset", action="store_true", help="print what takes the variables away again")
    format_argument(parser)


def env(arguments: Arguments) -> None:
    """Print variables for a shell to evaluate."""
    import shlex

    login = tsh_login(proxy=arguments.proxy, identity=arguments.identity)
    name = _chosen(login, arguments.name)
    settings = tsh_db.connection(login, name, *tsh_db.defaults(login, name))
    if arguments.unset:
        print("\n".join(f"unset {VARIABLES[key]}" for key in settings))
        return
    values = {VARIABLES[key]: value for key, value in settings.items() if value}
    emit(
        values,
        arguments.format,
        lambda: "\n".join(f"export {key}={shlex.quote(value)}" for key, value in values.items()),
    )


def config_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh db config``."""
    _name_argument(parser)
    parser.add_argument("--key-der", metavar="FILE", help="write the key in PKCS#8 DER there, as JDBC wants it")
    format_argument(parser, ("text", "cmd", "json", "yaml"))


def config(arguments: Arguments) -> None:
    """Print the connection's settings, and for JDBC a URL and a key in DER."""
    login = tsh_login(proxy=arguments.proxy, identity=arguments.identity)
    name = _chosen(login, arguments.name)
    user, database = tsh_db.defaults(login, name)
    settings = tsh_db.connection(login, name, user, database)
    key = settings["sslkey"]
    if arguments.key_der:
        from teleport_db.certs.files import write_secret

        key = os.path.abspath(arguments.key_der)
        write_secret(key, der(blocks(read_text(settings["sslkey"]), "PRIVATE KEY")[0]))
        print(f"The key is in {key}, 0600; remove it when you log out.", file=sys.stderr)
    if arguments.format == "cmd":
        print(tsh_db.psql_command(login, name, user, database))
        return
    facts = {
        "name": name,
        "host": settings["host"],
        "port": int(settings["port"]),
        "user": user,
        "database": database,
        "ca": settings["sslrootcert"],
        "cert": settings["sslcert"],
        "key": settings["sslkey"],
        "sslmode": settings["sslmode"],
        "jdbc": _jdbc(settings, key),
    }
    titles = {"ca": "CA", "sslmode": "SSL mode", "jdbc": "JDBC"}
    emit(
        facts,
        arguments.format,
        lambda: "\n".join(
            f"{titles.get(fact, fact.capitalize()) + ':':<10}{clean(str(value))}".rstrip()
            for fact, value in facts.items()
        ),
    )


def _jdbc(settings: dict[str, str], key: str) -> str:
    from urllib.parse import urlencode

    host = f"[{settings['host']}]" if ":" in settings["host"] else settings["host"]
    parameters = {name: settings[name] for name in ("user", "sslmode", "sslrootcert", "sslcert") if settings[name]}
    query = urlencode({**parameters, "sslkey": key}, safe="/")
    return f"jdbc:postgresql://{host}:{settings['port']}/{settings['dbname']}?{query}"


def connect_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh db connect``."""
    _name_argument(parser)
    parser.add_argument("--db-user", default="", metavar="USER", help="database user to connect as")
    parser.add_argument("--db-name", default="", metavar="NAME", help="database name to connect to")


def connect(arguments: Arguments) -> None:
    """Become ``psql``; logs in to the database first when there is no certificate that lives long enough."""
    login = tsh_db.flags_login(arguments)
    name = arguments.name or _named(login, None)
    if _wants_another(login, name):
        user, database = tsh_db.defaults(login, name)
        with login.credentials.client() as client:
            tsh_db.obtain(login, client, name, arguments.db_user or user, arguments.db_name or database)
    sys.stdout.flush()
    try:
        os.execvp("psql", ["psql", tsh_db.conninfo(login, name, arguments.db_user, arguments.db_name)])  # noqa: S606
    except FileNotFoundError:
        raise NotFound(
            "psql is not on the PATH: install PostgreSQL's client (Debian: postgresql-client)\n"
            f"or use another client with the settings of: tsh db config {name}"
        ) from None


def _name_argument(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a database; the one that is logged in unless given")


def _named(login: Login, name: str | None) -> str:
    """The database to speak of, which must have been logged in."""
    names = login.store.databases(login.profile)
    if name is None:
        if len(names) > 1:
            raise UsageError(f"several databases are logged in: name one of {', '.join(names)}")
        if not names:
            raise NotFound("you are not logged in to any database, run: tsh db login NAME")
        name = names[0]
    if name not in names:
        raise NotFound(f"you are not logged in to database {clean(name)}, run: tsh db login {clean(name)}")
    return name


def _chosen(login: Login, name: str | None) -> str:
    """The same, with a certificate that lives."""
    name = _named(login, name)
    if _living(login, name) is None:
        if not login.live:
            raise AuthenticationFailed(login.credentials.expired)
        raise AuthenticationFailed(f"the certificate of {clean(name)} has expired, run: tsh db login {clean(name)}")
    return name


def _wants_another(login: Login, name: str) -> bool:
    """Whether to ask for a certificate before ``psql`` gets to connect."""
    found = _living(login, name)
    if found is None:
        return True
    if found.identity.get("mfa"):
        # The input of a pipe begins with a code, always: psql could be given it as SQL.
        return not sys.stdin.isatty()
    try:
        with login.credentials.client(timeout=ASKING) as client:
            # A role may have begun to ask for one.
            return bool(client.call("GET", "/v1/mfa").get("session_mfa"))
    except ConnectionTrouble:
        return False  # while auth is away the agent decides with what there is


def _living(login: Login, name: str) -> CertificateInfo | None:
    """The database's certificate; None where there is none that can be used."""
    path = login.store.database_path(login.profile, name)
    try:
        info = read_certificate(read_text(path), path)
    except (FileNotFoundError, AuthenticationFailed):
        return None
    # psql has to start, and to reach the proxy, within what is left of a minute.
    needed = STARTING if info.identity.get("mfa") else 0.0
    good = time.time() + needed < info.not_after and info.public_key == login.credentials.info.public_key
    return info if good else None
