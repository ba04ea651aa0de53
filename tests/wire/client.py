"""A thin S3 client per wire generation, and a lifecycle client as a host has one.

Requests and responses are the messages of `protos`; nothing is hidden but the framing. The bucketed client keeps grpc's
default receive limit of 4 MiB, as its SDKs do, so an over-long frame or page fails the test that provoked it; the
bucketless one has the 64 MiB of later SDKs. Every call has a deadline: a server that hangs fails a test, it does not
stall the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self

import grpc
import pytest

from gestalt_cas.conformance.requests import Requests
from gestalt_cas.conformance.wire import frames
from wire import protos

DEADLINE_SECONDS = 60
LATER_SDK_MESSAGE_BYTES = 64 * 1024 * 1024
QUIET = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


def open_channel(target: str, *options: tuple[str, Any]) -> grpc.Channel:
    """A channel of its own connection; `target` is unix:///path or tcp://host:port as the server prints it."""
    return grpc.insecure_channel(target.removeprefix("tcp://"), options=(*QUIET, *options))


@contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[Any]:
    """Expect an RPC to end with `code` and a message that holds each of `words` (in any case)."""
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    error = caught.value
    assert error.code() is code, f"expected {code}, got {error.code()}: {error.details()}"
    for word in words:
        assert word.lower() in error.details().lower(), error.details()


def status_of(call: Callable[[], Any]) -> grpc.StatusCode:
    """The status that a call ends with, OK included."""
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def eventually(condition: Callable[[], Any], what: str, seconds: float = 15) -> Any:
    """Poll until `condition` returns something true and return it; fail naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class Client(Requests):
    """The S3 service as one generation of SDKs sees it."""

    def __init__(self, target: str, generation: SimpleNamespace, *options: tuple[str, Any]) -> None:
        limit = () if generation.bucketed else (("grpc.max_receive_message_length", LATER_SDK_MESSAGE_BYTES),)
        self.pb = generation
        self.target = target
        self.channel = open_channel(target, *limit, *options)
        multi = {
            "ReadObject": self.channel.unary_stream,
            "WriteObject": self.channel.stream_unary,
        }
        self.stubs: dict[str, Any] = {}
        for method, (request, response) in protos.METHODS.items():
            self.stubs[method] = multi.get(method, self.channel.unary_unary)(
                protos.S3 + method,
                request_serializer=getattr(generation, request).SerializeToString,
                response_deserializer=getattr(generation, response).FromString,
            )

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, request: Any, timeout: float = DEADLINE_SECONDS) -> Any:
        return self.stubs[method](request, timeout=timeout)

    def ref(self, key: str, *, bucket: str = "", version_id: str = "") -> Any:
        assert self.pb.bucketed or not bucket, "a bucketless client cannot name a bucket"
        return super().ref(key, bucket=bucket, version_id=version_id)

    def upload(self, requests: Iterable[Any], timeout: float = DEADLINE_SECONDS) -> Any:
        """Start an upload and return its future; `requests` is drawn from in a thread of grpc's."""
        return self.stubs["WriteObject"].future(iter(requests), timeout=timeout)

    def send(self, requests: Iterable[Any]) -> Any:
        """An upload of exactly these frames; the meta of the response."""
        return self.call("WriteObject", iter(requests)).meta

    def write(self, key: str, body: bytes = b"", *, parts: list[bytes] | None = None, **fields: Any) -> Any:
        """Write an object in 64 KiB frames, or in the given `parts`; the meta of the response."""
        pieces = frames(body) if parts is None else parts
        return self.send([self.open_frame(key, **fields), *map(self.data_frame, pieces)])

    def head(self, key: str, **where: str) -> Any:
        return self.call("HeadObject", self.pb.HeadObjectRequest(ref=self.ref(key, **where))).meta

    def exists(self, key: str, **where: str) -> bool:
        status = status_of(lambda: self.head(key, **where))
        assert status in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND), status
        return status is grpc.StatusCode.OK

    def read_stream(self, key: str, timeout: float = DEADLINE_SECONDS, **fields: Any) -> Any:
        """The running call; iterate it for ReadObjectChunk frames."""
        return self.stubs["ReadObject"](self.read_request(key, **fields), timeout=timeout)

    def read(self, key: str, **fields: Any) -> tuple[Any, list[bytes]]:
        """Read to the end: the meta of the first frame and the bytes of each further one."""
        first, *rest = self.read_stream(key, **fields)
        assert first.WhichOneof("result") == "meta"
        assert all(chunk.WhichOneof("result") == "data" for chunk in rest)
        return first.meta, [chunk.data for chunk in rest]

    def body(self, key: str, **fields: Any) -> bytes:
        return b"".join(self.read(key, **fields)[1])

    def delete(self, key: str, **where: str) -> None:
        self.call("DeleteObject", self.pb.DeleteObjectRequest(ref=self.ref(key, **where)))

    def list(self, *, bucket: str = "", **fields: Any) -> Any:
        """One page; `fields` are those of ListObjectsRequest."""
        if bucket:
            fields["bucket"] = bucket
        return self.call("ListObjects", self.pb.ListObjectsRequest(**fields))

    def pages(self, **fields: Any) -> list[Any]:
        """All pages of a listing, following the tokens; the page rules of contract 3.7 are checked on the way."""
        pages = [self.list(**fields)]
        while pages[-1].has_more:
            token = pages[-1].next_continuation_token
            assert token, "has_more without a token"
            pages.append(self.list(**{**fields, "continuation_token": token}))
            assert len(pages) < 5000, "the listing does not end"
        assert pages[-1].next_continuation_token == ""
        return pages

    def keys(self, **fields: Any) -> list[str]:
        return [meta.ref.key for page in self.pages(**fields) for meta in page.objects]

    def copy(
        self,
        source: str,
        destination: str,
        *,
        bucket: str = "",
        to_bucket: str | None = None,
        source_version: str = "",
        version_id: str = "",
        **conditions: str,
    ) -> Any:
        """Copy within `bucket`, or to `to_bucket`; the meta of the response."""
        request = self.pb.CopyObjectRequest(
            source=self.ref(source, bucket=bucket, version_id=source_version),
            destination=self.ref(destination, bucket=bucket if to_bucket is None else to_bucket, version_id=version_id),
            **conditions,
        )
        return self.call("CopyObject", request).meta


class Place:
    """A part of a shared server that belongs to one test: a bucket of its own, or a key prefix where there is none.

    Methods are those of `Client`, taking names within the place; `key` gives the key on the wire.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.pb = client.pb
        self.bucket = f"b-{name}" if client.pb.bucketed else ""
        self.prefix = "" if client.pb.bucketed else f"p-{name}/"

    @property
    def bucketed(self) -> bool:
        return bool(self.pb.bucketed)

    def key(self, name: str) -> str:
        return self.prefix + name

    def name(self, key: str) -> str:
        assert key.startswith(self.prefix), key
        return key[len(self.prefix) :]

    def ref(self, name: str, version_id: str = "") -> Any:
        return self.client.ref(self.key(name), bucket=self.bucket, version_id=version_id)

    def write(self, name: str, body: bytes = b"", **fields: Any) -> Any:
        return self.client.write(self.key(name), body, bucket=self.bucket, **fields)

    def open_frame(self, name: str, **fields: Any) -> Any:
        return self.client.open_frame(self.key(name), bucket=self.bucket, **fields)

    def head(self, name: str, **fields: Any) -> Any:
        return self.client.head(self.key(name), bucket=self.bucket, **fields)

    def exists(self, name: str, **fields: Any) -> bool:
        return self.client.exists(self.key(name), bucket=self.bucket, **fields)

    def read(self, name: str, **fields: Any) -> tuple[Any, list[bytes]]:
        return self.client.read(self.key(name), bucket=self.bucket, **fields)

    def read_stream(self, name: str, **fields: Any) -> Any:
        return self.client.read_stream(self.key(name), bucket=self.bucket, **fields)

    def body(self, name: str, **fields: Any) -> bytes:
        return self.client.body(self.key(name), bucket=self.bucket, **fields)

    def delete(self, name: str, **fields: Any) -> None:
        self.client.delete(self.key(name), bucket=self.bucket, **fields)

    def copy(self, source: str, destination: str, **fields: Any) -> Any:
        return self.client.copy(self.key(source), self.key(destination), bucket=self.bucket, **fields)

    def list(self, *, prefix: str = "", start_after: str = "", **fields: Any) -> Any:
        """One page within the place: `prefix` and `start_after` are names (an empty start_after stays empty)."""
        after = self.key(start_after) if start_after else ""
        return self.client.list(bucket=self.bucket, prefix=self.key(prefix), start_after=after, **fields)

    def pages(self, *, prefix: str = "", start_after: str = "", **fields: Any) -> list[Any]:
        after = self.key(start_after) if start_after else ""
        return self.client.pages(bucket=self.bucket, prefix=self.key(prefix), start_after=after, **fields)

    def names(self, page: Any) -> list[str]:
        return [self.name(meta.ref.key) for meta in page.objects]

    def groups(self, page: Any) -> list[str]:
        return [self.name(prefix) for prefix in page.common_prefixes]


class Lifecycle:
    """The ProviderLifecycle service as a host calls it, over the channel a host would open (authority localhost)."""

    def __init__(self, target: str, generation: SimpleNamespace = protos.BUCKETLESS) -> None:
        self.pb = generation
        self.channel = open_channel(target, ("grpc.default_authority", "localhost"))
        self.stubs: dict[str, Any] = {
            method: self.channel.unary_unary(
                protos.LIFECYCLE + method,
                request_serializer=getattr(generation, request).SerializeToString,
                response_deserializer=getattr(generation, response).FromString,
            )
            for method, (request, response) in protos.LIFECYCLE_METHODS.items()
        }

    def close(self) -> None:
        self.channel.close()

    def identity(self) -> Any:
        return self.stubs["GetProviderIdentity"](self.pb.Empty(), timeout=DEADLINE_SECONDS)

    def configure(self, config: dict[str, Any], *, version: int = 5, name: str = "assets") -> Any:
        request = self.pb.ConfigureProviderRequest(name=name, protocol_version=version)
        request.config.update(config)
        return self.stubs["ConfigureProvider"](request, timeout=DEADLINE_SECONDS)

    def health(self) -> Any:
        return self.stubs["HealthCheck"](self.pb.Empty(), timeout=DEADLINE_SECONDS)

    def start(self) -> Any:
        return self.stubs["StartProvider"](self.pb.Empty(), timeout=DEADLINE_SECONDS)
