"""Holds: versions that nothing may remove until the hold is released.

A hold is of one version, or of every version of the keys of a bucket that start with a prefix, those to come included.
Removing such a version for good is refused, whoever asks: a delete by version id, a write, copy or delete that would
replace it as the null version, a rollback that would, and purge. Retention passes it over. It is judged in the
transaction that removes, so a hold counts from the commit that sets it on.

Delete markers are not held, and adding one is no removal: objects can be deleted and undeleted under a hold, as under
S3's (S3 API reference, "Object Lock": legal hold, delete markers). Replacing the null version is where S3 gives no
answer, since it refuses to suspend versioning where holds can be. Here the write is refused: what it would destroy is
what the hold is for, and a caller who is told can write once versioning is enabled again. What was removed before the
hold was set has gone: snapshots keep it, or the history knows of it for a while, as without a hold.

Every function works in the transaction of its caller. Where there are no holds each is one seek of an empty table.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import takewhile

from gestalt_cas.errors import DatabaseDamaged, Held
from gestalt_cas.objects import NULL_VERSION
from gestalt_cas.remedies import command_here
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

_ROW = "bucket, prefix, version_id, created_ms"
_JUST_THIS = "bucket = :bucket AND prefix = :prefix AND version_id = :version_id"
_FIND = Prepared(f"SELECT {_ROW} FROM holds WHERE {_JUST_THIS}")
_LAST_PREFIX = Prepared(f"""
    SELECT {_ROW} FROM holds WHERE version_id = '' AND bucket = :bucket AND prefix <= :most ORDER BY prefix DESC LIMIT 1
""")
IS_HELD = """
    EXISTS (
        SELECT 1 FROM holds
        WHERE holds.bucket = versions.bucket AND holds.prefix = versions.key AND holds.version_id = versions.version_id
    )
"""
"""SQL, of a row of versions: whether just that version is held."""
_SOME = Prepared("SELECT 1 FROM holds LIMIT 1")
_STRANGE = Prepared("""
    SELECT CAST(bucket AS BLOB), CAST(prefix AS BLOB) FROM holds
    WHERE (typeof(bucket) = 'text' AND typeof(prefix) = 'blob' AND typeof(version_id) = 'text') IS NOT TRUE LIMIT 1
""")
_COUNT = Prepared("SELECT count(*) FROM holds")
_ALL = Prepared(f"SELECT {_ROW} FROM holds ORDER BY bucket, prefix, version_id")
_PLACE = Prepared(
    f"INSERT INTO holds ({_ROW}) VALUES (:bucket, :prefix, :version_id, :created_ms) ON CONFLICT DO NOTHING"
)
_OF_VERSIONS = Prepared("""
    SELECT version_id FROM holds WHERE bucket = :bucket AND version_id > '' AND prefix = :key ORDER BY version_id
""")
_RELEASE = Prepared(f"DELETE FROM holds WHERE {_JUST_THIS} RETURNING created_ms")


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold; with a `version_id` the prefix is a whole key, and just that version is held.

    `created_ms` in Unix milliseconds.
    """

    bucket: str
    prefix: str
    version_id: str
    created_ms: int

    @property
    def name(self) -> str:
        """BUCKET, BUCKET/PREFIX, or BUCKET/KEY with the version."""
        return f"{self._where}, version {self.version_id}" if self.version_id else self._where

    @property
    def release(self) -> str:
        """The words of the command that ends it, for `remedies`."""
        version = f" --version-id {self.version_id}" if self.version_id else ""
        return f"hold release {shlex.quote(self._where)}{version}"

    @property
    def _where(self) -> str:
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket


def any_stand(connection: Connection) -> bool:
    """Whether there is a hold at all; most stores have none, and pay for no more than this question.

    Raises DatabaseDamaged for a hold that no write stores: what it is to keep would not be found.
    """
    if not _SOME(connection):
        return False
    require_sound(connection)
    return True


def require_sound(connection: Connection) -> None:
    """Raise DatabaseDamaged when a row holds what no look-up of holds would find; it may be any version's."""
    for row in _STRANGE(connection):
        bucket, prefix = ((part or b"").decode(errors="backslashreplace") for part in row)
        raise DatabaseDamaged(
            f"the database is damaged: holds, row {bucket}/{prefix}: it holds what no write stores, so what is held "
            f"cannot be told; {command_here('check', connection)} tells more"
        )


def count(connection: Connection) -> int:
    """How many there are."""
    return int(_COUNT(connection)[0][0])


def standing(connection: Connection) -> list[Hold]:
    """All holds, in byte order of bucket and prefix."""
    return [_hold(*row) for row in _ALL(connection)]


def place(connection: Connection, bucket: str, prefix: str, version_id: str, now_ms: int) -> Hold:
    """Set a hold; one that stands already stays as it is. Returns the one that stands then."""
    just_this = {"bucket": bucket, "prefix": prefix.encode(), "version_id": version_id}
    _PLACE(connection, **just_this, created_ms=now_ms)
    return _hold(*_FIND(connection, **just_this)[0])


def release(connection: Connection, bucket: str, prefix: str, version_id: str) -> bool:
    """End the hold of just this; False when there is none."""
    return bool(_RELEASE(connection, bucket=bucket, prefix=prefix.encode(), version_id=version_id))


def stands(connection: Connection, hold: Hold) -> bool:
    """Whether it has not been released."""
    prefix = hold.prefix.encode()
    return bool(_FIND(connection, bucket=hold.bucket, prefix=prefix, version_id=hold.version_id))


def above(connection: Connection, bucket: str, key: bytes) -> Hold | None:
    """The hold of the longest prefix that the key starts with; None when no such prefix is held.

    Of all prefixes that sort up to the key the last one is looked at. Unless the key starts with it, whatever held
    prefix the key has is no longer than what the two have in common, so the next look is up to that.
    """
    most = key
    while rows := _LAST_PREFIX(connection, bucket=bucket, most=most):
        prefix = rows[0][1]
        if key.startswith(prefix):
            return _hold(*rows[0])
        most = bytes(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(key, prefix, strict=False)))
    return None


def of(connection: Connection, bucket: str, key: bytes, version_id: str) -> Hold | None:
    """What holds a version, which is no delete marker; None when nothing does."""
    rows = _FIND(connection, bucket=bucket, prefix=key, version_id=version_id)
    return _hold(*rows[0]) if rows else above(connection, bucket, key)


def of_versions(connection: Connection, bucket: str, key: bytes) -> list[str]:
    """Which versions of a key are held for themselves; costs the holds of versions in the bucket, not the versions."""
    return [version_id for (version_id,) in _OF_VERSIONS(connection, bucket=bucket, key=key)]


def refuse(connection: Connection, bucket: str, key: bytes, version_id: str) -> None:
    """Raise Held when the version, which is no delete marker, is held."""
    found = of(connection, bucket, key, version_id)
    if found is not None:
        what = "the null version" if version_id == NULL_VERSION else f"version {version_id}"
        raise _held(connection, found, f"{bucket}/{key.decode()}, {what}")


def refuse_key(connection: Connection, bucket: str, key: bytes) -> None:
    """Raise Held when a prefix of the key is held, whatever versions there are."""
    found = above(connection, bucket, key)
    if found is not None:
        raise _held(connection, found, f"{bucket}/{key.decode()}")


def _held(connection: Connection, hold: Hold, what: str) -> Held:
    release = command_here(hold.release, connection)
    return Held(f"{what}: the hold on {hold.name} keeps it; release that first ({release})", hold=hold.name)


def _hold(bucket: str, prefix: bytes, version_id: str, created_ms: int) -> Hold:
    return Hold(bucket, prefix.decode(), version_id, created_ms)
