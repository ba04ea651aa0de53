"""Conformance cases 74 to 82 and 90 to 92 (contract section 5, Copy/Presign), once per wire generation.

Cases 83 to 89 are about URLs: tests/test_contract_presign.py.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from wire.client import Client, Place, refused
from wire.fixtures import client_fixture, old_fixture, place_fixture, server_fixture  # noqa: F401

FAILED = grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND
STALE = '"' + "0" * 64 + '"'


def test_case_074_copy_keeps_body_content_type_and_metadata(place: Place) -> None:
    source = place.write("a", b"body" * 100_000, content_type="text/plain", metadata={"k": "v"})
    meta = place.copy("a", "b")
    assert meta.ref.key == place.key("b")
    if place.bucketed:
        assert meta.ref.bucket == place.bucket
    assert (meta.etag, meta.size) == (source.etag, source.size)
    assert meta.content_type == "text/plain"
    assert dict(meta.metadata) == {"k": "v"}
    assert meta.last_modified.ToNanoseconds() >= source.last_modified.ToNanoseconds()
    assert meta.ref.version_id not in ("", source.ref.version_id)
    assert place.head("b") == meta
    assert place.body("b") == b"body" * 100_000
    assert place.head("a") == source


def test_copy_between_buckets(old: Client) -> None:
    old.write("k", b"x", bucket="copy-from")
    meta = old.copy("k", "k2", bucket="copy-from", to_bucket="copy-to")
    assert (meta.ref.bucket, meta.ref.key) == ("copy-to", "k2")
    assert old.body("k2", bucket="copy-to") == b"x"
    assert not old.exists("k2", bucket="copy-from")


def test_case_075_copy_with_the_etag_of_the_source(place: Place) -> None:
    etag = place.write("a", b"x").etag
    for number, tags in enumerate((etag, etag.strip('"'), "*", f"{STALE}, {etag}", f" {etag} ")):
        place.copy("a", f"b{number}", if_match=tags)
        assert place.body(f"b{number}") == b"x"
    place.copy("a", "c", if_none_match=STALE)
    assert place.body("c") == b"x"


def test_case_076_copy_with_another_if_match(place: Place) -> None:
    etag = place.write("a", b"x").etag
    for tags in (STALE, f"W/{etag}", "other"):
        with refused(FAILED, "if-match"):
            place.copy("a", "b", if_match=tags)
    assert not place.exists("b")


def test_case_077_copy_with_if_none_match_of_the_source(place: Place) -> None:
    etag = place.write("a", b"x").etag
    for tags in (etag, f"W/{etag}", "*"):
        with refused(FAILED, "if-none-match"):
            place.copy("a", "b", if_none_match=tags)
    assert not place.exists("b")


def test_copy_conditions_do_not_look_at_the_destination(place: Place) -> None:
    etag = place.write("a", b"new").etag
    other = place.write("b", b"old").etag
    with refused(FAILED):
        place.copy("a", "b", if_match=other)
    place.copy("a", "b", if_none_match=other)
    assert place.head("b").etag == etag


@pytest.mark.parametrize("conditions", [{}, {"if_match": STALE}, {"if_match": "*"}, {"if_none_match": "*"}])
def test_case_078_copying_a_missing_source_is_not_found(place: Place, conditions: dict[str, str]) -> None:
    with refused(NOT_FOUND):
        place.copy("absent", "b", **conditions)
    assert not place.exists("b")


def test_case_079_copy_replaces_a_stale_destination(place: Place) -> None:
    place.write("a", b"new", content_type="text/plain")
    place.write("b", b"old", content_type="image/png", metadata={"stale": "yes"})
    place.copy("a", "b")
    assert place.body("b") == b"new"
    assert place.head("b").content_type == "text/plain"
    assert dict(place.head("b").metadata) == {}


def test_case_080_copying_onto_itself_works(place: Place) -> None:
    before = place.write("a", b"body", content_type="text/plain", metadata={"k": "v"})
    meta = place.copy("a", "a")
    assert meta.etag == before.etag
    assert dict(meta.metadata) == {"k": "v"}
    assert meta.last_modified.ToNanoseconds() >= before.last_modified.ToNanoseconds()
    assert place.body("a") == b"body"
    assert place.names(place.list()) == ["a"]


def test_case_081_the_copy_outlives_its_source(place: Place) -> None:
    version = place.write("a", b"x" * 300_000).ref.version_id
    place.copy("a", "b")
    place.delete("a")
    assert place.body("b") == b"x" * 300_000
    place.delete("a", version_id=version)
    assert place.body("b") == b"x" * 300_000


def test_case_082_a_source_key_with_url_characters(place: Place) -> None:
    for number, key in enumerate((" ?#+", "a?b#c+d%20e", "%3F", "?versionId=1")):
        place.write(key, key.encode())
        place.copy(key, f"copy{number}")
        assert place.body(f"copy{number}") == key.encode()
        place.copy(f"copy{number}", f"{key}?#+2")
        assert place.body(f"{key}?#+2") == key.encode()


def test_copies_of_one_object_at_the_same_time_all_stand(place: Place) -> None:
    place.write("a", b"x")
    request = place.pb.CopyObjectRequest
    calls = [
        place.client.stubs["CopyObject"].future(
            request(source=place.ref("a"), destination=place.ref(f"c{number}")), timeout=60
        )
        for number in range(32)
    ]
    assert {call.result().meta.ref.key for call in calls} == {place.key(f"c{number}") for number in range(32)}


def test_case_090_returned_keys_keep_the_prefix_of_a_host(place: Place) -> None:
    names = ["plugin_7_roadmap/a", "plugin_7_roadmap/docs/b"]
    returned: list[Any] = [place.write(name, b"x") for name in names]
    returned += [place.head(name) for name in names]
    returned += [place.read(name)[0] for name in names]
    returned.append(place.copy(names[0], "plugin_7_roadmap/c"))
    page = place.list(prefix="plugin_7_roadmap/", delimiter="/")
    returned += page.objects
    assert {place.name(meta.ref.key) for meta in returned} == {*names, "plugin_7_roadmap/c"}
    assert place.groups(page) == ["plugin_7_roadmap/docs/"]
    following = place.list(prefix="plugin_7_roadmap/", start_after="plugin_7_roadmap/a")
    assert place.names(following) == ["plugin_7_roadmap/c", "plugin_7_roadmap/docs/b"]


def test_case_091_metadata_and_timestamps_absent_or_present(place: Place) -> None:
    bare = place.write("bare", b"x")
    full = place.write("full", b"x", metadata={"a": "1", "Ä": "ü 日本 🙂", "": "empty name", "line": "a\r\nb\0"})
    assert dict(bare.metadata) == {}
    assert dict(full.metadata) == {"a": "1", "Ä": "ü 日本 🙂", "": "empty name", "line": "a\r\nb\0"}
    assert dict(place.head("full").metadata) == dict(full.metadata)
    assert bare.HasField("last_modified")
    assert full.HasField("last_modified")
    assert place.body("bare") == b"x"
    assert place.body("bare", modified_since=0) == b"x", "a present timestamp of zero is a date, 1970"
    with refused(FAILED):
        place.read("bare", unmodified_since=0)


def with_unknown_fields(message: Any, *nested: str) -> bytes:
    """The message's bytes with fields of unknown numbers in every wire type, in the `nested` messages too."""
    copy = type(message)()
    copy.CopyFrom(message)
    raw = b""
    for name in nested:
        inner = with_unknown_fields(getattr(copy, name))
        number = message.DESCRIPTOR.fields_by_name[name].number
        raw += bytes([number << 3 | 2]) + _varint(len(inner)) + inner
        copy.ClearField(name)
    unknown = b"".join(
        (
            _varint(1000 << 3 | 0) + b"\xff\x01",
            _varint(1001 << 3 | 1) + b"12345678",
            _varint(1002 << 3 | 2) + b"\x03abc",
            _varint(1003 << 3 | 5) + b"1234",
            _varint(1004 << 3 | 3) + b"\x08\x01" + _varint(1004 << 3 | 4),
        )
    )
    return raw + unknown + copy.SerializeToString()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def test_case_092_unknown_fields_are_ignored(place: Place) -> None:
    pb, channel = place.pb, place.client.channel

    def unary(method: str, response: Any, raw: bytes) -> Any:
        path = f"/gestalt.provider.v1.S3/{method}"
        return channel.unary_unary(path, response_deserializer=response.FromString)(raw, timeout=60)

    opened = with_unknown_fields(place.open_frame("k", content_type="text/plain").open, "ref")
    upload = [
        b"\x0a" + _varint(len(opened)) + opened,
        with_unknown_fields(pb.WriteObjectRequest(data=b"he")),
        pb.WriteObjectRequest(data=b"llo").SerializeToString() + b"\xc0\x3e\x01",
    ]
    write = channel.stream_unary(
        "/gestalt.provider.v1.S3/WriteObject", response_deserializer=pb.WriteObjectResponse.FromString
    )
    written = write(iter(upload), timeout=60).meta
    assert (written.size, written.content_type) == (5, "text/plain")

    raw = with_unknown_fields(pb.HeadObjectRequest(ref=place.ref("k")), "ref")
    head = unary("HeadObject", pb.HeadObjectResponse, raw)
    assert head.meta == written
    read = channel.unary_stream(
        "/gestalt.provider.v1.S3/ReadObject", response_deserializer=pb.ReadObjectChunk.FromString
    )
    request = place.client.read_request(place.key("k"), bucket=place.bucket, start=1, end=3)
    chunks = list(read(with_unknown_fields(request, "ref", "range"), timeout=60))
    assert b"".join(chunk.data for chunk in chunks[1:]) == b"ell"
    copying = pb.CopyObjectRequest(source=place.ref("k"), destination=place.ref("l"))
    copied = unary("CopyObject", pb.CopyObjectResponse, with_unknown_fields(copying, "source", "destination"))
    assert copied.meta.ref.key == place.key("l")
    listing = pb.ListObjectsRequest(prefix=place.key(""), max_keys=1)
    if place.bucketed:
        listing.bucket = place.bucket
    page = unary("ListObjects", pb.ListObjectsResponse, with_unknown_fields(listing))
    assert place.names(page) == ["k"]
    assert page.has_more
    unary("DeleteObject", pb.S3ObjectRef, with_unknown_fields(pb.DeleteObjectRequest(ref=place.ref("k")), "ref"))
    assert not place.exists("k")
