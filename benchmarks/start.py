"""How long a server takes to its first answer, beyond its imports, whatever the store holds.

    python -m benchmarks.start [--dir DIR] [--keys 1000000] [--small 10000] [--repetitions 9] [--quick]

Each start is `gestalt-cas serve` until a first call is answered. The interpreter reports what its imports took
(-X importtime), which is taken off, so both are of the same start. "Killed" is the small store with a long WAL that
nobody has moved into the database.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import building, runs
from benchmarks.findings import Finding, at_most
from benchmarks.listing import store_of
from benchmarks.measuring import Spread, ms, note, print_table
from benchmarks.runs import Run
from benchmarks.serving import served

GOAL = at_most(1.0, "s")
_SELF_TIME = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)
_WAL_BYTES = 30 << 20
"""A little less than what makes a writer shorten the WAL itself."""


def until_answered(directory: Path) -> tuple[float, float]:
    """Seconds from the start of the process to its first answer, beyond its imports, and those of the imports."""
    started = time.perf_counter()
    with served(directory, ("-X", "importtime", "-m", "gestalt_cas")) as server:
        server.call("ListObjects", b"")
        took = time.perf_counter() - started
        imports = sum(map(int, _SELF_TIME.findall(server.log.read_text()))) / 1e6
    assert imports > 0, "the interpreter reported no imports"
    return took - imports, imports


def stores(run: Run) -> Mapping[str, Callable[[], Path]]:
    """Names of the stores, and how each is made ready for one more start, which takes the time of none."""
    source, killed = run.root / "start-source", run.root / "start-killed"
    leave_long_wal(store_of(run, run.small), source, run.sized(_WAL_BYTES, 1 << 20))
    found = {
        "no store yet": lambda: _copied(None, run.root / "start-none"),
        f"{run.small:,} objects": lambda: store_of(run, run.small),
        f"{run.small:,} objects, killed": lambda: _copied(source, killed),
        f"{run.keys:,} objects": lambda: store_of(run, run.keys),
    }
    return dict(list(found.items())[2:3]) if run.quick else found


def _copied(source: Path | None, directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    if source is not None:
        shutil.copytree(source, directory)
    return directory


def leave_long_wal(directory: Path, copy: Path, wal_bytes: int) -> None:
    """What a kill leaves is a copy of the open store: closing it would have emptied the WAL."""
    open_store = _copied(directory, copy.with_name(f"{copy.name}-open"))
    with building.database(open_store) as database:
        number = 0
        while database.wal_bytes < wal_bytes:
            number += 1
            with database.write() as tx:
                building.insert(tx, [f"wal/{number:06d}-{index:04d}" for index in range(200)], seed=number)
        _copied(open_store, copy)
    shutil.rmtree(open_store)


def benchmark(run: Run) -> list[Finding]:
    starts = run.sized(min(run.repetitions, 5), 1)
    note(f"starting servers, {starts} times on each store")
    ready = stores(run)
    beyond: dict[str, list[float]] = {name: [] for name in ready}
    imports: dict[str, list[float]] = {name: [] for name in ready}
    turn = list(ready.items())
    for repetition in range(starts):
        for name, make in turn if repetition % 2 else reversed(turn):
            seconds, imported = until_answered(make())
            beyond[name].append(seconds)
            imports[name].append(imported)
    print_table(
        "Start to first answer (ms)",
        ["Store", "Beyond imports", "Imports"],
        [[name, ms(Spread.of(beyond[name]).median), ms(Spread.of(imports[name]).median)] for name in ready],
    )
    return [
        Finding(f"Start, {name}: first answer over imports", Spread.of(seconds), GOAL)
        for name, seconds in beyond.items()
    ]


if __name__ == "__main__":
    runs.command("benchmarks.start", __doc__, benchmark)
