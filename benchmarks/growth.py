"""Small calls in a store of 1,000,000 objects against one of 10,000.

    python -m benchmarks.growth [--dir DIR] [--keys 1000000] [--small 10000] [--repetitions 9] [--quick]

Writes go to new keys all over the key space and are deleted again, so the stores stay what they were, but for history.
Garbage is not collected meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import count

from benchmarks import runs
from benchmarks.driving import Driver, Load, deletes, heads, uploads
from benchmarks.findings import Finding, at_most
from benchmarks.listing import key_at, store_of
from benchmarks.measuring import Samples, by_round, note, print_table, quotient, us
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, served_together

GOAL = at_most(1.3)
_SMALL_BYTES = 4096
_NO_COLLECTION = {"gc.everySeconds": 0}
_seeds = count(1)

Loads = Mapping[str, Callable[[], Load]]


def loads(keys: int, calls: int) -> Loads:
    """One round of calls on a store of so many keys; what the write makes the delete removes."""
    drawn = random.Random(keys)
    made: list[str] = []

    def look_up() -> Load:
        return heads([key_at(drawn.randrange(keys), keys) for _ in range(calls)])

    def write() -> Load:
        seed = next(_seeds)
        made[:] = [f"{key_at(drawn.randrange(keys), keys)}-{seed}" for _ in range(calls)]
        return uploads(made, _SMALL_BYTES, seed=seed)

    return {"HeadObject": look_up, "WriteObject 4 KiB": write, "DeleteObject": lambda: deletes(made)}


def measure(run: Run, driver: Driver, servers: Mapping[int, Server]) -> Mapping[str, Mapping[int, Samples]]:
    """Samples for each call and size of store: the median call of each round."""
    rounds = {keys: loads(keys, run.sized(40, 4)) for keys in servers}
    found = {name: {keys: Samples() for keys in servers} for name in next(iter(rounds.values()))}
    for repetition in range(run.repetitions + 1):
        for name, samples in found.items():
            turn = list(servers.items())
            for keys, server in turn if repetition % 2 else reversed(turn):
                timing = driver.timing(server, rounds[keys][name](), median=True)
                if repetition:
                    samples[keys].add(timing)
    return found


def benchmark(run: Run) -> list[Finding]:
    driver = run.drivers[0]
    wanted = {keys: Wanted(store_of(run, keys), settings=_NO_COLLECTION) for keys in (run.small, run.keys)}
    with served_together(wanted) as servers:
        note(f"looking up, writing and deleting in stores of {run.small:,} and {run.keys:,} objects")
        found = measure(run, driver, servers)
    rows, findings = [], []
    for name, samples in found.items():
        small, large = samples[run.small], samples[run.keys]
        grown, cpu = by_round(quotient, large.wall, small.wall), by_round(quotient, large.cpu, small.cpu)
        rows.append([name, *map(us, (small.wall_median, large.wall_median, small.cpu_median, large.cpu_median))])
        findings.append(Finding(f"{name}, {run.keys:,} objects: time, {run.small:,} = 1", grown, GOAL))
        findings.append(Finding(f"{name}, {run.keys:,} objects: server CPU, {run.small:,} = 1", cpu, GOAL))
    sizes = [f"{run.small:,} objects", f"{run.keys:,} objects"]
    print_table("Growth (µs per call, one caller)", ["Call", *sizes, *(f"CPU, {size}" for size in sizes)], rows)
    return findings


if __name__ == "__main__":
    runs.command("benchmarks.growth", __doc__, benchmark)
