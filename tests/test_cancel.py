"""Uploads that are cancelled or break, at every moment: afterwards an object is the previous or the whole new one.

Every body ends in a checksum of what comes before it, so a truncated body is recognised wherever it is found, and each
key's whole history is judged, not only its current version. Cancels that come while the upload is certainly not at its
end (its last frame was never handed over) must never commit at all.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from blake3 import blake3

from gestalt_cas.system.locks import WriterLock
from wire import protos
from wire.client import Client, eventually, frames
from wire.fixtures import server_fixture  # noqa: F401
from wire.process import Server, versions

THREADS = 8
CANCELS = 1000
LARGE = range(2**20, 3 * 2**20)
CHECKSUM = 32
WORDS = random.Random(29).randbytes(LARGE.stop)
HALTS = ("midway", "broken", "at the last", "after the last", "half-close", "deadline", "connection")
CANNOT_COMMIT = ("midway", "broken")


def sealed(identity: str, size: int) -> bytes:
    """A body of about `size` bytes that names itself and ends in the SHA-256 of the rest."""
    start = f"{identity}\n".encode()
    content = start + WORDS[: max(0, size - len(start) - CHECKSUM)]
    return content + hashlib.sha256(content).digest()


def identity_of(body: bytes) -> str:
    """The name in a sealed body; fails for one that is not whole."""
    content, checksum = body[:-CHECKSUM], body[-CHECKSUM:]
    assert hashlib.sha256(content).digest() == checksum, f"a truncated object of {len(body)} bytes was committed"
    return content.partition(b"\n")[0].decode()


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep every core contended, so that threads of the server are interrupted at odd moments."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(multiprocessing.cpu_count())]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Upload:
    """One upload that is ended in one of the ways of HALTS; `run` returns once the client knows its outcome."""

    def __init__(self, client: Client, key: str, body: bytes, halt: str, chance: random.Random) -> None:
        self.client, self.key, self.body, self.halt, self.chance = client, key, body, halt, chance
        self.parts = frames(body, chance.choice([1000, 16384, 65536, 1_000_000]) if len(body) < 2**20 else 65536)
        self.stop_after = chance.randrange(len(self.parts))
        self.there = threading.Event()
        self.over = threading.Event()

    def requests(self) -> Iterator[Any]:
        yield self.client.open_frame(self.key)
        for position, part in enumerate(self.parts):
            if self.halt in CANNOT_COMMIT and position == self.stop_after:
                self.there.set()
                if self.halt == "broken":
                    raise OSError("the body broke off")
                self.over.wait(30)
                return
            if self.halt == "at the last" and position == len(self.parts) - 1:
                self.there.set()
            yield self.client.data_frame(part)
        self.there.set()
        if self.halt == "after the last":
            self.over.wait(30)

    def run(self) -> bool:
        """Whether the server acknowledged the upload in spite of everything."""
        timeout = self.chance.uniform(0.001, 0.05) if self.halt == "deadline" else 60.0
        client = self.client
        if self.halt == "connection":
            client = Client(client.target, client.pb)
        call = client.upload(self.requests(), timeout=timeout)
        if self.halt in ("midway", "at the last", "after the last", "half-close", "connection"):
            self.there.wait(30)
            if self.chance.random() < 0.7:
                time.sleep(self.chance.choice([0, 0.0002, 0.001, 0.003, 0.01]))
            if self.halt == "connection":
                client.close()
            else:
                call.cancel()
        try:
            call.result()
        except (grpc.RpcError, grpc.FutureCancelledError, ValueError):
            return False
        finally:
            self.over.set()
        return True


def run_many(server: Server, number: int, turns: int) -> tuple[str, set[str], set[str], list[str]]:
    """One thread's uploads to its own key: the identities that may be found, and those acknowledged."""
    chance = random.Random(number)
    key = f"key {number}"
    allowed, acknowledged, trouble = {"initial"}, {"initial"}, []
    with Client(server.target, protos.BUCKETLESS) as client:
        client.write(key, sealed("initial", 5000))
        for turn in range(turns):
            identity = f"{number}.{turn}"
            size = chance.choice(LARGE) if chance.random() < 0.15 else chance.choice([40, 100, 5000, 65536, 200_000])
            halt = HALTS[turn % len(HALTS)]
            if Upload(client, key, sealed(identity, size), halt, chance).run():
                acknowledged.add(identity)
            if halt not in CANNOT_COMMIT:
                allowed.add(identity)
            if turn % 10 == 0:
                found = identity_of(client.body(key))
                if found not in allowed:
                    trouble.append(f"{found} is there, though its upload ended midway")
    return key, allowed, acknowledged, trouble


def judge(server: Server, client: Client, key: str, allowed: set[str]) -> set[str]:
    """Check every version that the key ever had; the identities found."""
    found = set()
    for entry in versions(server.data_dir, "default", key):
        body = client.body(key, version_id=str(entry["version_id"]))
        assert len(body) == entry["size"]
        found.add(identity_of(body))
    assert found <= allowed, f"committed, though ended midway: {found - allowed}"
    return found


def test_a_thousand_cancels_commit_nothing_truncated() -> None:
    turns = CANCELS // THREADS
    with Server() as server:
        with busy_machine(), ThreadPoolExecutor(THREADS) as pool:
            outcomes = list(pool.map(lambda number: run_many(server, number, turns), range(THREADS)))
        with Client(server.target, protos.BUCKETLESS) as client:
            eventually(lambda: not server.staged(), "staging empty")
            for key, allowed, acknowledged, trouble in outcomes:
                assert not trouble
                assert acknowledged <= judge(server, client, key, allowed), "acknowledged and lost"
            assert client.keys(prefix="key ") == [f"key {number}" for number in range(THREADS)]
        server.stop()


def test_cancels_of_create_only_uploads_leave_no_object(server: Server) -> None:
    chance = random.Random(1)
    with Client(server.target, protos.BUCKETLESS) as client:
        for turn in range(60):
            body = sealed(f"new.{turn}", chance.choice([100, 70_000, 1_500_000]))
            assert not Upload(client, f"new/{turn}", body, HALTS[turn % 2], chance).run()
        eventually(lambda: not server.staged(), "staging empty")
        assert client.keys(prefix="new/") == []


def test_a_cancel_while_the_upload_waits_for_its_turn_commits_nothing(server: Server) -> None:
    """The stream has ended cleanly by then: only a look at the call, as the last thing before COMMIT, can tell."""
    lock = WriterLock(server.data_dir)
    body = sealed("waiting", 70_000)
    digest = blake3(body).hexdigest()
    with Client(server.target, protos.BUCKETLESS) as client:
        client.write("turn", b"before")
        with lock.held(10):
            call = client.upload([client.open_frame("turn"), client.data_frame(body)])
            eventually((server.data_dir / "blobs" / digest[:2] / digest).exists, "published, so the lock comes next")
            call.cancel()
            client.head("turn")  # on the same connection, so the server has been told of the cancel
        eventually(lambda: not server.staged(), "staging empty")
        assert client.body("turn") == b"before"
        assert len(versions(server.data_dir, "default", "turn")) == 1
    lock.close()


CHILD = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from test_cancel import sealed
from wire import protos
from wire.client import Client
client = Client(sys.argv[2], protos.BUCKETLESS)
def writer(number):
    for turn in range(10_000):
        client.write(f"killed {number}", sealed(f"{number}.{turn}", (turn * 37_777) % 2_500_000))
for number in range(4):
    threading.Thread(target=writer, args=(number,), daemon=True).start()
print("writing", flush=True)
threading.Event().wait(60)
"""


def test_killed_clients_commit_nothing_truncated(server: Server) -> None:
    """The client's process ends at once, without a cancel: the connection breaks in the middle of frames."""
    keys = [f"killed {number}" for number in range(4)]
    with Client(server.target, protos.BUCKETLESS) as client:
        for round_number in range(4):
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(Path(__file__).parent), server.target], stdout=subprocess.PIPE
            )
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"writing\n"
                eventually(lambda: all(map(client.exists, keys)) and server.staged(), "uploads on their way", 60)
                time.sleep(0.05 * round_number)
            finally:
                child.kill()
                child.wait()
                if child.stdout is not None:
                    child.stdout.close()
            eventually(lambda: not server.staged(), "staging empty", 30)
        for key in keys:
            for entry in versions(server.data_dir, "default", key):
                assert identity_of(client.body(key, version_id=str(entry["version_id"]))).startswith(key[-1])


def test_a_cancelled_read_frees_its_files_and_places(server: Server) -> None:
    with Client(server.target, protos.BUCKETLESS) as client:
        client.write("read", WORDS)
        client.write("small", b"x")

        def open_files() -> int:
            return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))

        before = open_files()
        chance = random.Random(2)
        for _ in range(300):
            stream = client.read_stream("read")
            for _ in range(chance.randrange(4)):
                next(stream)
            stream.cancel()
        assert client.body("read") == WORDS
        eventually(lambda: open_files() <= before + 10, "files of cancelled reads closed")
