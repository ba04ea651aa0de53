"""What the rows say of payloads, as a check asks it, and the rows that a repair puts right.

Every function works in the transaction of its caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gestalt_cas import schema
from gestalt_cas.findings import SHOWN_VERSIONS, Affected
from gestalt_cas.sqlite import Connection

_PAGE = """
    SELECT b.digest, b.size, b.place, b.sums, b.damaged_ms,
           EXISTS (SELECT 1 FROM versions AS v WHERE v.digest = b.digest)
    FROM blobs AS b WHERE b.digest > ? AND b.digest < ? ORDER BY b.digest LIMIT ?
"""
_ONE = """
    SELECT b.digest, b.size, b.place, b.sums, b.damaged_ms,
           EXISTS (SELECT 1 FROM versions AS v WHERE v.digest = b.digest)
    FROM blobs AS b WHERE b.digest = ?
"""
_VERSIONS = "SELECT bucket, key, version_id FROM versions WHERE digest = ? LIMIT ?"
_COUNT = "SELECT count(*), min(size), max(size) FROM versions WHERE digest = ?"
_SET_ROW = """
    INSERT INTO blobs (digest, size, place, sums) VALUES (?, ?, ?, ?)
    ON CONFLICT (digest) DO UPDATE
    SET size = excluded.size, place = excluded.place, sums = excluded.sums, damaged_ms = NULL
"""
_SET_SIZES = "UPDATE versions SET size = ? WHERE digest = ? AND size <> ?"


@dataclass(frozen=True, slots=True)
class PayloadRow:
    """A row of blobs, and whether any version reaches it.

    `usable` is False when the values are not of the sorts that a write stores; nothing is to be made of them then.
    """

    digest: bytes
    size: int
    place: int
    sums: bytes
    damaged_ms: int | None
    reached: bool
    usable: bool


@dataclass(frozen=True, slots=True)
class Reached:
    """The versions that have one payload: some of them, how many, and the sizes that their rows say."""

    shown: tuple[Affected, ...]
    total: int
    least: int
    greatest: int


def page(connection: Connection, after: bytes, upper: bytes, limit: int) -> list[PayloadRow]:
    """At most `limit` rows with digests after `after` and below `upper`, in order."""
    return [_row(values) for values in connection.execute(_PAGE, (after, upper, limit)).fetchall()]


def one(connection: Connection, digest: bytes) -> PayloadRow | None:
    """The row of one payload."""
    rows = connection.execute(_ONE, (digest,)).fetchall()
    return _row(rows[0]) if rows else None


def reached_by(connection: Connection, digest: bytes) -> Reached:
    """The versions that have this payload."""
    total, least, greatest = connection.execute(_COUNT, (digest,)).fetchall()[0]
    rows = connection.execute(_VERSIONS, (digest, SHOWN_VERSIONS)).fetchall()
    shown = tuple(Affected(bucket, key.decode(errors="backslashreplace"), name) for bucket, key, name in rows)
    return Reached(shown, total, least or 0, greatest or 0)


def set_row(connection: Connection, digest: bytes, size: int, sums: bytes) -> None:
    """Record what proven bytes have told: the payload's size and sums. A mark of damage is lifted."""
    connection.execute(_SET_ROW, (digest, size, schema.PLACE_FILE, sums))
    connection.execute(_SET_SIZES, (size, digest, size))


def _row(values: tuple[Any, ...]) -> PayloadRow:
    digest, size, place, sums, damaged_ms, reached = values
    usable = (
        isinstance(size, int)
        and size >= 0
        and place == schema.PLACE_FILE
        and isinstance(sums, bytes)
        and isinstance(damaged_ms, int | None)
    )
    return PayloadRow(digest, size, place, sums, damaged_ms, bool(reached), usable)
