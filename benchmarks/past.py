"""What a page of an earlier moment costs against one of the present, and what keys cost that did not exist then.

    python -m benchmarks.past [--dir DIR] [--keys 1000000] [--repetitions 41] [--quick]

Every key has ten versions. Four fifths of the keys were there at the moment that is asked about, which lies in the
middle of their history; all versions of the others, below `late/`, came after it. With --dir the store is kept; a
million keys take some three minutes to build and 4 GB.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import building, runs
from benchmarks.findings import Finding, at_most
from benchmarks.listing import LEAST_REPETITIONS, encoded
from benchmarks.measuring import by_round, ms, note, print_table, quotient, ratio, side_by_side
from benchmarks.runs import Run
from gestalt_cas import Store
from gestalt_cas.objects import MAX_PAGE, ListQuery
from gestalt_cas.operations import pages

VERSIONS = 10
PAGE_GOAL, WALK_GOAL, LATE_GOAL = at_most(3.0), at_most(5.0, "µs"), at_most(130, "ms")
_LATE = "late/"


def key_at(index: int) -> str:
    return f"object-{index:08d}"


def store_of(run: Run) -> tuple[Path, int, int]:
    """The store, how many of its keys were there at the moment, and the moment's sequence."""
    early = run.keys * 4 // 5
    keys = [key_at(index) for index in range(early)]
    late = [f"{_LATE}{key_at(index)}" for index in range(run.keys - early)]
    directory = building.with_history(run.root / f"past-{run.keys}", [keys, late], VERSIONS)
    return directory, early, early * VERSIONS // 2


def compare_pages(store: Store, early: int, moment: int, repetitions: int) -> list[Finding]:
    """A page of 1,000 keys that all were there, now and then, each time another one."""
    drawn = random.Random(repetitions)
    last = max(1, early - MAX_PAGE - 1)
    starts = [drawn.randrange(last) for _ in range(repetitions + 16)]

    def page(as_of: str, answer: Callable[..., object]) -> Callable[[int], object]:
        return lambda n: answer(store.list_page(ListQuery(start_after=key_at(starts[n])), as_of=as_of))

    found = side_by_side(
        {
            f"{when}, {what}": page(as_of, answer)
            for when, as_of in (("now", ""), ("then", str(moment)))
            for what, answer in (("reply included", encoded), ("page alone", lambda page: page))
        },
        repetitions,
    )
    now, then = found["now, reply included"], found["then, reply included"]
    print_table(
        f"Pages of 1,000 keys of {VERSIONS} versions (ms)",
        ["Page", "Time", "CPU"],
        [[name, ms(samples.wall_median), ms(samples.cpu_median)] for name, samples in found.items()],
    )
    times = by_round(quotient, then.cpu, now.cpu)
    return [Finding("ListObjects as of an earlier moment, reply included: CPU, current page = 1", times, PAGE_GOAL)]


def compare_walks(store: Store, late: int, moment: int, repetitions: int) -> list[Finding]:
    """Keys that did not exist then: what one costs, and how long a page takes that meets nothing else."""
    query = ListQuery(prefix=_LATE)
    usual = pages.WALK_SECONDS
    page = side_by_side({"page": lambda _: store.list_page(query, as_of=str(moment))}, repetitions)["page"]
    pages.WALK_SECONDS = 3600.0
    try:
        started = time.thread_time()
        found = store.list_page(query, as_of=str(moment))
        walked = (time.thread_time() - started) / late
    finally:
        pages.WALK_SECONDS = usual
    if found.objects or found.token:
        raise AssertionError("keys that came later are listed")
    print_table(
        f"Keys that did not exist then ({late:,})",
        ["Measure", "Value", "Of the limit"],
        [
            ["CPU per key (µs)", f"{walked * 1e6:.2f}", ratio(walked * 1e6, WALK_GOAL.bound)],
            ["page that ends early (ms)", ms(page.wall_median), ratio(page.wall_median, usual)],
        ],
    )
    return [
        Finding("ListObjects as of an earlier moment: CPU per key that did not exist", walked * 1e6, WALK_GOAL),
        Finding("ListObjects as of an earlier moment: page of nothing else", page.wall_median * 1e3, LATE_GOAL),
    ]


def benchmark(run: Run) -> list[Finding]:
    repetitions = run.repetitions if run.quick else max(run.repetitions, LEAST_REPETITIONS)
    directory, early, moment = store_of(run)
    note("measuring pages of the past")
    with Store.open(directory) as store:
        return [
            *compare_pages(store, early, moment, repetitions),
            *compare_walks(store, run.keys - early, moment, repetitions),
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    runs.command("benchmarks.past", __doc__ or "", benchmark, arguments)


if __name__ == "__main__":
    main()
