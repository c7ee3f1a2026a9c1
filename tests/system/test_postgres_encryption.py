"""Encryption negotiation: every combination of what libpq can be told, and the outcome with its first words."""

from __future__ import annotations

from unittest import SkipTest

from tests.system.support import run
from tests.system.versions import Base

WELCOME = "in"
#: The proxy's words to who does not encrypt, and to who has no certificate; libpq's own to who is misled.
PLAIN = "this proxy accepts encrypted connections only"
STRANGER = "a client certificate is needed; run: tsh db login NAME"
WEAK = "weak sslmode"

#: sslmode, sslnegotiation -> with a certificate, without one.
TABLE = {
    # libpq sends its startup in the clear, and has nothing else to try.
    ("disable", "postgres"): (PLAIN, PLAIN),
    # ... and tries TLS when that is refused.
    ("allow", "postgres"): (WELCOME, STRANGER),
    # When TLS is refused by words it tries in the clear, and shows both answers.
    ("prefer", "postgres"): (WELCOME, STRANGER),
    ("require", "postgres"): (WELCOME, STRANGER),
    ("verify-ca", "postgres"): (WELCOME, STRANGER),
    ("verify-full", "postgres"): (WELCOME, STRANGER),
    # Without a request there is no way back, so libpq refuses modes that would need one.
    ("disable", "direct"): (WEAK, WEAK),
    ("allow", "direct"): (WEAK, WEAK),
    ("prefer", "direct"): (WEAK, WEAK),
    ("require", "direct"): (WELCOME, STRANGER),
    ("verify-ca", "direct"): (WELCOME, STRANGER),
    ("verify-full", "direct"): (WELCOME, STRANGER),
}


class NegotiationTests(Base):
    """psql 18."""

    def setUp(self) -> None:
        super().setUp()
        if self.version < 17:
            raise SkipTest("psql before 17 knows no sslnegotiation")

    def attempt(self, mode: str, negotiation: str, *, certificate: bool, **more: str) -> str:
        """``in``, or psql's words."""
        given = {**self.settings, "sslmode": mode, "sslnegotiation": negotiation, "user": "alice", **more}
        given["dbname"] = "metrics"
        if not certificate:
            given |= {"sslcert": "/nowhere", "sslkey": "/nowhere"}
        conninfo = " ".join(f"{key}='{value}'" for key, value in given.items())
        command = [*self.world.client("psql"), "-X", "-q", "-A", "-t", "-c", f"SELECT '{WELCOME}'", conninfo]
        said = run(command, cwd=self.alice.home, environment=self.alice.environment, fails=None)
        return said.out.strip() if said.code == 0 else said.err

    def test_table(self) -> None:
        """All of them."""
        for (mode, negotiation), outcomes in TABLE.items():
            for certificate, expected in zip((True, False), outcomes, strict=True):
                said = self.attempt(mode, negotiation, certificate=certificate)
                if expected == WELCOME:
                    self.assertEqual(said, WELCOME, (mode, negotiation))
                else:
                    self.assertIn(expected, said, (mode, negotiation, certificate))

    def test_other_authority(self) -> None:
        """Who verifies and knows another authority does not come in; who does not verify does."""
        other = str(self.world.directory / "server.cas")
        for negotiation in ("postgres", "direct"):
            for mode in ("verify-ca", "verify-full"):
                said = self.attempt(mode, negotiation, certificate=True, sslrootcert=other)
                self.assertIn("certificate verify failed", said)
        said = self.attempt("require", "postgres", certificate=True, sslrootcert="/nowhere")
        self.assertEqual(said, WELCOME)
