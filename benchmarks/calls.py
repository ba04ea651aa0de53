"""Unary calls: HeadObject by 16 callers against a call that does nothing, and CopyObject of 10 GiB against 1 KiB.

Beside the first stands the statement alone, the least that a lookup in SQLite takes behind this server.

    python -m benchmarks.calls [--dir DIR] [--keys 1000000] [--repetitions 9] [--quick]

The 10 GiB are a file without blocks, which has the digest and the chunk sums of so many zeros: the disk does not have
to hold them, and any read or write of them would show in what the server's system calls have moved.
"""

from __future__ import annotations

import os
import random
import shutil
from functools import partial
from itertools import count
from pathlib import Path

from blake3 import blake3

from benchmarks import building, runs
from benchmarks.driving import Driver, copies, heads
from benchmarks.findings import LIMIT, Finding, at_least, at_most
from benchmarks.listing import key_at, store_of
from benchmarks.measuring import Samples, Spread, Timing, by_round, in_turn, note, print_table, quotient, us
from benchmarks.partners import Partner, program
from benchmarks.reads import blob_of
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, served, served_together
from benchmarks.syncing import MIB
from gestalt_cas import Store
from gestalt_cas.clock import now_ms
from gestalt_cas.rules.chunks import ChunkSummer

CALLERS = 16
HEAD, STATEMENT = "HeadObject", "the statement alone"
LARGE, SMALL = "copied/large", "copied/small"
_SMALL_BYTES = 1024
_MOST_MOVED = 256 << 10
"""Bytes of rows, pages and messages that a copy may move."""
_numbers = count()


def compare_heads(run: Run, driver: Driver) -> list[Finding]:
    calls = run.sized(6400, 32)  # threads fall into one step or another for a while: a short round shows only one
    note(f"looking up {calls} keys by {CALLERS} at once with the {driver.name}")
    drawn = random.Random(run.keys)

    def look_up(server: Server, _: int) -> Timing:
        keys = [key_at(drawn.randrange(run.keys), run.keys) for _ in range(calls)]
        return driver.timing(server, heads(keys, CALLERS))

    directory = store_of(run, run.keys)
    wanted = {
        HEAD: Wanted(directory),
        STATEMENT: Wanted(directory, program(Partner.LOOKUP)),
        "no-op": Wanted(run.root / "noop", program(Partner.NOOP)),
    }
    with served_together(wanted) as servers:
        candidates = {name: partial(look_up, server) for name, server in servers.items()}
        samples = in_turn(candidates, run.repetitions, warm_up=1)
    title = f"HeadObject, {CALLERS} callers"
    _print(f"{title}, {run.keys:,} objects, {driver.name}", samples)
    return [
        Finding(
            f"{what}, {CALLERS} callers{driver.suffix}: rate, no-op = 1",
            by_round(quotient, samples["no-op"].wall, samples[what].wall),
            at_least(0.75),
            unjudged,
        )
        for what, unjudged in ((HEAD, ""), (STATEMENT, LIMIT))
    ]


def _print(title: str, samples: dict[str, Samples]) -> None:
    print_table(
        title,
        ["Call", "µs per call", "Calls per second", "Server CPU, µs per call"],
        [
            [name, us(taken.wall_median), f"{1 / taken.wall_median:.0f}", us(taken.cpu_median)]
            for name, taken in samples.items()
        ],
    )


def compare_copies(run: Run, driver: Driver) -> list[Finding]:
    """The clock, and every byte that the server's system calls moved meanwhile."""
    directory, calls = run.root / "copies", run.sized(20, 2)
    size = run.sized(10 << 30, 10 << 20)
    note(f"copying {size >> 20} MiB and 1 KiB")
    build_copies(directory, size)
    moved: dict[str, list[float]] = {LARGE: [], SMALL: []}

    def copy(server: Server, source: str, _: int) -> Timing:
        number, before = next(_numbers), server.transferred_bytes()
        keys = [f"copies/{number:06d}-{index:03d}" for index in range(calls)]
        timing = driver.timing(server, copies(source, keys), median=True)
        moved[source].append((server.transferred_bytes() - before) / calls)
        return timing

    with served(directory) as server:
        candidates = {source: partial(copy, server, source) for source in (LARGE, SMALL)}
        samples = in_turn(candidates, run.repetitions, warm_up=1)
    shown = {LARGE: f"{size / (1 << 30):.3g} GiB", SMALL: "1 KiB"}
    _print("CopyObject, one caller, median call", {shown[name]: taken for name, taken in samples.items()})
    longer = by_round(quotient, samples[LARGE].wall, samples[SMALL].wall)
    return [
        Finding(f"CopyObject {shown[LARGE]}: time, 1 KiB = 1", longer, at_most(1.5)),
        Finding(
            f"CopyObject {shown[LARGE]}: bytes read and written per call, messages and pages of rows included",
            Spread.of(value / 1024 for value in moved[LARGE][1:]),
            at_most(_MOST_MOVED / 1024, "KiB"),
        ),
    ]


def build_copies(directory: Path, size: int) -> None:
    """A store with a large object of zeros, which takes no room, and a small one."""
    shutil.rmtree(directory, ignore_errors=True)
    Store.open(directory).close()
    with building.database(directory) as database, database.write() as tx:
        for key, length, fill in ((LARGE, size, b"\0"), (SMALL, _SMALL_BYTES, b"s")):
            digest, sums = _digests(length, fill)
            building.add(tx, key, digest, length, sums, now_ms=now_ms())
            path = blob_of(directory, digest.hex())
            path.write_bytes(b"" if fill == b"\0" else fill * length)
            os.truncate(path, length)


def _digests(size: int, fill: bytes) -> tuple[bytes, bytes]:
    block, hasher, summer = memoryview(fill * min(MIB, size)), blake3(), ChunkSummer()
    for at in range(0, size, MIB):
        piece = block[: min(MIB, size - at)]
        hasher.update(piece)
        summer.update(piece)
    return hasher.digest(), summer.digest()


def benchmark(run: Run) -> list[Finding]:
    findings = [finding for driver in run.drivers for finding in compare_heads(run, driver)]
    return findings + compare_copies(run, run.drivers[0])


if __name__ == "__main__":
    runs.command("benchmarks.calls", __doc__, benchmark)
