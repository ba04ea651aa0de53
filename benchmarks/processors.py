"""What it brings that the threads which need the interpreter share a processor (`threads.oneProcessor`).

    python -m benchmarks.processors [--dir DIR] [--repetitions 9] [--quick]

The same server twice, with and without, in turn; every payload that is written is new. Time per call, with one caller
that of the median call, and the server's CPU per call. With one processor only there is no difference.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping

from benchmarks import building, runs
from benchmarks.driving import Driver, Load, downloads, heads, uploads
from benchmarks.findings import Finding
from benchmarks.measuring import Samples, Timing, by_round, in_turn, ms, note, print_table, quotient, ratio
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, served_together
from benchmarks.syncing import MIB

TOGETHER, ANYWHERE = "together", "anywhere"
CALLERS = 16
SMALL_BYTES = 4096

Make = Callable[[int], Load]
"""A load whose payloads and new keys follow from a number."""


def loads(run: Run, kept: str, large: str) -> dict[str, tuple[Make, bool]]:
    """Each load, and whether the median call counts; `kept` and `large` are keys of objects."""
    large_bytes = run.sized(64 * MIB, MIB)

    def writes(calls: int, size: int, callers: int) -> Make:
        return lambda seed: uploads([f"{seed:06d}/{at:05d}" for at in range(calls)], size, seed=seed, callers=callers)

    many, few = run.sized(1600, 8), run.sized(200, 4)
    return {
        f"HeadObject, {CALLERS} callers": (lambda _: heads([kept] * many, CALLERS), False),
        "HeadObject, one caller": (lambda _: heads([kept] * few), True),
        f"ReadObject 4 KiB, {CALLERS} callers": (lambda _: downloads(kept, many, CALLERS), False),
        f"WriteObject 4 KiB, {CALLERS} callers": (writes(many // 2, SMALL_BYTES, CALLERS), False),
        "WriteObject 4 KiB, one caller": (writes(few // 2, SMALL_BYTES, 1), True),
        f"ReadObject {large_bytes >> 20} MiB": (lambda _: downloads(large, 2), False),
        f"ReadObject {large_bytes >> 20} MiB, 4 callers": (lambda _: downloads(large, 8, 4), False),
        f"WriteObject {large_bytes >> 20} MiB": (writes(2, large_bytes, 1), False),
    }


def measure(run: Run, driver: Driver, found: Mapping[str, Server], make: Make, *, median: bool) -> dict[str, Samples]:
    number = 0

    def one(server: Server) -> Callable[[int], Timing]:
        def measured(_: int) -> Timing:
            nonlocal number
            number += 1
            return driver.timing(server, make(number), median=median)

        return measured

    return in_turn({name: one(server) for name, server in found.items()}, run.repetitions, warm_up=1)


def benchmark(run: Run) -> list[Finding]:
    driver = run.drivers[0]
    for place, settings in (("files", {}), ("the database", {building.INLINE: SMALL_BYTES})):
        note(f"threads on one processor and anywhere, small payloads in {place}, with the {driver.name}")
        _compare(run, driver, place, settings)
    return []


def _compare(run: Run, driver: Driver, place: str, settings: Mapping[str, object]) -> None:
    directories = {name: run.root / f"processors-{name}" for name in (TOGETHER, ANYWHERE)}
    for directory in directories.values():
        shutil.rmtree(directory, ignore_errors=True)
    wanted = {
        name: Wanted(directory, settings={**settings, "threads.oneProcessor": str(name == TOGETHER).lower()})
        for name, directory in directories.items()
    }
    rows = []
    with served_together(wanted) as found:
        for server in found.values():
            driver.run(server.target, uploads(["kept"], SMALL_BYTES, seed=1))
            driver.run(server.target, uploads(["large"], run.sized(64 * MIB, MIB), seed=2))
        for what, (make, median) in loads(run, "kept", "large").items():
            samples = measure(run, driver, found, make, median=median)
            together, anywhere = samples[TOGETHER], samples[ANYWHERE]
            rate = by_round(quotient, anywhere.wall, together.wall)
            rows.append(
                [
                    what,
                    ms(anywhere.wall_median),
                    ms(together.wall_median),
                    f"{rate.median:.2f} ({rate.lowest:.2f} to {rate.highest:.2f})",
                    ms(anywhere.cpu_median),
                    ms(together.cpu_median),
                    ratio(together.cpu_median, anywhere.cpu_median),
                ]
            )
    columns = ["Call", "Anywhere, ms", "Together, ms", "Rate", "CPU anywhere, ms", "CPU together, ms", "CPU"]
    print_table(f"Threads on one processor, small payloads in {place}, {driver.name}", columns, rows)


if __name__ == "__main__":
    runs.command("benchmarks.processors", __doc__, benchmark)
