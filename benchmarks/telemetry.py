"""What it costs to watch a server: its CPU per call with nothing exported, exported by OTLP, and scraped.

    python -m benchmarks.telemetry [--dir DIR] [--small 10000] [--repetitions 9] [--quick]

The same server five times, side by side. "Without" neither counts nor times a call (`partners.Unobserved`), and stands
there twice: how far its two are apart is what this run cannot tell. "Nothing exported" is the default. "OTLP" exports
spans, metrics and logs through the SDK's telemetry to a collector in another process, "scraped" has its `/metrics`
page read.

CPU is that of the whole process. A round drives each server many times, in turns of a tenth of a second, and compares
turn by turn; to the median of that it adds what the server did between its turns, sending what was gathered above all.
Metrics are sent and the page is read about once a round, which is after a second or two of load: at least ten times as
often as is usual. Servers are started anew several times, since two processes of one program are never quite alike.

Stores hold 10,000 objects, payloads of 4 KiB are kept in the database, which takes less than a file does: of a write or
read that costs more, watching it is a smaller part.
"""

from __future__ import annotations

import random
import shutil
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from benchmarks import building, runs
from benchmarks.collector import Collector, collecting
from benchmarks.driving import Driver, Load, downloads, heads, uploads
from benchmarks.findings import Finding, at_most
from benchmarks.listing import key_at, request, store_of
from benchmarks.measuring import Spread, by_round, note, print_table, quotient, us
from benchmarks.partners import Partner, program
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, served_together
from benchmarks.syncing import MIB
from gestalt_cas.objects import ListQuery

WITHOUT, AGAIN, QUIET, OTLP, SCRAPED = "without", "without, again", "nothing exported", "OTLP", "scraped"
GOALS = {QUIET: at_most(1.03), OTLP: at_most(1.15), SCRAPED: at_most(1.15)}
SMALL_BYTES = 4096
_CALLERS = 16
_STARTS = 3
_TURNS = 12
"""How often a round drives each server."""
_TURN_SECONDS = 0.12
_SERVERS = 5
_FEWEST = 16
_PER_SECOND = 80.0
_ENVIRONMENT = {"OTEL_METRIC_EXPORT_INTERVAL": "10000"}
SETTINGS = {building.INLINE: SMALL_BYTES, "gc.everySeconds": 0}
_seeds = count(1)

Turns = dict[str, list[float]]
"""For each server, its CPU seconds per call in each turn."""


class Taken(NamedTuple):
    """What a server took in a round: CPU seconds per call, also as a multiple of what the one without took."""

    cpu: float
    ratio: float


Rounds = dict[str, list[Taken]]


class Work(NamedTuple):
    """Calls of one kind: `load` makes so many of them; with `paced` they come one by one, so many a second."""

    name: str
    load: Callable[[int], Load]
    paced: float = 0.0


def works(run: Run) -> list[Work]:
    drawn = random.Random(run.small)

    def keys(calls: int) -> list[str]:
        return [key_at(drawn.randrange(run.small), run.small) for _ in range(calls)]

    def pages(calls: int) -> Load:
        queries = [ListQuery(start_after=key_at(drawn.randrange(run.small // 2), run.small)) for _ in range(calls)]
        return Load("ListObjects", "unary", [request(query) for query in queries])

    def writes(calls: int) -> Load:
        seed = next(_seeds)
        made = [f"dir{seed % 100:02d}/{seed:06d}-{number:06d}" for number in range(calls)]
        return uploads(made, SMALL_BYTES, seed=seed)

    return [
        Work("HeadObject", lambda calls: heads(keys(calls))),
        Work(f"HeadObject, {_CALLERS} callers", lambda calls: heads(keys(calls), _CALLERS)),
        Work(f"HeadObject, {_PER_SECOND:.0f} a second", lambda calls: heads(keys(calls)), paced=_PER_SECOND),
        Work("WriteObject 4 KiB", writes),
        Work("ReadObject 4 KiB", lambda calls: downloads("read/small", calls)),
        Work("ListObjects, page of 1,000", pages),
        Work("ReadObject 1 MiB", lambda calls: downloads("read/large", calls)),
    ]


@contextmanager
def servers(run: Run, driver: Driver, collector: Collector) -> Iterator[Mapping[str, Server]]:
    """The five servers, each on a store of its own that holds the same."""
    wanted = {
        name: Wanted(store(run, number), arguments, {**SETTINGS, **settings}, environment)
        for number, (name, arguments, settings, environment) in enumerate(kinds(collector))
    }
    with served_together(wanted) as found:
        for server in found.values():
            fill(driver, server)
        yield found


def store(run: Run, number: int) -> Path:
    """A store of its own for each server."""
    directory = run.root / f"telemetry-{number}"
    if not directory.exists():
        shutil.copytree(store_of(run, run.small), directory)
    return directory


def fill(driver: Driver, server: Server) -> None:
    """Store what is read."""
    driver.run(server.target, uploads(["read/small"], SMALL_BYTES, seed=0))
    driver.run(server.target, uploads(["read/large"], MIB, seed=0))


Kind = tuple[str, tuple[str, ...], Mapping[str, object], Mapping[str, str]]


def kinds(collector: Collector) -> list[Kind]:
    """Name, program, settings and environment of each."""
    bare, real = program(Partner.UNOBSERVED), ("-m", "gestalt_cas")
    exported = _ENVIRONMENT | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    return [
        (WITHOUT, bare, {}, {}),
        (QUIET, real, {}, {}),
        (OTLP, real, {}, exported),
        (SCRAPED, real, {"telemetry.metrics": "loopback"}, {}),
        (AGAIN, bare, {}, {}),
    ]


def measure(run: Run, driver: Driver, found: Mapping[str, Server], work: Work, rounds: int) -> Rounds:
    drive = _paced if work.paced else _in_turns
    calls = _calls(run, driver, found[WITHOUT], work)
    for server in found.values():
        driver.run(server.target, work.load(calls))
    series: Rounds = {name: [] for name in found}
    for _ in range(rounds):
        before = {name: server.cpu_seconds() for name, server in found.items()}
        turns = drive(run, driver, found, work, calls)
        scrape(found[SCRAPED])
        spent = {name: server.cpu_seconds() - before[name] for name, server in found.items()}
        for name, taken in _judged(turns, spent, calls).items():
            series[name].append(taken)
    return series


def _judged(turns: Turns, spent: Mapping[str, float], calls: int) -> dict[str, Taken]:
    """Turns are compared one by one, and the medians taken; what was spent outside of them is added."""
    base = statistics.median(turns[WITHOUT])
    beside = {name: spent[name] / len(own) / calls - statistics.fmean(own) for name, own in turns.items()}
    return {
        name: Taken(
            statistics.median(own) + beside[name],
            by_round(quotient, own, turns[WITHOUT]).median + quotient(beside[name] - beside[WITHOUT], base),
        )
        for name, own in turns.items()
    }


def _calls(run: Run, driver: Driver, server: Server, work: Work) -> int:
    """How many calls take a turn's time."""
    if run.quick:
        return 4
    if work.paced:
        return int(work.paced * _TURNS * _TURN_SECONDS * _SERVERS)
    few = 50
    timings = [driver.timing(server, work.load(few)).wall for _ in range(3)]
    return max(_FEWEST, int(_TURN_SECONDS / min(timings)))


def _in_turns(run: Run, driver: Driver, found: Mapping[str, Server], work: Work, calls: int) -> Turns:
    """One server after the other; CPU per call in each turn.

    The order is drawn: reversed each time, the outer ones would have two turns in a row, and the second one costs less.
    """
    taken: Turns = {name: [] for name in found}
    for _ in range(run.sized(_TURNS, 2)):
        load = work.load(calls)
        for name in random.sample(list(found), len(found)):
            taken[name].append(driver.timing(found[name], load).cpu)
    return taken


def _paced(_: Run, driver: Driver, found: Mapping[str, Server], work: Work, calls: int) -> Turns:
    """All servers at the same time, call by call: one turn, as long as a round takes otherwise."""
    before = {name: server.cpu_seconds() for name, server in found.items()}
    began = time.monotonic()
    for number in range(calls):
        load = work.load(1)
        for name in random.sample(list(found), len(found)):
            driver.run(found[name].target, load)
        time.sleep(max(0.0, began + (number + 1) / work.paced - time.monotonic()))
    return {name: [(server.cpu_seconds() - before[name]) / calls] for name, server in found.items()}


def scrape(server: Server) -> bytes:
    with urllib.request.urlopen(f"{server.http}/metrics", timeout=60) as answer:
        page: bytes = answer.read()
    return page


def compare(run: Run, driver: Driver, collector: Collector) -> dict[str, Rounds]:
    """For each kind of calls, what each server took in each round, over several starts of the servers."""
    found: dict[str, Rounds] = {}
    starts = run.sized(_STARTS, 1)
    for start in range(starts):
        with servers(run, driver, collector) as running:
            for work in works(run):
                note(f"start {start + 1} of {starts}: {work.name}, with the {driver.name}")
                series = measure(run, driver, running, work, max(1, run.repetitions // starts))
                kept = found.setdefault(work.name, {name: [] for name in series})
                for name, taken in series.items():
                    kept[name] += taken
            check_watched(running)
    return found


def check_watched(found: Mapping[str, Server]) -> None:
    """That the page knows of the calls, so that it was no empty one."""
    counted = b'gestalt_cas_grpc_calls_total{method="HeadObject",code="OK"}'
    assert counted in scrape(found[SCRAPED]), "the page shows no calls"


def _print(name: str, series: Rounds, driver: Driver) -> None:
    print_table(
        f"Watched: {name}, {driver.name}",
        ["Server", "Server CPU, µs per call", "Ratio", "Lowest", "Highest"],
        [
            [server, us(Spread.of(one.cpu for one in taken).median), *(f"{value:.3f}" for value in _ratio(taken))]
            for server, taken in series.items()
        ],
    )


def _ratio(taken: list[Taken]) -> Spread:
    return Spread.of(one.ratio for one in taken)


def benchmark(run: Run) -> list[Finding]:
    driver = run.drivers[0]
    with collecting() as collector:
        found = compare(run, driver, collector)
        counts = collector.counts()
    assert counts["spans"], "no spans came"
    assert counts["metrics"], "no metrics came"
    note(f"collected: {counts}")
    findings = []
    for name, series in found.items():
        _print(name, series, driver)
        findings += [
            Finding(f"Watched, {server}: {name}, server CPU, without = 1", _ratio(series[server]), goal)
            for server, goal in GOALS.items()
        ]
    return findings


if __name__ == "__main__":
    runs.command("benchmarks.telemetry", __doc__, benchmark)
