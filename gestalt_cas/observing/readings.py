"""All figures of a server at one moment, for whoever shows them; names and units are Prometheus's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from gestalt_cas import __version__
from gestalt_cas.errors import NotConfigured, ShuttingDown
from gestalt_cas.observing.calls import GRPC, HTTP, Observer
from gestalt_cas.observing.census import Census
from gestalt_cas.observing.families import COUNTER, GAUGE, HISTOGRAM, NONE, Family, family, labels
from gestalt_cas.observing.store_readings import at_a_glance, counted
from gestalt_cas.serving.mounts import Mounts
from gestalt_cas.serving.pools import Pools
from gestalt_cas.sql import schema, sqlite


class Readings:
    """Takes the figures of one server. Thread-safe; for threads that may wait for the database."""

    def __init__(self, observer: Observer, mounts: Mounts, pools: Pools) -> None:
        self._observer = observer
        self._mounts = mounts
        self._pools = pools
        self._census = Census(mounts)

    def take(self) -> list[Family]:
        """Every figure; one that nothing can be said of now has no samples."""
        found = [*_process(), *_calls(self._observer), *_pools(self._pools), *self._exporter()]
        try:
            with self._mounts.use() as mount:
                return [*found, *at_a_glance(mount), *counted(self._census.latest(mount), self._census.counted_at)]
        except (NotConfigured, ShuttingDown):
            return [*found, *at_a_glance(None), *counted(None, 0.0)]

    def _exporter(self) -> Iterator[Family]:
        exporter = self._observer.exporter
        skipped = exporter.skipped if exporter is not None else None
        text = "Calls without a span, because of telemetry.spansPerSecond."
        yield family(COUNTER, "spans_skipped_total", text, [(NONE, skipped)])


# ---- the process ----


@cache
def _started() -> float:
    """When this process was started, in Unix seconds; 0 where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except (OSError, StopIteration):
        return 0.0
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def _process() -> Iterator[Family]:
    """The figures that Prometheus's own libraries give of a process, under their names."""
    times = os.times()
    yield Family(
        "process_cpu_seconds_total", COUNTER, "CPU time of this process.", ((NONE, times.user + times.system),)
    )
    if started := _started():
        yield Family("process_start_time_seconds", GAUGE, "When this process was started.", ((NONE, started),))
    version = labels(version=__version__, format=str(schema.FORMAT), sqlite=sqlite.VERSION)
    yield family(GAUGE, "build_info", "1; the labels say what runs.", [(version, 1)])
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))
    except OSError:
        return
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    yield Family("process_resident_memory_bytes", GAUGE, "Memory that this process has.", ((NONE, resident),))
    yield Family("process_open_fds", GAUGE, "Files and sockets that this process has open.", ((NONE, files),))


# ---- calls ----


def _calls(observer: Observer) -> Iterator[Family]:
    methods = sorted(observer.methods.items())
    for protocol, what, code in ((GRPC, "calls", "code"), (HTTP, "requests", "status")):
        ours = [method for (of, _), method in methods if of == protocol]
        yield family(
            COUNTER,
            f"{protocol}_{what}_total",
            f"{protocol} {what} that have ended, by how they ended.",
            [
                (labels(method=one.name, **{code: name}), count)
                for one in ours
                for name, count in sorted(one.tally.codes.items())
            ],
        )
        yield family(
            HISTOGRAM,
            f"{protocol}_{what.removesuffix('s')}_duration_seconds",
            f"How long {protocol} {what} took, from when they were begun with to the end of the answer.",
            [(labels(method=one.name), one.tally.seconds) for one in ours if one.tally.codes],
        )
    for way, text in (("received", "taken in"), ("sent", "sent out")):
        yield family(
            COUNTER,
            f"{way}_bytes_total",
            f"Bytes of objects that were {text}, by calls that have ended.",
            [
                (labels(protocol=protocol), sum(getattr(one.tally, way) for (of, _), one in methods if of == protocol))
                for protocol in (GRPC, HTTP)
            ],
        )


def _pools(pools: Pools) -> Iterator[Family]:
    held = {"unary": pools.unary, "change": pools.changes, "read": pools.reads, "write": pools.writes}
    yield family(
        GAUGE,
        "grpc_calls_held",
        "Calls under way or waiting, by pool: change is deletes and copies, unary the other short ones.",
        [(labels(pool=name), pool.held) for name, pool in held.items()],
    )
    yield family(
        GAUGE,
        "grpc_calls_limit",
        "Calls that each pool holds at most; one more is refused.",
        [(labels(pool=name), pool.limit) for name, pool in held.items()],
    )
