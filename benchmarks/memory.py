"""What a stream costs the server in memory while its peer is slow, and what an idle server takes.

    python -m benchmarks.memory [--dir DIR] [--quick]

Each stream has a connection of its own and stops in the middle: a read after its first two messages, an upload after a
few MiB. One stream has run to its end before, so what is used for the first time is there already, but not the threads
of the others. Memory is what the process has resident.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import grpc

from benchmarks import runs
from benchmarks.driving import downloads, uploads
from benchmarks.findings import Finding, at_most
from benchmarks.measuring import note, print_table
from benchmarks.reads import KEY, filled
from benchmarks.runs import Run
from benchmarks.serving import Server, served
from benchmarks.syncing import MIB
from gestalt_cas import Store
from gestalt_cas.contract.rpc import SERVICE
from gestalt_cas.rules.frames import pack_data

IDLE_GOAL = at_most(120, "MB")
_MB = 1_000_000
_FRAME = 64 << 10
_FRAMES_ALLOWED = 4
SETTLED_SECONDS, _MOST_SECONDS = 1.0, 15.0
_UPLOADED = 4 * MIB
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 * MIB))


def resting(server: Server) -> int:
    """Resident bytes once they have not grown for a second."""
    end = time.monotonic() + _MOST_SECONDS
    most, since = 0, time.monotonic()
    while time.monotonic() < end and time.monotonic() - since < SETTLED_SECONDS:
        found = server.resident_bytes()
        if found > most * 1.002:
            most, since = found, time.monotonic()
        time.sleep(0.1)
    return server.resident_bytes()


@contextmanager
def slow_read(server: Server) -> Iterator[int]:
    """A read that stops after its meta and its first data; gives the length of the largest message."""
    request = downloads(KEY).requests[0]
    with grpc.insecure_channel(server.target, options=_OWN_CONNECTION) as channel:
        read: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{SERVICE}/ReadObject")
        stream = read(request)
        yield max(len(message) for message in islice(stream, 2))
        stream.cancel()


@contextmanager
def slow_upload(server: Server, number: int) -> Iterator[int]:
    """An upload that stops after some MiB; gives the length of its frames."""
    opening = uploads([f"slow/{number}"], 0, seed=0).requests[0]
    frame = pack_data(bytes(_FRAME))
    sent, go_on = threading.Event(), threading.Event()

    def frames() -> Iterator[bytes]:
        yield opening
        for _ in range(_UPLOADED // _FRAME):
            yield frame
        sent.set()
        go_on.wait()

    with grpc.insecure_channel(server.target, options=_OWN_CONNECTION) as channel:
        write: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(f"/{SERVICE}/WriteObject")
        call = write.future(frames())
        sent.wait(60)
        yield len(frame)
        call.cancel()
        go_on.set()


def growth(server: Server, streams: int, open_one: Callable[[int], AbstractContextManager[int]]) -> tuple[int, int]:
    """Bytes that the server grew by while so many streams stood open, and the largest message of one."""
    note(f"opening {streams} slow streams")
    before = resting(server)
    with ExitStack() as stack:
        largest = max(stack.enter_context(open_one(number)) for number in range(streams))
        return resting(server) - before, largest


def per_stream(run: Run, directory: Path, streams: int) -> tuple[list[list[str]], list[Finding]]:
    driver = run.drivers[0]
    rows, findings = [], []
    with served(directory) as server:
        warm_up = {
            "ReadObject": downloads(KEY),
            "WriteObject": uploads(["warm"], _UPLOADED, seed=1),
        }
        kinds: dict[str, Callable[[int], AbstractContextManager[int]]] = {
            "ReadObject": lambda _: slow_read(server),
            "WriteObject": lambda number: slow_upload(server, number),
        }
        for name, open_one in kinds.items():
            # A read's second message need not be its largest: those of the warm-up tell the size of a frame.
            largest = driver.run(server.target, warm_up[name]).largest
            grown, message = growth(server, streams, open_one)
            frame = max(message, largest)
            goal = at_most((_FRAMES_ALLOWED * frame + _MB) / _MB, "MB")
            each = grown / streams / _MB
            rows.append([f"{name}, {streams} streams", f"{grown / _MB:.1f}", f"{each:.2f}", f"{frame / 1024:.0f}"])
            findings.append(Finding(f"Memory, {name}: per slow stream (4 frames and 1 MB)", each, goal))
    return rows, findings


def idle(directory: Path) -> Finding:
    with served(directory) as server:
        server.call("ListObjects", b"")
        return Finding("Memory, idle server", resting(server) / _MB, IDLE_GOAL)


def benchmark(run: Run) -> list[Finding]:
    size, streams = run.sized(64 * MIB, 4 * MIB), run.sized(32, 3)
    directory = run.root / f"reads-{size}"
    filled(directory, size)
    rows, findings = per_stream(run, directory, streams)
    Store.open(run.root / "idle").close()
    findings.append(idle(run.root / "idle"))
    print_table("Memory of slow streams (MB)", ["Streams", "Growth", "Per stream", "Largest message, KiB"], rows)
    return findings


if __name__ == "__main__":
    runs.command("benchmarks.memory", __doc__, benchmark)
