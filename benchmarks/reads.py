"""ReadObject of a large cached object, against a stream of kept messages and against the SDK's way with an open file.

    python -m benchmarks.reads [--dir DIR] [--repetitions 9] [--quick]

"Kept messages" is this very server sending the messages of an earlier read again, so frames have the same size.
"Unverified" does not check the chunks. "Open file" is a provider on the SDK's base class that returns the open blob.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import open_file, runs
from benchmarks.driving import Driver, downloads
from benchmarks.findings import Finding, at_least
from benchmarks.measuring import Samples, Timing, by_round, in_turn, ms, note, print_table, quotient
from benchmarks.partners import Partner, program
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, hosted, served_together
from benchmarks.syncing import MIB
from gestalt_cas import Store
from gestalt_cas.errors import NoSuchKey
from gestalt_cas.files.layout import Layout
from gestalt_cas.objects import ObjectKey

KEY = "large"
VERIFIED, UNVERIFIED, KEPT, OPEN_FILE = "verified", "unverified", "kept messages", "SDK provider, open file"


def filled(directory: Path, size: int) -> str:
    """A store that holds one object of `size` bytes, built now or by an earlier run; returns the payload's digest."""
    key = ObjectKey("", KEY)
    with Store.open(directory) as store:
        try:
            return store.head(key).digest
        except NoSuchKey:
            note(f"building {directory.name}")
        return store.write(key, random_pieces(size)).digest


def random_pieces(size: int) -> Iterator[bytes]:
    drawn = random.Random(size)
    return (drawn.randbytes(min(MIB, size - at)) for at in range(0, size, MIB))


def blob_of(directory: Path, digest: str) -> Path:
    return Layout(directory).blobs / digest[:2] / digest


@contextmanager
def servers(run: Run, size: int) -> Iterator[Mapping[str, Server]]:
    directory = run.root / f"reads-{size}"
    blob = blob_of(directory, filled(directory, size))
    kinds = {
        VERIFIED: ("-m", "gestalt_cas"),
        UNVERIFIED: program(Partner.UNVERIFIED),
        KEPT: program(Partner.PASSTHROUGH),
    }
    environment = {open_file.OBJECT_FILE: str(blob.resolve())}
    with (
        served_together({name: Wanted(directory, arguments) for name, arguments in kinds.items()}) as ours,
        hosted("benchmarks.open_file:provider", environment) as other,
    ):
        yield {**ours, OPEN_FILE: other}


def compare(run: Run, driver: Driver, found: Mapping[str, Server], size: int) -> list[Finding]:
    title = f"ReadObject {size >> 20} MiB"
    note(f"reading {size >> 20} MiB with the {driver.name}")
    frames = {}
    for name, server in found.items():
        done = driver.run(server.target, downloads(KEY))
        assert size <= done.bytes < size * 1.01, f"{name}: {done.bytes} bytes came instead of {size}"
        frames[name] = done.largest

    def read(server: Server, _: int) -> Timing:
        return driver.timing(server, downloads(KEY))

    samples = in_turn({name: partial(read, server) for name, server in found.items()}, run.repetitions)
    _print(f"{title}, {driver.name}", size, samples, frames)
    return [
        Finding(
            f"{title}, {name}{driver.suffix}: rate, {other} = 1",
            by_round(quotient, samples[other].wall, samples[name].wall),
            goal,
        )
        for name, other, goal in (
            (VERIFIED, KEPT, at_least(0.8)),
            (UNVERIFIED, KEPT, at_least(0.9)),
            (VERIFIED, OPEN_FILE, at_least(2.5)),
        )
    ]


def _print(title: str, size: int, samples: Mapping[str, Samples], frames: Mapping[str, int]) -> None:
    gib = (1 << 30) / size
    print_table(
        title,
        ["Server", "MiB/s", "Server CPU, ms per GiB", "ms", "Largest message, KiB"],
        [
            [
                name,
                f"{size / MIB / taken.wall_median:.0f}",
                f"{taken.cpu_median * 1e3 * gib:.0f}",
                ms(taken.wall_median),
                f"{frames[name] / 1024:.0f}",
            ]
            for name, taken in samples.items()
        ],
    )


def benchmark(run: Run) -> list[Finding]:
    size = run.sized(64 * MIB, 2 * MIB)
    with servers(run, size) as found:
        return [finding for driver in run.drivers for finding in compare(run, driver, found, size)]


if __name__ == "__main__":
    runs.command("benchmarks.reads", __doc__, benchmark)
