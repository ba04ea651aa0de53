"""A row of versions as the ObjectVersion that it is, and what is stored of an object's headers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from gestalt_cas.errors import DatabaseDamaged
from gestalt_cas.objects import NO_METADATA, Headers, ObjectKey, ObjectVersion

COLUMNS = (
    "versions.key, versions.version_id, versions.seq, versions.size, versions.digest, versions.commit_ms, "
    "versions.content_type, versions.headers, versions.metadata"
)
"""What a query asks for, before all else, to have its rows read by `from_row`."""


_OTHERS = tuple(name for name in Headers._fields if name != "content_type")
_others_of = attrgetter(*_OTHERS)


def headers_json(headers: Headers) -> str | None:
    """What is stored of all headers but the content type, which has a column of its own; None for nothing."""
    if not any(_others_of(headers)):
        return None
    return json.dumps({name: value for name in _OTHERS if (value := getattr(headers, name))}, ensure_ascii=False)


@lru_cache(maxsize=64)
def _headers(content_type: str, others: str | None) -> Headers:
    """The stored headers. Cached: objects of one listing mostly share theirs, and a page has up to 1,000 of them."""
    return Headers(content_type, **(json.loads(others) if others else {}))


def from_row(bucket: str, row: Sequence[Any], *, current: bool = True) -> ObjectVersion:
    """The version that a row says, whose first columns are COLUMNS."""
    key, version_id, seq, size, digest, commit_ms, content_type, headers, metadata = row[:9]
    try:
        return ObjectVersion(
            ObjectKey(bucket, key.decode()),
            version_id,
            seq,
            size,
            digest.hex() if digest is not None else "",
            commit_ms,
            _headers(content_type, headers),
            MappingProxyType(json.loads(metadata)) if metadata else NO_METADATA,
            current,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise DatabaseDamaged(f"a version's row in bucket {bucket!r} holds what no write stores: {error}") from error
