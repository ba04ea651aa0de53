"""A provider process started as a Gestalt host starts one, and its lifecycle service.

The socket's path is in the environment under the names of both eras, everything else but a few variables is scrubbed,
and nothing is read from its output: it serves when the socket accepts (contract 2.2 to 2.4).
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from gestalt_cas.conformance import protos
from gestalt_cas.conformance.registry import Deviation
from gestalt_cas.conformance.wire import open_channel

START_SECONDS = 45.0
STOP_SECONDS = 2.0
"""What hosts give a provider to start and, after SIGTERM, to end."""
_KEPT = ("PATH", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
_CALL_SECONDS = 30.0


class Lifecycle:
    """The ProviderLifecycle service as a host calls it."""

    def __init__(self, target: str) -> None:
        self.pb = protos.BUCKETLESS
        self._channel = open_channel(target, ("grpc.default_authority", "localhost"))
        self._stubs: dict[str, Any] = {
            method: self._channel.unary_unary(
                protos.LIFECYCLE + method,
                request_serializer=getattr(self.pb, request).SerializeToString,
                response_deserializer=getattr(self.pb, response).FromString,
            )
            for method, (request, response) in protos.LIFECYCLE_METHODS.items()
        }

    def close(self) -> None:
        self._channel.close()

    def identity(self) -> Any:
        return self._stubs["GetProviderIdentity"](self.pb.Empty(), timeout=_CALL_SECONDS)

    def configure(self, config: Mapping[str, Any], *, version: int, name: str = "assets") -> Any:
        request = self.pb.ConfigureProviderRequest(name=name, protocol_version=version)
        request.config.update(dict(config))
        return self._stubs["ConfigureProvider"](request, timeout=_CALL_SECONDS)

    def health(self) -> Any:
        return self._stubs["HealthCheck"](self.pb.Empty(), timeout=_CALL_SECONDS)

    def start(self) -> Any:
        return self._stubs["StartProvider"](self.pb.Empty(), timeout=_CALL_SECONDS)


class Running:
    """A provider process that serves; `config` is what it may be configured with, on a directory of its own."""

    def __init__(
        self, process: subprocess.Popen[bytes], target: str, config: Mapping[str, Any], version: int, log: Path
    ) -> None:
        self.process = process
        self.log = log
        self.target = target
        self.config = config
        self.version = version
        self.lifecycle = Lifecycle(target)

    def configure(self) -> None:
        """As a host does it; raises grpc.RpcError."""
        self.lifecycle.configure(self.config, version=self.version)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def end(self) -> str:
        """How it ended, with the last that it printed; "" while it runs."""
        code = self.process.poll()
        return "" if code is None else f"it ended with exit code {code}: {_tail(self.log)}"

    def terminate(self) -> float:
        """SIGTERM, and wait; returns the seconds that it took. A deviation unless it ends with exit code 0 in time."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS + 8)
        except subprocess.TimeoutExpired:
            raise Deviation(f"an end within {STOP_SECONDS:g} s of SIGTERM", "a process that runs on") from None
        took = time.monotonic() - began
        if took > STOP_SECONDS:
            raise Deviation(f"an end within {STOP_SECONDS:g} s of SIGTERM", f"{took:.1f} s")
        if code != 0:
            raise Deviation("exit code 0 after SIGTERM", str(code))
        return took


class Host:
    """Starts the provider that a command line names.

    In the values of `config` the text {directory} stands for a directory that each process gets for itself.
    """

    def __init__(self, command: str, config: Mapping[str, Any] | None = None, version: int = 5) -> None:
        self.command = shlex.split(command)
        self.config = dict(config or {})
        self.version = version

    @contextmanager
    def running(self, *, configured: bool = True) -> Iterator[Running]:
        """A process of its own for the block; killed at its end if it still runs."""
        home = Path(tempfile.mkdtemp(prefix="gc"))
        try:
            process = self._start(home)
            try:
                _wait_for(process, home / "s", home / "log")
                config = _filled(self.config, home / "data")
                found = Running(process, f"unix://{home / 's'}", config, self.version, home / "log")
                try:
                    if configured:
                        _configured(found)
                    yield found
                finally:
                    found.lifecycle.close()
            finally:
                process.kill()
                process.wait()
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def _start(self, home: Path) -> subprocess.Popen[bytes]:
        path = str(home / "s")
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"HOME": str(home), "TMPDIR": str(home)}
        for era, parent in (("PROVIDER", "APP"), ("PLUGIN", "PLUGIN")):
            environment[f"GESTALT_{era}_SOCKET"] = path
            environment[f"GESTALT_{parent}_NAME"] = "assets"
            environment[f"GESTALT_{parent}_PARENT_PID"] = str(os.getpid())
        with (home / "log").open("wb") as log:
            return subprocess.Popen(
                self.command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )


def _configured(found: Running) -> None:
    try:
        found.configure()
    except grpc.RpcError as error:
        raise Deviation("to be configured with what was given", f"{error.code().name}: {error.details()}") from None


def _wait_for(process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Deviation("a process that serves on its socket", f"exit {process.returncode}: {_tail(log)}")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.025)
    raise Deviation(f"a socket at the path in the environment within {START_SECONDS:g} s", "none")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-600:].strip() or "nothing was printed"


def _filled(value: Any, directory: Path) -> Any:
    if isinstance(value, str):
        return value.replace("{directory}", str(directory))
    if isinstance(value, Mapping):
        return {name: _filled(inner, directory) for name, inner in value.items()}
    return value
