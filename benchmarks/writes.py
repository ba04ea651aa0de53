"""WriteObject: small and large, durable, against the same server without storing, a naive one, and the plain disk.

    python -m benchmarks.writes [--dir DIR] [--repetitions 9] [--quick]

"Storing off" is this very server whose store drops the bytes; "naive" is a file, a directory sync and a commit for each
object; "no-op" takes the messages and looks at none. Every payload is new. "fdatasync" in the findings is the same
round's append of 4 KiB to a file and fdatasync. "Inline" is with blobs.inlineMaxBytes at 4096, where this version keeps
payloads in the database. "The least" is this server with a store that does the least that a durable upload takes
(`least.py`): what it does not reach, no store behind this server can. "The steps in turn" are storing off, a plain
write with fdatasync, and BLAKE3.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from benchmarks import building, runs
from benchmarks.driving import Driver, uploads
from benchmarks.findings import LIMIT, Finding, Goal, at_least, at_most
from benchmarks.measuring import Samples, Timing, by_round, in_turn, ms, note, print_table, quotient
from benchmarks.partners import Partner, program
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, served_together
from benchmarks.syncing import MIB, hashed, plain_syncs, written

SMALL_BYTES = 4096
CALLERS = 16
STORED, INLINED, UNSTORED, NAIVE, NOOP = "stored in files", "stored inline", "storing off", "naive", "no-op"
LEAST, LEAST_INLINED = "the least in files", "the least inline"
SYNCED, HASHED = "write and fdatasync", "BLAKE3"
APPENDED, OVERWRITTEN = "append and fdatasync", "overwrite and fdatasync"
_QUICK_SYNC_SECONDS = 0.5e-3
_FRAMES = {64 << 10: 0.9, MIB: 1.1}
"""Bytes of a frame, and the goal for 64 MiB in such frames."""
_seeds = count(1)

_INLINE = {building.INLINE: SMALL_BYTES}


class _Judged(NamedTuple):
    """A server that small writes are judged of: `syncs` is what one caller may take over a no-op, fdatasync = 1."""

    name: str
    syncs: float
    unjudged: str = ""


_JUDGED = (
    _Judged(STORED, 3.0),
    _Judged(LEAST, 3.0, LIMIT),
    _Judged(INLINED, 1.3),
    _Judged(LEAST_INLINED, 1.3, LIMIT),
)

Servers = Mapping[str, Server]


@contextmanager
def servers(run: Run) -> Iterator[Servers]:
    """A server of each kind, each on an empty store of its own."""
    kinds = {
        STORED: ("-m", "gestalt_cas"),
        LEAST: program(Partner.LEAST),
        UNSTORED: program(Partner.UNSTORED),
        NAIVE: program(Partner.NAIVE),
        NOOP: program(Partner.NOOP),
    }
    if building.inlines(_empty(run.root / "inlines")):
        kinds |= {INLINED: kinds[STORED], LEAST_INLINED: kinds[LEAST]}
    else:
        note("this version keeps no payload in the database: nothing is measured inline")
    wanted = {
        name: Wanted(_empty(_directory(run.root, name)), arguments, _INLINE if name in (INLINED, LEAST_INLINED) else {})
        for name, arguments in kinds.items()
    }
    with served_together(wanted) as found:
        yield found


def _directory(root: Path, name: str) -> Path:
    return root / f"writes-{name.replace(' ', '-')}"


def _empty(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    return directory


def writing(
    driver: Driver, server: Server, size: int, *, calls: int, callers: int = 1, frame: int = 64 << 10
) -> Callable[[int], Timing]:
    """Objects under new keys; the time is per call, with one caller that of the median call."""

    def write(_: int) -> Timing:
        seed = next(_seeds)
        keys = [f"dir{seed % 100:02d}/{seed:06d}-{number:06d}" for number in range(calls)]
        load = uploads(keys, size, seed=seed, callers=callers, frame=frame)
        return driver.timing(server, load, median=callers == 1)

    return write


def measure_small(run: Run, driver: Driver, found: Servers, callers: int) -> dict[str, Samples]:
    calls, syncs = run.sized(320 if callers > 1 else 60, 8), run.sized(20, 4)
    note(f"writing {calls} objects of 4 KiB by {callers} at once, {run.repetitions} times, with the {driver.name}")
    with plain_syncs(run.root) as plain:
        candidates: dict[str, Callable[[int], Timing]] = {
            name: writing(driver, server, SMALL_BYTES, calls=calls, callers=callers) for name, server in found.items()
        }
        candidates |= {APPENDED: lambda _: plain.appended(syncs), OVERWRITTEN: lambda _: plain.overwritten(syncs)}
        return in_turn(candidates, run.repetitions, warm_up=1)


def _check_storing(found: Servers, root: Path) -> None:
    """That each server did what its name says: files where there must be some, and none where there must be none."""
    for name in found:
        blobs = _directory(root, name) / "blobs"
        files = any(path.is_file() for path in blobs.rglob("*"))
        assert files == (name == STORED), f"{name}: {'there are' if files else 'no'} files in {blobs}"


def compare_many(run: Run, driver: Driver, found: Servers) -> list[Finding]:
    """16 callers at once: calls per second against those of the partners."""
    samples = measure_small(run, driver, found, CALLERS)
    _print_small(f"WriteObject 4 KiB, {CALLERS} callers, {driver.name}", samples)
    sync = samples[APPENDED].wall_median
    slow = "" if sync < _QUICK_SYNC_SECONDS else f"fdatasync took {ms(sync)} ms"
    findings = []
    for name, _, unjudged in _JUDGED:
        if name in samples:
            what = f"WriteObject 4 KiB, {CALLERS} callers, {name}{driver.suffix}"
            findings += [
                _rate(
                    f"{what}: rate, storing off = 1", samples[name], samples[UNSTORED], at_least(0.6), unjudged or slow
                ),
                _rate(f"{what}: rate, naive = 1", samples[name], samples[NAIVE], at_least(1.5), unjudged),
            ]
    return findings


def _rate(what: str, ours: Samples, theirs: Samples, goal: Goal, unjudged: str = "") -> Finding:
    return Finding(what, by_round(quotient, theirs.wall, ours.wall), goal, unjudged)


def compare_one(run: Run, driver: Driver, found: Servers) -> list[Finding]:
    """One caller: what storing adds to the median call, in that run's plain syncs."""
    samples = measure_small(run, driver, found, 1)
    _print_small(f"WriteObject 4 KiB, one caller, median call, {driver.name}", samples)
    findings = []
    for name, bound, unjudged in _JUDGED:
        if name in samples:
            added = by_round(
                lambda stored, noop, sync: (stored - noop) / sync,
                samples[name].wall,
                samples[NOOP].wall,
                samples[APPENDED].wall,
            )
            what = f"WriteObject 4 KiB, one caller, {name}{driver.suffix}: time over no-op, fdatasync = 1"
            findings.append(Finding(what, added, at_most(bound), unjudged))
    return findings


def _print_small(title: str, samples: Mapping[str, Samples]) -> None:
    base = samples[NOOP]
    print_table(
        title,
        ["Server", "ms per call", "Calls per second", "Server CPU, ms per call", "Time over no-op, ms"],
        [
            [
                name,
                ms(taken.wall_median),
                f"{1 / taken.wall_median:.0f}",
                ms(taken.cpu_median),
                ms(taken.wall_median - base.wall_median) if taken is not base and "fdatasync" not in name else "",
            ]
            for name, taken in samples.items()
        ],
    )


def compare_large(run: Run, driver: Driver, found: Servers) -> list[Finding]:
    """64 MiB in small and in large frames, against what the three steps would take one after another."""
    size = run.sized(64 * MIB, 2 * MIB)
    body = bytearray(os.urandom(size))
    findings = []
    for frame, bound in _FRAMES.items():
        note(f"writing {size >> 20} MiB in frames of {frame >> 10} KiB with the {driver.name}")
        candidates: dict[str, Callable[[int], Timing]] = {
            name: writing(driver, found[name], size, calls=1, frame=frame) for name in (STORED, UNSTORED)
        }
        candidates |= {SYNCED: lambda _: written(run.root / "plain", body), HASHED: lambda _: hashed(body)}
        samples = in_turn(candidates, run.repetitions, warm_up=1)
        title = f"WriteObject {size >> 20} MiB, frames of {frame >> 10} KiB"
        _print_large(f"{title}, {driver.name}", size, samples)
        in_turn_of = (samples[name].wall for name in (UNSTORED, SYNCED, HASHED))
        speed = by_round(lambda stored, *steps: sum(steps) / stored, samples[STORED].wall, *in_turn_of)
        findings.append(Finding(f"{title}{driver.suffix}: rate, the steps in turn = 1", speed, at_least(bound)))
    return findings


def _print_large(title: str, size: int, samples: Mapping[str, Samples]) -> None:
    print_table(
        title,
        ["Step", "MiB/s", "ms", "CPU, ms"],
        [
            [name, f"{size / MIB / taken.wall_median:.0f}", ms(taken.wall_median), ms(taken.cpu_median)]
            for name, taken in samples.items()
        ],
    )


def benchmark(run: Run) -> list[Finding]:
    with servers(run) as found:
        findings = [
            finding
            for compare in (compare_many, compare_one, compare_large)
            for driver in run.drivers
            for finding in compare(run, driver, found)
        ]
        _check_storing(found, run.root)
    return findings


if __name__ == "__main__":
    runs.command("benchmarks.writes", __doc__, benchmark)
