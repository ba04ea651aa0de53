"""What may befall a server on a machine that nobody looks after: each has one outcome, and none is a lost answer.

A host that dies is in test_lifecycle.py, a full disk in test_full_disk.py, removing by age under a wrong clock in
test_clock_guard.py.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest

from gestalt_cas.contract.calls import OpenCall
from gestalt_cas.observing.calls import GRPC, GrpcCall, Observer
from gestalt_cas.system.locks import holding
from small_disks import EXT4, TMPFS, SmallDisk, small_disk
from wire import protos
from wire.client import Client, Lifecycle, eventually, refused
from wire.process import SERVE, Hosted, Process, Server, command_line, running, short_directory, versions

FAILED = grpc.StatusCode.INTERNAL
YEAR = 365 * 86_400


def names(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and the time of its last change."""
    found = ((path, path.stat()) for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


def refused_everywhere(client: Client, *words: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client.write("new", b"new"),
        lambda: client.copy("kept", "copied"),
        lambda: client.delete("kept"),
        lambda: client.body("kept"),
    ]
    for call in calls:
        with refused(FAILED, *words):
            call()


@pytest.fixture(name="served")
def served_fixture(tmp_path: Path) -> Iterator[tuple[Server, Client, Lifecycle, Path]]:
    """A server on a directory that may be taken away, its clients, and the directory; `kept` and `other` are in it."""
    directory = tmp_path / "store"
    pages = ("telemetry.metrics=loopback", "telemetry.healthz=loopback")
    with Server(*pages, data_dir=directory) as server, Client(server.target, protos.BUCKETLESS) as client:
        lifecycle = Lifecycle(server.target)
        client.write("kept", b"kept" * 1000)
        client.write("other", b"other")
        yield server, client, lifecycle, directory
        lifecycle.close()


Served = tuple[Server, Client, Lifecycle, Path]


def shown(server: Server, path: str) -> tuple[int, str]:
    """Status and text of one of the server's pages."""
    try:
        with urllib.request.urlopen(server.ready["http"] + path, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# ---- a directory that cannot be written, or is gone ----


@pytest.fixture(name="disk")
def disk_fixture(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(TMPFS, tmp_path) as disk:
        assert command_line("init", "--data-dir", str(disk.store)).returncode == 0
        yield disk


def remount(disk: SmallDisk, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk.path], check=True)


def test_on_a_read_only_file_system_nothing_starts_and_nothing_changes(disk: SmallDisk) -> None:
    remount(disk, "ro")
    before = names(disk.store)
    for verb in (("serve",), ("ls",), ("check",)):
        done = command_line(*verb, "--data-dir", str(disk.store))
        assert (done.returncode, done.stdout) == (2, ""), verb
        (line,) = done.stderr.splitlines()
        assert str(disk.store) in line
        assert "read-only" in line.lower()
    assert names(disk.store) == before


def test_a_provider_is_told_and_configured_again_once_it_can_write(disk: SmallDisk) -> None:
    remount(disk, "ro")
    with Hosted() as provider:
        lifecycle = Lifecycle(provider.target)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "dataDir", str(disk.store), "read-only"):
            lifecycle.configure({"dataDir": str(disk.store)})
        assert not lifecycle.health().ready
        remount(disk, "rw")
        lifecycle.configure({"dataDir": str(disk.store)})
        assert lifecycle.health().ready
        lifecycle.close()
        provider.stop()


def _behind_loop_devices() -> set[str]:
    """The files that are mounted anywhere, in whichever namespace, by loop devices."""
    found = set()
    for named in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # the device may go meanwhile
            found.add(named.read_text().strip())
    return found


def test_a_file_system_that_turns_read_only_serves_reads_and_says_so(tmp_path: Path) -> None:
    """As ext4 does by itself after an error."""
    with small_disk(EXT4, tmp_path) as disk:
        with Server(data_dir=disk.store) as server, Client(server.target, protos.BUCKETLESS) as client:
            lifecycle = Lifecycle(server.target)
            client.write("kept", b"kept")
            if subprocess.run(["mount", "-o", "remount,abort", disk.path], capture_output=True).returncode:
                pytest.skip("this kernel cannot be told to abort a file system")
            with refused(FAILED, "read-only"):
                client.write("new", b"new")
            with pytest.raises(grpc.RpcError) as caught:
                client.delete("kept")
            assert caught.value.code() in (FAILED, grpc.StatusCode.UNAVAILABLE), "refused, or outcome unknown"
            assert client.body("kept") == b"kept"
            health = lifecycle.health()
            assert not health.ready
            assert health.message
            lifecycle.close()
            server.stop()
        image = tmp_path / "image"
        subprocess.run(["umount", disk.path], check=True)
        # Tests beside this one may have taken the mount into a namespace of theirs; until they end it stays read-only.
        eventually(lambda: str(image) not in _behind_loop_devices(), "the end of the file system", seconds=120)
        subprocess.run(["mount", "-o", "loop", image, disk.path], check=True)
        assert command_line("check", "--data-dir", str(disk.store)).returncode == 0
        assert "kept" in command_line("ls", "--data-dir", str(disk.store), "default/").stdout


def test_a_removed_directory_refuses_everything_and_answers_no_removal(served: Served) -> None:
    server, client, lifecycle, directory = served
    shutil.rmtree(directory)
    eventually(lambda: not lifecycle.health().ready, "the news")
    with refused(FAILED, "lost its database"):
        client.delete("kept")
    with refused(FAILED, "lost its database"):
        client.body("kept")
    with refused(FAILED, str(directory)):
        client.write("new", b"new")
    assert "lost its database" in lifecycle.health().message
    assert [warning for warning in lifecycle.identity().warnings if "lost its database" in warning]
    status, page = shown(server, "/metrics")
    assert status == 200
    assert {"gestalt_cas_healthy 0", "gestalt_cas_uploads_possible 0"} <= set(page.splitlines())
    status, page = shown(server, "/healthz")
    assert (status, "lost its database" in page) == (503, True)
    server.stop()
    assert not directory.exists()


def test_a_directory_that_was_moved_away_works_once_it_is_back(served: Served) -> None:
    server, client, lifecycle, directory = served
    directory.rename(directory.with_name("away"))
    with refused(FAILED, "lost its database"):
        client.delete("kept")
    with refused(FAILED, "lost its database"):
        client.body("kept")
    directory.with_name("away").rename(directory)
    eventually(lambda: lifecycle.health().ready, "the news")
    assert client.keys() == ["kept", "other"]
    assert client.body("kept") == b"kept" * 1000
    client.delete("kept")
    assert client.keys() == ["other"]
    server.stop()
    done = command_line("check", "--data-dir", str(directory))
    assert done.returncode == 0, done.stdout  # nothing was taken for damage meanwhile


def test_another_store_in_the_place_of_the_directory_is_left_alone(served: Served, tmp_path: Path) -> None:
    """As when a backup is put in place under a running server."""
    server, client, lifecycle, directory = served
    restored = tmp_path / "restored"
    assert command_line("backup", str(tmp_path / "backup"), "--data-dir", str(directory)).returncode == 0
    assert command_line("restore", str(tmp_path / "backup"), str(restored)).returncode == 0
    with Server(data_dir=restored) as other, Client(other.target, protos.BUCKETLESS) as writer:
        writer.write("only here", b"in the WAL of the other store")
        other.kill()
    directory.rename(directory.with_name("away"))
    restored.rename(directory)
    before = names(directory)
    assert before["metadata.sqlite3-wal"][0] > 0
    eventually(lambda: not lifecycle.health().ready, "the news")
    refused_everywhere(client, "another database")
    server.stop()
    assert {name: found for name, found in names(directory).items() if name in before} == before
    assert command_line("cat", "--data-dir", str(directory), "default/only here").stdout.startswith("in the WAL")


# ---- the clock ----

CLOCK = """
import datetime, os, time
path, real, real_ns = os.environ["SHIFT_FILE"], time.time, time.time_ns

def shift():
    with open(path) as file:
        return int(file.read())

class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

time.time = lambda: real() + shift()
time.time_ns = lambda: real_ns() + shift() * 10**9
datetime.datetime = Shifted
"""


class Clock:
    """A wall clock for a child process, as many seconds off the machine's as it is set to at the moment."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(CLOCK)
        self._shift = directory / "shift"
        self.set(0)
        self.environment = {"PYTHONPATH": str(directory), "SHIFT_FILE": str(self._shift)}

    def set(self, seconds: int) -> None:
        new = self._shift.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._shift)


def fetched(url: str) -> bytes | int:
    """What a URL answers: the body, or the status of the refusal."""
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_clock_that_jumps_by_a_year_loses_and_reorders_nothing(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    directory = tmp_path / "store"

    def signed(client: Client) -> str:
        request = client.pb.PresignObjectRequest(ref=client.ref("k"))
        return str(client.call("PresignObject", request).url)

    written = []
    with Server(data_dir=directory, environment=clock.environment) as server:
        lifecycle = Lifecycle(server.target)
        with Client(server.target, protos.BUCKETLESS) as client:
            for shift in (0, YEAR, -YEAR, 0):
                clock.set(shift)
                written.append(client.write("k", str(shift).encode()))
                assert client.body("k") == str(shift).encode()
                assert lifecycle.health().ready
            times = [meta.last_modified.ToMilliseconds() for meta in written]
            assert times[1] - times[0] >= (YEAR - 60) * 1000, "the child does not see the clock"
            assert times == sorted(times), "a commit never dates before the one before it"
            clock.set(YEAR)
            ahead = signed(client)
            assert fetched(ahead) == b"0"
            clock.set(-YEAR)
            assert fetched(ahead) == 403, "not valid yet"
            behind = signed(client)
            assert fetched(behind) == b"0"
            clock.set(0)
            assert fetched(behind) == 403, "expired"
            assert fetched(signed(client)) == b"0"
            client.delete("k")
            client.write("later", b"later")
        lifecycle.close()
        server.stop()
    clock.set(-YEAR)
    with Server(data_dir=directory, environment=clock.environment) as server:
        with Client(server.target, protos.BUCKETLESS) as client:
            assert client.keys() == ["later"]
            client.write("k", b"after the restart")
        server.stop()
    history = [version["version_id"] for version in versions(directory, "default", "k")]
    assert history[2:] == [meta.ref.version_id for meta in reversed(written)]
    assert command_line("check", "--read-data", "--data-dir", str(directory)).returncode == 0


# ---- stopped and continued ----


def test_a_stopped_server_goes_on_where_it_was(tmp_path: Path) -> None:
    """Stopped for longer than a peer may idle: callers who were ready all the time are not dropped for it."""
    directory, body = tmp_path / "store", os.urandom(24 << 20)
    with (
        Server("limits.streamIdleSeconds=1.5", data_dir=directory) as server,
        Client(server.target, protos.BUCKETLESS) as client,
    ):
        client.write("big", body)
        begun, release = threading.Event(), threading.Event()

        def half() -> Iterator[object]:
            yield client.open_frame("half")
            yield client.data_frame(body[:65536])
            begun.set()
            assert release.wait(60)
            yield client.data_frame(body[65536:131072])

        upload, download = client.upload(half()), client.read_stream("big")
        assert begun.wait(30)
        assert next(download).meta.size == len(body)
        eventually(server.staged, "the upload's file")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
                client.stubs["HeadObject"](client.pb.HeadObjectRequest(ref=client.ref("big")), timeout=0.5)
            # Other processes go on: it holds no lock that they need.
            (tmp_path / "file").write_bytes(b"written meanwhile")
            put = command_line("put", "--data-dir", str(directory), str(tmp_path / "file"), "default/meanwhile")
            assert put.returncode == 0, put.stderr
            threading.Event().wait(2)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        release.set()
        assert upload.result().meta.size == 131072
        assert b"".join(frame.data for frame in download) == body
        assert client.body("half") == body[:131072]
        assert client.body("meanwhile") == b"written meanwhile"
        assert server.staged() == []
        server.stop()


def test_a_stopped_server_does_not_blame_callers_over_http(tmp_path: Path) -> None:
    """What came while it stood still counts, though the time for it is over by then."""
    body = os.urandom(24 << 20)
    with Server("limits.streamIdleSeconds=2.5") as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("big", body)

        def connection(key: str, method: int) -> tuple[http.client.HTTPConnection, str]:
            request = client.pb.PresignObjectRequest(ref=client.ref(key), method=method)
            url = urlsplit(client.call("PresignObject", request).url)
            return http.client.HTTPConnection(url.netloc, timeout=30), f"{url.path}?{url.query}"

        (upload, target), (download, source) = connection("new", 2), connection("big", 1)
        with closing(upload), closing(download):
            upload.putrequest("PUT", target)
            upload.putheader("Content-Length", "200000")
            upload.endheaders(body[:100000])
            download.request("GET", source)
            response = download.getresponse()
            got = response.read(65536)
            eventually(server.staged, "the upload's file")
            os.kill(server.pid, signal.SIGSTOP)
            try:
                upload.send(body[100000:200000])
                threading.Event().wait(3.5)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert upload.getresponse().status == 200
            assert got + response.read() == body
        assert client.body("new") == body[:200000]
        server.stop()


def test_an_excuse_moves_no_call_into_the_future() -> None:
    request = GrpcCall(Observer().method(GRPC, "ReadObject"), None)  # type: ignore[arg-type]
    request.done()  # else this thread's log would name it from here on
    call = OpenCall(request, lambda _: None)
    began = call.last_progress
    call.excuse(0.0)
    assert call.last_progress == began
    call.excuse(1e9)
    assert call.overdue(call.last_progress + 1, 2) is None
    assert call.overdue(call.last_progress + 3, 2) is not None


# ---- two providers ----


def test_a_second_provider_on_the_directory_serves_it_and_takes_over(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    lock = directory / "server.lock"
    with Hosted() as one, Hosted(era="PLUGIN") as two:
        first, second = Lifecycle(one.target), Lifecycle(two.target)
        first.configure({"dataDir": str(directory), "versioning": "enabled"})
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "versioning"):
            second.configure({"dataDir": str(directory), "versioning": "suspended"})
        second.configure({"dataDir": str(directory)}, version=3)
        with Client(one.target, protos.BUCKETLESS) as here, Client(two.target, protos.BUCKETED) as there:
            here.write("k", b"one")
            assert there.body("k") == b"one"
            there.write("k", b"two")
            assert here.body("k") == b"two"
            assert holding(lock.stat().st_ino) == [one.pid]
            one.kill()
            eventually(lambda: holding(lock.stat().st_ino) == [two.pid], "the other's taking over")
            there.write("k", b"three")
            assert there.body("k") == b"three"
        assert second.health().ready
        for lifecycle in (first, second):
            lifecycle.close()
        two.stop()


# ---- little memory ----


def limited(mebibytes: int, directory: Path) -> Process:
    """`serve` with this much address space."""
    if shutil.which("prlimit") is None:
        pytest.skip("needs prlimit(1)")
    command = ["prlimit", f"--as={mebibytes << 20}", *SERVE, "--data-dir", str(directory / "d")]
    return Process([*command, "--grpc", f"unix://{directory}/s"])


@pytest.mark.parametrize("mebibytes", [60, 100])
def test_too_little_memory_to_start_is_said_in_one_line(mebibytes: int) -> None:
    home = short_directory()
    process = limited(mebibytes, home)
    try:
        code = process.popen.wait(60)
        assert code != 0
        if code == 5:  # what C code refuses to go on with has an end of its own
            process.assert_no_traceback()
            assert "memory" in process.stderr or "threads" in process.stderr
        assert process.stderr
    finally:
        process.forget()
        shutil.rmtree(home, ignore_errors=True)


def test_when_memory_runs_out_a_server_serves_on_or_ends_but_does_not_hang() -> None:
    home = short_directory()
    process = limited(1000, home)
    try:
        process.first_line()
        with Client(f"unix://{home}/s", protos.BUCKETLESS) as client:
            client.write("first", b"first")
        outcomes: list[grpc.StatusCode] = []

        def work(number: int) -> None:
            body = os.urandom(4 << 20)
            with Client(f"unix://{home}/s", protos.BUCKETLESS) as own:
                try:
                    own.write(f"k{number}", body)
                    assert own.body(f"k{number}") == body
                except grpc.RpcError as error:
                    outcomes.append(error.code())
                else:
                    outcomes.append(grpc.StatusCode.OK)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 24
        assert grpc.StatusCode.DEADLINE_EXCEEDED not in outcomes, process.stderr
        if running(process.pid):
            assert set(outcomes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}, process.stderr
            process.stop()
        else:
            assert process.stderr.strip()
        with Server(data_dir=home / "d") as after, Client(after.target, protos.BUCKETLESS) as client:
            assert client.body("first") == b"first"
            after.stop()
    finally:
        process.forget()
        shutil.rmtree(home, ignore_errors=True)


NO_THREAD_FOR_GRPC = """
import sys, threading
from gestalt_cas import cli
start = threading.Thread.start

def refused(thread):
    if getattr(thread._target, "__name__", "") == "cancel_all_calls_after_grace":
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = refused
sys.argv.insert(1, "serve")
sys.exit(cli.main())
"""


def test_a_server_that_gets_no_more_threads_stops_in_order(tmp_path: Path) -> None:
    with Server(data_dir=tmp_path / "d", program=[sys.executable, "-c", NO_THREAD_FOR_GRPC]) as server:
        with Client(server.target, protos.BUCKETLESS) as client:
            client.write("k", b"kept")
        server.stop()
        assert "stopping" in server.stderr
        assert not Path(server.target.removeprefix("unix://")).exists()


THREADS = """
import sys, threading
from gestalt_cas.system import exhaustion
exhaustion.end_process_with_thread()

def run():
    raise {error}

thread = threading.Thread(target=run)
thread.start()
thread.join()
print("goes on")
"""


def test_however_many_servers_a_process_has_its_threads_are_watched_once() -> None:
    program = """
import threading
from gestalt_cas.system import exhaustion
exhaustion.end_process_with_thread()
hook = threading.excepthook
exhaustion.end_process_with_thread()
print(threading.excepthook is hook, hook is not threading.__excepthook__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True True\n", done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [("MemoryError()", 5), ('RuntimeError("can\'t start new thread")', 5), ("RuntimeError('something else')", 0)],
)
def test_a_thread_that_dies_for_want_of_memory_takes_the_process_with_it(error: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", THREADS.format(error=error)], capture_output=True, text=True)
    assert done.returncode == code
    assert ("goes on" in done.stdout) == (code == 0)
    assert ("leaving" in done.stderr) == (code == 5)
