"""Quotas: how many bytes the versions below a prefix may take together.

A quota is for the stored keys of one bucket that start with a prefix, the empty one being the whole bucket. Counted is
the size of every version that is kept, whether or not payloads are shared; delete markers count nothing. Quotas may lie
within each other; a change must keep all of them. What is used is kept in the quota's row by the transaction of each
change, so two writers cannot both take the last bytes, and what was refused has changed nothing.

Only what makes the use grow is ever refused: removals always work, and a quota may be set below what is used already.

A row whose bucket or prefix has another type than every write stores would equal no key's, and limit nothing without a
word. So rows are found by their bytes, whatever type these have, and what grows below such a one is refused as damage.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from gestalt_cas.errors import DatabaseDamaged, InvalidArgument, QuotaExceeded
from gestalt_cas.objects import check_bucket, check_prefix
from gestalt_cas.remedies import command_here
from gestalt_cas.rules.listing import successor
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

STRETCH_ROWS = 10_000
"""Rows that one look adds up: some milliseconds."""
Place = tuple[bytes, int]
"""Key and sequence of a row of a bucket's versions."""
MOST_BYTES = 1 << 53
"""As config.schema.json has it: hosts send numbers as floats, which are exact up to here."""

_READ = "CAST(bucket AS BLOB), CAST(prefix AS BLOB), max_bytes, used_bytes, typeof(bucket), typeof(prefix)"
"""As bytes, which can be read whatever they are."""
_OF_BUCKET = "bucket IN (:bucket, CAST(:bucket AS BLOB))"
_ABOVE = f"""
    {_OF_BUCKET} AND (
        CAST(prefix AS BLOB) = substr(:key, 1, length(CAST(prefix AS BLOB))) OR typeof(prefix) NOT IN ('blob', 'text')
    )
"""
_CHARGE = Prepared(f"UPDATE quotas SET used_bytes = used_bytes + :count WHERE {_ABOVE} RETURNING {_READ}")
_CHARGE_ONE = Prepared("UPDATE quotas SET used_bytes = used_bytes + :count WHERE bucket = :bucket AND prefix = :prefix")
_ABOVE_KEY = Prepared(f"SELECT {_READ} FROM quotas WHERE {_ABOVE} ORDER BY bucket, prefix")
_SOME = Prepared("SELECT 1 FROM quotas LIMIT 1")
_ALL = Prepared(f"SELECT {_READ} FROM quotas ORDER BY bucket, prefix")
_SET = Prepared("""
    INSERT INTO quotas (bucket, prefix, max_bytes, used_bytes) VALUES (:bucket, :prefix, :max_bytes, :used_bytes)
""")
_REMOVE = Prepared(f"DELETE FROM quotas WHERE {_OF_BUCKET} AND CAST(prefix AS BLOB) = :prefix RETURNING max_bytes")
_SUM = "SELECT coalesce(sum(size), 0) FROM versions WHERE bucket = :bucket AND gone_seq IS NULL AND key >= :lower"
_BELOW = "bucket = :bucket AND key >= :lower AND key < coalesce(:upper, x'ffffffffff')"
# One bound on either side: of two SQLite takes one, and steps over what lies between.
_BEHIND = "bucket = :bucket AND (key, seq) > (:key, :seq) AND (key, seq) <= (:last_key, :last_seq)"
_STRETCH_END = Prepared(f"SELECT key, seq FROM versions WHERE {_BEHIND} ORDER BY key, seq LIMIT 1 OFFSET :skip")
_USED_THEN = Prepared(f"""
    SELECT coalesce(sum(size), 0) FROM versions
    WHERE {_BEHIND} AND seq <= :at AND (gone_seq IS NULL OR gone_seq > :at)
""")
_CAME, _WENT = (
    Prepared(f"SELECT coalesce(sum(size), 0) FROM versions INDEXED BY {index} WHERE {changed} AND {_BELOW}")
    for index, changed in (
        ("versions_by_seq", "seq > :at AND gone_seq IS NULL"),
        ("versions_gone", "gone_seq IS NOT NULL AND gone_seq > :at AND seq <= :at"),
    )
)
_USED, _USED_TO_THE_END = Prepared(f"{_SUM} AND key < :upper"), Prepared(_SUM)


@dataclass(frozen=True, slots=True)
class Quota:
    """One quota. `prefix` is of stored keys, "" for the whole bucket; `used_bytes` may exceed `max_bytes`."""

    bucket: str
    prefix: str
    max_bytes: int
    used_bytes: int

    @property
    def name(self) -> str:
        """BUCKET, or BUCKET/PREFIX."""
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket

    @property
    def left_bytes(self) -> int:
        """What the use may still grow by; negative when the quota was set below it."""
        return self.max_bytes - self.used_bytes


def check(bucket: str, prefix: str, max_bytes: object) -> None:
    """Raise InvalidArgument for what can be no quota. `bucket` "" stands for the store's default bucket."""
    check_bucket(bucket)
    check_prefix(prefix)
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool):  # SQLite would keep a fraction as it is
        raise InvalidArgument(f"a quota of {max_bytes!r}: it must be a whole number of bytes")
    if not 0 <= max_bytes <= MOST_BYTES:
        raise InvalidArgument(f"a quota of {max_bytes} bytes: the limits are 0 and {MOST_BYTES}")


def standing(connection: Connection) -> list[Quota]:
    """All quotas, in byte order of bucket and prefix."""
    return [_quota(connection, *row) for row in _ALL(connection)]


def any_stand(connection: Connection) -> bool:
    """Whether there is a quota at all; most stores have none, and pay for no more than this question."""
    return bool(_SOME(connection))


def over(connection: Connection, bucket: str, key: bytes) -> list[Quota]:
    """The quotas that a key counts against."""
    return [_quota(connection, *row) for row in _ABOVE_KEY(connection, bucket=bucket, key=key)]


def charge(connection: Connection, bucket: str, key: bytes, count: int) -> None:
    """Count `count` more bytes (negative: fewer) of a key; for every change of versions, in its transaction.

    Raises QuotaExceeded when the use grows beyond a quota, and DatabaseDamaged when it grows below one that cannot be
    read; the caller's transaction must end with that.
    """
    if not count:
        return
    charged = _CHARGE(connection, bucket=bucket, key=key, count=count)
    for row in charged if count > 0 else ():
        quota = _quota(connection, *row)
        if quota.left_bytes < 0:
            raise exceeded(quota, quota.used_bytes - count, count, raised_by(connection, quota))


def charge_many(connection: Connection, bucket: str, counts: Sequence[tuple[bytes, int]]) -> None:
    """`charge` for many keys of a bucket at once, each with how many more bytes; raises the same."""
    for quota in standing(connection):
        prefix = quota.prefix.encode()
        count = sum(more for key, more in counts if key.startswith(prefix)) if quota.bucket == bucket else 0
        if count > quota.left_bytes and count > 0:
            raise exceeded(quota, quota.used_bytes, count, raised_by(connection, quota))
        if count:
            _CHARGE_ONE(connection, bucket=bucket, prefix=prefix, count=count)


def raised_by(connection: Connection, quota: Quota) -> str:
    """The command that raises it."""
    return command_here(f"quota set {shlex.quote(quota.name)} SIZE", connection)


def exceeded(quota: Quota, used: int, count: int, remedy: str) -> QuotaExceeded:
    """The refusal of `count` more bytes at a time when `used` bytes were; `remedy` is what raises the quota."""
    return QuotaExceeded(
        f"quota {quota.name}: {used} of {quota.max_bytes} bytes are used, and {count} more do not fit; remove versions "
        f"for good (rm --version-id), or raise it with: {remedy}",
        quota=quota.name,
    )


def place(connection: Connection, bucket: str, prefix: str, max_bytes: int, used: int) -> Quota:
    """Set a quota, or another maximum of one, of which so many bytes are used."""
    drop(connection, bucket, prefix)  # also a damaged row, which would stand beside the new one
    _SET(connection, bucket=bucket, prefix=prefix.encode(), max_bytes=max_bytes, used_bytes=used)
    return Quota(bucket, prefix, max_bytes, used)


def drop(connection: Connection, bucket: str, prefix: str) -> bool:
    """Remove a quota; False when there is none of that name."""
    return bool(_REMOVE(connection, bucket=bucket, prefix=prefix.encode()))


def limits(connection: Connection) -> dict[str, int]:
    """The maximum of each quota, by name."""
    return {quota.name: quota.max_bytes for quota in standing(connection)}


def replace(connection: Connection, wanted: Mapping[tuple[str, str], int]) -> None:
    """Have exactly these quotas, by bucket and prefix; one that stands already with its maximum is left alone."""
    present = {(quota.bucket, quota.prefix): quota.max_bytes for quota in standing(connection)}
    for bucket, prefix in present.keys() - wanted.keys():
        drop(connection, bucket, prefix)
    for (bucket, prefix), max_bytes in wanted.items():
        if present.get((bucket, prefix)) != max_bytes:
            place(connection, bucket, prefix, max_bytes, count(connection, bucket, prefix.encode()))


def count(connection: Connection, bucket: str, prefix: bytes) -> int:
    """Add up the bytes of all versions of the bucket whose keys start with the prefix."""
    upper = successor(prefix)
    if upper is None:
        rows = _USED_TO_THE_END(connection, bucket=bucket, lower=prefix)
    else:
        rows = _USED(connection, bucket=bucket, lower=prefix, upper=upper)
    return int(rows[0][0])


def count_then(
    connection: Connection, bucket: str, prefix: bytes, at: int, after: Place | None = None
) -> tuple[int, Place | None]:
    """The same as of the sequence `at`, of a stretch of rows behind the row `after`, and where the next one begins.

    The row of a version that is removed meanwhile stays, so the stretches add up to what was used then, whenever each
    is looked at; `changed_since` tells what came of it. So nobody waits while a bucket of millions is counted.
    """
    key, seq = after or (prefix, -1)
    here = {"bucket": bucket, "key": key, "seq": seq}
    end = successor(prefix) or b"\xff", -1  # UTF-8 has no such byte
    ends = _STRETCH_END(connection, **here, last_key=end[0], last_seq=end[1], skip=STRETCH_ROWS - 1)
    last_key, last_seq = ends[0] if ends else end
    ((used,),) = _USED_THEN(connection, **here, last_key=last_key, last_seq=last_seq, at=at)
    return int(used), ends[0] if ends else None


def counted_then(
    view: Callable[[], AbstractContextManager[Connection]], bucket: str, prefix: bytes, at: int
) -> Iterator[int]:
    """`count_then` of one stretch after another, each in a view of its own that is closed by the time it is told."""
    after: Place | None = None
    while True:
        with view() as tx:
            used, after = count_then(tx, bucket, prefix, at, after)
        yield used
        if after is None:
            return


def changed_since(connection: Connection, bucket: str, prefix: bytes, at: int) -> int:
    """By how many bytes the use has grown since the sequence `at`; costs what changed in the whole store."""
    here = {"bucket": bucket, "lower": prefix, "upper": successor(prefix), "at": at}
    return int(_CAME(connection, **here)[0][0]) - int(_WENT(connection, **here)[0][0])


def _quota(
    connection: Connection,
    bucket: bytes,
    prefix: bytes,
    max_bytes: int,
    used_bytes: int,
    bucket_type: str,
    prefix_type: str,
) -> Quota:
    if bucket_type != "text" or prefix_type != "blob":
        raise _damaged(connection, bucket, prefix, bucket_type, prefix_type)
    return Quota(bucket.decode(), prefix.decode(), max_bytes, used_bytes)


def _damaged(
    connection: Connection, bucket: bytes | None, prefix: bytes | None, bucket_type: str, prefix_type: str
) -> DatabaseDamaged:
    """A row that equals no key's bucket or prefix; `None` for what has become NULL."""
    name = "/".join(part.decode(errors="backslashreplace") for part in (bucket, prefix) if part)
    column, found, wanted = "prefix", prefix_type, "blob"
    if bucket_type != "text":
        column, found, wanted = "bucket", bucket_type, "text"
    remedy = f"{command_here('check', connection)} tells of every such row"
    if {bucket_type, prefix_type} <= {"text", "blob"}:
        remedy += f", and this one is set anew with: {command_here(f'quota set {shlex.quote(name)} SIZE', connection)}"
    return DatabaseDamaged(
        f"the database is damaged: it holds what no write stores: quotas, row {name}: {column} is of type {found}, not "
        f"{wanted}; {remedy}"
    )
