"""Who runs when, and the arena in which that is played."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Self

from gestalt_cas import Store
from interleavings.judge import WORK
from interleavings.processes import END, Prepare, Process, nothing_more
from interleavings.scenarios import PAIRS

Segments = list[tuple[str, int]]
"""Who runs, "a" or "b", and for how many steps; what is left is run to the end, the first to come first."""
Schedule = tuple[str, str, Segments]
"""Scenario, opponent, segments."""


MOST_PAIRS = 7500
"""Only rollbacks, batches and backups have more."""


class Fault(Exception):
    """A schedule after which something is wrong."""


class Arena:
    """The three processes, and the schedules that they are put through."""

    def __init__(
        self,
        directory: Path,
        patch: Callable[[], AbstractContextManager[object]] = nullcontext,
        prepare: Prepare = nothing_more,
    ) -> None:
        Store.open(directory).close()
        self.keeper = Process(directory, WORK, controlled=False)
        with patch():
            self.a, self.b = (Process(directory, WORK, prepare=prepare) for _ in range(2))
        self.turn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.a, self.b, self.keeper):
            process.close()

    def play(self, scenario: str, opponent: str, segments: Iterable[tuple[str, int]]) -> tuple[int, int]:
        """Put the two through one schedule; how many steps each took. Raises Fault."""
        self.turn += 1
        segments = list(segments)
        self.keeper.call("prepare", scenario, self.turn)
        self.a.begin(scenario, self.turn)
        self.b.begin(opponent, self.turn)
        for who, steps in segments:
            (self.a if who == "a" else self.b).go(steps)
        if self._finish(first=segments[0][0] if segments else "a"):
            faults = self.keeper.call("judge", scenario, opponent, self.turn, self.a.result, self.b.result)
        else:
            faults = ["each waits for the other"]
        if faults:
            schedule = " ".join(repr(part) for part in (scenario, opponent, json.dumps(segments)))
            raise Fault(f"replay {schedule}\n  " + "\n  ".join(faults))
        self.keeper.call("clean")
        return self.a.steps, self.b.steps

    def _finish(self, first: str) -> bool:
        """Run both to their ends; False when they cannot get there."""
        order = (self.a, self.b) if first == "a" else (self.b, self.a)
        waits = 0  # rounds in which both had to; in the first, one may have waited for what the other then let go of
        while waits < 3 and not (self.a.ended and self.b.ended):
            states = [process.go() for process in order]
            waits = waits + 1 if all(state == "blocked" for state in states) else 0
        return waits < 3

    def pairs(self, scenario: str, opponent: str) -> list[Segments]:
        """Every stop of one with every stop of the other, each of them first in turn."""
        alone = [self.play(scenario, opponent, [(who, END)]) for who in "ab"]
        most = [max(steps) for steps in zip(*alone, strict=True)]
        return [
            order
            for a in range(1, most[0] + 1)
            for b in range(1, most[1] + 1)
            for order in ([("a", a), ("b", b)], [("b", b), ("a", a)])
        ]


def randomly(chance: random.Random) -> Segments:
    """A schedule with many switches."""
    length = chance.choice([4, 12, 40])
    return [(chance.choice("ab"), chance.randint(1, length)) for _ in range(chance.randint(3, 16))]


def sample(arena: Arena, chance: random.Random, count: int) -> Iterator[Schedule]:
    """For each scenario and opponent in turn a pair of stops, then a random schedule; `count` in total."""
    known = {pair: arena.pairs(*pair) for pair in PAIRS}
    for number in range(count):
        pair = PAIRS[number // 2 % len(PAIRS)]
        yield (*pair, randomly(chance) if number % 2 else chance.choice(known[pair]))


def everything(arena: Arena, chance: random.Random, scenario: str, opponent: str) -> Iterator[Schedule]:
    """All pairs of stops, of the longest scenarios MOST_PAIRS by chance, and a tenth as many random schedules."""
    schedules = arena.pairs(scenario, opponent)
    if len(schedules) > MOST_PAIRS:
        schedules = sorted(chance.sample(schedules, MOST_PAIRS))
    more = (randomly(chance) for _ in range(len(schedules) // 10))
    return ((scenario, opponent, segments) for segments in chain(schedules, more))


def shuffled(arena: Arena, chance: random.Random, scenario: str, opponent: str) -> Iterator[Schedule]:
    """All pairs of stops of one scenario, in some order, but those first in which one does all its work at a stop.

    They are few, some hundred of thousands, and most faults are windows of one process through which the other only has
    to go: by chance alone a window of one step is found after a thousand schedules.
    """
    schedules = arena.pairs(scenario, opponent)
    most = {who: max(dict(segments)[who] for segments in schedules) for who in "ab"}
    chance.shuffle(schedules)
    schedules.sort(key=lambda segments: segments[1][1] < most[segments[1][0]])
    return ((scenario, opponent, segments) for segments in schedules)
