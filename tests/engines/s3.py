"""An S3 endpoint as a provider of the contract: one call of the S3 API for each call of ours, and nothing added.

    python -m engines.s3 --endpoint http://127.0.0.1:5000 --grpc unix:///path     (with tests/ on the path)

What the adapter has to decide is only how errors are named; conditions, ranges, listings and versions are left to the
engine, so a deviation is the engine's. Buckets of the bucketed generation become buckets, made when they are first
named; keys go as they are.
"""

from __future__ import annotations

import argparse
import datetime
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import boto3
import grpc
from botocore.config import Config
from botocore.exceptions import ClientError, ParamValidationError

from gestalt_cas.conformance import protos
from wrong.good import Refused, _Handlers

Code = grpc.StatusCode
CODES = {
    400: Code.INVALID_ARGUMENT,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    412: Code.FAILED_PRECONDITION,
    304: Code.FAILED_PRECONDITION,
    409: Code.FAILED_PRECONDITION,
    416: Code.OUT_OF_RANGE,
    501: Code.UNIMPLEMENTED,
}
DEFAULT_BUCKET = "default-bucket"
_ACTIONS = {1: "get_object", 2: "put_object", 3: "delete_object", 4: "head_object"}


def refused(error: Exception) -> Refused:
    """What the engine said, in the contract's words."""
    if isinstance(error, ParamValidationError):
        return Refused(Code.INVALID_ARGUMENT, str(error))
    assert isinstance(error, ClientError)
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return Refused(CODES.get(status, Code.INTERNAL), str(error))


class Engine:
    """The seven calls; `client` is boto3's."""

    def __init__(self, pb: SimpleNamespace, client: Any, versioning: bool) -> None:
        self.pb = pb
        self._client = client
        self._versioning = versioning
        self._made: set[str] = set()
        self._lock = threading.Lock()

    def _call(self, name: str, **arguments: Any) -> Any:
        given = {key: value for key, value in arguments.items() if value not in ("", None, {})}
        try:
            return getattr(self._client, name)(**given)
        except (ClientError, ParamValidationError) as error:
            raise refused(error) from error

    def _bucket(self, message: Any) -> str:
        name = (message.bucket if self.pb.bucketed else "") or DEFAULT_BUCKET
        with self._lock:
            if name not in self._made:
                self._call("create_bucket", Bucket=name)
                if self._versioning:
                    enabled = {"Status": "Enabled"}
                    self._call("put_bucket_versioning", Bucket=name, VersioningConfiguration=enabled)
                self._made.add(name)
        return name

    def _where(self, ref: Any) -> dict[str, str]:
        if not ref.key:
            raise Refused(Code.INVALID_ARGUMENT, "key is required")
        return {"Bucket": self._bucket(ref), "Key": ref.key}

    def _meta(self, ref: Any, found: Any, size: int) -> Any:
        meta = self.pb.S3ObjectMeta(
            etag=found.get("ETag", ""),
            size=size,
            content_type=found.get("ContentType", ""),
            metadata=found.get("Metadata", {}),
        )
        meta.ref.CopyFrom(ref)
        version = found.get("VersionId", "")
        meta.ref.version_id = "" if version == "null" else version
        modified = found.get("LastModified")
        if modified is not None:
            meta.last_modified.FromDatetime(modified)
        return meta

    def _headed(self, ref: Any, version_id: str) -> Any:
        found = self._call("head_object", **self._where(ref), VersionId=version_id)
        return self._meta(ref, found, found["ContentLength"])

    def HeadObject(self, request: Any, _: Any) -> Any:
        return self.pb.HeadObjectResponse(meta=self._headed(request.ref, request.ref.version_id))

    def ReadObject(self, request: Any, _: Any) -> Iterator[Any]:
        first = request.range.start if request.range.HasField("start") else None
        last = request.range.end if request.range.HasField("end") else None
        if any(end is not None and end < 0 for end in (first, last)) or (
            first is not None and last is not None and first > last
        ):
            self._headed(request.ref, request.ref.version_id)
            raise Refused(Code.OUT_OF_RANGE, "no such bytes")
        asked = "" if first is None and last is None else f"bytes={first or 0}-{'' if last is None else last}"
        dates = {
            name: datetime.datetime.fromtimestamp(getattr(request, field).seconds, datetime.UTC)
            for name, field in (("IfModifiedSince", "if_modified_since"), ("IfUnmodifiedSince", "if_unmodified_since"))
            if request.HasField(field)
        }
        found = self._call(
            "get_object",
            **self._where(request.ref),
            VersionId=request.ref.version_id,
            Range=asked,
            IfMatch=request.if_match,
            IfNoneMatch=request.if_none_match,
            **dates,
        )
        total = found["ContentRange"].rpartition("/")[2] if "ContentRange" in found else found["ContentLength"]
        yield self.pb.ReadObjectChunk(meta=self._meta(request.ref, found, int(total)))
        for piece in found["Body"].iter_chunks(256 << 10):
            yield self.pb.ReadObjectChunk(data=piece)

    def WriteObject(self, requests: Iterator[Any], context: Any) -> Any:
        frames = list(self._frames(requests))
        kinds = [frame.WhichOneof("msg") for frame in frames]
        if kinds[:1] != ["open"] or set(kinds[1:]) - {"data"}:
            raise Refused(Code.INVALID_ARGUMENT, "an upload is an opening and data")
        opening = frames[0].open
        where = self._where(opening.ref)
        context.send_initial_metadata(())
        threading.Event().wait(0.005)
        if not context.is_active():
            raise Refused(Code.CANCELLED, "cancelled")
        self._call(
            "put_object",
            **where,
            Body=b"".join(frame.data for frame in frames[1:]) or b"",
            ContentType=opening.content_type,
            Metadata=dict(opening.metadata),
            IfMatch=opening.if_match,
            IfNoneMatch=opening.if_none_match,
        )
        return self.pb.WriteObjectResponse(meta=self._headed(opening.ref, ""))

    def _frames(self, requests: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from requests
        except grpc.RpcError:
            raise Refused(Code.CANCELLED, "cancelled") from None

    def DeleteObject(self, request: Any, _: Any) -> Any:
        self._call("delete_object", **self._where(request.ref), VersionId=request.ref.version_id)
        return self.pb.Empty()

    def CopyObject(self, request: Any, _: Any) -> Any:
        source = self._where(request.source)
        if request.source.version_id:
            source["VersionId"] = request.source.version_id
        to = self._where(request.destination)
        self._headed(request.source, request.source.version_id)
        self._call(
            "copy_object",
            **to,
            CopySource=source,
            CopySourceIfMatch=request.if_match,
            CopySourceIfNoneMatch=request.if_none_match,
        )
        return self.pb.CopyObjectResponse(meta=self._headed(request.destination, ""))

    def ListObjects(self, request: Any, _: Any) -> Any:
        found = self._call(
            "list_objects_v2",
            Bucket=self._bucket(request),
            Prefix=request.prefix,
            Delimiter=request.delimiter,
            StartAfter=request.start_after,
            ContinuationToken=request.continuation_token,
            MaxKeys=min(request.max_keys, 1000) if request.max_keys > 0 else 1000,
        )
        page = self.pb.ListObjectsResponse(
            common_prefixes=[group["Prefix"] for group in found.get("CommonPrefixes", [])],
            has_more=found["IsTruncated"],
            next_continuation_token=found.get("NextContinuationToken", ""),
        )
        for one in found.get("Contents", []):
            ref = self.pb.S3ObjectRef(key=one["Key"])
            if self.pb.bucketed:
                ref.bucket = request.bucket
            page.objects.append(self._meta(ref, one, one["Size"]))
        return page

    def PresignObject(self, request: Any, _: Any) -> Any:
        if request.expires_seconds < 0:
            raise Refused(Code.INVALID_ARGUMENT, "expires_seconds")
        method = request.method if request.method in _ACTIONS else 1
        seconds = request.expires_seconds or 900
        parameters: dict[str, str] = {**self._where(request.ref)}
        given = {"ContentType": request.content_type, "ContentDisposition": request.content_disposition}
        for name, value in given.items():
            if value and method == 2:
                parameters[name] = value
            elif value and method == 1:
                parameters[f"Response{name}"] = value
        if request.ref.version_id and method != 2:
            parameters["VersionId"] = request.ref.version_id
        try:
            url = self._client.generate_presigned_url(_ACTIONS[method], parameters, ExpiresIn=seconds)
        except (ClientError, ParamValidationError) as error:
            raise refused(error) from error
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        if method == 2:
            headers |= {
                name: value
                for name, value in (
                    ("Content-Type", request.content_type),
                    ("Content-Disposition", request.content_disposition),
                )
                if value
            }
        answer = self.pb.PresignObjectResponse(url=url, method=method, headers=headers)
        answer.expires_at.FromDatetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds))
        return answer


def client_of(endpoint: str) -> Any:
    """A client that neither retries nor adds checksums: what the engine answers is what is judged."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="S3RVER",
        aws_secret_access_key="engine-secret",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"max_attempts": 1},
            max_pool_connections=64,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--grpc", required=True)
    parser.add_argument("--bucketed", action="store_true")
    parser.add_argument("--unversioned", action="store_true")
    options = parser.parse_args()
    pb = protos.BUCKETED if options.bucketed else protos.BUCKETLESS
    engine = Engine(pb, client_of(options.endpoint), not options.unversioned)
    limit = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20))
    server = grpc.server(ThreadPoolExecutor(32), handlers=[_Handlers(engine)], options=limit)
    server.add_insecure_port(options.grpc)
    server.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(0.2).wait()


if __name__ == "__main__":
    main()
