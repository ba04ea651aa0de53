"""Limits, names, the key prefix and the default bucket on the wire (contract section 6)."""

from __future__ import annotations

import base64
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from wire import protos
from wire.client import Client, Place, refused
from wire.fixtures import client_fixture, old_fixture, place_fixture, server_fixture  # noqa: F401
from wire.process import Server

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FAILED = grpc.StatusCode.FAILED_PRECONDITION
MIB = 1 << 20
_HURRY = "from gestalt_cas.contract import uploads; uploads.DRAIN_SECONDS = 1.0"
_SERVE = "from gestalt_cas import cli; sys.argv.insert(1, 'serve'); sys.exit(cli.main())"
HURRIED = [sys.executable, "-c", f"import sys; {_HURRY}; {_SERVE}"]
"""`serve` that drains a refused upload for 1 s instead of 10."""
METADATA_LIMIT = 64 * 1024
HEADERS = ("content_type", "cache_control", "content_disposition", "content_encoding", "content_language")


def test_a_key_of_2048_bytes_works_and_one_more_is_invalid(place: Place) -> None:
    room = 2048 - len(place.prefix)
    for key in ("x" * room, "é" * (room // 2), "🙂" * (room // 4)):
        place.write(key, b"x")
        assert place.head(key).ref.key == place.key(key)
        assert place.names(place.list()) == [key]
        place.copy(key, key)
        place.delete(key)
    for key in ("x" * (room + 1), "é" * (room // 2) + "x" * (room % 2 + 1), "x" * 10_000):
        for call in (
            lambda key=key: place.write(key, b"x"),
            lambda key=key: place.head(key),
            lambda key=key: place.read(key),
            lambda key=key: place.delete(key),
            lambda key=key: place.copy("present", key),
            lambda key=key: place.copy(key, "k"),
        ):
            with refused(INVALID, "2048"):
                call()


def test_a_prefix_longer_than_any_key_lists_nothing(place: Place) -> None:
    place.write("x", b"x")
    page = place.list(prefix="x" * 5000, delimiter="/" * 3000)
    assert not page.objects
    assert not page.has_more


def test_metadata_and_headers_up_to_64_kib_together(place: Place) -> None:
    exact = {"k" * 10: "v" * (METADATA_LIMIT - 10 - len("text/plain"))}
    meta = place.write("k", b"x", metadata=exact, content_type="text/plain")
    assert dict(meta.metadata) == exact
    assert dict(place.head("k").metadata) == exact
    for fields in (
        {"metadata": exact, "content_type": "text/plain+"},
        {"metadata": {"k": "é" * (METADATA_LIMIT // 2)}},
        {"metadata": {str(number): "x" * 100 for number in range(700)}},
        {"cache_control": "x" * (METADATA_LIMIT + 1)},
    ):
        with refused(INVALID, "metadata"):
            place.write("l", b"x", **fields)
    assert not place.exists("l")


@pytest.mark.parametrize("header", HEADERS)
def test_line_breaks_and_nul_in_a_standard_header_are_invalid(place: Place, header: str) -> None:
    for text in ("a\r\nSet-Cookie: x", "a\nb", "a\rb", "\0"):
        with refused(INVALID, header):
            place.write("k", b"x", **{header: text})
    assert not place.exists("k")
    place.write("k", b"x", **{header: 'a b;c="ü"'})


def test_bucket_names(old: Client) -> None:
    for bucket in ("a", "with blank", "..", "ÜPPER", "🙂", "x" * 255, "é" * 127, "a.b_c-d", "%2F"):
        assert old.write("k", bucket.encode(), bucket=bucket).ref.bucket == bucket
        assert old.body("k", bucket=bucket) == bucket.encode()
        assert old.keys(bucket=bucket) == ["k"]
    for bucket in ("a/b", "/", "a\nb", "\0", "\x7f", "x" * 256, "é" * 128):
        for call in (
            lambda bucket=bucket: old.write("k", b"x", bucket=bucket),
            lambda bucket=bucket: old.head("k", bucket=bucket),
            lambda bucket=bucket: old.read("k", bucket=bucket),
            lambda bucket=bucket: old.delete("k", bucket=bucket),
            lambda bucket=bucket: old.list(bucket=bucket),
            lambda bucket=bucket: old.copy("k", "k", bucket="a", to_bucket=bucket),
            lambda bucket=bucket: old.copy("k", "k", bucket=bucket, to_bucket="a"),
        ):
            with refused(INVALID, "bucket"):
                call()


def test_the_empty_bucket_and_the_default_buckets_name_are_one(server: Server, old: Client) -> None:
    with Client(server.target, protos.BUCKETLESS) as new:
        new.write("shared/1", b"bucketless")
        assert old.write("shared/2", b"empty").ref.bucket == ""
        assert old.write("shared/3", b"named", bucket="default").ref.bucket == "default"
        for number, body in enumerate((b"bucketless", b"empty", b"named"), 1):
            key = f"shared/{number}"
            assert new.body(key) == body
            for bucket in ("", "default"):
                assert old.body(key, bucket=bucket) == body
                assert old.head(key, bucket=bucket).ref.bucket == bucket
        for bucket in ("", "default"):
            listed = old.list(bucket=bucket, prefix="shared/").objects
            assert [(meta.ref.bucket, meta.ref.key) for meta in listed] == [
                (bucket, f"shared/{number}") for number in (1, 2, 3)
            ]
        with refused(grpc.StatusCode.FAILED_PRECONDITION):
            old.write("shared/1", b"x", bucket="default", if_none_match="*")
        copied = old.copy("shared/1", "shared/4", bucket="", to_bucket="default")
        assert copied.ref.bucket == "default"
        old.delete("shared/1", bucket="default")
        assert not new.exists("shared/1")


def test_a_token_goes_on_whichever_way_the_default_bucket_is_named(server: Server, old: Client) -> None:
    for number in range(3):
        old.write(f"token/{number}", b"x")
    token = old.list(prefix="token/", max_keys=1).next_continuation_token
    rest = old.list(bucket="default", prefix="token/", continuation_token=token)
    assert [meta.ref.key for meta in rest.objects] == ["token/1", "token/2"]


def test_another_default_bucket() -> None:
    with Server("bucket=assets") as server:
        with Client(server.target, protos.BUCKETLESS) as new, Client(server.target, protos.BUCKETED) as old:
            new.write("k", b"x")
            assert old.body("k", bucket="assets") == b"x"
            assert old.body("k") == b"x"
            assert not old.exists("k", bucket="default")
        server.stop()


@pytest.fixture(scope="module", name="prefixed")
def prefixed_fixture() -> Iterator[Server]:
    with Server("keyPrefix=pre/") as server:
        yield server
        server.stop()


@pytest.fixture(params=sorted(protos.GENERATIONS), name="inner")
def inner_fixture(request: pytest.FixtureRequest, prefixed: Server) -> Iterator[Place]:
    with Client(prefixed.target, protos.GENERATIONS[request.param]) as client:
        yield Place(client, request.node.name)


def test_a_key_prefix_is_stripped_from_everything_returned(inner: Place) -> None:
    returned: list[Any] = [inner.write(name, b"x") for name in ("a", "n/1", "n/2", "z")]
    returned += [inner.head("a"), inner.read("a")[0], inner.copy("a", "copy")]
    page = inner.list(delimiter="/")
    returned += page.objects
    assert all(meta.ref.key.startswith(inner.prefix) for meta in returned)
    assert inner.names(page) == ["a", "copy", "z"]
    assert inner.groups(page) == ["n/"]
    assert inner.body("copy") == b"x"
    inner.delete("copy")
    assert not inner.exists("copy")


def test_a_key_prefix_pages_start_after_and_tokens(inner: Place) -> None:
    names = ["a", "n/1", "n/2", "pre", "pre/", "pre/x", "z"]
    for name in names:
        inner.write(name, b"x")
    assert [name for page in inner.pages(max_keys=2) for name in inner.names(page)] == names
    assert inner.names(inner.list(start_after="n/1")) == names[2:]
    assert inner.names(inner.list(prefix="pre")) == ["pre", "pre/", "pre/x"]
    first = inner.list(max_keys=1)
    token = first.next_continuation_token
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert b"pre/" not in raw, "tokens hold positions relative to the prefix"


def test_the_length_limit_counts_the_stored_key(inner: Place) -> None:
    room = 2048 - len("pre/") - len(inner.prefix)
    inner.write("x" * room, b"x")
    assert inner.names(inner.list()) == ["x" * room]
    with refused(INVALID, "2048"):
        inner.write("x" * (room + 1), b"x")
    pb = inner.client.pb
    for length in (room, room + 1):
        request = pb.PresignObjectRequest(ref=inner.client.ref(inner.key("x" * length), bucket=inner.bucket), method=1)
        if length == room:
            assert inner.client.call("PresignObject", request).url
        else:
            with refused(INVALID, "2048"):
                inner.client.call("PresignObject", request)


def test_an_empty_key_is_invalid_under_a_prefix_too(inner: Place) -> None:
    for call in (inner.client.head, inner.client.read, inner.client.write, inner.client.delete):
        with refused(INVALID, "key"):
            call("")


def test_a_key_prefix_is_a_view_of_the_stored_keys(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    with Server("keyPrefix=pre/", data_dir=directory) as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("k", b"inside", if_none_match="*")
    with Server(data_dir=directory) as server, Client(server.target, protos.BUCKETLESS) as client:
        assert client.keys() == ["pre/k"]
        assert client.body("pre/k") == b"inside"
        client.write("outside", b"x")
        client.write("pre", b"x")
        client.write("prez", b"x")
    with Server("keyPrefix=pre/", data_dir=directory) as server, Client(server.target, protos.BUCKETLESS) as client:
        assert client.keys() == ["k"]
        assert not client.exists("outside")
        assert client.list(delimiter="/").common_prefixes == []


def test_an_object_above_the_limit_is_unimplemented_and_leaves_nothing() -> None:
    """The status that upstream gives a size above a provider's limit (contract 3.1)."""
    with Server("limits.maxObjectBytes=100000") as server:
        with Client(server.target, protos.BUCKETLESS) as client:
            client.write("k", b"x" * 100_000)
            with refused(grpc.StatusCode.UNIMPLEMENTED, "maxObjectBytes"):
                client.write("k", b"y" * 100_001)
            with refused(grpc.StatusCode.UNIMPLEMENTED):
                client.write("l", parts=[b"y" * 70_000] * 40)
            assert client.body("k") == b"x" * 100_000
            assert not client.exists("l")
            assert server.staged() == []
        server.stop()


def test_staging_above_its_limit_is_resource_exhausted() -> None:
    with Server("limits.maxStagingBytes=1000000") as server:
        with Client(server.target, protos.BUCKETLESS) as client:
            client.write("k", b"x" * 500_000)
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "maxStagingBytes"):
                client.write("k", b"y" * 3_000_000)
            assert client.body("k") == b"x" * 500_000
            assert server.staged() == []
            client.write("k", b"z" * 900_000)
        server.stop()


def test_no_room_is_resource_exhausted_and_deletes_still_work(tmp_path: Path) -> None:
    """`limits.minFreeBytes` stands in for a full disk: no machine has that much room."""
    directory = tmp_path / "store"
    with Server(data_dir=directory) as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("k", b"x")
    with Server(f"limits.minFreeBytes={2**50}", data_dir=directory) as server:
        with Client(server.target, protos.BUCKETLESS) as client:
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
                client.write("l", b"y" * 100_000)
            assert client.body("k") == b"x"
            client.delete("k")
            assert not client.exists("k")
            assert server.staged() == []
        server.stop()


# ---- how long a refused upload is drained ----


def test_a_refused_upload_is_drained_up_to_256_mib(client: Client) -> None:
    client.write("k", b"before")
    frame, sent = client.data_frame(bytes(MIB)), 0

    def frames() -> Iterator[Any]:
        nonlocal sent
        yield client.open_frame("k", if_none_match="*")
        for sent in range(1, 1001):  # noqa: B007 - the last number is what is asked about
            yield frame

    with refused(FAILED):
        client.send(frames())
    assert 256 <= sent < 400
    assert client.body("k") == b"before"


def test_a_refused_upload_that_goes_on_slowly_is_ended(tmp_path: Path) -> None:
    over, sent = threading.Event(), 0
    with Server(data_dir=tmp_path / "d", program=HURRIED) as server:
        with Client(server.target, protos.BUCKETLESS) as client:

            def frames() -> Iterator[Any]:
                nonlocal sent
                yield client.open_frame("k", if_match="*")
                for sent in range(1, 1001):  # noqa: B007
                    yield client.data_frame(b"x")
                    if over.wait(0.05):
                        return

            with refused(FAILED, "if-match"):
                client.send(frames())
            over.set()
            assert 1 < sent < 1000
            client.write("k", b"its place is free")
        server.stop()


@pytest.mark.parametrize(
    ("setting", "word", "drained"),
    [(f"limits.minFreeBytes={2**50}", "minFreeBytes", False), ('quotas={"default": 1000}', "quota default", True)],
)
def test_on_a_full_disk_nothing_is_drained_but_over_a_quota(setting: str, word: str, drained: bool) -> None:
    """A full disk is told at once; a quota is a refusal like others, of which hosts have to learn the status."""
    sent = 0
    with Server(setting) as server:
        with Client(server.target, protos.BUCKETLESS) as client:
            frame = client.data_frame(bytes(MIB))

            def frames() -> Iterator[Any]:
                nonlocal sent
                yield client.open_frame("k")
                for sent in range(1, 201):  # noqa: B007
                    yield frame

            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, word):
                client.send(frames())
        server.stop()
    assert (sent == 200) is drained
