"""Timing side by side, and Markdown tables of what came out.

Times of one run are compared only with each other: every repetition takes all candidates in turn, the order reversed
each time, so that whatever else the machine does falls on all of them. Medians are shown; a ratio that a goal is held
against is the median of the ratios of the rounds, beside the lowest and the highest. CPU time is that of the calling
thread, or of the server that was called; it is far steadier than the clock on a machine that others use too.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

from gestalt_cas.sql import sqlite

Name = TypeVar("Name", str, int)


class Timing(NamedTuple):
    """Seconds per call: by the clock, and of CPU."""

    wall: float
    cpu: float


@dataclass
class Samples:
    """The timings of one candidate, one for each repetition."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, timing: Timing) -> None:
        self.wall.append(timing.wall)
        self.cpu.append(timing.cpu)

    @property
    def wall_median(self) -> float:
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu)


class Spread(NamedTuple):
    """A figure of several rounds: its median, and the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))


def by_round(of: Callable[..., float], *series: Sequence[float]) -> Spread:
    """A figure taken in each round from what the candidates had in that round."""
    return Spread.of(of(*values) for values in zip(*series, strict=True))


def quotient(value: float, base: float) -> float:
    """`value` as a multiple of `base`; not a number where a tiny run measured nothing."""
    return value / base if base else math.nan


def timed(run: Callable[[], object], calls: int = 1) -> Timing:
    """Time one run; `calls` is how many operations it holds, each of which gets its share."""
    cpu, wall = time.thread_time(), time.perf_counter()
    run()
    return Timing((time.perf_counter() - wall) / calls, (time.thread_time() - cpu) / calls)


def in_turn(
    candidates: Mapping[Name, Callable[[int], Timing]], repetitions: int, *, warm_up: int = 2
) -> dict[Name, Samples]:
    """Run every candidate `repetitions` times, in turn; each is given the repetition's number."""
    found = {name: Samples() for name in candidates}
    for repetition in range(repetitions + warm_up):
        turn = list(candidates.items())
        for name, run in turn if repetition % 2 else reversed(turn):
            timing = run(repetition)
            if repetition >= warm_up:
                found[name].add(timing)
    return found


def side_by_side(
    candidates: Mapping[Name, Callable[[int], object]], repetitions: int, *, calls: int = 1, warm_up: int = 2
) -> dict[Name, Samples]:
    """The same for plain functions, which are timed here."""

    def timing(run: Callable[[int], object]) -> Callable[[int], Timing]:
        return lambda repetition: timed(partial(run, repetition), calls)

    return in_turn({name: timing(run) for name, run in candidates.items()}, repetitions, warm_up=warm_up)


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


def ratio(value: float, base: float) -> str:
    """The quotient in words; a dash where a tiny run measured nothing."""
    return f"{value / base:.2f}" if base else "-"


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table below a heading; the first column is text, the others are numbers."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    print(f"\n### {title}\n")
    for number, line in enumerate(lines):
        cells = [
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print(f"| {' | '.join(cells)} |")
        if number == 0:
            print(f"| {' | '.join('-' * (width - bool(at)) + ':' * bool(at) for at, width in enumerate(widths))} |")


def print_machine(directory: Path) -> None:
    """Print what the numbers were measured on; `directory` is where the stores were."""
    print(
        f"\nMeasured on {os.cpu_count()} cores ({_processor()}), Linux {platform.release()}, "
        f"{_file_system(directory)}; "
        f"Python {platform.python_version()}, {sqlite.describe()}; load average {os.getloadavg()[0]:.1f} at the end."
    )


def note(text: str) -> None:
    """Say on stderr what takes time now; stdout holds the tables only."""
    print(text, file=sys.stderr, flush=True)


def place(directory: Path | None) -> AbstractContextManager[str | Path]:
    """Where the stores go: `directory`, which is kept, or a temporary one."""
    return nullcontext(directory) if directory else TemporaryDirectory(prefix="gestalt-cas-bench-")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`."""
    found = ("", "unknown file system")
    target = f"{directory.resolve()}/"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, kind = line.split()[:3]
        point = mounted.rstrip("/") + "/"
        if target.startswith(point) and len(point) > len(found[0]):
            found = (point, kind)
    return found[1]
