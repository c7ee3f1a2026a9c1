"""Devices for one-time codes and recovery codes, changed by their owners."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from teleport_db.auth.devices import ENROLLING, MAX_DEVICES
from teleport_db.auth.failures import LIMIT
from teleport_db.auth.proofs import CHANGED, WRONG_CODE
from teleport_db.errors import (
    AccessDenied,
    AlreadyExists,
    AuthenticationFailed,
    BadRequest,
    LimitExceeded,
    NotFound,
    RevisionConflict,
)
from tests.auth.support import AuthCase


class DeviceCase(AuthCase):
    """alice, who has a password, and a device where the mode asks for one."""

    async def setUp(self) -> None:
        await super().setUp()
        made = await self.call("POST", "/v1/users", {"name": "alice"})
        path = f"/v1/invites/{made['token']}"
        shown = await self.call("GET", path, by=self.proxy)
        self.secret = shown["otp"]["secret"] if self.second_factor == "otp" else ""
        body = {"password": "correct horse", "otp": self.code(self.secret) if self.secret else None}
        self.recovery = (await self.call("POST", path, body, by=self.proxy))["recovery_codes"]
        self.alice = self.user("alice")

    def mine(self, path: str, **body: Any) -> Deferred[dict[str, Any]]:
        """Call as alice."""
        return self.call("POST", path, body, by=self.alice)

    def next_code(self, secret: str = "") -> str:
        """A code that was not used."""
        self.clock.advance(30)
        return self.code(secret or self.secret)

    async def add(self, **proof: Any) -> str:
        """Enrol one more device; its secret."""
        begun = await self.mine("/v1/mfa", **proof)
        await self.mine("/v1/mfa/confirm", otp=self.code(begun["secret"]))
        return str(begun["secret"])

    async def names(self) -> list[str]:
        listed = await self.call("GET", "/v1/mfa", by=self.alice)
        return [device["name"] for device in listed["devices"]]


class DeviceTests(DeviceCase):
    """Several devices."""

    second_factor = "otp"

    async def test_listed(self) -> None:
        """A listing has names and times, and nothing that makes a code."""
        listed = await self.call("GET", "/v1/mfa", by=self.alice)
        (device,) = listed["devices"]
        self.assertEqual((device["name"], device["type"], listed["second_factor"]), ("otp", "TOTP", "otp"))
        self.assertEqual(listed["recovery_codes"], 8)
        for secret in (self.secret, *self.recovery):
            self.assertNotIn(secret, str(listed))

    async def test_security_row_12_add(self) -> None:
        """A new device takes a code of an old one, then one of its own; then either logs in."""
        for proof in ({}, {"otp": "000000"}, {"password": "correct horse"}, {"otp": self.code(self.secret)}):
            error = await self.assertFailure(self.mine("/v1/mfa", **proof), AuthenticationFailed)
            self.assertEqual(error.public, WRONG_CODE)
            self.assertEqual(self.audit.events[-1]["code"], "T1016W")
        await self.server.failures.forget("alice")
        begun = await self.mine("/v1/mfa", name="new phone", otp=self.next_code())
        self.assertEqual((begun["name"], await self.names()), ("new phone", ["otp"]))
        self.assertIn(begun["secret"], begun["uri"])
        await self.assertFailure(self.login(otp=self.code(begun["secret"])), AuthenticationFailed)
        await self.assertFailure(self.mine("/v1/mfa/confirm", otp="000000"), BadRequest)
        done = await self.mine("/v1/mfa/confirm", otp=self.code(begun["secret"]))
        self.assertEqual(done, {"name": "new phone", "recovery_codes": []})
        self.assertEqual(await self.names(), ["otp", "new phone"])
        self.assertEqual(self.audit.events[-1]["event"], "mfa.add")
        await self.assertFailure(self.login(otp=self.code(begun["secret"])), AuthenticationFailed)
        await self.login(otp=self.next_code(begun["secret"]))
        await self.login(otp=self.next_code())
        await self.login(otp=self.recovery[0])

    async def test_names(self) -> None:
        """A name that nobody gave is made up; one that is taken, or none, is refused before a code is used up."""
        await self.add(otp=self.next_code())
        self.assertEqual(await self.names(), ["otp", "otp-2"])
        code = self.next_code()
        await self.assertFailure(self.mine("/v1/mfa", name="otp", otp=code), AlreadyExists)
        for name in ("x" * 33, " x", "a\nb"):
            await self.assertFailure(self.mine("/v1/mfa", name=name, otp=code), BadRequest)
        while len(await self.names()) < MAX_DEVICES:
            await self.add(otp=self.next_code())
        await self.assertFailure(self.mine("/v1/mfa", otp=self.next_code()), LimitExceeded)

    async def test_too_slow(self) -> None:
        """A secret that nobody confirmed is worthless after ten minutes; a newer one takes its place before."""
        first = await self.mine("/v1/mfa", otp=self.next_code())
        second = await self.mine("/v1/mfa", otp=self.next_code())
        await self.assertFailure(self.mine("/v1/mfa/confirm", otp=self.code(first["secret"])), BadRequest)
        self.clock.advance(ENROLLING)
        await self.assertFailure(self.mine("/v1/mfa/confirm", otp=self.code(second["secret"])), NotFound)
        await self.assertFailure(self.mine("/v1/mfa/confirm", otp="123456"), NotFound)

    async def test_security_row_12_remove(self) -> None:
        """Removing takes a code, of any device; its own code opens nothing any more; the last one stays."""
        new = await self.add(name="new", otp=self.next_code())
        await self.assertFailure(self.mine("/v1/mfa/remove", name="otp", otp="000000"), AuthenticationFailed)
        await self.assertFailure(self.mine("/v1/mfa/remove", name="nothing", otp=self.next_code()), NotFound)
        await self.mine("/v1/mfa/remove", name="otp", otp=self.next_code(new))
        self.assertEqual(self.audit.events[-1]["event"], "mfa.delete")
        await self.assertFailure(self.login(otp=self.next_code()), AuthenticationFailed)
        error = await self.assertFailure(self.mine("/v1/mfa/remove", name="new", otp=self.next_code(new)), BadRequest)
        self.assertIn("last device", error.public)
        await self.login(otp=self.code(new))

    async def test_last_two_at_once(self) -> None:
        """Of two devices that are removed at once, each by the other, one stays."""
        new = await self.add(name="new", otp=self.next_code())
        self.clock.advance(60)
        await DeferredList(
            [
                self.mine("/v1/mfa/remove", name="otp", otp=self.code(new)),
                self.mine("/v1/mfa/remove", name="new", otp=self.code(self.secret)),
            ],
            consumeErrors=True,
        )
        self.assertEqual(len(await self.names()), 1)

    async def test_others(self) -> None:
        """Nobody but the user has devices to change; a certificate of a database changes nothing."""
        for by in (b"admin", self.proxy, None):
            kind = AuthenticationFailed if by is None else AccessDenied
            await self.assertFailure(self.call("GET", "/v1/mfa", by=by), kind)
            await self.assertFailure(self.call("POST", "/v1/mfa", {}, by=by), kind)

    async def test_reset_meanwhile(self) -> None:
        """A reset between the proof and the change stands."""
        begun = await self.mine("/v1/mfa", otp=self.next_code())
        await self.call("POST", "/v1/users/alice/reset")
        await self.assertFailure(self.mine("/v1/mfa/confirm", otp=self.code(begun["secret"])), NotFound)
        self.assertEqual(await self.names(), [])

    async def test_changed_meanwhile(self) -> None:
        """Who loses a race is told to try again."""
        swap = self.server.backend.compare_and_swap
        begun = await self.mine("/v1/mfa", otp=self.next_code())

        async def login_first(*args: Any) -> Any:
            self.server.backend.compare_and_swap = swap
            await self.login(otp=self.code(self.secret, 1))
            return await swap(*args)

        self.patch(self.server.backend, "compare_and_swap", login_first)
        error = await self.assertFailure(self.mine("/v1/mfa/confirm", otp=self.code(begun["secret"])), RevisionConflict)
        self.assertEqual(error.public, CHANGED)
        await self.mine("/v1/mfa/confirm", otp=self.code(begun["secret"]))

    async def test_security_row_9_guesses(self) -> None:
        """Guessing codes with a certificate counts, together with guessing passwords, whatever they are for."""
        for path in ("/v1/mfa", "/v1/mfa/recovery-codes", "/v1/mfa"):
            await self.assertFailure(self.mine(path, otp="000000"), AuthenticationFailed)
        body = {"old": "wrong", "password": "battery staple"}
        for _ in range(LIMIT - 3):
            await self.assertFailure(self.mine("/v1/password", **body), AuthenticationFailed)
        await self.assertFailure(self.mine("/v1/mfa", otp=self.next_code()), LimitExceeded)
        await self.login(otp=self.code(self.secret))


class RecoveryTests(DeviceCase):
    """Recovery codes."""

    second_factor = "otp"

    async def test_made(self) -> None:
        """Eight come with the first device, all different; what is kept is their hashes."""
        self.assertEqual(len(set(self.recovery)), 8)
        for code in self.recovery:
            self.assertRegex(code, r"\A[a-z2-9]{4}(-[a-z2-9]{4}){3}\Z")
        stored = str(await self.server.backend.range("/"))
        for code in self.recovery:
            self.assertNotIn(code, stored)
            self.assertNotIn(code.replace("-", ""), stored)
        self.assertIn("T1008I", self.audit.codes())

    async def test_security_row_10_once(self) -> None:
        """One logs in once, however it is typed; the answer says how many are left."""
        answer = await self.login(otp=self.recovery[0].upper().replace("-", " "))
        self.assertEqual(answer["recovery_codes"], 7)
        (used,) = [event for event in self.audit.events if event["event"] == "recovery_code.used"]
        self.assertEqual((used["code"], used["user"], used["left"]), ("T1009I", "alice", 7))
        await self.assertFailure(self.login(otp=self.recovery[0]), AuthenticationFailed)
        await self.login(otp=self.recovery[1].replace("-", ""))
        self.assertNotIn("recovery_codes", await self.login(otp=self.next_code()))

    async def test_security_row_10_twenty_at_once(self) -> None:
        """Of twenty logins with one of them, from as many addresses, one gets in."""
        results = await DeferredList(
            [self.login(otp=self.recovery[0], client_address=f"192.0.2.{n}") for n in range(20)], consumeErrors=True
        )
        self.assertEqual([ok for ok, _ in results].count(True), 1)

    async def test_wrong_password(self) -> None:
        """With a wrong password none is used up, and guesses count as those of codes do."""
        for _ in range(LIMIT):
            await self.assertFailure(self.login(password="wrong", otp=self.recovery[0]), AuthenticationFailed)
        await self.assertFailure(self.login(otp=self.recovery[0]), LimitExceeded)
        await self.login(otp=self.recovery[0], client_address="192.0.2.8")

    async def test_renewed(self) -> None:
        """New ones take a code, and the place of the old ones."""
        await self.assertFailure(self.mine("/v1/mfa/recovery-codes", otp="000000"), AuthenticationFailed)
        new = (await self.mine("/v1/mfa/recovery-codes", otp=self.next_code()))["recovery_codes"]
        self.assertEqual(len(new), 8)
        await self.assertFailure(self.login(otp=self.recovery[0]), AuthenticationFailed)
        await self.login(otp=new[0])

    async def test_lost_phone(self) -> None:
        """A recovery code logs in, another adds a new device; then the old one can be removed."""
        await self.login(otp=self.recovery[0])
        new = await self.add(name="new", otp=self.recovery[1])
        await self.mine("/v1/mfa/remove", name="otp", otp=self.next_code(new))
        self.assertEqual(await self.names(), ["new"])
        self.assertEqual((await self.call("GET", "/v1/mfa", by=self.alice))["recovery_codes"], 6)

    async def test_reset(self) -> None:
        """A reset takes devices and recovery codes away, at once."""
        await self.call("POST", "/v1/users/alice/reset")
        for otp in (self.next_code(), self.recovery[0]):
            await self.assertFailure(self.login(otp=otp), AuthenticationFailed)
        listed = await self.call("GET", "/v1/mfa", by=self.alice)
        self.assertEqual((listed["devices"], listed["recovery_codes"]), ([], 0))


class FirstDeviceTests(DeviceCase):
    """A user who has none yet."""

    second_factor = "optional"

    async def test_security_row_12_first(self) -> None:
        """The first device takes the password, brings recovery codes, and is asked for from then on."""
        for proof in ({}, {"password": "wrong"}, {"otp": "123456"}):
            await self.assertFailure(self.mine("/v1/mfa", **proof), AuthenticationFailed)
        begun = await self.mine("/v1/mfa", password="correct horse")
        self.assertEqual(begun["name"], "otp")
        done = await self.mine("/v1/mfa/confirm", otp=self.code(begun["secret"]))
        self.assertEqual(len(done["recovery_codes"]), 8)
        await self.assertFailure(self.login(), AuthenticationFailed)
        await self.login(otp=self.next_code(begun["secret"]))

    async def test_last_goes(self) -> None:
        """Where it is optional the last one can go, and its recovery codes with it."""
        secret = await self.add(password="correct horse")
        await self.mine("/v1/mfa/remove", name="otp", otp=self.next_code(secret))
        listed = await self.call("GET", "/v1/mfa", by=self.alice)
        self.assertEqual((listed["devices"], listed["recovery_codes"]), ([], 0))
        await self.login()

    async def test_no_codes_without_device(self) -> None:
        """Recovery codes stand in for a device."""
        await self.assertFailure(self.mine("/v1/mfa/recovery-codes", otp="x"), BadRequest)
