"""Databases that come and go while the agent runs: what is announced, whose sessions end, whose name it is."""

from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config.model import Database, DynamicLabel
from teleport_db.config.values import Address
from teleport_db.db.agent import CONFIGURATION
from teleport_db.db.serving import Serving
from tests.cluster import HOST, dev_role
from tests.db import test_agent
from tests.db.test_agent import AgentCase

ONE = Database("one", Address("one.example", 5432), static_labels={"env": "dev"})
TWO = Database("two", Address("two.example", 5432))


class ServingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.commands: list[tuple[str, ...]] = []
        self.serving = Serving(run=self.run_command, clock=self.clock, changed=lambda: None)

    def run_command(self, command: tuple[str, ...]) -> Deferred[Any]:
        self.commands.append(command)
        return succeed(b"printed\n")

    def names(self) -> list[str]:
        return sorted(self.serving.served)

    def test_sources(self) -> None:
        """What a source says replaces what it said before, and touches no other source's."""
        self.assertEqual(self.serving.replace("a", [ONE]), frozenset())
        self.serving.replace("b", [TWO])
        self.assertEqual(self.names(), ["one", "two"])
        self.assertEqual(self.serving.replace("b", []), {"two"})
        self.assertEqual(self.names(), ["one"])

    def test_name_taken(self) -> None:
        """Who was there first keeps the name; when it goes, the other gets it, which is another database."""
        other = attrs.evolve(TWO, name="one")
        self.serving.replace("a", [ONE])
        self.assertEqual(self.serving.replace("b", [other]), frozenset())
        self.assertIs(self.serving.served["one"].database, ONE)
        self.assertEqual(self.serving.replace("a", []), {"one"})
        self.assertIs(self.serving.served["one"].database, other)

    def test_labels_only(self) -> None:
        """Labels and description may change below a session; where it leads may not."""
        self.serving.replace("a", [ONE])
        changed = attrs.evolve(ONE, description="new", static_labels={"env": "prod"})
        self.assertEqual(self.serving.replace("a", [changed]), frozenset())
        self.assertEqual(self.serving.served["one"].labels(), {"env": "prod"})
        moved = attrs.evolve(changed, uri=Address("elsewhere.example", 5432))
        self.assertEqual(self.serving.replace("a", [moved]), {"one"})

    def test_dynamic_labels(self) -> None:
        """Commands run from the start of the agent until their database goes."""
        labelled = attrs.evolve(ONE, dynamic_labels={"v": DynamicLabel(("version",), 10.0)})
        self.serving.replace("a", [labelled])
        self.assertEqual(self.commands, [])
        self.serving.start()
        self.assertEqual(self.serving.served["one"].labels(), {"env": "dev", "v": "printed"})
        self.serving.replace("b", [attrs.evolve(labelled, name="two")])
        self.assertEqual(len(self.commands), 2)
        self.serving.replace("b", [])
        self.clock.advance(10)
        self.assertEqual(len(self.commands), 3)
        self.serving.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AgentTests(AgentCase):
    def test_announced(self) -> None:
        """Proxies and auth hear of a database that comes, and of one that goes."""
        self.start()
        self.agent.serve("discovery", [ONE])
        self.cluster.pass_time(1)
        self.assertEqual([one["name"] for one in self.auth.presence], ["aurora", "one"])
        self.assertEqual(self.auth.presence[1]["labels"], {"env": "dev"})
        self.agent.serve("discovery", [])
        self.cluster.pass_time(1)
        self.assertEqual([one["name"] for one in self.auth.presence], ["aurora"])

    def test_sessions(self) -> None:
        """The sessions of a database that is gone are told and ended; those of others go on."""
        self.start()
        client = self.cluster.session()
        client.query()
        self.agent.serve("discovery", [ONE])
        self.agent.serve("discovery", [])
        self.cluster.settle()
        self.assertEqual(self.agent.session_count, 1)
        self.agent.serve(CONFIGURATION, [])
        self.cluster.settle()
        self.assertEqual(client.error["C"], "57P01")
        self.assertIn("is not served here any more", client.error["M"])
        self.assertEqual((self.agent.session_count, self.offered()), (0, 0))

    def test_labels_change(self) -> None:
        """A session that the roles would not let in with the new labels is ended."""
        self.patch(test_agent, "dev_role", lambda: dev_role(db_labels={"env": "test"}))
        self.start()
        client = self.cluster.session()
        client.query()
        self.agent.serve(CONFIGURATION, [Database("aurora", Address(HOST, 5432), static_labels={"env": "other"})])
        self.cluster.settle()
        self.assertEqual((client.error["C"], self.agent.session_count), ("57P01", 0))
