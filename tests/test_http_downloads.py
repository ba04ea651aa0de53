"""Long bodies over HTTP: slow callers, callers that leave, damage on the way, several requests on one connection."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.http import HttpVersion11

from gestalt_cas.configuration.config import Limits, parse
from gestalt_cas.errors import Cancelled
from gestalt_cas.files.keys import SigningKeys
from gestalt_cas.http import http_connections, http_downloads, http_server, http_uploads
from gestalt_cas.objects import ObjectKey
from gestalt_cas.rules.presign import PresignQuery, presign
from gestalt_cas.serving.mounts import Mounts

MIB = 1 << 20
KEY = ObjectKey("default", "large")
SIZE = 9 * MIB + 12_345
IDLE_SECONDS = 1.0


class Place:
    """A served store with one large object; `body` is what it holds."""

    def __init__(self, directory: Path) -> None:
        config = parse({"dataDir": str(directory), "limits": {"streamIdleSeconds": IDLE_SECONDS}})
        self.mounts = Mounts()
        self.mounts.configure(config)
        self.server = http_server.HttpServer(self.mounts, http_server.listen("127.0.0.1", 0, fixed=True))
        self.body = random.Random(1).randbytes(SIZE)
        self.keys = SigningKeys(directory / "keys.json").get()
        with self.mounts.use() as mount:
            self.version = mount.store.write(KEY, [self.body])
            self.blob = directory / "blobs" / self.version.digest[:2] / self.version.digest

    def asked(self, *fields: str, receive_bytes: int = 0, times: int = 1) -> socket.socket:
        """A connection on which the object was asked for, `times` over."""
        url = presign(PresignQuery(KEY), self.keys, self.server.url, datetime.now(UTC)).url
        parts = urlsplit(url)
        connection = socket.socket()
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(30)
        connection.connect((parts.hostname, parts.port))
        lines = "".join(f"{field}\r\n" for field in fields)
        request = f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n{lines}\r\n"
        connection.sendall(request.encode() * times)
        return connection

    def readers(self) -> int:
        """How many descriptors of this process stand for the payload."""
        found = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                found += os.path.samefile(f"/proc/self/fd/{name}", self.blob)
            except OSError:
                continue  # closed since it was listed
        return found


class Counted:
    """Stands in for a method and counts its calls."""

    def __init__(self, real: Callable[..., None]) -> None:
        self.real = real
        self.calls = 0

    def __get__(self, instance: object, owner: type) -> Callable[..., None]:
        def call() -> None:
            self.calls += 1
            self.real(instance)

        return call


@pytest.fixture
def place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Place]:
    made = Place(tmp_path / "store")
    yield made
    made.server.stop()
    made.server.join(10)
    assert made.mounts.close(10), "a download still holds the store"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


def taken(connection: socket.socket, size: int) -> bytes:
    """The next `size` bytes of body or fewer if the connection ends."""
    parts = []
    while size and (part := connection.recv(min(size, 65536))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def until_the_end(connection: socket.socket) -> bytes:
    """What comes before the connection ends, in whichever way."""
    got = b""
    try:
        while part := connection.recv(65536):
            got += part
    except ConnectionResetError:
        return got
    return got


def head(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """The head of the next response, and not a byte of its body."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        part = connection.recv(1)
        assert part, f"the connection ended in the head: {data!r}"
        data += part
    first, *lines = data.decode().split("\r\n")
    return int(first.split()[1]), {name.lower(): text.strip() for name, _, text in (x.partition(":") for x in lines)}


def eventually(holds: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: h", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"])
def test_a_connection_that_brings_no_request_ends(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Before the first request, within one, behind one; else idle callers would keep the descriptors for an hour."""
    monkeypatch.setattr(http_connections, "_IDLE_SECONDS", 0.3)
    server = http_server.HttpServer(Mounts(), http_server.listen("127.0.0.1", 0, fixed=True))
    try:
        with socket.create_connection((server.host, server.port), timeout=20) as connection:
            connection.sendall(sent)
            answered = until_the_end(connection)
            assert answered.startswith(b"HTTP/1.1 503 ") == sent.endswith(b"\r\n\r\n")
    finally:
        server.stop()
        server.join(10)


def test_an_accept_that_comes_after_the_end_of_listening_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    """For want of files asyncio tries again a second later; by then the server may be about to stop."""
    server = http_server.HttpServer(Mounts(), http_server.listen("127.0.0.1", 0, fixed=True))
    loop: Any = server._loop
    tried = threading.Event()

    def too_late() -> None:
        if server._listener.fileno() >= 0:
            loop.call_soon(too_late)
        else:
            tried.set()
            loop._start_serving(None, server._listener)

    loop.call_soon_threadsafe(too_late)
    server.stop()
    assert tried.wait(20)
    server.join(10)
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("receive_bytes", [0, 8192])
def test_several_requests_sent_at_once_are_answered_whole_in_turn(place: Place, receive_bytes: int) -> None:
    with place.asked(receive_bytes=receive_bytes, times=3) as connection:
        for _ in range(3):
            status, fields = head(connection)
            assert (status, fields["content-length"]) == (200, str(SIZE))
            assert taken(connection, SIZE) == place.body


@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 65535), (0, 65536), (MIB - 1, MIB), (MIB - 1, 2 * MIB), (3 * MIB + 17, SIZE - 1), (SIZE - 1, SIZE - 1)],
)
def test_ranges_that_end_near_a_limit_of_the_sender(place: Place, first: int, last: int) -> None:
    with place.asked(f"Range: bytes={first}-{last}") as connection:
        status, fields = head(connection)
        assert (status, fields["content-range"]) == (206, f"bytes {first}-{last}/{SIZE}")
        assert taken(connection, int(fields["content-length"])) == place.body[first : last + 1]


def test_caller_that_takes_a_little_at_a_time_gets_everything(place: Place) -> None:
    with place.asked(receive_bytes=8192) as connection:
        head(connection)
        got = b""
        deadline = time.monotonic() + 5 * IDLE_SECONDS
        while time.monotonic() < deadline:
            got += taken(connection, 8192)
            time.sleep(IDLE_SECONDS / 10)
        assert len(got) < SIZE // 2, "this was to be slow"
        assert got + taken(connection, SIZE - len(got)) == place.body


@pytest.mark.parametrize("first", [0, MIB + 7])
def test_who_goes_on_after_a_pause_gets_what_was_left(
    place: Place, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """The chunk that was being sent is given back in a pause, and read and checked again after it."""
    monkeypatch.setattr(http_downloads, "_HELD_SECONDS", 0.01)
    let_go = Counted(http_downloads.Download._let_go)
    monkeypatch.setattr(http_downloads.Download, "_let_go", let_go)
    with place.asked(f"Range: bytes={first}-", receive_bytes=8192) as connection:
        head(connection)
        got = b""
        while let_go.calls < 3:
            got += taken(connection, 100_000)
            time.sleep(IDLE_SECONDS / 20)
        assert len(got) < SIZE // 2, "this was to be slow"
        assert got + taken(connection, SIZE - first - len(got)) == place.body[first:]


def test_damage_done_in_a_pause_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was checked before the pause is not what is read after it."""
    monkeypatch.setattr(http_downloads, "_HELD_SECONDS", 0.01)
    let_go = Counted(http_downloads.Download._let_go)
    monkeypatch.setattr(http_downloads.Download, "_let_go", let_go)
    with place.asked(receive_bytes=8192) as connection:
        head(connection)
        eventually(lambda: let_go.calls > 0)
        place.blob.chmod(0o600)
        with place.blob.open("r+b") as file:
            file.write(bytes(SIZE))
        got = until_the_end(connection)
        assert place.body.startswith(got)
        assert len(got) < SIZE


def test_caller_that_takes_nothing_is_dropped_and_the_payload_let_go(place: Place) -> None:
    with place.asked(receive_bytes=8192) as connection:
        head(connection)
        eventually(lambda: place.readers() == 1)
        eventually(lambda: place.readers() == 0)
        assert len(until_the_end(connection)) < SIZE


def test_caller_that_leaves_lets_go_of_the_payload_at_once(place: Place) -> None:
    for _ in range(20):
        with place.asked() as connection:
            head(connection)
            taken(connection, 100_000)
    started = time.monotonic()
    eventually(lambda: place.readers() == 0)
    assert time.monotonic() - started < IDLE_SECONDS


def test_damage_ends_the_connection_and_no_byte_of_the_chunk_has_left(place: Place) -> None:
    place.blob.chmod(0o600)
    with place.blob.open("r+b") as file:
        file.seek(5 * MIB + 7)
        file.write(b"\0damage\0")
    with place.asked() as connection:
        assert head(connection)[1]["content-length"] == str(SIZE)
        got = until_the_end(connection)
        assert place.body.startswith(got)
        assert len(got) <= 5 * MIB
    eventually(lambda: place.readers() == 0)


def test_stopping_ends_downloads_that_stand_still(place: Place) -> None:
    with place.asked(receive_bytes=8192) as connection:
        head(connection)
        eventually(lambda: place.readers() == 1)
        place.server.stop()
        place.server.join(5)
        assert place.readers() == 0


def test_a_hundred_slow_callers_leave_the_threads_to_a_fast_one(place: Place) -> None:
    slow = [place.asked(receive_bytes=8192) for _ in range(100)]
    try:
        for connection in slow:
            head(connection)
        started = time.monotonic()
        with place.asked() as fast:
            head(fast)
            assert taken(fast, SIZE) == place.body
        assert time.monotonic() - started < 5
        names = [thread.name for thread in threading.enumerate()]
        assert sum(name.startswith("gestalt-cas-http-send") for name in names) <= 8
    finally:
        for connection in slow:
            connection.close()
    eventually(lambda: place.readers() == 0)


@pytest.mark.parametrize("held_seconds", [IDLE_SECONDS, 0.01])
def test_a_slow_download_takes_a_chunk_of_memory_and_gives_it_back(
    place: Place, monkeypatch: pytest.MonkeyPatch, held_seconds: float
) -> None:
    """At the latest when it ends; before that when its caller has taken nothing for a while."""
    monkeypatch.setattr(http_downloads, "_HELD_SECONDS", held_seconds)
    count = 60
    gc.disable()  # the collector would hide that a download kept its buffer
    try:
        before = resident_bytes()
        slow = [place.asked(receive_bytes=8192) for _ in range(count)]
        for connection in slow:
            head(connection)
        eventually(lambda: place.readers() == count)
        assert resident_bytes() - before < 2 * count * MIB
        if held_seconds < IDLE_SECONDS:
            eventually(lambda: resident_bytes() - before < count * MIB // 4 and place.readers() == count)
        for connection in slow:
            connection.close()
        eventually(lambda: place.readers() == 0)
        eventually(lambda: resident_bytes() - before < count * MIB // 4)
    finally:
        gc.enable()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_an_upload_that_is_shorter_than_announced_is_cut_off() -> None:
    """Whatever the parser says: aiohttp 3.11 hands on no body when a request asks for another protocol."""

    class Short:
        headers: ClassVar[dict[str, str]] = {"Content-Length": "3"}
        content_length, version = 3, HttpVersion11

        class content:  # noqa: N801 - the attribute of a request
            @staticmethod
            async def readany() -> bytes:
                return b""

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        upload = http_uploads.Upload(cast("web.BaseRequest", Short()), Limits(), loop)
        with pytest.raises(Cancelled, match="0 bytes came of 3"):
            list(upload.pieces())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
