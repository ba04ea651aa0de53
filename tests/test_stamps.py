"""A fixed clock and seeded ids: two runs of the same calls answer byte for byte alike, and nothing else changes.

The runs are served and recorded over sockets, from both generations of clients and from presigned URLs. `clock` and
`versionIds` are for tests on one machine, so whatever other machines can reach makes them refused.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from gestalt_cas import Store, request_ids
from gestalt_cas.clock import now_ms
from gestalt_cas.configuration.config import parse
from gestalt_cas.errors import ClockSuspect, InvalidConfig
from gestalt_cas.keeping import pins
from gestalt_cas.rows import version_ids
from gestalt_cas.server import Provider
from gestalt_cas.serving.targets import Target
from presigned import until_closed
from storage import put
from wire import protos
from wire.client import Client, Lifecycle, refused
from wire.process import PROVIDER, SDK_RUNTIME, Hosted, Server, command_line

CLOCK = "clock=fixed:2026-01-01T00:00:00.250Z"
FIXED_MS = 1_767_225_600_250
SEED = "versionIds=seeded:7"
DATE = b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
SHARED = (
    "http.publicUrl=http://localhost",
    "signing.accessKeyId=AKID",
    "signing.secretAccessKey=secret",
)
"""What makes URLs alike whose server has another port and made its own keys."""
METADATA = {f"name-{number}": f"value {number}" for number in range(24)}
"""Enough for protobuf to put them in another order in each process, if it may."""


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are made for the whole process: what a test sets here ends with it."""
    monkeypatch.setattr(version_ids, "seed", None)
    monkeypatch.setattr(request_ids, "unsent", "")


class Recorder(Client):
    """A client that keeps the bytes of every message it gets, and the status of every call that fails."""

    def __init__(self, target: str, generation: SimpleNamespace) -> None:
        super().__init__(target, generation)
        self.recorded: list[bytes] = []
        multi = {"ReadObject": self.channel.unary_stream, "WriteObject": self.channel.stream_unary}
        for method, (request, response) in protos.METHODS.items():
            self.stubs[method] = multi.get(method, self.channel.unary_unary)(
                protos.S3 + method,
                request_serializer=getattr(generation, request).SerializeToString,
                response_deserializer=self._kept(getattr(generation, response).FromString),
            )

    def failed(self, call: Callable[[], object]) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        self.recorded.append(f"{caught.value.code()}: {caught.value.details()}".encode())

    def _kept(self, parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def take(raw: bytes) -> Any:
            self.recorded.append(raw)
            return parse(raw)

        return take


def every_call(client: Recorder) -> Iterator[Any]:
    """Each of the seven calls, refusals among them; yields the metas of the objects that were answered."""
    prefix = "old/" if client.pb.bucketed else "new/"
    first = client.write(f"{prefix}a", b"one" * 100_000, content_type="text/plain", metadata=METADATA)
    second = client.write(f"{prefix}a", b"two")
    yield from (first, second, client.copy(f"{prefix}a", f"{prefix}sub/copy", source_version=first.ref.version_id))
    yield client.head(f"{prefix}sub/copy")
    yield client.read(f"{prefix}a", version_id=first.ref.version_id, start=5, end=200_000)[0]
    client.failed(lambda: client.write(f"{prefix}a", b"three", if_none_match="*"))
    client.failed(lambda: client.head(f"{prefix}absent"))
    client.failed(lambda: client.read(f"{prefix}a", start=9))
    client.failed(lambda: client.list(continuation_token="no token"))
    client.delete(f"{prefix}a", version_id=second.ref.version_id)
    for number in range(5):
        yield client.write(f"{prefix}k{number}", str(number).encode())
    client.delete(f"{prefix}k0")
    client.failed(lambda: client.head(f"{prefix}k0"))
    for page in client.pages(prefix=prefix, delimiter="/", max_keys=2):
        yield from page.objects


def presign(client: Recorder, name: str, method: int, **fields: Any) -> Any:
    request = client.pb.PresignObjectRequest(ref=client.ref(name), method=method, **fields)
    return client.call("PresignObject", request)


def fetched(server: Server, method: str, url: str, body: bytes = b"", field: str = "") -> bytes:
    """Every byte that the endpoint answers."""
    at, wanted = urlsplit(server.ready["http"]), urlsplit(url)
    head = f"{method} {wanted.path}?{wanted.query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{field}"
    with socket.create_connection((at.hostname or "", at.port or 0), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return until_closed(connection)


def over_http(server: Server, put_url: str, get_url: str, head_url: str, delete_url: str) -> Iterator[bytes]:
    stored = fetched(server, "PUT", put_url, b"by http")
    yield stored
    etag = re.findall(r"\r\nETag: (.*)\r\n", stored.decode())[0]
    yield fetched(server, "GET", get_url)
    yield fetched(server, "GET", get_url, field="Range: bytes=3-\r\nx-request-id: of-the-caller\r\n")
    yield fetched(server, "GET", get_url, field="Range: bytes=70-\r\n")
    yield fetched(server, "GET", get_url, field=f"If-None-Match: {etag}\r\n")
    yield fetched(server, "HEAD", head_url)
    yield fetched(server, "OPTIONS", get_url, field="Origin: http://localhost\r\n")
    yield fetched(server, "GET", get_url.replace("over-http", "else"))
    yield fetched(server, "DELETE", delete_url)
    yield fetched(server, "GET", get_url)
    yield fetched(server, "GET", "/default/over-http")


def recorded(*settings: str) -> tuple[list[bytes], list[bytes], list[Any], list[Any]]:
    """A run on a new store: what came over gRPC and HTTP, the metas among it, and the answers to PresignObject."""
    came: list[bytes] = []
    metas: list[Any] = []
    urls: list[Any] = []
    with Server(*SHARED, *settings) as server:
        for generation in protos.GENERATIONS.values():
            with Recorder(server.target, generation) as client:
                metas += every_call(client)
                wanted = {f"x-amz-meta-{name}": text for name, text in METADATA.items()}
                urls += [presign(client, "up", 2, content_type="text/plain", headers=wanted)]
                urls += [presign(client, "over-http", method) for method in (2, 1, 4, 3)]
                came += client.recorded
        answers = list(over_http(server, *(url.url for url in urls[-4:])))
        server.stop()
        assert server.stderr.count("FOR TESTS ONLY") == int(bool(settings))
    return came, answers, metas, urls


def test_two_runs_answer_byte_for_byte_alike() -> None:
    first, answers, metas, urls = recorded(CLOCK, SEED)
    second, others, _, _ = recorded(CLOCK, SEED)
    assert len(first) > 50
    assert first == second
    assert answers == others
    assert {meta.last_modified.ToMilliseconds() for meta in metas} == {FIXED_MS}
    assert {url.expires_at.ToMilliseconds() for url in urls} == {FIXED_MS - 250 + 900_000}
    # GET although the URL expired long ago by the machine's clock.
    assert [int(answer[9:12]) for answer in answers] == [200, 200, 206, 416, 304, 200, 403, 403, 204, 404, 403]
    assert [answer.count(DATE) for answer in answers] == [1] * len(answers)
    assert answers[1].endswith(b"\r\n\r\nby http")
    assert answers[1].count(b"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n") == 1
    given = [b"x-amz-request-id: of-the-caller\r\n" in answer for answer in answers]
    made = [b"x-amz-request-id: 0000000000000000\r\n" in answer for answer in answers]
    assert (given.count(True), made.count(True)) == (1, len(answers) - 1)
    assert b"".join(first).count(b"(request 0000000000000000)") == 10


def test_each_key_does_its_own_part_and_without_them_everything_is_as_ever() -> None:
    """What the runs above have in common is due to the keys: without one of them its part differs."""

    def ids(metas: list[Any]) -> set[str]:
        return {meta.ref.version_id for meta in metas}

    begun = now_ms()
    plain, answers, unlike, _ = recorded()
    _, _, seeded, _ = recorded("versionIds=seeded:8")
    assert min(meta.last_modified.ToMilliseconds() for meta in seeded + unlike) >= begun
    assert not ids(seeded) & ids(unlike)
    assert not any(DATE in answer for answer in answers)
    made = re.findall(rb"\(request ([0-9a-f]{16})\)", b"\n".join(plain))
    made += re.findall(rb"x-amz-request-id: ([0-9a-f]{16})\r\n", b"".join(answers))
    assert len(set(made)) == len(made) > 15


# ---- ids and dates ----


def test_seeded_ids_depend_on_the_sequence_and_not_on_threads(tmp_path: Path) -> None:
    version_ids.seed = 7

    def run(name: str) -> tuple[dict[int, str], set[int]]:
        with Store.open(tmp_path / name) as store, ThreadPoolExecutor(8) as pool:
            store.stand_at(FIXED_MS)
            made = list(pool.map(lambda number: put(store, f"k{number}", b"x"), range(40)))
            return {version.seq: version.version_id for version in made}, {version.modified_ms for version in made}

    first, second = run("a"), run("b")
    assert first == second
    assert first[1] == {FIXED_MS}
    assert len(set(first[0].values())) == 40


def test_a_store_opened_twice_with_one_seed_gives_no_id_twice(tmp_path: Path) -> None:
    version_ids.seed = 7
    made = []
    with Store.open(tmp_path / "d") as store, Store.open(tmp_path / "d") as other:
        for number in range(10):
            made += [put(store, f"k{number}", b"x"), put(other, f"k{number}", b"y")]
    with Store.open(tmp_path / "d") as again:
        made += [put(again, "k", b"z")]
        version_ids.seed = None
        made += [put(again, "k", b"random again")]
        assert len({version.version_id for version in made}) == len(made)
        for version in made:
            assert again.head(version.key, version_id=version.version_id).seq == version.seq
        assert again.check().clean


def test_the_random_part() -> None:
    def parts(seed: int | None, first: int, number: int) -> list[str]:
        version_ids.seed = seed
        made = version_ids.new(first, number)
        assert [version_ids.seq_of(one) for one in made] == list(range(first, first + number))
        return [one[10:] for one in made]

    assert parts(7, 1, 3) == [*parts(7, 1, 1), *parts(7, 2, 2)]
    several = [*parts(7, 1, 3), *parts(71, 1, 3), *parts(7, 11, 3), *parts(None, 1, 3), *parts(None, 1, 3)]
    assert len(set(several)) == len(several)


def test_a_fixed_clock_never_dates_a_change_before_the_last_one(tmp_path: Path) -> None:
    with Store.open(tmp_path / "d") as store:
        before = put(store, "k", b"one")
        store.stand_at(FIXED_MS)
        assert put(store, "k", b"two").modified_ms == before.modified_ms > FIXED_MS
        later = before.modified_ms + 2 * 86_400_000
        store.stand_at(later)
        assert put(store, "k", b"three").modified_ms == later
        store.stand_at(None)
        assert put(store, "k", b"four").modified_ms == later


@pytest.mark.parametrize("days", [-300, 300])
def test_a_store_from_such_tests_loses_nothing_by_its_age_until_somebody_says_that_it_may(
    tmp_path: Path, days: int
) -> None:
    with Store.open(tmp_path / "d") as store:
        store.stand_at(now_ms() + days * 86_400_000)
        put(store, "k", b"data")
    with Store.open(tmp_path / "d") as store:
        store.change_settings({"retention.rules": {"default": {"expireDays": 1}}})
        for remove in (store.apply_retention, lambda: store.collect_garbage(grace_seconds=60)):
            with pytest.raises(ClockSuspect, match="gestalt-cas doctor --accept-clock"):
                remove()


def test_what_processes_tell_each_other_keeps_the_machines_clock(tmp_path: Path) -> None:
    """Pins of other processes stand, and the note of the last collection has the real time."""
    with Store.open(tmp_path / "d") as store:
        store.stand_at(FIXED_MS)
        version = put(store, "k", b"data")
        store.delete(version.key, version_id=version.version_id)
        with store._database.write() as tx:
            pins.place(tx, "p", "backup", now_ms(), {})
        assert store.collect_garbage().pinned_by == ("p",)
        note = store.recall("gc.last")
        assert isinstance(note, dict)
        assert note["at_ms"] > FIXED_MS
        with store._database.write() as tx:
            assert pins.drop(tx, "p")
        assert store.collect_garbage().files == 1


# ---- who may have them ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--grpc", "tcp://0.0.0.0:0", "--allow-unauthenticated", "--set", CLOCK), ("clock: ", "tcp://0.0.0.0:0")),
        (("--http", "0.0.0.0:0", "--set", SEED, "--set", CLOCK), ("clock and versionIds: ", "http.listen", "loopback")),
    ],
)
def test_serve_refuses(tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = command_line("serve", "--data-dir", str(tmp_path / "d"), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", ["clock", "versionIds"])
def test_no_store_keeps_them(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / "d") as store, pytest.raises(InvalidConfig, match=name):
        store.change_settings({name: "fixed:2026-01-01T00:00:00Z" if name == "clock" else "seeded:1"})


SOCKET = Target(path="/run/s")
REACHED = Target(host="10.0.0.1", port=1)
BOTH = {"clock": "fixed:2026-01-01T00:00:00Z", "versionIds": "seeded:1"}
OFF = {"enabled": False}


@pytest.mark.parametrize("keys", [{"clock": BOTH["clock"]}, {"versionIds": BOTH["versionIds"]}, BOTH])
@pytest.mark.parametrize(
    ("target", "given", "where"),
    [
        (None, {"http": OFF}, "where gRPC listens is not known"),
        (REACHED, {"http": OFF}, "gRPC listens at tcp://10.0.0.1:1"),
        (Target(host="::", port=0), {}, r"gRPC listens at tcp://\[::\]:0"),
        (Target(host="example.com", port=1), {}, "gRPC listens at tcp://example.com:1"),
        (SOCKET, {"http": {"listen": "0.0.0.0:0"}}, "http.listen is 0.0.0.0:0"),
        (SOCKET, {"http": {"listen": "[::]:9"}}, "http.listen is :::9"),
        (SOCKET, {"http": {**OFF, "listen": "0.0.0.0:0"}, "telemetry": {"metrics": "everyone"}}, "http.listen is"),
        (SOCKET, {"http": {"publicUrl": "https://files.example.com"}}, "http.publicUrl is https://files.example.com"),
        (SOCKET, {"http": {"publicUrl": "http://[2001:db8::1]:8080"}}, "http.publicUrl is"),
    ],
)
def test_whatever_others_can_reach_makes_them_refused(
    tmp_path: Path, target: Target | None, given: dict[str, Any], where: str, keys: dict[str, str]
) -> None:
    provider = Provider(target)
    with pytest.raises(InvalidConfig, match=f"^{' and '.join(keys)}: .*, but {where}"):
        provider.configure(parse({"dataDir": str(tmp_path / "d"), **given, **keys}))
    assert provider.mounts.present is None
    assert (version_ids.seed, request_ids.unsent) == (None, "")


@pytest.mark.parametrize(
    ("target", "given"),
    [
        (SOCKET, {}),
        (Target(host="127.0.0.1", port=1), {"http": {"listen": "[::1]:0", **OFF}}),
        (Target(host="localhost", port=1), {"http": {"listen": "0.0.0.0:0", **OFF}}),
        (Target(host="::1", port=1), {"http": {"publicUrl": "http://[::1]:8080"}}),
    ],
)
def test_where_only_this_machine_comes_they_are_taken(
    tmp_path: Path, target: Target, given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with configured(Provider(target), {"dataDir": str(tmp_path / "d"), **given, **BOTH}):
        assert (version_ids.seed, request_ids.unsent) == (1, "0" * 16)
        assert "FOR TESTS ONLY: answers are dated by 2026-01-01T00:00:00.000Z, version ids are seeded" in caplog.text


@pytest.mark.parametrize("keys", [{}, {"clock": "system", "versionIds": "random"}])
def test_the_defaults_are_for_everybody(tmp_path: Path, keys: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    given = {"dataDir": str(tmp_path / "d"), "http": {"listen": "0.0.0.0:0", "publicUrl": "https://files.example.com"}}
    with configured(Provider(REACHED), {**given, **keys}) as provider:
        assert provider.mounts.present is not None
        assert provider.mounts.present.packing == {}
        assert (version_ids.seed, request_ids.unsent) == (None, "")
        assert put(provider.mounts.present.store, "k", b"x").modified_ms > FIXED_MS
        assert "TESTS" not in caplog.text


@contextmanager
def configured(provider: Provider, mapping: dict[str, Any]) -> Iterator[Provider]:
    try:
        provider.configure(parse(mapping))
        yield provider
    finally:
        provider.http.stop()
        assert provider.mounts.close(15)


@pytest.mark.parametrize(
    ("text", "target"),
    [("unix:///run/s", SOCKET), ("/run/s", SOCKET), ("tcp://10.0.0.1:1", REACHED), ("", None), ("http://a", None)],
)
def test_under_the_sdks_runtime_the_listener_is_the_hosts(
    monkeypatch: pytest.MonkeyPatch, text: str, target: Target | None
) -> None:
    from gestalt_cas import provider

    for name in ("GESTALT_PROVIDER_SOCKET", "GESTALT_PLUGIN_SOCKET"):
        monkeypatch.setenv(name, text)
    assert provider._target() == target


@pytest.mark.parametrize("command", [PROVIDER, SDK_RUNTIME], ids=["own", "sdk-runtime"])
def test_a_host_can_fix_and_free_them(tmp_path: Path, command: tuple[str, ...]) -> None:
    quiet = {"dataDir": str(tmp_path / "d"), "http": OFF}
    stamps = {"clock": "fixed:2026-01-01T00:00:00.250Z", "versionIds": "seeded:7"}
    with Hosted(command) as hosted, Client(hosted.target, protos.BUCKETLESS) as client:
        lifecycle = Lifecycle(hosted.target)
        lifecycle.configure({**quiet, **stamps})
        fixed = client.write("a")
        assert fixed.last_modified.ToMilliseconds() == FIXED_MS
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "clock and versionIds: ", "http.listen"):
            lifecycle.configure({**quiet, **stamps, "http": {"listen": "0.0.0.0:0"}})
        assert client.write("a").last_modified.ToMilliseconds() == FIXED_MS
        with refused(grpc.StatusCode.NOT_FOUND, "(request 0000000000000000)"):
            client.head("absent")
        lifecycle.configure(quiet)
        assert client.write("a").last_modified.ToMilliseconds() > FIXED_MS
        with refused(grpc.StatusCode.NOT_FOUND) as caught:
            client.head("absent")
        assert "0000000000000000" not in str(caught.value.details())
        lifecycle.close()
        hosted.stop()
