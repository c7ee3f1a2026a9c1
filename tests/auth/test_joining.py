"""Join tokens and hosts."""

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from teleport_db.certs.keys import der, load_certificate
from teleport_db.certs.tls import peer_identity, verify_name
from teleport_db.errors import AccessDenied, AlreadyExists, BadRequest, NotFound
from teleport_db.identity import Identity
from tests.auth.support import NOW, STATIC_TOKEN, AuthCase, Key


class JoinCase(AuthCase):
    """Joins anonymously."""

    def join(
        self, token: str, key: Key | None = None, roles: Sequence[str] = ("db",), **more: Any
    ) -> "Deferred[dict[str, Any]]":
        body = {"token": token, "roles": list(roles), "public_key": (key or Key()).public, "name": "node1", **more}
        return self.call("POST", "/v1/join", body, by=None)

    async def token(self, **more: Any) -> str:
        return str((await self.call("POST", "/v1/tokens", {"roles": ["db"], **more}))["token"])

    def identity(self, answer: dict[str, Any]) -> Identity:
        return peer_identity(
            der(load_certificate(answer["client_certificate"].encode())),
            user_ca=answer["user_ca"].encode(),
            host_ca=answer["host_ca"].encode(),
            now=self.clock.seconds(),
        )


class JoinTests(JoinCase):
    """What a token opens."""

    async def test_dynamic(self) -> None:
        """A host gets two certificates in its own name, with the token's scope."""
        token = await self.token(databases=["aurora", "dev"])
        answer = await self.join(token)
        identity = self.identity(answer)
        self.assertEqual((identity.kind, identity.roles, identity.scope), ("host", ("db",), ("aurora", "dev")))
        self.assertEqual(identity.name, answer["host_id"])
        self.assertEqual(answer["scope"], ["aurora", "dev"])
        verify_name(der(load_certificate(answer["server_certificate"].encode())), f"{answer['host_id']}.example")
        self.assertEqual(self.audit.codes()[-2:], ["TJT00I", "TJ002I"])

    async def test_security_row_11_once(self) -> None:
        """The key that redeemed a token gets the same answer again, nobody else gets one."""
        token, key = await self.token(), Key()
        first = await self.join(token, key)
        self.assertEqual(await self.join(token, key), first)
        await self.assertFailure(self.join(token), AccessDenied)
        self.assertEqual(self.audit.codes().count("TJ002I"), 1)

    async def test_security_row_11_parallel(self) -> None:
        """Of twenty hosts with one token one joins."""
        token = await self.token()
        results = await DeferredList([self.join(token) for _ in range(20)], consumeErrors=True)
        self.assertEqual([ok for ok, _ in results].count(True), 1)
        self.assertEqual({failure.type for ok, failure in results if not ok}, {AccessDenied})

    async def test_security_row_11_parallel_repetition(self) -> None:
        """One host that asks ten times at once is one host."""
        token, key = await self.token(), Key()
        results = await DeferredList([self.join(token, key) for _ in range(10)], consumeErrors=True)
        self.assertEqual(len({str(answer) for _, answer in results}), 1)
        self.assertTrue(all(ok for ok, _ in results))

    async def test_security_row_11_who_has_joined(self) -> None:
        """Once the host has shown its certificate the token is over for its key, too."""
        token, key = await self.token(), Key()
        answer = await self.join(token, key)
        await self.call("PUT", "/v1/presence", {"databases": []}, by=answer["client_certificate"].encode())
        await self.assertFailure(self.join(token, key), AccessDenied)

    async def test_security_row_11_restart_between(self) -> None:
        """A restart after the redemption leaves the answer to its key."""
        token, key = await self.token(), Key()
        first = await self.join(token, key)
        await self.server.backend.delete(f"/host/{first['host_id']}")
        await self.start()
        self.assertEqual(await self.join(token, key), first)
        await self.server.backend.get(f"/host/{first['host_id']}")

    async def test_expired_and_unknown(self) -> None:
        """Unknown, expired and removed tokens are one answer."""
        token = await self.token(ttl=60)
        other = await self.token()
        await self.call("DELETE", f"/v1/tokens/{other}")
        self.clock.advance(60)
        texts = {(await self.assertFailure(self.join(bad), AccessDenied)).public for bad in (token, other, "unknown")}
        self.assertEqual(len(texts), 1)

    async def test_static(self) -> None:
        """A static token works for many hosts, never expires, and one key is one host."""
        key = Key()
        first = await self.join(STATIC_TOKEN, key)
        self.clock.advance(1_000_000)
        again = await self.join(STATIC_TOKEN, key)
        self.assertEqual(first["host_id"], again["host_id"])
        self.assertIsNone(self.identity(again).scope)
        self.assertNotEqual((await self.join(STATIC_TOKEN))["host_id"], first["host_id"])
        await self.assertFailure(self.join(STATIC_TOKEN, key, ["proxy"], names=["x.example.com"]), AccessDenied)

    async def test_roles(self) -> None:
        """A token gives its own roles, auth's and the administrator's never."""
        token = await self.token()
        for roles in (["proxy"], ["db", "proxy"], ["auth"], ["node"]):
            await self.assertFailure(self.join(token, roles=roles), AccessDenied)
        await self.assertFailure(self.join(token, roles=["admin"]), BadRequest)
        await self.assertFailure(self.join(STATIC_TOKEN, roles=["auth"]), AccessDenied)
        await self.join(token, roles=["database"])

    async def test_proxy_names(self) -> None:
        """A proxy is called what it says, but never as another service of the cluster."""
        names = ["db.example.com", "203.0.113.7"]
        answer = await self.join(STATIC_TOKEN, roles=["proxy"], names=names)
        for name in [*names, "proxy.example"]:
            verify_name(der(load_certificate(answer["server_certificate"].encode())), name)
        for name in ("auth.example", "AUTH.example.", f"{answer['host_id']}.example"):
            await self.assertFailure(self.join(STATIC_TOKEN, roles=["proxy"], names=[name]), AccessDenied)
        await self.assertFailure(self.join(STATIC_TOKEN, roles=["proxy"], names=["*.example"]), BadRequest)

    async def test_proxy_names_of_many_spellings(self) -> None:
        """What IDNA turns into the name of another service is that name, at a join and at a renewal."""
        answer = await self.join(STATIC_TOKEN, roles=["proxy"], names=["m\u00fcnchen.example.com"])
        verify_name(der(load_certificate(answer["server_certificate"].encode())), "xn--mnchen-3ya.example.com")
        dots = answer["host_id"] + "\u3002example"
        for name in ("\uff41uth.example", "auth\u3002example", "au\u00adth.example", "AUTH\uff0eexample.", dots):
            await self.assertFailure(self.join(STATIC_TOKEN, roles=["proxy"], names=[name]), AccessDenied)
            body = {"public_key": Key().public, "names": [name]}
            renewing = self.call("POST", "/v1/renew", body, by=answer["client_certificate"].encode())
            await self.assertFailure(renewing, AccessDenied)

    async def test_renew(self) -> None:
        """A host renews as what it is: id, roles and scope stay."""
        answer = await self.join(await self.token(databases=["aurora"]))
        self.clock.advance(86400)
        renewed = await self.call(
            "POST", "/v1/renew", {"public_key": Key().public}, by=answer["client_certificate"].encode()
        )
        self.assertEqual(renewed["host_id"], answer["host_id"])
        self.assertEqual(self.identity(renewed), self.identity(answer))
        self.assertGreater(renewed["expires"], answer["expires"])
        await self.assertFailure(self.call("POST", "/v1/renew", {"public_key": Key().public}), AccessDenied)


class TokenTests(JoinCase):
    """Making and listing tokens."""

    async def test_listing(self) -> None:
        """A listing shows a prefix, the static ones first; a token goes by its value or its listed name."""
        token = await self.token(value="chosen-by-hand", databases=["aurora"])
        static, dynamic = (await self.call("GET", "/v1/tokens"))["items"]
        self.assertEqual((static["static"], static["expires"]), (True, None))
        self.assertEqual((dynamic["prefix"], dynamic["roles"], dynamic["static"]), ("chos", ["db"], False))
        self.assertEqual(dynamic["labels"], {"databases": "aurora"})
        self.assertNotIn(token, str(dynamic))
        await self.call("DELETE", f"/v1/tokens/{dynamic['name']}")
        await self.assertFailure(self.call("DELETE", f"/v1/tokens/{dynamic['name']}"), NotFound)
        await self.assertFailure(self.call("DELETE", f"/v1/tokens/{static['name']}"), BadRequest)

    async def test_redeemed_is_gone(self) -> None:
        """What was redeemed is not listed."""
        await self.join(await self.token())
        self.assertEqual(len((await self.call("GET", "/v1/tokens"))["items"]), 1)

    async def test_refused(self) -> None:
        """Tokens that are too weak, too long-lived, or there already."""
        for body in (
            {"roles": ["db"], "value": "short"},
            {"roles": ["db"], "value": "with/slash-and-more"},
            {"roles": ["db"], "ttl": 48 * 3600 + 1},
            {"roles": ["db"], "ttl": -1},
            {"roles": ["db"], "ttl": True},
            {"roles": ["auth"]},
            {"roles": ["node"]},
            {"roles": []},
            {"roles": "db"},
            {},
            {"roles": ["db"], "databases": ["Not A Label"]},
        ):
            await self.assertFailure(self.call("POST", "/v1/tokens", body), BadRequest)
        await self.token(value="chosen-by-hand")
        for value in ("chosen-by-hand", STATIC_TOKEN):
            await self.assertFailure(self.token_again(value), AlreadyExists)

    def token_again(self, value: str) -> "Deferred[dict[str, Any]]":
        return self.call("POST", "/v1/tokens", {"roles": ["db"], "value": value})

    async def test_default_life(self) -> None:
        """An hour."""
        made = await self.call("POST", "/v1/tokens", {"roles": ["database"]})
        self.assertEqual(made["roles"], ["db"])
        self.clock.advance(3599)
        await self.join(made["token"])
        other = await self.token()
        self.clock.advance(3600)
        await self.assertFailure(self.join(other), AccessDenied)
        self.assertGreater(self.clock.seconds(), NOW)

    async def test_resource(self) -> None:
        """``tctl create`` of a token makes one that works."""
        resource = {"kind": "token", "version": "v2", "metadata": {"name": "made-with-tctl"}, "spec": {"roles": ["db"]}}
        await self.call("POST", "/v1/resources/token", resource)
        await self.join("made-with-tctl")
