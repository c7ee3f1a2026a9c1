"""Events as they stand in the agent's spool, taken out by whole lines.

::

    {"seq":1764000000000000,"event":{"ei":0,"event":"db.session.start",...}}
    {"seq":1764000000000001,"event":{"ei":1,"event":"db.session.query",...}}

:func:`pure_whole` has a compiled twin, which stands in for it where that was built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from teleport_db.audit.events import EncodedEvent

__all__ = ["Batch", "pure_whole", "whole"]


class Batch(Sequence[tuple[int, EncodedEvent]]):
    """Events with their numbers; only who looks at one's fields has it decoded.

    :param first: the number of the first.
    :param data: the spool's lines, with their ends; ``count`` of them, which are ``size`` bytes.
    """

    __slots__ = ("_count", "data", "first", "size")

    def __init__(self, first: int, data: bytes, count: int, size: int) -> None:
        self.first = first
        self.data = data
        self._count, self.size = count, size

    @property
    def last(self) -> int:
        """The number of the last."""
        return self.first + self._count - 1

    @property
    def lines(self) -> list[bytes]:
        """Without their ends."""
        return self.data[: self.size].split(b"\n")[:-1]

    def count_ending(self, ending: bytes) -> int:
        """How many lines end so."""
        return self.data.count(ending + b"\n", 0, self.size)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> tuple[int, EncodedEvent]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, EncodedEvent]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        lines, numbers = self.lines, range(self.first, self.first + self._count)
        if isinstance(index, slice):
            return [_decoded(number, line) for number, line in zip(numbers[index], lines[index], strict=True)]
        return _decoded(numbers[index], lines[index])

    def __iter__(self) -> Any:
        return iter(self[:])


def _decoded(number: int, line: bytes) -> tuple[int, EncodedEvent]:
    before = b'{"seq":%d,"event":' % number
    return number, EncodedEvent(line[len(before) : -1].decode("ascii"))


def pure_whole(data: bytes, first: int, most: int) -> tuple[int, int]:
    """How many records ``data`` begins with, and how many bytes they are.

    :param first: the number of the first of them; each of the others has the next.
    :param most: that are wanted.

    A record is a line with its end, in ASCII, and an object in the event's place; whether that is JSON is not looked
    at.  What follows the last of them is cut off, or no record.
    """
    number = position = 0
    while number < most and (end := data.find(b"\n", position)) >= 0:
        line = data[position:end]
        if not line.startswith(b'{"seq":%d,"event":{' % (first + number)) or not line.endswith(b"}}"):
            break
        if not line.isascii():
            break
        number, position = number + 1, end + 1
    return number, position


try:
    from teleport_db._speed import whole
except ImportError:  # it was installed without a compiler
    whole = pure_whole
