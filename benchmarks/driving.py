"""Clients in processes of their own, so that their work does not share the server's interpreter or ours.

A driver reads one `Load` a line and writes one `Done`, both as JSON. Three programs speak that: `client_go`, a small
compiled one, built where a Go toolchain is at hand; `driver.py raw`, the same in Python over grpcio; `driver.py sdk`,
with the Python SDK's client. On a machine with few cores the client takes time from the server all the same, so the
server's CPU per call is measured beside the clock.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from benchmarks.measuring import Timing, note
from benchmarks.serving import ROOT, Server
from gestalt_cas import wire_pb2
from gestalt_cas.contract.rpc import SERVICE

COMPILED, RAW, SDK = "compiled client", "raw Python client", "Python SDK client"
_SOURCE = ROOT / "benchmarks" / "client_go"
PROGRAM = ROOT / ".build" / "bench-client"
_GO_HOME = "/usr/local/go/bin"
"""Where Go's own packages put it, which is not on every PATH."""


@dataclass(frozen=True)
class Load:
    """One call for each of `requests`, raw messages, by `callers` at once.

    `kind` is unary, download or upload. An upload's request is its opening; `size` bytes in frames of `frame` follow,
    unlike those of every other upload with another `seed`.
    """

    method: str
    kind: str
    requests: Sequence[bytes]
    callers: int = 1
    size: int = 0
    frame: int = 0
    seed: int = 0

    def line(self, target: str) -> bytes:
        fields = asdict(self) | {"target": target, "method": f"/{SERVICE}/{self.method}"}
        fields["requests"] = [b64encode(request).decode() for request in self.requests]
        return json.dumps(fields).encode() + b"\n"


@dataclass(frozen=True)
class Done:
    """What came of a load: seconds in all and of each call, bytes received, the largest message, the client's CPU."""

    seconds: float
    calls: Sequence[float]
    bytes: int
    largest: int
    cpu: float
    error: str


class Driver:
    """A running client program. `suffix` goes behind the name of what it measures; the first driver's is empty."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], suffix: str = "") -> None:
        self.name = name
        self.suffix = suffix
        self._process = process

    def run(self, target: str, load: Load) -> Done:
        """Run the load to its end; any call that fails ends the benchmark."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(load.line(target))
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} ended (exit {self._process.wait()})")
        done = Done(**json.loads(line))
        if done.error:
            raise SystemExit(f"{load.method} by the {self.name}: {done.error}")
        return done

    def timing(self, server: Server, load: Load, *, median: bool = False) -> Timing:
        """Seconds per call, and the server's CPU per call; with `median` the time is that of the median call."""
        before = server.cpu_seconds()
        done = self.run(server.target, load)
        cpu = (server.cpu_seconds() - before) / len(load.requests)
        return Timing(statistics.median(done.calls) if median else done.seconds / len(load.requests), cpu)


@contextmanager
def drivers(*, compiled: bool = True, sdk: bool = True) -> Iterator[list[Driver]]:
    """The drivers to measure with: first the one that costs least, then the SDK's client."""
    program = compiled_client() if compiled else None
    python = [sys.executable, "-m", "benchmarks.driver"]
    commands = {COMPILED: [str(program)]} if program else {RAW: [*python, "raw"]}
    if sdk:
        commands[SDK] = [*python, "sdk"]
    with ExitStack() as stack:
        yield [
            stack.enter_context(_driver(name, command, f", {name}" if number else ""))
            for number, (name, command) in enumerate(commands.items())
        ]


@contextmanager
def _driver(name: str, command: Sequence[str], suffix: str) -> Iterator[Driver]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield Driver(name, process, suffix)
        finally:
            process.kill()


@cache
def compiled_client() -> Path | None:
    """The compiled client, built now if its sources have changed; None, with a note, where that cannot be."""
    newest = max(path.stat().st_mtime for path in _SOURCE.iterdir())
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > newest:
        return PROGRAM
    go = shutil.which("go") or shutil.which("go", path=_GO_HOME)
    if go is None:
        note("there is no Go toolchain to build the compiled client with: the raw Python client drives")
        return None
    note("building the compiled client")
    PROGRAM.parent.mkdir(exist_ok=True)
    built = PROGRAM.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [go, "build", "-o", str(built), "."], cwd=_SOURCE, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        note(f"the compiled client cannot be built, the raw Python client drives:\n{done.stderr.strip()}")
        return None
    built.replace(PROGRAM)
    return PROGRAM


def ref(key: str) -> wire_pb2.ObjectRef:
    return wire_pb2.ObjectRef(key=key)


def heads(keys: Sequence[str], callers: int = 1) -> Load:
    requests = [wire_pb2.HeadObjectRequest(ref=ref(key)).SerializeToString() for key in keys]
    return Load("HeadObject", "unary", requests, callers)


def deletes(keys: Sequence[str], callers: int = 1) -> Load:
    requests = [wire_pb2.DeleteObjectRequest(ref=ref(key)).SerializeToString() for key in keys]
    return Load("DeleteObject", "unary", requests, callers)


def copies(source: str, keys: Sequence[str]) -> Load:
    requests = [wire_pb2.CopyObjectRequest(source=ref(source), destination=ref(key)) for key in keys]
    return Load("CopyObject", "unary", [request.SerializeToString() for request in requests])


def downloads(key: str, times: int = 1, callers: int = 1) -> Load:
    request = wire_pb2.ReadObjectRequest(ref=ref(key)).SerializeToString()
    return Load("ReadObject", "download", [request] * times, callers)


def uploads(keys: Sequence[str], size: int, *, seed: int, callers: int = 1, frame: int = 64 << 10) -> Load:
    """New objects; the payloads are unlike those of any other `seed`, if they have 16 bytes at least."""
    openings = [wire_pb2.WriteObjectRequest(open=wire_pb2.WriteObjectOpen(ref=ref(key))) for key in keys]
    requests = [opening.SerializeToString() for opening in openings]
    return Load("WriteObject", "upload", requests, callers, size, frame, seed)
