"""``tsh``: the command of people who use databases."""

from __future__ import annotations

import sys
from argparse import SUPPRESS

from teleport_db.cli.program import Command, Parser, Program

COMMANDS = (
    Command(
        "login",
        "tsh_login:login",
        "log in to a cluster",
        "tsh login --proxy=teleport.example.com:3080 --user=alice",
    ),
    Command("logout", "tsh_login:logout", "log out and remove keys and certificates", "tsh logout"),
    Command("status", "tsh_login:status", "say who is logged in, where and until when", "tsh status"),
    Command("passwd", "tsh_mfa:passwd", "change your password", "tsh passwd"),
    Command("mfa ls", "tsh_mfa:ls", "list your devices for one-time codes", "tsh mfa ls"),
    Command("mfa add", "tsh_mfa:add", "add a device for one-time codes", "tsh mfa add --name=phone"),
    Command("mfa rm", "tsh_mfa:rm", "remove a device", "tsh mfa rm phone"),
    Command(
        "mfa recovery-codes",
        "tsh_mfa:recovery_codes",
        "make new recovery codes, in the place of those that there are",
        "tsh mfa recovery-codes",
    ),
    Command("db ls", "tsh_db:ls", "list the databases that you may connect to", "tsh db ls -v"),
    Command(
        "db login",
        "tsh_db:login",
        "get a certificate for a database and set up its connection service",
        "tsh db login --db-user=alice --db-name=postgres aurora",
    ),
    Command(
        "db logout",
        "tsh_db:logout",
        "remove the certificate of a database, or of all",
        "tsh db logout aurora\ntsh db logout",
    ),
    Command("db env", "tsh_connect:env", "print environment variables for a database", 'eval "$(tsh db env aurora)"'),
    Command(
        "db config",
        "tsh_connect:config",
        "print how to connect to a database, for graphical clients and drivers",
        "tsh db config aurora\ntsh db config --format=cmd aurora\ntsh db config --key-der=key.der aurora",
    ),
    Command("db connect", "tsh_connect:connect", "run psql on a database", "tsh db connect --db-user=alice aurora"),
    Command(
        "sessions ls",
        "tsh_sessions:ls",
        "list your recorded sessions, or all with a role that may",
        "tsh sessions ls --limit=20",
    ),
    Command(
        "play",
        "tsh_sessions:play",
        "replay the statements of a recorded session",
        "tsh play SESSION\ntsh play --speed=4 --max-pause=1s SESSION",
    ),
)

LATER = (
    ("clusters", "trusted clusters come in a later version"),
    ("ssh", "SSH is not part of this system"),
    ("scp", "SSH is not part of this system"),
    ("ls", "SSH is not part of this system; databases are listed by tsh db ls"),
    ("app", "application access is not part of this system"),
    ("kube", "Kubernetes access is not part of this system"),
)


def global_arguments(parser: Parser) -> None:
    """The flags of every command."""
    group = parser.add_argument_group("everywhere")
    group.add_argument("--proxy", metavar="HOST[:PORT]", help="the proxy to use (port 3080 unless given)")
    group.add_argument("-i", "--identity", metavar="FILE", help="use an identity file instead of a login")
    group.add_argument("--insecure", action="store_true", help="do not verify the proxy's web certificate")
    group.add_argument("-d", "--debug", action="store_true", help=SUPPRESS)


PROGRAM = Program("tsh", "Teleport Database Access: log in and connect.", COMMANDS, global_arguments, later=LATER)


def main(argv: list[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    return PROGRAM.main(argv)


if __name__ == "__main__":
    sys.exit(main())
