"""What stays of a version that was removed for good, and what a snapshot keeps of it.

Its row stays for the history: it says what was there, and which change removed it. Unless a snapshot reaches the row
its digest moves to `gone_digest`, which keeps no payload; so `digest` says, here as everywhere, which payloads are
reached.

A snapshot reaches, of each key below it, the version that was the newest at its sequence, a delete marker included:
what a read as of the snapshot answers with, and nothing older. Every function works in the transaction of its caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Integer, and_, case, func, literal_column, null, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from gestalt_cas import schema
from gestalt_cas.sqlite import Connection
from gestalt_cas.statements import Prepared, parameter

_p = parameter
_v, _s, _b = schema.versions.c, schema.snapshots.c, schema.blobs.c
_newer = schema.versions.alias("newer")
_n = _newer.c
STRETCH = 4096
"""Kept versions that one view looks at."""


class Kept(NamedTuple):
    """A removed version that has its payload still."""

    bucket: str
    key: bytes
    seq: int
    digest: bytes


def _reaching(bucket: ColumnElement[str], key: ColumnElement[bytes], seq: ColumnElement[int]) -> ColumnElement[bool]:
    """Of a snapshot: whether it covers the key, and shows this version of it rather than a newer one."""
    newer = (
        select(literal_column("1"))
        .where(_n.bucket == bucket, _n.key == key, _n.seq > seq, _n.seq <= _s.seq)
        .where(or_(_n.gone_seq.is_(None), _n.gone_seq > _s.seq))
        .correlate(schema.snapshots, schema.versions)
        .exists()
    )
    return and_(
        or_(_s.bucket == literal_column("''"), _s.bucket == bucket),
        func.substr(key, literal_column("1"), func.length(_s.prefix)) == _s.prefix,
        _s.seq >= seq,
        ~newer,
    )


_SNAPSHOTS_OF = Prepared(
    select(_s.name)
    .where(_s.seq < _p("gone_seq"), _reaching(_p("bucket"), _p("key"), _p("seq")))
    .order_by(_s.seq, _s.name)
)
KEPT_BY_SNAPSHOT = (
    select(literal_column("1"))
    .select_from(schema.snapshots)
    .where(_s.seq < _v.gone_seq, _reaching(_v.bucket, _v.key, _v.seq))
    .correlate(schema.versions)
    .exists()
)
"""Of a row of versions that was removed: whether a snapshot reaches it."""

# What a snapshot shows when the version goes: it keeps its digest.
_SHOWN = (
    select(literal_column("1"))
    .select_from(schema.snapshots)
    .where(_s.seq < _p("gone_seq"), _reaching(_v.bucket, _v.key, _v.seq))
    .correlate(schema.versions)
    .exists()
)
_LEAVE = Prepared(
    update(schema.versions)
    .where(_v.bucket == _p("b"), _v.key == _p("k"), _v.seq == _p("s"))
    .values(
        gone_seq=_p("gone_seq"),
        gone_ms=_p("gone_ms"),
        gone_digest=case((~_SHOWN, _v.digest)),
        digest=case((_SHOWN, _v.digest)),
    )
)
_STRIP = Prepared(
    update(schema.versions)
    .where(_v.bucket == _p("b"), _v.key == _p("k"), _v.gone_seq.is_not(None))
    .where(
        or_(
            _v.content_type != literal_column("''"),
            _v.headers.is_not(None),
            _v.metadata.is_not(None),
            _v.digest.is_not(None),
            _v.gone_digest != literal_column("x''"),
        )
    )
    .values(
        content_type=literal_column("''"),
        headers=null(),
        metadata=null(),
        digest=null(),
        gone_digest=case((or_(_v.gone_digest.is_not(None), _v.digest.is_not(None)), literal_column("x''"))),
    )
    .returning(_v.seq)
)
_KEPT_ROWS = Prepared(
    select(_v.gone_seq, _v.bucket, _v.key, _v.seq, _v.digest, KEPT_BY_SNAPSHOT)
    .where(_v.gone_seq.is_not(None), _v.digest.is_not(None), _v.gone_seq > _p("after"))
    .order_by(_v.gone_seq)
    .limit(_p("limit", Integer))
)
# A row that was purged meanwhile has nothing to let go.
_LET_GO = Prepared(
    update(schema.versions)
    .where(_v.bucket == _p("b"), _v.key == _p("k"), _v.seq == _p("s"), _v.digest.is_not(None))
    .values(gone_digest=_v.digest, digest=null())
    .returning(_v.seq)
)
_KEPT = Prepared(
    select(_v.seq, _v.gone_seq)
    .where(_v.bucket == _p("bucket"), _v.key == _p("key"), _v.gone_seq.is_not(None), _v.digest.is_not(None))
    .order_by(_v.seq)
)
_PAYLOADS = Prepared(
    select(_b.digest, _b.size)
    .where(_v.bucket == _p("bucket"), _v.key == _p("key"), _v.gone_seq.is_not(None))
    .where(_b.digest == func.coalesce(_v.digest, _v.gone_digest))
    .distinct()
)
_NEVER = (1 << 63) - 1


def leave(connection: Connection, bucket: str, key: bytes, seq: int, gone_seq: int, gone_ms: int) -> None:
    """Turn a version's row into what the history keeps of it, removed by the change `gone_seq` at `gone_ms`."""
    _LEAVE(connection, b=bucket, k=key, s=seq, gone_seq=gone_seq, gone_ms=gone_ms)


def strip(connection: Connection, bucket: str, key: bytes) -> int:
    """Take out of the key's removed versions what was stored with them: headers, metadata and digests.

    Returns of how many.
    """
    return len(_STRIP(connection, b=bucket, k=key))


def payloads(connection: Connection, bucket: str, key: bytes) -> list[tuple[bytes, int]]:
    """Digest and size of each payload that the key's removed versions had, as far as the store still has it."""
    return [(digest, size) for digest, size in _PAYLOADS(connection, bucket=bucket, key=key)]


def snapshots_of(connection: Connection, bucket: str, key: bytes, seq: int) -> list[str]:
    """The names of the snapshots that reach a version that stands, the oldest first."""
    return [row[0] for row in _SNAPSHOTS_OF(connection, bucket=bucket, key=key, seq=seq, gone_seq=_NEVER)]


def snapshots_keeping(connection: Connection, bucket: str, key: bytes) -> list[str]:
    """The names of the snapshots that keep the payload of a removed version of this key."""
    names: dict[str, None] = {}
    for seq, gone_seq in _KEPT(connection, bucket=bucket, key=key):
        found = _SNAPSHOTS_OF(connection, bucket=bucket, key=key, seq=seq, gone_seq=gone_seq)
        names.update(dict.fromkeys(row[0] for row in found))
    return list(names)


def to_release(connection: Connection, after: int = -1, limit: int = STRETCH) -> tuple[list[Kept], int | None]:
    """Removed versions that have their payload still although no snapshot reaches them any more.

    Looks at `limit` of those that have it, in the order in which changes after `after` removed them. Returns the change
    to go on after as well; None: there is no further.
    """
    rows = _KEPT_ROWS(connection, after=after, limit=limit)
    return [Kept(*row[1:5]) for row in rows if not row[5]], rows[-1][0] if len(rows) == limit else None


def release(connection: Connection, found: Iterable[Kept]) -> int:
    """Let go of the payloads of these; returns of how many. No snapshot can come to reach what has gone."""
    return sum(len(_LET_GO(connection, b=one.bucket, k=one.key, s=one.seq)) for one in found)
