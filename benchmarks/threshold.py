"""Up to which size a payload is better kept in the database than in a file: what `blobs.inlineMaxBytes` should be.

    python -m benchmarks.threshold [--dir DIR] [--repetitions 9] [--quick]

The same server twice, with the greatest threshold and with 0. Every payload is new. Time per write by one caller and by
16, per read by 16, and the server's CPU for each.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping

from benchmarks import building, runs
from benchmarks.driving import Driver, downloads, uploads
from benchmarks.findings import Finding
from benchmarks.measuring import Samples, Timing, in_turn, ms, note, print_table, ratio
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, served_together

SIZES = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20]
INLINE, FILES = "inline", "files"
CALLERS = 16


class _Keys:
    """New keys for each upload, and the last ones of each server, for the downloads."""

    def __init__(self) -> None:
        self.seed = 0
        self.last: dict[str, list[str]] = {}

    def new(self, server: str, count: int) -> list[str]:
        self.seed += 1
        self.last[server] = [f"s{self.seed:04d}/{number:05d}" for number in range(count)]
        return self.last[server]


def measure(
    run: Run, driver: Driver, found: Mapping[str, Server], keys: _Keys, size: int, callers: int, *, read: bool = False
) -> dict[str, Samples]:
    calls = run.sized(max(16, min(160, (8 << 20) // size)), 4)

    def one(name: str) -> Callable[[int], Timing]:
        def measured(_: int) -> Timing:
            if read:
                return driver.timing(found[name], downloads(keys.last[name][0], calls, callers))
            load = uploads(keys.new(name, calls), size, seed=keys.seed, callers=callers, frame=64 << 10)
            return driver.timing(found[name], load, median=callers == 1)

        return measured

    return in_turn({name: one(name) for name in found}, run.repetitions, warm_up=1)


def compare(run: Run, driver: Driver, size: int) -> list[list[str]]:
    """One row per measure for payloads of this size: both figures, and inline's over that of files."""
    note(f"payloads of {size >> 10} KiB inline and in files, with the {driver.name}")
    places = {name: run.root / f"threshold-{name}" for name in (INLINE, FILES)}
    for directory in places.values():
        shutil.rmtree(directory, ignore_errors=True)
    settings = {INLINE: {building.INLINE: SIZES[-1]}, FILES: {}}
    keys = _Keys()
    with served_together(
        {name: Wanted(places[name], ("-m", "gestalt_cas"), settings[name]) for name in places}
    ) as found:
        series = {
            "write, one caller": measure(run, driver, found, keys, size, 1),
            f"write, {CALLERS} callers": measure(run, driver, found, keys, size, CALLERS),
            f"read, {CALLERS} callers": measure(run, driver, found, keys, size, CALLERS, read=True),
        }
    rows = []
    for what, samples in series.items():
        inline, files = samples[INLINE], samples[FILES]
        cells = [ms(inline.wall_median), ms(files.wall_median), ratio(inline.wall_median, files.wall_median)]
        cpu = ratio(inline.cpu_median, files.cpu_median)
        rows.append([f"{size >> 10} KiB", what, *cells, cpu])
    return rows


def benchmark(run: Run) -> list[Finding]:
    driver = run.drivers[0]
    rows: list[list[str]] = []
    for size in SIZES[: run.sized(len(SIZES), 1)]:
        rows += compare(run, driver, size)
    columns = ["Payload", "Call", "Inline, ms", "Files, ms", "Inline / files", "CPU, inline / files"]
    print_table(f"Payloads in the database beside payloads in files, {driver.name}", columns, rows)
    return []


if __name__ == "__main__":
    runs.command("benchmarks.threshold", __doc__, benchmark)
