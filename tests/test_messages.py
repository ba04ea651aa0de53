"""The table of statuses, and the wire's messages to and from the store's values."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from gestalt_cas import errors, wire_pb2
from gestalt_cas.errors import InvalidArgument, StoreError
from gestalt_cas.objects import ByteRange, Conditions, Headers, ListPage, ObjectKey, ObjectVersion
from gestalt_cas.serving import messages
from gestalt_cas.serving.messages import Namespace

Code = grpc.StatusCode
EXPECTED = {
    "InvalidArgument": Code.INVALID_ARGUMENT,
    "InvalidToken": Code.INVALID_ARGUMENT,
    "InvalidConfig": Code.INVALID_ARGUMENT,
    "BeforeHorizon": Code.INVALID_ARGUMENT,
    "NoSuchKey": Code.NOT_FOUND,
    "NoSuchVersion": Code.NOT_FOUND,
    "VersionRemoved": Code.NOT_FOUND,
    "NoSuchSnapshot": Code.NOT_FOUND,
    "PreconditionFailed": Code.FAILED_PRECONDITION,
    "NotModified": Code.FAILED_PRECONDITION,
    "SnapshotExists": Code.FAILED_PRECONDITION,
    "Protected": Code.FAILED_PRECONDITION,
    "Held": Code.PERMISSION_DENIED,
    "InvalidRange": Code.OUT_OF_RANGE,
    "Cancelled": Code.CANCELLED,
    "StoreBusy": Code.UNAVAILABLE,
    "NotConfigured": Code.FAILED_PRECONDITION,
    "NotEnabled": Code.FAILED_PRECONDITION,
    "NotImplementedHere": Code.UNIMPLEMENTED,
    "MethodNotAllowed": Code.UNIMPLEMENTED,
    "BadDigest": Code.INVALID_ARGUMENT,
    "SignatureError": Code.PERMISSION_DENIED,
    "InvalidSignatureRequest": Code.PERMISSION_DENIED,
    "SignatureDoesNotMatch": Code.PERMISSION_DENIED,
    "NoStore": Code.FAILED_PRECONDITION,
    "StoreUnusable": Code.FAILED_PRECONDITION,
    "AddressUnusable": Code.FAILED_PRECONDITION,
    "SchemaTooNew": Code.FAILED_PRECONDITION,
    "SettingsConflict": Code.FAILED_PRECONDITION,
    "ClockSuspect": Code.FAILED_PRECONDITION,
    "Damage": Code.DATA_LOSS,
    "BlobMissing": Code.DATA_LOSS,
    "DigestMismatch": Code.DATA_LOSS,
    "DatabaseDamaged": Code.DATA_LOSS,
    "DiskFull": Code.RESOURCE_EXHAUSTED,
    "StoreFull": Code.RESOURCE_EXHAUSTED,
    "FileSizeLimit": Code.RESOURCE_EXHAUSTED,
    "QuotaExceeded": Code.RESOURCE_EXHAUSTED,
    "TooManyStreams": Code.RESOURCE_EXHAUSTED,
    "ObjectTooLarge": Code.UNIMPLEMENTED,
    "OutcomeUnknown": Code.UNAVAILABLE,
    "ShuttingDown": Code.UNAVAILABLE,
    "PeerStalled": Code.DEADLINE_EXCEEDED,
    "StorageFault": Code.INTERNAL,
}
"""The contract's statuses (3.1, section 6) and those of the house's table of errors."""
ARGUMENTS: dict[str, dict[str, object]] = {
    "InvalidRange": {"size": 3},
    "NotModified": {"etag": '"ab"', "modified_ms": 0},
    "SignatureError": {"message": "what"},
    "InvalidSignatureRequest": {"message": "what"},
    "SignatureDoesNotMatch": {"message": "what"},
    "Damage": {"digest": "ab"},
    "BlobMissing": {"digest": "ab"},
    "DigestMismatch": {"digest": "ab"},
}


def subclasses(kind: type[StoreError]) -> Iterator[type[StoreError]]:
    for below in kind.__subclasses__():
        yield below
        yield from subclasses(below)


ERRORS = {kind.__name__: kind for kind in subclasses(StoreError) if kind.__module__ == errors.__name__}


def version(name: str = "k", **changes: object) -> ObjectVersion:
    values: dict[str, object] = {
        "key": ObjectKey("real", name),
        "version_id": "v1",
        "seq": 7,
        "size": 3,
        "digest": "ab" * 32,
        "modified_ms": 1_700_000_000_123,
    }
    return ObjectVersion(**{**values, **changes})  # type: ignore[arg-type]


def test_every_error_has_its_status() -> None:
    assert set(ERRORS) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_status(name: str) -> None:
    kind = ERRORS[name]
    assert messages.status_of(kind("what", **ARGUMENTS.get(name, {}))) is EXPECTED[name]
    listed = [base for base in kind.__mro__ if base in messages.STATUS]
    assert listed, f"{name} falls through to INTERNAL"


def test_the_base_itself_is_not_listed() -> None:
    assert StoreError not in messages.STATUS
    assert messages.status_of(StoreError("a bug")) is Code.INTERNAL


def test_bytes_that_are_no_message_are_an_invalid_argument() -> None:
    with pytest.raises(InvalidArgument, match="HeadObjectRequest"):
        messages.decode(wire_pb2.HeadObjectRequest, b"\xff\xff\xff")
    with pytest.raises(InvalidArgument, match="HeadObjectRequest"):
        messages.decode(wire_pb2.HeadObjectRequest, b"\x0a\x03\x12\x01\xff")  # a key that is no UTF-8


def test_key_is_prefixed_and_bucket_kept() -> None:
    namespace = Namespace("pre/")
    assert namespace.key(wire_pb2.ObjectRef(bucket="b", key="k")) == ObjectKey("b", "pre/k")
    assert Namespace().key(wire_pb2.ObjectRef(key="k")) == ObjectKey("", "k")


def test_a_missing_key_is_refused_even_with_a_prefix() -> None:
    with pytest.raises(InvalidArgument, match="source key is required"):
        Namespace("pre/").key(wire_pb2.ObjectRef(bucket="b"), "source ")


def test_query_prefixes_what_is_a_position() -> None:
    namespace = Namespace("pre/")
    request = wire_pb2.ListObjectsRequest(
        bucket="b", prefix="p", delimiter="/", continuation_token="t", start_after="s", max_keys=-4
    )
    query = namespace.query(request)
    assert (query.bucket, query.prefix, query.delimiter) == ("b", "pre/p", "/")
    assert (query.token, query.start_after, query.max_keys) == ("t", "pre/s", -4)
    empty = namespace.query(wire_pb2.ListObjectsRequest())
    assert (empty.prefix, empty.start_after) == ("pre/", "")


def test_meta_says_what_the_request_said() -> None:
    headers = Headers("text/plain", cache_control="no-store")
    found = version("pre/k", headers=headers, metadata={"a": "b"})
    meta = Namespace("pre/").answer(found, "").meta
    assert (meta.ref.bucket, meta.ref.key, meta.ref.version_id) == ("", "k", "v1")
    assert (meta.etag, meta.size, meta.content_type) == (f'"{"ab" * 32}"', 3, "text/plain")
    assert (meta.last_modified.seconds, meta.last_modified.nanos) == (1_700_000_000, 123_000_000)
    assert dict(meta.metadata) == {"a": "b"}


@pytest.mark.parametrize("modified_ms", [0, 999, 1000, -1, -1000, -1001])
def test_timestamps_keep_milliseconds_and_are_normalised(modified_ms: int) -> None:
    stamp = Namespace().answer(version(modified_ms=modified_ms), "").meta.last_modified
    assert stamp.ToMilliseconds() == modified_ms
    assert 0 <= stamp.nanos < 1_000_000_000


def test_page_strips_the_prefix_everywhere() -> None:
    page = ListPage((version("pre/a"), version("pre/c")), ("pre/b/",), "token")
    response = Namespace("pre/").page(page, "b")
    assert [meta.ref.key for meta in response.objects] == ["a", "c"]
    assert list(response.common_prefixes) == ["b/"]
    assert (response.next_continuation_token, response.has_more) == ("token", True)
    last = Namespace().page(ListPage((), (), ""), "b")
    assert (last.next_continuation_token, last.has_more) == ("", False)


def test_headers_take_every_field() -> None:
    opening = wire_pb2.WriteObjectOpen(
        content_type="1", cache_control="2", content_disposition="3", content_encoding="4", content_language="5"
    )
    assert messages.headers(opening) == Headers("1", "2", "3", "4", "5")


def test_conditions_of_a_write_and_of_a_copy() -> None:
    opening = wire_pb2.WriteObjectOpen(ref=wire_pb2.ObjectRef(version_id="v"), if_match="m", if_none_match="n")
    assert messages.write_conditions(opening) == Conditions("m", "n", current_version="v")
    copy = wire_pb2.CopyObjectRequest(
        source=wire_pb2.ObjectRef(version_id="from"),
        destination=wire_pb2.ObjectRef(version_id="over"),
        if_match="m",
        if_none_match="n",
    )
    assert messages.copy_conditions(copy) == Conditions("m", "n", current_version="over")


def test_dates_of_a_read_are_whole_seconds_and_may_be_absent() -> None:
    assert messages.read_conditions(wire_pb2.ReadObjectRequest()) == Conditions()
    request = wire_pb2.ReadObjectRequest(if_match="m", if_none_match="n")
    request.if_modified_since.seconds, request.if_modified_since.nanos = 10, 999_999_999
    assert messages.read_conditions(request) == Conditions("m", "n", 10, None)
    request.if_unmodified_since.SetInParent()
    assert messages.read_conditions(request) == Conditions("m", "n", 10, 0)


@pytest.mark.parametrize(
    ("range_", "expected"),
    [
        (None, None),
        ({}, ByteRange()),
        ({"start": 0}, ByteRange(0)),
        ({"end": 0}, ByteRange(None, 0)),
        ({"start": -1, "end": 5}, ByteRange(-1, 5)),
    ],
)
def test_range_keeps_what_was_given(range_: dict[str, int] | None, expected: ByteRange | None) -> None:
    request = wire_pb2.ReadObjectRequest(range=None if range_ is None else wire_pb2.Range(**range_))
    again = wire_pb2.ReadObjectRequest.FromString(request.SerializeToString())
    assert messages.byte_range(again) == expected
