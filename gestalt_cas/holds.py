"""Holds: versions that nothing may remove until the hold is released.

A hold is of one version, or of every version of the keys of a bucket that start with a prefix, those to come included.
Removing such a version for good is refused, whoever asks: a delete by version id, a write or delete that would replace
it as the null version, and purge. Retention leaves the whole key alone. Delete markers are not held, and adding one is
no removal, so objects can be deleted and undeleted under a hold.

There are few, so they are one note among the settings, which each removal reads in its transaction. Backups carry it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from gestalt_cas.errors import InvalidArgument, Protected
from gestalt_cas.objects import NULL_VERSION
from gestalt_cas.sqlite import Connection

NOTE = "holds"
MOST = 1_000
"""Each removal reads all of them."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold; with `version_id` the prefix is a whole key. `created_ms` in Unix milliseconds."""

    bucket: str
    prefix: str
    version_id: str
    created_ms: int

    @property
    def name(self) -> str:
        """BUCKET, BUCKET/PREFIX, or BUCKET/KEY with the version."""
        where = f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket
        return f"{where}, version {self.version_id}" if self.version_id else where

    @property
    def release(self) -> str:
        """The arguments of `gestalt-cas hold release` that end it."""
        where = shlex.quote(f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket)
        return f"{where} --version-id {self.version_id}" if self.version_id else where

    def touches(self, bucket: str, key: bytes) -> bool:
        """Whether some version of the key may be held."""
        if bucket != self.bucket:
            return False
        return key == self.prefix.encode() if self.version_id else key.startswith(self.prefix.encode())

    def covers(self, bucket: str, key: bytes, version_id: str) -> bool:
        """Whether the version is held."""
        return self.version_id in ("", version_id) and self.touches(bucket, key)


def standing(connection: Connection) -> list[Hold]:
    """All holds, in byte order of bucket and prefix."""
    rows = connection.execute("SELECT value FROM settings WHERE name = ?", (NOTE,)).fetchall()
    made = [Hold(*hold) for (text,) in rows for hold in json.loads(text)]
    return sorted(made, key=lambda hold: (hold.bucket.encode(), hold.prefix.encode(), hold.version_id))


def place(connection: Connection, hold: Hold) -> Hold:
    """Add a hold; one that stands already stays as it is and is returned. Raises InvalidArgument beyond MOST."""
    found = standing(connection)
    same = [one for one in found if astuple(one)[:3] == astuple(hold)[:3]]
    if same:
        return same[0]
    if len(found) >= MOST:
        raise InvalidArgument(f"there are {MOST} holds already; hold a prefix, or release some")
    _store(connection, [*found, hold])
    return hold


def release(connection: Connection, bucket: str, prefix: str, version_id: str) -> bool:
    """End the hold of just this; False when there is none."""
    found = standing(connection)
    left = [one for one in found if astuple(one)[:3] != (bucket, prefix, version_id)]
    if len(left) < len(found):
        _store(connection, left)
    return len(left) < len(found)


def refuse(connection: Connection, bucket: str, key: bytes, version_id: str) -> None:
    """Raise Protected when the version, which is no delete marker, is held."""
    for hold in standing(connection):
        if hold.covers(bucket, key, version_id):
            what = "the null version" if version_id == NULL_VERSION else f"version {version_id}"
            raise Protected(
                f"{bucket}/{key.decode()}, {what}: the hold on {hold.name} keeps it; release that first "
                f"(gestalt-cas hold release {hold.release})"
            )


def on_key(holds: Iterable[Hold], bucket: str, key: bytes) -> bool:
    """Whether some version of the key may be held by these."""
    return any(hold.touches(bucket, key) for hold in holds)


def _store(connection: Connection, holds: list[Hold]) -> None:
    connection.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (NOTE, json.dumps([astuple(hold) for hold in holds])),
    )
