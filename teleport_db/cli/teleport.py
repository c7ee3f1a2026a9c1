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
)

LATER = (
    ("status", "it belongs to SSH sessions; tctl status shows the cluster"),
    ("exec", "SSH is not part of this system"),
    ("app", "application access is not part of this system"),
    ("db", "databases are given to teleport start, by flags or in the configuration file"),
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
