"""Conformance cases 12 to 34 (contract section 5, Write/Head/Read), once per wire generation."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from wire.client import Client, Place, eventually, frames, refused
from wire.fixtures import client_fixture, new_fixture, old_fixture, place_fixture, server_fixture  # noqa: F401
from wire.process import Server

MIB = 2**20
BIG = random.Random(15).randbytes(5 * MIB)
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_case_012_write_echoes_metadata(place: Place) -> None:
    meta = place.write("k", b"hello world", content_type="text/plain", metadata={"Author": "ada", "empty": ""})
    assert meta.ref.key == place.key("k")
    if place.bucketed:
        assert meta.ref.bucket == place.bucket
    assert meta.ref.version_id
    assert meta.size == 11
    assert meta.content_type == "text/plain"
    assert dict(meta.metadata) == {"Author": "ada", "empty": ""}
    assert meta.etag.startswith('"')
    assert meta.etag.endswith('"')
    assert len(meta.etag) > 2
    assert meta.HasField("last_modified")


def test_case_013_head_equals_the_write_result(place: Place) -> None:
    written = place.write("k", b"hello world", content_type="text/plain", metadata={"a": "b"})
    head = place.head("k")
    assert head == written
    modified = head.last_modified.ToDatetime(tzinfo=UTC)
    assert abs(datetime.now(UTC) - modified) < timedelta(minutes=5)


def test_case_014_read_starts_with_meta_and_returns_the_bytes(place: Place) -> None:
    written = place.write("k", b"hello world", content_type="text/plain", metadata={"a": "b"})
    first, *rest = place.read_stream("k")
    assert first.WhichOneof("result") == "meta"
    assert first.meta == written
    assert [chunk.WhichOneof("result") for chunk in rest] == ["data"] * len(rest)
    assert b"".join(chunk.data for chunk in rest) == b"hello world"


def test_case_015_five_mebibytes_in_64_kib_frames_round_trip(place: Place) -> None:
    assert place.write("k", BIG).size == len(BIG)
    assert place.body("k") == BIG


def test_case_016_a_large_read_arrives_in_several_frames_below_4_mib(place: Place) -> None:
    place.write("k", BIG)
    _, parts = place.read("k")
    assert len(parts) > 1
    assert all(0 < len(part) < 4 * MIB for part in parts)
    assert b"".join(parts) == BIG


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, MIB + 65536, 2 * MIB + 1])
def test_sizes_around_the_frame_boundaries_round_trip(place: Place, size: int) -> None:
    body = BIG[:size]
    place.write(f"k{size}", body)
    meta, parts = place.read(f"k{size}")
    assert meta.size == size
    assert all(parts), "no empty data frames (contract 3.4)"
    assert len(parts[0]) <= 65536, "a small read is not held up by a whole chunk (contract 3.1)"
    assert max(map(len, parts)) <= MIB
    assert b"".join(parts) == body


def test_case_017_zero_bytes_by_the_open_frame_alone(place: Place) -> None:
    meta = place.write("k", parts=[], content_type="text/plain")
    assert meta.size == 0
    assert meta.etag
    assert place.head("k") == meta


def test_case_018_zero_bytes_by_an_empty_data_frame(place: Place) -> None:
    assert place.write("k", parts=[b""]).size == 0
    assert place.write("l", parts=[b"", b""]).etag == place.head("k").etag


def test_case_019_a_zero_byte_read_is_one_frame(place: Place) -> None:
    place.write("k")
    only = list(place.read_stream("k"))
    assert len(only) == 1
    assert only[0].WhichOneof("result") == "meta"
    assert only[0].meta.size == 0


def test_case_020_frames_are_joined_in_order(place: Place) -> None:
    place.write("k", parts=[b"he", b"", b"llo"])
    assert place.body("k") == b"hello"


def test_frames_of_any_length_are_joined_in_order(place: Place) -> None:
    """SDK iterables send whatever chunk their caller yields (contract 3.1)."""
    lengths = random.Random(20)
    parts = []
    position = 0
    while position < len(BIG):
        length = lengths.choice([1, 7, 127, 128, 16383, 16384, 65536, 100_000, MIB, 2_097_152])
        parts.append(BIG[position : position + length])
        position += length
    place.write("k", parts=parts)
    assert place.body("k") == BIG


def test_case_021_overwriting_clears_content_type_and_metadata(place: Place) -> None:
    place.write("k", b"one", content_type="text/plain", metadata={"a": "b"})
    first = place.head("k")
    meta = place.write("k", b"two")
    for seen in (meta, place.head("k")):
        assert seen.content_type == ""
        assert dict(seen.metadata) == {}
        assert seen.size == 3
    assert meta.etag != first.etag
    assert meta.ref.version_id != first.ref.version_id
    assert place.body("k") == b"two"


BLANK_KEYS = [" leading", "trailing ", "  both  ", "\ttab", "new\nline", " ", "\u00a0nbsp\u00a0"]


@pytest.mark.parametrize("key", BLANK_KEYS)
def test_case_022_blanks_around_a_key_are_kept(place: Place, key: str) -> None:
    assert place.write(key, key.encode()).ref.key == place.key(key)
    place.write("x" + key.strip(), b"another object")
    assert place.head(key).ref.key == place.key(key)
    assert place.body(key) == key.encode()
    assert place.key(key) in [meta.ref.key for meta in place.list().objects]


NASTY_KEYS = [
    "a ?#+%&=;:@!$'()*,[]",
    "%2e%2e/%2F",
    "../../etc/passwd",
    "/leading/slash",
    "double//slash/",
    ".",
    "..",
    "nul\0inside",
    "ümläut/ß/日本語/🙂",
    "combining e\u0301",
    "bidi \u202e\u200f",
    "back\\slash",
    "quote\"'`",
    "\u0001\u001f\u007f\u0080",
    "\ufeffbom",
    "\uffff\U0010ffff",
]


@pytest.mark.parametrize("key", NASTY_KEYS)
def test_case_023_any_unicode_is_a_key(place: Place, key: str) -> None:
    assert place.write(key, key.encode()).ref.key == place.key(key)
    assert place.head(key).ref.key == place.key(key)
    assert place.body(key) == key.encode()
    assert [meta.ref.key for meta in place.list().objects] == [place.key(key)]
    assert place.copy(key, key + "2").ref.key == place.key(key + "2")
    place.delete(key)
    assert not place.exists(key)
    assert place.body(key + "2") == key.encode()


def test_canonically_equal_keys_are_two_objects(place: Place) -> None:
    place.write("\u00e9", b"composed")
    place.write("e\u0301", b"decomposed")
    assert place.body("\u00e9") == b"composed"
    assert place.body("e\u0301") == b"decomposed"


def test_case_024_keys_that_differ_only_in_case_are_distinct(place: Place) -> None:
    place.write("Key", b"upper")
    place.write("key", b"lower")
    assert place.body("Key") == b"upper"
    assert place.body("key") == b"lower"
    place.delete("Key")
    assert place.body("key") == b"lower"


def test_case_025_one_key_in_two_buckets_is_two_objects_and_the_empty_bucket_works(old: Client, new: Client) -> None:
    for bucket in ("case25-a", "case25-b", ""):
        meta = old.write("case25", bucket.encode(), bucket=bucket)
        assert meta.ref.bucket == bucket
    for bucket in ("case25-a", "case25-b", ""):
        head = old.head("case25", bucket=bucket)
        assert head.ref.bucket == bucket
        assert old.body("case25", bucket=bucket) == bucket.encode()
        listed = old.list(bucket=bucket, prefix="case25")
        assert [(meta.ref.bucket, meta.ref.key) for meta in listed.objects] == [(bucket, "case25")]
    assert new.body("case25") == b"", "a bucketless client sees the default bucket"


def test_case_026_a_first_frame_of_data_is_invalid(place: Place) -> None:
    with refused(INVALID, "open"):
        place.client.send([place.client.data_frame(b"x")])
    with refused(INVALID, "open"):
        place.client.send([place.client.data_frame(b"x"), place.open_frame("k"), place.client.data_frame(b"y")])
    assert not place.exists("k")


def test_case_027_no_frames_at_all_are_invalid(place: Place) -> None:
    with refused(INVALID):
        place.client.send([])


@pytest.mark.parametrize("before", [0, 1, 40])
def test_case_028_a_second_open_is_invalid_and_nothing_is_stored(place: Place, before: int) -> None:
    data = [place.client.data_frame(b"x" * 65536)] * before
    with refused(INVALID, "open"):
        place.client.send([place.open_frame("k"), *data, place.open_frame("k"), place.client.data_frame(b"y")])
    with refused(INVALID, "open"):
        place.client.send([place.open_frame("k"), *data, place.open_frame("other")])
    assert not place.exists("k")
    assert not place.exists("other")


def test_a_frame_with_neither_open_nor_data_is_invalid_and_nothing_is_stored(place: Place) -> None:
    empty = place.pb.WriteObjectRequest()
    with refused(INVALID):
        place.client.send([empty, place.open_frame("k")])
    with refused(INVALID):
        place.client.send([place.open_frame("k"), place.client.data_frame(b"x"), empty])
    assert not place.exists("k")


@pytest.mark.parametrize("previous", [None, b"previous"])
def test_case_029_a_cancelled_upload_changes_nothing(place: Place, server: Server, previous: bytes | None) -> None:
    if previous is not None:
        place.write("k", previous)
    blocked = threading.Event()

    def unfinished() -> Iterator[Any]:
        yield place.open_frame("k", content_type="text/plain")
        for part in frames(BIG[: 2 * MIB]):
            yield place.client.data_frame(part)
        blocked.wait(60)

    call = place.client.upload(unfinished())
    eventually(lambda: server.staged_bytes() >= MIB, "the upload on its way")
    call.cancel()
    blocked.set()
    assert call.code() is grpc.StatusCode.CANCELLED
    eventually(lambda: not server.staged(), "the staging file gone")
    if previous is None:
        assert not place.exists("k")
    else:
        assert place.body("k") == previous
        assert place.head("k").content_type == ""


def test_an_upload_whose_body_fails_at_the_client_changes_nothing(place: Place, server: Server) -> None:
    place.write("k", b"previous")

    def broken() -> Iterator[Any]:
        yield place.open_frame("k")
        yield place.client.data_frame(b"x" * MIB)
        raise OSError("the file could not be read")

    call = place.client.upload(broken())
    assert call.exception() is not None
    eventually(lambda: not server.staged(), "the staging file gone")
    assert place.body("k") == b"previous"


def test_case_030_an_empty_key_is_invalid_on_each_rpc(place: Place) -> None:
    place.write("k", b"x")
    client, bucket = place.client, place.bucket
    for call in (
        lambda: client.head("", bucket=bucket),
        lambda: client.read("", bucket=bucket),
        lambda: client.write("", b"x", bucket=bucket),
        lambda: client.delete("", bucket=bucket),
        lambda: client.copy("", place.key("l"), bucket=bucket),
        lambda: client.copy(place.key("k"), "", bucket=bucket),
    ):
        with refused(INVALID, "key"):
            call()


def test_case_031_a_missing_ref_is_invalid_on_each_rpc(place: Place) -> None:
    pb, call = place.pb, place.client.call
    place.write("k", b"x")
    with refused(INVALID, "key"):
        call("HeadObject", pb.HeadObjectRequest())
    with refused(INVALID, "key"):
        list(call("ReadObject", pb.ReadObjectRequest()))
    with refused(INVALID, "key"):
        place.client.send([pb.WriteObjectRequest(open=pb.WriteObjectOpen()), place.client.data_frame(b"x")])
    with refused(INVALID, "key"):
        call("DeleteObject", pb.DeleteObjectRequest())
    with refused(INVALID, "key"):
        call("CopyObject", pb.CopyObjectRequest(destination=place.ref("l")))
    with refused(INVALID, "key"):
        call("CopyObject", pb.CopyObjectRequest(source=place.ref("k")))
    assert not place.exists("l")


def test_case_032_head_and_read_of_a_missing_object_are_not_found(place: Place) -> None:
    place.write("present", b"x")
    for missing in ("absent", "present/", "presen", "presentt", "PRESENT"):
        with refused(grpc.StatusCode.NOT_FOUND):
            place.head(missing)
        with refused(grpc.StatusCode.NOT_FOUND):
            place.read(missing)


def test_case_033_a_read_closed_early_leaves_the_object_readable(place: Place) -> None:
    body = os.urandom(16 * MIB)
    place.write("k", parts=frames(body, MIB))
    for _ in range(5):
        stream = place.read_stream("k")
        assert next(stream).meta.size == len(body)
        next(stream)
        stream.cancel()
    assert place.body("k") == body


def test_case_034_a_failing_precondition_is_told_only_after_the_half_close(place: Place) -> None:
    """Hosts and the Go SDK lose the status of a stream that ends before they have sent everything (contract 3.5)."""
    place.write("k", b"previous")
    sent, half_close = threading.Event(), threading.Event()

    def large() -> Iterator[Any]:
        yield place.open_frame("k", if_none_match="*")
        for part in frames(BIG * 2, MIB // 2):
            yield place.client.data_frame(part)
        sent.set()
        assert half_close.wait(60)

    call = place.client.upload(large())
    assert sent.wait(30)
    for _ in range(50):
        place.head("k")
        assert not call.done(), "the stream ended before the client did"
    half_close.set()
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        call.result()
    assert place.body("k") == b"previous"


def test_an_invalid_open_is_drained_as_well(place: Place) -> None:
    requests = [place.client.open_frame("", bucket=place.bucket)]
    requests += [place.client.data_frame(part) for part in frames(BIG, MIB // 2)]
    with refused(INVALID, "key"):
        place.client.send(requests)


def test_equal_bytes_have_equal_etags_and_others_do_not(place: Place) -> None:
    first = place.write("a", BIG)
    assert place.write("b", parts=frames(BIG, 1_000_003)).etag == first.etag
    assert place.write("c", BIG[:-1]).etag != first.etag


def test_a_frame_above_four_mebibytes_is_accepted(place: Place) -> None:
    """Later SDK runtimes receive up to 64 MiB in a message, so ours does (contract 3.1)."""
    body = BIG[: 4 * MIB + MIB // 2]
    place.write("k", parts=[body])
    assert place.body("k") == body
    place.write("k", parts=[BIG * 4])
    assert place.head("k").size == 20 * MIB


def test_reads_and_an_overwrite_at_the_same_time_see_one_version_each(place: Place) -> None:
    bodies = [bytes([number]) * (3 * MIB) for number in range(4)]
    place.write("k", bodies[0])
    stream = place.read_stream("k")
    assert next(stream).WhichOneof("result") == "meta"
    for body in bodies[1:]:
        place.write("k", body)
        assert place.body("k") == body
    assert b"".join(chunk.data for chunk in stream) == bodies[0]
