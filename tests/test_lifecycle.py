"""Processes coming and going: hosts that die, `serve` on its own, sockets and directories that cannot be used."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from wire import protos
from wire.client import Client, Lifecycle, eventually, refused, status_of
from wire.process import (
    PROVIDER,
    ROOT,
    Hosted,
    Process,
    Server,
    accepts,
    command_line,
    host_environment,
    host_names,
    running,
    short_directory,
)

GONE_SECONDS = 15


@pytest.fixture(name="home")
def home_fixture() -> Iterator[Path]:
    """A directory whose path is short enough for a socket in it."""
    path = short_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


HOST = """
import os, subprocess, sys, time
names = dict(zip(sys.argv[1].split(","), sys.argv[2].split(",")))
names = {name: str(os.getpid()) if value == "PID" else value for name, value in names.items()}
child = subprocess.Popen(sys.argv[3:], env={**os.environ, **names})
print(child.pid, flush=True)
time.sleep(600)
"""
"""A host: starts the rest of its command line with the names of argv 1 and the values of argv 2 in the environment,
PID standing for its own process id, and does nothing more."""

LAUNCHER = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
child.wait()
"""
"""A launcher between host and provider: passes the environment on and waits."""


@contextmanager
def hosted_by_a_process(era: str, *launcher: str) -> Iterator[tuple[Process, list[int], str, Path]]:
    """A host process, the pids of what it started (a launcher first, if any), the provider's target and a home."""
    home = short_directory()
    names = host_names(era, home / "s", 0)
    names |= {name: "PID" for name in names if name.endswith("_PARENT_PID")}
    command = [sys.executable, "-c", HOST, ",".join(names), ",".join(names.values()), *launcher, *PROVIDER]
    host = Process(command, host_environment(home))
    pids: list[int] = []
    try:
        pids.append(int(host.first_line()))
        if launcher:
            pids.append(int(host.first_line()))
        eventually(lambda: accepts(home / "s"), "the provider's socket", 60)
        yield host, pids, f"unix://{home}/s", home
    finally:
        host.forget()
        for pid in pids:
            if running(pid):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("streams", ["idle", "busy"])
@pytest.mark.parametrize("era", ["PROVIDER", "PLUGIN"])
def test_a_provider_leaves_when_its_host_is_killed(era: str, streams: str) -> None:
    with hosted_by_a_process(era) as (host, (provider,), target, home):
        lifecycle = Lifecycle(target)
        lifecycle.configure({"dataDir": str(home / "data")})
        with Client(target, protos.BUCKETLESS) as client:
            client.write("k", b"x" * 2**24)
            release = threading.Event()
            if streams == "busy":
                begun = threading.Event()

                def half_open() -> Iterator[object]:
                    yield client.open_frame("half")
                    yield client.data_frame(b"x")
                    begun.set()
                    release.wait(60)

                # Held on to: a call object that is dropped cancels its call.
                open_calls = [client.upload(half_open()), client.read_stream("k")]
                assert begun.wait(30)
                assert next(open_calls[1]).meta.size == 2**24
            assert running(provider)
            host.kill()
            eventually(lambda: not running(provider), "the provider's end after its host's", GONE_SECONDS)
            release.set()
        lifecycle.close()
        with Server(data_dir=home / "data") as server, Client(server.target, protos.BUCKETLESS) as client:
            assert client.head("k").size == 2**24
            assert not client.exists("half")


def test_a_provider_leaves_when_the_host_behind_its_launcher_is_killed() -> None:
    """The pid in the environment is the grandparent's; the launcher lives on and getppid never changes."""
    launcher_command = (sys.executable, "-c", LAUNCHER)
    with hosted_by_a_process("PROVIDER", *launcher_command) as (host, (launcher, provider), target, home):
        lifecycle = Lifecycle(target)
        lifecycle.configure({"dataDir": str(home / "data")})
        lifecycle.close()
        assert running(launcher)
        assert running(provider)
        host.kill()
        eventually(lambda: not running(provider), "the provider's end after its host's", GONE_SECONDS)


def test_a_provider_behind_a_launcher_stays_while_its_host_lives() -> None:
    launcher_command = (sys.executable, "-c", LAUNCHER)
    with hosted_by_a_process("PROVIDER", *launcher_command) as (_, (_, provider), target, home):
        lifecycle = Lifecycle(target)
        lifecycle.configure({"dataDir": str(home / "data")})
        for _ in range(200):
            assert lifecycle.health().ready
        assert running(provider)
        lifecycle.close()


def test_a_provider_without_a_pid_in_its_environment_still_serves() -> None:
    """Hosts of protocol 2 may not set one, and a person at a shell does not."""
    with Hosted(environment={"GESTALT_APP_PARENT_PID": ""}) as provider:
        lifecycle = Lifecycle(provider.target)
        lifecycle.configure({"dataDir": str(provider.host_home / "data")})
        assert lifecycle.health().ready
        lifecycle.close()
        provider.stop()


def test_a_provider_takes_over_a_stale_socket_file(home: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(home / "s"))
    stale.close()
    provider = Process(PROVIDER, host_environment(home, **host_names("PROVIDER", home / "s", os.getpid())))
    try:
        lifecycle = Lifecycle(f"unix://{home}/s")

        def answers() -> bool:
            assert provider.alive(), provider.stderr
            status = status_of(lifecycle.identity)
            assert status in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE), status
            return status is grpc.StatusCode.OK

        eventually(answers, "an answer on the socket", 60)
        lifecycle.close()
        provider.stop()
    finally:
        provider.forget()


def test_a_provider_without_a_socket_exits_2_and_names_the_variable(tmp_path: Path) -> None:
    done = subprocess.run(
        PROVIDER, env=host_environment(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "GESTALT_PROVIDER_SOCKET" in done.stderr
    assert "Traceback" not in done.stderr


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """What cannot start says why in one line on stderr, prints nothing else, and exits 2."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in done.stderr, (word, done.stderr)


def serve_command(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return command_line("serve", "--data-dir", str(directory), *options)


def test_serve_prints_one_json_line_and_stops_cleanly() -> None:
    with Server() as server:
        assert set(server.ready) == {"event", "grpc", "data_dir", "http"}
        assert server.ready["event"] == "ready"
        assert server.ready["grpc"] == server.requested
        assert Path(server.ready["data_dir"]) == server.data_dir
        with Client(server.target, protos.BUCKETLESS) as client:
            client.write("k", b"x")
        server.stop()
        assert not Path(server.target.removeprefix("unix://")).exists()


@pytest.mark.parametrize("found", [True, False], ids=["installed where a shell looks", "of a checkout's .venv"])
def test_serve_names_a_command_that_there_is(tmp_path: Path, found: bool) -> None:
    program = Path(sys.executable).with_name("gestalt-cas")
    other = [name for name in os.environ["PATH"].split(os.pathsep) if not Path(name, "gestalt-cas").exists()]
    path = os.pathsep.join([str(program.parent), *other] if found else other)
    named = "gestalt-cas" if found else shlex.quote(str(program))
    with Server(data_dir=tmp_path / "my store", environment={"PATH": path}, program=[str(program), "serve"]) as server:
        server.stop()
        assert f"files: {named} --data-dir '{server.data_dir}' put FILE" in server.stderr


def test_serve_stops_on_ctrl_c_with_streams_open() -> None:
    with Server() as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("k", b"x" * 2**24)
        stream = client.read_stream("k")
        next(stream)
        server.stop(signum=signal.SIGINT)


@pytest.mark.parametrize("stream", ["read", "write"])
def test_clients_of_a_stopping_server_are_told(stream: str) -> None:
    """A stream that is cut must not look complete."""
    with Server() as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("k", b"x" * 2**25)
        begun, release = threading.Event(), threading.Event()

        def half_open() -> Iterator[object]:
            yield client.open_frame("half")
            yield client.data_frame(b"x" * 2**16)
            begun.set()
            release.wait(60)

        call = client.read_stream("k") if stream == "read" else client.upload(half_open())
        if stream == "read":
            next(call)
        else:
            assert begun.wait(30)
        server.stop()
        release.set()
        status = status_of(lambda: list(call) if stream == "read" else call.result())
        assert status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        with Server(data_dir=server.data_dir) as again, Client(again.target, protos.BUCKETLESS) as later:
            assert not later.exists("half")
            assert later.head("k").size == 2**25
            assert again.staged() == []


def test_serve_on_tcp_with_a_port_of_its_choice() -> None:
    with Server(target="tcp://127.0.0.1:0") as server:
        host, _, port = server.target.removeprefix("tcp://").rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        with Client(server.target, protos.BUCKETED) as client:
            client.write("k", b"x", bucket="b")
            assert client.body("k", bucket="b") == b"x"
        done = serve_command(server.sockets / "other", "--grpc", server.target)
        assert_one_clear_line(done, port)
        server.stop()


def test_serve_refuses_an_address_that_others_can_reach(tmp_path: Path) -> None:
    assert_one_clear_line(serve_command(tmp_path / "d", "--grpc", "tcp://0.0.0.0:0"), "--allow-unauthenticated")


def test_serve_with_the_default_socket_in_the_data_directory(home: Path) -> None:
    server = Process([sys.executable, "-m", "gestalt_cas", "serve", "--data-dir", str(home / "d")])
    try:
        target = json.loads(server.first_line())["grpc"]
        assert target == f"unix://{home}/d/grpc.sock"
        assert stat.S_IMODE(os.stat(home / "d" / "grpc.sock").st_mode) == 0o600
        assert stat.S_IMODE(os.stat(home / "d").st_mode) == 0o700
        with Client(target, protos.BUCKETLESS) as client:
            client.write("k", b"x")
        server.stop()
    finally:
        server.forget()


def test_a_live_socket_is_not_taken_over() -> None:
    with Server() as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("k", b"x")
        done = serve_command(server.sockets / "other", "--grpc", server.target)
        assert_one_clear_line(done, server.target.removeprefix("unix://"))
        assert client.body("k") == b"x"
        with Client(server.target, protos.BUCKETLESS) as fresh:
            assert fresh.body("k") == b"x"
        server.stop()


def test_a_socket_that_nobody_answers_on_is_replaced(tmp_path: Path) -> None:
    with Server(data_dir=tmp_path / "d") as server:
        target = server.target
        with Client(target, protos.BUCKETLESS) as client:
            client.write("k", b"x")
        server.kill()
        assert Path(target.removeprefix("unix://")).exists()
        with Server(data_dir=tmp_path / "d", target=target) as again:
            with Client(again.target, protos.BUCKETLESS) as client:
                assert client.body("k") == b"x"
            again.stop()


def test_something_else_at_the_sockets_path_is_left_alone(home: Path, tmp_path: Path) -> None:
    path = home / "precious"
    path.write_text("data")
    assert_one_clear_line(serve_command(tmp_path / "d", "--grpc", f"unix://{path}"), str(path))
    assert path.read_text() == "data"


UNUSABLE = {
    "a file": lambda path: path.write_text("x"),
    "another program's database": lambda path: (path.mkdir(), (path / "metadata.sqlite3").write_bytes(b"no" * 4096)),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_directory_is_one_line_and_exit_2(home: Path, tmp_path: Path, case: str) -> None:
    UNUSABLE[case](tmp_path / "d")
    assert_one_clear_line(serve_command(tmp_path / "d", "--grpc", f"unix://{home}/s"), str(tmp_path / "d"))


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("limits.concurrentReads=none", "concurrentReads"),
        ("limits.concurrentReads=1.5", "concurrentReads"),
        ("limits.concurrentReads=true", "concurrentReads"),
        ("limts.concurrentReads=4", "limts"),
        ("versioning=off", "versioning"),
        ("bucket=a/b", "bucket"),
        ("versioning", "versioning"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_2(home: Path, tmp_path: Path, setting: str, word: str) -> None:
    done = serve_command(tmp_path / "d", "--grpc", f"unix://{home}/s", "--set", setting)
    assert done.returncode == 2, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_two_servers_on_one_directory_serve_the_same_objects() -> None:
    with Server() as one, Server(data_dir=one.data_dir) as two:
        with Client(one.target, protos.BUCKETLESS) as first, Client(two.target, protos.BUCKETLESS) as second:
            first.write("k", b"one")
            assert second.body("k") == b"one"
            second.write("k", b"two")
            assert first.body("k") == b"two"
            one.stop()
            second.write("k", b"three")
            assert second.body("k") == b"three"
        two.stop()


def test_a_second_server_with_other_settings_is_refused_naming_the_key(home: Path) -> None:
    with Server("versioning=enabled") as one, Client(one.target, protos.BUCKETLESS) as client:
        done = serve_command(one.data_dir, "--grpc", f"unix://{home}/s", "--set", "versioning=suspended")
        assert_one_clear_line(done, "versioning")
        assert client.write("k", b"x").ref.version_id != "null"
        one.stop()


def test_a_killed_server_loses_no_acknowledged_write(tmp_path: Path) -> None:
    """SIGKILL while eight clients write: what was answered is there whole, all else whole or not at all."""
    acknowledged: dict[str, bytes] = {}
    attempted: dict[str, bytes] = {}
    with Server(data_dir=tmp_path / "d") as server, Client(server.target, protos.BUCKETLESS) as client:

        def writer(number: int) -> None:
            for turn in range(1000):
                key, body = f"{number}/{turn}", f"{number} {turn} ".encode() * 5000
                attempted[key] = body
                try:
                    client.write(key, body)
                except grpc.RpcError:
                    return
                acknowledged[key] = body

        threads = [threading.Thread(target=writer, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(acknowledged) > 50, "some writes", 60)
        server.kill()
        for thread in threads:
            thread.join(60)
    with Server(data_dir=tmp_path / "d") as server, Client(server.target, protos.BUCKETLESS) as client:
        stored = client.keys()
        assert set(acknowledged) <= set(stored) <= set(attempted)
        for key in stored:
            assert client.body(key) == attempted[key]
        assert server.staged() == []
        server.stop()


def test_the_log_may_be_json(tmp_path: Path) -> None:
    with Server(data_dir=tmp_path / "d", options=("--log-format", "json")) as server:
        server.stop()
        lines = [line for line in server.stderr.splitlines() if line.strip()]
        assert lines
        assert all(isinstance(json.loads(line), dict) for line in lines)


def test_what_a_library_warns_of_is_a_line_of_the_log(tmp_path: Path) -> None:
    """As google-crc32c does at its import where it has no compiled part: with musl's C library."""
    (tmp_path / "google_crc32c.py").write_text('import warnings; warnings.warn("is slow here", RuntimeWarning)')
    log_as_json, environment = ("--log-format", "json"), {"PYTHONPATH": str(tmp_path)}
    with Server(data_dir=tmp_path / "d", options=log_as_json, environment=environment) as server:
        server.stop()
        lines = [json.loads(line) for line in server.stderr.splitlines()]
        assert [line["level"] for line in lines if "is slow here" in line["message"]] == ["warning"]


def test_an_unknown_method_is_unimplemented() -> None:
    with Server() as server, Client(server.target, protos.BUCKETLESS) as client:
        for path in ("/gestalt.provider.v1.S3/Nothing", "/gestalt.provider.v1.S3ObjectAccess/CreateObjectAccessURL"):
            with refused(grpc.StatusCode.UNIMPLEMENTED):
                client.channel.unary_unary(path)(b"", timeout=30)
        server.stop()
