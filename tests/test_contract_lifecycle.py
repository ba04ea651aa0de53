"""Conformance cases 1 to 11 (contract section 5, Lifecycle) against `gestalt-cas provider` under a simulated host.

The provider is started as contract 2.2 and 2.3 describe: a socket path in the environment, a scrubbed rest, no line on
stdout to wait for.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from wire import protos
from wire.client import Client, Lifecycle, eventually, refused
from wire.process import PROVIDER, SDK_RUN, SDK_RUNTIME, Hosted

S3_KIND = 7
HOST_STOP_SECONDS = 2.0
"""What a host waits after SIGTERM before it kills (contract 2.4)."""
RETRYABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
LAUNCHERS = {"own": PROVIDER, "sdk-runtime": SDK_RUNTIME}
if Path(SDK_RUN[0]).exists():
    LAUNCHERS["sdk-run"] = SDK_RUN


@pytest.fixture(scope="module", name="provider")
def provider_fixture() -> Iterator[Hosted]:
    with Hosted() as provider:
        yield provider
        provider.stop()


@pytest.fixture(name="lifecycle")
def lifecycle_fixture(provider: Hosted) -> Iterator[Lifecycle]:
    with lifecycle_of(provider) as lifecycle:
        yield lifecycle


@contextmanager
def lifecycle_of(provider: Hosted) -> Iterator[Lifecycle]:
    lifecycle = Lifecycle(provider.target)
    try:
        yield lifecycle
    finally:
        lifecycle.close()


@contextmanager
def fresh(
    command: Sequence[str] = PROVIDER, *, configure: bool = True, version: int = 5
) -> Iterator[tuple[Hosted, Lifecycle, Client]]:
    """A provider of its own, configured (unless told otherwise) on a data directory in its home."""
    with Hosted(command) as provider, lifecycle_of(provider) as lifecycle:
        if configure:
            lifecycle.configure({"dataDir": str(provider.host_home / "data")}, version=version)
        with Client(provider.target, protos.BUCKETLESS) as client:
            yield provider, lifecycle, client


class OpenStreams:
    """Reads that are not consumed and uploads that do not go on, each known to have begun."""

    def __init__(self, client: Client, reads: int, writes: int, key: str = "big") -> None:
        self.calls: list[Any] = []
        self.closing = threading.Event()
        self.channels: list[Client] = []
        for _ in range(reads):
            # A connection of its own, so that the stalled stream cannot use up the window of another.
            reader = Client(client.target, client.pb, ("grpc.http2.bdp_probe", 0))
            self.channels.append(reader)
            call = reader.read_stream(key)
            assert next(call).WhichOneof("result") == "meta"
            assert next(call).WhichOneof("result") == "data"
            self.calls.append(call)
        begun = [threading.Event() for _ in range(writes)]
        for number, event in enumerate(begun):
            self.calls.append(client.upload(self._half_open(client, f"half-{number}", event)))
        assert all(event.wait(30) for event in begun)

    def _half_open(self, client: Client, key: str, begun: threading.Event) -> Iterator[Any]:
        yield client.open_frame(key)
        yield client.data_frame(b"x" * 65536)
        begun.set()
        self.closing.wait(60)

    def close(self) -> None:
        for call in self.calls:
            call.cancel()
        self.closing.set()
        for channel in self.channels:
            channel.close()


@contextmanager
def open_streams(client: Client, reads: int, writes: int) -> Iterator[OpenStreams]:
    client.write("big", bytes(range(256)) * 65536)
    streams = OpenStreams(client, reads, writes)
    try:
        yield streams
    finally:
        streams.close()


def soonest(attempt: Callable[[], float]) -> float:
    """The least of up to four tries: a busy machine slows one, a provider that waits for its streams slows all."""
    took = attempt()
    for _ in range(3):
        if took < HOST_STOP_SECONDS:
            break
        took = min(took, attempt())
    return took


def test_case_001_identity_before_configure() -> None:
    with fresh(configure=False) as (_, lifecycle, _client):
        identity = lifecycle.identity()
    assert identity.kind == S3_KIND
    assert identity.min_protocol_version == 2
    assert identity.max_protocol_version == 5
    assert identity.name
    assert identity.version


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_case_002_configure_echoes_the_requested_version(lifecycle: Lifecycle, tmp_path: Path, version: int) -> None:
    assert lifecycle.configure({"dataDir": str(tmp_path / "d")}, version=version).protocol_version == version


@pytest.mark.parametrize("version", [-1, 0, 1, 6, 2**31 - 1])
def test_case_003_unsupported_version_is_a_failed_precondition(
    lifecycle: Lifecycle, tmp_path: Path, version: int
) -> None:
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "version"):
        lifecycle.configure({"dataDir": str(tmp_path / "d")}, version=version)
    assert not (tmp_path / "d").exists()


def test_case_004_identity_after_configure(lifecycle: Lifecycle, tmp_path: Path) -> None:
    lifecycle.configure({"dataDir": str(tmp_path / "d")})
    identity = lifecycle.identity()
    assert identity.kind == S3_KIND
    assert (identity.min_protocol_version, identity.max_protocol_version) == (2, 5)


def test_case_005_health_check_is_ready_after_configure(lifecycle: Lifecycle, tmp_path: Path) -> None:
    lifecycle.configure({"dataDir": str(tmp_path / "d")})
    assert lifecycle.health().ready


def test_health_check_before_configure_answers_without_claiming_to_be_ready() -> None:
    with fresh(configure=False) as (_, lifecycle, _client):
        health = lifecycle.health()
    assert not health.ready
    assert "configur" in health.message.lower()


@pytest.mark.parametrize("version", [3, 5])
def test_case_006_start_provider_twice(lifecycle: Lifecycle, tmp_path: Path, version: int) -> None:
    lifecycle.configure({"dataDir": str(tmp_path / "d")}, version=version)
    assert lifecycle.start().protocol_version == version
    assert lifecycle.start().protocol_version == version


def test_case_007_s3_before_configure_is_refused_and_the_process_stays() -> None:
    with fresh(configure=False) as (provider, lifecycle, client):
        for call in (
            lambda: client.head("k"),
            lambda: client.read("k"),
            lambda: client.write("k", b"x"),
            lambda: client.delete("k"),
            client.list,
            lambda: client.copy("k", "l"),
        ):
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "configur"):
                call()
        assert provider.alive()
        lifecycle.configure({"dataDir": str(provider.host_home / "data")})
        client.write("k", b"x")
        assert client.body("k") == b"x"


BAD_CONFIGS = {
    "an unknown key": ({"dataDirectory": "x"}, "dataDirectory"),
    "an unknown nested key": ({"limits": {"streams": 3}}, "streams"),
    "a number for a text": ({"dataDir": 7}, "dataDir"),
    "null within a list": ({"bucket": [None]}, "bucket"),
    "text for an object": ({"limits": "many"}, "limits"),
    "a fraction for an integer": ({"limits": {"concurrentReads": 1.5}}, "concurrentReads"),
    "a boolean for a number": ({"limits": {"concurrentReads": True}}, "concurrentReads"),
    "a negative number": ({"limits": {"concurrentWrites": -1}}, "concurrentWrites"),
    "infinity": ({"limits": {"maxObjectBytes": float("inf")}}, "maxObjectBytes"),
    "not a number": ({"limits": {"streamIdleSeconds": float("nan")}}, "streamIdleSeconds"),
    "a word outside the choices": ({"versioning": "off"}, "versioning"),
    "a bucket with a slash": ({"bucket": "a/b"}, "bucket"),
    "a NUL in a path": ({"dataDir": "a\0b"}, "dataDir"),
    "a directory that cannot be made": ({"dataDir": "/dev/null/store"}, "dataDir"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_case_008_bad_config_is_named_and_a_later_good_one_works(
    lifecycle: Lifecycle, provider: Hosted, tmp_path: Path, case: str
) -> None:
    config, key = BAD_CONFIGS[case]
    with pytest.raises(grpc.RpcError) as caught:
        lifecycle.configure({"dataDir": str(tmp_path / "d"), **config})
    assert caught.value.code() not in RETRYABLE
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION), caught.value
    assert key in caught.value.details()
    assert lifecycle.configure({"dataDir": str(tmp_path / "d")}).protocol_version == 5
    with Client(provider.target, protos.BUCKETLESS) as client:
        client.write("k", case.encode())
        assert client.body("k") == case.encode()


def test_bad_config_leaves_the_earlier_configuration_in_force(
    lifecycle: Lifecycle, provider: Hosted, tmp_path: Path
) -> None:
    lifecycle.configure({"dataDir": str(tmp_path / "d")})
    with Client(provider.target, protos.BUCKETLESS) as client:
        client.write("k", b"kept")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "versioning"):
            lifecycle.configure({"dataDir": str(tmp_path / "e"), "versioning": "off"})
        assert client.body("k") == b"kept"
    assert lifecycle.health().ready


def test_configure_takes_integral_floats_and_every_documented_key(lifecycle: Lifecycle, tmp_path: Path) -> None:
    config = {
        "dataDir": str(tmp_path / "d"),
        "bucket": "assets",
        "keyPrefix": "pre/",
        "versioning": "suspended",
        "limits": {
            "maxObjectBytes": 2.0**40,
            "maxStagingBytes": 2.0**40,
            "minFreeBytes": 0.0,
            "streamIdleSeconds": 300.0,
            "concurrentReads": 16.0,
            "concurrentWrites": 16.0,
        },
        "blobs": {"inlineMaxBytes": 0.0},
    }
    assert lifecycle.configure(config).protocol_version == 5
    assert lifecycle.health().ready


def test_null_counts_as_absent(lifecycle: Lifecycle, provider: Hosted, tmp_path: Path) -> None:
    """Hosts send what YAML has: a key without a value arrives as null."""
    config = {"dataDir": str(tmp_path / "d"), "bucket": None, "limits": None, "blobs": {"inlineMaxBytes": None}}
    lifecycle.configure(config)
    with Client(provider.target, protos.BUCKETED) as client:
        client.write("k", b"x")
        assert client.body("k", bucket="default") == b"x"


def test_configure_again_replaces_the_state(lifecycle: Lifecycle, provider: Hosted, tmp_path: Path) -> None:
    with Client(provider.target, protos.BUCKETLESS) as client:
        lifecycle.configure({"dataDir": str(tmp_path / "one")})
        client.write("k", b"one")
        lifecycle.configure({"dataDir": str(tmp_path / "two")})
        assert not client.exists("k")
        client.write("k", b"two")
        lifecycle.configure({"dataDir": str(tmp_path / "one")})
        assert client.body("k") == b"one"
        lifecycle.configure({"dataDir": str(tmp_path / "one"), "bucket": "other"})
        assert not client.exists("k")
        lifecycle.configure({"dataDir": str(tmp_path / "one"), "bucket": "default"})
        assert client.body("k") == b"one"


def test_configure_during_an_upload_never_mixes_two_stores(
    lifecycle: Lifecycle, provider: Hosted, tmp_path: Path
) -> None:
    """The upload lands whole in one of the two stores or is refused; none of them gets a torn object."""
    begun, go_on = threading.Event(), threading.Event()

    def body(client: Client) -> Iterator[Any]:
        yield client.open_frame("k")
        yield client.data_frame(b"first ")
        begun.set()
        assert go_on.wait(60)
        yield client.data_frame(b"second")

    lifecycle.configure({"dataDir": str(tmp_path / "one")})
    with Client(provider.target, protos.BUCKETLESS) as client:
        call = client.upload(body(client))
        assert begun.wait(30)
        lifecycle.configure({"dataDir": str(tmp_path / "two")})
        go_on.set()
        refusal = call.exception()
        found = []
        for name in ("one", "two"):
            lifecycle.configure({"dataDir": str(tmp_path / name)})
            if client.exists("k"):
                found.append(client.body("k"))
        assert found == ([b"first second"] if refusal is None else [])
        if refusal is not None:
            assert refusal.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_case_009_sigterm_when_idle_exits_0_within_two_seconds(launcher: str) -> None:
    def stop() -> float:
        with fresh(LAUNCHERS[launcher]) as (provider, _, client):
            client.write("k", b"x")
            took = provider.stop()
            assert not provider.socket.exists()
            return took

    assert soonest(stop) < HOST_STOP_SECONDS


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_case_010_sigterm_with_an_open_read_and_an_idle_write_exits_within_two_seconds(launcher: str) -> None:
    def stop() -> float:
        with fresh(LAUNCHERS[launcher]) as (provider, lifecycle, client), open_streams(client, 1, 1):
            assert lifecycle.health().ready
            return provider.stop()

    assert soonest(stop) < HOST_STOP_SECONDS


def test_sigint_with_open_streams_exits_as_sigterm_does() -> None:
    def stop() -> float:
        with fresh() as (provider, _, client), open_streams(client, 2, 2):
            return provider.stop(signum=signal.SIGINT)

    assert soonest(stop) < HOST_STOP_SECONDS


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_case_011_eight_blocked_streams_do_not_delay_head(launcher: str) -> None:
    with fresh(LAUNCHERS[launcher]) as (provider, lifecycle, client), open_streams(client, 8, 8):
        assert client.head("big").size == 2**24
        client.write("small", b"x")
        assert client.body("small") == b"x"
        assert lifecycle.health().ready
        with ThreadPoolExecutor(16) as pool:
            heads = list(pool.map(lambda _: client.head("small").size, range(64)))
        assert heads == [1] * 64
        assert provider.alive()


@pytest.mark.parametrize("era", ["PROVIDER", "PLUGIN"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_whole_sequence_of_a_host_of_either_era(launcher: str, era: str) -> None:
    """Contract 2.2: identity, configure, identity, health; then objects; then SIGTERM."""
    version = 5 if era == "PROVIDER" else 3
    with Hosted(LAUNCHERS[launcher], era=era) as provider, lifecycle_of(provider) as lifecycle:
        grpc.channel_ready_future(lifecycle.channel).result(45)
        identity = lifecycle.identity()
        assert identity.kind == S3_KIND
        assert identity.min_protocol_version <= version <= identity.max_protocol_version
        config = {"dataDir": str(provider.host_home / "data"), "bucket": "assets"}
        assert lifecycle.configure(config, version=version).protocol_version == version
        assert lifecycle.identity().kind == S3_KIND
        assert lifecycle.health().ready
        generation = protos.BUCKETLESS if era == "PROVIDER" else protos.BUCKETED
        with Client(provider.target, generation) as client:
            client.write("plugin_4_docs/a", b"body", content_type="text/plain")
            meta, parts = client.read("plugin_4_docs/a")
            assert (meta.content_type, b"".join(parts)) == ("text/plain", b"body")
            assert client.keys(prefix="plugin_4_docs/") == ["plugin_4_docs/a"]
        provider.stop()
        assert not provider.socket.exists()


def test_a_config_left_out_is_an_empty_one() -> None:
    """Hosts send no Struct at all for an entry without config; the store then lies in the user's data folder."""
    with fresh(configure=False) as (provider, lifecycle, client):
        request = lifecycle.pb.ConfigureProviderRequest(name="assets", protocol_version=4)
        assert lifecycle.stubs["ConfigureProvider"](request, timeout=60).protocol_version == 4
        client.write("k", b"x")
        found = [path for path in provider.host_home.rglob("metadata.sqlite3") if "assets" in str(path)]
        assert len(found) == 1, "one data directory, under HOME, named for the provider"


def test_lifecycle_rpcs_answer_while_objects_are_written(
    lifecycle: Lifecycle, provider: Hosted, tmp_path: Path
) -> None:
    lifecycle.configure({"dataDir": str(tmp_path / "d")})
    with Client(provider.target, protos.BUCKETLESS) as client, ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(client.write, f"k{number}", b"x" * 300_000) for number in range(24)]
        eventually(lambda: lifecycle.health().ready and all(write.done() for write in writes), "all writes", 60)
        assert [write.result().size for write in writes] == [300_000] * 24
