"""Nothing of a secret is stored or listed whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from teleport_db.errors import AuthenticationFailed
from tests.auth.support import STATIC_TOKEN, AuthCase, Key

PASSWORD, NEW_PASSWORD, GUESS = "correct horse battery", "staple battery horse", "hunter2 hunter2"


class SecretTests(AuthCase):
    """Everything that somebody could log in or join with, looked for where it must not be."""

    second_factor = "otp"

    async def test_security_row_11_at_rest(self) -> None:
        """Neither the state's file, nor a listing, nor the audit log has a secret that was in use."""
        secrets, seeds = await self._use_everything()
        listings = [
            await self.call("GET", path)
            for path in ("/v1/tokens", *(f"/v1/resources/{kind}" for kind in ("user", "token", "lock", "role")))
        ]
        listings.append(await self.call("GET", "/v1/resources/user/alice"))
        listings.append(await self.call("GET", "/v1/mfa", by=self.user("alice")))
        shown = json.dumps(listings) + json.dumps([dict(event) for event in self.audit.events])
        await self.server.backend.close()
        stored = self._files()
        self.assertIn(b"/credentials/alice", stored)
        for what, secret in secrets.items():
            self.assertNotIn(secret.encode(), stored, f"{what} is stored")
            self.assertNotIn(secret, shown, f"{what} is listed")
        # A device's secret has to be kept to check codes; it is shown by nothing.
        for seed in seeds:
            self.assertNotIn(seed, shown)

    def _files(self) -> bytes:
        """The state as it lies on the disk."""
        return b"".join(file.read_bytes() for file in Path(self.directory).iterdir())

    async def _use_everything(self) -> tuple[dict[str, str], list[str]]:
        """Secrets by what they are, and those that devices have."""
        used: dict[str, str] = {"the password": PASSWORD, "another password": NEW_PASSWORD, "a guess": GUESS}
        made = await self.call("POST", "/v1/users", {"name": "alice"})
        used["an invite"] = made["token"]
        path = f"/v1/invites/{made['token']}"
        seed = (await self.call("GET", path, by=self.proxy))["otp"]["secret"]
        body: dict[str, Any] = {"password": PASSWORD, "otp": self.code(seed)}
        done = await self.call("POST", path, body, by=self.proxy)
        used |= {f"recovery code {n}": code for n, code in enumerate(done["recovery_codes"])}
        used |= {f"recovery code {n}, bare": code.replace("-", "") for n, code in enumerate(done["recovery_codes"])}
        # Somebody types the password where the name belongs.
        await self.assertFailure(self.login(GUESS, "x"), AuthenticationFailed)
        self.clock.advance(30)
        body = {"old": PASSWORD, "password": NEW_PASSWORD, "otp": self.code(seed)}
        await self.call("POST", "/v1/password", body, by=self.user("alice"))
        await self.login(password=NEW_PASSWORD, otp=done["recovery_codes"][0])
        used["a reset"] = (await self.call("POST", "/v1/users/alice/reset"))["token"]
        joining = await self.call("POST", "/v1/tokens", {"roles": ["db"], "uses": 2})
        used |= {"a join token": joining["token"], "a static token": STATIC_TOKEN}
        await self.call("POST", "/v1/join", {"token": joining["token"], "public_key": Key().public}, by=None)
        return used, [seed]
