"""``teleport``: flags and file into one configuration, refusals, the sample."""

from __future__ import annotations

import os
from pathlib import Path

from teleport_db.cli import teleport, teleport_start
from teleport_db.config import parse
from tests.cli.support import CommandTestCase

GUIDE = """\
teleport:
  data_dir: /var/lib/teleport-db
  nodename: test
  auth_token: cbdeeab9-6f88-436d-a673-44d14bd86bb7
  auth_servers:
  - teleport.example.com:3080
db_service:
  enabled: "yes"
  databases:
  - name: "aurora"
    protocol: "postgres"
    uri: "db.example.com:5432"
auth_service:
  enabled: "no"
ssh_service:
  enabled: "no"
proxy_service:
  enabled: "no"
"""


def merged(*flags: str):  # type: ignore[no-untyped-def]
    """The configuration of a ``teleport start`` with these flags."""
    program = teleport.PROGRAM
    command, rest, _ = program.find(["start", *flags])
    assert command is not None
    declare, _ = command.load()
    arguments = program.parser(command, declare).parse_args(rest)
    arguments.program = program
    return teleport_start.merged(arguments)


class MergeTests(CommandTestCase):
    """What ``start`` hands to the services."""

    def setUp(self) -> None:
        super().setUp()
        self.file = Path(self.mktemp())
        self.file.write_text(GUIDE)
        self.patch(teleport_start, "CONFIG_FILE", os.devnull + "x")

    def test_guide_flags(self) -> None:
        """The guide's command of a database service."""
        config = merged(
            "--debug",
            "--roles=db",
            "--token=cbdeeab9-6f88-436d-a673-44d14bd86bb7",
            "--auth-server=teleport.example.com:3080",
            "--db-name=test",
            "--db-protocol=postgres",
            "--db-uri=db.example.com:5432",
            "--labels=env=test",
            "--ca-pin=sha256:" + "0" * 64,
            "--insecure",
        )
        self.assertEqual((config.auth.enabled, config.proxy.enabled, config.db.enabled), (False, False, True))
        self.assertEqual((config.debug, config.insecure), (True, True))
        (database,) = config.db.databases
        self.assertEqual((database.name, str(database.uri)), ("test", "db.example.com:5432"))
        self.assertEqual(dict(database.static_labels), {"env": "test"})
        self.assertEqual([str(address) for address in config.teleport.auth_servers], ["teleport.example.com:3080"])
        self.assertEqual(config.teleport.ca_pin, ("sha256:" + "0" * 64,))

    def test_flags_over_file(self) -> None:
        """A flag wins; the rest is the file's."""
        config = merged("-c", str(self.file), "--nodename=other", "--data-dir=/d", "--pid-file=/p", "--diag-addr=:3000")
        self.assertEqual((config.teleport.nodename, config.teleport.data_dir), ("other", "/d"))
        self.assertEqual((config.teleport.pid_file, str(config.teleport.diag_addr)), ("/p", "0.0.0.0:3000"))
        self.assertEqual(config.db.databases[0].name, "aurora")

    def test_refusals(self) -> None:
        """One line each, by the flag's name; exit code 2."""
        for flags, said in (
            (["--roles=auth,unicorn"], "--roles"),
            (["--roles=db", "--db-name=A_B", "--db-uri=a:1"], "--db-name"),
            (["--roles=db", "--db-name=a", "--db-uri=a"], "--db-uri"),
            (["--ca-pin=abc"], "--ca-pin"),
            (["--app-name=x"], "--app-name: application access"),
            (["--unknown-flag"], "--unknown-flag"),
            (["extra"], "extra"),
        ):
            self.fails(self.run_program("teleport", "start", *flags), said, code=2)

    def test_broken_file(self) -> None:
        """The file's line, and exit code 1."""
        (self.home / "t.yaml").write_text("auth_service:\n  lisen_addr: x\n")
        said = self.fails(self.run_program("teleport", "start", "-c", "t.yaml"), "t.yaml:2", "listen_addr?")
        self.assertEqual(len(said.splitlines()), 1)
        self.fails(self.run_program("teleport", "start", "-c", "none.yaml"), "none.yaml")

    def test_whole(self) -> None:
        """What only the whole shows is refused before anything starts."""
        result = self.run_program("teleport", "start", "--roles=db", "--db-name=a", "--db-uri=b:1")
        self.assertNotEqual(result.code, 0)
        self.assertIn("auth_servers", result.err)

    def test_configure(self) -> None:
        """The sample reads as a configuration; a file that is there is not written over."""
        text = self.succeeds(self.run_program("teleport", "configure"))
        parse(text, "sample")
        self.succeeds(self.run_program("teleport", "configure", "-o", "sample.yaml"))
        self.assertEqual((self.home / "sample.yaml").read_text(), text)
        self.fails(self.run_program("teleport", "configure", "-o", "sample.yaml"), "sample.yaml")
