"""What the audit log says of agents that come and go."""

from __future__ import annotations

from typing import Any

from teleport_db.auth.presence import TTL
from teleport_db.errors import TeleportDBError
from tests.auth.support import AuthCase, Key


class AttendanceTests(AuthCase):
    """Through the API, as agents announce themselves."""

    def told(self) -> list[tuple[str, Any]]:
        """Each event of an agent's coming and going: its code, and the reason or the databases."""
        names = ("instance.up", "instance.down")
        found = [event for event in self.audit.events if event["event"] in names]
        return [(event["code"], event.get("reason", event["databases"])) for event in found]

    async def announce(self, agent: bytes, *names: str) -> None:
        databases = [{"name": name, "uri": "db:5432"} for name in names]
        await self.call("PUT", "/v1/presence", {"databases": databases}, by=agent)

    async def test_up_and_down(self) -> None:
        """Once when it comes, however often it announces what; once when it says that it goes."""
        agent = self.host("db")
        await self.call("DELETE", "/v1/presence", by=agent)
        for names in (("a", "b"), ("a", "b"), ("a",)):
            await self.announce(agent, *names)
        self.assertEqual(self.told(), [("TJ091I", ["a", "b"])])
        for _ in range(2):
            await self.call("DELETE", "/v1/presence", by=agent)
        self.assertEqual(self.told()[1:], [("TJ092I", "left")])
        self.assertEqual(self.audit.events[-1]["databases"], ["a"])
        await self.announce(agent, "a")
        self.assertEqual(self.told()[2:], [("TJ091I", ["a"])])

    async def test_lost(self) -> None:
        """Who is not heard of any more, also over a restart of auth, which is no news by itself."""
        one, other = self.host("db"), self.host("db")
        await self.announce(one, "a")
        await self.announce(other, "b")
        silent = [event["server_id"] for event in self.audit.events if event["event"] == "instance.up"]
        server = await self.start()
        await self.announce(one, "a")
        self.clock.advance(TTL + 1)
        for _ in range(2):
            await server.presence.attendance.silent({silent[0]})
        self.assertEqual([code for code, _ in self.told()], ["TJ091I", "TJ091I", "TJ092W"])
        self.assertEqual(self.told()[-1], ("TJ092W", "lost"))
        self.assertEqual(self.audit.events[-1]["server_id"], silent[1])
        await self.announce(other, "b")
        self.assertEqual(self.told()[-1], ("TJ091I", ["b"]))

    async def test_removed(self) -> None:
        """By an administrator."""
        made = await self.call("POST", "/v1/tokens", {"roles": ["db"]})
        body = {"token": made["token"], "roles": ["db"], "public_key": Key().public}
        joined = await self.call("POST", "/v1/join", body, by=None)
        await self.announce(joined["client_certificate"].encode(), "a")
        await self.call("DELETE", f"/v1/resources/db_server/{joined['host_id']}")
        self.assertEqual(self.told(), [("TJ091I", ["a"]), ("TJ092I", "removed")])

    async def test_not_recorded(self) -> None:
        """What could not be recorded is recorded with the next announcement."""
        agent = self.host("db")
        self.audit.failure = TeleportDBError("full")
        await self.assertFailure(self.call("PUT", "/v1/presence", {"databases": []}, by=agent), TeleportDBError)
        self.audit.failure = None
        await self.announce(agent)
        self.assertEqual(self.told(), [("TJ091I", [])])
