"""Join tokens that work several times."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from teleport_db.auth.tokens import MAX_USES
from teleport_db.errors import AccessDenied, BadRequest
from tests.auth.support import Key
from tests.auth.test_joining import JoinCase


class UsesTests(JoinCase):
    """``--uses``."""

    async def listed(self) -> list[Any]:
        """Uses, and uses left, of each dynamic token."""
        items = (await self.call("GET", "/v1/tokens"))["items"]
        return [(item["uses"], item["uses_left"]) for item in items if not item["static"]]

    async def arrive(self, answer: dict[str, Any]) -> None:
        """The host of this answer shows its certificate."""
        await self.call("PUT", "/v1/presence", {"databases": []}, by=answer["client_certificate"].encode())

    async def test_security_row_11_uses_at_once(self) -> None:
        """Of twelve hosts that come at once with a token for five, five join, as five hosts."""
        token = await self.token(uses=5, databases=["aurora"])
        results = await DeferredList([self.join(token) for _ in range(12)], consumeErrors=True)
        joined = [answer for ok, answer in results if ok]
        self.assertEqual(len({answer["host_id"] for answer in joined}), 5)
        self.assertEqual({tuple(answer["scope"]) for answer in joined}, {("aurora",)})
        self.assertEqual({failure.type for ok, failure in results if not ok}, {AccessDenied})
        self.assertEqual(await self.listed(), [])

    async def test_security_row_11_repetition_at_once(self) -> None:
        """Hosts that ask twice at once, each with its own key, use a token up once each."""
        token, keys = await self.token(uses=3), [Key() for _ in range(3)]
        results = await DeferredList([self.join(token, key) for key in keys * 4], consumeErrors=True)
        self.assertTrue(all(ok for ok, _ in results), results)
        self.assertEqual(len({str(answer) for _, answer in results}), 3)
        await self.assertFailure(self.join(token), AccessDenied)

    async def test_security_row_11_bound_to_its_key(self) -> None:
        """A lost answer is repeated for its key until its host has arrived; after that the key joins no more."""
        token, keys = await self.token(uses=2), [Key(), Key()]
        first, second = [await self.join(token, key) for key in keys]
        self.assertEqual([await self.join(token, key) for key in keys], [first, second])
        await self.arrive(first)
        await self.assertFailure(self.join(token, keys[0]), AccessDenied)
        self.assertEqual(await self.join(token, keys[1]), second)
        await self.arrive(second)
        await self.assertFailure(self.join(token, keys[1]), AccessDenied)
        self.assertEqual(await self.server.backend.range("/token/"), [])

    async def test_arrived_and_left(self) -> None:
        """Who has arrived with a token that has uses left cannot take another one of them."""
        token, key = await self.token(uses=3), Key()
        await self.arrive(await self.join(token, key))
        await self.assertFailure(self.join(token, key), AccessDenied)
        self.assertEqual(await self.listed(), [(3, 2)])
        self.assertNotIn("certificate", str(await self.server.backend.range("/token/")))
        await self.join(token)

    async def test_arrivals_at_once(self) -> None:
        """When all that it let in have arrived, in whatever order, the token is gone."""
        token = await self.token(uses=4)
        answers = [await self.join(token) for _ in range(4)]
        await DeferredList([Deferred.fromCoroutine(self.arrive(answer)) for answer in answers], fireOnOneErrback=True)
        self.assertEqual(await self.server.backend.range("/token/"), [])

    async def test_listed(self) -> None:
        """A listing says how many are left; one that is removed lets nobody in any more."""
        token = await self.token(uses=3)
        await self.join(token)
        self.assertEqual(await self.listed(), [(3, 2)])
        (static,) = [one for one in (await self.call("GET", "/v1/tokens"))["items"] if one["static"]]
        self.assertEqual((static["uses"], static["uses_left"]), (None, None))
        await self.call("DELETE", f"/v1/tokens/{token}")
        await self.assertFailure(self.join(token), AccessDenied)

    async def test_numbers(self) -> None:
        """Uses are whole, one at least and a hundred at most; a resource has them too."""
        for uses in (0, -1, 1.5, "3", True, MAX_USES + 1):
            await self.assertFailure(self.token_of(uses), BadRequest)
        spec = {"roles": ["db"], "uses": 2}
        resource = {"kind": "token", "version": "v2", "metadata": {"name": "made-with-tctl"}, "spec": spec}
        await self.call("POST", "/v1/resources/token", resource)
        await self.join("made-with-tctl")
        await self.join("made-with-tctl")
        await self.assertFailure(self.join("made-with-tctl"), AccessDenied)

    def token_of(self, uses: object) -> Any:
        return self.call("POST", "/v1/tokens", {"roles": ["db"], "uses": uses})
