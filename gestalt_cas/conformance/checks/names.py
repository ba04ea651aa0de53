"""Cases 22 to 25, 30, 31, 90 and 92: keys are opaque, requests without one are refused, and keys come back whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.registry import Code, Place, check

_TESTS = "transport tests; contract 3.2"
_UNKNOWN = b"\xc2\x3e\x03abc\xc8\x3e\x07"
"""Fields 1000 and 1001, which no generation has."""


def _kept(place: Place, *names: str) -> None:
    for name in names:
        body = name.encode()
        place.same(place.write(name, body).ref.key, place.key(name), "the key that a write answers")
        place.same(place.head(name).ref.key, place.key(name), "the key that HeadObject answers")
        place.same(place.body(name), body, f"the body of {name!r}")
    listed = {place.name(meta.ref.key) for page in place.pages() for meta in page.objects}
    place.same(listed, set(names), "the keys that are listed")


@check(22, evidence=_TESTS)
def blanks_around_a_key_are_kept(place: Place) -> None:
    """Blanks at either end of a key belong to it."""
    _kept(place, " lead", "trail ", "\ttab", "x", " x", "x ")


@check(23, evidence=_TESTS)
def any_unicode_is_a_key(place: Place) -> None:
    """Reserved characters of URLs, dots, slashes and any Unicode are part of a key, never decoded or normalised."""
    _kept(
        place,
        "a ?#+%&=;",
        "%2e%2e/%2F",
        "../../etc",
        "./.",
        "/lead",
        "double//slash",
        "ümläut/日本語/🙂",
        "back\\slash",
    )
    _kept_forms(place)


def _kept_forms(place: Place) -> None:
    place.write("\u00e9", b"composed")
    place.write("e\u0301", b"decomposed")
    place.same(place.body("\u00e9"), b"composed", "the body of a composed character's key")


@check(24, evidence=_TESTS)
def case_makes_a_difference(place: Place) -> None:
    """Keys that differ only in case are two objects."""
    _kept(place, "Key", "key", "KEY")


@check(25, Capability.BUCKETS, evidence="bucketed SDKs; contract 6, Bucket")
def buckets_are_apart(place: Place) -> None:
    """One key in two buckets is two objects, and the empty bucket works and is echoed."""
    if not place.bucketed:
        place.write("k", b"x")
        place.same(place.body("k"), b"x", "the body without a bucket")
        return
    wire, key = place.wire, f"{place.bucket}-k"
    for bucket in (place.bucket, place.bucket + "-2", ""):
        meta = wire.write(key, b"in " + bucket.encode(), bucket=bucket)
        place.same(meta.ref.bucket, bucket, "the bucket that a write answers")
    for bucket in (place.bucket, place.bucket + "-2", ""):
        found = b"".join(chunk.data for chunk in wire.chunks(key, bucket=bucket)[1:])
        place.same(found, b"in " + bucket.encode(), f"the body in bucket {bucket!r}")
    wire.delete(key, bucket="")


def _each_rpc(place: Place, ref: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    pb, call = place.pb, place.wire.call
    return {
        "HeadObject": lambda: call("HeadObject", pb.HeadObjectRequest(ref=ref())),
        "ReadObject": lambda: place.wire.raw(
            "ReadObject", [pb.ReadObjectRequest(ref=ref()).SerializeToString()], "ReadObjectChunk"
        ),
        "WriteObject": lambda: place.wire.send([pb.WriteObjectRequest(open=pb.WriteObjectOpen(ref=ref()))]),
        "DeleteObject": lambda: call("DeleteObject", pb.DeleteObjectRequest(ref=ref())),
        "CopyObject from it": lambda: call(
            "CopyObject", pb.CopyObjectRequest(source=ref(), destination=place.ref("to"))
        ),
        "CopyObject to it": lambda: call(
            "CopyObject", pb.CopyObjectRequest(source=place.ref("from"), destination=ref())
        ),
    }


@check(30, evidence="S3 and GCS backends; contract 3.2")
def an_empty_key_on_each_rpc(place: Place) -> None:
    """An empty key is INVALID_ARGUMENT on each RPC that takes one."""
    place.write("from", b"x")
    for what, call in _each_rpc(place, lambda: place.wire.ref("", bucket=place.bucket)).items():
        with place.refused(Code.INVALID_ARGUMENT, why=f"{what} with an empty key"):
            call()


@check(31, evidence="contract 3.2")
def a_missing_reference_on_each_rpc(place: Place) -> None:
    """A request without a reference is INVALID_ARGUMENT, like one with an empty key."""
    place.write("from", b"x")
    for what, call in _each_rpc(place, lambda: None).items():
        with place.refused(Code.INVALID_ARGUMENT, why=f"{what} without a reference"):
            call()


@check(90, evidence="hosts check every returned key against its namespace; contract 3.10")
def returned_keys_keep_the_namespace(place: Place) -> None:
    """Each RPC answers the full key, as a host sent it with the prefix of its plugin."""
    name = "plugin_7_roadmap/docs/a"
    place.same(place.write(name, b"x").ref.key, place.key(name), "the key that WriteObject answers")
    place.same(place.head(name).ref.key, place.key(name), "the key that HeadObject answers")
    place.same(place.read(name)[0].ref.key, place.key(name), "the key that ReadObject answers")
    copied = place.copy(name, "plugin_7_roadmap/docs/b")
    place.same(copied.ref.key, place.key("plugin_7_roadmap/docs/b"), "the key that CopyObject answers")
    page = place.list(prefix="plugin_7_roadmap/")
    place.same(place.names(page), [name, "plugin_7_roadmap/docs/b"], "the keys that are listed")
    grouped = place.list(prefix="plugin_7_roadmap/", delimiter="/")
    place.same(place.groups(grouped), ["plugin_7_roadmap/docs/"], "the common prefixes")


@check(92, evidence="protobuf: unknown fields are ignored")
def unknown_fields_are_ignored(place: Place) -> None:
    """Requests of a later contract, with fields that this one does not know, work."""
    place.write("k", b"hello")
    pb, raw = place.pb, place.wire.raw
    head = pb.HeadObjectRequest(ref=place.ref("k")).SerializeToString() + _UNKNOWN
    place.same(raw("HeadObject", [head], "HeadObjectResponse")[0].meta.size, 5, "the size by HeadObject")
    reading = pb.ReadObjectRequest(ref=place.ref("k")).SerializeToString() + _UNKNOWN
    chunks = raw("ReadObject", [reading], "ReadObjectChunk")
    place.same(b"".join(chunk.data for chunk in chunks[1:]), b"hello", "the body by ReadObject")
    opening = place.open_frame("w").SerializeToString()
    data = pb.WriteObjectRequest(data=b"new").SerializeToString()
    raw("WriteObject", [opening + _UNKNOWN, data + _UNKNOWN], "WriteObjectResponse")
    place.same(place.body("w"), b"new", "the body of an upload with unknown fields")


@check(128, Capability.RAW_REQUESTS, evidence="contract 6, Undecodable request bytes")
def bytes_that_are_no_message(place: Place) -> None:
    """Request bytes that cannot be parsed are INVALID_ARGUMENT on each RPC, and the provider goes on."""
    broken = b"\x0a\x7f\xff"
    for method, response in (
        ("HeadObject", "HeadObjectResponse"),
        ("ReadObject", "ReadObjectChunk"),
        ("WriteObject", "WriteObjectResponse"),
        ("DeleteObject", "Empty"),
        ("ListObjects", "ListObjectsResponse"),
        ("CopyObject", "CopyObjectResponse"),
    ):
        with place.refused(Code.INVALID_ARGUMENT, why=f"what {method} was sent is no message"):
            place.wire.raw(method, [broken], response)
    place.write("k", b"still there")


@check(103, evidence="contract 6, Key length")
def a_key_of_1024_bytes(place: Place) -> None:
    """Keys of 1,024 bytes, which S3 allows, work also below a host's namespace."""
    name = "é" * ((1024 - len(place.prefix.encode())) // 2)
    place.write(name, b"long")
    place.same(place.body(name), b"long", "the body of a long key")
