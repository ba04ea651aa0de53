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

from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

STRETCH = 4096
"""Kept versions that one view looks at."""


class Kept(NamedTuple):
    """A removed version that has its payload still."""

    bucket: str
    key: bytes
    seq: int
    digest: bytes


_IS_WHOLE = (
    "(typeof(snapshots.bucket) = 'text' AND typeof(snapshots.prefix) = 'blob' AND typeof(snapshots.seq) = 'integer')"
)


def _reaching(bucket: str, key: str, seq: str) -> str:
    """SQL, of a row of snapshots: whether it covers the key, and shows this version of it rather than a newer one.

    One that holds what no write stores is taken to show everything: nobody can tell what it is to keep.
    """
    return f"""
        {_IS_WHOLE} IS NOT TRUE OR (snapshots.bucket = '' OR snapshots.bucket = {bucket})
        AND substr({key}, 1, length(snapshots.prefix)) = snapshots.prefix AND snapshots.seq >= {seq}
        AND NOT EXISTS (
            SELECT 1 FROM versions AS newer
            WHERE newer.bucket = {bucket} AND newer.key = {key} AND newer.seq > {seq} AND newer.seq <= snapshots.seq
            AND (newer.gone_seq IS NULL OR newer.gone_seq > snapshots.seq)
        )
    """


def _before(gone_seq: str) -> str:
    """SQL, of a row of snapshots: whether it is of before this change, as far as that can be told."""
    return f"(snapshots.seq < {gone_seq} OR typeof(snapshots.seq) <> 'integer')"


_REACHING = _reaching("versions.bucket", "versions.key", "versions.seq")
KEPT_BY_SNAPSHOT = f"EXISTS (SELECT 1 FROM snapshots WHERE {_before('versions.gone_seq')} AND ({_REACHING}))"
"""SQL, of a row of versions that was removed: whether a snapshot reaches it."""

# What a snapshot shows when the version goes: it keeps its digest.
_SHOWN = f"EXISTS (SELECT 1 FROM snapshots WHERE {_before(':gone_seq')} AND ({_REACHING}))"
_THIS = "bucket = :bucket AND key = :key AND seq = :seq"
_GONE = "bucket = :bucket AND key = :key AND seq > :after AND seq <= :until AND gone_seq IS NOT NULL"
_SNAPSHOTS_OF = Prepared(
    f"SELECT name FROM snapshots WHERE {_before(':gone_seq')} AND ({_reaching(':bucket', ':key', ':seq')})"
    " ORDER BY seq, name"
)
_LEAVE = Prepared(f"""
    UPDATE versions SET
        digest = CASE WHEN {_SHOWN} THEN digest END, gone_seq = :gone_seq, gone_ms = :gone_ms,
        gone_digest = CASE WHEN NOT {_SHOWN} THEN digest END
    WHERE {_THIS}
""")
_STRIP = Prepared(f"""
    UPDATE versions SET
        digest = NULL, content_type = '', headers = NULL, metadata = NULL,
        gone_digest = CASE WHEN gone_digest IS NOT NULL OR digest IS NOT NULL THEN x'' END
    WHERE {_GONE} AND (
        content_type != '' OR headers IS NOT NULL OR metadata IS NOT NULL OR digest IS NOT NULL OR gone_digest != x''
    )
    RETURNING seq
""")
_KEPT_ROWS = Prepared(f"""
    SELECT gone_seq, bucket, key, seq, digest, {KEPT_BY_SNAPSHOT} FROM versions
    WHERE gone_seq IS NOT NULL AND digest IS NOT NULL AND gone_seq > :after ORDER BY gone_seq LIMIT :limit
""")
# A row that was purged meanwhile has nothing to let go.
_LET_GO = Prepared(f"""
    UPDATE versions SET digest = NULL, gone_digest = digest WHERE {_THIS} AND digest IS NOT NULL RETURNING seq
""")
_KEPT = Prepared(f"SELECT seq, gone_seq FROM versions WHERE {_GONE} AND digest IS NOT NULL ORDER BY seq")
_PAYLOADS = Prepared("""
    SELECT DISTINCT blobs.digest, blobs.size FROM blobs, versions
    WHERE versions.bucket = :bucket AND versions.key = :key AND versions.seq > :after AND versions.seq <= :until
    AND versions.gone_seq IS NOT NULL AND blobs.digest = coalesce(versions.digest, versions.gone_digest)
""")
# What a snapshot shows of a key, if that has a payload. One that holds what no write stores is met when rows go.
_SHOWING = Prepared(f"""
    SELECT name FROM snapshots
    WHERE {_IS_WHOLE} AND (bucket = '' OR bucket = :bucket) AND substr(:key, 1, length(prefix)) = prefix AND (
        SELECT digest IS NOT NULL FROM versions
        WHERE versions.bucket = :bucket AND versions.key = :key AND versions.seq <= snapshots.seq
        AND (versions.gone_seq IS NULL OR versions.gone_seq > snapshots.seq)
        ORDER BY versions.seq DESC LIMIT 1
    )
    ORDER BY seq, name
""")
_NEVER = (1 << 63) - 1


def leave(connection: Connection, bucket: str, key: bytes, seq: int, gone_seq: int, gone_ms: int) -> None:
    """Turn a version's row into what the history keeps of it, removed by the change `gone_seq` at `gone_ms`."""
    _LEAVE(connection, bucket=bucket, key=key, seq=seq, gone_seq=gone_seq, gone_ms=gone_ms)


def strip(connection: Connection, bucket: str, key: bytes, after: int, until: int) -> int:
    """Take out of the key's removed versions what was stored with them: headers, metadata and digests.

    Of those after the sequence `after` up to `until`, here and below. Returns of how many.
    """
    return len(_STRIP(connection, bucket=bucket, key=key, after=after, until=until))


def payloads(connection: Connection, bucket: str, key: bytes, after: int, until: int) -> list[tuple[bytes, int]]:
    """Digest and size of each payload that the key's removed versions had, as far as the store still has it."""
    found = _PAYLOADS(connection, bucket=bucket, key=key, after=after, until=until)
    return [(digest, size) for digest, size in found]


def snapshots_of(connection: Connection, bucket: str, key: bytes, seq: int) -> list[str]:
    """The names of the snapshots that reach a version that stands, the oldest first."""
    return [row[0] for row in _SNAPSHOTS_OF(connection, bucket=bucket, key=key, seq=seq, gone_seq=_NEVER)]


def snapshots_showing(connection: Connection, bucket: str, key: bytes) -> list[str]:
    """The names of the snapshots that show an object under this key, removed since or not, the oldest first."""
    return [row[0] for row in _SHOWING(connection, bucket=bucket, key=key)]


def snapshots_keeping(connection: Connection, bucket: str, key: bytes, after: int, until: int) -> list[str]:
    """The names of the snapshots that keep the payload of a removed version of this key."""
    names: dict[str, None] = {}
    for seq, gone_seq in _KEPT(connection, bucket=bucket, key=key, after=after, until=until):
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
    return sum(len(_LET_GO(connection, bucket=one.bucket, key=one.key, seq=one.seq)) for one in found)
