"""A host's events on their way to auth."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.api.sending import PIECE, sender
from teleport_db.audit.events import EncodedEvent
from teleport_db.audit.spooled import Batch


def batch(first: int, *events: EncodedEvent) -> Batch:
    lines = [f'{{"seq":{seq},"event":{event.json}}}\n' for seq, event in enumerate(events, first)]
    data = "".join(lines).encode()
    return Batch(first, data + b"more", len(lines), len(data))


class Sending(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def call(self, *arguments: Any) -> Deferred[dict[str, Any]]:
        self.calls.append(arguments)
        return succeed({"acknowledged": 8})

    def sent(self) -> Any:
        """The object of the one call."""
        ((method, path, body),) = self.calls
        self.assertEqual((method, path), ("POST", "/v1/audit"))
        said = b"".join(body)
        self.assertEqual(len(said), len(body))
        return json.loads(said)

    def test_batch(self) -> None:
        """A batch is one call; its answer is the number that auth has kept.  Events go as they are."""
        send = sender(self.call, lambda: "me")
        first = EncodedEvent('{"event": "db.session.end",   "server_id":"me"}')
        last = EncodedEvent('{"event":"db.session.end","x":"\\u001b","server_id":"me"}')
        self.assertEqual(self.successResultOf(send(batch(7, first, last))), 8)
        self.assertEqual(self.sent(), {"events": [{"seq": 7, "event": first}, {"seq": 8, "event": last}]})
        self.assertIn(first.json.encode() + b"}", b"".join(self.calls[0][2]))

    def test_joined_anew(self) -> None:
        """Events of before the host got another id are not stuck: they say who recorded them."""
        send = sender(self.call, lambda: "new")
        before = EncodedEvent('{"event":"db.session.end","server_id":"old"}')
        hidden = EncodedEvent('{"server_id":"old","parameters":{"a":"b","server_id":"new"}}')
        self.successResultOf(send(batch(1, before, hidden)))
        first, second = (entry["event"] for entry in self.sent()["events"])
        self.assertEqual(first, {"event": "db.session.end", "server_id": "new", "recorded_by": "old"})
        self.assertEqual((second["server_id"], second["recorded_by"]), ("new", "old"))
        self.assertEqual(before["server_id"], "old")

    def test_pieces(self) -> None:
        """A large batch is made while it is sent, to the byte as it would be in one."""
        send = sender(self.call, lambda: "me")
        for count in (1, 2, 300, 500):
            self.calls.clear()
            events = [EncodedEvent(f'{{"n":{n},"pad":"{"x" * 300}","server_id":"me"}}') for n in range(count)]
            made = batch(7, *events)
            self.successResultOf(send(made))
            body = self.calls[0][2]
            self.assertEqual(b"".join(body), b'{"events":[%b]}' % b",".join(made.lines))
            self.assertEqual(len(list(body)), 2 + (made.size - 2) // PIECE)
            self.assertLessEqual(max(map(len, body)), PIECE + 20)
