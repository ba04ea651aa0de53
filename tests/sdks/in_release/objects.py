"""The S3 client of releases a8 to a24, which has objects with methods: with buckets up to a19, without from a20 on.

Where there are no buckets, their names begin the keys, so that the checks say the same for both.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import urllib.request

from gestalt import (
    S3,
    ByteRange,
    CopyOptions,
    ListOptions,
    ObjectRef,
    PresignOptions,
    ReadOptions,
    S3InvalidRangeError,
    S3NotFoundError,
    S3PreconditionFailedError,
    WriteOptions,
)

BUCKET = "objects"
BUCKETED = "bucket" in {field.name for field in dataclasses.fields(ObjectRef)}
FIVE_MIB = bytes(range(256)) * (5 * 2**20 // 256)


def connect():
    return S3()


def ref(key, bucket=BUCKET):
    return ObjectRef(bucket, key) if BUCKETED else ObjectRef(f"{bucket}/{key}")


def place(key, bucket=BUCKET):
    """The arguments that name an object to the client's methods."""
    return (bucket, key) if BUCKETED else (f"{bucket}/{key}",)


def listing(bucket, **options):
    if BUCKETED:
        return ListOptions(bucket, **options)
    for name in ("prefix", "start_after"):
        if name == "prefix" or options.get(name):
            options[name] = f"{bucket}/{options.get(name, '')}"
    return ListOptions(**options)


def names(bucket, keys):
    return list(keys) if BUCKETED else [key.removeprefix(f"{bucket}/") for key in keys]


def raises(kind, call):
    try:
        call()
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}")


def check_write_bytes_and_head(s3):
    options = WriteOptions(content_type="text/plain", metadata={"Author": "ada"}, cache_control="no-store")
    meta = s3.object(*place("bytes")).write(b"hello world", options)
    assert meta.ref == dataclasses.replace(ref("bytes"), version_id=meta.ref.version_id)
    assert meta.ref.version_id
    assert meta.etag
    assert meta.size == 11
    assert meta.content_type == "text/plain"
    assert meta.metadata == {"Author": "ada"}
    head = s3.head_object(ref("bytes"))
    assert head == meta
    assert abs(head.last_modified - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=5)


def check_write_from_a_file(s3):
    assert s3.object(*place("file")).write(io.BytesIO(FIVE_MIB)).size == len(FIVE_MIB)
    assert s3.object(*place("file")).bytes() == FIVE_MIB


def check_write_from_an_iterable(s3):
    meta = s3.write_object(ref("iterable"), iter([b"he", b"", b"llo", b"!" * 3_000_000]))
    assert meta.size == 3_000_005
    assert s3.object(*place("iterable")).bytes() == b"hello" + b"!" * 3_000_000


def check_write_nothing(s3):
    assert s3.object(*place("empty")).write(None).size == 0
    assert s3.object(*place("empty")).bytes() == b""


def check_five_mebibytes(s3):
    assert s3.object(*place("five")).write_bytes(FIVE_MIB).size == len(FIVE_MIB)
    assert s3.object(*place("five")).bytes() == FIVE_MIB


def check_text_and_json(s3):
    s3.object(*place("text")).write_text("grüße")
    assert s3.object(*place("text")).text() == "grüße"
    meta = s3.object(*place("json")).write_json({"a": [1, 2]})
    assert meta.content_type == "application/json"
    assert s3.object(*place("json")).json() == {"a": [1, 2]}


def check_read_ranges(s3):
    item = s3.object(*place("digits"))
    item.write(b"0123456789")
    assert item.bytes(ReadOptions(range=ByteRange(start=1, end=3))) == b"123"
    assert item.bytes(ReadOptions(range=ByteRange(end=3))) == b"0123"
    assert item.bytes(ReadOptions(range=ByteRange(start=7))) == b"789"
    meta, stream = item.stream(ReadOptions(range=ByteRange(start=2, end=100)))
    with stream:
        assert stream.read() == b"23456789"
    assert meta.size == 10
    raises(S3InvalidRangeError, lambda: item.bytes(ReadOptions(range=ByteRange(start=10))))


def check_read_streams(s3):
    s3.object(*place("stream")).write(FIVE_MIB)
    _, stream = s3.object(*place("stream")).stream()
    with stream:
        assert stream.read(5) == FIVE_MIB[:5]
        assert stream.read(100_000) == FIVE_MIB[5:100_005]
        assert b"".join(stream.iter_chunks()) == FIVE_MIB[100_005:]
    _, stream = s3.object(*place("stream")).stream()
    stream.read(10)
    stream.close()
    assert s3.object(*place("stream")).bytes() == FIVE_MIB


def check_versions(s3):
    first = s3.object(*place("versions")).write(b"one")
    second = s3.object(*place("versions")).write(b"two")
    assert s3.object_version(*place("versions"), first.ref.version_id).bytes() == b"one"
    s3.object_version(*place("versions"), second.ref.version_id).delete()
    assert s3.object(*place("versions")).bytes() == b"one"


def check_list_with_delimiter_and_pages(s3):
    bucket = "objects-list"
    for key in ("a.txt", "nested/b", "nested/c", "z.txt"):
        s3.object(*place(key, bucket)).write(key.encode())
    page = s3.list_objects(listing(bucket, delimiter="/"))
    assert names(bucket, (meta.ref.key for meta in page.objects)) == ["a.txt", "z.txt"]
    assert names(bucket, page.common_prefixes) == ["nested/"]
    assert not page.has_more
    assert page.next_continuation_token == ""
    assert all(meta.etag and meta.last_modified for meta in page.objects)
    seen, token = [], ""
    while True:
        page = s3.list_objects(listing(bucket, max_keys=1, continuation_token=token))
        seen += names(bucket, (meta.ref.key for meta in page.objects))
        token = page.next_continuation_token
        if not page.has_more:
            break
    assert seen == ["a.txt", "nested/b", "nested/c", "z.txt"]
    page = s3.list_objects(listing(bucket, prefix="nested/", start_after="nested/b"))
    assert names(bucket, (meta.ref.key for meta in page.objects)) == ["nested/c"]


def check_copy(s3):
    source, target = ref("copy ?#+"), ref("copied", "objects-other")
    meta = s3.write_object(source, b"body", WriteOptions(content_type="a/b", metadata={"k": "v"}))
    copied = s3.copy_object(source, target, CopyOptions(if_match=meta.etag))
    assert dataclasses.replace(copied.ref, version_id="") == target
    assert copied.content_type == "a/b"
    assert copied.metadata == {"k": "v"}
    assert s3.object(*place("copied", "objects-other")).bytes() == b"body"
    raises(S3PreconditionFailedError, lambda: s3.copy_object(source, target, CopyOptions(if_match='"other"')))
    raises(S3PreconditionFailedError, lambda: s3.copy_object(source, target, CopyOptions(if_none_match=meta.etag)))
    raises(S3NotFoundError, lambda: s3.copy_object(ref("absent"), target))


def check_delete(s3):
    item = s3.object(*place("deleted"))
    item.write(b"x")
    assert item.exists()
    item.delete()
    item.delete()
    assert not item.exists()
    raises(S3NotFoundError, item.stat)
    raises(S3NotFoundError, item.bytes)


def check_conditions(s3):
    item = s3.object(*place("conditions"))
    first = item.write(b"one", WriteOptions(if_none_match="*"))
    raises(S3PreconditionFailedError, lambda: item.write(b"x" * 3_000_000, WriteOptions(if_none_match="*")))
    second = item.write(b"two", WriteOptions(if_match=first.etag))
    raises(S3PreconditionFailedError, lambda: item.write(b"x", WriteOptions(if_match=first.etag)))
    raises(S3PreconditionFailedError, lambda: item.bytes(ReadOptions(if_match=first.etag)))
    raises(S3PreconditionFailedError, lambda: item.bytes(ReadOptions(if_none_match=second.etag)))
    hour = datetime.timedelta(hours=1)
    raises(
        S3PreconditionFailedError,
        lambda: item.bytes(ReadOptions(if_modified_since=second.last_modified + hour)),
    )
    raises(
        S3PreconditionFailedError,
        lambda: item.bytes(ReadOptions(if_unmodified_since=second.last_modified - hour)),
    )
    assert item.bytes(ReadOptions(if_match=second.etag, if_unmodified_since=second.last_modified)) == b"two"


def check_presign(s3):
    s3.object(*place("presigned")).write(b"by url")
    answer = s3.object(*place("presigned")).presign(PresignOptions())
    with urllib.request.urlopen(answer.url) as response:
        assert response.read() == b"by url"
