"""The host's environment under both eras' names, and leaving when the host has gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gestalt_cas.serving import host
from storage import Child, Failing, child

NEW, OLD = host.SOCKET_NAMES


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*host.SOCKET_NAMES, *host.PARENT_NAMES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a host."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(("given", "other"), [(NEW, OLD), (OLD, NEW)])
def test_each_name_stands_for_the_other(given: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(given, "/run/x")
    monkeypatch.setenv(other, "")
    host.alias_socket_names()
    assert (os.environ[NEW], os.environ[OLD]) == ("/run/x", "/run/x")
    assert host.socket_target() == "/run/x"


def test_names_that_are_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NEW, "/new")
    monkeypatch.setenv(OLD, "/old")
    host.alias_socket_names()
    assert (os.environ[NEW], os.environ[OLD]) == ("/new", "/old")
    assert host.socket_target() == "/new"


def test_without_a_host_there_is_no_target() -> None:
    host.alias_socket_names()
    assert not {NEW, OLD} & set(os.environ)
    assert host.socket_target() == ""


@pytest.mark.parametrize(
    ("values", "pid"),
    [
        ({}, None),
        ({0: "12"}, 12),
        ({1: "34"}, 34),
        ({0: "12", 1: "34"}, 12),
        ({0: " 12 "}, 12),
        ({0: "", 1: "34"}, 34),
        ({0: "x", 1: "-3"}, None),
        ({0: "0"}, None),
    ],
)
def test_host_pid(values: dict[int, str], pid: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, value in values.items():
        monkeypatch.setenv(host.PARENT_NAMES[number], value)
    assert host.host_pid() == pid


def test_without_a_host_nothing_is_watched() -> None:
    before = threading.active_count()
    host.watch(pytest.fail)
    assert threading.active_count() == before


def watched(pid: int, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[str]]:
    monkeypatch.setenv(host.PARENT_NAMES[0], str(pid))
    left, reasons = threading.Event(), []

    def leave(reason: str) -> None:
        reasons.append(reason)
        left.set()

    host.watch(leave)
    return left, reasons


@pytest.mark.parametrize("with_pidfd", [True, False])
def test_a_host_that_dies_is_noticed_once(
    with_pidfd: bool, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_LOOK_SECONDS", 0.02)
    if not with_pidfd:
        monkeypatch.setattr(host, "_pidfd", lambda pid: None)
    left, reasons = watched(sleeper.pid, monkeypatch)
    assert not left.wait(0.2)
    sleeper.kill()
    assert left.wait(60)  # before anybody has waited for the process: a zombie has gone
    time.sleep(0.1)
    assert reasons == [f"the host, process {sleeper.pid}, has gone"]


def test_another_process_under_the_same_pid_is_not_the_host(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_LOOK_SECONDS", 0.02)
    real = host._start_time(sleeper.pid)
    times = iter([real, real, "another"])
    monkeypatch.setattr(host, "_start_time", lambda pid: next(times, "another"))
    left, reasons = watched(sleeper.pid, monkeypatch)
    assert left.wait(60)
    assert reasons == [f"the host, process {sleeper.pid}, has gone"]


def test_a_host_that_cannot_be_seen_leaves_the_parent_to_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host, "_LOOK_SECONDS", 0.02)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    parents = iter([77, 77, 77, 78])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 78))
    left, reasons = watched(gone.pid, monkeypatch)
    assert "not to be seen" in caplog.text
    assert left.wait(60)
    assert reasons == ["the parent, process 77, has gone"]


def test_the_parent_is_watched_beside_the_host() -> None:
    """A launcher stands between: it dies, the host lives on, and the provider leaves."""
    launcher = """
        import subprocess
        code = '''
        import os, sys, threading
        from gestalt_cas.serving import host
        host._LOOK_SECONDS = 0.02
        left = threading.Event()
        def leave(reason):
            print(reason, flush=True)
            left.set()
        host.watch(leave)
        print("watching", flush=True)
        left.wait(60)
        '''
        import textwrap
        environment = {**os.environ, "GESTALT_APP_PARENT_PID": arguments[0]}
        provider = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment)
        sys.stdin.readline()
        os._exit(0)
    """
    with Child(launcher, os.getpid()) as process:
        assert process.line() == "watching"
        process.tell()
        assert process.line() == f"the parent, process {process.pid}, has gone"


@pytest.mark.parametrize("error", [OSError(), AttributeError()])
def test_a_system_without_pidfds_does_without(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pidfd_open", Failing(lambda pid: 0, error), raising=False)
    assert host._pidfd(os.getpid()) is None


def test_start_time_tells_processes_apart(sleeper: subprocess.Popen[bytes]) -> None:
    own = host._start_time(os.getpid())
    assert own is not None
    assert own == host._start_time(os.getpid())
    assert host._start_time(sleeper.pid) is not None
    sleeper.kill()
    sleeper.wait()
    assert host._start_time(sleeper.pid) is None


def test_start_time_copes_with_a_process_name_of_brackets_and_blanks() -> None:
    code = """
        Path("/proc/self/comm").write_text(") R 1 (")
        from gestalt_cas.serving import host
        print(host._start_time(os.getpid()) == Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    """
    assert child(code) == "True\n"


@pytest.mark.parametrize(("error", "alive"), [(None, "alive"), (PermissionError, "alive"), (ProcessLookupError, None)])
def test_without_proc_a_signal_tells(
    error: type[OSError] | None, alive: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(pid: int, signal: int) -> None:
        assert (pid, signal) == (12, 0)
        if error is not None:
            raise error

    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(Path, "read_text", lambda path: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setattr(os, "kill", kill)
    assert host._start_time(12) == alive
