"""The nouns of the store: keys, versions, ranges, conditions, listings. Values only; no I/O.

Those that a call makes many of are named tuples: a frozen dataclass takes four times as long to make, which was a
quarter of a page of a listing.

Limits are those of docs/contract.md (section 6): keys of 1 to 2,048 UTF-8 bytes with any Unicode in them, bucket names
of 0 to 255 bytes, metadata and stored headers of at most 64 KiB together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from gestalt_cas.errors import InvalidArgument

MAX_KEY_BYTES = 2048
MAX_BUCKET_BYTES = 255
MAX_METADATA_BYTES = 64 * 1024
MAX_PAGE = 1000
NULL_VERSION = "null"
"""The version id of S3's null version: the one that writes replace while versioning is suspended."""

NO_METADATA: Mapping[str, str] = MappingProxyType({})
_BREAK = re.compile("[\r\n\0]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def utf8(text: str, what: str) -> bytes:
    """Encode `text`; raises InvalidArgument naming `what` for lone surrogates, which UTF-8 cannot carry."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what} is not valid Unicode: {error.reason} at position {error.start}") from None


def check_bucket(bucket: str) -> None:
    """Raise InvalidArgument unless `bucket` is a usable name; the empty name stands for the default bucket."""
    if not bucket:
        return
    if len(utf8(bucket, "bucket name")) > MAX_BUCKET_BYTES:
        raise InvalidArgument(f"bucket name is longer than {MAX_BUCKET_BYTES} bytes")
    if "/" in bucket:
        raise InvalidArgument(f"bucket name {bucket!r} contains '/'")
    if _CONTROL.search(bucket):
        raise InvalidArgument(f"bucket name {bucket!r} contains a control character")


def check_key(key: str) -> bytes:
    """Return the key's UTF-8 bytes; raises InvalidArgument for an empty or over-long key."""
    if not key:
        raise InvalidArgument("key is required")
    encoded = utf8(key, "key")
    if len(encoded) > MAX_KEY_BYTES:
        raise InvalidArgument(f"key is {len(encoded)} bytes long; the limit is {MAX_KEY_BYTES}")
    return encoded


def check_prefix(prefix: str) -> bytes:
    """Return the prefix's UTF-8 bytes; raises InvalidArgument for one that no key can start with. Empty: every key."""
    encoded = utf8(prefix, "prefix")
    if len(encoded) > MAX_KEY_BYTES:
        raise InvalidArgument(f"prefix is {len(encoded)} bytes long; the limit is {MAX_KEY_BYTES}")
    return encoded


class ObjectKey(NamedTuple):
    """Where an object lives. `bucket` "" means the store's default bucket; `key` is opaque and never normalised."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"


class Headers(NamedTuple):
    """The HTTP representation headers stored with an object; "" means that none was given."""

    content_type: str = ""
    cache_control: str = ""
    content_disposition: str = ""
    content_encoding: str = ""
    content_language: str = ""


NO_HEADERS = Headers()


class ObjectVersion(NamedTuple):
    """One committed version of an object, or a delete marker.

    `version_id` is opaque, and NULL_VERSION for the null version. `seq`, from 1 on, orders all changes of the store.
    `size` is in bytes. `digest` is the BLAKE3-256 of the payload as 64 hex digits, "" for a delete marker.
    `modified_ms` is the commit time in milliseconds since the Unix epoch, and never decreases with `seq`. `current`: it
    is the newest version of its key, or was at the moment that was asked about. `removed`: it was removed for good
    after that moment, and its payload is kept no more (its digest is "" when it was purged).
    """

    key: ObjectKey
    version_id: str
    seq: int
    size: int
    digest: str
    modified_ms: int
    headers: Headers = NO_HEADERS
    metadata: Mapping[str, str] = NO_METADATA
    current: bool = True
    removed: bool = False

    def __reduce__(self) -> tuple[Callable[..., ObjectVersion], tuple[object, ...]]:
        return _version, tuple(self._replace(metadata=dict(self.metadata)))

    @property
    def delete_marker(self) -> bool:
        return not self.digest and not self.removed

    @property
    def etag(self) -> str:
        """The entity tag in its quoted form (RFC 9110 section 8.8.3); content-derived, so equal bytes agree."""
        return f'"{self.digest}"' if self.digest else ""


def _version(*values: Any) -> ObjectVersion:
    """A version that was pickled or copied; its metadata cannot be changed, but a view of that cannot be pickled."""
    version = ObjectVersion(*values)
    return version._replace(metadata=MappingProxyType(dict(version.metadata)))


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Byte positions, both inclusive; either may be absent (None): `end` alone is the first `end` + 1 bytes.

    An `end` past the object is cut to its last byte. Semantics: s3.proto ReadObject, see `ranges.py`.
    """

    start: int | None = None
    end: int | None = None


class Conditions(NamedTuple):
    """Preconditions as a caller gave them.

    Tags are the raw text of the HTTP field: one tag or a comma list, quoted or not, weak or not, or `*`; "" when
    absent. Dates are seconds since the Unix epoch, None when absent; only reads judge them. `current_version` is
    "the current version has this id" ("" when absent), which the contract puts into the version id of a write's or
    copy's destination. Source: RFC 9110 section 13; what each call makes of them is in `conditions.py`.
    """

    if_match: str = ""
    if_none_match: str = ""
    if_modified_since: int | None = None
    if_unmodified_since: int | None = None
    current_version: str = ""

    def __bool__(self) -> bool:
        return bool(
            self.if_match
            or self.if_none_match
            or self.if_modified_since is not None
            or self.if_unmodified_since is not None
            or self.current_version
        )


NO_CONDITIONS = Conditions()


@dataclass(frozen=True, slots=True)
class ListQuery:
    """One page of a listing. `max_keys` of 0 or less means 1,000, and more than 1,000 is cut to it.

    Of the keys that start with `prefix`, in byte order of their UTF-8. With a `delimiter` (any text) those that have it
    behind the prefix come as one common prefix, up to and with its first occurrence. `start_after` is exclusive and
    ignored when there is a `token` (the continuation token of the page before). Source: the S3 API reference,
    ListObjectsV2.
    """

    bucket: str = ""
    prefix: str = ""
    delimiter: str = ""
    start_after: str = ""
    token: str = ""
    max_keys: int = 0

    @property
    def limit(self) -> int:
        return min(self.max_keys, MAX_PAGE) if self.max_keys > 0 else MAX_PAGE


@dataclass(frozen=True, slots=True)
class ListPage:
    """Objects and common prefixes, each in byte order of their UTF-8; together they are one merged sequence.

    `token` is empty exactly when no further entry exists.
    """

    objects: tuple[ObjectVersion, ...]
    common_prefixes: tuple[str, ...]
    token: str

    @property
    def has_more(self) -> bool:
        return bool(self.token)


@dataclass(frozen=True, slots=True)
class VersionPage:
    """Versions and delete markers: keys in byte order, within a key the newest first.

    `token` is empty when nothing follows. With one there may be fewer versions than asked for, none even, and nothing
    may follow: go on until there is no token.
    """

    versions: tuple[ObjectVersion, ...]
    token: str


def check_names(key: ObjectKey, what: str = "") -> None:
    """Raise InvalidArgument, its message beginning with `what`, unless bucket and key are usable names."""
    try:
        check_bucket(key.bucket)
        check_key(key.key)
    except InvalidArgument as error:
        raise InvalidArgument(f"{what}{error}") from None


_ONE_PIECE = (bytes, bytearray, memoryview, str)


def require_pieces(body: object) -> None:
    """Raise TypeError for one piece where pieces are wanted: bytes are iterable as well, and yield numbers."""
    if isinstance(body, _ONE_PIECE):
        raise TypeError(f"a body is an iterable of bytes, not {type(body).__name__}; write [piece] for one piece")


def check_attributes(headers: Headers, metadata: Mapping[str, str]) -> None:
    """Raise InvalidArgument unless headers and user metadata may be stored (contract section 6)."""
    total = 0
    for name in Headers._fields:
        value = getattr(headers, name)
        if not value:
            continue
        if _BREAK.search(value):
            raise InvalidArgument(f"{name} contains a line break or NUL")
        total += len(utf8(value, name))
    for name, value in metadata.items():
        total += len(utf8(name, "metadata name")) + len(utf8(value, f"metadata value of {name!r}"))
    if total > MAX_METADATA_BYTES:
        raise InvalidArgument(f"metadata and headers take {total} bytes; the limit is {MAX_METADATA_BYTES}")
