"""The S3 client of releases from a25 on, which is generated from the protocol and has no buckets."""

from __future__ import annotations

import datetime
import io
import urllib.request

from gestalt.rpc_support import GestaltError, GestaltErrorCode
from gestalt.s3 import (
    S3,
    ByteRange,
    ListObjectsRequest,
    PresignObjectRequest,
    ReadObjectRequest,
    S3ObjectRef,
    WriteObjectOpen,
    WriteObjectRequest,
    WriteObjectRequestData,
    WriteObjectRequestOpen,
)

FIVE_MIB = bytes(range(256)) * (5 * 2**20 // 256)


def connect():
    return S3.connect()


def refused(code, call):
    found = None
    try:
        call()
    except GestaltError as error:
        found = error
    assert found is not None, f"expected code {code}"
    assert found.code == code, f"expected {code}, got {found.code}: {found.message}"
    assert found.message


def ref(key, version_id=""):
    return S3ObjectRef(key=f"generated/{key}", version_id=version_id)


def write(s3, key, body=b"", **fields):
    return s3.write_object(WriteObjectOpen(ref=ref(key), **fields), [body] if body else []).meta


def read(s3, key, version_id="", **fields):
    meta, stream = s3.read_object(ReadObjectRequest(ref=ref(key, version_id), **fields))
    return meta, stream.read()


def body(s3, key, **fields):
    return read(s3, key, **fields)[1]


def check_write_and_head(s3):
    meta = write(s3, "bytes", b"hello world", content_type="text/plain", metadata={"Author": "ada"})
    assert meta.ref.key == "generated/bytes"
    assert meta.ref.version_id
    assert meta.etag
    assert meta.size == 11
    assert meta.content_type == "text/plain"
    assert meta.metadata == {"Author": "ada"}
    head = s3.head_object(ref=ref("bytes")).meta
    assert head == meta
    assert abs(head.last_modified - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=5)


def check_write_from_a_file(s3):
    file = io.BytesIO(FIVE_MIB)
    chunks = iter(lambda: file.read(64 * 1024), b"")
    assert s3.write_object(WriteObjectOpen(ref=ref("file")), chunks).meta.size == len(FIVE_MIB)
    assert body(s3, "file") == FIVE_MIB


def check_write_from_an_iterable(s3):
    response = s3.write_object(WriteObjectOpen(ref=ref("iterable")), (part for part in (b"he", b"", b"llo")))
    assert response.meta.size == 5
    assert body(s3, "iterable") == b"hello"


def check_write_in_one_frame_of_five_mebibytes(s3):
    assert write(s3, "frame", FIVE_MIB).size == len(FIVE_MIB)
    assert body(s3, "frame") == FIVE_MIB


def check_write_raw_frames(s3):
    frames = [WriteObjectRequest(msg=WriteObjectRequestOpen(value=WriteObjectOpen(ref=ref("raw"))))]
    frames += [WriteObjectRequest(msg=WriteObjectRequestData(value=b"x" * size)) for size in (0, 1, 70_000)]
    assert s3.write_object_raw(frames).meta.size == 70_001
    refused(GestaltErrorCode.INVALID_ARGUMENT, lambda: s3.write_object_raw(frames[1:]))
    refused(GestaltErrorCode.INVALID_ARGUMENT, lambda: s3.write_object_raw(frames + frames[:1]))


def check_write_nothing(s3):
    assert write(s3, "empty").size == 0
    assert body(s3, "empty") == b""
    assert len(list(s3.read_object_raw(ReadObjectRequest(ref=ref("empty"))))) == 1


def check_read_ranges(s3):
    write(s3, "digits", b"0123456789")
    meta, part = read(s3, "digits", range=ByteRange(start=1, end=3))
    assert part == b"123"
    assert meta.size == 10
    assert body(s3, "digits", range=ByteRange(end=3)) == b"0123"
    assert body(s3, "digits", range=ByteRange(start=7)) == b"789"
    assert body(s3, "digits", range=ByteRange()) == b"0123456789"
    refused(GestaltErrorCode.OUT_OF_RANGE, lambda: body(s3, "digits", range=ByteRange(start=10)))
    refused(GestaltErrorCode.OUT_OF_RANGE, lambda: body(s3, "digits", range=ByteRange(start=-1)))


def check_read_streams(s3):
    write(s3, "stream", FIVE_MIB)
    _, stream = s3.read_object(ReadObjectRequest(ref=ref("stream")))
    parts = list(stream)
    assert len(parts) > 1
    assert max(map(len, parts)) < 4 * 2**20
    assert b"".join(parts) == FIVE_MIB


def check_versions(s3):
    first, second = write(s3, "versions", b"one"), write(s3, "versions", b"two")
    assert body(s3, "versions", version_id=first.ref.version_id) == b"one"
    s3.delete_object(ref=ref("versions", second.ref.version_id))
    assert body(s3, "versions") == b"one"


def check_list_with_delimiter_and_pages(s3):
    for key in ("list/a.txt", "list/nested/b", "list/nested/c", "list/z.txt"):
        write(s3, key, key.encode())
    page = s3.list_objects(prefix="generated/list/", delimiter="/")
    assert [meta.ref.key for meta in page.objects] == ["generated/list/a.txt", "generated/list/z.txt"]
    assert page.common_prefixes == ["generated/list/nested/"]
    assert not page.has_more
    seen, token = [], ""
    while True:
        page = s3.list_objects(ListObjectsRequest(prefix="generated/list/", max_keys=1, continuation_token=token))
        seen += [meta.ref.key.rpartition("list/")[2] for meta in page.objects]
        token = page.next_continuation_token
        if not page.has_more:
            break
    assert seen == ["a.txt", "nested/b", "nested/c", "z.txt"]
    assert token == ""
    page = s3.list_objects(prefix="generated/list/", start_after="generated/list/nested/b")
    assert [meta.ref.key.rpartition("list/")[2] for meta in page.objects] == ["nested/c", "z.txt"]


def check_copy(s3):
    meta = write(s3, "copy ?#+", b"body", content_type="a/b", metadata={"k": "v"})
    copied = s3.copy_object(source=ref("copy ?#+"), destination=ref("copied"), if_match=meta.etag).meta
    assert copied.ref.key == "generated/copied"
    assert copied.content_type == "a/b"
    assert copied.metadata == {"k": "v"}
    assert body(s3, "copied") == b"body"
    for conditions in ({"if_match": '"other"'}, {"if_none_match": meta.etag}):
        refused(
            GestaltErrorCode.FAILED_PRECONDITION,
            lambda conditions=conditions: s3.copy_object(
                source=ref("copy ?#+"), destination=ref("copied"), **conditions
            ),
        )
    refused(GestaltErrorCode.NOT_FOUND, lambda: s3.copy_object(source=ref("absent"), destination=ref("copied")))


def check_delete(s3):
    write(s3, "deleted", b"x")
    s3.delete_object(ref=ref("deleted"))
    s3.delete_object(ref=ref("deleted"))
    refused(GestaltErrorCode.NOT_FOUND, lambda: s3.head_object(ref=ref("deleted")))
    refused(GestaltErrorCode.NOT_FOUND, lambda: body(s3, "deleted"))


def check_conditions(s3):
    failed = GestaltErrorCode.FAILED_PRECONDITION
    first = write(s3, "conditions", b"one", if_none_match="*")
    refused(failed, lambda: write(s3, "conditions", b"x" * 3_000_000, if_none_match="*"))
    second = write(s3, "conditions", b"two", if_match=first.etag)
    refused(failed, lambda: write(s3, "conditions", b"x", if_match=first.etag))
    refused(failed, lambda: body(s3, "conditions", if_match=first.etag))
    refused(failed, lambda: body(s3, "conditions", if_none_match=second.etag))
    hour = datetime.timedelta(hours=1)
    refused(failed, lambda: body(s3, "conditions", if_modified_since=second.last_modified + hour))
    refused(failed, lambda: body(s3, "conditions", if_unmodified_since=second.last_modified - hour))
    assert body(s3, "conditions", if_match=second.etag, if_unmodified_since=second.last_modified) == b"two"


def check_invalid_arguments(s3):
    refused(GestaltErrorCode.INVALID_ARGUMENT, lambda: s3.head_object(ref=S3ObjectRef()))
    refused(GestaltErrorCode.INVALID_ARGUMENT, lambda: s3.head_object(ref=S3ObjectRef(key="x" * 2049)))
    refused(GestaltErrorCode.INVALID_ARGUMENT, lambda: s3.list_objects(continuation_token="nonsense"))


def check_presign(s3):
    write(s3, "presigned", b"by url")
    answer = s3.presign_object(PresignObjectRequest(ref=ref("presigned"), expires_seconds=60))
    with urllib.request.urlopen(answer.url) as response:
        assert response.read() == b"by url"
    refused(
        GestaltErrorCode.INVALID_ARGUMENT,
        lambda: s3.presign_object(PresignObjectRequest(ref=ref("presigned"), expires_seconds=-1)),
    )
