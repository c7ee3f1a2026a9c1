"""Records taken out of a spool: by Python, and by its compiled twin."""

from __future__ import annotations

import random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.audit.spooled import Batch, pure_whole, whole

compiled = None
if whole is pure_whole:
    compiled = "the extension was not built: there is no compiler, or no header of Python's, here"


def lines(first: int, count: int) -> bytes:
    return b"".join(
        b'{"seq":%d,"event":{"n":%d,"pad":"%b"}}\n' % (n, n, b"x" * (n % 7)) for n in range(first, first + count)
    )


class WholeCases:
    """What holds of either implementation."""

    whole = staticmethod(pure_whole)

    def test_cut_anywhere(self: Any) -> None:
        """What is cut off is left; numbers go on over any count of digits."""
        for first in (1, 8, 95, 999_999_999_999_995):
            data = lines(first, 20)
            ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
            for cut in range(len(data) + 1):
                found = [end for end in ends if end <= cut]
                self.assertEqual(self.whole(data[:cut], first, 100), (len(found), found[-1] if found else 0))
            for most in range(21):
                self.assertEqual(self.whole(data, first, most), (most, ends[most - 1] if most else 0))

    def test_no_records(self: Any) -> None:
        """A wrong number, no object, a byte that is no ASCII, zeros: they are the end."""
        good = lines(7, 2)
        for bad in (
            *(b"\n", b"{}\n", b'{"seq":9}\n', b'{"seq":9,"event":[]}\n', b'{"seq":9,"event":{}\n', b"\0" * 100),
            *(b'{"seq":8,"event":{}}\n', b'{"seq":90,"event":{}}\n', b' {"seq":9,"event":{}}\n'),
            *(b'{"seq":9,"event":{"a":"\xc3\xa9"}}\n', b'{"seq":9,"event":{"pad":"1234567\x80"}}\n'),
            *(b'{"seq":9,"event":{"\x80":"12345678"}}\n', b'{"seq":9,"event":{}} \n', b'{"seq":9,"event":{\n'),
        ):
            self.assertEqual(self.whole(good + bad + lines(10, 1), 7, 100), (2, len(good)), bad)
        self.assertEqual(self.whole(good + b'{"seq":9,"event":{}}\n', 7, 100)[0], 3)
        self.assertEqual(self.whole(b"", 7, 100), (0, 0))


class PureTests(WholeCases, SynchronousTestCase):
    """In Python."""


class CompiledTests(WholeCases, SynchronousTestCase):
    """By the extension."""

    whole = staticmethod(whole)
    skip = compiled

    def test_same(self) -> None:
        """Whatever was changed in them, both find the same."""
        chance = random.Random(5)
        for _ in range(20_000):
            first = chance.choice((1, 9, 98))
            data = bytearray(lines(first, 4))
            for _ in range(chance.randrange(4)):
                at = chance.randrange(len(data))
                data[at : at + chance.randrange(2)] = chance.choice((b"", b"}", b"\n", b"\xff", b"9", b"{"))
            self.assertEqual(whole(bytes(data), first, 4), pure_whole(bytes(data), first, 4), data)


class BatchTests(SynchronousTestCase):
    """Events of it."""

    def test_sequence(self) -> None:
        """It is one of numbers and events, and what stands behind its last line is none of it."""
        data = lines(5, 4)
        batch = Batch(5, data + lines(9, 1), 4, len(data))
        expected = [(n, {"n": n, "pad": "x" * n}) for n in range(5, 7)] + [
            (7, {"n": 7, "pad": ""}),
            (8, {"n": 8, "pad": "x"}),
        ]
        self.assertEqual((len(batch), batch.last), (4, 8))
        self.assertEqual(list(batch), expected)
        self.assertEqual([batch[at] for at in range(-4, 4)], expected * 2)
        self.assertEqual(batch[1:-1], expected[1:-1])
        self.assertRaises(IndexError, batch.__getitem__, 4)
        self.assertEqual(batch.lines, data.splitlines())
        self.assertEqual((batch.count_ending(b'"}}'), batch.count_ending(b'""}}')), (4, 1))
