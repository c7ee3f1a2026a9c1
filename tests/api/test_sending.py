"""A host's events on their way to auth."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.api.sending import sender


class Sending(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def call(self, *arguments: Any) -> Deferred[dict[str, Any]]:
        self.calls.append(arguments)
        return succeed({"acknowledged": 8})

    def test_batch(self) -> None:
        """A batch is one call; its answer is the number that auth has kept."""
        send = sender(self.call, lambda: "me")
        event = {"event": "db.session.end", "server_id": "me"}
        self.assertEqual(self.successResultOf(send([(7, event), (8, event)])), 8)
        events = [{"seq": 7, "event": event}, {"seq": 8, "event": event}]
        self.assertEqual(self.calls, [("POST", "/v1/audit", {"events": events})])

    def test_joined_anew(self) -> None:
        """Events of before the host got another id are not stuck: they say who recorded them."""
        send = sender(self.call, lambda: "new")
        before = {"event": "db.session.end", "server_id": "old"}
        self.successResultOf(send([(1, before)]))
        sent = self.calls[0][2]["events"][0]["event"]
        self.assertEqual(sent, {"event": "db.session.end", "server_id": "new", "recorded_by": "old"})
        self.assertEqual(before["server_id"], "old")
