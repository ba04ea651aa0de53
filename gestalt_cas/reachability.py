"""Which payloads no version reaches: the questions that garbage collection and its neighbours ask of the rows.

References are found by query, never by a stored count, which would be a second truth that drifts. Questions are cut
along the first byte of the digest, as the directory of blobs is, so each view is short however large the store. Every
function works in the transaction of its caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Integer, and_, delete, exists, func, insert, literal_column, or_, select

from gestalt_cas import removals, schema
from gestalt_cas.sqlite import Connection
from gestalt_cas.statements import Prepared, parameter

_b, _u, _v = schema.blobs.c, schema.unreachable.c, schema.versions.c


def _reached(digest: ColumnElement[bytes]) -> ColumnElement[bool]:
    return exists().where(_v.digest == digest)


def _within(digest: ColumnElement[bytes]) -> ColumnElement[bool]:
    return and_(digest >= parameter("lower"), digest < parameter("upper"))


_IS_FILE = _b.place == literal_column(str(schema.PLACE_FILE))
# A file whose payload is a row was published by an upload that came to nothing, or came too late: nobody reads it.
_IS_ROW = exists().where(_b.digest == _u.digest, ~_IS_FILE)
_KNOWN = Prepared(select(_b.digest).where(_within(_b.digest), _IS_FILE))
_PLACES = Prepared(select(_b.place).where(_within(_b.digest), ~_IS_FILE))
_UNREACHED = Prepared(
    select(_b.digest, _b.size, ~_IS_FILE).where(_within(_b.digest), ~_reached(_b.digest)).order_by(_b.digest)
)
_MARKED = Prepared(select(_u.digest, _u.size, _u.since_ms).where(_within(_u.digest)).order_by(_u.digest))
_MARK = Prepared(
    insert(schema.unreachable)
    .values(digest=parameter("digest"), size=parameter("size"), since_ms=parameter("since_ms"))
    .prefix_with("OR IGNORE")
)
_UNMARK = Prepared(delete(schema.unreachable).where(_u.digest == parameter("digest")))
_RIPE = Prepared(
    select(_u.digest, _u.size, _IS_ROW)
    .where(_u.digest > parameter("after"), _u.since_ms <= parameter("until_ms"), ~_reached(_u.digest) | _IS_ROW)
    .order_by(_u.digest)
    .limit(parameter("limit", Integer))
)
_RECORDED = Prepared(select(_u.digest, _u.size, _IS_ROW).where(_u.digest == parameter("digest"), ~_reached(_u.digest)))
_STANDING = Prepared(
    select(
        func.count().filter(_u.since_ms <= parameter("until_ms", Integer)),
        func.coalesce(func.sum(_u.size).filter(_u.since_ms <= parameter("until_ms", Integer)), 0),
        func.count(),
        func.coalesce(func.sum(_u.size), 0),
    )
)
_IS_REACHED = Prepared(select(_v.seq).where(_v.digest == parameter("digest")).limit(literal_column("1")))
_REFERENCES = Prepared(
    select(func.count()).select_from(
        select(_v.seq)
        .where(_v.digest == parameter("digest"), or_(_v.gone_seq.is_(None), removals.KEPT_BY_SNAPSHOT))
        .limit(parameter("limit", Integer))
        .subquery()
    )
)
_AS_GARBAGE = Prepared(select(_b.size, ~_IS_FILE).where(_b.digest == parameter("digest")))
_TAKE_OUT = Prepared(
    delete(schema.inlined)
    .where(schema.inlined.c.id == select(_b.place).where(_b.digest == parameter("digest")).scalar_subquery())
    .returning(schema.inlined.c.id)
)
_ALL_PLACES = Prepared(select(_b.place).where(~_IS_FILE))
_DROP_ROW = Prepared(delete(schema.inlined).where(schema.inlined.c.id == parameter("place", Integer)))
_FORGET = Prepared(delete(schema.blobs).where(_b.digest == parameter("digest")))
_SIZE = Prepared(
    select(
        select(func.coalesce(func.sum(_b.size), 0)).where(_within(_b.digest), ~_reached(_b.digest)).scalar_subquery(),
        select(func.coalesce(func.sum(_u.size), 0))
        .where(_within(_u.digest), ~exists().where(_b.digest == _u.digest))
        .scalar_subquery(),
    )
)


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
    return candidates - {place for (place,) in _ALL_PLACES(connection)} if candidates else set()


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
