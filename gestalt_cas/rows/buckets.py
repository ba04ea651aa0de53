"""The buckets of which there are rows, and what the keys below a prefix of one take together.

Buckets are not created: a name is one as long as a row has it. Every function works in the transaction of its caller,
but for `standing`, which may need several.
"""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

from gestalt_cas.rows import history
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared
from gestalt_cas.transactions.database import Database

_NEXT_BUCKET = Prepared("SELECT min(bucket) FROM versions WHERE bucket > :after")
_FIRST_BUCKET = Prepared("SELECT min(bucket) FROM versions")
_HAS_OBJECT = Prepared("SELECT seq FROM current WHERE bucket = :bucket LIMIT 1")
_AFTER = "bucket = :bucket AND (key, seq) > (:key, :seq)"
_STRETCH_END = Prepared(f"SELECT key, seq FROM versions WHERE {_AFTER} ORDER BY key, seq LIMIT 1 OFFSET :skip")
_STANDS = Prepared(f"""
    SELECT 1 FROM versions WHERE {_AFTER} AND (key, seq) <= (:last_key, :last_seq) AND gone_seq IS NULL LIMIT 1
""")
_CAME_SINCE = Prepared("""
    SELECT 1 FROM versions INDEXED BY versions_by_seq
    WHERE seq > :since AND bucket = :bucket AND gone_seq IS NULL LIMIT 1
""")
Place = tuple[bytes, int]
"""Key and sequence of a row of a bucket."""
STRETCH = 4096
"""Rows that one look for a version walks."""
VIEW_SECONDS = 0.1
"""How long one view may be walked for the list of buckets."""


# The first of those below the prefix that have a payload stands for its bytes, so no list of payloads is kept.
_TOTALS = Prepared("""
    SELECT count(*) FILTER (WHERE current.seq IS NOT NULL), count(*),
        coalesce(sum(versions.size) FILTER (WHERE current.seq IS NOT NULL), 0), coalesce(sum(versions.size), 0),
        coalesce(sum(versions.size) FILTER (WHERE NOT EXISTS (
            SELECT 1 FROM versions first INDEXED BY versions_by_digest
            WHERE first.digest = versions.digest AND first.bucket = versions.bucket AND first.key >= :lower
            AND (first.key, first.seq) < (versions.key, versions.seq) AND first.gone_seq IS NULL
        )), 0)
    FROM versions LEFT JOIN current
        ON current.seq = versions.seq AND current.bucket = versions.bucket AND current.key = versions.key
    WHERE versions.bucket = :bucket AND (versions.key, versions.seq) > (:key, :seq)
    AND (versions.key, versions.seq) <= (:last_key, :last_seq) AND versions.key < :upper
    AND versions.gone_seq IS NULL AND versions.digest IS NOT NULL
""")
_BEGINNING, _END = (b"", 0), (b"\xff", 0)  # no key is empty, and UTF-8 has no such byte


def standing(database: Database) -> list[str]:
    """Names of the buckets that hold at least one version, in byte order.

    Some index seeks for each that has an object. Of the others the rows are walked, removed ones too, until a version
    is met; when that takes more than VIEW_SECONDS in further views, so that no view is long. Each bucket is then
    answered as it was at a moment during the call, not all as of the same.
    """
    census = _Census()
    while census.left is None or census.left:
        with database.read() as tx:
            census.go_on(tx)
    return census.found


class _Census:
    """The buckets that hold a version: `found` so far, and those that are `left`, None before the first view."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.left: deque[str] | None = None
        self._after = _BEGINNING
        self._since = 0

    def go_on(self, connection: Connection) -> None:
        """Look on in one view, until its time is over."""
        deadline = time.monotonic() + VIEW_SECONDS
        if self.left is None:
            self.left = deque(ever(connection))
        while self.left:
            holds = self._look(connection, self.left[0])
            if holds is not None:
                name = self.left.popleft()
                self.found += [name] if holds else []
                self._after = _BEGINNING
            if time.monotonic() > deadline:
                return

    def _look(self, connection: Connection, bucket: str) -> bool | None:
        """Whether the bucket holds a version, as far as a stretch tells; None: not yet."""
        if self._after == _BEGINNING:
            if _HAS_OBJECT(connection, bucket=bucket):
                return True
            self._since, _ = history.last(connection)
        key, seq = self._after
        here: dict[str, object] = {"bucket": bucket, "key": key, "seq": seq}
        ends = _STRETCH_END(connection, **here, skip=STRETCH - 1)
        last_key, last_seq = ends[0] if ends else _END
        if _STANDS(connection, **here, last_key=last_key, last_seq=last_seq):
            return True
        if ends:
            self._after = last_key, last_seq
            return None
        # What stands now and was there all the time was met: removals are for good. What came meanwhile may lie behind.
        return bool(_CAME_SINCE(connection, since=self._since, bucket=bucket))


def ever(connection: Connection) -> list[str]:
    """Names of the buckets of which there is any row, removed versions included, one index seek each."""
    names: list[str] = []
    rows = _FIRST_BUCKET(connection)
    while rows[0][0] is not None:
        names.append(rows[0][0])
        rows = _NEXT_BUCKET(connection, after=names[-1])
    return names


class Totals(NamedTuple):
    """What is counted: markers are no versions; `stored_bytes` has each payload that they reach once."""

    objects: int = 0
    versions: int = 0
    object_bytes: int = 0
    version_bytes: int = 0
    stored_bytes: int = 0


def totals(
    connection: Connection, bucket: str, lower: bytes, upper: bytes | None, after: Place | None = None
) -> tuple[Totals, Place | None]:
    """Count the keys from `lower` (inclusive) to `upper` (exclusive; None: no bound), a stretch of their rows.

    It begins behind the row `after`. Returns the last row as well, to go on behind; None: that was all.
    """
    key, seq = after or (lower, -1)
    here: dict[str, object] = {"bucket": bucket, "key": key, "seq": seq}
    ends = _STRETCH_END(connection, **here, skip=STRETCH - 1)
    last = ends[0] if ends else _END
    (counted,) = _TOTALS(
        connection, **here, lower=lower, upper=_END[0] if upper is None else upper, last_key=last[0], last_seq=last[1]
    )
    return Totals(*counted), last if last != _END and (upper is None or last[0] < upper) else None
