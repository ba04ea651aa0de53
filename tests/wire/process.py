"""The real processes under test: `serve` on its own, and a provider under a simulated host.

Both leave as they should or fail the test: SIGTERM, exit 0, no traceback on stderr. Sockets live in a short directory
of their own, since a unix socket path holds 107 bytes.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from gestalt_cas import Store
from wire.client import eventually

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
"""Generous: it only bounds how long a start that never comes is waited for."""
SERVE = (sys.executable, "-m", "gestalt_cas", "serve")
PROVIDER = (sys.executable, "-m", "gestalt_cas", "provider")
TARGET = "gestalt_cas.provider:provider"
SDK_RUNTIME = (sys.executable, "-m", "gestalt._runtime", str(ROOT), TARGET, "s3")
SDK_RUN = (str(Path(sys.executable).with_name("gestalt")), "run", ".", TARGET, "s3")


def short_directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="gc"))


def running(pid: int) -> bool:
    """Whether the process still runs; one that ended but was not waited for yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def accepts(path: Path) -> bool:
    """Whether somebody accepts connections on a unix socket: the file alone is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def peak_resident_bytes(pid: int) -> int:
    """The largest resident set the process ever had (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM in /proc/PID/status")


class Process:
    """A child process with its stderr in a file; `stop` is the ordinary way to end it, `kill` the other one."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path = ROOT, **options: Any
    ) -> None:
        self.home = short_directory()
        self.log = self.home / "stderr"
        with self.log.open("wb") as stderr:
            self.popen = subprocess.Popen(
                command,
                env=None if environment is None else dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                **options,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def stderr(self) -> str:
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        return self.popen.poll() is None

    def first_line(self) -> str:
        """Wait for a whole line on stdout; fails if the process ends or START_SECONDS pass before."""
        stdout = self.popen.stdout
        assert stdout is not None
        line = b""
        deadline = time.monotonic() + START_SECONDS
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([stdout], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(stdout.fileno(), 1) if readable else b""
            assert piece, f"no line on stdout (exit {self.popen.poll()}); stdout {line!r}, stderr:\n{self.stderr}"
            line += piece
        return line.decode()

    def stop(self, *, signum: int = signal.SIGTERM, within: float = 15) -> float:
        """Signal and wait; returns the seconds it took. Fails unless it exits 0, in time and without a traceback."""
        assert self.alive(), f"ended before it was stopped (exit {self.popen.returncode}):\n{self.stderr}"
        started = time.monotonic()
        self.popen.send_signal(signum)
        try:
            self.popen.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running {within} s after signal {signum}:\n{self.stderr}") from None
        took = time.monotonic() - started
        assert self.popen.returncode == 0, f"exit {self.popen.returncode}:\n{self.stderr}"
        self.assert_no_traceback()
        return took

    def assert_no_traceback(self) -> None:
        start = self.stderr.find("Traceback")
        assert start < 0, self.stderr[max(0, start - 500) : start + 5000]

    def kill(self) -> None:
        """SIGKILL, for tests of crashes; harmless when it has ended."""
        self.popen.kill()
        self.popen.wait()

    def forget(self) -> None:
        """End it if it still runs, and remove its files."""
        self.kill()
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        shutil.rmtree(self.home, ignore_errors=True)


class Server(Process):
    """`gestalt-cas serve`, ready. `settings` are texts for --set; `data_dir` is an empty store unless given.

    `environment` is added to ours; `program` takes the place of `python -m gestalt_cas serve`.
    """

    def __init__(
        self,
        *settings: str,
        data_dir: Path | None = None,
        target: str = "",
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = SERVE,
    ):
        self.sockets = short_directory()
        self.requested = target or f"unix://{self.sockets}/s"
        self.data_dir = data_dir or self.sockets / "d"
        if data_dir is None and not settings:
            Store.open(self.data_dir).close()  # costs here a tenth of what it costs a process that only starts
        command = [*program, "--data-dir", str(self.data_dir), "--grpc", self.requested, *options]
        for setting in settings:
            command += ["--set", setting]
        super().__init__(command, {**os.environ, **environment} if environment else None)
        try:
            self.ready = json.loads(self.first_line())
        except BaseException:
            self.forget()
            raise
        assert self.ready["event"] == "ready", self.ready
        self.target: str = self.ready["grpc"]

    def staged(self) -> list[Path]:
        """Files of uploads that have neither been committed nor thrown away."""
        return list((self.data_dir / "staging").iterdir())

    def staged_bytes(self) -> int:
        total = 0
        for path in self.staged():
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
        return total

    def stop(self, *, signum: int = signal.SIGTERM, within: float = 15) -> float:
        took = super().stop(signum=signum, within=within)
        assert self.popen.stdout is not None
        rest = self.popen.stdout.read()
        assert rest == b"", f"more than the ready line on stdout: {rest!r}"
        return took

    def forget(self) -> None:
        super().forget()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and self.alive():
                self.stop()
        finally:
            self.forget()


def host_environment(home: Path, **additions: str) -> dict[str, str]:
    """What a host leaves of the environment, for a machine user whose home is `home`, plus `additions`."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(home), "TMPDIR": str(home), **additions}


class Hosted(Process):
    """A provider started as a host starts one: a socket path in the environment, everything else scrubbed."""

    def __init__(
        self,
        command: Sequence[str] = PROVIDER,
        *,
        era: str = "PROVIDER",
        environment: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.host_home = short_directory()
        self.socket = self.host_home / "s"
        names = {**host_names(era, self.socket, os.getpid()), **(environment or {})}
        super().__init__(command, host_environment(self.host_home, **names), cwd)
        self.target = f"unix://{self.socket}"
        try:
            self.wait_for_socket()
        except BaseException:
            self.forget()
            raise

    def wait_for_socket(self) -> None:
        def there() -> bool:
            assert self.alive(), f"ended before it served (exit {self.popen.returncode}):\n{self.stderr}"
            return accepts(self.socket)

        eventually(there, "the provider's socket", START_SECONDS)

    def forget(self) -> None:
        super().forget()
        shutil.rmtree(self.host_home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()


def host_names(era: str, socket: Path, parent_pid: int) -> dict[str, str]:
    """The variables of a protocol 4 and 5 host (`PROVIDER`) or of a protocol 2 and 3 host (`PLUGIN`)."""
    if era == "PROVIDER":
        return {
            "GESTALT_PROVIDER_SOCKET": str(socket),
            "GESTALT_APP_NAME": "assets",
            "GESTALT_APP_PARENT_PID": str(parent_pid),
        }
    return {
        "GESTALT_PLUGIN_SOCKET": str(socket),
        "GESTALT_PLUGIN_NAME": "assets",
        "GESTALT_PLUGIN_PARENT_PID": str(parent_pid),
    }


def command_line(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run `gestalt-cas` with these arguments to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gestalt_cas", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def versions(data_dir: Path, bucket: str, key: str) -> list[dict[str, Any]]:
    """All versions and delete markers of a key, newest first, as `gestalt-cas versions --json` reports them."""
    done = command_line("versions", "--json", "--data-dir", str(data_dir), f"{bucket}/{key}")
    assert done.returncode == 0, done.stderr
    text = done.stdout.strip()
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]
    return found if isinstance(found, list) else [found]
