"""``tctl auth sign``: certificates that leave the cluster in files.

::

    --format=db     NAME.key NAME.crt NAME.cas    what PostgreSQL's ssl_key_file, ssl_cert_file, ssl_ca_file want
    --format=file   NAME                          key, certificate and authority in one PEM file, for robots

The key is made here; auth sees the public half.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from teleport_db.cli.certinfo import blocks
from teleport_db.cli.output import clean, moment
from teleport_db.cli.program import Arguments, Parser, confirmed
from teleport_db.cli.tctl_session import client
from teleport_db.cli.values import items, seconds
from teleport_db.errors import AlreadyExists, RemoteProtocolError, UsageError

#: Life of a certificate unless ``--ttl`` says so, by format.
TTL = {"db": "2190h", "file": "12h"}


def sign_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl auth sign``."""
    parser.add_argument("--format", choices=("db", "file"), default="file", help="what to write (default: file)")
    parser.add_argument("--host", metavar="A,B", help="names and addresses of the database server (--format=db)")
    parser.add_argument("--user", metavar="NAME", help="the Teleport user (--format=file)")
    parser.add_argument("--out", "-o", required=True, metavar="NAME", help="file, or prefix of the three files")
    parser.add_argument("--ttl", metavar="TIME", help="how long it is valid (default: 2190h for db, 12h for file)")
    parser.add_argument("--overwrite", action="store_true", help="write over existing files without asking")


def sign(arguments: Arguments) -> None:
    """Make a key, have it signed, write the files."""
    life = seconds("--ttl", arguments.ttl or TTL[arguments.format])
    if arguments.format == "db":
        if arguments.user:
            raise UsageError("--user goes with --format=file")
        _sign_db(arguments, life)
    else:
        if arguments.host:
            raise UsageError("--host goes with --format=db")
        _sign_file(arguments, life)


def _sign_db(arguments: Arguments, life: int) -> None:
    from teleport_db.certs.keys import new_key, private_pem, public_pem

    hosts = items(arguments.host)
    if not hosts:
        raise UsageError("--host is needed: the name by which agents connect to the database")
    names = [f"{arguments.out}.{ending}" for ending in ("key", "crt", "cas")]
    _may_write(names, arguments.overwrite)
    key = new_key()
    body = {"hosts": hosts, "public_key": public_pem(key).decode(), "ttl": life}
    with client(arguments) as api:
        answer = api.call("POST", "/v1/certificates/database-server", body)
    certificate, authority = str(answer.get("certificate", "")), str(answer.get("ca", ""))
    if not blocks(certificate, "CERTIFICATE") or not blocks(authority, "CERTIFICATE"):
        raise RemoteProtocolError("the auth server's answer has no certificate in it")
    _write(dict(zip(names, (private_pem(key).decode(), certificate, authority), strict=True)))
    full = os.path.abspath(arguments.out)
    print(f"The credentials have been written to {', '.join(map(clean, names))}.")
    print(
        f"\nIn postgresql.conf:\n\n  ssl = on\n  ssl_cert_file = '{full}.crt'\n  ssl_key_file = '{full}.key'\n"
        f"  ssl_ca_file = '{full}.cas'\n\nand in pg_hba.conf:\n\n"
        "  hostssl all  all  ::/0       cert\n  hostssl all  all  0.0.0.0/0  cert"
    )


def _sign_file(arguments: Arguments, life: int) -> None:
    from teleport_db.certs.keys import new_key, private_pem, public_pem

    if not arguments.user:
        raise UsageError("--user is needed: whose identity the file is")
    _may_write([arguments.out], arguments.overwrite)
    key = new_key()
    body = {"user": arguments.user, "public_key": public_pem(key).decode(), "ttl": life}
    with client(arguments) as api:
        answer = api.call("POST", "/v1/certificates/identity", body)
        proxy = str(api.call("GET", "/v1/status").get("proxy_address") or "")
    text = identity_text(private_pem(key).decode(), answer, proxy)
    _write({arguments.out: text})
    from teleport_db.cli.certinfo import read_certificate

    until = moment(read_certificate(str(answer["certificate"]), "the answer").not_after)
    print(f"The identity of {clean(arguments.user)} is in {clean(arguments.out)} now, valid until {until}.")
    print(f"\nUse it with:\n\n  $ tsh -i {clean(arguments.out)} db ls")


def identity_text(key: str, answer: Mapping[str, object], proxy: str) -> str:
    """An identity file: PEM that OpenSSL reads, below comments that it skips."""
    certificate, authority = str(answer.get("certificate", "")), str(answer.get("host_ca", ""))
    if not blocks(certificate, "CERTIFICATE") or not blocks(authority, "CERTIFICATE"):
        raise RemoteProtocolError("the auth server's answer has no certificate in it")
    head = [f"# proxy: {proxy}"] if proxy else []
    head.append(f"# cluster: {answer.get('cluster', '')}")
    parts = [clean(line) + "\n" for line in head] + [key, certificate, authority]
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts)


def _may_write(names: list[str], overwrite: bool) -> None:
    there = [name for name in names if os.path.lexists(name)]
    if there and not overwrite and not confirmed(f"Overwrite {', '.join(map(clean, there))}?"):
        verb = "is" if len(there) == 1 else "are"
        raise AlreadyExists(f"{', '.join(there)} {verb} there already; --overwrite writes over it")


def _write(files: Mapping[str, str]) -> None:
    from teleport_db.certs.files import write_secret

    for name, text in files.items():
        write_secret(name, text.encode())
