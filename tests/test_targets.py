"""Targets: how they are written, and that nobody who answers is ever pushed aside."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from concurrent import futures
from contextlib import nullcontext
from pathlib import Path

import grpc
import platformdirs
import pytest

from gestalt_cas.conformance.wire import open_channel
from gestalt_cas.errors import InvalidArgument, StoreUnusable
from gestalt_cas.serving import targets
from gestalt_cas.serving.targets import Target
from gestalt_cas.system import sockets


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="gc") as name:
        yield Path(name)


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:///run/a.sock", Target(path="/run/a.sock")),
        ("/run/a.sock", Target(path="/run/a.sock")),
        ("unix:/run/a.sock", Target(path="/run/a.sock")),
        ("unix:///run/../run//a.sock", Target(path="/run/a.sock")),
        ("/with blank/ü.sock", Target(path="/with blank/ü.sock")),
        ("tcp://localhost:1", Target(host="localhost", port=1)),
        ("tcp://127.0.0.1:0", Target(host="127.0.0.1", port=0)),
        ("tcp://[::1]:65535", Target(host="::1", port=65535)),
        ("tcp://::1:80", Target(host="::1", port=80)),
    ],
)
def test_parse(text: str, expected: Target) -> None:
    assert targets.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("127.0.0.1:9100", "tcp://127.0.0.1:9100"),
        ("localhost:0", "tcp://localhost:0"),
        ("[::1]:80", "tcp://[::1]:80"),
        (":9100", "tcp://127.0.0.1:9100"),
    ],
)
def test_an_address_without_its_scheme_is_no_name_of_a_socket(text: str, meant: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(f"no target; write {meant}, or ./{text} ")):
        targets.parse(text)
    assert targets.parse(meant).host
    assert targets.parse(f"./{text}").path == os.path.abspath(text)


def test_a_relative_path_starts_where_the_process_stands(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert targets.parse("a.sock").path == str(place / "a.sock")
    assert targets.parse("unix://a.sock").path == str(place / "a.sock")


@pytest.mark.parametrize(
    "text",
    [
        "", "unix://", "http://localhost:1", "tcp://", "tcp://localhost", "tcp://:80", "tcp://localhost:",
        "tcp://a..b:1", "tcp://localhost:65536", "tcp://localhost:-1", "tcp://localhost:x",
        "tcp://localhost:8.0", "unix://tcp://x", pytest.param("tcp://localhost:" + 5000 * "1", id="5000 digits"), "tcp://localhost:\u0663",
    ],
)  # fmt: skip
def test_parse_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="no target"):
        targets.parse(text)


def test_the_length_of_a_socket_path_counts_bytes() -> None:
    assert targets.parse("/" + "a" * 106).path
    assert targets.parse("/" + "é" * 53).path
    for path in ("/" + "a" * 107, "/" + "é" * 53 + "a"):
        with pytest.raises(InvalidArgument, match="107"):
            targets.parse(path)


@pytest.mark.parametrize(
    ("text", "bind", "url"),
    [
        ("/a.sock", "unix:/a.sock", "unix:///a.sock"),
        ("tcp://localhost:1", "localhost:1", "tcp://localhost:1"),
        ("tcp://[::1]:1", "[::1]:1", "tcp://[::1]:1"),
    ],
)
def test_what_is_shown_can_be_parsed_again(text: str, bind: str, url: str) -> None:
    target = targets.parse(text)
    assert (target.bind, target.url) == (bind, url)
    assert targets.parse(target.url) == target


@pytest.mark.parametrize("name", [b"a%20b", b"a?b#c", b"a%zz%", b"a b", "ü".encode(), b"not utf-8 \xff", b"a%ff\xff"])
def test_any_name_of_a_directory_can_be_listened_in_and_dialled(place: Path, name: bytes) -> None:
    directory = place / os.fsdecode(name)
    directory.mkdir()
    target = targets.default(directory)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_insecure_port(target.bind)
    server.start()
    try:
        assert list(directory.iterdir()) == [directory / "grpc.sock"]
        for dialled in (target.bind, target.url):
            with grpc.insecure_channel(dialled) as channel:
                grpc.channel_ready_future(channel).result(timeout=10)
            assert targets.parse(dialled) == target
        with open_channel(target.path) as channel:
            grpc.channel_ready_future(channel).result(timeout=10)
    finally:
        server.stop(None).wait()


def test_what_follows_the_scheme_is_escaped_and_a_bare_path_is_not() -> None:
    assert targets.parse("unix:///a%20b") == Target(path="/a b")
    assert targets.parse("/a%20b") == Target(path="/a%20b")
    with pytest.raises(InvalidArgument, match="NUL"):
        targets.parse("unix:///a%00b")


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("/a.sock", True), ("tcp://localhost:1", True), ("tcp://127.0.0.1:1", True), ("tcp://127.9.9.9:1", True),
        ("tcp://[::1]:1", True), ("tcp://0.0.0.0:1", False), ("tcp://[::]:1", False), ("tcp://10.0.0.1:1", False),
        ("tcp://example.org:1", False), ("tcp://localhost.example.org:1", False), ("tcp://127.1:1", False),
    ],
)  # fmt: skip
def test_loopback(text: str, loopback: bool) -> None:
    assert targets.parse(text).loopback is loopback


def test_the_default_is_in_the_data_directory(tmp_path: Path) -> None:
    assert targets.default(Path("/short")) == Target(path="/short/grpc.sock")


def test_the_default_for_a_long_path_is_short_and_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    first, second = (targets.default(Path("/" + "long/" * 30 + name)) for name in ("a", "b"))
    assert first == targets.default(Path("/" + "long/" * 30 + "a"))
    assert first != second
    for target in (first, second):
        assert Path(target.path).parent.is_relative_to(place)
        assert Path(target.path).parent.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(target.path)) <= targets.MAX_SOCKET_PATH


def test_a_runtime_directory_that_cannot_be_made_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").write_text("")
    monkeypatch.setattr(platformdirs, "user_runtime_dir", lambda *_, **__: str(place / "file"))
    with pytest.raises(StoreUnusable, match="--grpc"):
        targets.default(Path("/" + "long/" * 30))


@pytest.mark.parametrize("kind", ["others may write", "a link"])
def test_a_runtime_directory_of_others_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    runtime = place / "runtime"
    if kind == "a link":
        (place / "theirs").mkdir()
        runtime.symlink_to(place / "theirs")
    else:
        runtime.mkdir()
        runtime.chmod(0o777)
    monkeypatch.setattr(platformdirs, "user_runtime_dir", lambda *_, **__: str(runtime))
    with pytest.raises(StoreUnusable, match="other users"):
        targets.default(Path("/" + "long/" * 30))


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o777, True), (0o1777, False), (0o755, False)], ids=["others may rename", "sticky", "ours"]
)
def test_a_runtime_directory_that_others_may_replace_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, mode: int, refused: bool
) -> None:
    (place / "above").mkdir()
    (place / "above").chmod(mode)
    monkeypatch.setattr(platformdirs, "user_runtime_dir", lambda *_, **__: str(place / "above/runtime"))
    with pytest.raises(StoreUnusable, match="other users") if refused else nullcontext():
        assert targets.default(Path("/" + "long/" * 30)).path


def test_a_runtime_directory_is_made_for_its_user_alone_whatever_the_umask(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_runtime_dir", lambda *_, **__: str(place / "above/runtime"))
    before = os.umask(0)
    try:
        targets.default(Path("/" + "long/" * 30))
    finally:
        os.umask(before)
    assert [one.stat().st_mode & 0o777 for one in (place / "above", place / "above/runtime")] == [0o700, 0o700]


def test_of_two_that_start_together_one_has_the_target(place: Path) -> None:
    target = Target(path=str(place / "a.sock"))
    listening(place / "a.sock").close()
    first = targets.hold(target)
    assert first is not None
    assert not (place / "a.sock").exists()
    with pytest.raises(StoreUnusable, match=f"process {os.getpid()}"):
        targets.hold(target)
    first.close()
    second = targets.hold(target)
    assert second is not None
    second.close()


def test_a_target_that_is_taken_is_not_held(place: Path) -> None:
    target = Target(path=str(place / "a.sock"))
    with listening(place / "a.sock"):
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StoreUnusable, match="another server answers"):
            targets.hold(target)
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_port_needs_no_holding() -> None:
    assert targets.hold(Target(host="127.0.0.1")) is None
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(StoreUnusable):
        targets.hold(Target(host="127.0.0.1", port=listener.getsockname()[1]))


def test_claim_of_nothing_leaves_nothing(place: Path) -> None:
    targets.claim(Target(path=str(place / "a.sock")))
    assert not list(place.iterdir())


def test_claim_removes_a_dead_socket(place: Path) -> None:
    listening(place / "a.sock").close()
    targets.claim(Target(path=str(place / "a.sock")))
    assert not list(place.iterdir())


def test_claim_refuses_a_live_socket(place: Path) -> None:
    with listening(place / "a.sock"):
        with pytest.raises(StoreUnusable, match="another server answers"):
            targets.claim(Target(path=str(place / "a.sock")))
        assert (place / "a.sock").exists()


def test_a_listener_too_busy_to_answer_is_alive(place: Path) -> None:
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "a.sock"))
        listener.listen(0)
        try:
            for _ in range(3):  # fill the backlog, so that a further connection is not taken
                caller = socket.socket(socket.AF_UNIX)
                waiting.append(caller)
                caller.setblocking(False)
                caller.connect_ex(str(place / "a.sock"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sockets, "ANSWER_SECONDS", 0.05)
                with pytest.raises(StoreUnusable, match="another server answers"):
                    targets.claim(Target(path=str(place / "a.sock")))
        finally:
            for caller in waiting:
                caller.close()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_claim_refuses_what_is_no_socket(place: Path, kind: str) -> None:
    path = place / "a.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(place / "elsewhere")
    with pytest.raises(StoreUnusable, match="no socket"):
        targets.claim(Target(path=str(path)))
    assert path.is_symlink() or path.exists()


def test_claim_of_an_impossible_path_says_why(place: Path) -> None:
    (place / "file").write_text("")
    with pytest.raises(StoreUnusable, match="Not a directory"):
        targets.claim(Target(path=str(place / "file" / "a.sock")))


def test_claim_of_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StoreUnusable, match=f"127.0.0.1:{port} is taken"):
            targets.claim(Target(host="127.0.0.1", port=port))
    targets.claim(Target(host="127.0.0.1", port=port))
    targets.claim(Target(host="127.0.0.1", port=0))


def test_a_host_name_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="is no name of a host"):
        targets.parse(f"tcp://{'a' * 80}:8080")
