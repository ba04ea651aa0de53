"""The endpoint as a part of a process: its keys, its port, its configuration, and many slow peers at once."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import grpc
import pytest

from gestalt_cas import Store
from gestalt_cas.configuration.config import Config, Http
from gestalt_cas.errors import StoreBusy
from gestalt_cas.http.http_side import HttpSide
from gestalt_cas.rules.sigv4 import KeyPair
from gestalt_cas.serving.mounts import Mounts
from presigned import BUCKET, Site
from wire import protos
from wire.client import Client, Lifecycle, eventually, refused
from wire.process import Hosted, Server, command_line, peak_resident_bytes, short_directory

MIB = 1 << 20


@pytest.fixture(name="directory")
def directory_fixture() -> Path:
    return short_directory() / "d"


def port_of(server: Server) -> int:
    return int(urlsplit(server.ready["http"]).port or 0)


# ---- keys ----


def test_keys_are_generated_once_and_owner_only(directory: Path) -> None:
    with Server(data_dir=directory) as server:
        site = Site(server)
        site.client.write("k", b"content", bucket=BUCKET)
        url = urlsplit(site.presign("k").url)
        assert (directory / "keys.json").stat().st_mode & 0o777 == 0o600
    with Server(data_dir=directory) as server:
        again = Site(server)
        assert again.keys == site.keys
        assert again.send("GET", f"{url.path}?{url.query}", host=url.netloc).body == b"content"
    shutil.rmtree(directory.parent)


MAKE_KEYS = """
import sys, time
from pathlib import Path
from gestalt_cas.files.keys import SigningKeys
keys = SigningKeys(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(keys.get().access_key_id, flush=True)
"""


def test_processes_that_start_at_once_use_one_pair(tmp_path: Path) -> None:
    for turn in range(2):
        path = tmp_path / str(turn) / "keys.json"
        path.parent.mkdir()
        children = [
            subprocess.Popen(
                [sys.executable, "-c", MAKE_KEYS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(4)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        found = {child.communicate()[0] for child in children}
        assert len(found) == 1
        assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]


def test_rotation_reaches_a_running_server(directory: Path) -> None:
    with Server(data_dir=directory) as server:
        site = Site(server)
        site.client.write("k", b"content", bucket=BUCKET)
        old = site.target("k")
        assert site.send("GET", old).body == b"content"
        done = command_line("keys", "rotate", "--json", "--data-dir", str(directory))
        assert done.returncode == 0, done.stderr
        eventually(lambda: site.send("GET", old).status == 403, "the old URL stops working", 5)
        rotated = Site(server)
        assert rotated.keys != site.keys
        assert json.loads(done.stdout)["access_key_id"] == rotated.keys.access_key_id
        assert rotated.get("k").body == b"content"
        assert site.send("GET", old).code == "InvalidAccessKeyId"
        assert rotated.keys.secret_access_key not in done.stdout + done.stderr + server.stderr
        assert (directory / "keys.json").stat().st_mode & 0o777 == 0o600
    shutil.rmtree(directory.parent)


def test_rotation_says_what_it_does(directory: Path) -> None:
    assert command_line("keys", "rotate", "--data-dir", str(directory)).returncode == 10
    with Server(data_dir=directory):
        pass
    first = command_line("keys", "rotate", "--data-dir", str(directory))
    assert first.returncode == 0
    assert "stop working" in first.stdout + first.stderr
    shutil.rmtree(directory.parent)


def test_configured_keys_are_used_and_not_rotated(directory: Path) -> None:
    pair = KeyPair("AKIDCONFIGURED", "s3cret/+from=config")
    options = ("signing.accessKeyId=AKIDCONFIGURED", f"signing.secretAccessKey={pair.secret_access_key}")
    with Server(*options, data_dir=directory) as server:
        site = Site(server, pair)
        site.client.write("k", b"content", bucket=BUCKET)
        assert "AKIDCONFIGURED%2F" in site.presign("k").url
        assert site.get("k").body == b"content"
        assert not (directory / "keys.json").exists()
        done = command_line("keys", "rotate", "--data-dir", str(directory))
        assert done.returncode == 2
        assert "signing.accessKeyId" in done.stderr
        assert "configuration" in done.stderr
        assert pair.secret_access_key not in server.stderr + done.stderr
        assert site.get("k").body == b"content"
    with Server(data_dir=directory):
        pass
    assert command_line("keys", "rotate", "--data-dir", str(directory)).returncode == 0
    shutil.rmtree(directory.parent)


# ---- the port ----


def test_the_port_stays_the_same_over_restarts(directory: Path) -> None:
    ports = []
    for _ in range(2):
        with Server(data_dir=directory) as server:
            assert urlsplit(server.ready["http"]).hostname == "127.0.0.1"
            ports.append(port_of(server))
            assert "taken" not in server.stderr
    assert len(set(ports)) == 1
    shutil.rmtree(directory.parent)


def test_a_port_that_a_foreign_program_took_is_warned_of(directory: Path) -> None:
    with Server(data_dir=directory) as server:
        port = port_of(server)
    with socket.create_server(("127.0.0.1", port)), Server(data_dir=directory) as server:
        assert port_of(server) != port
        assert f"port {port}" in server.stderr
        assert "WARNING" in server.stderr
        other = port_of(server)
        assert Site(server).get("none").code == "NoSuchKey"
    with Server(data_dir=directory) as server:
        assert port_of(server) == other
    shutil.rmtree(directory.parent)


def test_a_second_server_does_not_change_the_remembered_port(directory: Path) -> None:
    with Server(data_dir=directory) as first:
        port = port_of(first)
        with Server(data_dir=directory) as second:
            assert port_of(second) != port
            assert "taken" not in second.stderr
            one, two = Site(first), Site(second)
            one.client.write("k", b"content", bucket=BUCKET)
            assert two.get("k").body == one.get("k").body == b"content"
            assert one.keys == two.keys
    with Server(data_dir=directory) as server:
        assert port_of(server) == port
    shutil.rmtree(directory.parent)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_http_names_the_address(directory: Path) -> None:
    port = free_port()
    with Server(data_dir=directory, options=["--http", f"127.0.0.1:{port}"]) as server:
        assert server.ready["http"] == f"http://127.0.0.1:{port}"
        assert Site(server).presign("k").url.startswith(f"http://127.0.0.1:{port}/b/k?")
        done = command_line("serve", "--data-dir", str(directory / "other"), "--http", f"127.0.0.1:{port}")
        assert done.returncode == 2
        assert f"127.0.0.1:{port}" in done.stderr
    done = command_line("serve", "--data-dir", str(directory), "--http", "nonsense")
    assert done.returncode == 2
    assert "http.listen" in done.stderr
    shutil.rmtree(directory.parent)


def test_the_public_url_is_what_urls_are_signed_for() -> None:
    with Server("http.publicUrl=https://Files.example.test:443/") as server:
        site = Site(server)
        url = urlsplit(site.presign("k").url)
        assert (url.scheme, url.netloc) == ("https", "files.example.test")
        site.client.write("k", b"content", bucket=BUCKET)
        target = f"{url.path}?{url.query}"
        assert site.send("GET", target, host="files.example.test").body == b"content"
        assert site.send("GET", target).code == "SignatureDoesNotMatch"
        assert server.ready["http"].startswith("http://127.0.0.1:")


# ---- configured again ----


def presign(client: Client, key: str) -> str:
    return str(client.call("PresignObject", client.pb.PresignObjectRequest(ref=client.ref(key))).url)


def listens(port: int) -> bool:
    """Whether anybody listens on the port; asks the kernel, since a connection would be one more thing to end."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(int(row[1].rpartition(":")[2], 16) == port and row[3] == "0A" for row in rows)


def test_a_new_configuration_changes_the_endpoint_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    with Hosted() as provider, Client(provider.target, protos.BUCKETED) as client:
        lifecycle = Lifecycle(provider.target)
        base: dict[str, object] = {"dataDir": str(tmp_path / "d")}

        def configure(**http: object) -> str:
            lifecycle.configure({**base, "http": http})
            return urlsplit(presign(client, "k")).netloc

        first = configure()
        port = int(first.rpartition(":")[2])
        assert listens(port)
        # What has nothing to do with the address leaves the socket alone.
        assert configure(corsOrigins=["*"]) == first
        assert configure(publicUrl="http://files.test:81") == "files.test:81"
        assert listens(port)
        assert configure(listen=f"127.0.0.1:{port}") == first
        assert configure() == first
        # Another address replaces the one before.
        other = free_port()
        assert configure(listen=f"127.0.0.1:{other}") == f"127.0.0.1:{other}"
        eventually(lambda: not listens(port), "the old port is let go")
        # One that cannot be had changes nothing: no address, no setting.
        with socket.create_server(("127.0.0.1", 0)) as foreign:
            taken = {**base, "bucket": "changed", "http": {"listen": f"127.0.0.1:{foreign.getsockname()[1]}"}}
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "http.listen") as told:
                lifecycle.configure(taken)
            assert told.value.details().startswith("http.listen: ")
        url = presign(client, "k")
        assert urlsplit(url).netloc == f"127.0.0.1:{other}"
        assert urlsplit(url).path == "/default/k"
        assert listens(other)
        # Switched off and on.
        lifecycle.configure({**base, "http": {"enabled": False}})
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "http.enabled"):
            presign(client, "k")
        eventually(lambda: not listens(other), "the port is let go")
        assert configure() == first
        lifecycle.close()
        assert "Traceback" not in provider.stderr


def test_the_limit_of_uploads_is_that_of_the_configuration_in_force(tmp_path: Path) -> None:
    with Hosted() as provider, Client(provider.target, protos.BUCKETED) as client:
        lifecycle = Lifecycle(provider.target)
        staging = tmp_path / "d" / "staging"

        def allow(uploads: int) -> None:
            lifecycle.configure({"dataDir": str(tmp_path / "d"), "limits": {"concurrentWrites": uploads}})

        def presigned(key: str) -> SplitResult:
            request = client.pb.PresignObjectRequest(ref=client.ref(key), method=2)
            return urlsplit(str(client.call("PresignObject", request).url))

        def upload(key: str) -> int:
            url = presigned(key)
            connection = HTTPConnection(url.netloc, timeout=30)
            connection.request("PUT", f"{url.path}?{url.query}", b"body")
            status = connection.getresponse().status
            connection.close()
            return status

        allow(1)
        assert upload("before") == 200
        url = presigned("half")
        with socket.create_connection((url.hostname or "", url.port or 0)) as half:
            half.sendall(f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n".encode())
            half.sendall(b"Content-Length: 10\r\n\r\nhalf")
            eventually(lambda: list(staging.iterdir()), "an upload on its way")
            assert upload("one too many") == 503
            allow(2)
            assert upload("the second") == 200
        eventually(lambda: not list(staging.iterdir()), "the upload has been given up")
        allow(1)
        assert upload("after") == 200
        lifecycle.close()
        assert "Traceback" not in provider.stderr


def test_a_configuration_that_fails_elsewhere_leaves_the_endpoint_as_it_was(tmp_path: Path) -> None:
    side, mounts = HttpSide(), Mounts()

    def fail(config: Config, before: str) -> None:
        with side.attached(store, config, mounts) as url:
            assert url != before
            assert listens(urlsplit(url).port or 0)
            raise StoreBusy(url)

    with Store.open(tmp_path / "d") as store:
        with pytest.raises(StoreBusy) as caught:
            fail(Config(tmp_path), "")
        assert side.url == ""
        eventually(lambda: not listens(urlsplit(str(caught.value)).port or 0), "the port is let go")
        with side.attached(store, Config(tmp_path), mounts) as first:
            pass
        other = Config(tmp_path, http=Http(port=free_port()))
        with pytest.raises(StoreBusy):
            fail(other, first)
        assert side.url == first
        assert listens(urlsplit(first).port or 0)
        eventually(lambda: not listens(other.http.port), "the port is let go")
        side.stop()
        eventually(lambda: not listens(urlsplit(first).port or 0), "the port is let go")


# ---- slow peers ----


PEERS = 100


def test_slow_downloads_and_uploads_do_not_delay_calls() -> None:
    with Server() as server, ExitStack() as stack:
        site = Site(server)
        site.client.write("big", bytes(16 * MIB), bucket=BUCKET)
        site.client.write("small", b"x", bucket=BUCKET)
        target = site.target("big")
        peers: list[socket.socket] = []
        for number in range(PEERS):
            down = stack.enter_context(socket.socket())
            down.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            down.connect(site.address)
            down.sendall(f"GET {target} HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode())
            up = stack.enter_context(socket.socket())
            up.connect(site.address)
            put = site.target(f"up-{number}", "PUT")
            up.sendall(f"PUT {put} HTTP/1.1\r\nHost: {site.authority}\r\nContent-Length: 1000\r\n\r\n".encode() + b"a")
            peers += [down, up]
        eventually(lambda: len(server.staged()) == PEERS, "all uploads have begun", 30)
        for _ in range(5):
            assert within(5, lambda: site.client.head("small", bucket=BUCKET).size == 1)
            assert within(5, lambda: site.get("small").body == b"x")
            assert within(5, lambda: site.put("fast", b"y").status == 200)
            for peer in peers[1::2]:
                peer.sendall(b"a")
        assert peak_resident_bytes(server.pid) < 300 * MIB
        for number, peer in enumerate(peers[1::2]):
            peer.sendall(bytes(994))
            assert peer.recv(12) == b"HTTP/1.1 200", number
        assert site.client.head("up-99", bucket=BUCKET).size == 1000
        server.assert_no_traceback()


def within(seconds: float, call: Callable[[], bool]) -> bool:
    started = time.monotonic()
    return call() and time.monotonic() - started < seconds


def test_open_requests_do_not_hold_up_the_end() -> None:
    with Server() as server, ExitStack() as stack:
        site = Site(server)
        site.client.write("big", bytes(16 * MIB), bucket=BUCKET)
        for number in range(5):
            down = stack.enter_context(socket.create_connection(site.address))
            down.sendall(f"GET {site.target('big')} HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode())
            up = stack.enter_context(socket.create_connection(site.address))
            put = site.target(f"up-{number}", "PUT")
            up.sendall(f"PUT {put} HTTP/1.1\r\nHost: {site.authority}\r\nContent-Length: 1000\r\n\r\n".encode() + b"a")
        eventually(lambda: len(server.staged()) == 5, "all uploads have begun")
        server.stop()
