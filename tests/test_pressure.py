"""Many streams, slow peers, large objects: what one client does must not hold up another, nor fill the memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import blake3
import grpc
import pytest

from wire import protos
from wire.client import Client, eventually, refused, status_of
from wire.process import Server, peak_resident_bytes

MIB = 2**20
BIG = 24 * MIB
"""Well above what the buffers of a connection hold, so a read of it that is not consumed cannot end."""
HALF = 2 * MIB
"""What a half-open upload has sent: more than a server would keep in memory before it begins a staging file."""
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
PROMPT_SECONDS = 15
"""A generous bound for a call that does next to nothing; one that is stuck behind a stream waits for its end."""
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Stalled:
    """Streams that stand still until the end of the block, each on a connection of its own and known to have begun."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server, self.stack = server, stack
        self.over = threading.Event()
        stack.callback(self.over.set)

    def _client(self) -> Client:
        return self.stack.enter_context(Client(self.server.target, protos.BUCKETLESS, *SMALL_WINDOW))

    def read(self, key: str = "big") -> Any:
        """A read of which two frames were taken and no more are."""
        call = self._client().read_stream(key)
        self.stack.callback(call.cancel)
        assert next(call).WhichOneof("result") == "meta"
        assert next(call).WhichOneof("result") == "data"
        return call

    def write(self, key: str) -> Any:
        """An upload that sends its first HALF bytes and no more."""
        client = self._client()
        sent = threading.Event()

        def requests() -> Iterator[Any]:
            yield client.open_frame(key)
            for _ in range(HALF // 65536):
                yield client.data_frame(b"x" * 65536)
            sent.set()
            self.over.wait(120)

        call = client.upload(requests(), timeout=120)
        self.stack.callback(call.cancel)
        assert sent.wait(30)
        return call


@contextmanager
def stalled(server: Server) -> Iterator[Stalled]:
    with ExitStack() as stack:
        yield Stalled(server, stack)


def prompt(call: Any) -> Any:
    started = time.monotonic()
    result = call()
    took = time.monotonic() - started
    assert took < PROMPT_SECONDS, f"took {took:.1f} s"
    return result


def test_64_stalled_reads_and_64_half_open_writes_delay_nobody() -> None:
    with Server() as server, Client(server.target, protos.BUCKETLESS) as client:
        body = bytes(range(256)) * (BIG // 256)
        client.write("big", body)
        with stalled(server) as streams:
            reads = [streams.read() for _ in range(64)]
            writes = [streams.write(f"half/{number}") for number in range(64)]
            for number in range(20):
                assert prompt(lambda: client.head("big")).size == BIG
                prompt(lambda number=number: client.write(f"small/{number}", b"x"))
                assert prompt(lambda number=number: client.body(f"small/{number}")) == b"x"
                assert len(prompt(lambda: client.keys(prefix="small/"))) == number + 1
            assert not any(call.done() for call in (*reads, *writes))
            taken = sum(len(chunk.data) for chunk in reads[0])
            assert BIG - 2 * MIB <= taken < BIG, "a read goes on where it stood"
        eventually(lambda: not server.staged(), "staging empty")
        assert client.keys(prefix="half/") == []
        server.stop()


@pytest.fixture(scope="module", name="narrow")
def narrow_fixture() -> Iterator[Server]:
    with Server("limits.concurrentReads=4", "limits.concurrentWrites=4") as server:
        with Client(server.target, protos.BUCKETLESS) as client:
            client.write("big", bytes(BIG))
        yield server
        server.stop()


def succeeds(call: Any) -> bool:
    """Whether the call is admitted; a refusal must be RESOURCE_EXHAUSTED."""
    status = status_of(call)
    assert status in (grpc.StatusCode.OK, EXHAUSTED), status
    return status is grpc.StatusCode.OK


def test_a_read_above_the_limit_is_refused_at_once(narrow: Server) -> None:
    with Client(narrow.target, protos.BUCKETLESS) as client:
        client.write("k", b"x")
        with stalled(narrow) as streams:
            for _ in range(4):
                eventually(lambda: succeeds(streams.read), "a place for a read")
            for _ in range(5):
                with refused(EXHAUSTED, "concurrentReads"):
                    prompt(lambda: client.read("k"))
            assert prompt(lambda: client.head("k")).size == 1
            prompt(lambda: client.write("k", b"writes have places of their own"))
        assert eventually(lambda: succeeds(lambda: client.read("k")), "a free place")


def test_a_write_above_the_limit_is_refused_at_once(narrow: Server) -> None:
    with Client(narrow.target, protos.BUCKETLESS) as client:
        eventually(lambda: succeeds(lambda: client.write("k", b"before")), "a place for a write")
        with stalled(narrow) as streams:
            halves = [streams.write(f"half/{number}") for number in range(4)]
            eventually(lambda: narrow.staged_bytes() > 3 * HALF, "four uploads on their way")
            for _ in range(5):
                with refused(EXHAUSTED, "concurrentWrites"):
                    prompt(lambda: client.write("k", b"one too many"))
            assert prompt(lambda: client.body("k")) == b"before"
            assert prompt(lambda: client.copy("k", "l")).size == 6
            assert not any(call.done() for call in halves)
        assert eventually(lambda: succeeds(lambda: client.write("k", b"after")), "a free place")
        assert client.body("k") == b"after"


def test_a_refused_upload_of_many_frames_still_learns_its_status(narrow: Server) -> None:
    with Client(narrow.target, protos.BUCKETLESS) as client, stalled(narrow) as streams:
        for number in range(4):
            streams.write(f"half/{number}")
        eventually(lambda: narrow.staged_bytes() > 3 * HALF, "four uploads on their way")
        with refused(EXHAUSTED):
            client.write("k", bytes(3 * MIB))


@pytest.fixture(scope="module", name="impatient")
def impatient_fixture() -> Iterator[Server]:
    settings = ("limits.streamIdleSeconds=1", "limits.concurrentReads=4", "limits.concurrentWrites=4")
    with Server(*settings) as server:
        with Client(server.target, protos.BUCKETLESS) as client:
            client.write("big", bytes(BIG))
        yield server
        server.stop()


def payloads_open(server: Server) -> list[str]:
    """The files of payloads that the server has open, once for each read."""
    found = []
    for entry in os.scandir(f"/proc/{server.pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(entry.path))
    return [path for path in found if "/blobs/" in path]


def test_a_stalled_upload_is_dropped(impatient: Server) -> None:
    with stalled(impatient) as streams:
        calls = [streams.write(f"half/{number}") for number in range(4)]
        for call in calls:
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
                call.result(timeout=30)
        eventually(lambda: not impatient.staged(), "staging empty")
    with Client(impatient.target, protos.BUCKETLESS) as client:
        assert eventually(lambda: succeeds(lambda: client.write("k", b"x")), "a free place")
        assert client.keys(prefix="half/") == []


def test_a_stalled_read_is_dropped_and_does_not_look_complete(impatient: Server) -> None:
    with stalled(impatient) as streams, Client(impatient.target, protos.BUCKETLESS) as client:
        calls = [streams.read() for _ in range(4)]
        # All of them: one that was taken from before the server gave it up would go on.
        eventually(lambda: not payloads_open(impatient), "the end of every read", 30)
        assert succeeds(lambda: client.read("big", start=0, end=0)), "a free place"
        for call in calls:
            chunks: list[Any] = []
            status = status_of(lambda call=call, chunks=chunks: chunks.extend(call))
            assert status in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
            assert sum(len(chunk.data) for chunk in chunks) < BIG


def test_a_slow_stream_that_makes_progress_is_kept(impatient: Server) -> None:
    """Each pause is below the limit and all of them together are well above it."""
    with Client(impatient.target, protos.BUCKETLESS, *SMALL_WINDOW) as client:

        def slow() -> Iterator[Any]:
            yield client.open_frame("slow")
            for _ in range(12):
                time.sleep(0.25)
                yield client.data_frame(b"x" * 1000)

        upload = client.upload(slow())
        taken = 0
        for chunk in client.read_stream("big"):
            taken += len(chunk.data)
            time.sleep(0.1)
        assert taken == BIG
        assert upload.result().meta.size == 12_000
        assert client.head("slow").size == 12_000


def test_a_gibibyte_is_written_and_read_in_little_memory() -> None:
    gibibyte = 1024 * MIB
    with Server() as server, Client(server.target, protos.BUCKETLESS) as client:
        base = bytearray(bytes(range(256)) * (MIB // 256))
        digest = blake3.blake3()

        def requests() -> Iterator[Any]:
            yield client.open_frame("huge")
            for number in range(gibibyte // MIB):
                base[:8] = number.to_bytes(8)
                digest.update(base)
                yield client.data_frame(bytes(base))

        meta = client.upload(requests(), timeout=300).result().meta
        assert meta.size == gibibyte
        assert meta.etag.strip('"') == digest.hexdigest()
        seen, taken = blake3.blake3(), 0
        stream = client.read_stream("huge", timeout=300)
        assert next(stream).meta.size == gibibyte
        for chunk in stream:
            seen.update(chunk.data)
            taken += len(chunk.data)
        assert taken == gibibyte
        assert seen.digest() == digest.digest()
        assert peak_resident_bytes(server.pid) < 250_000_000
        server.stop()


def test_hundreds_of_calls_at_once_are_all_answered() -> None:
    """Unary calls wait in a queue instead of being refused."""
    with Server() as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("k", b"x")
        request = client.pb.HeadObjectRequest(ref=client.ref("k"))
        calls = [client.stubs["HeadObject"].future(request, timeout=60) for _ in range(400)]
        assert [call.result().meta.size for call in calls] == [1] * 400
        server.stop()
