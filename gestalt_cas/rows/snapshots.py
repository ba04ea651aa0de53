"""Snapshots: names for moments of the store, a bucket or a prefix, which keep what was there then.

Making one writes one row, whatever the size. From then on a version that the snapshot shows keeps its payload when it
is removed or replaced, and its row is never dropped (`removals.py`). Every function works in the transaction of its
caller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gestalt_cas.errors import InvalidArgument, NoSuchSnapshot, SnapshotExists
from gestalt_cas.objects import check_bucket, check_prefix
from gestalt_cas.rows import history
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
_ALL = "name, bucket, prefix, seq, created_ms"
_FIND = Prepared(f"SELECT {_ALL} FROM snapshots WHERE name = :name")
_LIST = Prepared(f"SELECT {_ALL} FROM snapshots ORDER BY seq, name")
_INSERT = Prepared(f"INSERT INTO snapshots ({_ALL}) VALUES (:name, :bucket, :prefix, :seq, :created_ms)")
_DELETE = Prepared("DELETE FROM snapshots WHERE name = :name RETURNING name")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named moment: the state after the change `seq`. `bucket` "": of every bucket. Times in Unix milliseconds."""

    name: str
    bucket: str
    prefix: str
    seq: int
    created_ms: int

    @property
    def where(self) -> str:
        """What it is of, as the command line names it."""
        if not self.bucket:
            return "the whole store"
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket

    def covers(self, bucket: str, prefix: bytes) -> bool:
        """Whether it shows every key of `bucket` (a real name) that starts with `prefix`."""
        return not self.bucket or (self.bucket == bucket and prefix.startswith(self.prefix.encode()))


def check_name(name: str) -> None:
    """Raise InvalidArgument unless `name` can be a snapshot's and nothing else that names a moment."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{name!r} cannot name a snapshot: a letter first, then at most 127 letters, digits, '.', '_' or '-'"
        )


def check_scope(bucket: str, prefix: str) -> None:
    """Raise InvalidArgument unless a snapshot can be of these keys."""
    check_bucket(bucket)
    check_prefix(prefix)
    if prefix and not bucket:
        raise InvalidArgument(f"the prefix {prefix!r} needs the name of its bucket")


def create(connection: Connection, name: str, bucket: str, prefix: bytes, now_ms: int) -> Snapshot:
    """Name the present moment; raises InvalidArgument, or SnapshotExists for a name that is taken."""
    check_name(name)
    if find(connection, name) is not None:
        raise SnapshotExists(f"there is a snapshot {name} already")
    seq, _ = history.last(connection)
    _INSERT(connection, name=name, bucket=bucket, prefix=prefix, seq=seq, created_ms=now_ms)
    return Snapshot(name, bucket, prefix.decode(), seq, now_ms)


def find(connection: Connection, name: str) -> Snapshot | None:
    """The snapshot of this name; None when there is none, and for text that can be no name, whatever it holds."""
    rows = _FIND(connection, name=name) if _NAME.fullmatch(name) else ()
    return _snapshot(rows[0]) if rows else None


def standing(connection: Connection) -> list[Snapshot]:
    """All snapshots, the oldest moment first."""
    return [_snapshot(row) for row in _LIST(connection)]


def drop(connection: Connection, name: str) -> None:
    """Forget a name; raises NoSuchSnapshot. What only it kept is let go by `removals.release`."""
    if not (_NAME.fullmatch(name) and _DELETE(connection, name=name)):
        raise NoSuchSnapshot(f"there is no snapshot {name}")


def _snapshot(row: Sequence[Any]) -> Snapshot:
    name, bucket, prefix, seq, created_ms = row
    return Snapshot(name, bucket, prefix.decode(), seq, created_ms)
