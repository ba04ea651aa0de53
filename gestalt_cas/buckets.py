"""The buckets of which there are rows, and what the keys below a prefix of one take together.

Buckets are not created: a name is one as long as a row has it. Every function works in the transaction of its caller.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, func, literal_column, select

from gestalt_cas import schema
from gestalt_cas.sqlite import Connection
from gestalt_cas.statements import Prepared, parameter

_p = parameter
_v, _c, _b = schema.versions.c, schema.current.c, schema.blobs.c
_NEXT_BUCKET = Prepared(select(func.min(_v.bucket)).where(_v.bucket > _p("after")))
_FIRST_BUCKET = Prepared(select(func.min(_v.bucket)))
_HAS_OBJECT = Prepared(select(_c.seq).where(_c.bucket == _p("bucket")).limit(literal_column("1")))
_HAS_VERSION = Prepared(
    select(_v.seq).where(_v.bucket == _p("bucket"), _v.gone_seq.is_(None)).limit(literal_column("1"))
)

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
