"""A server under mixed load for minutes: its memory, open files and WAL must stay flat.

    python -m benchmarks.soak [--seconds 600] [--callers 8] [--dir DIR]

Callers write, overwrite, read whole and in part, leave reads and uploads half-way, look up, list, copy and delete, over
a bounded set of keys in a store without versions, whose garbage is collected meanwhile. What was removed leaves its
row, so the database grows, and until it is beyond the pages that the writer keeps, so do these; hence it has many other
objects from the start, and what grows then is not the data. Each second is sampled. The first third warms up; over the
rest a line is fitted through each series, and the run fails (exit code 1) when a line rises by more than its allowance.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from benchmarks import building, driving
from benchmarks.measuring import note, place, print_machine, print_table
from benchmarks.serving import Server, served
from gestalt_cas import wire_pb2
from gestalt_cas.contract.rpc import SERVICE
from gestalt_cas.files.layout import Layout
from gestalt_cas.rules.frames import pack_data

_KEYS = 500
_OTHERS = 200_000
_SIZES = (100, 4096, 4096, 4096, 50_000, 300_000, 3_000_000)
_FRAME = 64 << 10
_DEADLINE_SECONDS = 60
SETTINGS = {"versioning": "suspended", "gc.everySeconds": 20, "gc.graceSeconds": 1}
_EXPECTED = {grpc.StatusCode.NOT_FOUND}
"""What calls on keys that other callers delete may end with."""
_MB = 1_000_000


class Series(NamedTuple):
    """One figure of the server; its line may rise by a part of its mean, or by `allowance` if that is more."""

    name: str
    unit: float
    part: float
    allowance: float


SERIES = (
    Series("resident memory, MB", _MB, 0.05, 8 * _MB),
    Series("open files", 1, 0.0, 8),
    Series("WAL, MB", _MB, 0.10, 8 * _MB),
    Series("threads", 1, 0.0, 16),
)


class Caller(threading.Thread):
    """Makes calls of random kinds until told to stop."""

    def __init__(self, target: str, number: int, until: float) -> None:
        super().__init__(name=f"caller-{number}")
        self.done: Counter[str] = Counter()
        self.failure = ""
        self._drawn = random.Random(number)
        self._until = until
        self._channel = grpc.insecure_channel(target, options=(("grpc.max_receive_message_length", 64 << 20),))
        kinds: dict[Callable[[], None], int] = {
            self.write: 30, self.read: 20, self.read_part: 10, self.leave_read: 4, self.leave_upload: 2,
            self.head: 20, self.list: 4, self.copy: 5, self.delete: 5,
        }  # fmt: skip
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def run(self) -> None:
        with self._channel:
            while time.monotonic() < self._until and not self.failure:
                (kind,) = self._drawn.choices(self._kinds, self._weights)
                try:
                    kind()
                except grpc.RpcError as error:
                    if error.code() not in _EXPECTED:
                        self.failure = f"{kind.__name__}: {error.code().name}: {error.details()}"
                self.done[kind.__name__] += 1

    def write(self) -> None:
        self._upload()(self._frames(self._drawn.choice(_SIZES)), timeout=_DEADLINE_SECONDS)

    def read(self) -> None:
        for _ in self._download(wire_pb2.ReadObjectRequest(ref=self._ref())):
            pass

    def read_part(self) -> None:
        part = wire_pb2.Range(start=0, end=self._drawn.randrange(100))
        for _ in self._download(wire_pb2.ReadObjectRequest(ref=self._ref(), range=part)):
            pass

    def leave_read(self) -> None:
        stream = self._download(wire_pb2.ReadObjectRequest(ref=self._ref()))
        list(islice(stream, 2))
        stream.cancel()

    def leave_upload(self) -> None:
        go_on = threading.Event()

        def frames() -> Iterator[bytes]:
            yield from islice(self._frames(3_000_000), 20)
            go_on.wait(_DEADLINE_SECONDS)

        call = self._upload().future(frames(), timeout=_DEADLINE_SECONDS)
        time.sleep(0.05)
        call.cancel()
        go_on.set()

    def head(self) -> None:
        self._unary("HeadObject", wire_pb2.HeadObjectRequest(ref=self._ref()))

    def list(self) -> None:
        self._unary("ListObjects", wire_pb2.ListObjectsRequest(delimiter=self._drawn.choice(("", "/"))))

    def copy(self) -> None:
        self._unary("CopyObject", wire_pb2.CopyObjectRequest(source=self._ref(), destination=self._ref()))

    def delete(self) -> None:
        self._unary("DeleteObject", wire_pb2.DeleteObjectRequest(ref=self._ref()))

    def _ref(self) -> wire_pb2.ObjectRef:
        number = self._drawn.randrange(_KEYS)
        return driving.ref(f"dir{number % 10}/{number:04d}")

    def _frames(self, size: int) -> Iterator[bytes]:
        opening = wire_pb2.WriteObjectOpen(ref=self._ref())
        yield wire_pb2.WriteObjectRequest(open=opening).SerializeToString()
        for at in range(0, size, _FRAME):
            yield pack_data(os.urandom(min(_FRAME, size - at)))

    def _unary(self, method: str, request: Message) -> None:
        send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/{SERVICE}/{method}")
        send(request.SerializeToString(), timeout=_DEADLINE_SECONDS)

    def _download(self, request: wire_pb2.ReadObjectRequest) -> Any:
        read: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(f"/{SERVICE}/ReadObject")
        return read(request.SerializeToString(), timeout=_DEADLINE_SECONDS)

    def _upload(self) -> grpc.StreamUnaryMultiCallable[bytes, bytes]:
        return self._channel.stream_unary(f"/{SERVICE}/WriteObject")


def sample(server: Server, directory: Path) -> list[float]:
    """One value for each of SERIES."""
    wal = Layout(directory).wal
    threads = len(list(Path(f"/proc/{server.pid}/task").iterdir()))
    return [server.resident_bytes(), server.open_files(), wal.stat().st_size if wal.exists() else 0, threads]


def rise(times: Sequence[float], values: Sequence[float]) -> float:
    """By how much the fitted line rises from the first time to the last."""
    return statistics.linear_regression(times, values).slope * (times[-1] - times[0])


def judged(series: Series, times: Sequence[float], values: Sequence[float]) -> tuple[list[str], bool]:
    """The row of a series, and whether it is flat."""
    rest = len(times) // 3
    after, kept = times[rest:], values[rest:]
    risen, mean = rise(after, kept), statistics.fmean(kept)
    allowed = max(series.allowance, series.part * mean)
    flat = risen <= allowed
    minutes = (after[-1] - after[0]) / 60
    shown = [values[0], min(kept), mean, max(kept), risen / minutes, risen, allowed]
    return [series.name, *(f"{value / series.unit:.2f}" for value in shown), "yes" if flat else "NO"], flat


def loaded(server: Server, directory: Path, seconds: float, count: int) -> tuple[list[float], list[list[float]]]:
    """Sample the server each second under the load of `count` callers; a call that fails ends the run."""
    until = time.monotonic() + seconds
    callers = [Caller(server.target, number, until) for number in range(count)]
    for caller in callers:
        caller.start()
    times, samples = [], []
    while time.monotonic() < until and not any(caller.failure for caller in callers):
        times.append(time.monotonic())
        samples.append(sample(server, directory))
        time.sleep(min(1.0, seconds / 30))
    for caller in callers:
        caller.join()
    failures = [caller.failure for caller in callers if caller.failure]
    if failures:
        raise SystemExit(f"a call failed: {failures[0]}")
    done = sum((caller.done for caller in callers), Counter[str]())
    print_table("Calls", ["Call", "Count"], [[name, f"{number:,}"] for name, number in done.most_common()])
    return times, samples


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, help="keep the store here")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--callers", type=int, default=8)
    options = parser.parse_args(arguments)
    with place(options.dir) as chosen:
        directory = Path(chosen) / "soak"
        building.ready(directory, [f"other/{number:06d}" for number in range(_OTHERS)])
        note(f"mixed load by {options.callers} callers for {options.seconds:.0f} s")
        with served(directory, settings=SETTINGS) as server:
            times, samples = loaded(server, directory, options.seconds, options.callers)
        columns = list(zip(*samples, strict=True))
        rows = [judged(series, times, values) for series, values in zip(SERIES, columns, strict=True)]
        print_table(
            f"{options.seconds:.0f} s of mixed load by {options.callers} callers, after the first third",
            ["Series", "At first", "Lowest", "Mean", "Highest", "Rise a minute", "Rise", "Allowed", "Flat"],
            [row for row, _ in rows],
        )
        print_machine(Path(chosen))
    return 0 if all(flat for _, flat in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
