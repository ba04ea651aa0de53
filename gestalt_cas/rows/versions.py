"""All SQL of versions and current keys; every function works in the transaction of its caller.

A key's current object is one row of `current`, which points at its newest version; a key whose newest version is a
delete marker has none, so listing meets no tombstones. Sequences come from one stored counter, removals draw one too,
and commit times never decrease with the sequence, whatever the clock does.

Null versions (S3 API reference, "Working with delete markers" and "Suspending versioning"): while versioning is
suspended a write or delete replaces the key's null version and leaves all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gestalt_cas.errors import DatabaseDamaged
from gestalt_cas.keeping import holds, quotas, removals
from gestalt_cas.objects import NO_METADATA, NULL_VERSION, Headers, ObjectKey, ObjectVersion
from gestalt_cas.remedies import command_here
from gestalt_cas.rows import version_ids
from gestalt_cas.rows.version_rows import COLUMNS, from_row, headers_json
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

_HERE = "versions.bucket = :bucket AND versions.key = :key AND versions.gone_seq IS NULL"
_POINTED = """
    current JOIN versions
    ON versions.bucket = current.bucket AND versions.key = current.key AND versions.seq = current.seq
"""
_CURRENT = Prepared(f"SELECT {COLUMNS} FROM {_POINTED} WHERE current.bucket = :bucket AND current.key = :key")
_CURRENT_BY_DEFAULT = Prepared(f"""
    SELECT {COLUMNS}, current.bucket FROM {_POINTED}
    WHERE current.bucket = (SELECT json_extract(value, '$') FROM settings WHERE name = 'bucket') AND current.key = :key
""")
_CURRENT_RUN = Prepared(f"""
    SELECT {COLUMNS} FROM {_POINTED}
    WHERE current.bucket = :bucket AND current.key >= :first AND current.key <= :last ORDER BY current.key
""")
_NEWEST = Prepared(f"SELECT {COLUMNS} FROM versions WHERE {_HERE} ORDER BY seq DESC LIMIT 1")
# After a text SQLite would begin anew at 1, and it takes a text for later than any time: such a counter gives nothing.
_DRAW = Prepared(f"""
    UPDATE counter SET seq = seq + :number, commit_ms = max(commit_ms, :now_ms)
    WHERE typeof(seq) = 'integer' AND seq >= 0 AND seq <= {version_ids.LAST_SEQUENCE} - :number
    AND typeof(commit_ms) = 'integer' RETURNING seq, commit_ms
""")
_INSERT = Prepared("""
    INSERT INTO versions (bucket, key, seq, version_id, digest, size, content_type, headers, metadata, commit_ms)
    VALUES (:bucket, :key, :seq, :version_id, :digest, :size, :content_type, :headers, :metadata, :commit_ms)
""")
_POINT = Prepared("""
    INSERT INTO current (bucket, key, seq) VALUES (:bucket, :key, :seq)
    ON CONFLICT (bucket, key) DO UPDATE SET seq = excluded.seq
""")
_POINTED_AT = Prepared("SELECT seq FROM current WHERE bucket = :bucket AND key = :key")
_UNPOINT = Prepared("DELETE FROM current WHERE bucket = :bucket AND key = :key")
_SEEK = Prepared("""
    SELECT key, seq FROM current WHERE bucket = :bucket AND key >= :lower AND key < :upper ORDER BY key LIMIT :limit
""")
_SEEK_ALL = Prepared("SELECT key, seq FROM current WHERE bucket = :bucket AND key >= :lower ORDER BY key LIMIT :limit")
_READ = f"SELECT {COLUMNS}"
# Of an object `current` knows; a marker is the newest when there is none there, and no version above it. Asking for the
# greatest sequence that stands would walk whatever was removed above.
_POINTED_SEQ = "(SELECT seq FROM current c WHERE c.bucket = versions.bucket AND c.key = versions.key)"
_READ_AND_JUDGED = f"""
    {_READ}, CASE
        WHEN digest IS NOT NULL THEN seq = coalesce({_POINTED_SEQ}, -1)
        WHEN {_POINTED_SEQ} IS NOT NULL THEN 0
        ELSE NOT EXISTS (
            SELECT 1 FROM versions newer WHERE newer.bucket = versions.bucket AND newer.key = versions.key
                AND newer.seq > versions.seq AND newer.gone_seq IS NULL
        )
    END FROM versions WHERE {_HERE}
"""
_BEYOND = "9223372036854775807"  # every sequence is below it
_BY_SEQ = Prepared(f"{_READ_AND_JUDGED} AND seq = :seq")
_NULL = Prepared(f"{_READ_AND_JUDGED} AND version_id = 'null'")
_NEXT = Prepared(f"{_READ} FROM versions WHERE {_HERE} AND seq < :seq ORDER BY seq DESC LIMIT 1")
_ALL = Prepared(
    f"{_READ} FROM versions WHERE {_HERE} AND seq < coalesce(:below, {_BEYOND}) ORDER BY seq DESC LIMIT :limit"
)
_BETWEEN = Prepared(f"{_READ} FROM versions WHERE {_HERE} AND seq > :after AND seq <= :until ORDER BY seq")
_STEP = Prepared("""
    SELECT seq FROM versions WHERE bucket = :bucket AND key = :key AND seq > :after ORDER BY seq LIMIT 2 OFFSET :skip
""")


def current(connection: Connection, key: ObjectKey) -> ObjectVersion | None:
    """The current object of `key`; None when absent or deleted. `key.bucket` is a real name here, never ""."""
    rows = _CURRENT(connection, bucket=key.bucket, key=key.key.encode())
    return from_row(key.bucket, rows[0]) if rows else None


def current_of(connection: Connection, key: ObjectKey) -> ObjectVersion | None:
    """`current` by one statement also for the bucket "", which is the store's default bucket; None when unsure."""
    if key.bucket:
        return current(connection, key)
    rows = _CURRENT_BY_DEFAULT(connection, key=key.key.encode())
    return from_row(rows[0][-1], rows[0]) if rows else None


def newest(connection: Connection, key: ObjectKey) -> ObjectVersion | None:
    """The newest version of `key`, a delete marker included."""
    rows = _NEWEST(connection, bucket=key.bucket, key=key.key.encode())
    return from_row(key.bucket, rows[0]) if rows else None


def by_id(connection: Connection, key: ObjectKey, version_id: str) -> ObjectVersion | None:
    """The version of `key` with this id, a delete marker included; None for any text that names none."""
    encoded = key.key.encode()
    if version_id == NULL_VERSION:
        rows = _NULL(connection, bucket=key.bucket, key=encoded)
    else:
        rows = _BY_SEQ(connection, seq=version_ids.seq_of(version_id), bucket=key.bucket, key=encoded)
    found = from_row(key.bucket, rows[0], current=bool(rows[0][-1])) if rows else None
    return found if found is not None and found.version_id == version_id else None


def current_run(connection: Connection, bucket: str, first: bytes, last: bytes) -> list[ObjectVersion]:
    """The current objects of all keys from `first` to `last`, both inclusive, in key order."""
    return [from_row(bucket, row) for row in _CURRENT_RUN(connection, bucket=bucket, first=first, last=last)]


def seek(connection: Connection, bucket: str, lower: bytes, upper: bytes | None, limit: int) -> list[tuple[bytes, int]]:
    """Current keys from `lower` (inclusive) to `upper` (exclusive; None: no bound) with their sequences, in order."""
    if upper is None:
        return _SEEK_ALL(connection, bucket=bucket, lower=lower, limit=limit)
    return _SEEK(connection, bucket=bucket, lower=lower, upper=upper, limit=limit)


def everything(
    connection: Connection, key: ObjectKey, *, below: int | None = None, limit: int = -1
) -> list[ObjectVersion]:
    """All versions and markers of `key`, the newest first: those below a sequence, and at most `limit` (-1: all).

    Only the first of all of them is current.
    """
    rows = _ALL(connection, bucket=key.bucket, key=key.key.encode(), below=below, limit=limit)
    return [from_row(key.bucket, row, current=below is None and not index) for index, row in enumerate(rows)]


def step(connection: Connection, key: ObjectKey, after: int, limit: int) -> int | None:
    """The sequence of the last of the next `limit` rows of `key` after a sequence, removed ones counted as well.

    None: there are no more than that.
    """
    rows = _STEP(connection, bucket=key.bucket, key=key.key.encode(), after=after, skip=limit - 1)
    return int(rows[0][0]) if rows[1:] else None


def between(connection: Connection, key: ObjectKey, after: int, until: int) -> list[ObjectVersion]:
    """The versions and markers of `key` after a sequence (exclusive) up to another (inclusive), the oldest first.

    `current` is not told of them.
    """
    rows = _BETWEEN(connection, bucket=key.bucket, key=key.key.encode(), after=after, until=until)
    return [from_row(key.bucket, row, current=False) for row in rows]


def append(
    connection: Connection,
    key: ObjectKey,
    digest: bytes | None,
    size: int,
    *,
    headers: Headers,
    metadata: Mapping[str, str],
    suspended: bool,
    counted: bool = True,
    guarded: bool = True,
    now_ms: int,
) -> ObjectVersion:
    """Add a version (`digest` None: a delete marker) as the newest of `key`, and make it current.

    With versioning suspended it becomes the null version and the previous null version is removed for good. Raises Held
    when that one is held, and QuotaExceeded, with which the transaction must end, when the key's versions would then
    take too much. Not `counted` is for who knows that there is no quota, not `guarded` that there is no hold.
    """
    encoded = key.key.encode()
    replaced = _NULL(connection, bucket=key.bucket, key=encoded) if suspended else []
    if guarded:
        _refuse_replacing(connection, key.bucket, encoded, replaced)
    if counted:
        quotas.charge(connection, key.bucket, encoded, size - sum(row[3] for row in replaced))
    seq, commit_ms = draw(connection, now_ms)
    for row in replaced:
        # Gone with the change that replaces it: at no moment of the history is neither there.
        removals.leave(connection, key.bucket, encoded, row[2], seq, commit_ms)
    version_id = NULL_VERSION if suspended else version_ids.new(seq, 1)[0]
    _INSERT(
        connection,
        seq=seq,
        bucket=key.bucket,
        key=encoded,
        version_id=version_id,
        digest=digest,
        size=size,
        content_type=headers.content_type,
        headers=headers_json(headers),
        metadata=json.dumps(dict(metadata), ensure_ascii=False) if metadata else None,
        commit_ms=commit_ms,
    )
    if digest is None:
        _UNPOINT(connection, bucket=key.bucket, key=encoded)
    else:
        _POINT(connection, bucket=key.bucket, key=encoded, seq=seq)
    return ObjectVersion(
        key,
        version_id,
        seq,
        size,
        digest.hex() if digest else "",
        commit_ms,
        headers,
        MappingProxyType(dict(metadata)) if metadata else NO_METADATA,
    )


def refuse_replacing(connection: Connection, bucket: str, key: bytes) -> None:
    """Raise Held when a version that is added with versioning suspended would take the place of one that is held."""
    _refuse_replacing(connection, bucket, key, _NULL(connection, bucket=bucket, key=key))


def _refuse_replacing(connection: Connection, bucket: str, key: bytes, replaced: Sequence[tuple[Any, ...]]) -> None:
    if any(row[4] is not None for row in replaced):
        holds.refuse(connection, bucket, key, NULL_VERSION)


def remove(connection: Connection, version: ObjectVersion, now_ms: int, *, guarded: bool = True) -> None:
    """Remove one version or delete marker for good; what is then the newest becomes current, unless it is a marker.

    Its row stays for the history, without its hold on the payload. Raises Held when the version is held; not `guarded`
    is for who knows that there is no hold.
    """
    encoded = version.key.key.encode()
    if guarded and not version.delete_marker:
        holds.refuse(connection, version.key.bucket, encoded, version.version_id)
    gone_seq, gone_ms = draw(connection, now_ms)
    quotas.charge(connection, version.key.bucket, encoded, -version.size)
    removals.leave(connection, version.key.bucket, encoded, version.seq, gone_seq, gone_ms)
    _point_past(connection, version, encoded)


def _point_past(connection: Connection, version: ObjectVersion, key: bytes) -> None:
    """Have `current` say what is the newest without this version, which was removed.

    Only the removal of the newest changes that. Above an object that is the newest nothing stands, so what was removed
    there is not walked: taking versions away from the newest on costs each time the same.
    """
    here = {"bucket": version.key.bucket, "key": key}
    pointed = _POINTED_AT(connection, **here)
    if pointed:
        if pointed[0][0] != version.seq:
            return
        rows = _NEXT(connection, **here, seq=version.seq)
    elif version.delete_marker:
        rows = _NEWEST(connection, **here)
    else:
        return  # the newest is a marker
    if rows and rows[0][4] is not None:
        _POINT(connection, **here, seq=rows[0][2])
    else:
        _UNPOINT(connection, **here)


def pointer(connection: Connection, bucket: str, key: bytes) -> tuple[int | None, int | None]:
    """The sequence that `current` should have for a key, and the one it has; None: no row."""
    rows = _NEWEST(connection, bucket=bucket, key=key)
    pointed = _POINTED_AT(connection, bucket=bucket, key=key)
    return rows[0][2] if rows and rows[0][4] is not None else None, pointed[0][0] if pointed else None


def repoint(connection: Connection, bucket: str, key: bytes) -> None:
    """Make the key's row of `current` anew from its versions."""
    wanted, _ = pointer(connection, bucket, key)
    if wanted is None:
        _UNPOINT(connection, bucket=bucket, key=key)
    else:
        _POINT(connection, bucket=bucket, key=key, seq=wanted)


def draw(connection: Connection, now_ms: int, number: int = 1) -> tuple[int, int]:
    """Draw the next sequence, or the first of so many, and its commit time.

    That is the clock, or the last commit time when the clock is behind it. Raises DatabaseDamaged for a counter that no
    write stores.
    """
    drawn = _DRAW(connection, now_ms=now_ms, number=number)
    if not drawn:
        raise _no_counter(connection)
    seq, commit_ms = drawn[0]
    return seq - number + 1, commit_ms


def _no_counter(connection: Connection) -> DatabaseDamaged:
    found = connection.execute("SELECT seq, commit_ms FROM counter").fetchall()
    if not found:
        wrong = "seq is missing: the table has no row"
    else:
        ((seq, commit_ms),) = found
        numbers = isinstance(seq, int) and 0 <= seq < version_ids.LAST_SEQUENCE
        wrong = f"commit_ms holds {commit_ms!r}" if numbers else f"seq holds {seq!r}"
    return DatabaseDamaged(
        f"the database is damaged: counter: {wrong}, so no change can be numbered; {command_here('check', connection)} "
        "tells more"
    )
