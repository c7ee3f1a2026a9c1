"""A short run of the fuzz harness, and that it would notice."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from tests.pgwire import fuzz


class FuzzTests(SynchronousTestCase):
    """Mutations and random bytes, in little."""

    def test_short_run(self) -> None:
        """Damaged conversations are refused or read, and the run can be repeated."""
        refused = fuzz.run(30_000, seed=1)
        self.assertTrue(6_000 < refused < 29_000, refused)

    def test_same_seed_same_inputs(self) -> None:
        """A failure is found again by its seed."""
        first, second = (fuzz.mutate(random.Random(7), fuzz.FRONTEND) for _ in range(2))
        self.assertEqual(first, second)

    def test_it_notices(self) -> None:
        """An exception of another kind is a failure of the run."""

        def faulty(_: random.Random, data: bytes) -> None:
            data[999]

        self.patch(fuzz, "TARGETS", [(faulty, fuzz.FRONTEND)])
        self.assertRaises(fuzz.Broken, fuzz.run, 10, 1)
