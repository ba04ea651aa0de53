"""The rows of a rollback: what a key had at a moment beside what it has, and a block of versions added at once.

`versions.append` would take a quarter of a minute for 100,000 keys, with the writer lock held. `add` draws all their
sequences together and copies rows within SQLite; what it leaves is what as many appends would have left, but that all
its versions have one commit time: no time names a moment between them. Every function works in the transaction of its
caller.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from gestalt_cas.keeping import quotas
from gestalt_cas.rows import version_ids
from gestalt_cas.sql.sqlite import Connection

MOST_CACHE_KIB = 256 << 10
"""Page cache for a large block. The index by digest is met all over: pages that do not fit go to the WAL many times."""
_CACHE_KIB = 4
"""What each version of a block may need of it."""

# The first row is there whatever the key had and has.
_BESIDE = """
    SELECT
        v.seq, v.digest, v.gone_digest, v.size,
        n.digest = coalesce(v.digest, v.gone_digest) AND n.size = v.size AND n.content_type = v.content_type
            AND n.headers IS v.headers,
        v.metadata, n.metadata, n.size
    FROM (SELECT 1)
    LEFT JOIN versions v ON v.bucket = :bucket AND v.key = :key AND v.seq = (
        SELECT seq FROM versions
        WHERE bucket = :bucket AND key = :key AND seq <= :seq AND (gone_seq IS NULL OR gone_seq > :seq)
        ORDER BY seq DESC LIMIT 1
    )
    LEFT JOIN versions n ON n.bucket = :bucket AND n.key = :key AND n.seq = (
        SELECT seq FROM current WHERE bucket = :bucket AND key = :key
    )
"""
_COLUMNS = "bucket, key, seq, version_id, digest, size, content_type, headers, metadata, commit_ms"
# A row that has lost its payload meanwhile, or has gone, adds nothing; that is counted.
_COPY = f"""
    INSERT INTO versions ({_COLUMNS})
    SELECT bucket, key, ?, ?, digest, size, content_type, headers, metadata, ?
    FROM versions WHERE bucket = ? AND key = ? AND seq = ? AND digest = ?
"""
_MARK = f"INSERT INTO versions ({_COLUMNS}) VALUES (?, ?, ?, ?, NULL, 0, '', NULL, NULL, ?)"
_POINT = """
    INSERT INTO current (bucket, key, seq) VALUES (?, ?, ?)
    ON CONFLICT (bucket, key) DO UPDATE SET seq = excluded.seq
"""
_UNPOINT = "DELETE FROM current WHERE bucket = ? AND key = ?"


@dataclass(frozen=True, slots=True)
class Return:
    """What takes a key back: a new version like the row `seq` with its payload `digest`, or (None) a delete marker.

    `size` is what that adds, in bytes; `size_now` that of the key's object at present, None when it has none.
    """

    key: bytes
    seq: int | None
    digest: bytes | None
    size: int
    size_now: int | None


class Removed(Exception):
    """What the key had was removed for good since, and nothing keeps its payload."""


def needed(connection: Connection, bucket: str, key: bytes, seq: int) -> Return | None:
    """What takes the key back to the sequence; None when it has the same content now, or neither then nor now any.

    Raises Removed.
    """
    row = connection.execute(_BESIDE, {"bucket": bucket, "key": key, "seq": seq}).fetchall()[0]
    then, digest, gone_digest, size, alike, old, new, size_now = row
    if digest is None and gone_digest is None:  # a delete marker, or nothing at all
        return None if size_now is None else Return(key, None, None, 0, size_now)
    if alike and _same(old, new):
        return None
    if digest is None:
        raise Removed
    return Return(key, then, digest, size, size_now)


def _same(one: str | None, other: str | None) -> bool:
    """Whether two columns of metadata say the same, in whatever order."""
    return one == other or (one is not None and other is not None and json.loads(one) == json.loads(other))


def add(connection: Connection, bucket: str, block: Sequence[Return], first: int, commit_ms: int) -> bool:
    """Add a version for each, with sequences from `first` on, and make it current.

    False when a row that was to be copied has lost its payload: the transaction must end with that. Quotas are not
    charged, see `charge`. Not for suspended versioning, where each version would replace one.
    """
    copies, markers, pointers, unpointed = [], [], [], []
    for seq, version_id, one in zip(count(first), version_ids.new(first, len(block)), block, strict=False):
        if one.seq is None:
            markers.append((bucket, one.key, seq, version_id, commit_ms))
            unpointed.append((bucket, one.key))
        else:
            copies.append((seq, version_id, commit_ms, bucket, one.key, one.seq, one.digest))
            pointers.append((bucket, one.key, seq))
    copied = _many(connection, _COPY, copies)
    _many(connection, _MARK, markers)
    _many(connection, _POINT, pointers)
    _many(connection, _UNPOINT, unpointed)
    return copied == len(copies)


def charge(connection: Connection, bucket: str, block: Iterable[Return]) -> None:
    """Count what a block adds against the quotas; raises QuotaExceeded, with which the transaction must end."""
    quotas.charge_many(connection, bucket, [(one.key, one.size) for one in block if one.size])


@contextmanager
def cached(connection: Connection, number: int) -> Iterator[None]:
    """Give SQLite for the block as much page cache as adding so many versions needs."""
    (before,) = connection.execute("PRAGMA cache_size").fetchall()[0]
    wanted = min(MOST_CACHE_KIB, number * _CACHE_KIB)
    if wanted > -before:
        connection.execute(f"PRAGMA cache_size=-{wanted}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA cache_size={before}")


def _many(connection: Connection, statement: str, rows: list[tuple[Any, ...]]) -> int:
    if not rows:
        return 0
    before = connection.total_changes()
    connection.executemany(statement, rows)
    return connection.total_changes() - before
