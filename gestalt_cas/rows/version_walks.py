"""Walking versions and delete markers: keys in byte order, within a key the newest first.

Rows of versions that were removed for good stay for the history and are passed, which costs time though nothing comes
of it. So a walk goes in steps of a bounded number of rows, between which a caller can look at the clock, and it can end
anywhere: at a place, from which another walk goes on, in whatever view. New versions of a key are above those that were
passed, and what was removed stays so: nothing comes twice, and nothing is left out that was there all the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gestalt_cas.objects import ObjectVersion
from gestalt_cas.rows import history
from gestalt_cas.rows.version_rows import COLUMNS, from_row
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

STRETCH = 4096
"""Rows that one step walks at most, though some of them twice: about a millisecond when they were all removed."""
NEWEST = (1 << 63) - 1
"""Above every sequence."""
BEYOND = b"\xff"
"""Above every key: UTF-8 has no such byte."""

_READ = f"SELECT {COLUMNS} FROM versions"
_KEYS = "bucket = :bucket AND key >= :lower AND key < :upper"
_HERE = "bucket = :bucket AND key = :key AND seq < :before"
# Where so many rows end, removed ones included.
_KEYS_END = Prepared(f"SELECT key FROM versions WHERE {_KEYS} ORDER BY key, seq LIMIT 1 OFFSET :skip")
_HERE_END = Prepared(f"SELECT seq FROM versions WHERE {_HERE} ORDER BY seq DESC LIMIT 1 OFFSET :skip")
_OF_KEYS = Prepared(f"{_READ} WHERE {_KEYS} AND gone_seq IS NULL ORDER BY key, seq LIMIT :limit")
_OF_KEY = Prepared(f"{_READ} WHERE {_HERE} AND seq >= :until AND gone_seq IS NULL ORDER BY seq DESC LIMIT :limit")
_NEWER = Prepared("""
    SELECT 1 FROM versions WHERE bucket = :bucket AND key = :key AND seq > :above AND gone_seq IS NULL
    ORDER BY seq LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk stands: behind the rows of `key` from the sequence `before` on, and behind every lesser key.

    `before` is 0 behind the whole key, NEWEST in front of it. Its rows from `before` to `removed_to`, both inclusive,
    are known to be removed; none, if that is less.
    """

    key: bytes
    before: int
    removed_to: int = 0


class Walk:
    """What stands in the keys from `lower` (inclusive) to `upper` (exclusive), of one view, or the rest after a place.

    `through` says that nothing follows; else `place` is where the walk stands, from the first step on.
    """

    def __init__(self, connection: Connection, bucket: str, lower: bytes, upper: bytes, after: Place | None) -> None:
        if after is not None and after.key < lower:
            after = None
        self.through = after is not None and after.key >= upper
        self.place = after or Place(b"", 0)
        self._connection, self._bucket, self._upper = connection, bucket, upper
        self._lower = lower if after is None else after.key + b"\0"
        self._newer_stands: bool | None = None
        if after is not None and after.before == NEWEST:
            self._enter(after.key)

    def step(self, rows: int, limit: int) -> list[ObjectVersion]:
        """At most `limit` versions among the next `rows` rows; fewer do not mean that nothing follows."""
        return self._within(rows, limit) if self.place.before else self._across(rows, limit)

    def _across(self, rows: int, limit: int) -> list[ObjectVersion]:
        """Whole keys; what the last one has is left to the next step, since its newest versions lie at its end."""
        ends = self._rows(_KEYS_END, lower=self._lower, upper=self._upper, skip=rows - 1)
        last = ends[0][0] if ends else None
        found = self._rows(_OF_KEYS, lower=self._lower, upper=self._upper if last is None else last, limit=limit)
        if len(found) == limit:
            last = found[-1][0]
            found = [row for row in found if row[0] != last]
        if last is None:
            self.through = True
        else:
            self._enter(last)
        groups = [list(group)[::-1] for _, group in groupby(found, key=lambda row: row[0])]
        return [version for group in groups for version in self._versions(group, newer_stands=False)]

    def _within(self, rows: int, limit: int) -> list[ObjectVersion]:
        """The rest of one key."""
        key, before, removed_to = self.place.key, self.place.before, self.place.removed_to
        ends = self._rows(_HERE_END, key=key, before=before, skip=rows - 1)
        until = ends[0][0] if ends else 0
        found = self._rows(_OF_KEY, key=key, before=before, until=until, limit=limit)
        versions: list[ObjectVersion] = []
        if found:
            versions = self._versions(found, newer_stands=self._have_newer(key, max(before - 1, removed_to)))
            self._newer_stands, removed_to = True, versions[-1].seq - 1
            until = versions[-1].seq if len(found) == limit else until
        self.place, self._lower = Place(key, until, removed_to), key + b"\0"
        return versions

    def _enter(self, key: bytes) -> None:
        """Stand in front of a key: all that this view shows of it is up to the last sequence."""
        self.place = Place(key, NEWEST, history.last(self._connection)[0])
        self._newer_stands = False

    def _have_newer(self, key: bytes, above: int) -> bool:
        """Whether what is found next is not the key's newest."""
        if self._newer_stands is None:
            self._newer_stands = bool(self._rows(_NEWER, key=key, above=above))
        return self._newer_stands

    def _rows(self, statement: Prepared, **values: Any) -> list[tuple[Any, ...]]:
        return statement(self._connection, bucket=self._bucket, **values)

    def _versions(self, rows: Sequence[Sequence[Any]], *, newer_stands: bool) -> list[ObjectVersion]:
        """The versions of one key that these rows are, the newest first."""
        return [from_row(self._bucket, row, current=not index and not newer_stands) for index, row in enumerate(rows)]
