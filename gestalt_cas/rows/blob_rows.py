"""All SQL of blob rows: where a payload is, its chunk sums, and whether damage was found.

A row vouches for a payload: a committed write had its bytes at this place. Every function works in the transaction of
its caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

_ROW = Prepared("SELECT size, place, sums, damaged_ms FROM blobs WHERE digest = :digest")
_PLACED = Prepared("SELECT size, place, damaged_ms FROM blobs WHERE digest = :digest")
_KEEP = Prepared("""
    INSERT INTO blobs (digest, size, place, sums) VALUES (:digest, :size, :place, :sums)
    ON CONFLICT (digest) DO UPDATE SET sums = excluded.sums, damaged_ms = NULL
""")
_MARK_DAMAGED = Prepared("UPDATE blobs SET damaged_ms = :now_ms WHERE digest = :digest AND damaged_ms IS NULL")


@dataclass(frozen=True, slots=True)
class BlobPlace:
    """What the store knows of a payload without its sums: size in bytes, where it is, whether damage was found."""

    size: int
    place: int
    damaged: bool


@dataclass(frozen=True, slots=True)
class BlobRow:
    """What the store knows of a payload: size in bytes, where it is, its chunk sums, whether damage was found."""

    size: int
    place: int
    sums: bytes
    damaged: bool


def row(connection: Connection, digest: bytes) -> BlobRow | None:
    """The row of the payload with this BLAKE3-256; None when no committed version ever had it."""
    rows = _ROW(connection, digest=digest)
    return BlobRow(rows[0][0], rows[0][1], rows[0][2], rows[0][3] is not None) if rows else None


def placed(connection: Connection, digest: bytes) -> BlobPlace | None:
    """The same without the sums, of which a large payload has many: what a copy or an upload has to know."""
    rows = _PLACED(connection, digest=digest)
    return BlobPlace(rows[0][0], rows[0][1], rows[0][2] is not None) if rows else None


def keep(connection: Connection, digest: bytes, size: int, sums: bytes, place: int = schema.PLACE_FILE) -> None:
    """Record that the payload is at its place and sound; an earlier mark of damage is lifted.

    A payload keeps the place that it has: `place` is for one without a row.
    """
    _KEEP(connection, digest=digest, size=size, place=place, sums=sums)


def mark_damaged(connection: Connection, digest: bytes, now_ms: int) -> None:
    """Record damage; the time of the first finding stays."""
    _MARK_DAMAGED(connection, digest=digest, now_ms=now_ms)
