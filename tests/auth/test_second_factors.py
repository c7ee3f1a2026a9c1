"""Every mode of second factors, for users with and without a device, at every door."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from teleport_db.config.model import Authentication
from teleport_db.errors import AuthenticationFailed, BadRequest
from tests.auth.support import AuthCase

#: Mode and whether the user has a device -> whether logging in, and changing the password, work with the password
#: alone, and whether they do with a code of the device as well.  Who has no device where one is asked for gets in by
#: a reset only.
DOORS = {
    ("off", False): (True, None),
    ("off", True): (True, True),
    ("optional", False): (True, None),
    ("optional", True): (False, True),
    ("otp", False): (False, None),
    ("otp", True): (False, True),
    ("on", False): (False, None),
    ("on", True): (False, True),
}
#: Mode -> whether the page of an invite or a reset shows a secret, and whether it takes a password without a code.
PAGES = {"off": (False, True), "optional": (True, True), "otp": (True, False), "on": (True, False)}


class ModeTests(AuthCase):
    """off, optional, otp, on."""

    second_factor = "optional"

    async def prefer(self, mode: str) -> None:
        body = {"kind": "cluster_auth_preference", "metadata": {}, "spec": {"second_factor": mode}}
        await self.call("POST", "/v1/resources/cluster_auth_preference", body, query={"force": "1"})

    async def redeem(self, token: str, otp: str | None) -> dict[str, Any]:
        body = {"password": "correct horse", "otp": otp}
        return await self.call("POST", f"/v1/invites/{token}", body, by=self.proxy)

    async def person(self, name: str, *, device: bool) -> str:
        """A user with a password; the secret of the device, if there is to be one."""
        await self.prefer("optional")
        made = await self.call("POST", "/v1/users", {"name": name})
        secret = (await self.call("GET", f"/v1/invites/{made['token']}", by=self.proxy))["otp"]["secret"]
        await self.redeem(made["token"], self.code(secret) if device else None)
        return str(secret) if device else ""

    async def change(self, name: str, otp: str | None) -> dict[str, Any]:
        """Change the password, to the one that it is, at the proxy."""
        body = {"user": name, "old": "correct horse", "password": "correct horse", "otp": otp}
        return await self.call("POST", "/v1/password", body, by=self.proxy)

    async def test_doors(self) -> None:
        """Logging in and changing the password, by the table."""
        for (mode, device), (alone, with_code) in DOORS.items():
            name = f"{mode}-{device}".lower()
            secret = await self.person(name, device=device)
            await self.prefer(mode)
            for door in (self.login, self.change):
                self.clock.advance(30)
                tried = [(None, alone)] + ([] if with_code is None else [(self.code(secret), with_code)])
                for otp, opens in tried:
                    attempt = self.call_door(door, name, otp)
                    if opens:
                        await attempt
                    else:
                        await self.assertFailure(attempt, AuthenticationFailed)
                await self.server.failures.forget(name)

    def call_door(self, door: Any, name: str, otp: str | None) -> Any:
        return self.login(name, otp=otp) if door == self.login else Deferred.fromCoroutine(self.change(name, otp))

    async def test_pages(self) -> None:
        """Invites and resets, by the table; with a code there are recovery codes, without one there are none."""
        for mode, (shown, without) in PAGES.items():
            await self.prefer(mode)
            made = [await self.call("POST", "/v1/users", {"name": mode})]
            for purpose in ("invite", "reset"):
                (link,) = made
                page = await self.call("GET", f"/v1/invites/{link['token']}", by=self.proxy)
                self.assertEqual((page["purpose"], page["otp"] is not None), (purpose, shown))
                if not without:
                    redeeming = Deferred.fromCoroutine(self.redeem(link["token"], None))
                    await self.assertFailure(redeeming, BadRequest)
                otp = self.code(page["otp"]["secret"]) if shown else None
                done = await self.redeem(link["token"], otp)
                self.assertEqual(len(done["recovery_codes"]), 8 if shown else 0)
                made = [await self.call("POST", f"/v1/users/{mode}/reset")]
            if shown and without:
                self.assertEqual((await self.redeem(made[0]["token"], None))["recovery_codes"], [])
                await self.login(mode)

    async def test_default(self) -> None:
        """Who configures nothing is asked for one-time codes."""
        self.assertEqual(Authentication().second_factor, "otp")
