"""``tsh login``, ``tsh logout``, ``tsh status``.

::

    tsh                                        proxy
     │── GET /webapi/ping ──────────────────────▶│   which cluster, which second factor
     │   password and code from the terminal, a new key
     │── POST /webapi/login, the public key ────▶│
     │◀── certificate, host authority ───────────│
     │   files, then the databases that were logged in before get certificates for the new key
"""

from __future__ import annotations

import contextlib
import getpass
import socket
import ssl
import sys
import time
from typing import Any

from teleport_db.api.http import Client, UntrustedServer, auth_context, show_address, web_context
from teleport_db.cli import asking, pgservice
from teleport_db.cli.certinfo import blocks, read_certificate
from teleport_db.cli.output import clean, duration, emit, format_argument, moment, timestamp
from teleport_db.cli.profile import Profile, Store
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.session import Login, profile_of, tsh_login
from teleport_db.cli.values import file_name, proxy_address, seconds, split_address
from teleport_db.errors import AuthenticationFailed, RemoteProtocolError, TeleportDBError, UsageError


def login_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh login``."""
    parser.add_argument("cluster", nargs="?", metavar="CLUSTER", help="the cluster; only the proxy's own so far")
    parser.add_argument("--user", metavar="NAME", help="the Teleport user (default: the last one, or your own name)")
    parser.add_argument("--ttl", default="12h", metavar="TIME", help="how long the login lasts, as 8h (default: 12h)")


def login(arguments: Arguments) -> None:
    """Log in, write the files, renew the databases' certificates."""
    if arguments.identity:
        raise UsageError("--identity: an identity file needs no login")
    store = Store.of_environment()
    before = profile_of(store, arguments.proxy)
    if arguments.proxy:
        proxy = proxy_address("--proxy", arguments.proxy)
    elif before:
        proxy = before.proxy
    else:
        raise UsageError("--proxy is needed: tsh login --proxy=HOST:PORT")
    file_name("the proxy", proxy[0])
    user = arguments.user or (before.user if before else getpass.getuser())
    ttl = seconds("--ttl", arguments.ttl)
    with Client(proxy, web_context(insecure=arguments.insecure), proxy[0]) as client:
        try:
            ping = client.call("GET", "/webapi/ping")
        except UntrustedServer as error:
            raise AuthenticationFailed(
                f"{error}\nset SSL_CERT_FILE to the authority's file, or try things out with --insecure"
            ) from error
        cluster = str(ping.get("cluster", ""))
        if arguments.cluster and arguments.cluster != cluster:
            raise UsageError(
                f"{arguments.cluster} is not the proxy's cluster, {cluster}: others come in a later version"
            )
        client.close()  # whoever looks for a telephone may take longer than the proxy waits
        password, code = ask(user, str(ping.get("second_factor", "off")))
        profile, files, remarks = _sign(
            client, Profile(proxy, user, cluster, proxy, arguments.insecure), password, code, ttl
        )
    profile = profile._replace(postgres=_postgres_address(profile, ping, files["certs.pem"]))
    with store.locked():
        renewed = store.databases(profile)
        store.write(store.key_path(profile), files["key"])
        store.write(store.certificate_path(profile), files["certificate"])
        store.write(store.authority_path(profile), files["certs.pem"])
        store.save(profile)
    _renew(renewed)
    print(_describe(tsh_login(proxy=None, identity=None)))
    for remark in remarks:
        print(clean(remark))


def ask(user: str, second_factor: str) -> tuple[str, str | None]:
    """The password and the one-time code: from the terminal, or a line each from a pipe."""
    wanted = second_factor in {"otp", "on", "optional"}
    password = asking.password(f"Password of Teleport user {user}")
    hint = " (empty if you have none)" if second_factor == "optional" else ", or a recovery code"
    code = asking.secret(f"One-time code{hint}").strip() if wanted else ""
    return password, code or None


def _sign(
    client: Client, asked: Profile, password: str, code: str | None, ttl: int
) -> tuple[Profile, dict[str, str], list[str]]:
    """Have a new key certified, which leaves this process only into its file; and what cut its life short."""
    from teleport_db.certs.keys import new_key, private_pem, public_pem

    key = new_key()
    public = public_pem(key).decode()
    answer = client.call(
        "POST",
        "/webapi/login",
        {"user": asked.user, "password": password, "otp": code, "public_key": public, "ttl": ttl},
    )
    certificate, host_ca = str(answer.get("certificate", "")), str(answer.get("host_ca", ""))
    info = read_certificate(certificate, "the proxy's answer")
    if info.public_key != public or info.name != asked.user or not blocks(host_ca, "CERTIFICATE"):
        raise RemoteProtocolError("the proxy answered with a certificate for somebody else")
    profile = asked._replace(cluster=file_name("the cluster", info.cluster), user=file_name("the user", info.name))
    files = {"key": private_pem(key).decode(), "certificate": certificate, "certs.pem": host_ca}
    return profile, files, _remarks(answer)


def _remarks(answer: dict[str, Any]) -> list[str]:
    """What else there is to know of a login, a line each."""
    shortened, left = answer.get("shortened"), answer.get("recovery_codes")
    remarks = [f"  Shortened:    {shortened}"] if shortened else []
    if isinstance(left, int):
        codes = f"{left} recovery code{'' if left == 1 else 's'} left"
        remarks.append(f"  Recovery:     you have {codes}; new ones: tsh mfa recovery-codes")
    return remarks


def _postgres_address(profile: Profile, ping: dict[str, Any], host_ca: str) -> tuple[str, int]:
    """The address at which PostgreSQL clients find a certificate with the address's own name.

    The proxy's certificate has its public address; who logged in at another name is sent to that one.
    """
    candidates = [profile.proxy]
    with contextlib.suppress(ValueError):
        candidates.append(split_address(str(ping.get("proxy_address", ""))))
    if profile.insecure or candidates[-1] == profile.proxy:
        return profile.proxy  # the name is not looked at, or there is no other
    context = auth_context(host_ca, alpn="postgresql")
    for host, port in candidates:
        try:
            with (
                socket.create_connection((host, port), timeout=5.0) as plain,
                context.wrap_socket(plain, server_hostname=host),
            ):
                return host, port
        except (OSError, ssl.SSLError, ValueError):
            continue
    return profile.proxy


def _renew(names: list[str]) -> None:
    """Certificates for the databases that were logged in: the old ones belong to the old key."""
    from teleport_db.cli import tsh_db

    if not names:
        return
    found = tsh_login(proxy=None, identity=None)
    with found.credentials.client() as client:
        for name in names:
            user, database = tsh_db.defaults(found, name)
            try:
                tsh_db.obtain(found, client, name, user, database, ask=False)
            except TeleportDBError as error:
                tsh_db.forget(found, [name])
                print(f"WARNING: logged out of database {clean(name)}: {clean(str(error))}", file=sys.stderr)


def logout_arguments(parser: Parser) -> None:
    """``tsh logout`` has no arguments of its own."""


def logout(arguments: Arguments) -> None:
    """Remove the profile, its keys, its certificates and its sections of the service file."""
    store = Store.of_environment()
    with store.locked():
        profile = profile_of(store, arguments.proxy)
        if profile is None:
            print("Nobody was logged in.")
            return
        for name in store.databases(profile):
            section = pgservice.section_name(profile.cluster, name)
            pgservice.change(lambda text, section=section: pgservice.remove(text, section))  # type: ignore[misc]
        store.forget(profile)
    print(f"Logged out {profile.user} of {show_address(profile.proxy)}.")


def status_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tsh status``."""
    format_argument(parser)


def status(arguments: Arguments) -> int:
    """Say who is logged in; exit code 1 when the login has expired."""
    found = tsh_login(proxy=arguments.proxy, identity=arguments.identity, insecure=arguments.insecure)
    info = found.credentials.info
    facts = {
        "proxy": show_address(found.profile.proxy),
        "user": info.name,
        "cluster": info.cluster,
        "roles": info.roles,
        "databases": found.store.databases(found.profile),
        "valid_until": timestamp(info.not_after),
        "expired": not found.live,
    }
    emit(facts, arguments.format, lambda: _describe(found))
    if not found.live:
        print(f"ERROR: {found.credentials.expired}", file=sys.stderr)
    return 0 if found.live else 1


def _describe(found: Login) -> str:
    info = found.credentials.info
    left = info.not_after - time.time()
    databases = found.store.databases(found.profile)
    lines = [
        f"> Profile URL:  https://{show_address(found.profile.proxy)}",
        f"  Logged in as: {info.name}",
        f"  Cluster:      {info.cluster}",
        f"  Roles:        {', '.join(info.roles)}",
        *([f"  Databases:    {', '.join(databases)}"] if databases else []),
        f"  Valid until:  {moment(info.not_after)} [{f'valid for {duration(left)}' if left > 0 else 'EXPIRED'}]",
    ]
    return "\n".join(clean(line) for line in lines)
