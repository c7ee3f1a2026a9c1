"""Passwords, one-time codes, lock-out, links."""

import threading

from argon2 import PasswordHasher
from twisted.internet import reactor
from twisted.internet.defer import DeferredList, gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase

from teleport_db.auth.failures import LIMIT, WINDOW, source_of
from teleport_db.auth.passwords import THREADS, Passwords, default_hasher
from teleport_db.auth.proofs import WRONG
from teleport_db.auth.times import rfc3339
from teleport_db.certs.keys import der, load_certificate
from teleport_db.certs.tls import peer_identity
from teleport_db.errors import (
    AccessDenied,
    AuditUnavailable,
    AuthenticationFailed,
    BadRequest,
    LimitExceeded,
    NotFound,
    RevisionConflict,
)
from tests.auth.support import AuthCase, certificate


class LoginTests(AuthCase):
    """A password alone."""

    async def test_life_beyond_numbers(self) -> None:
        """A whole number larger than any that computers calculate with is refused as any other nonsense."""
        await self.add_user()
        for ttl in (10**400, 2**53 + 1, -1, True, "60", [60]):
            await self.assertFailure(self.login(ttl=ttl), BadRequest)

    async def test_login(self) -> None:
        """The right password gets a certificate of the user's own roles and traits, and an event of it."""
        await self.add_user(traits={"db_names": ["app"], "db_users": ["alice"]})
        answer = await self.login(ttl=3600)
        identity = peer_identity(
            der(load_certificate(answer["certificate"].encode())),
            user_ca=self.server.cas()["user"].encode(),
            host_ca=None,
            now=self.clock.seconds(),
        )
        self.assertEqual((identity.name, identity.usage, identity.roles), ("alice", "login", ("access",)))
        self.assertEqual(identity.traits["db_names"], ("app",))
        left = certificate(answer["certificate"]).not_valid_after_utc.timestamp() - self.clock.seconds()
        self.assertEqual(left, 3600)
        self.assertEqual(self.audit.codes()[-2:], ["T1000I", "TC000I"])
        self.assertEqual(self.audit.events[-2]["addr.remote"], "192.0.2.7")

    async def test_session_ttl(self) -> None:
        """No login lives longer than every role of the user allows."""
        role = {"kind": "role", "version": "v3", "metadata": {"name": "short"}}
        await self.call("POST", "/v1/resources/role", {**role, "spec": {"options": {"max_session_ttl": "1h"}}})
        await self.add_user(roles=["access", "short"])
        answer = await self.login(ttl=36000)
        self.assertEqual(
            certificate(answer["certificate"]).not_valid_after_utc.timestamp() - self.clock.seconds(), 3600
        )
        self.assertEqual(answer["shortened"], 'role "short" allows 1h0m0s (max_session_ttl)')
        self.assertEqual((await self.login(ttl=3600))["shortened"], "")

    async def test_security_row_8_one_answer(self) -> None:
        """An unknown user and a wrong password are one answer, and both are in the audit log."""
        await self.add_user()
        for name, password in (("alice", "wrong"), ("nobody", "correct horse"), ("", "x"), ("a/b\ud800", "x")):
            if name == "":
                await self.assertFailure(self.login(name, password), BadRequest)
                continue
            kind = BadRequest if "\ud800" in name else AuthenticationFailed
            error = await self.assertFailure(self.login(name, password), kind)
            if kind is AuthenticationFailed:
                self.assertEqual(error.public, WRONG)
                self.assertEqual(self.audit.codes()[-1], "T1000W")
                self.assertEqual(self.audit.events[-1]["wrong"], "password" if name == "alice" else "no user")

    async def test_invited_only(self) -> None:
        """Who was invited and has set no password cannot log in with an empty one."""
        await self.call("POST", "/v1/users", {"name": "alice"})
        for password in ("", "None", "null"):
            await self.assertFailure(self.login(password=password), AuthenticationFailed)

    async def test_security_row_8_same_work(self) -> None:
        """An unknown user costs one verification, as a known one does."""
        await self.add_user()
        verified = []
        verify = self.server.passwords._verify
        self.server.passwords._verify = lambda *args: verified.append(args) or verify(*args)
        await self.assertFailure(self.login("nobody"), AuthenticationFailed)
        await self.assertFailure(self.login("alice", "wrong"), AuthenticationFailed)
        self.assertEqual(len(verified), 2)
        self.assertEqual({encoded.split("$")[1:4] == verified[0][0].split("$")[1:4] for encoded, _ in verified}, {True})

    async def test_locked_user(self) -> None:
        """A locked user with the right password gets no certificate."""
        await self.add_user()
        lock = {"kind": "lock", "metadata": {"name": "l"}, "spec": {"target": {"user": "alice"}}}
        await self.call("POST", "/v1/resources/lock", lock)
        await self.assertFailure(self.login(), AccessDenied)
        self.assertEqual(self.audit.codes()[-1], "T1000W")

    async def test_no_audit_no_certificate(self) -> None:
        """Without a record there is no login."""
        await self.add_user()
        self.audit.failure = AuditUnavailable()
        await self.assertFailure(self.login(), AuditUnavailable)

    async def test_bad_key(self) -> None:
        """A key that is none is refused before anything is counted."""
        await self.add_user()
        for _ in range(LIMIT + 1):
            await self.assertFailure(self.login(public_key="nonsense"), BadRequest)
        await self.login()

    async def test_security_row_12_change_password(self) -> None:
        """A new password needs the old one."""
        await self.add_user()
        alice = self.user("alice")
        body = {"old": "wrong", "password": "battery staple"}
        await self.assertFailure(self.call("POST", "/v1/password", body, by=alice), AuthenticationFailed)
        await self.call("POST", "/v1/password", {**body, "old": "correct horse"}, by=alice)
        await self.assertFailure(self.login(), AuthenticationFailed)
        await self.login(password="battery staple")

    async def test_security_row_12_reset_meanwhile(self) -> None:
        """A reset between the proof and the change stands: who knows only the old password has lost."""
        await self.add_user()
        alice, hashing = self.user("alice"), self.server.passwords.hash

        async def reset_first(password: str) -> str:
            await self.call("POST", "/v1/users/alice/reset")
            return await hashing(password)

        self.patch(self.server.passwords, "hash", reset_first)
        body = {"old": "correct horse", "password": "battery staple"}
        await self.assertFailure(self.call("POST", "/v1/password", body, by=alice), RevisionConflict)
        await self.assertFailure(self.login(password="battery staple"), AuthenticationFailed)

    async def test_security_row_12_at_the_proxy(self) -> None:
        """Who is not logged in changes the password by the old one as well, from the address that the proxy says."""
        await self.add_user()
        body = {"user": "alice", "old": "wrong", "password": "battery staple", "client_address": "192.0.2.9"}
        error = await self.assertFailure(self.call("POST", "/v1/password", body, by=self.proxy), AuthenticationFailed)
        unknown = {**body, "user": "nobody"}
        other = await self.assertFailure(
            self.call("POST", "/v1/password", unknown, by=self.proxy), AuthenticationFailed
        )
        self.assertEqual((error.public, other.public), (WRONG, WRONG))
        self.assertEqual([event["user"] for event in self.audit.events[-2:]], ["alice", "nobo..."])
        failed = self.audit.events[-1]
        self.assertEqual((failed["code"], failed["addr.remote"]), ("T1005W", "192.0.2.9"))
        await self.call("POST", "/v1/password", {**body, "old": "correct horse"}, by=self.proxy)
        self.assertEqual((self.audit.events[-1]["code"], self.audit.events[-1]["success"]), ("T1005I", True))
        await self.login(password="battery staple")
        for by in (b"admin", self.host("db"), None):
            kind = AuthenticationFailed if by is None else AccessDenied
            await self.assertFailure(self.call("POST", "/v1/password", body, by=by), kind)

    async def test_change_and_logins(self) -> None:
        """A login goes on when the password changes, and nobody else's password can be changed with it."""
        await self.add_user()
        await self.add_user("bob", "the horse of bob")
        alice = self.user("alice")
        body = {"user": "bob", "old": "the horse of bob", "password": "battery staple"}
        await self.assertFailure(self.call("POST", "/v1/password", body, by=alice), AuthenticationFailed)
        await self.call("POST", "/v1/password", {**body, "old": "correct horse"}, by=alice)
        await self.call("GET", "/v1/databases", by=alice)
        await self.login("bob", "the horse of bob")
        await self.assertFailure(self.call("POST", "/v1/password", {**body, "password": "x"}, by=alice), BadRequest)

    async def test_locked_change(self) -> None:
        """A locked user changes nothing."""
        await self.add_user()
        lock = {"kind": "lock", "metadata": {"name": "l"}, "spec": {"target": {"user": "alice"}}}
        await self.call("POST", "/v1/resources/lock", lock)
        body = {"user": "alice", "old": "correct horse", "password": "battery staple"}
        await self.assertFailure(self.call("POST", "/v1/password", body, by=self.proxy), AccessDenied)
        await self.call("DELETE", "/v1/resources/lock/l")
        await self.login()

    async def test_namesake(self) -> None:
        """Nobody inherits what a deleted user of the same name knew."""
        await self.add_user()
        stored = await self.server.backend.get("/credentials/alice")
        await self.call("DELETE", "/v1/resources/user/alice")
        await self.assertFailure(self.login(), AuthenticationFailed)
        await self.server.backend.put("/credentials/alice", stored.value)
        await self.assertFailure(self.login(), AuthenticationFailed)
        user = {"kind": "user", "metadata": {"name": "alice"}, "spec": {}}
        await self.call("POST", "/v1/resources/user", user)
        await self.assertFailure(self.login(), AuthenticationFailed)


class LockOutTests(AuthCase):
    """Five failures."""

    async def test_security_row_9_locks_out(self) -> None:
        """After five failures the right password is refused too, from this address and for this account."""
        await self.add_user()
        await self.add_user("bob")
        for _ in range(LIMIT):
            await self.assertFailure(self.login(password="wrong"), AuthenticationFailed)
        await self.assertFailure(self.login(), LimitExceeded)
        await self.login(client_address="192.0.2.8")
        await self.login("bob")
        self.clock.advance(WINDOW)
        await self.login()

    async def test_spellings(self) -> None:
        """One address is one source, however it is spelled; what is no address is refused before it counts."""
        await self.add_user()
        spellings = ("192.0.2.7", "::ffff:192.0.2.7", "::FFFF:c000:207", "0:0:0:0:0:ffff:c000:207", "::ffff:c000:207%x")
        for spelling in spellings:
            await self.assertFailure(self.login(password="wrong", client_address=spelling), AuthenticationFailed)
        await self.assertFailure(self.login(), LimitExceeded)
        recorded = {event["addr.remote"] for event in self.audit.events if event["event"] == "user.login"}
        self.assertEqual(recorded, {"192.0.2.7"})
        for zone in range(LIMIT):
            call = self.login(password="wrong", client_address=f"fe80::{zone}%eth{zone}")
            await self.assertFailure(call, AuthenticationFailed)
        await self.assertFailure(self.login(client_address="fe80:0::9"), LimitExceeded)
        nonsense = ("192.0.2.07", "192.0.2.7 ", "192.0.2.7:80", "192.0.2.0/24", "localhost", "::1%", "\u0661.1.1.1")
        for address in nonsense:
            await self.assertFailure(self.login(client_address=address), BadRequest)
        await self.assertFailure(self.login(client_address=3221225991), BadRequest)

    async def test_security_row_9_unknown_account(self) -> None:
        """An account that does not exist locks out alike."""
        for _ in range(LIMIT):
            await self.assertFailure(self.login("nobody"), AuthenticationFailed)
        known = await self.assertFailure(self.login("nobody"), LimitExceeded)
        await self.add_user()
        for _ in range(LIMIT):
            await self.assertFailure(self.login(password="wrong"), AuthenticationFailed)
        self.assertEqual((await self.assertFailure(self.login(), LimitExceeded)).public, known.public)

    async def test_success_forgives(self) -> None:
        """A success takes back what failed before."""
        await self.add_user()
        for _ in range(3):
            for _ in range(LIMIT - 1):
                await self.assertFailure(self.login(password="wrong"), AuthenticationFailed)
            await self.login()

    async def test_security_row_9_fifty_at_once(self) -> None:
        """Fifty guesses in parallel get five tries."""
        await self.add_user()
        tried = []
        verify = self.server.passwords._verify
        self.server.passwords._verify = lambda *args: tried.append(args) or verify(*args)
        results = await DeferredList([self.login(password=f"guess {n}") for n in range(50)], consumeErrors=True)
        self.assertEqual(len(tried), LIMIT)
        self.assertEqual({result.type for ok, result in results}, {AuthenticationFailed, LimitExceeded})

    async def test_parallel_logins(self) -> None:
        """Right passwords in parallel lock nobody out."""
        await self.add_user()
        await gatherResults([self.login() for _ in range(12)])

    async def test_security_row_9_restart(self) -> None:
        """A restart forgets nothing."""
        await self.add_user()
        for _ in range(LIMIT):
            await self.assertFailure(self.login(password="wrong"), AuthenticationFailed)
        await self.start()
        await self.assertFailure(self.login(), LimitExceeded)

    async def test_unlock(self) -> None:
        """An administrator lets somebody try again, from everywhere, and nobody else."""
        await self.add_user()
        await self.add_user("bob")
        for name, address in (("alice", "192.0.2.7"), ("alice", "192.0.2.8"), ("bob", "192.0.2.7")):
            for _ in range(LIMIT):
                await self.assertFailure(self.login(name, "wrong", client_address=address), AuthenticationFailed)
        answer = await self.call("POST", "/v1/users/alice/unlock", {})
        self.assertEqual(answer, {"user": "alice", "sources": 2})
        self.assertEqual(self.audit.events[-1]["event"], "user.unlock")
        await self.login()
        await self.login(client_address="192.0.2.8")
        await self.assertFailure(self.login("bob"), LimitExceeded)
        await self.assertFailure(self.call("POST", "/v1/users/nobody/unlock", {}), NotFound)
        by = self.user("bob", roles=["access"])
        await self.assertFailure(self.call("POST", "/v1/users/bob/unlock", {}, by=by), AccessDenied)


class OneTimeCodeTests(AuthCase):
    """A password and a code."""

    second_factor = "otp"

    async def test_security_row_10_code(self) -> None:
        """The present code and its neighbours open; others, and none, do not."""
        secret = await self.add_user()
        for steps in (-3, -2, 2, 3):
            await self.assertFailure(self.login(otp=self.code(secret, steps)), AuthenticationFailed)
            self.assertEqual(self.audit.events[-1]["wrong"], "one-time code")
        self.clock.advance(1000)
        await self.login(otp=self.code(secret, -1))
        await self.login(otp=self.code(secret))
        await self.login(otp=self.code(secret, 1))
        for code in (None, "", "000000", "x" * 60, "１２３４５６"):
            await self.assertFailure(self.login(otp=code, client_address="::1"), AuthenticationFailed)

    async def test_security_row_10_once(self) -> None:
        """A code works once; the one that confirmed the invite has worked already."""
        secret = await self.add_user()
        await self.assertFailure(self.login(otp=self.code(secret)), AuthenticationFailed)
        self.clock.advance(30)
        code = self.code(secret)
        await self.login(otp=code)
        await self.assertFailure(self.login(otp=code), AuthenticationFailed)
        await self.assertFailure(self.login(otp=self.code(secret, -1)), AuthenticationFailed)

    async def test_security_row_10_twenty_at_once(self) -> None:
        """Of twenty logins with one code, from as many addresses, one gets in."""
        secret = await self.add_user()
        self.clock.advance(60)
        code = self.code(secret)
        results = await DeferredList(
            [self.login(otp=code, client_address=f"192.0.2.{n}") for n in range(20)], consumeErrors=True
        )
        self.assertEqual([ok for ok, _ in results].count(True), 1)

    async def test_preference(self) -> None:
        """cluster_auth_preference overrides the configuration, and its removal ends that."""
        await self.add_user()
        preference = {"kind": "cluster_auth_preference", "spec": {"type": "local", "second_factor": "off"}}
        preference["metadata"] = {}
        await self.call("POST", "/v1/resources/cluster_auth_preference", preference)
        await self.login()
        await self.call("DELETE", "/v1/resources/cluster_auth_preference/cluster-auth-preference")
        await self.assertFailure(self.login(), AuthenticationFailed)


class InviteTests(AuthCase):
    """Links with which somebody sets a password."""

    second_factor = "otp"

    async def test_shown(self) -> None:
        """The link shows the user and a secret that stays the same."""
        made = await self.call("POST", "/v1/users", {"name": "alice", "ttl": 60})
        path = f"/v1/invites/{made['token']}"
        shown = await self.call("GET", path, by=self.proxy)
        self.assertEqual((shown["user"], shown["purpose"]), ("alice", "invite"))
        self.assertIn(shown["otp"]["secret"], shown["otp"]["uri"])
        self.assertEqual(await self.call("GET", path, by=self.proxy), shown)
        self.clock.advance(60)
        await self.assertFailure(self.call("GET", path, by=self.proxy), NotFound)

    async def test_security_row_11_at_rest(self) -> None:
        """No token is stored, its hash is."""
        made = await self.call("POST", "/v1/users", {"name": "alice"})
        token = await self.call("POST", "/v1/tokens", {"roles": ["db"]})
        stored = str(await self.server.backend.range("/"))
        self.assertNotIn(made["token"], stored)
        self.assertNotIn(token["token"], stored)
        self.assertNotIn(made["token"], str(self.audit.events))
        self.assertNotIn(token["token"], str(self.audit.events))

    async def test_security_row_11_once_in_parallel(self) -> None:
        """Of ten redemptions at once one sets the password, and it is that one's."""
        made = await self.call("POST", "/v1/users", {"name": "alice"})
        path = f"/v1/invites/{made['token']}"
        secret = (await self.call("GET", path, by=self.proxy))["otp"]["secret"]
        results = await DeferredList(
            [
                self.call("POST", path, {"password": f"password {n}", "otp": self.code(secret)}, by=self.proxy)
                for n in range(10)
            ],
            consumeErrors=True,
        )
        (winner,) = [n for n, (ok, _) in enumerate(results) if ok]
        self.clock.advance(60)
        await self.login(password=f"password {winner}", otp=self.code(secret))
        await self.assertFailure(self.call("GET", path, by=self.proxy), NotFound)

    async def test_refused_redemption(self) -> None:
        """A short password or a wrong code spoils nothing."""
        made = await self.call("POST", "/v1/users", {"name": "alice"})
        path = f"/v1/invites/{made['token']}"
        secret = (await self.call("GET", path, by=self.proxy))["otp"]["secret"]
        code = self.code(secret)
        for body in ({"password": "short", "otp": code}, {"password": "long enough", "otp": "123"}, {}):
            await self.assertFailure(self.call("POST", path, body, by=self.proxy), BadRequest)
        await self.call("POST", path, {"password": "long enough", "otp": code}, by=self.proxy)

    async def test_reset(self) -> None:
        """A reset ends the old password at once, and the links before it."""
        secret = await self.add_user()
        first = await self.call("POST", "/v1/users/alice/reset", {})
        second = await self.call("POST", "/v1/users/alice/reset", {"ttl": 600})
        self.clock.advance(60)
        await self.assertFailure(self.login(otp=self.code(secret)), AuthenticationFailed)
        await self.assertFailure(self.call("GET", f"/v1/invites/{first['token']}", by=self.proxy), NotFound)
        shown = await self.call("GET", f"/v1/invites/{second['token']}", by=self.proxy)
        self.assertEqual(shown["purpose"], "reset")
        self.assertNotEqual(shown["otp"]["secret"], secret)
        await self.assertFailure(self.call("POST", "/v1/users/nobody/reset", {}), NotFound)

    async def test_security_row_11_an_hour(self) -> None:
        """Links that nobody said more of live for an hour."""
        links = [await self.call("POST", "/v1/users", {"name": "alice"})]
        links.append(await self.call("POST", "/v1/users/alice/reset"))
        self.assertEqual({link["expires"] for link in links}, {rfc3339(self.clock.seconds() + 3600)})
        path = f"/v1/invites/{links[1]['token']}"
        self.clock.advance(3599)
        await self.call("GET", path, by=self.proxy)
        self.clock.advance(1)
        await self.assertFailure(self.call("GET", path, by=self.proxy), NotFound)

    async def test_ttl(self) -> None:
        """An invite lives at most 48 hours, a reset 24; refused before the user is made."""
        await self.assertFailure(self.call("POST", "/v1/users", {"name": "a", "ttl": 48 * 3600 + 1}), BadRequest)
        await self.assertFailure(self.call("GET", "/v1/resources/user/a"), NotFound)
        await self.call("POST", "/v1/users", {"name": "a", "ttl": 48 * 3600})
        await self.assertFailure(self.call("POST", "/v1/users/a/reset", {"ttl": 25 * 3600}), BadRequest)


class PasswordsTests(TestCase):
    """The threads."""

    async def test_security_row_7_two_at_once(self) -> None:
        """Never more than two hashes are computed at once, and the reactor is not one of their threads."""
        running: set[int] = set()
        most = []

        class Slow(PasswordHasher):
            def verify(self, *args: object) -> bool:
                running.add(threading.get_ident())
                most.append(len(running))
                result = PasswordHasher.verify(self, *args)
                running.discard(threading.get_ident())
                return result

        passwords = Passwords(reactor, Slow(time_cost=1, memory_cost=8192, parallelism=1))
        await passwords.start()
        self.addCleanup(passwords.stop)
        encoded = await passwords.hash("x")
        self.assertEqual(await gatherResults([passwords.verify(encoded, "x") for _ in range(10)]), [True] * 10)
        self.assertLessEqual(max(most), THREADS)
        self.assertNotIn(threading.get_ident(), running)

    async def test_too_many_wait(self) -> None:
        """Who would wait too long is told so."""
        passwords = Passwords(reactor, PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        await passwords.start()
        self.addCleanup(passwords.stop)
        results = await DeferredList([passwords.hash("x") for _ in range(220)], consumeErrors=True)
        self.assertEqual({type(r.value) for ok, r in results if not ok}, {LimitExceeded})
        await passwords.hash("x")


class ValuesTests(SynchronousTestCase):
    """Small facts."""

    def test_security_row_7_argon2id(self) -> None:
        """The hash is argon2id with 64 MiB."""
        self.assertTrue(default_hasher().hash("x").startswith("$argon2id$v=19$m=65536,t=3,p=1$"))

    def test_source(self) -> None:
        """One customer is one source."""
        self.assertEqual(source_of("2001:db8::1"), source_of("2001:db8::ffff"))
        self.assertNotEqual(source_of("2001:db8::1"), source_of("2001:db8:0:1::1"))
        self.assertEqual(source_of("::ffff:192.0.2.1"), source_of("192.0.2.1"))
        self.assertEqual(source_of("somewhere"), "somewhere")
