"""A process that gets no more threads or files: who asked is told so in a sentence, and all is well once it gets some.

Memory that runs out is in test_edge.py.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import grpc
import pytest

from gestalt_cas import Store
from gestalt_cas.observing import otel
from gestalt_cas.server import LEAST_THREADS
from gestalt_cas.system.processors import Processors
from wire import protos
from wire.client import Client, Lifecycle, eventually, refused, status_of
from wire.process import (
    PROVIDER,
    ROOT,
    SERVE,
    START_SECONDS,
    Hosted,
    Process,
    Server,
    accepts,
    command_line,
    short_directory,
)

NO_THREADS = "no more threads can be started"
FIRST_REFUSED = """
import sys, threading
from gestalt_cas import cli
start, refused = threading.Thread.start, []

def refuse_once(thread):
    if thread.name.startswith("gestalt-cas-{name}") and not refused:
        refused.append(thread)
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = refuse_once
sys.argv.insert(1, "provider")
sys.exit(cli.main())
"""
"""A provider whose first thread of a name cannot be started."""
BODY = b"b" * (6 << 20)


@contextmanager
def short_of(name: str, directory: Path) -> Iterator[tuple[Hosted, Lifecycle, dict[str, object]]]:
    program = [sys.executable, "-c", FIRST_REFUSED.replace("{name}", name)]
    config: dict[str, object] = {"dataDir": str(directory), "telemetry": {"metrics": "loopback"}}
    with Hosted(program) as hosted:
        lifecycle = Lifecycle(hosted.target)
        try:
            yield hosted, lifecycle, config
            hosted.stop(within=2)
            assert hosted.stderr.count(NO_THREADS) == 1, hosted.stderr
        finally:
            lifecycle.close()


def served(client: Client, key: str) -> None:
    client.write(key, BODY)
    assert client.body(key) == BODY


@pytest.mark.parametrize("name", ["caretaker", "collector", "http"])
def test_a_configuration_that_gets_no_thread_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    with short_of(name, directory) as (hosted, lifecycle, config):
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, NO_THREADS, "ulimit -u"):
            lifecycle.configure(config, version=5)
        eventually(lambda: not opened(hosted, directory), "the store and the endpoint closed", 5)
        assert not lifecycle.health().ready
        lifecycle.configure(config, version=5)
        with Client(hosted.target, protos.BUCKETLESS) as client:
            served(client, "k")


def opened(process: Process, directory: Path) -> list[str]:
    """What of a store's files a process has open, and where it listens by TCP."""
    found = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(link))
    inodes = {line.split()[9] for line in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]}
    return [
        name
        for name in found
        if name.startswith(str(directory)) or (name.startswith("socket:[") and name[8:-1] in inodes)
    ]


def test_without_the_thread_that_looks_after_it_no_processor_is_shared(tmp_path: Path) -> None:
    with short_of("processors", tmp_path / "d") as (hosted, lifecycle, config):
        before = os.sched_getaffinity(hosted.pid)
        lifecycle.configure(config, version=5)
        tasks = [int(task.name) for task in Path(f"/proc/{hosted.pid}/task").iterdir()]
        if len(before) < 2:
            pytest.skip("needs two processors")
        assert {frozenset(os.sched_getaffinity(task)) for task in tasks} == {frozenset(before)}


def test_a_stream_that_gets_no_sweeper_is_refused_and_the_next_one_has_it(tmp_path: Path) -> None:
    with short_of("sweeper", tmp_path / "d") as (hosted, lifecycle, config):
        lifecycle.configure(config, version=5)
        with Client(hosted.target, protos.BUCKETLESS) as client:
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, NO_THREADS):
                client.write("k", b"refused")
            served(client, "k")


def by_url(client: Client, method: str, body: bytes | None = None, key: str = "k") -> tuple[int, bytes]:
    number = {"GET": 1, "PUT": 2, "DELETE": 3}[method]
    request = client.pb.PresignObjectRequest(ref=client.ref(key), method=number)
    url = client.call("PresignObject", request).url
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_request_that_gets_no_thread_is_refused_and_not_done_later(tmp_path: Path) -> None:
    """It was: the next request's thread found it in the queue."""
    with short_of("http-read", tmp_path / "d") as (hosted, lifecycle, config):
        lifecycle.configure(config, version=5)
        with Client(hosted.target, protos.BUCKETLESS) as client:
            client.write("k", BODY)
            status, text = by_url(client, "DELETE")
            assert status == 503
            assert NO_THREADS in text.decode()
            assert by_url(client, "GET") == (200, BODY)
            assert by_url(client, "DELETE")[0] == 204


def test_an_upload_that_gets_no_thread_is_refused_and_not_done_later(tmp_path: Path) -> None:
    with short_of("http-write", tmp_path / "d") as (hosted, lifecycle, config):
        lifecycle.configure(config, version=5)
        with Client(hosted.target, protos.BUCKETLESS) as client:
            status, text = by_url(client, "PUT", b"first")
            assert status == 503
            assert NO_THREADS in text.decode()
            assert by_url(client, "PUT", b"second", "other")[0] == 200
            assert status_of(lambda: client.head("k")) is grpc.StatusCode.NOT_FOUND


def test_a_download_that_gets_no_thread_is_cut_off(tmp_path: Path) -> None:
    with short_of("http-send", tmp_path / "d") as (hosted, lifecycle, config):
        lifecycle.configure(config, version=5)
        with Client(hosted.target, protos.BUCKETLESS) as client:
            client.write("k", BODY)
            with pytest.raises((OSError, HTTPException)):
                by_url(client, "GET")
            assert by_url(client, "GET") == (200, BODY)


def test_figures_are_shown_without_the_count_that_gets_no_thread(tmp_path: Path) -> None:
    with short_of("census", tmp_path / "d") as (hosted, lifecycle, config):
        lifecycle.configure(config, version=5)
        with Client(hosted.target, protos.BUCKETLESS) as client:
            client.write("k", b"x")
            request = client.pb.PresignObjectRequest(ref=client.ref("k"), method=1)
            url = client.call("PresignObject", request).url
        metrics = "/".join(url.split("/")[:3]) + "/metrics"

        def shown() -> str:
            with urllib.request.urlopen(metrics, timeout=30) as answer:
                return str(answer.read().decode())

        assert "gestalt_cas_objects " not in shown()
        eventually(lambda: "gestalt_cas_objects" in shown(), "the count")


def refuse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    start = threading.Thread.start

    def refusing(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)


def test_what_waits_for_opentelemetry_keeps_nobody_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exporting:
        def get_tracer_provider(self) -> Exporting:
            return self

        def force_flush(self, _: int) -> None:
            raise AssertionError("on a thread that could not be started")

    monkeypatch.setitem(sys.modules, "opentelemetry.trace", Exporting())
    monkeypatch.delitem(sys.modules, "opentelemetry.metrics", raising=False)
    refuse(monkeypatch, "gestalt-cas-flush")
    otel.flush(0.1)


def test_a_system_that_does_not_tell_the_processors_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", denied)
    found = Processors()
    found.gather()
    assert found.home is None


# As an ordinary user, since no such limit holds for root, but one who may read our files.
USER = 40_000 + os.getpid() % 20_000  # whom no other run of these tests is at the moment
ORDINARY = (
    *("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"),
    *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"),
)


def with_threads(count: int, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end where the user may have so many threads, this process's among them."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("setpriv", "prlimit"))):
        pytest.skip("needs root, who becomes another user, and util-linux")
    os.chown(home, USER, USER)
    done = subprocess.run(
        [*ORDINARY, "prlimit", f"--nproc={count}:{count}", *command],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "setpriv: " in done.stderr:
        pytest.skip(done.stderr)
    return done


@pytest.fixture(name="home")
def home_fixture() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # which another user can reach
        yield Path(name).resolve()


@pytest.mark.parametrize("count", [1, 4, 9, 14, LEAST_THREADS + 4])
@pytest.mark.parametrize("command", [SERVE, PROVIDER])
def test_a_server_that_gets_too_few_threads_says_so(command: tuple[str, ...], count: int, home: Path) -> None:
    """With four to nine grpc's C code tried for ten seconds and aborted, with a few more the first calls ended it."""
    names = [f"GESTALT_CAS_DATA_DIR={home}/d", f"GESTALT_PROVIDER_SOCKET={home}/s"]
    done = with_threads(count, home, "env", *names, *command)
    assert done.returncode == 5, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gestalt-cas: {NO_THREADS}: leaving; a higher limit (ulimit -u, TasksMax=; ")
    assert not (home / "d").exists()


def test_verbs_that_get_too_few_threads_end_or_do_their_work(home: Path) -> None:
    """However few: never damage, never a hang, never anything by halves."""
    data, source, codes = home / "d", home / "source", set()
    source.mkdir()
    for number in range(3):
        (source / str(number)).write_bytes(os.urandom(100_000))
    with Store.open(data):
        pass
    for path in (data, *data.rglob("*")):
        os.chown(path, USER, USER)
    at = ("--data-dir", str(data))
    for count in (1, 2, 8):
        for words in (
            ("put", *at, str(source / "0"), f"b/one/{count}"),
            ("put", "-r", *at, str(source), f"b/many/{count}"),
            ("backup", *at, str(home / f"backup{count}")),
            ("check", "--read-data", *at),
        ):
            done = with_threads(count, home, sys.executable, "-m", "gestalt_cas", *words)
            codes.add((words[0], done.returncode))
            assert done.returncode in (0, 5), (count, done)
            if done.returncode:
                (line,) = done.stderr.splitlines()
                assert line.startswith(f"gestalt-cas: {NO_THREADS}: leaving; "), (count, done)
            else:
                assert done.stderr == "", (count, done)
    assert codes == {("put", 0), ("put", 5), ("backup", 5), ("backup", 0), ("check", 0)}


# ---- files ----


def with_files(count: int, *command: str) -> list[str]:
    """The command under a limit on open files; by a shell, since after a fork of this process grpc would open some."""
    return ["sh", "-c", f'ulimit -n {count}; exec "$@"', "sh", *command]


@pytest.mark.parametrize("command", [SERVE, PROVIDER])
def test_a_server_that_could_open_hardly_a_file_says_so(command: tuple[str, ...], tmp_path: Path) -> None:
    """With fewer than some twenty, grpc's C code aborted."""
    done = subprocess.run(
        with_files(40, *command),
        cwd=ROOT,
        env={**os.environ, "GESTALT_CAS_DATA_DIR": str(tmp_path / "d"), "GESTALT_PROVIDER_SOCKET": str(tmp_path / "s")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "gestalt-cas: the limit on open files is 40, and a server needs at least 64: raise it (ulimit -n, LimitNOFILE=)"
    ]
    assert not (tmp_path / "d").exists()


def test_a_verb_that_gets_no_more_files_says_what_it_wants(tmp_path: Path) -> None:
    """However few it may open: never damage, never another's fault, never anything changed by halves."""
    data, source = tmp_path / "d", tmp_path / "source"
    source.mkdir()
    for number in range(6):
        (source / str(number)).write_bytes(os.urandom(100_000))
    with Store.open(data):
        pass
    codes, verb = set(), (sys.executable, "-m", "gestalt_cas", "put", "-r", "--data-dir", str(data), str(source), "b/p")
    for count in range(5, 32):  # on a slow disk more of the files are under way at a time
        done = subprocess.run(
            with_files(count, *verb),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        codes.add(done.returncode)
        assert done.returncode in (0, 11), (count, done.stderr)
        if done.returncode:
            assert len(done.stderr.splitlines()) == 1, (count, done.stderr)
            assert "ulimit -n" in done.stderr, (count, done.stderr)
    assert codes == {0, 11}
    checked = command_line("check", "--read-data", "--data-dir", str(data))
    assert checked.returncode == 0, checked.stdout


def first_free(pid: int) -> int:
    """The first number that a process has for a new file, while it has none open for an instant only."""
    found = []
    for _ in range(20):
        taken = {int(link.name) for link in Path(f"/proc/{pid}/fd").iterdir()}
        found.append(next(number for number in itertools.count() if number not in taken))
        time.sleep(0.02)
    return min(found)


def test_connections_that_get_no_file_wait_without_a_flood_in_the_log() -> None:
    """asyncio logged some hundred tracebacks each second."""
    with Server("telemetry.healthz=loopback") as server:
        url = f"{server.ready['http']}/healthz"
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (first_free(server.pid), hard))
        with pytest.raises(OSError):  # noqa: PT011 - it is never accepted
            urllib.request.urlopen(url, timeout=3)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(url, timeout=3) as answer:
                assert answer.status == 200
                break
        else:
            raise AssertionError("not answered once files may be opened again")
        server.stop(within=2)
        assert server.stderr.count("HTTP connections have to wait: too many open files") == 1, server.stderr


# ---- streams ----


def unread_pipe(*, full: bool) -> tuple[int, int]:
    """A pipe, full or not; who writes into a full one waits until somebody reads."""
    reading, writing = os.pipe()
    if full:
        fill(writing)
    return reading, writing


def fill(pipe: int) -> None:
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")
    os.set_blocking(pipe, True)


@contextmanager
def serving(directory: Path, stdout: int, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    socket = directory / "s"
    command = [*SERVE, "--data-dir", str(directory / "d"), "--grpc", f"unix://{socket}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
    )
    try:
        eventually(lambda: accepts(socket), "the socket", START_SECONDS)
        with Client(f"unix://{socket}", protos.BUCKETLESS) as client:
            served(client, "k")
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("full", ["stdout", "stderr"])
def test_a_full_pipe_keeps_no_server_from_stopping(full: str) -> None:
    """It waited for whoever would read on, for ever."""
    directory = short_directory()
    pipe = unread_pipe(full=full == "stdout")
    others = unread_pipe(full=False)
    stdout, stderr = (pipe[1], others[1]) if full == "stdout" else (others[1], pipe[1])
    try:
        with serving(directory, stdout, stderr) as process:
            fill(pipe[1])
            process.terminate()
            assert process.wait(10) == 0
    finally:
        for end in (*pipe, *others):
            os.close(end)
        shutil.rmtree(directory, ignore_errors=True)


def test_a_log_that_nobody_takes_any_more_changes_no_exit_code() -> None:
    """It was 120, which is what the interpreter leaves with when it cannot flush."""
    directory = short_directory()
    reading, writing = unread_pipe(full=False)
    try:
        with serving(directory, subprocess.DEVNULL, writing) as process:
            os.close(reading)
            process.terminate()
            assert process.wait(10) == 0
            assert not (directory / "s").exists()
    finally:
        os.close(writing)
        shutil.rmtree(directory, ignore_errors=True)


def test_a_verb_keeps_its_exit_code_where_it_cannot_say_why(tmp_path: Path) -> None:
    """It was 120."""
    with Store.open(tmp_path / "d"):
        pass
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "gestalt_cas", "cat", "--data-dir", str(tmp_path / "d"), "b/k"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=full, stderr=full, timeout=60, check=False)
    assert done.returncode == 1
