"""The buckets of which there are rows, and what the keys below a prefix of one take together.

Buckets are not created: a name is one as long as a row has it. Every function works in the transaction of its caller,
but for `standing`, which may need several.
"""

from __future__ import annotations

import time
from collections import deque

from sqlalchemy import ColumnElement, and_, func, literal_column, select

from gestalt_cas import history, schema
from gestalt_cas.database import Database
from gestalt_cas.sqlite import Connection
from gestalt_cas.statements import Prepared, parameter

_p = parameter
_v, _c, _b = schema.versions.c, schema.current.c, schema.blobs.c
_NEXT_BUCKET = Prepared(select(func.min(_v.bucket)).where(_v.bucket > _p("after")))
_FIRST_BUCKET = Prepared(select(func.min(_v.bucket)))
_HAS_OBJECT = Prepared(select(_c.seq).where(_c.bucket == _p("bucket")).limit(literal_column("1")))
_AFTER = "bucket = :bucket AND (key, seq) > (:key, :seq)"
_STRETCH_END = f"SELECT key, seq FROM versions WHERE {_AFTER} ORDER BY key, seq LIMIT 1 OFFSET :skip"
_STANDS = f"""
    SELECT 1 FROM versions WHERE {_AFTER} AND (key, seq) <= (:last_key, :last_seq) AND gone_seq IS NULL LIMIT 1
"""
_CAME_SINCE = """
    SELECT 1 FROM versions INDEXED BY versions_by_seq WHERE seq > ? AND bucket = ? AND gone_seq IS NULL LIMIT 1
"""
STRETCH = 4096
"""Rows that one look for a version walks."""
VIEW_SECONDS = 0.1
"""How long one view may be walked for the list of buckets."""

_UNDER = and_(_v.bucket == _p("bucket"), _v.gone_seq.is_(None), _v.digest.is_not(None), _v.key >= _p("lower"))
_BELOW = _v.key < _p("upper")


def _totals(*where: ColumnElement[bool]) -> Prepared:
    reached = select(_v.digest).where(*where)
    stored = select(func.coalesce(func.sum(_b.size), 0)).where(_b.digest.in_(reached)).scalar_subquery()
    live = _c.seq.is_not(None)
    return Prepared(
        select(
            func.count().filter(live),
            func.count(),
            func.coalesce(func.sum(_v.size).filter(live), 0),
            func.coalesce(func.sum(_v.size), 0),
            stored,
        )
        .select_from(
            schema.versions.outerjoin(schema.current, and_(_c.seq == _v.seq, _c.bucket == _v.bucket, _c.key == _v.key))
        )
        .where(*where)
    )


_TOTALS, _TOTALS_ALL = _totals(_UNDER, _BELOW), _totals(_UNDER)

_BEGINNING, _END = (b"", -1), (b"\xff", 0)  # UTF-8 has no such byte


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
        here = {"bucket": bucket, "key": key, "seq": seq}
        ends = connection.execute(_STRETCH_END, {**here, "skip": STRETCH - 1}).fetchall()
        last_key, last_seq = ends[0] if ends else _END
        if connection.execute(_STANDS, {**here, "last_key": last_key, "last_seq": last_seq}).fetchall():
            return True
        if ends:
            self._after = last_key, last_seq
            return None
        # What stands now and was there all the time was met: removals are for good. What came meanwhile may lie behind.
        return bool(connection.execute(_CAME_SINCE, (self._since, bucket)).fetchall())


def ever(connection: Connection) -> list[str]:
    """Names of the buckets of which there is any row, removed versions included, one index seek each."""
    names: list[str] = []
    rows = _FIRST_BUCKET(connection)
    while rows[0][0] is not None:
        names.append(rows[0][0])
        rows = _NEXT_BUCKET(connection, after=names[-1])
    return names


def totals(connection: Connection, bucket: str, lower: bytes, upper: bytes | None) -> tuple[int, int, int, int, int]:
    """Objects, versions (markers not counted), bytes of objects, of versions, and of the payloads reached, each once.

    Of the keys from `lower` (inclusive) to `upper` (exclusive; None: no bound).
    """
    if upper is None:
        return _TOTALS_ALL(connection, bucket=bucket, lower=lower)[0]
    return _TOTALS(connection, bucket=bucket, lower=lower, upper=upper)[0]
