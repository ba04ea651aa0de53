"""What was found against what is to be reached: the rows of the table at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.measuring import Spread, print_table

LIMIT = "the limit, not ours"
"""Instead of a verdict, for a server that does the least that is possible: what it misses, ours cannot reach."""


class Goal(NamedTuple):
    """A bound in a unit of its own: at least (or at most) `bound`."""

    bound: float
    unit: str = "x"
    at_least: bool = False

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {with_unit(self.bound, self.unit)}"

    def reached_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def at_least(bound: float, unit: str = "x") -> Goal:
    return Goal(bound, unit, at_least=True)


def at_most(bound: float, unit: str = "x") -> Goal:
    return Goal(bound, unit)


class Finding(NamedTuple):
    """One row. `unjudged` says why the goal does not count in this run; "" when it does."""

    what: str
    figure: float | Spread
    goal: Goal
    unjudged: str = ""

    @property
    def value(self) -> float:
        return self.figure.median if isinstance(self.figure, Spread) else self.figure

    @property
    def verdict(self) -> str:
        if self.unjudged or math.isnan(self.value):
            return self.unjudged or "nothing measured"
        return "yes" if self.goal.reached_by(self.value) else "NO"


def with_unit(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{unit if unit == 'x' else f' {unit}' if unit else ''}"


def print_findings(findings: Sequence[Finding]) -> None:
    print_table(
        "Measured against the goals",
        ["What", "Measured", "Lowest", "Highest", "Goal", "Reached"],
        [
            [found.what, with_unit(found.value, found.goal.unit), *_range(found), str(found.goal), found.verdict]
            for found in findings
        ],
    )


def _range(found: Finding) -> list[str]:
    if not isinstance(found.figure, Spread):
        return ["", ""]
    return [with_unit(value, found.goal.unit) for value in found.figure[1:]]
