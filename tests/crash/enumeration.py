"""Which of the states that a crash may leave are looked at: all where few changes are pending, else a selection.

For each prefix of the log: every subset of the pending changes when there are at most EXHAUSTIVE of them. Else none,
all, each single one lost, each single one there alone, the pending changes of each file or directory lost together and
there alone, each write torn in several ways with the rest there and with the later ones lost, and random subsets from a
seed. Torn variants are looked at in both cases. Where more than MANY are pending (a store's 256 directories being made)
the single ones are a sample, and only every 16th prefix is looked at.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from crash.disk import KEPT, LOST, Change, Choices, Disk, Recording
from crash.shim import Op

EXHAUSTIVE, MANY = 6, 40


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to come to a state: the number of entries that were executed, and what became of the pending ones."""

    position: int
    choices: Choices


def systematic(pending: list[Change]) -> Iterator[dict[int, int]]:
    """The choices that are looked at at every prefix."""
    numbers = [change.number for change in pending]
    yield {}
    if _is_one_of_many(pending):
        return
    if len(numbers) <= EXHAUSTIVE:
        for lost in itertools.product((False, True), repeat=len(numbers)):
            yield {number: LOST for number, is_lost in zip(numbers, lost, strict=True) if is_lost}
    else:
        yield dict.fromkeys(numbers, LOST)
        for number in numbers if len(numbers) <= MANY else [*numbers[:: len(numbers) // MANY], *numbers[-5:]]:
            yield {number: LOST}
            yield {other: LOST for other in numbers if other != number}
        for node in sorted({change.node for change in pending}):
            yield {change.number: LOST for change in pending if change.node == node}
            yield {change.number: LOST for change in pending if change.node != node}
    yield from _torn(pending)


def _torn(pending: list[Change]) -> Iterator[dict[int, int]]:
    for index, change in enumerate(pending):
        later = {other.number: LOST for other in pending[index + 1 :]}
        for mask in _masks(change):
            yield {change.number: mask}
            if later:
                yield {change.number: mask, **later}


def _masks(change: Change) -> list[int]:
    """Ways to tear a write: no sector though the file grew, the first half, the second, all but the last, every other.

    A write within one sector is there or not, but the file may have grown by it all the same.
    """
    count = change.sectors
    if count < 2:
        return [0] if count else []
    whole, half = (1 << count) - 1, (1 << count // 2) - 1
    return sorted({0, half, whole ^ half, whole >> 1, int("01" * count, 2) & whole} - {whole})


def drawn(pending: list[Change], choose: random.Random) -> dict[int, int]:
    """A random subset of the pending changes, some of the writes torn at random."""
    choices: dict[int, int] = {}
    probability = choose.choice((0.1, 0.5, 0.9))
    for change in pending:
        if choose.random() < probability:
            choices[change.number] = LOST
        elif change.sectors > 1 and choose.random() < 0.1:
            choices[change.number] = choose.getrandbits(change.sectors)
    return choices


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to look at: the share of the prefixes, and on each the systematic choices and some random ones."""

    seed: int
    share: float
    extra: int
    systematic: bool
    positions: frozenset[int] | None = None
    """The only prefixes to look at; None: all."""
    kept: float = 1.0
    """The share of the systematic choices."""

    def takes(self, position: int, choose: random.Random) -> bool:
        return choose.random() < self.share if self.positions is None else position in self.positions


def candidates(recording: Recording, plan: Plan) -> Iterator[tuple[Disk, Candidate]]:
    """The candidates of a recording, prefix by prefix; the disk that comes with each is the model at its prefix."""
    disk, choose, keep = Disk(recording), random.Random(plan.seed), random.Random(plan.seed)
    yield disk, Candidate(0, {})
    for _ in recording.entries:
        if not disk.step() or not plan.takes(disk.position, choose):
            continue
        pending = disk.pending()
        for choices in systematic(pending) if plan.systematic else []:
            if keep.random() < plan.kept:
                yield disk, Candidate(disk.position, choices)
        if len(pending) > EXHAUSTIVE and not _is_one_of_many(pending):
            for _ in range(plan.extra):
                yield disk, Candidate(disk.position, drawn(pending, choose))


def _is_one_of_many(pending: list[Change]) -> bool:
    """Whether this prefix stands for many like it: more and more directories made and not synced yet."""
    return len(pending) > MANY and pending[-1].entry.op is Op.MKDIR and len(pending) % 16 > 0


def normal(choices: Choices) -> dict[int, int]:
    return {number: choice for number, choice in choices.items() if choice != KEPT}
