"""What it costs to watch a server, in instructions per call, which other work on the machine does not change.

    python -m benchmarks.instructions [--dir DIR] [--small 10000] [--repetitions 9] [--quick]

The servers of `benchmarks.telemetry`, one after the other under valgrind, which counts what the process does in its own
code, the kernel left out. It is slow there, so "OTLP" has a span for each call; it stands beside the same without any.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import runs, telemetry
from benchmarks.collector import Collector, collecting
from benchmarks.driving import Driver
from benchmarks.findings import Finding
from benchmarks.measuring import Spread, note, print_table
from benchmarks.partners import Partner, program
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, served_so
from benchmarks.telemetry import OTLP, QUIET, SETTINGS, WITHOUT, Work

CALLS = {
    "HeadObject": 200,
    "WriteObject 4 KiB": 60,
    "ReadObject 4 KiB": 100,
    "ListObjects, page of 1,000": 8,
    "ReadObject 1 MiB": 25,
}
UNSPANNED = "OTLP, no spans"
_WAIT_SECONDS = 60.0

Kind = tuple[Sequence[str], Mapping[str, object], Mapping[str, str]]


def kinds(collector: Collector) -> dict[str, Kind]:
    """Program, settings and environment of each server; metrics are sent once at most."""
    bare, real = program(Partner.UNOBSERVED), ("-m", "gestalt_cas")
    exported = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "600000"}
    return {
        WITHOUT: (bare, {}, {}),
        QUIET: (real, {}, {}),
        UNSPANNED: (real, {"telemetry.spansPerSecond": 0}, exported),
        OTLP: (real, {"telemetry.spansPerSecond": 1_000_000}, exported),
    }


class Counted:
    """A server under callgrind, which counts from `begin` on."""

    def __init__(self, server: Server, out: Path) -> None:
        self.server = server
        self._out = out

    def begin(self) -> None:
        self._tell("-i", "on")

    def since_last(self) -> int:
        """Instructions since this was last asked; counting begins anew."""
        before = set(self._dumps())
        self._tell("-d")
        until = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < until:
            texts = [dump.read_text() for dump in set(self._dumps()) - before]
            if texts and all(total(text) is not None for text in texts):
                return sum(total(text) or 0 for text in texts)
            time.sleep(0.1)
        raise SystemExit("valgrind writes no counts")

    def _dumps(self) -> Iterator[Path]:
        return self._out.parent.glob(f"{self._out.name}.*")

    def _tell(self, *words: str) -> None:
        subprocess.run(["callgrind_control", *words, str(self.server.pid)], capture_output=True, check=True)


def total(text: str) -> int | None:
    """The instructions that a dump of callgrind tells of; None while it is being written."""
    found = re.search(r"^totals: (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None


@contextmanager
def counted(run: Run, driver: Driver, number: int, kind: Kind) -> Iterator[Counted]:
    arguments, settings, environment = kind
    with TemporaryDirectory(prefix="gcb") as home:
        out = Path(home) / "counts"
        under = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        wanted = Wanted(telemetry.store(run, number), arguments, {**SETTINGS, **settings}, environment, under)
        with served_so(wanted) as server:
            telemetry.fill(driver, server)
            yield Counted(server, out)


def count(driver: Driver, server: Counted, work: Work, calls: int, repetitions: int) -> list[float]:
    """Instructions per call of each repetition, after one that does not count; one caller."""
    found = []
    for _ in range(repetitions + 1):
        load = replace(work.load(calls), callers=1)
        server.since_last()
        driver.run(server.server.target, load)
        found.append(server.since_last() / calls)
    return found[1:]


def benchmark(run: Run) -> list[Finding]:
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed, which counts the instructions")
    driver = run.drivers[0]
    works = [work for work in telemetry.works(run) if work.name in CALLS][: run.sized(len(CALLS), 1)]
    found: dict[str, dict[str, Spread]] = {work.name: {} for work in works}
    with collecting() as collector:
        for number, (name, kind) in enumerate(kinds(collector).items()):
            note(f"{name}, under valgrind")
            with counted(run, driver, number, kind) as server:
                server.begin()
                for work in works:
                    calls = run.sized(CALLS[work.name], 4)
                    found[work.name][name] = Spread.of(count(driver, server, work, calls, run.repetitions))
    for title, servers in found.items():
        _print(title, servers)
    return [
        Finding(
            f"Watched, {QUIET}: {title}, instructions, without = 1",
            servers[QUIET].median / servers[WITHOUT].median,
            telemetry.GOALS[QUIET],
        )
        for title, servers in found.items()
    ]


def _print(title: str, servers: Mapping[str, Spread]) -> None:
    base = servers[WITHOUT].median
    print_table(
        f"Watched: {title}, thousands of instructions per call",
        ["Server", "Median", "Lowest", "Highest", "Ratio"],
        [
            [name, *(f"{value / 1000:.1f}" for value in spread), f"{spread.median / base:.3f}"]
            for name, spread in servers.items()
        ],
    )


if __name__ == "__main__":
    runs.command("benchmarks.instructions", __doc__, benchmark)
