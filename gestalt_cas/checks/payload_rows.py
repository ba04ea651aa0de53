"""What the rows say of payloads, as a check asks it, and the rows that a repair puts right.

Every function works in the transaction of its caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gestalt_cas.checks.findings import SHOWN_VERSIONS, Affected
from gestalt_cas.rows import inlined
from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import Connection

_COLUMNS = "b.digest, b.size, b.place, b.sums, b.damaged_ms"
_REACHED = "EXISTS (SELECT 1 FROM versions AS v WHERE v.digest = b.digest)"
_PAGE = "SELECT {}, {} FROM blobs AS b WHERE b.digest > ? AND b.digest < ? ORDER BY b.digest LIMIT ?"
_PAGE_INDEXED, _PAGE_ALONE = _PAGE.format(_COLUMNS, _REACHED), _PAGE.format(_COLUMNS, 1)
_FIRST = "SELECT digest FROM blobs WHERE digest > ? ORDER BY digest LIMIT 1"
_ONE = f"SELECT {_COLUMNS}, 1 FROM blobs AS b WHERE b.digest = ?"
_VERSIONS = "SELECT bucket, key, version_id FROM versions WHERE digest = ? LIMIT ?"
_COUNT = "SELECT count(*), min(size), max(size) FROM versions WHERE digest = ?"
_SET_ROW = """
    INSERT INTO blobs (digest, size, place, sums) VALUES (?, ?, ?, ?)
    ON CONFLICT (digest) DO UPDATE
    SET size = excluded.size, place = excluded.place, sums = excluded.sums, damaged_ms = NULL
"""
_SUSPECT_FILE = """
    UPDATE blobs SET size = ?, place = ?, sums = ?, damaged_ms = ? WHERE digest = ?
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

    @property
    def inlined(self) -> bool:
        """Whether the payload is a row of `inlined`."""
        return self.usable and self.place != schema.PLACE_FILE


@dataclass(frozen=True, slots=True)
class Reached:
    """The versions that have one payload: some of them, how many, and the sizes that their rows say."""

    shown: tuple[Affected, ...]
    total: int
    least: int
    greatest: int


def page(connection: Connection, after: bytes, upper: bytes, limit: int, *, indexed: bool = True) -> list[PayloadRow]:
    """At most `limit` rows with digests after `after` and below `upper`, in order.

    Without `indexed`, for an index by digest that cannot be read, all count as reached.
    """
    sql = _PAGE_INDEXED if indexed else _PAGE_ALONE
    return [_row(values) for values in connection.execute(sql, (after, upper, limit)).fetchall()]


def first_after(connection: Connection, after: bytes) -> bytes | None:
    """The least digest after this one of which there is a row."""
    found = connection.execute(_FIRST, (after,)).fetchone()
    return bytes(found[0]) if found else None


def one(connection: Connection, digest: bytes) -> PayloadRow | None:
    """The row of one payload, as if it were reached."""
    rows = connection.execute(_ONE, (digest,)).fetchall()
    return _row(rows[0]) if rows else None


def reached_by(connection: Connection, digest: bytes, *, indexed: bool = True) -> Reached:
    """The versions that have this payload; without `indexed` all versions are read for it."""
    count, some = (_COUNT, _VERSIONS) if indexed else (_alone(_COUNT), _alone(_VERSIONS))
    total, least, greatest = connection.execute(count, (digest,)).fetchall()[0]
    rows = connection.execute(some, (digest, SHOWN_VERSIONS)).fetchall()
    shown = tuple(Affected(bucket, key.decode(errors="backslashreplace"), name) for bucket, key, name in rows)
    return Reached(shown, total, least or 0, greatest or 0)


def _alone(sql: str) -> str:
    # NOT INDEXED does not do: of a table WITHOUT ROWID SQLite uses an index all the same.
    return sql.replace("WHERE digest", "WHERE ifnull(digest, x'')")


def lengths(connection: Connection, rows: list[PayloadRow]) -> dict[bytes, int | None]:
    """The sizes of those payloads that are rows themselves; None for one that is missing, -1 for what is no BLOB."""
    return {row.digest: inlined.length(connection, row.place) for row in rows if row.inlined}


def set_row(connection: Connection, digest: bytes, size: int, sums: bytes, place: int) -> None:
    """Record what proven bytes have told: the payload's size, sums and place. A mark of damage is lifted."""
    connection.execute(_SET_ROW, (digest, size, place, sums))
    connection.execute(_SET_SIZES, (size, digest, size))


def set_suspect_file(connection: Connection, digest: bytes, size: int, sums: bytes, now_ms: int) -> None:
    """Turn a row that means nothing into one of a payload whose file cannot be relied on."""
    connection.execute(_SUSPECT_FILE, (size, schema.PLACE_FILE, sums, now_ms, digest))


def _row(values: tuple[Any, ...]) -> PayloadRow:
    digest, size, place, sums, damaged_ms, reached = values
    usable = (
        isinstance(size, int)
        and size >= 0
        and isinstance(place, int)
        and place >= schema.PLACE_FILE
        and isinstance(sums, bytes)
        and isinstance(damaged_ms, int | None)
    )
    return PayloadRow(digest, size, place, sums, damaged_ms, bool(reached), usable)
