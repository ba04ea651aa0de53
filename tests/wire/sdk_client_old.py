"""Exercises the S3 client of gestalt-sdk 0.0.1a19, the newest that sends buckets, in that SDK's own environment.

Run as `python sdk_client_old.py` with GESTALT_S3_SOCKET set; prints one JSON object per check: its name, and the
traceback if it failed.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import sys
import traceback
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

BUCKET = "sdk-old"
FIVE_MIB = bytes(range(256)) * (5 * 2**20 // 256)


def raises(kind, call):
    try:
        call()
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}")


def check_write_bytes_and_head(s3):
    options = WriteOptions(content_type="text/plain", metadata={"Author": "ada"}, cache_control="no-store")
    meta = s3.object(BUCKET, "bytes").write(b"hello world", options)
    assert meta.ref.bucket == BUCKET
    assert meta.ref.key == "bytes"
    assert meta.ref.version_id
    assert meta.etag
    assert meta.size == 11
    assert meta.content_type == "text/plain"
    assert meta.metadata == {"Author": "ada"}
    head = s3.head_object(ObjectRef(BUCKET, "bytes"))
    assert head == meta
    assert abs(head.last_modified - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=5)


def check_write_from_a_file(s3):
    assert s3.object(BUCKET, "file").write(io.BytesIO(FIVE_MIB)).size == len(FIVE_MIB)
    assert s3.object(BUCKET, "file").bytes() == FIVE_MIB


def check_write_from_an_iterable(s3):
    meta = s3.write_object(ObjectRef(BUCKET, "iterable"), iter([b"he", b"", b"llo", b"!" * 3_000_000]))
    assert meta.size == 3_000_005
    assert s3.object(BUCKET, "iterable").bytes() == b"hello" + b"!" * 3_000_000


def check_write_nothing(s3):
    assert s3.object(BUCKET, "empty").write(None).size == 0
    assert s3.object(BUCKET, "empty").bytes() == b""


def check_five_mebibytes(s3):
    assert s3.object(BUCKET, "five").write_bytes(FIVE_MIB).size == len(FIVE_MIB)
    assert s3.object(BUCKET, "five").bytes() == FIVE_MIB


def check_text_and_json(s3):
    s3.object(BUCKET, "text").write_text("grüße")
    assert s3.object(BUCKET, "text").text() == "grüße"
    meta = s3.object(BUCKET, "json").write_json({"a": [1, 2]})
    assert meta.content_type == "application/json"
    assert s3.object(BUCKET, "json").json() == {"a": [1, 2]}


def check_read_ranges(s3):
    item = s3.object(BUCKET, "digits")
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
    s3.object(BUCKET, "stream").write(FIVE_MIB)
    _, stream = s3.object(BUCKET, "stream").stream()
    with stream:
        assert stream.read(5) == FIVE_MIB[:5]
        assert stream.read(100_000) == FIVE_MIB[5:100_005]
        assert b"".join(stream.iter_chunks()) == FIVE_MIB[100_005:]
    _, stream = s3.object(BUCKET, "stream").stream()
    stream.read(10)
    stream.close()
    assert s3.object(BUCKET, "stream").bytes() == FIVE_MIB


def check_versions(s3):
    first = s3.object(BUCKET, "versions").write(b"one")
    second = s3.object(BUCKET, "versions").write(b"two")
    assert s3.object_version(BUCKET, "versions", first.ref.version_id).bytes() == b"one"
    s3.object_version(BUCKET, "versions", second.ref.version_id).delete()
    assert s3.object(BUCKET, "versions").bytes() == b"one"


def check_list_with_delimiter_and_pages(s3):
    bucket = "sdk-old-list"
    for key in ("a.txt", "nested/b", "nested/c", "z.txt"):
        s3.object(bucket, key).write(key.encode())
    page = s3.list_objects(ListOptions(bucket, delimiter="/"))
    assert [meta.ref.key for meta in page.objects] == ["a.txt", "z.txt"]
    assert page.common_prefixes == ["nested/"]
    assert not page.has_more
    assert page.next_continuation_token == ""
    assert all(meta.ref.bucket == bucket and meta.etag and meta.last_modified for meta in page.objects)
    seen, token = [], ""
    while True:
        page = s3.list_objects(ListOptions(bucket, max_keys=1, continuation_token=token))
        seen += [meta.ref.key for meta in page.objects]
        token = page.next_continuation_token
        if not page.has_more:
            break
    assert seen == ["a.txt", "nested/b", "nested/c", "z.txt"]
    page = s3.list_objects(ListOptions(bucket, prefix="nested/", start_after="nested/b"))
    assert [meta.ref.key for meta in page.objects] == ["nested/c"]


def check_copy(s3):
    source, target = ObjectRef(BUCKET, "copy ?#+"), ObjectRef("sdk-old-other", "copied")
    meta = s3.write_object(source, b"body", WriteOptions(content_type="a/b", metadata={"k": "v"}))
    copied = s3.copy_object(source, target, CopyOptions(if_match=meta.etag))
    assert copied.ref.bucket == "sdk-old-other"
    assert copied.ref.key == "copied"
    assert copied.content_type == "a/b"
    assert copied.metadata == {"k": "v"}
    assert s3.object("sdk-old-other", "copied").bytes() == b"body"
    raises(S3PreconditionFailedError, lambda: s3.copy_object(source, target, CopyOptions(if_match='"other"')))
    raises(S3PreconditionFailedError, lambda: s3.copy_object(source, target, CopyOptions(if_none_match=meta.etag)))
    raises(S3NotFoundError, lambda: s3.copy_object(ObjectRef(BUCKET, "absent"), target))


def check_delete(s3):
    item = s3.object(BUCKET, "deleted")
    item.write(b"x")
    assert item.exists()
    item.delete()
    item.delete()
    assert not item.exists()
    raises(S3NotFoundError, item.stat)
    raises(S3NotFoundError, item.bytes)


def check_conditions(s3):
    item = s3.object(BUCKET, "conditions")
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
    s3.object(BUCKET, "presigned").write(b"by url")
    answer = s3.object(BUCKET, "presigned").presign(PresignOptions())
    with urllib.request.urlopen(answer.url) as response:
        assert response.read() == b"by url"


def main():
    wanted = sys.argv[1:]
    checks = {name: check for name, check in globals().items() if name.startswith("check_")}
    assert os.environ["GESTALT_S3_SOCKET"]
    with S3() as s3:
        for name, check in checks.items():
            if wanted and name not in wanted:
                continue
            failure = ""
            try:
                check(s3)
            except Exception:  # noqa: BLE001 - whatever it is, it is this check's result
                failure = traceback.format_exc()
            print(json.dumps({"check": name, "failure": failure}), flush=True)


if __name__ == "__main__":
    main()
