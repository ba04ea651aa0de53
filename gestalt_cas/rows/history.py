"""What was there at an earlier moment, and what has changed since: the questions that time travel asks of the rows.

A moment is a sequence. At `s` a key had the version of the greatest sequence up to `s` that was not removed by then:
`seq <= s < gone_seq`. A delete marker means that there was nothing. A version that was removed for good later, and
whose payload nothing keeps, is answered as removed, never by an older one. Every function works in the transaction of
its caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gestalt_cas.objects import ObjectVersion
from gestalt_cas.rows import version_rows
from gestalt_cas.sql.sqlite import Connection

STRETCH = 4096
"""Keys, or changes, that one statement walks: some ten milliseconds, between which a caller can look at the clock."""
_END = b"\xff"
"""Above every key: UTF-8 has no such byte."""

_COLUMNS = (
    "v.key, v.version_id, v.seq, v.size, coalesce(v.digest, v.gone_digest), v.commit_ms, v.content_type, v.headers,"
    " v.metadata, v.digest IS NULL AND v.gone_digest IS NOT NULL"
)
_THEN = "v.seq <= :seq AND (v.gone_seq IS NULL OR v.gone_seq > :seq)"
_AT = f"""
    SELECT {_COLUMNS} FROM versions v WHERE v.bucket = :bucket AND v.key = :key AND {_THEN} ORDER BY v.seq DESC LIMIT 1
"""
# One step for each key, however many versions it has: the next key, and of that key the version of then.
_WALK = f"""
    WITH RECURSIVE walked (key, step) AS (
        SELECT
            (SELECT key FROM versions WHERE bucket = :bucket AND key >= :lower AND key < :upper ORDER BY key LIMIT 1),
            1
        UNION ALL
        SELECT
            (SELECT v.key FROM versions v WHERE v.bucket = :bucket AND v.key > walked.key AND v.key < :upper
             ORDER BY v.key LIMIT 1),
            step + 1
        FROM walked WHERE walked.key IS NOT NULL AND step < :limit
    )
    SELECT walked.key, {_COLUMNS.removeprefix("v.key, ")} FROM walked LEFT JOIN versions v
        ON v.bucket = :bucket AND v.key = walked.key AND v.seq = (
            SELECT v.seq FROM versions v WHERE v.bucket = :bucket AND v.key = walked.key AND {_THEN}
            ORDER BY v.seq DESC LIMIT 1
        )
    WHERE walked.key IS NOT NULL
"""
_ADDED = """
    SELECT seq, bucket, key FROM versions INDEXED BY versions_by_seq WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?
"""
_REMOVED = """
    SELECT gone_seq, bucket, key FROM versions INDEXED BY versions_gone
    WHERE gone_seq IS NOT NULL AND gone_seq > ? AND gone_seq <= ? ORDER BY gone_seq LIMIT ?
"""
_FIRST_ADDED = "SELECT seq, commit_ms FROM versions INDEXED BY versions_by_seq WHERE seq >= ? ORDER BY seq LIMIT 1"
_FIRST_REMOVED = """
    SELECT gone_seq, gone_ms FROM versions INDEXED BY versions_gone
    WHERE gone_seq IS NOT NULL AND gone_seq >= ? ORDER BY gone_seq LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Horizon:
    """A bucket's history is exact from the change `seq` on, made at `ms` (Unix milliseconds); 0: from the first."""

    seq: int
    ms: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a walk: what was there, in key order, and the last key that was walked; None: there is no further."""

    found: list[ObjectVersion]
    walked_to: bytes | None


def last(connection: Connection) -> tuple[int, int]:
    """The last sequence of the store, and its commit time in Unix milliseconds; zeros before the first change."""
    seq, commit_ms = connection.execute("SELECT seq, commit_ms FROM counter").fetchone()
    return seq, commit_ms


def horizon(connection: Connection, bucket: str) -> Horizon:
    """From when on the history of a bucket is exact; of the bucket "" of every bucket at once."""
    where = "WHERE bucket IN ('', ?)" if bucket else "WHERE ? = ''"
    rows = connection.execute(f"SELECT seq, ms FROM horizons {where} ORDER BY seq DESC LIMIT 1", (bucket,)).fetchall()
    return Horizon(*rows[0]) if rows else Horizon(0, 0)


def horizons(connection: Connection) -> dict[str, Horizon]:
    """All that are noted, by bucket; "" is for every bucket."""
    rows = connection.execute("SELECT bucket, seq, ms FROM horizons ORDER BY bucket").fetchall()
    return {bucket: Horizon(seq, ms) for bucket, seq, ms in rows}


def seq_at(connection: Connection, ms: int) -> int:
    """The last sequence whose commit time is at most `ms` (Unix milliseconds); 0 when there is none.

    Found by halving, since commit times never decrease with the sequence. A change of which no row is left was below a
    horizon, and those are known.
    """
    seq, commit_ms = last(connection)
    if commit_ms <= ms:
        return seq
    rows = connection.execute("SELECT max(seq) FROM horizons WHERE ms <= ?", (ms,)).fetchall()
    return max(rows[0][0] or 0, *(_last_before(connection, first, seq, ms) for first in (_FIRST_ADDED, _FIRST_REMOVED)))


def _last_before(connection: Connection, first_from: str, seq: int, ms: int) -> int:
    """The last change of a kind, up to `seq`, whose time is at most `ms`; `first_from` finds the next from a number."""
    below, beyond = 0, seq + 1
    while beyond - below > 1:
        middle = (below + beyond) // 2
        row = connection.execute(first_from, (middle,)).fetchone()
        if row is None or row[1] > ms:
            beyond = middle
        else:
            below = row[0]
    return below


def following(connection: Connection, seq: int) -> int | None:
    """The first change after `seq` of which there is a row; None when there is none."""
    rows = [connection.execute(first, (seq + 1,)).fetchone() for first in (_FIRST_ADDED, _FIRST_REMOVED)]
    return min((row[0] for row in rows if row is not None), default=None)


def at(connection: Connection, bucket: str, key: bytes, seq: int) -> ObjectVersion | None:
    """What the key had at the sequence, a delete marker included; None when it had nothing."""
    rows = connection.execute(_AT, {"bucket": bucket, "key": key, "seq": seq}).fetchall()
    return _version(bucket, rows[0]) if rows else None


def walk(connection: Connection, bucket: str, lower: bytes, upper: bytes | None, seq: int, limit: int) -> Stretch:
    """What the next `limit` keys from `lower` (inclusive) to `upper` (exclusive; None: no bound) had at the sequence.

    Keys that had nothing then are walked, and count, but are not among what was found. `limit` is at most STRETCH.
    """
    values = {"bucket": bucket, "lower": lower, "upper": upper or _END, "seq": seq, "limit": limit}
    rows = connection.execute(_WALK, values).fetchall()
    found = [_version(bucket, row) for row in rows if row[4] is not None]
    return Stretch(found, rows[-1][0] if len(rows) == limit else None)


def changed(
    connection: Connection, bucket: str, lower: bytes, upper: bytes | None, after_seq: int, until_seq: int
) -> Iterator[bytes]:
    """Keys below a prefix of which a row came or went after `after_seq` (exclusive) up to `until_seq` (inclusive).

    Costs what changed in between, in the whole store. A key comes as often as it changed. Read it to its end within
    the transaction.
    """
    for statement in (_ADDED, _REMOVED):
        after = after_seq
        while rows := connection.execute(statement, (after, until_seq, STRETCH)).fetchall():
            yield from _below(rows, bucket, lower, upper)
            after = rows[-1][0]


def _below(rows: Sequence[Any], bucket: str, lower: bytes, upper: bytes | None) -> Iterator[bytes]:
    for _, of, key in rows:
        if of == bucket and key >= lower and (upper is None or key < upper):
            yield key


def _version(bucket: str, row: Sequence[Any]) -> ObjectVersion:
    found = version_rows.from_row(bucket, row)
    return found._replace(removed=True) if row[9] else found
