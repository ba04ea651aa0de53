"""The rows of versions and payloads, counted in stretches, each in a view of its own.

So counting a large store never keeps the WAL from being shortened. The price: on a busy store the counts are of several
moments and need not agree with each other to the last object.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Integer, and_, exists, func, literal_column, select, tuple_

from gestalt_cas import reachability, schema
from gestalt_cas.parts import Parts
from gestalt_cas.progress import Progress
from gestalt_cas.statements import Prepared, parameter

STRETCH_ROWS = 4_000
"""Rows that one view counts: some hundredths of a second."""

_v, _c, _b, _u = schema.versions.c, schema.current.c, schema.blobs.c, schema.unreachable.c
_PLACE = (_v.bucket, _v.key, _v.seq)
_AFTER = tuple_(*_PLACE) > tuple_(parameter("bucket"), parameter("key"), parameter("seq"))
_UP_TO = tuple_(*_PLACE) <= tuple_(parameter("last_bucket"), parameter("last_key"), parameter("last_seq"))
_STRETCH_END = Prepared(
    select(*_PLACE)
    .where(_AFTER)
    .order_by(*_PLACE)
    .limit(literal_column("1"))
    .offset(parameter("rows", Integer) - literal_column("1"))
)


def _sum(column: ColumnElement[int], *where: ColumnElement[bool]) -> ColumnElement[int]:
    total = func.sum(column).filter(*where) if where else func.sum(column)
    return func.coalesce(total, literal_column("0"))


def _counting(*where: ColumnElement[bool]) -> Prepared:
    object_, live = _v.digest.is_not(None), _c.seq.is_not(None)
    joined = and_(_c.bucket == _v.bucket, _c.key == _v.key, _c.seq == _v.seq)
    return Prepared(
        select(
            func.count().filter(live),
            func.count().filter(object_),
            func.count().filter(_v.digest.is_(None)),
            _sum(_v.size, live),
            _sum(_v.size),
        )
        .select_from(schema.versions.outerjoin(schema.current, joined))
        .where(_v.gone_seq.is_(None), *where)
    )


_STRETCH, _REST = _counting(_AFTER, _UP_TO), _counting(_AFTER)
_reached = exists().where(_v.digest == _b.digest)
_PAYLOADS = Prepared(
    select(
        func.count(),
        _sum(_b.size),
        func.count(_b.damaged_ms),
        func.count().filter(~_reached),
        _sum(_b.size, ~_reached),
    ).where(_b.digest >= parameter("lower"), _b.digest < parameter("upper"))
)
_LOOSE = Prepared(
    select(_sum(_u.size)).where(
        _u.digest >= parameter("lower"), _u.digest < parameter("upper"), ~exists().where(_b.digest == _u.digest)
    )
)


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
    for first in range(256):
        lower, upper = reachability.bounds(first)
        with parts.database.read() as tx:
            rows, loose = _PAYLOADS(tx, lower=lower, upper=upper), _LOOSE(tx, lower=lower, upper=upper)
        found = _plus(found, (*rows[0], *loose[0]))
        progress("counting payloads, in 256 parts", first + 1, 256)
    return found


def _plus(found: Counted, row: tuple[Any, ...]) -> Counted:
    """The counts with those of one more row."""
    return type(found)(*(count + more for count, more in zip(astuple(found), row, strict=True)))
