"""The seven calls of gestalt.provider.v1.S3, without the SDK: parse, call the store, answer.

Handlers take raw bytes and parse inside, since grpcio answers INTERNAL itself when a deserialiser raises. Data frames
skip protobuf (`frames.py`). Method paths are the contract's; the message classes are our own superset, so bucketed and
bucketless SDK generations are served alike.

What comes in an upload's stream is the subject of `uploads.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from gestalt_cas import wire_pb2
from gestalt_cas.contract.calls import Calls, OpenCall
from gestalt_cas.contract.uploads import Upload
from gestalt_cas.errors import (
    NotEnabled,
    StoreError,
    TooManyStreams,
)
from gestalt_cas.objects import check_names
from gestalt_cas.observing.calls import GRPC, GrpcCall, Method, Observer
from gestalt_cas.rules import presign
from gestalt_cas.rules.frames import FIRST_FRAME_BYTES, pack_data
from gestalt_cas.serving import messages
from gestalt_cas.serving.mounts import Mount, Mounts
from gestalt_cas.serving.pools import CountedPool, Pools, on_pool, verified
from gestalt_cas.system import exhaustion
from gestalt_cas.system.processors import PROCESSORS

log = logging.getLogger(__name__)

SERVICE = "gestalt.provider.v1.S3"
_CHANGES = frozenset({"WriteObject", "DeleteObject", "CopyObject"})
_TOO_MANY = "too many calls at once; see limits.concurrentReads and concurrentWrites"

Behaviour = Callable[[Any, grpc.ServicerContext], Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class S3Service(grpc.GenericRpcHandler):
    """Hands out the handler of each method, or a refusal when the method's pool is full."""

    def __init__(self, mounts: Mounts, calls: Calls, pools: Pools, observer: Observer | None = None) -> None:
        self._mounts = mounts
        self._calls = calls
        self._observer = observer or Observer()
        self._refusals = pools.refusals
        self.handlers: dict[str, tuple[Handler, CountedPool, Handler]] = {}
        for name, serve, pool in (
            ("HeadObject", _head, pools.unary),
            ("ListObjects", _list, pools.unary),
            ("PresignObject", _presign, pools.unary),
            ("DeleteObject", _delete, pools.changes),
            ("CopyObject", _copy, pools.changes),
        ):
            self._add(name, grpc.unary_unary_rpc_method_handler, self._unary(self._method(name), serve), pool)
        read, write = self._method("ReadObject"), self._method("WriteObject")
        self._add(read.name, grpc.unary_stream_rpc_method_handler, self._read(read), pools.reads, self._refuse_stream)
        self._add(write.name, grpc.stream_unary_rpc_method_handler, self._write(write), pools.writes)

    def on_own_pools(self) -> bool:
        """Whether grpcio runs these handlers on their pools (start-up self test)."""
        read = self.handlers[f"/{SERVICE}/ReadObject"][0]
        return read.unary_stream is not None and verified(read.unary_stream)

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """Called by grpcio, before any pool thread is taken, on the one thread that accepts calls."""
        found = self.handlers.get(details.method)
        if found is None:
            return None
        handler, pool, refusal = found
        return refusal if pool.full else handler

    def _add(
        self,
        name: str,
        make: Callable[[Behaviour], Handler],
        behaviour: Behaviour,
        pool: CountedPool,
        refuse: Callable[[Method], Behaviour] | None = None,
    ) -> None:
        refusal = (refuse or self._refuse)(self._method(name))
        self.handlers[f"/{SERVICE}/{name}"] = (
            make(on_pool(behaviour, pool)),
            pool,
            make(on_pool(refusal, self._refusals)),
        )

    def _method(self, name: str) -> Method:
        return self._observer.method(GRPC, name, f"{SERVICE}/{name}")

    def _unary(self, method: Method, serve: Callable[[Mount, bytes], Message]) -> Behaviour:
        def behaviour(raw: bytes, context: grpc.ServicerContext) -> bytes:
            call = GrpcCall(method, context)
            try:
                with self._mounts.use() as mount:
                    answer = serve(mount, raw).SerializeToString(**mount.packing)
                call.done()
                return answer
            except Exception as error:  # noqa: BLE001 - abort() logs what is unexpected and answers INTERNAL
                failure = error
            return abort(call, failure)

        return behaviour

    def _read(self, method: Method) -> Behaviour:
        def behaviour(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            call = GrpcCall(method, context)
            try:
                with self._mounts.use() as mount, self._calls.track(call) as stream:
                    yield from _read(mount, raw, stream)
                call.done()
                return
            except GeneratorExit:
                call.cancelled()
                raise
            except Exception as error:  # noqa: BLE001 - abort() logs what is unexpected and answers INTERNAL
                failure = error
            abort(call, failure)

        return behaviour

    def _write(self, method: Method) -> Behaviour:
        def behaviour(frames: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            call = GrpcCall(method, context)
            try:
                with self._mounts.use() as mount, self._calls.track(call) as stream:
                    upload = Upload(frames, stream)
                    try:
                        answer = _write(mount, upload).SerializeToString(**mount.packing)
                    except StoreError as error:
                        upload.drain(error)
                        raise
                call.done()
                return answer
            except Exception as error:  # noqa: BLE001 - abort() logs what is unexpected and answers INTERNAL
                failure = error
            return abort(call, failure)

        return behaviour

    def _refuse(self, method: Method) -> Behaviour:
        def behaviour(_: Any, context: grpc.ServicerContext) -> bytes:
            return abort(GrpcCall(method, context), TooManyStreams(_TOO_MANY))

        return behaviour

    def _refuse_stream(self, method: Method) -> Behaviour:
        refuse = self._refuse(method)

        def behaviour(raw: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield refuse(raw, context)

        return behaviour


def _write(mount: Mount, upload: Upload) -> wire_pb2.MetaResponse:
    opening = upload.opening()
    version = mount.store.write(
        mount.namespace.key(opening.ref),
        PROCESSORS.moving(upload.data()),
        headers=messages.headers(opening),
        metadata=opening.metadata,
        conditions=messages.write_conditions(opening),
        confirm=upload.confirm,
    )
    return mount.namespace.answer(version, opening.ref.bucket)


def _read(mount: Mount, raw: bytes, call: OpenCall) -> Iterator[bytes]:
    request = messages.decode(wire_pb2.ReadObjectRequest, raw)
    reader = mount.store.read(
        mount.namespace.key(request.ref),
        version_id=request.ref.version_id,
        byte_range=messages.byte_range(request),
        conditions=messages.read_conditions(request),
    )
    with reader:
        opening = wire_pb2.ReadObjectChunk()
        mount.namespace.fill(opening.meta, reader.version, request.ref.bucket)
        yield opening.SerializeToString(**mount.packing)
        first = True
        for piece in PROCESSORS.moving(reader):
            call.progress()
            call.request.sent += len(piece)
            if first and len(piece) > FIRST_FRAME_BYTES:
                yield pack_data(piece[:FIRST_FRAME_BYTES])
                call.progress()
                yield pack_data(piece[FIRST_FRAME_BYTES:])
            else:
                yield pack_data(piece)
            first = False


def _head(mount: Mount, raw: bytes) -> Message:
    ref = messages.decode(wire_pb2.HeadObjectRequest, raw).ref
    version = mount.store.head(mount.namespace.key(ref), version_id=ref.version_id)
    return mount.namespace.answer(version, ref.bucket)


def _delete(mount: Mount, raw: bytes) -> Message:
    ref = messages.decode(wire_pb2.DeleteObjectRequest, raw).ref
    mount.store.delete(mount.namespace.key(ref), version_id=ref.version_id)
    return _EMPTY


def _list(mount: Mount, raw: bytes) -> Message:
    request = messages.decode(wire_pb2.ListObjectsRequest, raw)
    return mount.namespace.page(mount.store.list_page(mount.namespace.query(request)), request.bucket)


def _copy(mount: Mount, raw: bytes) -> Message:
    request = messages.decode(wire_pb2.CopyObjectRequest, raw)
    version = mount.store.copy(
        mount.namespace.key(request.source, "source "),
        mount.namespace.key(request.destination, "destination "),
        source_version_id=request.source.version_id,
        conditions=messages.copy_conditions(request),
    )
    return mount.namespace.answer(version, request.destination.bucket)


def _presign(mount: Mount, raw: bytes) -> Message:
    request = messages.decode(wire_pb2.PresignObjectRequest, raw)
    check_names(mount.namespace.key(request.ref))
    if not mount.public_url:
        raise NotEnabled("presigned URLs are switched off: set http.enabled to true in the provider's configuration")
    bucket = request.ref.bucket or mount.store.settings().bucket
    query, now = messages.presign_query(request, bucket), mount.config.stamps.now()
    signed = presign.presign(query, mount.keys.get(), mount.public_url, now=now)
    return messages.presigned(signed, request)


_EMPTY = wire_pb2.DeleteObjectRequest()  # an empty message is the same on the wire as google.protobuf.Empty


def abort(call: GrpcCall, error: Exception) -> bytes:
    """End the call with the status of `error`, and say which call it was; never returns."""
    name = call.method.name
    explained = exhaustion.explained(error, changing=name in _CHANGES)
    if isinstance(explained, StoreError):
        status, text = messages.status_of(explained), str(explained)
        if status in (grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS):
            log.error("%s: %s", name, text)
        elif explained is not error:
            log.warning("%s: %s", name, text)
    else:
        status, text = grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}"
        log.error("%s: unexpected %s", name, type(error).__name__, exc_info=error)
    call.end(status.name, failed=True, reason=text)
    call.context.abort(status, call.told(text))
    raise AssertionError("unreachable")
