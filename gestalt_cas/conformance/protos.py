"""The wire messages of both generations, built at run time in private descriptor pools.

`BUCKETED` is what SDKs a8 to a19 speak (bucket = field 1 of S3ObjectRef and ListObjectsRequest), `BUCKETLESS` what a20
and later speak (field 1 reserved). Both carry the real package name, which is possible because each has its own pool.
A line below reads `name=number type`, with `repeated`, `optional` (presence is tracked) or `oneof:NAME` before the
type; `map` is map<string, string>. Source: contract sections 1 and 2.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, message_factory, struct_pb2, timestamp_pb2

PACKAGE = "gestalt.provider.v1"
S3 = f"/{PACKAGE}.S3/"
LIFECYCLE = f"/{PACKAGE}.ProviderLifecycle/"

_BUCKET = "bucket=1 string, "
_SCALARS = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
}
_WELL_KNOWN = {
    "Timestamp": ".google.protobuf.Timestamp",
    "Struct": ".google.protobuf.Struct",
}
_ENUMS = {
    "PresignMethod": ("UNSPECIFIED", "GET", "PUT", "DELETE", "HEAD"),
    "ProviderKind": ("UNSPECIFIED", "APP", "IDENTITY", "INDEXEDDB", "SECRETS", "TELEMETRY", "CACHE", "S3"),
}
_ENUM_PREFIXES = {"PresignMethod": "PRESIGN_METHOD", "ProviderKind": "PROVIDER_KIND"}
_CONDITIONS = "if_match={} string, if_none_match={} string"
_S3_MESSAGES = {
    "S3ObjectRef": "BUCKET key=2 string, version_id=3 string",
    "S3ObjectMeta": "ref=1 S3ObjectRef, etag=2 string, size=3 int64, content_type=4 string, last_modified=5 Timestamp, "
    "metadata=6 map, storage_class=7 string",
    "ByteRange": "start=1 optional int64, end=2 optional int64",
    "HeadObjectRequest": "ref=1 S3ObjectRef",
    "HeadObjectResponse": "meta=1 S3ObjectMeta",
    "ReadObjectRequest": "ref=1 S3ObjectRef, range=2 ByteRange, " + _CONDITIONS.format(3, 4) + ", "
    "if_modified_since=5 Timestamp, if_unmodified_since=6 Timestamp",
    "ReadObjectChunk": "meta=1 oneof:result S3ObjectMeta, data=2 oneof:result bytes",
    "WriteObjectOpen": "ref=1 S3ObjectRef, content_type=2 string, cache_control=3 string, "
    "content_disposition=4 string, content_encoding=5 string, content_language=6 string, metadata=7 map, "
    + _CONDITIONS.format(8, 9),
    "WriteObjectRequest": "open=1 oneof:msg WriteObjectOpen, data=2 oneof:msg bytes",
    "WriteObjectResponse": "meta=1 S3ObjectMeta",
    "CopyObjectResponse": "meta=1 S3ObjectMeta",
    "DeleteObjectRequest": "ref=1 S3ObjectRef",
    "ListObjectsRequest": "BUCKET prefix=2 string, delimiter=3 string, continuation_token=4 string, "
    "start_after=5 string, max_keys=6 int32",
    "ListObjectsResponse": "objects=1 repeated S3ObjectMeta, common_prefixes=2 repeated string, "
    "next_continuation_token=3 string, has_more=4 bool",
    "CopyObjectRequest": "source=1 S3ObjectRef, destination=2 S3ObjectRef, " + _CONDITIONS.format(3, 4),
    "PresignObjectRequest": "ref=1 S3ObjectRef, method=2 PresignMethod, expires_seconds=3 int64, "
    "content_type=4 string, content_disposition=5 string, headers=6 map",
    "PresignObjectResponse": "url=1 string, method=2 PresignMethod, expires_at=3 Timestamp, headers=4 map",
}
_LIFECYCLE_MESSAGES = {
    "ProviderIdentity": "kind=1 ProviderKind, name=2 string, display_name=3 string, description=4 string, "
    "version=5 string, warnings=6 repeated string, min_protocol_version=10 int32, max_protocol_version=11 int32",
    "ConfigureProviderRequest": "name=1 string, config=2 Struct, protocol_version=3 int32",
    "ConfigureProviderResponse": "protocol_version=1 int32",
    "HealthCheckResponse": "ready=1 bool, message=2 string",
    "StartRuntimeProviderResponse": "protocol_version=1 int32",
}

METHODS = {
    "HeadObject": ("HeadObjectRequest", "HeadObjectResponse"),
    "ReadObject": ("ReadObjectRequest", "ReadObjectChunk"),
    "WriteObject": ("WriteObjectRequest", "WriteObjectResponse"),
    "DeleteObject": ("DeleteObjectRequest", "Empty"),
    "ListObjects": ("ListObjectsRequest", "ListObjectsResponse"),
    "CopyObject": ("CopyObjectRequest", "CopyObjectResponse"),
    "PresignObject": ("PresignObjectRequest", "PresignObjectResponse"),
}
LIFECYCLE_METHODS = {
    "GetProviderIdentity": ("Empty", "ProviderIdentity"),
    "ConfigureProvider": ("ConfigureProviderRequest", "ConfigureProviderResponse"),
    "HealthCheck": ("Empty", "HealthCheckResponse"),
    "StartProvider": ("Empty", "StartRuntimeProviderResponse"),
}


def _add_field(message: descriptor_pb2.DescriptorProto, line: str) -> None:
    head, *words = line.split()
    name, number = head.split("=")
    kind = words.pop()
    field = message.field.add(name=name, number=int(number), label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
    modifier = words[0] if words else ""
    if modifier == "repeated" or kind == "map":
        field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    elif kind in _ENUMS:
        field.type, field.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_ENUM, f".{PACKAGE}.{kind}"
    else:
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = _WELL_KNOWN.get(kind, f".{PACKAGE}.{kind}")
    if kind == "map":
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        _add_field(entry, "key=1 string")
        _add_field(entry, "value=2 string")
        entry.options.map_entry = True
        field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
    if modifier.startswith("oneof:"):
        oneof = modifier.removeprefix("oneof:")
        if oneof not in [known.name for known in message.oneof_decl]:
            message.oneof_decl.add(name=oneof)
        field.oneof_index = [known.name for known in message.oneof_decl].index(oneof)
    if modifier == "optional":
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")
        field.proto3_optional = True


def _file(name: str, messages: dict[str, str], enum: str, bucketed: bool) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=name, package=PACKAGE, syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/struct.proto"])
    for message_name, text in messages.items():
        message = file.message_type.add(name=message_name)
        for line in text.replace("BUCKET ", _BUCKET if bucketed else "").split(", "):
            _add_field(message, line)
    values = file.enum_type.add(name=enum)
    for number, value in enumerate(_ENUMS[enum]):
        values.value.add(name=f"{_ENUM_PREFIXES[enum]}_{value}", number=number)
    return file


def _generation(name: str, *, bucketed: bool) -> SimpleNamespace:
    pool = descriptor_pool.DescriptorPool()
    for known in (timestamp_pb2, struct_pb2, empty_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    for file in (
        _file("v1/s3.proto", _S3_MESSAGES, "PresignMethod", bucketed),
        _file("v1/runtime.proto", _LIFECYCLE_MESSAGES, "ProviderKind", bucketed),
    ):
        pool.AddSerializedFile(file.SerializeToString())
    classes: dict[str, Any] = {
        message: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{message}"))
        for message in (*_S3_MESSAGES, *_LIFECYCLE_MESSAGES)
    }
    for message in ("Timestamp", "Struct", "Empty"):
        descriptor = pool.FindMessageTypeByName(f"google.protobuf.{message}")
        classes[message] = message_factory.GetMessageClass(descriptor)
    return SimpleNamespace(generation=name, bucketed=bucketed, **classes)


BUCKETED = _generation("bucketed", bucketed=True)
BUCKETLESS = _generation("bucketless", bucketed=False)
GENERATIONS = {"bucketed": BUCKETED, "bucketless": BUCKETLESS}
