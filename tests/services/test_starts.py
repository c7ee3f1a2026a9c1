"""What the audit log hears of a process's starts and ends, and of its configuration."""

from __future__ import annotations

import os
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config.model import (
    Address,
    AuthService,
    Config,
    Database,
    DatabaseService,
    ProxyService,
    StaticToken,
    Teleport,
)
from teleport_db.errors import AuditUnavailable
from teleport_db.services.starts import MAX_CHANGES, Starts


class StartsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.failure: Exception | None = None
        self.config = Config(
            teleport=Teleport(nodename="node", data_dir=os.path.abspath(self.mktemp())),
            proxy=ProxyService(enabled=False),
        )

    async def record(self, event: str, **fields: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.events.append((event, fields))

    def life(self, config: Config | None = None, *, stops: bool = True) -> list[tuple[str, dict[str, Any]]]:
        """Start and end; the events."""
        self.events = []
        starts = Starts(config or self.config, self.record)
        self.successResultOf(Deferred.fromCoroutine(starts.started()))
        if stops:
            self.successResultOf(Deferred.fromCoroutine(starts.stopped()))
        return self.events

    def test_lives(self) -> None:
        """A start and a stop; a start behind no stop says so."""
        start, stop = self.life(stops=False)[0], ("service.stop", {"services": ["auth"], "node_name": "node"})
        self.assertEqual(
            (start[0], start[1]["services"], "after_crash" in start[1]), ("service.start", ["auth"], False)
        )
        start, *rest = self.life()
        self.assertEqual((start[1]["after_crash"], rest), (True, [stop]))
        self.assertNotIn("after_crash", self.life()[0][1])

    def test_changes(self) -> None:
        """The first start has nothing to compare with; then each change is told once."""
        self.assertEqual([name for name, _ in self.life()], ["service.start", "service.stop"])
        other = attrs.evolve(self.config, auth=AuthService(client_idle_timeout=60.0))
        changed, start, _ = self.life(other)
        self.assertEqual((changed[0], start[0]), ("config.update", "service.start"))
        expected = [{"key": "auth_service.client_idle_timeout", "from": "0.0", "to": "60.0"}]
        self.assertEqual(changed[1]["changes"], expected)
        self.assertEqual(len(self.life(other)), 2)
        tokens = attrs.evolve(other, auth=attrs.evolve(other.auth, tokens=(StaticToken(("db",), "geheim"),)))
        self.assertEqual(self.life(tokens)[0][1]["changes"][0]["key"], "auth_service.tokens")
        (name,) = os.listdir(os.path.join(self.config.teleport.data_dir, "starts"))
        path = os.path.join(self.config.teleport.data_dir, "starts", name)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        with open(path, encoding="ascii") as file:
            self.assertNotIn("geheim", file.read())

    def test_many(self) -> None:
        """An event stays of a size; how many there were is said."""
        self.life()
        labels = {f"l{number}": "x" for number in range(MAX_CHANGES + 5)}
        databases = (Database("a", Address("db", 1), static_labels=labels),)
        found = self.life(attrs.evolve(self.config, db=DatabaseService(enabled=True, databases=databases)))[0][1]
        self.assertEqual(len(found["changes"]), MAX_CHANGES)
        self.assertGreater(found["more"], 5)

    def test_not_recorded(self) -> None:
        """What could not be recorded is told at the next start; the process goes on."""
        self.life()
        other = attrs.evolve(self.config, auth=AuthService(client_idle_timeout=60.0))
        self.failure = AuditUnavailable()
        self.life(other)
        self.assertEqual(len(self.flushLoggedErrors(AuditUnavailable)), 2)
        self.failure = None
        self.assertEqual(self.life(other)[0][0], "config.update")

    def test_damaged(self) -> None:
        """A file that cannot be read is no reason not to start."""
        self.life()
        path = os.path.join(self.config.teleport.data_dir, "starts", "auth.json")
        for damage in ("{", "[]", '{"salt": "x"}', '{"salt": "00", "running": true, "settings": [1]}'):
            with open(path, "w", encoding="ascii") as file:
                file.write(damage)
            self.assertEqual([name for name, _ in self.life()], ["service.start", "service.stop"], damage)
