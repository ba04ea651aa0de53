"""Server processes to measure from outside: their CPU time, memory, files and what they read and write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NamedTuple

import grpc

from benchmarks.measuring import Name
from gestalt_cas.contract.rpc import SERVICE

ROOT = Path(__file__).resolve().parents[1]
"""The checkout, where `python -m benchmarks.…` finds its modules."""
_STOP_SECONDS = 15
_START_SECONDS = 60


class Server:
    """A running server. `call` sends raw request bytes and returns the raw reply; `http` is its HTTP endpoint's URL.

    `log` is what it has written to stderr so far.
    """

    def __init__(self, pid: int, target: str, channel: grpc.Channel, log: Path, http: str = "") -> None:
        self.pid = pid
        self.target = target
        self.log = log
        self.http = http
        self._channel = channel

    def call(self, method: str, request: bytes) -> bytes:
        send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/{SERVICE}/{method}")
        return send(request, timeout=_START_SECONDS)

    def cpu_seconds(self) -> float:
        """CPU time of the whole process since it started, threads that have ended included."""
        return cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        return self._number("status", "VmRSS") * 1024

    def transferred_bytes(self) -> int:
        """What its system calls have read and written so far, files and sockets alike."""
        return self._number("io", "rchar") + self._number("io", "wchar")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def _number(self, file: str, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise LookupError(f"no {name} in /proc/PID/{file}")


def cpu_seconds(pid: int) -> float:
    """CPU time of a running process, all of its threads together."""
    # What clock_getcpuclockid(3) makes of a process id on Linux; Python has no call for it.
    return time.clock_gettime((~pid << 3) | 2)


class Wanted(NamedTuple):
    """A store to be served; `program` is what the interpreter runs as the command line's `gestalt-cas`.

    `under` is the beginning of the command line, if the interpreter is to run under something.
    """

    directory: Path
    program: Sequence[str] = ("-m", "gestalt_cas")
    settings: Mapping[str, object] = MappingProxyType({})
    environment: Mapping[str, str] = MappingProxyType({})
    under: Sequence[str] = ()


@contextmanager
def served_so(wanted: Wanted) -> Iterator[Server]:
    """Serve one store for the block."""
    with served_together({"": wanted}) as servers:
        yield servers[""]


@contextmanager
def served(
    directory: Path, program: Sequence[str] = ("-m", "gestalt_cas"), settings: Mapping[str, object] | None = None
) -> Iterator[Server]:
    """Serve a store for the block."""
    with served_so(Wanted(directory, program, settings or {})) as server:
        yield server


@contextmanager
def served_together(wanted: Mapping[Name, Wanted]) -> Iterator[dict[Name, Server]]:
    """Serve several stores for the block; the servers start at the same time."""
    with ExitStack() as stack:
        waiting = {name: stack.enter_context(_serving(one)) for name, one in wanted.items()}
        yield {name: stack.enter_context(ready()) for name, ready in waiting.items()}


@contextmanager
def _serving(wanted: Wanted) -> Iterator[Callable[[], AbstractContextManager[Server]]]:
    """A server that starts; gives what waits until it is ready."""
    with TemporaryDirectory(prefix="gcb") as home:
        target, log = f"unix://{home}/s", Path(home) / "log"
        arguments = ["serve", "--data-dir", str(wanted.directory.resolve()), "--grpc", target]
        for name, value in wanted.settings.items():
            arguments += ["--set", f"{name}={value}"]
        with started([*wanted.program, *arguments], log, wanted.environment, wanted.under) as process:

            @contextmanager
            def ready() -> Iterator[Server]:
                assert process.stdout is not None
                first = process.stdout.readline()
                announced = json.loads(first) if first else {}
                if announced.get("event") != "ready":
                    raise SystemExit(f"the server did not start:\n{log.read_text()}")
                with grpc.insecure_channel(target) as channel:
                    yield Server(process.pid, target, channel, log, announced.get("http", ""))

            yield ready


@contextmanager
def hosted(provider: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """The S3 provider `module:attribute` under the SDK's own runtime, for the block."""
    with TemporaryDirectory(prefix="gcb") as home:
        target = f"unix://{home}/s"
        names = {"GESTALT_PROVIDER_SOCKET": f"{home}/s", "GESTALT_PLUGIN_SOCKET": f"{home}/s", **environment}
        log = Path(home) / "log"
        with (
            started(["-m", "gestalt._runtime", str(ROOT), provider, "s3"], log, names) as process,
            grpc.insecure_channel(target) as channel,
        ):
            try:
                grpc.channel_ready_future(channel).result(_START_SECONDS)
            except grpc.FutureTimeoutError:
                raise SystemExit(f"the SDK's runtime did not start:\n{log.read_text()}") from None
            yield Server(process.pid, target, channel, log)


@contextmanager
def started(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, under: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """An interpreter that runs the arguments; it is asked to stop at the end of the block, then made to."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*under, sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
