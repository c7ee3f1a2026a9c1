"""What is refused is in the audit log, and fills it for nobody."""

from __future__ import annotations

from typing import Any

from teleport_db.auth.failures import LIMIT
from teleport_db.auth.refusals import A_MINUTE, SAME_SECONDS
from teleport_db.errors import AccessDenied, AuthenticationFailed, LimitExceeded, NotFound, TeleportDBError
from tests.auth.support import STATIC_TOKEN, AuthCase, Key


class RefusalTests(AuthCase):
    """Through the API."""

    def refused(self, code: str) -> list[dict[str, Any]]:
        return [dict(event) for event in self.audit.events if event["code"] == code]

    async def join(self, token: str, **more: Any) -> TeleportDBError:
        body = {"token": token, "roles": ["db"], "public_key": Key().public, "name": "node1", **more}
        return await self.assertFailure(self.call("POST", "/v1/join", body, by=None), AccessDenied)

    async def test_joins(self) -> None:
        """With the reason, the host's name for itself and its address; nothing of the token that was shown."""
        error = await self.join("a-token-that-is-none")
        await self.join(STATIC_TOKEN, roles=["auth"])
        first, second = self.refused("TJ002E")
        self.assertEqual((first["error"], first["node_name"]), (error.public, "node1"))
        self.assertEqual((first["addr.remote"], first["success"]), ("192.168.1.1", False))
        self.assertIn("auth", second["error"])
        self.assertNotIn("a-token", str(self.audit.events))

    async def test_used(self) -> None:
        """A join says with which token, by the name that listings have for it."""
        made = await self.call("POST", "/v1/tokens", {"roles": ["db"]})
        created = self.audit.events[-1]["name"]
        body = {"token": made["token"], "roles": ["db"], "public_key": Key().public}
        await self.call("POST", "/v1/join", body, by=None)
        self.assertEqual(self.audit.events[-1]["token"], created)
        await self.call("POST", "/v1/join", {**body, "token": STATIC_TOKEN, "public_key": Key().public}, by=None)
        self.assertNotIn("token", self.audit.events[-1])

    async def test_same(self) -> None:
        """The same again is counted, and told with the next."""
        for _ in range(5):
            await self.join("a-token-that-is-none")
        self.assertEqual(len(self.refused("TJ002E")), 1)
        self.clock.advance(SAME_SECONDS)
        await self.join("a-token-that-is-none")
        self.assertEqual([event.get("repeated") for event in self.refused("TJ002E")], [None, 4])

    async def test_strangers(self) -> None:
        """Strangers fill nothing, whatever they call themselves; others are heard nevertheless."""
        for number in range(A_MINUTE + 20):
            await self.join("a-token-that-is-none", name=f"node{number}")
        self.assertEqual(len(self.refused("TJ002E")), A_MINUTE)
        await self.add_user("dave")
        await self.assertFailure(self.call("GET", "/v1/tokens", by=self.user("dave")), AccessDenied)
        self.assertEqual(len(self.refused("T3007W")), 1)
        self.clock.advance(60)
        await self.join("a-token-that-is-none", name="later")
        self.assertEqual(len(self.refused("TJ002E")), A_MINUTE + 1)

    async def test_certificates(self) -> None:
        """A certificate that counts no more is refused by name; who shows none is nobody."""
        await self.assertFailure(self.call("GET", "/v1/tokens", by=None), AuthenticationFailed)
        await self.assertFailure(self.call("GET", "/v1/status", by=self.user("nobody")), AuthenticationFailed)
        (event,) = self.refused("T3007W")
        self.assertEqual((event["user"], event["method"]), ("nobody", "GET /v1/status"))
        self.assertIn("does not exist", event["error"])
        old = self.user("alice", ttl=60)
        self.clock.advance(61)
        await self.assertFailure(self.call("GET", "/v1/status", by=old), AuthenticationFailed)
        self.assertEqual(self.refused("T3007W")[-1]["user"], "alice")
        self.assertIn("expired", self.refused("T3007W")[-1]["error"])
        await self.assertFailure(self.call("PUT", "/v1/presence", {}, by=self.proxy), AccessDenied)
        self.assertIn("proxy", self.refused("T3007W")[-1]["error"])

    async def test_many_failures(self) -> None:
        """Each failed login is there; those that were not looked at any more are one event."""
        await self.add_user()
        for _ in range(LIMIT):
            await self.assertFailure(self.login(password="wrong"), AuthenticationFailed)
        for _ in range(3):
            await self.assertFailure(self.login(), LimitExceeded)
        errors = [event["error"] for event in self.refused("T1000W")]
        self.assertEqual(len(errors), LIMIT + 1)
        self.assertIn("too many", errors[-1])
        self.assertEqual(self.refused("T1000W")[-1]["addr.remote"], "192.0.2.7")
        self.assertEqual(self.refused("T3007W"), [])

    async def test_links(self) -> None:
        """A link that is nobody's, or counts no more: whose it was, where that is known."""
        await self.add_user("alice")
        made = await self.call("POST", "/v1/users/alice/reset", {})
        newer = await self.call("POST", "/v1/users/alice/reset", {})
        for link in ("nobody-s-link", made["token"]):
            await self.assertFailure(self.call("GET", f"/v1/invites/{link}", by=self.proxy), NotFound)
        body = {"password": "correct horse", "client_address": "192.0.2.9"}
        await self.call("POST", f"/v1/invites/{newer['token']}", body, by=self.proxy)
        await self.assertFailure(self.call("POST", f"/v1/invites/{newer['token']}", body, by=self.proxy), NotFound)
        found = [(event["user"], event["addr.remote"]) for event in self.refused("T1005W")]
        self.assertEqual(found, [("", "192.168.1.1"), ("alice", "192.168.1.1"), ("alice", "192.0.2.9")])

    async def test_not_recorded(self) -> None:
        """Where it cannot be recorded the call is refused all the same."""
        await self.add_user("dave")
        self.audit.failure = TeleportDBError("full")
        await self.assertFailure(self.call("GET", "/v1/tokens", by=self.user("dave")), TeleportDBError)
