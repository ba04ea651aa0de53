"""Every benchmark, or those named, in one run; the findings of all of them stand in one table at the end.

python -m benchmarks [NAME ...] [--dir DIR] [--keys 1000000] [--small 10000] [--repetitions 9] [--quick] [--no-sdk]
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import (
    building,
    calls,
    disk,
    format,  # noqa: A004
    growth,
    http,
    listing,
    memory,
    past,
    processors,
    reads,
    runs,
    start,
    telemetry,
    threshold,
    writes,
)
from benchmarks.findings import Finding
from benchmarks.measuring import note
from benchmarks.runs import Benchmark, Run

BENCHMARKS: Mapping[str, Benchmark] = {
    # First: on ext4 without a journal making files is dear for minutes after others were deleted (docs/performance.md).
    "writes": writes.benchmark,
    "format": format.benchmark,
    "http": http.benchmark,
    "reads": reads.benchmark,
    "calls": calls.benchmark,
    "listing": listing.benchmark,
    "past": past.benchmark,
    "growth": growth.benchmark,
    "start": start.benchmark,
    "memory": memory.benchmark,
    "disk": disk.benchmark,
    "threshold": threshold.benchmark,
    "processors": processors.benchmark,
    "telemetry": telemetry.benchmark,
}


def chosen(names: Sequence[str]) -> Benchmark:
    def run_all(run: Run) -> list[Finding]:
        findings: list[Finding] = []
        for name in names or BENCHMARKS:
            note(f"== {name}")
            before = set(run.root.iterdir())
            findings += BENCHMARKS[name](run)
            _tidy(set(run.root.iterdir()) - before)
        return findings

    return run_all


def _tidy(made: set[Path]) -> None:
    """Remove what a benchmark has made for itself alone: all of them together would take three times the disk.

    What stood there before is nobody's but the user's, who may have named any directory.
    """
    for path in made:
        if path.is_dir() and not building.is_kept(path):
            shutil.rmtree(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    runs.add_options(parser)
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    runs.perform(chosen(options.names), options)


if __name__ == "__main__":
    main()
