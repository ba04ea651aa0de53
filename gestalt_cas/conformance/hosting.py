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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from gestalt_cas.conformance import protos
from gestalt_cas.conformance.registry import Deviation
from gestalt_cas.conformance.wire import DEADLINE_SECONDS, Exchanges, open_channel, told, wanted

START_SECONDS = 45.0
STOP_SECONDS = 2.0
"""What hosts give a provider to start and, after SIGTERM, to end."""
_KEPT = ("PATH", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
_TAIL_CHARS = 3000
_END_SECONDS = 1.0
"""How long a process may take to be gone after its connection is."""


class Lifecycle:
    """The ProviderLifecycle service as a host calls it; the calls are kept in `exchanges`."""

    def __init__(self, target: str, exchanges: Exchanges | None = None, *, deadline: float = DEADLINE_SECONDS) -> None:
        self.pb = protos.BUCKETLESS
        self.deadline = deadline
        self._exchanges = Exchanges() if exchanges is None else exchanges
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
        return self._call("GetProviderIdentity", self.pb.Empty())

    def configure(self, config: Mapping[str, Any], *, version: int, name: str = "assets") -> Any:
        request = self.pb.ConfigureProviderRequest(name=name, protocol_version=version)
        request.config.update(dict(config))
        return self._call("ConfigureProvider", request)

    def health(self) -> Any:
        return self._call("HealthCheck", self.pb.Empty())

    def start(self) -> Any:
        return self._call("StartProvider", self.pb.Empty())

    def _call(self, method: str, request: Any) -> Any:
        return self._exchanges.call(method, self._stubs[method], request, self.deadline)


class Running:
    """A provider process that serves; `config` is what it may be configured with, on a directory of its own."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        target: str,
        config: Mapping[str, Any],
        version: int,
        log: Path,
        lifecycle: Lifecycle,
    ) -> None:
        self.process = process
        self.log = log
        self.target = target
        self.config = config
        self.version = version
        self._terminated = False
        self.lifecycle = lifecycle

    def configure(self) -> None:
        """As a host does it; raises grpc.RpcError."""
        self.lifecycle.configure(self.config, version=self.version)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def end(self) -> str:
        """How it ended; "" while it runs."""
        code = self.process.poll()
        return "" if code is None else _ended(code, self.printed)

    @property
    def printed(self) -> str:
        """The last that it printed."""
        return _tail(self.log)

    def judged(self, error: grpc.RpcError | Deviation) -> Deviation:
        """What went wrong in words that say, too, whether the process has ended, and what it printed last if so."""
        cause = error.__cause__ if isinstance(error, Deviation) else error
        if isinstance(cause, grpc.RpcError) and cause.code() is grpc.StatusCode.UNAVAILABLE:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_SECONDS)
        found = (
            error if isinstance(error, Deviation) else Deviation(wanted(error, self.lifecycle.deadline), told(error))
        )
        if self.alive or found.printed:
            return found
        got = found.got if self._terminated else f"{found.got}; {self.end}"
        return Deviation(found.expected, got, self.printed)

    def terminate(self) -> float:
        """SIGTERM, and wait; returns the seconds that it took. A deviation unless it ends with exit code 0 in time."""
        began = time.monotonic()
        self._terminated = True
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS + 8)
        except subprocess.TimeoutExpired:
            raise Deviation(f"an end within {STOP_SECONDS:g} s of SIGTERM", "a process that runs on") from None
        took = time.monotonic() - began
        if took > STOP_SECONDS:
            raise Deviation(f"an end within {STOP_SECONDS:g} s of SIGTERM", f"{took:.1f} s")
        if code != 0:
            raise Deviation("exit code 0 after SIGTERM", _code(code))
        return took


class Host:
    """Starts the provider that a command line names; ValueError if the line is none.

    The provider is the process itself, to which SIGTERM goes: a shell or another wrapper that stays between must pass
    that on.

    In the values of `config` the text {directory} stands for a directory that each process gets for itself.
    """

    def __init__(self, command: str, config: Mapping[str, Any] | None = None, version: int = 5) -> None:
        self.command = shlex.split(command)
        if not self.command:
            raise ValueError("the command is empty")
        self.config = dict(config or {})
        self.version = version
        self._running: dict[str, Running] = {}

    def last_words(self, target: str) -> str:
        """How the process that it started at the target has ended, and what that printed last; "" for none that has."""
        found = self._running.get(target)
        return "" if found is None or found.alive else f"{found.end}\n{found.printed}".rstrip()

    @contextmanager
    def running(
        self, *, configured: bool = True, exchanges: Exchanges | None = None, deadline: float = DEADLINE_SECONDS
    ) -> Iterator[Running]:
        """A process of its own for the block, killed at its end with all that it has started.

        The calls of its lifecycle are kept in `exchanges`, and may take `deadline` seconds.
        """
        home = Path(tempfile.mkdtemp(prefix="gc"))
        try:
            process = self._start(home)
            try:
                _wait_for(process, home / "s", home / "log")
                config = _filled(self.config, home / "data")
                target = f"unix://{home / 's'}"
                lifecycle = Lifecycle(target, exchanges, deadline=deadline)
                found = Running(process, target, config, self.version, home / "log", lifecycle)
                try:
                    if configured:
                        _configured(found)
                    self._running[target] = found
                    yield found
                finally:
                    self._running.pop(target, None)
                    found.lifecycle.close()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
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
                self.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _configured(found: Running) -> None:
    try:
        found.configure()
    except grpc.RpcError as error:
        why = found.judged(error)
        raise Deviation("to be configured with what was given", why.got, why.printed) from None


def _wait_for(process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            printed = _tail(log)
            got = _ended(process.returncode, printed)
            raise Deviation("a process that serves at the path in GESTALT_PROVIDER_SOCKET", got, printed)
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.025)
    expected = f"somebody to serve at the path in GESTALT_PROVIDER_SOCKET within {START_SECONDS:g} s"
    raise Deviation(expected, "nobody", _tail(log))


def _ended(code: int, printed: str) -> str:
    return f"the process ended with {_code(code)}{'' if printed else ': nothing was printed'}"


def _code(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}, which it did not handle"


def _tail(log: Path) -> str:
    """The last that was printed, enough for a stack trace with what it begins with; "" for nothing."""
    text = log.read_text(errors="replace")
    return (text if len(text) <= _TAIL_CHARS else text[-_TAIL_CHARS:].partition("\n")[2]).strip()


def _filled(value: Any, directory: Path) -> Any:
    if isinstance(value, str):
        return value.replace("{directory}", str(directory))
    if isinstance(value, Mapping):
        return {name: _filled(inner, directory) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, directory) for inner in value]
    return value
