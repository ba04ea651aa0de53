"""A `gestalt-cas serve` process to measure from outside, CPU time included."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

from gestalt_cas.rpc import SERVICE

_STOP_SECONDS = 15


class Server:
    """A running server. `call` sends raw request bytes and returns the raw reply; `http` is its HTTP endpoint's URL."""

    def __init__(self, pid: int, channel: grpc.Channel, http: str) -> None:
        self.pid = pid
        self.http = http
        self._channel = channel

    def call(self, method: str, request: bytes) -> bytes:
        send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/{SERVICE}/{method}")
        return send(request, timeout=60)

    def cpu_seconds(self) -> float:
        """CPU time of the whole process since it started, threads that have ended included."""
        return cpu_seconds(self.pid)


def cpu_seconds(pid: int) -> float:
    """CPU time of a running process, all of its threads together."""
    # What clock_getcpuclockid(3) makes of a process id on Linux; Python has no call for it.
    return time.clock_gettime((~pid << 3) | 2)


@contextmanager
def served(directory: Path, program: Sequence[str] = ("-m", "gestalt_cas")) -> Iterator[Server]:
    """Serve a store for the block; `program` is what the interpreter runs as the command line's `gestalt-cas`."""
    with TemporaryDirectory(prefix="gcb") as home:
        target = f"unix://{home}/s"
        command = [sys.executable, *program, "serve", "--data-dir", str(directory), "--grpc", target]
        with (
            (Path(home) / "log").open("w+") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                first = process.stdout.readline()
                ready = json.loads(first) if first else {}
                if ready.get("event") != "ready":
                    log.seek(0)
                    raise SystemExit(f"the server did not start:\n{log.read()}")
                with grpc.insecure_channel(target) as channel:
                    yield Server(process.pid, channel, ready.get("http", ""))
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
