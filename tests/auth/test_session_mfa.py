"""Certificates for which a role wants a one-time code of their own."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from teleport_db.auth.certificates import SESSION_TTL
from teleport_db.auth.failures import LIMIT
from teleport_db.auth.proofs import WRONG_CODE
from teleport_db.certs.keys import der, load_certificate
from teleport_db.certs.tls import peer_identity
from teleport_db.errors import AccessDenied, AuthenticationFailed, LimitExceeded, NotFound, SecondFactorRequired
from teleport_db.identity import Identity
from tests.auth.support import AuthCase, Key, certificate
from tests.auth.test_devices import DeviceCase


class SessionCase(AuthCase):
    """A database that everybody sees, and a role that wants codes."""

    async def setUp(self) -> None:
        await super().setUp()
        self.agent = self.host("db")
        role = {"kind": "role", "version": "v3", "metadata": {"name": "careful"}}
        spec = {"options": {"require_session_mfa": True}}
        await self.call("POST", "/v1/resources/role", {**role, "spec": spec})

    async def give(self, *roles: str) -> None:
        """Give alice these roles."""
        user = {"kind": "user", "metadata": {"name": "alice"}, "spec": {"roles": list(roles)}}
        await self.call("POST", "/v1/resources/user", user, query={"force": "1"})

    def sign(self, service: str = "aurora", *, by: bytes | None = None, **more: Any) -> Deferred[dict[str, Any]]:
        """Ask for a certificate of a database, as alice with an hour left."""
        return Deferred.fromCoroutine(self._sign(service, by or self.user("alice"), more))

    async def _sign(self, service: str, by: bytes, more: dict[str, Any]) -> dict[str, Any]:
        # Its agent is there still, though the clock has gone on.
        database = {"name": "aurora", "protocol": "postgres", "uri": "db:5432", "labels": {}, "description": ""}
        await self.call("PUT", "/v1/presence", {"databases": [database]}, by=self.agent)
        body = {"public_key": Key().public, "route": {"service": service}, **more}
        return await self.call("POST", "/v1/certificates/user", body, by=by)

    def identity(self, answer: dict[str, Any]) -> Identity:
        pem = answer["certificate"].encode()
        return peer_identity(
            der(load_certificate(pem)),
            user_ca=self.server.cas()["user"].encode(),
            host_ca=None,
            now=self.clock.seconds(),
        )

    def life(self, answer: dict[str, Any]) -> float:
        return certificate(answer["certificate"]).not_valid_after_utc.timestamp() - self.clock.seconds()


class SessionMFATests(SessionCase, DeviceCase):
    """require_session_mfa, for a user with a device."""

    second_factor = "otp"

    async def test_code(self) -> None:
        """Without a code it is asked for; with one the certificate lives a minute, says so, and when the login ends."""
        await self.give("access", "careful")
        self.assertTrue((await self.call("GET", "/v1/mfa", by=self.alice))["session_mfa"])
        error = await self.assertFailure(self.sign(), SecondFactorRequired)
        self.assertEqual(error.public, 'role "careful" asks for a one-time code at each login to a database')
        answer = await self.sign(otp=self.next_code())
        identity = self.identity(answer)
        self.assertEqual((identity.mfa, self.life(answer)), (True, SESSION_TTL))
        self.assertEqual(identity.login_expires, int(self.clock.seconds()) + 3600)
        self.assertEqual(self.audit.events[-1]["mfa"], True)
        short = await self.sign(otp=self.next_code(), by=self.user("alice", ttl=20))
        self.assertEqual(self.life(short), 20)
        self.assertEqual(self.life(await self.sign(otp=self.next_code(), ttl=10)), 10)

    async def test_security_row_10_each_session(self) -> None:
        """A code opens one session; a wrong one, and a recovery code, open none and count as failures."""
        await self.give("access", "careful")
        code = self.next_code()
        await self.sign(otp=code)
        for otp in (code, "000000", self.recovery[0], "x" * 60):
            error = await self.assertFailure(self.sign(otp=otp), AuthenticationFailed)
            self.assertEqual(error.public, WRONG_CODE)
        await self.assertFailure(self.sign(otp=code), AuthenticationFailed)
        self.assertEqual(LIMIT, 5)
        await self.assertFailure(self.sign(otp=self.next_code()), LimitExceeded)

    async def test_nobody_asks(self) -> None:
        """Where no role asks, no code counts, and the certificate lives as long as the login."""
        self.assertFalse((await self.call("GET", "/v1/mfa", by=self.alice))["session_mfa"])
        answer = await self.sign(otp="000000")
        self.assertEqual((self.identity(answer).mfa, self.identity(answer).login_expires), (False, 0))
        self.assertEqual(self.life(answer), 3600)

    async def test_unknown_database(self) -> None:
        """No code is used up for a database that is not there."""
        await self.give("access", "careful")
        code = self.next_code()
        await self.assertFailure(self.sign("nosuch", otp=code), NotFound)
        await self.sign(otp=code)

    async def test_robots(self) -> None:
        """An identity file is not signed for such a user, and one that is out opens no database."""
        body = {"user": "alice", "public_key": Key().public}
        await self.call("POST", "/v1/certificates/identity", body)
        await self.give("access", "careful")
        error = await self.assertFailure(self.call("POST", "/v1/certificates/identity", body), AccessDenied)
        self.assertEqual(
            error.public,
            'role "careful" of user "alice" asks for a one-time code at each login to a database, '
            "which a program with a file cannot give; sign the file for a user without this role",
        )
        file = self.user("alice", usage="file")
        error = await self.assertFailure(self.sign(by=file, otp=self.next_code()), AccessDenied)
        self.assertIn("an identity file has none; log in with tsh login", error.public)


class NoDeviceTests(SessionCase, DeviceCase):
    """The same for a user who has nothing that makes codes."""

    second_factor = "off"

    async def test_no_device(self) -> None:
        """The command that helps is named, and helps, even where logging in takes no code."""
        await self.give("access", "careful")
        error = await self.assertFailure(self.sign(otp="123456"), AccessDenied)
        self.assertIn("you have no device for them; add one: tsh mfa add", error.public)
        secret = await self.add(password="correct horse")
        await self.sign(otp=self.next_code(secret))
        await self.login()
