"""What a store holds and how it fares, in figures.

Rows are counted in stretches, each in a view of its own, so counting a large store never keeps the WAL from being
shortened. The price: on a busy store the figures are of several moments and need not agree with each other to the last
object.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Integer, and_, exists, func, literal_column, select, tuple_

from gestalt_cas import (
    clock_guard,
    garbage,
    history,
    holds,
    pins,
    quotas,
    reachability,
    retention_runs,
    schema,
    snapshots,
    sqlite,
)
from gestalt_cas.backups import backup
from gestalt_cas.checks import checking
from gestalt_cas.clock import now_ms
from gestalt_cas.figures import Distribution
from gestalt_cas.history import Horizon
from gestalt_cas.parts import Parts
from gestalt_cas.pins import Pin
from gestalt_cas.progress import Progress, silent
from gestalt_cas.quotas import Quota
from gestalt_cas.settings import recall
from gestalt_cas.sqlite import Connection
from gestalt_cas.statements import Prepared, parameter

NOTES = {"check": checking.NOTE, "backup": backup.NOTE, "gc": garbage.NOTE, "retention": retention_runs.NOTE}
"""Under which name the last run of each tool noted itself down."""
STRETCH_ROWS = 4_000
"""Rows that one view counts: some hundredths of a second."""

_v, _c, _b, _u = schema.versions.c, schema.current.c, schema.blobs.c, schema.unreachable.c
_n = schema.counter.c
_PLACE = (_v.bucket, _v.key, _v.seq)
_AFTER = tuple_(*_PLACE) > tuple_(parameter("bucket"), parameter("key"), parameter("seq"))
_UP_TO = tuple_(*_PLACE) <= tuple_(parameter("last_bucket"), parameter("last_key"), parameter("last_seq"))
_STRETCH_END = Prepared(
    select(*_PLACE)
    .where(_AFTER)
    .order_by(*_PLACE)
    .limit(literal_column("1"))
    .offset(parameter("rows", Integer) - literal_column("1"))
)


def _sum(column: ColumnElement[int], *where: ColumnElement[bool]) -> ColumnElement[int]:
    total = func.sum(column).filter(*where) if where else func.sum(column)
    return func.coalesce(total, literal_column("0"))


def _counting(*where: ColumnElement[bool]) -> Prepared:
    object_, live = _v.digest.is_not(None), _c.seq.is_not(None)
    joined = and_(_c.bucket == _v.bucket, _c.key == _v.key, _c.seq == _v.seq)
    return Prepared(
        select(
            func.count().filter(live),
            func.count().filter(object_),
            func.count().filter(_v.digest.is_(None)),
            _sum(_v.size, live),
            _sum(_v.size),
        )
        .select_from(schema.versions.outerjoin(schema.current, joined))
        .where(_v.gone_seq.is_(None), *where)
    )


_STRETCH, _REST = _counting(_AFTER, _UP_TO), _counting(_AFTER)
_reached = exists().where(_v.digest == _b.digest)
_PAYLOADS = Prepared(
    select(
        func.count(),
        _sum(_b.size),
        func.count(_b.damaged_ms),
        func.count().filter(~_reached),
        _sum(_b.size, ~_reached),
    ).where(_b.digest >= parameter("lower"), _b.digest < parameter("upper"))
)
_LOOSE = Prepared(
    select(_sum(_u.size)).where(
        _u.digest >= parameter("lower"), _u.digest < parameter("upper"), ~exists().where(_b.digest == _u.digest)
    )
)
_COUNTER = Prepared(select(_n.seq, _n.commit_ms))


@dataclass(frozen=True, slots=True)
class Contents:
    """Counts and bytes of rows. `logical_bytes` is of current objects, `version_bytes` of all versions."""

    objects: int = 0
    versions: int = 0
    delete_markers: int = 0
    logical_bytes: int = 0
    version_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Payloads:
    """Distinct contents that the store keeps; `damaged` as far as is known, `unreached` by any version.

    `loose_bytes` are of files without a row that gc has met: what cut-off uploads had published.
    """

    count: int = 0
    bytes: int = 0
    damaged: int = 0
    unreached: int = 0
    unreached_bytes: int = 0
    loose_bytes: int = 0


Counted = TypeVar("Counted", Contents, Payloads)


@dataclass(frozen=True, slots=True)
class Heap:
    """Files of one kind and their sizes together."""

    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class AtOnce:
    """What can be told of a store without counting its rows; sizes in bytes.

    `last_*` are the notes of the last runs, None where there was none. `inodes_free` is None where the file system has
    no fixed number. `clock` says why nothing is removed by its age, "" while it is (`clock_guard.py`).
    """

    database_bytes: int
    wal_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    inodes_free: int | None
    last_check: Mapping[str, object] | None
    last_backup: Mapping[str, object] | None
    last_gc: Mapping[str, object] | None
    last_retention: Mapping[str, object] | None
    clock: str


@dataclass(frozen=True, slots=True)
class Glance(AtOnce):
    """What this process can tell at once.

    `group_sizes` says how many of its writers shared each COMMIT since it opened the store.
    """

    group_sizes: Distribution


@dataclass(frozen=True, slots=True)
class Stats(AtOnce):
    """The figures of a store; sizes in bytes, times in Unix milliseconds.

    `horizons` says of which buckets the history is not exact from the first change on; "" is for all of them.
    """

    contents: Contents
    payloads: Payloads
    reserve_bytes: int
    staging: Heap
    quarantine: Heap
    pins: tuple[Pin, ...]
    quotas: tuple[Quota, ...]
    sequence: int
    last_commit_ms: int
    snapshots: int
    holds: int
    horizons: Mapping[str, Horizon]
    format: int = schema.FORMAT
    revision: str = schema.REVISION
    sqlite_version: str = sqlite.driver.sqlite_version
    sqlite_bundled: bool = sqlite.bundled
    sqlite_wal_reset_bug: bool = sqlite.has_wal_reset_bug(sqlite.version())

    @property
    def reclaimable_bytes(self) -> int:
        """What gc would free."""
        return self.payloads.unreached_bytes + self.payloads.loose_bytes

    @property
    def dedup_ratio(self) -> float | None:
        """Bytes of all versions for each byte that is kept for them; None for a store without bytes."""
        kept = self.payloads.bytes - self.payloads.unreached_bytes
        return self.contents.version_bytes / kept if kept > 0 else None


def glance(parts: Parts) -> Glance:
    """What can be told at once."""
    disk = os.statvfs(parts.layout.root)
    with parts.database.read() as tx:
        notes = {f"last_{run}": _note(tx, name) for run, name in NOTES.items()}
        clock = clock_guard.doubt(tx, now_ms())
    return Glance(
        database_bytes=_size(parts.layout.database),
        wal_bytes=parts.database.wal_bytes,
        disk_bytes=disk.f_blocks * disk.f_frsize,
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
        inodes_free=disk.f_favail if disk.f_files else None,
        **notes,
        clock=clock,
        group_sizes=parts.database.group_sizes,
    )


def gather(parts: Parts, progress: Progress | None = None) -> Stats:
    """Count everything; reads every row of versions and payloads."""
    tell = progress or silent
    contents, payloads = count_versions(parts, tell), count_payloads(parts, tell)
    found = glance(parts)
    with parts.database.read() as tx:
        ((sequence, last_commit_ms),) = _COUNTER(tx)
        live = tuple(pins.live(tx, now_ms()))
        limits = tuple(quotas.standing(tx))
        named, held, known = len(snapshots.standing(tx)), holds.count(tx), history.horizons(tx)
    return Stats(
        **{field.name: getattr(found, field.name) for field in fields(AtOnce)},
        contents=contents,
        payloads=payloads,
        reserve_bytes=_size(parts.layout.reserve),
        staging=heap(parts.layout.staging),
        quarantine=heap(parts.layout.quarantine, notes=".json"),
        pins=live,
        quotas=limits,
        sequence=sequence,
        last_commit_ms=last_commit_ms,
        snapshots=named,
        holds=held,
        horizons=known,
    )


def count_versions(parts: Parts, progress: Progress) -> Contents:
    """Count the rows of versions, a stretch of the primary key at a time."""
    found = Contents()
    after: tuple[str, bytes, int] | None = "", b"", -1
    while after is not None:
        bucket, key, seq = after
        here = {"bucket": bucket, "key": key, "seq": seq}
        with parts.database.read() as tx:
            ends = _STRETCH_END(tx, **here, rows=STRETCH_ROWS)
            if ends:
                last_bucket, last_key, last_seq = ends[0]
                rows = _STRETCH(tx, **here, last_bucket=last_bucket, last_key=last_key, last_seq=last_seq)
                after = last_bucket, last_key, last_seq
            else:
                rows, after = _REST(tx, **here), None
        found = _plus(found, rows[0])
        progress("counting versions", found.versions + found.delete_markers, 0)
    return found


def count_payloads(parts: Parts, progress: Progress) -> Payloads:
    """Count the rows of payloads, those of one first byte of the digest at a time."""
    found = Payloads()
    for first in range(256):
        lower, upper = reachability.bounds(first)
        with parts.database.read() as tx:
            rows, loose = _PAYLOADS(tx, lower=lower, upper=upper), _LOOSE(tx, lower=lower, upper=upper)
        found = _plus(found, (*rows[0], *loose[0]))
        progress("counting payloads, in 256 parts", first + 1, 256)
    return found


def _plus(found: Counted, row: tuple[Any, ...]) -> Counted:
    """The counts with those of one more row."""
    return type(found)(*(count + more for count, more in zip(astuple(found), row, strict=True)))


def heap(directory: Path, *, notes: str = "\0") -> Heap:
    """Count the regular files of a directory, which may be absent; files that end in `notes` lie beside others."""
    count = size = 0
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return Heap(0, 0)
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # its writer was done with it
        if stat.S_ISREG(found.st_mode) and not entry.name.endswith(notes):
            count, size = count + 1, size + found.st_size
    return Heap(count, size)


def _note(connection: Connection, name: str) -> Mapping[str, object] | None:
    found = recall(connection, name)
    return found if isinstance(found, dict) else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
