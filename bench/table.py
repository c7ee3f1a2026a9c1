"""Rounds by turns, their table, and what moved since an earlier one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from bench.workloads import Workload

#: Ways to the database: name -> connection string.
Ways = Mapping[str, str]


@attrs.frozen
class Row:
    """The rounds of a workload.

    :param figures: a way's figure of each round.
    :param compared: the proxy's figure of each round as a ratio to the direct one, or what it adds to that.
    """

    workload: Workload
    figures: dict[str, list[float]]
    compared: list[float]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Of what is compared: the first quartile, the median, the third."""
        return quartiles(self.compared)

    @property
    def met(self) -> bool:
        """Whether the median reaches the target."""
        middle, target = self.quartiles[1], self.workload.target
        return middle <= target if self.workload.difference else middle >= target

    def json(self) -> dict[str, Any]:
        """All of it."""
        low, middle, high = self.quartiles
        found = {"title": self.workload.title, "unit": self.workload.unit, "target": self.workload.target}
        kind = "difference" if self.workload.difference else "ratio"
        return {**found, "compared": kind, "median": middle, "low": low, "high": high, "figures": self.figures}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median, the third."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def measure(
    workload: Workload,
    ways: Ways,
    rounds: int,
    figure: Callable[[Workload, str], float],
    progress: Callable[[int, dict[str, float]], None],
) -> Row:
    """All ways by turns, each first in every other round, after one that does not count.

    :param ways: the first is what the second is compared with; others are shown beside them.
    :param progress: told of each round.
    """
    figures: dict[str, list[float]] = {way: [] for way in ways}
    for conninfo in ways.values():
        figure(workload, conninfo)
    for number in range(rounds):
        order = list(ways) if number % 2 == 0 else list(reversed(ways))
        found = {way: figure(workload, ways[way]) for way in order}
        for way, value in found.items():
            figures[way].append(value)
        progress(number + 1, found)
    first, second = list(ways)[:2]
    pairs = zip(figures[first], figures[second], strict=True)
    compared = [theirs - ours if workload.difference else theirs / ours for ours, theirs in pairs]
    return Row(workload, figures, compared)


HEADING = f"{'':38}{'direct':>10}{'proxy':>10}  {'compared':>9} {'quartiles':>15}{'target':>9}"


def line(row: Row) -> str:
    """One line of the table, those beside the proxy behind it."""
    workload, (low, middle, high) = row.workload, row.quartiles
    medians = {way: statistics.median(values) for way, values in row.figures.items()}
    first, second, *others = medians.values()
    form = "{:+.0f} " + workload.unit if workload.difference else "{:.3f}"
    spread = f"{low:+.0f} to {high:+.0f}" if workload.difference else f"{low:.3f}-{high:.3f}"
    target = f"{'≤' if workload.difference else '≥'} {workload.target:g}"
    beside = "".join(f"  {way} {value / first:.3f}" for way, value in zip(list(medians)[2:], others, strict=True))
    return (
        f"{workload.title:38}{first:10.0f}{second:10.0f}  {form.format(middle):>9} {spread:>15}{target:>9}"
        f"  {'met' if row.met else 'missed'}{beside}"
    )


def moved(row: Row, before: Mapping[str, Any]) -> str:
    """How a row's median stands to an earlier one's; "" when both spreads overlap."""
    low, middle, high = row.quartiles
    if low <= before["high"] and high >= before["low"]:
        return ""
    better = (middle > before["median"]) != row.workload.difference
    return f"{row.workload.title}: {before['median']:.3f} -> {middle:.3f}, {'better' if better else 'worse'}"
