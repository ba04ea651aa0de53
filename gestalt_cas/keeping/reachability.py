"""Which payloads no version reaches: the questions that garbage collection and its neighbours ask of the rows.

References are found by query, never by a stored count, which would be a second truth that drifts. Questions are cut
along the first byte of the digest, as the directory of blobs is, so each view is short however large the store. Every
function works in the transaction of its caller.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from gestalt_cas.errors import DatabaseDamaged
from gestalt_cas.keeping import removals
from gestalt_cas.remedies import command_here
from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

IS_FILE, IS_ROW = f"place = {schema.PLACE_FILE}", f"place != {schema.PLACE_FILE}"
"""SQL, of a row of blobs: where the payload is."""
REACHED = "EXISTS (SELECT * FROM versions WHERE versions.digest = blobs.digest)"
"""SQL, of a row of blobs: whether a version has the payload."""
IS_LOOSE = "NOT EXISTS (SELECT * FROM blobs WHERE blobs.digest = unreachable.digest)"
"""SQL, of a row of unreachable: whether it is of a file without a row, left by an upload that was cut off."""
_WITHIN = "digest >= :lower AND digest < :upper"
_RECORD_REACHED = "EXISTS (SELECT * FROM versions WHERE versions.digest = unreachable.digest)"
# A file whose payload is a row was published by an upload that came to nothing, or came too late: nobody reads it.
_RECORD_IS_ROW = f"EXISTS (SELECT * FROM blobs WHERE blobs.digest = unreachable.digest AND blobs.{IS_ROW})"
_KNOWN = Prepared(f"SELECT digest FROM blobs WHERE {_WITHIN} AND {IS_FILE}")
_PLACES = Prepared(f"SELECT place FROM blobs WHERE {_WITHIN} AND {IS_ROW} AND typeof(place) = 'integer'")
_UNREACHED = Prepared(f"SELECT digest, size, {IS_ROW} FROM blobs WHERE {_WITHIN} AND NOT {REACHED} ORDER BY digest")
_MARKED = Prepared(f"SELECT digest, size, since_ms FROM unreachable WHERE {_WITHIN} ORDER BY digest")
_MARK = Prepared("INSERT OR IGNORE INTO unreachable (digest, size, since_ms) VALUES (:digest, :size, :since_ms)")
_UNMARK = Prepared("DELETE FROM unreachable WHERE digest = :digest")
_RIPE = Prepared(f"""
    SELECT digest, size, {_RECORD_IS_ROW} FROM unreachable
    WHERE digest > :after AND since_ms <= :until_ms AND (NOT {_RECORD_REACHED} OR {_RECORD_IS_ROW})
    ORDER BY digest LIMIT :limit
""")
_RECORDED = Prepared(
    f"SELECT digest, size, {_RECORD_IS_ROW} FROM unreachable WHERE digest = :digest AND NOT {_RECORD_REACHED}"
)
_STANDING = Prepared("""
    SELECT count(*) FILTER (WHERE since_ms <= :until_ms), coalesce(sum(size) FILTER (WHERE since_ms <= :until_ms), 0),
        count(*), coalesce(sum(size), 0)
    FROM unreachable
""")
# One seek of the index: what is no BLOB lies before all that are.
_STRANGE = Prepared("""
    SELECT CAST(bucket AS BLOB), key, seq FROM versions INDEXED BY versions_by_digest
    WHERE digest IS NOT NULL AND digest < x'' LIMIT 1
""")
_IS_REACHED = Prepared("SELECT seq FROM versions WHERE digest = :digest LIMIT 1")
_REFERENCES = Prepared(f"""
    SELECT count(*) FROM (
        SELECT seq FROM versions WHERE digest = :digest AND (gone_seq IS NULL OR {removals.KEPT_BY_SNAPSHOT})
        LIMIT :limit
    )
""")
_AS_GARBAGE = Prepared(f"SELECT size, {IS_ROW} FROM blobs WHERE digest = :digest")
_TAKE_OUT = Prepared(
    "DELETE FROM inlined WHERE id = (SELECT place FROM blobs WHERE blobs.digest = :digest) RETURNING id"
)
_NAMED_OF = Prepared(f"SELECT place FROM blobs WHERE {IS_ROW} AND place IN (SELECT value FROM json_each(:places))")
_DROP_ROW = Prepared("DELETE FROM inlined WHERE id = :place")
_FORGET = Prepared("DELETE FROM blobs WHERE digest = :digest")
_SIZE = Prepared(f"""
    SELECT (SELECT coalesce(sum(size), 0) FROM blobs WHERE {_WITHIN} AND NOT {REACHED}), (
        SELECT coalesce(sum(size), 0) FROM unreachable WHERE {_WITHIN} AND {IS_LOOSE}
    )
""")


@dataclass(frozen=True, slots=True)
class Garbage:
    """A payload that no version reaches, or a file that its row does not mean; `size` in bytes.

    `inlined` tells that the payload is a row by its row of `blobs`.
    """

    digest: bytes
    size: int
    inlined: bool = False


def bounds(first: int) -> tuple[bytes, bytes]:
    """The digests whose first byte is `first`: from (inclusive) and to (exclusive)."""
    return bytes([first]), bytes([first + 1]) if first < 255 else b"\xff" * 33


def known(connection: Connection, first: int) -> set[bytes]:
    """The digests that are files by their rows, of those whose first byte is `first`."""
    lower, upper = bounds(first)
    return {digest for (digest,) in _KNOWN(connection, lower=lower, upper=upper)}


def unreached(connection: Connection, first: int) -> list[Garbage]:
    """The payloads with a row and without a version, of those whose digest begins with the byte `first`."""
    lower, upper = bounds(first)
    return [_garbage(*row) for row in _UNREACHED(connection, lower=lower, upper=upper)]


def marked(connection: Connection, first: int) -> dict[bytes, int]:
    """The digests that an earlier look found unreachable, with when that was first so."""
    lower, upper = bounds(first)
    return {digest: since_ms for digest, _, since_ms in _MARKED(connection, lower=lower, upper=upper)}


def mark(connection: Connection, found: Garbage, now_ms: int) -> None:
    """Record that a payload is unreachable; the time of the first finding stays."""
    _MARK(connection, digest=found.digest, size=found.size, since_ms=now_ms)


def unmark(connection: Connection, digest: bytes) -> None:
    """Strike a payload off the record."""
    _UNMARK(connection, digest=digest)


def ripe(connection: Connection, after: bytes, until_ms: int, limit: int) -> list[Garbage]:
    """Recorded payloads that are unreachable still, found so at `until_ms` or before; digests after `after`.

    Those that are rows come also when they are reached: of these only a file may go.
    """
    return [_garbage(*row) for row in _RIPE(connection, after=after, until_ms=until_ms, limit=limit)]


def is_reached(connection: Connection, digest: bytes) -> bool:
    """Whether any version has this payload."""
    return bool(_IS_REACHED(connection, digest=digest))


def require_digests(connection: Connection) -> None:
    """Raise DatabaseDamaged when a version's digest is no BLOB: the payload that it had seems to be nobody's.

    For a removal that cannot wait for all rows to be looked through, as `soundness` does.
    """
    for bucket, key, seq in _STRANGE(connection):
        name = "/".join(part.decode(errors="backslashreplace") for part in (bucket, key) if isinstance(part, bytes))
        raise DatabaseDamaged(
            f"the database is damaged: versions, row {name}, sequence {seq}: digest holds what no write stores; "
            f"{command_here('check', connection)} tells more"
        )


def references(connection: Connection, digest: bytes, most: int = -1) -> int:
    """How many versions reach this payload, those included that a snapshot keeps; counts to `most`, or to the end."""
    return int(_REFERENCES(connection, digest=digest, limit=most)[0][0])


def as_garbage(connection: Connection, digest: bytes) -> list[Garbage]:
    """The payload as garbage, whether or not it is; nothing when it has no row."""
    return [_garbage(digest, *row) for row in _AS_GARBAGE(connection, digest=digest)]


def recorded(connection: Connection, digest: bytes) -> list[Garbage]:
    """The payload, if it is recorded as unreachable and is so still."""
    return [_garbage(*row) for row in _RECORDED(connection, digest=digest)]


def standing(connection: Connection, until_ms: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Count and bytes of what is recorded: of what was found until `until_ms` (inclusive), and of what came later."""
    ripe_count, ripe_bytes, count, total = _STANDING(connection, until_ms=until_ms)[0]
    return (ripe_count, ripe_bytes), (count - ripe_count, total - ripe_bytes)


def forget(connection: Connection, digest: bytes) -> bool:
    """Remove the payload's rows: nothing vouches for a file any more, and an inlined payload is gone with them.

    Returns whether it was an inlined one.
    """
    removed = bool(_TAKE_OUT(connection, digest=digest))
    _FORGET(connection, digest=digest)
    _UNMARK(connection, digest=digest)
    return removed


def places(connection: Connection, first: int) -> list[int]:
    """The rows of `inlined` that are payloads whose digest begins with the byte `first`."""
    lower, upper = bounds(first)
    return [place for (place,) in _PLACES(connection, lower=lower, upper=upper)]


def strays(connection: Connection, candidates: set[int]) -> set[int]:
    """Those rows of `inlined` that no payload names; reads all rows of payloads."""
    if not candidates:
        return set()
    return candidates - {place for (place,) in _NAMED_OF(connection, places=json.dumps(sorted(candidates)))}


def drop_stray(connection: Connection, place: int) -> None:
    """Remove a row of `inlined` that no payload names."""
    _DROP_ROW(connection, place=place)


def unreached_bytes(connection: Connection, first: int) -> int:
    """What collection would free of the digests that begin with the byte `first`, as far as the rows tell."""
    lower, upper = bounds(first)
    of_rows, of_files = _SIZE(connection, lower=lower, upper=upper)[0]
    return int(of_rows) + int(of_files)


def _garbage(digest: bytes, size: int, inlined: int) -> Garbage:
    return Garbage(digest, size, bool(inlined))
