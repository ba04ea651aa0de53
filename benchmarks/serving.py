"""A `gestalt-cas serve` process to measure from outside, CPU time included."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

from gestalt_cas.rpc import SERVICE

_STOP_SECONDS = 15


class Server:
    """A running server. `call` sends raw request bytes and returns the raw reply."""

    def __init__(self, pid: int, channel: grpc.Channel) -> None:
        self._channel = channel
        # What clock_getcpuclockid(3) makes of a process id on Linux; Python has no call for it.
        self._clock = (~pid << 3) | 2

    def call(self, method: str, request: bytes) -> bytes:
        send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/{SERVICE}/{method}")
        return send(request, timeout=60)

    def cpu_seconds(self) -> float:
        """CPU time of the whole process since it started, threads that have ended included."""
        return time.clock_gettime(self._clock)


@contextmanager
def served(directory: Path) -> Iterator[Server]:
    """Serve a store for the block."""
    with TemporaryDirectory(prefix="gcb") as home:
        target = f"unix://{home}/s"
        command = [sys.executable, "-m", "gestalt_cas", "serve", "--data-dir", str(directory), "--grpc", target]
        with (
            (Path(home) / "log").open("w+") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                first = process.stdout.readline()
                if not first or json.loads(first)["event"] != "ready":
                    log.seek(0)
                    raise SystemExit(f"the server did not start:\n{log.read()}")
                with grpc.insecure_channel(target) as channel:
                    yield Server(process.pid, channel)
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
