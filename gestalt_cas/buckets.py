"""The buckets of which there are rows, and what the keys below a prefix of one take together.

Buckets are not created: a name is one as long as a row has it. Every function works in the transaction of its caller.
"""

from __future__ import annotations

from gestalt_cas.sqlite import Connection
from gestalt_cas.statements import Prepared

_NEXT_BUCKET = Prepared("SELECT min(bucket) FROM versions WHERE bucket > :after")
_FIRST_BUCKET = Prepared("SELECT min(bucket) FROM versions")
_HAS_OBJECT = Prepared("SELECT seq FROM current WHERE bucket = :bucket LIMIT 1")
_HAS_VERSION = Prepared("SELECT seq FROM versions WHERE bucket = :bucket AND gone_seq IS NULL LIMIT 1")


def _totals(upper: str = "") -> Prepared:
    where = f"""
        versions.bucket = :bucket AND versions.gone_seq IS NULL AND versions.digest IS NOT NULL
        AND versions.key >= :lower {upper}
    """
    return Prepared(f"""
        SELECT count(*) FILTER (WHERE current.seq IS NOT NULL), count(*),
            coalesce(sum(versions.size) FILTER (WHERE current.seq IS NOT NULL), 0), coalesce(sum(versions.size), 0),
            (SELECT coalesce(sum(size), 0) FROM blobs
             WHERE digest IN (SELECT versions.digest FROM versions WHERE {where}))
        FROM versions LEFT JOIN current
            ON current.seq = versions.seq AND current.bucket = versions.bucket AND current.key = versions.key
        WHERE {where}
    """)


_TOTALS, _TOTALS_ALL = _totals("AND versions.key < :upper"), _totals()


def standing(connection: Connection) -> list[str]:
    """Names of the buckets that hold at least one version, in byte order, a few index seeks each."""
    return [
        name
        for name in ever(connection)
        if _HAS_OBJECT(connection, bucket=name) or _HAS_VERSION(connection, bucket=name)
    ]


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
