"""The contexts of an agent: made again when its credentials are new, or when too much is remembered."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.certs.tls import client_context
from teleport_db.services import dbservice
from teleport_db.services.hosts import HostCredentials
from tests.certs.handshakes import handshake
from tests.cluster import agent_pair, authority, proxy_pair

HOST_CA = authority("host").certificate_pem


def credentials() -> HostCredentials:
    return HostCredentials(
        host_id="agent-1",
        cluster="test",
        server=agent_pair("agent-1", True),
        client=agent_pair("agent-1", False),
        host_ca=HOST_CA,
        user_ca=b"",
        db_ca=b"",
        scope=None,
        expires=0.0,
    )


class ContextsTests(SynchronousTestCase):
    """What is kept, and until when."""

    def test_renewed(self) -> None:
        """New credentials have contexts of their own, so that no session of before is resumed; others keep theirs."""
        held = [credentials()]
        contexts = dbservice.TunnelContexts(lambda: held[-1])
        first = contexts()
        self.assertIs(contexts(), first)
        held.append(attrs.evolve(held[0]))
        self.assertIsNot(contexts().serving, first.serving)
        self.assertIsNot(contexts().tunnel, first.tunnel)

    def test_bounded(self) -> None:
        """A proxy that begins session after session has the agent forget them all, and nothing else."""
        self.patch(dbservice, "MAX_REMEMBERED", 3)
        held = credentials()
        contexts, proxy = dbservice.TunnelContexts(lambda: held), client_context(cas=[HOST_CA], pair=proxy_pair(False))
        first, open_ = contexts(), []  # one that ends without close_notify is forgotten at once
        for _ in range(3):
            open_.append(handshake(proxy, contexts().serving))
        self.assertIs(contexts(), first)
        open_.append(handshake(proxy, contexts().serving))
        second = contexts()
        self.assertIsNot(second.serving, first.serving)
        self.assertEqual(second.serving.session_stats()["number"], 0)
        self.assertIs(second.tunnel, first.tunnel)
        self.assertIs(contexts(), second)
