"""An object there and back over the stubs that came with a release, each RPC once and frame by frame."""

from __future__ import annotations

import grpc
from lifecycle import code_of

BODY = bytes(range(256)) * 4096
FRAME = 64 * 1024
SECONDS = 60


class Wire:
    """The stubs, and references as the release makes them: with a bucket where it has such a field."""

    def __init__(self, s3, s3_grpc, socket):
        self.s3 = s3
        # Without BDP probes the window stays small, so a server cannot send a long answer before it is wanted.
        options = (("grpc.enable_http_proxy", 0), ("grpc.http2.bdp_probe", 0))
        self.stub = s3_grpc.S3Stub(grpc.insecure_channel(f"unix:{socket}", options=options))
        self.bucket = {"bucket": "stubs"} if "bucket" in s3.S3ObjectRef.DESCRIPTOR.fields_by_name else {}

    def ref(self, key):
        return self.s3.S3ObjectRef(key=f"stubs/{key}", **self.bucket)

    def write(self, key, body, **fields):
        frames = [self.s3.WriteObjectRequest(open=self.s3.WriteObjectOpen(ref=self.ref(key), **fields))]
        frames += [self.s3.WriteObjectRequest(data=body[at : at + FRAME]) for at in range(0, len(body), FRAME)]
        return self.stub.WriteObject(iter(frames), timeout=SECONDS).meta

    def read(self, key, **range_):
        request = self.s3.ReadObjectRequest(ref=self.ref(key))
        if range_:
            request.range.CopyFrom(self.s3.ByteRange(**range_))
        meta, *chunks = self.stub.ReadObject(request, timeout=SECONDS)
        assert meta.WhichOneof("result") == "meta"
        return meta.meta, b"".join(chunk.data for chunk in chunks)


def check_write(wire):
    meta = wire.write("a", BODY, content_type="a/b", metadata={"Author": "ada"})
    assert (meta.ref.key, meta.size) == ("stubs/a", len(BODY))
    assert getattr(meta.ref, "bucket", "") == wire.bucket.get("bucket", "")
    assert meta.ref.version_id


def check_head(wire):
    meta = wire.stub.HeadObject(wire.s3.HeadObjectRequest(ref=wire.ref("a")), timeout=SECONDS).meta
    assert (meta.size, meta.content_type, dict(meta.metadata)) == (len(BODY), "a/b", {"Author": "ada"})
    assert meta.etag
    assert meta.HasField("last_modified")


def check_read(wire):
    meta, body = wire.read("a")
    assert body == BODY
    assert meta.size == len(BODY)
    meta, body = wire.read("a", start=1, end=3)
    assert body == BODY[1:4]
    assert meta.size == len(BODY)


def check_copy(wire):
    request = wire.s3.CopyObjectRequest(source=wire.ref("a"), destination=wire.ref("b"))
    assert wire.stub.CopyObject(request, timeout=SECONDS).meta.ref.key == "stubs/b"
    assert wire.read("b")[1] == BODY


def check_list(wire):
    request = wire.s3.ListObjectsRequest(prefix="stubs/", max_keys=1, **wire.bucket)
    page = wire.stub.ListObjects(request, timeout=SECONDS)
    assert [meta.ref.key for meta in page.objects] == ["stubs/a"]
    assert page.has_more
    request.continuation_token = page.next_continuation_token
    page = wire.stub.ListObjects(request, timeout=SECONDS)
    assert [meta.ref.key for meta in page.objects] == ["stubs/b"]
    assert not page.has_more


def check_presign(wire):
    answer = wire.stub.PresignObject(wire.s3.PresignObjectRequest(ref=wire.ref("a")), timeout=SECONDS)
    assert answer.method == wire.s3.PRESIGN_METHOD_GET
    assert answer.HasField("expires_at")
    assert answer.url.startswith("http://127.0.0.1:")


def check_delete(wire):
    wire.stub.DeleteObject(wire.s3.DeleteObjectRequest(ref=wire.ref("a")), timeout=SECONDS)
    assert code_of(lambda: wire.read("a")) is grpc.StatusCode.NOT_FOUND


def check_more_open_reads_than_the_runtime_has_threads(wire):
    size = wire.write("long", BODY * 16).size
    request = wire.s3.ReadObjectRequest(ref=wire.ref("long"))
    streams = [wire.stub.ReadObject(request, timeout=SECONDS) for _ in range(8)]
    assert [next(stream).meta.size for stream in streams] == [size] * 8
    meta = wire.stub.HeadObject(wire.s3.HeadObjectRequest(ref=wire.ref("long")), timeout=SECONDS).meta
    assert meta.size == size
    for stream in streams:
        stream.cancel()
