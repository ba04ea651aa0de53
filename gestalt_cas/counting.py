"""The rows of versions and payloads, counted in stretches, each in a view of its own.

So counting a large store never keeps the WAL from being shortened. The price: on a busy store the counts are of several
moments and need not agree with each other to the last object.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, TypeVar

from gestalt_cas.files.layout import FAN_OUT
from gestalt_cas.keeping import reachability
from gestalt_cas.keeping.reachability import IS_LOOSE, REACHED
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress
from gestalt_cas.sql.statements import Prepared

STRETCH_ROWS = 4_000
"""Rows that one view counts: some hundredths of a second."""

_AFTER = "(versions.bucket, versions.key, versions.seq) > (:bucket, :key, :seq)"
_STRETCH_END = Prepared(f"""
    SELECT bucket, key, seq FROM versions WHERE {_AFTER} ORDER BY bucket, key, seq LIMIT 1 OFFSET :rows - 1
""")
_COUNTS = f"""
    SELECT count(*) FILTER (WHERE current.seq IS NOT NULL), count(*) FILTER (WHERE versions.digest IS NOT NULL),
        count(*) FILTER (WHERE versions.digest IS NULL),
        coalesce(sum(versions.size) FILTER (WHERE current.seq IS NOT NULL), 0), coalesce(sum(versions.size), 0)
    FROM versions LEFT JOIN current
        ON current.bucket = versions.bucket AND current.key = versions.key AND current.seq = versions.seq
    WHERE versions.gone_seq IS NULL AND {_AFTER}
"""
_STRETCH = Prepared(
    f"{_COUNTS} AND (versions.bucket, versions.key, versions.seq) <= (:last_bucket, :last_key, :last_seq)"
)
_REST = Prepared(_COUNTS)
_PAYLOADS = Prepared(f"""
    SELECT count(*), coalesce(sum(size), 0), count(damaged_ms), count(*) FILTER (WHERE NOT {REACHED}),
        coalesce(sum(size) FILTER (WHERE NOT {REACHED}), 0)
    FROM blobs WHERE digest >= :lower AND digest < :upper
""")
_LOOSE = Prepared(f"""
    SELECT coalesce(sum(size), 0) FROM unreachable WHERE digest >= :lower AND digest < :upper AND {IS_LOOSE}
""")


@dataclass(frozen=True, slots=True)
class Contents:
    """Counts and bytes of rows. `logical_bytes` is of current objects, `version_bytes` of all versions."""

    objects: int = 0
    versions: int = 0
    delete_markers: int = 0
    logical_bytes: int = 0
    version_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Payloads:
    """Distinct contents that the store keeps; `damaged` as far as is known, `unreached` by any version.

    `loose_bytes` are of files without a row that gc has met: what cut-off uploads had published.
    """

    count: int = 0
    bytes: int = 0
    damaged: int = 0
    unreached: int = 0
    unreached_bytes: int = 0
    loose_bytes: int = 0


Counted = TypeVar("Counted", Contents, Payloads)


def count_versions(parts: Parts, progress: Progress) -> Contents:
    """Count the rows of versions, a stretch of the primary key at a time."""
    found = Contents()
    after: tuple[str, bytes, int] | None = "", b"", -1
    while after is not None:
        bucket, key, seq = after
        here = {"bucket": bucket, "key": key, "seq": seq}
        with parts.database.read() as tx:
            ends = _STRETCH_END(tx, **here, rows=STRETCH_ROWS)
            if ends:
                last_bucket, last_key, last_seq = ends[0]
                rows = _STRETCH(tx, **here, last_bucket=last_bucket, last_key=last_key, last_seq=last_seq)
                after = last_bucket, last_key, last_seq
            else:
                rows, after = _REST(tx, **here), None
        found = _plus(found, rows[0])
        progress("counting versions", found.versions + found.delete_markers, 0)
    return found


def count_payloads(parts: Parts, progress: Progress) -> Payloads:
    """Count the rows of payloads, those of one first byte of the digest at a time."""
    found = Payloads()
    for first in range(len(FAN_OUT)):
        lower, upper = reachability.bounds(first)
        with parts.database.read() as tx:
            rows, loose = _PAYLOADS(tx, lower=lower, upper=upper), _LOOSE(tx, lower=lower, upper=upper)
        found = _plus(found, (*rows[0], *loose[0]))
        progress(f"counting payloads, in {len(FAN_OUT)} parts", first + 1, len(FAN_OUT))
    return found


def _plus(found: Counted, row: tuple[Any, ...]) -> Counted:
    """The counts with those of one more row."""
    return type(found)(*(count + more for count, more in zip(astuple(found), row, strict=True)))
