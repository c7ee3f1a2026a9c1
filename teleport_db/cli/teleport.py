"""``teleport``: the services."""

from __future__ import annotations

import sys

from teleport_db.cli.program import Command, Parser, Program

COMMANDS = (
    Command(
        "start",
        "teleport_start:start",
        "start the services of this host",
        "teleport start --config=/etc/teleport.yaml\n"
        "teleport start --roles=db --token=TOKEN --ca-pin=sha256:... --auth-server=teleport.example.com:3080 \\\n"
        "   --db-name=test --db-protocol=postgres --db-uri=db.example.com:5432 --labels=env=test",
    ),
    Command("configure", "teleport_start:configure", "print a sample configuration file", "teleport configure"),
    Command(
        "db configure create",
        "teleport_configure:create",
        "print a configuration file of a database service, for the flags given",
        "teleport db configure create --name=aurora --proxy=teleport.example.com:3080 --token=/etc/teleport.token \\\n"
        "   --uri=aurora.cluster-abcdefghijkl.us-west-1.rds.amazonaws.com:5432 --labels=env=dev -o /etc/teleport.yaml\n"
        "teleport db configure create --rds-discovery=us-west-1,us-east-1 --rds-tags=env=dev",
    ),
    Command(
        "db configure bootstrap",
        "teleport_aws:bootstrap",
        "make the IAM policy that logins to RDS and Aurora need, and attach it",
        "teleport db configure bootstrap --config=/etc/teleport.yaml --attach-to-role=teleport\n"
        "teleport db configure bootstrap --config=/etc/teleport.yaml --manual",
    ),
    Command(
        "db configure aws print-iam",
        "teleport_aws:print_iam",
        "print that policy",
        "teleport db configure aws print-iam --uri=aurora.cluster-abcdefghijkl.us-west-1.rds.amazonaws.com:5432\n"
        "teleport db configure aws print-iam --config=/etc/teleport.yaml --name=aurora --db-user=alice",
    ),
    Command(
        "db configure aws check",
        "teleport_aws:check",
        "walk the steps to a database of RDS or Aurora and say which is missing",
        "teleport db configure aws check --config=/etc/teleport.yaml --db-user=alice",
    ),
)

LATER = (
    ("status", "it belongs to SSH sessions; tctl status shows the cluster"),
    ("exec", "SSH is not part of this system"),
    ("app", "application access is not part of this system"),
    (
        "db start",
        "databases are given to teleport start, by flags (--roles=db --db-name ...) or in the configuration file",
    ),
)


def global_arguments(parser: Parser) -> None:
    """The flags of every command."""
    parser.add_argument("-d", "--debug", action="store_true", help="log what happens in detail")


PROGRAM = Program("teleport", "Teleport Database Access: the services.", COMMANDS, global_arguments, later=LATER)


def main(argv: list[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    return PROGRAM.main(argv)


if __name__ == "__main__":
    sys.exit(main())
