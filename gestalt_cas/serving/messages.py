"""The wire's words and the store's: protobuf messages to and from `objects.py`, errors to gRPC statuses.

A `Namespace` carries what the configuration adds between the two: the key prefix, which is prepended to every key,
prefix and start_after and stripped from every key returned (contract section 6, "keyPrefix"). The bucket of a response
is the bucket of its request, empty staying empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from gestalt_cas import errors, wire_pb2
from gestalt_cas.errors import InvalidArgument, StoreError
from gestalt_cas.objects import ByteRange, Conditions, Headers, ListPage, ListQuery, ObjectKey, ObjectVersion
from gestalt_cas.rules.presign import Presigned, PresignQuery

Code = grpc.StatusCode

STATUS: dict[type[StoreError], grpc.StatusCode] = {
    errors.InvalidArgument: Code.INVALID_ARGUMENT,
    errors.NoSuchKey: Code.NOT_FOUND,
    errors.NoSuchSnapshot: Code.NOT_FOUND,
    errors.PreconditionFailed: Code.FAILED_PRECONDITION,
    errors.Held: Code.PERMISSION_DENIED,  # what S3's AccessDenied for a version under object lock becomes
    errors.InvalidRange: Code.OUT_OF_RANGE,
    errors.Cancelled: Code.CANCELLED,
    errors.StoreBusy: Code.UNAVAILABLE,
    errors.NotConfigured: Code.FAILED_PRECONDITION,
    errors.NotEnabled: Code.FAILED_PRECONDITION,
    errors.NotImplementedHere: Code.UNIMPLEMENTED,
    errors.MethodNotAllowed: Code.UNIMPLEMENTED,
    errors.BadDigest: Code.INVALID_ARGUMENT,
    errors.SignatureError: Code.PERMISSION_DENIED,
    errors.NoStore: Code.FAILED_PRECONDITION,
    errors.StoreUnusable: Code.FAILED_PRECONDITION,
    errors.SettingsConflict: Code.FAILED_PRECONDITION,
    errors.ClockSuspect: Code.FAILED_PRECONDITION,
    errors.Damage: Code.DATA_LOSS,
    errors.DatabaseDamaged: Code.DATA_LOSS,
    errors.StoreFull: Code.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: Code.RESOURCE_EXHAUSTED,
    errors.TooManyStreams: Code.RESOURCE_EXHAUSTED,
    errors.ObjectTooLarge: Code.UNIMPLEMENTED,
    errors.OutcomeUnknown: Code.UNAVAILABLE,
    errors.ShuttingDown: Code.UNAVAILABLE,
    errors.PeerStalled: Code.DEADLINE_EXCEEDED,
    errors.StorageFault: Code.INTERNAL,
}
"""One status per error; a class that is not listed has its nearest base's."""

PRESIGN_METHODS = {
    int(wire_pb2.PRESIGN_METHOD_GET): "GET",
    int(wire_pb2.PRESIGN_METHOD_PUT): "PUT",
    int(wire_pb2.PRESIGN_METHOD_DELETE): "DELETE",
    int(wire_pb2.PRESIGN_METHOD_HEAD): "HEAD",
}

M = TypeVar("M", bound=Message)


def status_of(error: StoreError) -> grpc.StatusCode:
    """The status that a caller gets for `error`."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return Code.INTERNAL


def decode(kind: type[M], raw: bytes) -> M:
    """Parse request bytes; raises InvalidArgument for bytes that are no such message."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidArgument(f"the request is not a valid {kind.__name__}: {error}") from None


@dataclass(frozen=True, slots=True)
class Namespace:
    """The key prefix between the keys that callers use and those that are stored."""

    key_prefix: str = ""

    def key(self, ref: wire_pb2.ObjectRef, what: str = "") -> ObjectKey:
        """The stored key of a reference; raises InvalidArgument when it names none."""
        if not ref.key:
            raise InvalidArgument(f"{what}key is required")
        return ObjectKey(ref.bucket, self.key_prefix + ref.key)

    def query(self, request: wire_pb2.ListObjectsRequest) -> ListQuery:
        return ListQuery(
            request.bucket,
            self.key_prefix + request.prefix,
            request.delimiter,
            self.key_prefix + request.start_after if request.start_after else "",
            request.continuation_token,
            request.max_keys,
        )

    def answer(self, version: ObjectVersion, bucket: str) -> wire_pb2.MetaResponse:
        """The answer that is the metadata of a version; `bucket` is what the request said."""
        response = wire_pb2.MetaResponse()
        self.fill(response.meta, version, bucket)
        return response

    def page(self, page: ListPage, bucket: str) -> wire_pb2.ListObjectsResponse:
        """A listing page as callers see it, without the key prefix; `bucket` is what the request said."""
        cut = len(self.key_prefix)
        response = wire_pb2.ListObjectsResponse(
            common_prefixes=[prefix[cut:] for prefix in page.common_prefixes],
            next_continuation_token=page.token,
            has_more=page.has_more,
        )
        add = response.objects.add
        for version in page.objects:
            self.fill(add(), version, bucket)
        return response

    def fill(self, meta: wire_pb2.ObjectMeta, version: ObjectVersion, bucket: str) -> None:
        """Set the metadata of a version as callers see it; `bucket` is what the request said.

        The fields are set where they are: messages handed to constructors are copied, several times the cost.
        """
        ref = meta.ref
        ref.bucket = bucket
        ref.key = version.key.key[len(self.key_prefix) :]
        ref.version_id = version.version_id
        meta.etag = version.etag
        meta.size = version.size
        meta.content_type = version.headers.content_type
        seconds, ms = divmod(version.modified_ms, 1000)
        modified = meta.last_modified
        modified.seconds = seconds
        modified.nanos = ms * 1_000_000
        if version.metadata:
            meta.metadata.update(version.metadata)


def headers(opening: wire_pb2.WriteObjectOpen) -> Headers:
    """The representation headers that an upload brings."""
    return Headers(
        opening.content_type,
        opening.cache_control,
        opening.content_disposition,
        opening.content_encoding,
        opening.content_language,
    )


def write_conditions(opening: wire_pb2.WriteObjectOpen) -> Conditions:
    """The preconditions of an upload; its version id names the version that must be current."""
    return Conditions(opening.if_match, opening.if_none_match, current_version=opening.ref.version_id)


def read_conditions(request: wire_pb2.ReadObjectRequest) -> Conditions:
    """The preconditions of a read; dates keep whole seconds, as HTTP has them."""
    return Conditions(
        request.if_match,
        request.if_none_match,
        request.if_modified_since.seconds if request.HasField("if_modified_since") else None,
        request.if_unmodified_since.seconds if request.HasField("if_unmodified_since") else None,
    )


def copy_conditions(request: wire_pb2.CopyObjectRequest) -> Conditions:
    """The preconditions of a copy: the tags judge the source, the version id the destination."""
    return Conditions(request.if_match, request.if_none_match, current_version=request.destination.version_id)


def presign_query(request: wire_pb2.PresignObjectRequest, bucket: str) -> PresignQuery:
    """What is to be signed; `bucket` is the real name of the request's. Unknown methods are GET."""
    return PresignQuery(
        ObjectKey(bucket, request.ref.key),
        PRESIGN_METHODS.get(request.method, "GET"),
        request.ref.version_id,
        request.expires_seconds,
        request.content_type,
        request.content_disposition,
        request.headers,
    )


def presigned(signed: Presigned, request: wire_pb2.PresignObjectRequest) -> wire_pb2.PresignObjectResponse:
    """The answer to a presign request; its method is always a concrete one."""
    return wire_pb2.PresignObjectResponse(
        url=signed.url,
        method=request.method if request.method in PRESIGN_METHODS else wire_pb2.PRESIGN_METHOD_GET,
        expires_at={"seconds": int(signed.expires_at.timestamp())},
        headers=signed.headers,
    )


def byte_range(request: wire_pb2.ReadObjectRequest) -> ByteRange | None:
    """The requested range; None when the request has none."""
    if not request.HasField("range"):
        return None
    wanted = request.range
    return ByteRange(wanted.start if wanted.HasField("start") else None, wanted.end if wanted.HasField("end") else None)
