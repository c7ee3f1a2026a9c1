"""kill -9 of auth, proxy and agent under load, a few rounds of each; ``script/crash`` runs as many as one likes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.crash.apart import AGENT, AUTH, PROXY, Apart, build
from tests.system.crash.reckoning import QUERY, RESULT, words
from tests.system.crash.rounds import Campaign
from tests.system.support import shared

ROUNDS, SEED = 2, 1


class RoundTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world: Apart = shared(build)

    def rounds(self, victim: str) -> Campaign:
        """All agree afterwards."""
        campaign = Campaign(self.world, seed=SEED)
        self.addCleanup(campaign.close)
        campaign.run(victim, ROUNDS)
        self.assertEqual(campaign.violations, [])
        self.assertEqual(len(campaign.kills), ROUNDS + 1)
        self.assertTrue(any(kill.died.endswith(f"at: {kill.point}") for kill in campaign.kills))
        self.assertGreater(campaign.ledger.complete, 100)
        return campaign

    def test_agent(self) -> None:
        """What a client saw complete is in the log with its result; and anything less would be noticed."""
        campaign = self.rounds(AGENT)
        reckoning = campaign.reckoning
        self.assertEqual(list(reckoning.compared()), [])
        complete = {word for word, statement in campaign.ledger.statements.items() if statement.seen}
        sid, at = next(
            (sid, at)
            for sid, events in reckoning.sessions.items()
            for at, event in enumerate(events)
            if event["event"] == QUERY and complete.intersection(words(event))
        )
        events = reckoning.sessions[sid]
        number = events[at]["statement_id"]
        result = next(event for event in events if event["event"] == RESULT and event["statement_id"] == number)
        for change, noticed in (
            (lambda: events.remove(result), "without a result"),
            (lambda: events.remove(events[at]), "not in the log"),
            (lambda: events.append(result), "2 results"),
            (lambda: events.append(events[at]), "2 queries"),
            (events.pop, "the last event is"),
            (lambda: result.update(success=not result["success"]), "and the log has"),
            (lambda: reckoning.sources["auth"].pop(3), "source auth: number"),
        ):
            before, numbers, fields = list(events), list(reckoning.sources["auth"]), dict(result)
            change()
            self.assertIn(noticed, "\n".join(reckoning.compared()))
            events[:], reckoning.sources["auth"] = before, numbers
            result.update(fields)
        self.assertEqual(list(reckoning.compared()), [])

    def test_auth(self) -> None:
        """Sessions go on while it is away, and the log has no gap and no duplicate."""
        self.rounds(AUTH)

    def test_proxy(self) -> None:
        """Its sessions end, and each has its end in the log."""
        self.rounds(PROXY)
