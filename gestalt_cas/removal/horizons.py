"""How far back the history goes: rows of removed versions are dropped when they are older than `history.keepDays`.

A version that was removed for good leaves its row, so that the history can say what was there. Dropping it makes the
history inexact before the change that removed it, so the same transaction raises the bucket's horizon to that change.
What a snapshot reaches stays, delete markers included. Where nothing is removed for good the horizon never moves.
"""

from __future__ import annotations

from functools import partial

from gestalt_cas.clock import DAY_MS
from gestalt_cas.keeping.removals import KEPT_BY_SNAPSHOT
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress
from gestalt_cas.removal import soundness
from gestalt_cas.rows import settings
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

STRETCH_ROWS = 2_000
"""Rows that one view looks at."""
BATCH_ROWS = 200
"""Rows that one transaction drops: some milliseconds of the writer lock."""


_OLDEST = Prepared(f"""
    SELECT bucket, key, seq, gone_seq, gone_ms, {KEPT_BY_SNAPSHOT} FROM versions
    WHERE gone_seq > :after ORDER BY gone_seq LIMIT :limit
""")
_DROP = Prepared(f"""
    DELETE FROM versions WHERE bucket = :bucket AND key = :key AND seq = :seq AND gone_ms < :before_ms
    AND typeof(gone_ms) = 'integer' AND gone_ms >= commit_ms
    AND NOT {KEPT_BY_SNAPSHOT} RETURNING gone_seq, gone_ms
""")
_RAISE = Prepared("""
    INSERT INTO horizons (bucket, seq, ms) VALUES (:bucket, :seq, :ms)
    ON CONFLICT (bucket) DO UPDATE SET seq = max(seq, excluded.seq), ms = max(ms, excluded.ms)
""")
Place = tuple[str, bytes, int]


def droppable(connection: Connection, now_ms: int) -> int:
    """How many rows `drop` would drop; looks at all that are old enough."""
    before_ms = _before_ms(connection, now_ms)
    count, after, following = 0, -1, True
    while following and before_ms is not None:
        found, last = _old(connection, after, before_ms)
        count, following = count + len(found), last is not None
        after = last if last is not None else after
    return count


def drop(parts: Parts, now_ms: int, tell: Progress) -> int:
    """Drop what is older than the setting says, in small transactions; returns how many rows.

    Works on a full disk. `tell` may raise to stop between two of them.
    """
    dropped, after, sound = 0, -1, soundness.Once(parts)
    while True:
        with parts.database.read() as tx:
            before_ms = _before_ms(tx, now_ms)
            if before_ms is None:
                return dropped
            found, last = _old(tx, after, before_ms)
        if found:
            sound.require()
        for start in range(0, len(found), BATCH_ROWS):
            batch = found[start : start + BATCH_ROWS]
            dropped += parts.reserve.spend_on(partial(_drop_batch, parts, batch, now_ms))
            tell("dropping what the history knows", dropped, 0)
        if last is None:
            return dropped
        after = last


def _before_ms(connection: Connection, now_ms: int) -> int | None:
    """Rows of versions that were removed before this go; None: all stay."""
    days = settings.history_keep_days(connection)
    return now_ms - days * DAY_MS if days else None


def _old(connection: Connection, after: int, before_ms: int) -> tuple[list[Place], int | None]:
    """Rows to be dropped, of those that were removed after the change `after`, and where to go on; None: nowhere."""
    rows = _OLDEST(connection, after=after, limit=STRETCH_ROWS)
    old = [row for row in rows if row[4] < before_ms]
    found = [(bucket, key, seq) for bucket, key, seq, _, _, kept in old if not kept]
    return found, old[-1][3] if len(old) == STRETCH_ROWS else None


def _drop_batch(parts: Parts, batch: list[Place], now_ms: int) -> int:
    dropped = 0
    horizons: dict[str, tuple[int, int]] = {}
    with parts.database.write() as tx:
        before_ms = _before_ms(tx, now_ms)
        for bucket, key, seq in batch if before_ms is not None else ():
            for gone_seq, gone_ms in _DROP(tx, bucket=bucket, key=key, seq=seq, before_ms=before_ms):
                dropped += 1
                horizons[bucket] = max(horizons.get(bucket, (0, 0)), (gone_seq, gone_ms))
        for bucket, (seq, ms) in horizons.items():
            _RAISE(tx, bucket=bucket, seq=seq, ms=ms)
    return dropped
