"""``tctl``: the command of administrators, on the auth host and elsewhere."""

from __future__ import annotations

import sys
from argparse import SUPPRESS

from teleport_db.cli.program import Command, Parser, Program

COMMANDS = (
    Command(
        "users add",
        "tctl_users:add",
        "create a user and print the link of the invitation",
        "tctl users add alice --roles=access --db-names=postgres --db-users=alice",
    ),
    Command("users ls", "tctl_users:ls", "list users and their roles", "tctl users ls --format=json"),
    Command("users rm", "tctl_users:rm", "delete users", "tctl users rm alice"),
    Command(
        "users reset",
        "tctl_users:reset",
        "take password and devices away, and print a link that sets new ones",
        "tctl users reset alice",
    ),
    Command(
        "users unlock", "tctl_users:unlock", "let a user try again who failed too often", "tctl users unlock alice"
    ),
    Command(
        "users update",
        "tctl_users:update",
        "set the roles or the traits of a user",
        "tctl users update alice --set-roles=access,auditor\ntctl users update alice --set-trait=team=red,blue",
    ),
    Command(
        "tokens add",
        "tctl_tokens:add",
        "create a join token and print the command that uses it",
        "tctl tokens add --type=db --db-name=test --db-protocol=postgres --db-uri=db.example.com:5432\n"
        "tctl tokens add --type=db --uses=5",
    ),
    Command("tokens ls", "tctl_tokens:ls", "list join tokens, a prefix of each", "tctl tokens ls"),
    Command("tokens rm", "tctl_tokens:rm", "delete a join token", "tctl tokens rm TOKEN"),
    Command(
        "auth sign",
        "tctl_auth:sign",
        "sign certificates for a database server, or an identity file for a robot",
        "tctl auth sign --format=db --host=db.example.com --out=server --ttl=8760h\n"
        "tctl auth sign --format=file --user=robot --out=robot.pem --ttl=720h",
    ),
    Command("status", "tctl_status:status", "show the cluster, its authorities and the CA pin", "tctl status"),
    Command(
        "get", "tctl_resources:get", "print resources", "tctl get role/developer\ntctl get users,roles --format=json"
    ),
    Command(
        "create",
        "tctl_resources:create",
        "create resources from a YAML file of any number of documents",
        "tctl create -f role.yaml\ntctl create --force -f role.yaml",
    ),
    Command(
        "update",
        "tctl_resources:update",
        "change resources that are there, from a YAML file",
        "tctl update -f role.yaml",
    ),
    Command(
        "rm",
        "tctl_resources:rm",
        "delete a resource; a db_server is an agent, which loses its membership",
        "tctl rm role/developer\ntctl rm db_server/8b2c5c1e-3f3c-4f0e-9d2d-0a4d0a6f6a11",
    ),
    Command("edit", "tctl_resources:edit", "change a resource in your editor", "EDITOR=vi tctl edit role/developer"),
    Command(
        "access explain",
        "tctl_access:explain",
        "say why a user may or may not connect now: each role, locks, limits",
        "tctl access explain alice --db=aurora --db-user=postgres --db-name=metrics",
    ),
    Command(
        "access ls",
        "tctl_access:ls",
        "list the databases that are open to a user, with users and names",
        "tctl access ls alice\ntctl access ls alice --format=json",
    ),
    Command(
        "access test",
        "tctl_access:test",
        "run a file of expectations: who may connect where, and who may not",
        "tctl access test -f expectations.yaml\ntctl access test -f roles.yaml -f expectations.yaml",
    ),
    Command("db ls", "tctl_status:db_ls", "list the databases that agents serve", "tctl db ls"),
    Command(
        "audit ls",
        "tctl_audit:ls",
        "list what the audit log has, newest events first",
        "tctl audit ls --user=alice --since=24h\ntctl audit ls --event=db.session.query --format=jsonl",
    ),
    Command(
        "audit search",
        "tctl_audit:search",
        "find events in the audit log by their words",
        "tctl audit search drop table 'pay*' --since=720h",
    ),
    Command(
        "audit tail",
        "tctl_audit:tail",
        "print the newest events, and with -f what follows",
        "tctl audit tail -f --db=aurora",
    ),
    Command(
        "audit verify",
        "tctl_audit_verify:verify",
        "find out on the auth host whether the audit log was changed",
        "tctl audit verify\ntctl audit verify --checkpoint=/mnt/elsewhere/checkpoints",
    ),
    Command(
        "audit checkpoint",
        "tctl_audit_verify:checkpoint",
        "print a signed checkpoint of the audit log, to be kept elsewhere",
        "tctl audit checkpoint",
    ),
    Command(
        "audit export",
        "tctl_audit_export:export",
        "copy events to a file or to S3, oldest first; one that was interrupted goes on",
        "tctl audit export --out=audit.jsonl --since=720h\n"
        "tctl audit export --out=s3://bucket/audit.csv --format=csv --db=aurora",
    ),
    Command(
        "audit sinks",
        "tctl_audit_sinks:sinks",
        "list where the audit log is sent on to, and how far each of those is",
        "tctl audit sinks\ntctl audit sinks --check --format=json",
    ),
    Command(
        "lock",
        "tctl_status:lock",
        "cut the sessions of a user, a role, a database service or a host, and refuse new ones",
        'tctl lock --user=alice --message="under investigation" --ttl=8h\ntctl lock --db=orders --message=upgrade',
    ),
)

LATER = (
    ("auth rotate", "rotation of authorities comes in a later version"),
    ("auth export", "comes in a later version; tctl auth sign writes what a database server needs"),
    ("nodes", "SSH is not part of this system; databases are listed by tctl db ls"),
    ("apps", "application access is not part of this system"),
    ("requests", "access requests are not part of this system"),
    ("top", "metrics come in a later version"),
)


def global_arguments(parser: Parser) -> None:
    """The flags of every command: whom to call, and as whom."""
    group = parser.add_argument_group(
        "everywhere", "(without any of them: the auth service of this host, or tsh's login)"
    )
    group.add_argument("-c", "--config", metavar="FILE", help="configuration file of the auth service on this host")
    group.add_argument("--data-dir", metavar="DIR", help="data directory of the auth service on this host")
    group.add_argument("-i", "--identity", metavar="FILE", help="identity file, for use on other hosts")
    group.add_argument("--proxy", metavar="HOST[:PORT]", help="call through this proxy, with tsh's login for it")
    group.add_argument("--auth-server", metavar="HOST:PORT", help="call this address of the auth service or a proxy")
    group.add_argument("--insecure", action="store_true", help=SUPPRESS)
    group.add_argument("-d", "--debug", action="store_true", help=SUPPRESS)


PROGRAM = Program("tctl", "Teleport Database Access: administration.", COMMANDS, global_arguments, later=LATER)


def main(argv: list[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    return PROGRAM.main(argv)


if __name__ == "__main__":
    sys.exit(main())
