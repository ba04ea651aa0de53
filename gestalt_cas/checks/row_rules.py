"""The rules that each row of versions keeps because every write does, and how a row is named in a finding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from gestalt_cas.checks.findings import Affected
from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import MAX_KEY_BYTES, NULL_VERSION, Headers, check_attributes, check_bucket
from gestalt_cas.rows import version_ids
from gestalt_cas.wrong_values import lost_digests

DIGEST_BYTES = 32
NULL_ID = NULL_VERSION.encode()
Name = tuple[str, bytes]
"""Bucket and key."""
Place = tuple[str, bytes, int]
"""Bucket, key and seq of a version; rows lie in this order."""


class VersionRow(NamedTuple):
    """A row of versions as a check reads it: the columns as `tables.py` has them, but texts as bytes.

    They hold what is found, which may be of any type.
    """

    bucket: Any
    key: Any
    seq: Any
    version_id: bytes
    digest: Any
    size: Any
    content_type: bytes
    headers: bytes | None
    metadata: bytes | None
    commit_ms: Any
    gone_seq: Any
    gone_digest: Any
    gone_ms: Any
    lost_digest: str | None
    """What tells that the row is no delete marker though it has no digest (`lost_digests.why`); None: nothing does."""
    well_typed: bool
    """Whether all columns have the types that a write stores."""
    payload_size: int | None
    """What `blobs` says of its payload; its own size where that table cannot be asked."""
    has_payload: bool
    """Whether `blobs` has a row of its payload; true where that table cannot be asked."""

    @property
    def name(self) -> Name:
        return self.bucket, self.key

    @property
    def place(self) -> Place:
        return self.bucket, self.key, self.seq

    @property
    def is_object(self) -> bool:
        """Whether it is a version that stands, and no delete marker."""
        return self.digest is not None and self.gone_seq is None

    @property
    def id_text(self) -> str:
        """The version id, as far as it is text."""
        return bytes(self.version_id).decode(errors="backslashreplace")

    @property
    def last_seq(self) -> int:
        """The last change that it tells of: its removal, else its own."""
        return max(int(self.seq), int(self.gone_seq or 0))


def broken_rules(row: VersionRow) -> Iterator[str]:
    """What is wrong with a row in itself: one sentence for each rule that it breaks."""
    seq, digest, size, commit_ms, gone_ms = row.seq, row.digest, row.size, row.commit_ms, row.gone_ms
    yield from _broken_name(row.bucket, row.key)
    if not isinstance(seq, int) or seq < 1 or not isinstance(commit_ms, int) or commit_ms < 0:
        yield f"sequence {seq!r} or commit time {commit_ms!r} is no positive number"
    elif row.version_id != NULL_ID and not version_ids.could_be(row.id_text, seq):
        yield f"the version id {row.id_text!r} is not one that sequence {seq} can have"
    if not isinstance(size, int) or size < 0:
        yield f"the size {size!r} cannot be"
    elif row.lost_digest is not None:
        yield f"digest {lost_digests.why(row.lost_digest)}"
    if digest is not None and (not isinstance(digest, bytes) or len(digest) != DIGEST_BYTES):
        yield "the digest is not one of 32 bytes"
    yield from _broken_removal(seq, digest, row.gone_seq, row.gone_digest)
    if gone_ms is not None and isinstance(commit_ms, int) and not (isinstance(gone_ms, int) and gone_ms >= commit_ms):
        yield f"removed at {gone_ms!r}, which is not after it came at {commit_ms}"
    try:
        _check_texts(row.content_type, row.headers, row.metadata)
    except (ValueError, TypeError, AttributeError, RecursionError, InvalidArgument) as error:
        yield f"headers or metadata cannot be read: {error}"


def _broken_removal(seq: object, digest: object, gone_seq: object, gone_digest: object) -> Iterator[str]:
    if gone_seq is not None and not (isinstance(gone_seq, int) and isinstance(seq, int) and gone_seq > seq):
        yield f"removed by sequence {gone_seq!r}, which is not after its own"
    if gone_digest is None:
        return
    if gone_seq is None or digest is not None:
        yield "the row has a removed digest and is no removed version's"
    if not isinstance(gone_digest, bytes) or len(gone_digest) not in (0, DIGEST_BYTES):
        yield "the removed digest is not one of 32 bytes"


def _broken_name(bucket: object, key: object) -> Iterator[str]:
    try:
        if not isinstance(bucket, str) or not bucket:
            yield f"{bucket!r} is no bucket"
        else:
            check_bucket(bucket)
        if not isinstance(key, bytes) or not 0 < len(key) <= MAX_KEY_BYTES:
            yield "the key is empty, longer than any key may be, or no key at all"
        else:
            key.decode()
    except (InvalidArgument, UnicodeDecodeError) as error:
        yield f"bucket or key cannot be: {error}"


@lru_cache(maxsize=256)
def _check_texts(content_type: bytes, headers: bytes | None, metadata: bytes | None) -> None:
    """Raise unless the stored texts are what a write could have stored."""
    others, pairs = _mapping(headers), _mapping(metadata)
    check_attributes(Headers(content_type.decode(), **others), pairs)


def sentence(name: tuple[object, object], version_id: str, message: str) -> str:
    """What is wrong with a version, or with its key, for a person."""
    return f"{shown(*name)}{', version ' + version_id if version_id else ''}: {message}"


def pointer_sentence(name: tuple[object, object], wanted: int | None, found: int | None) -> str:
    """That `current` names another version of a key than its newest object, None standing for none."""
    return f"{shown(*name)}: current names {_told(found)}, the newest object is {_told(wanted)}"


def _told(seq: int | None) -> str:
    return "nothing" if seq is None else f"sequence {seq}"


def _mapping(text: bytes | None) -> Mapping[str, str]:
    found = json.loads(text) if text is not None else {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise TypeError("not a JSON object of texts")
    return found


def named(bucket: object, key: object, version_id: str = "") -> Affected:
    """The version, or the key, as findings name it, whatever its row holds."""
    text = key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key)
    return Affected(str(bucket), text, version_id)


def shown(bucket: object, key: object) -> str:
    """BUCKET/KEY for a message."""
    one = named(bucket, key)
    return f"{one.bucket}/{one.key}"
