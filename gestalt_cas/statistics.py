"""What a store holds and how it fares, in figures.

Some can be told at once; for the others every row is counted (`counting.py`), so on a busy store they are of several
moments.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from gestalt_cas import counting
from gestalt_cas.backups import manifests
from gestalt_cas.checks import inspection
from gestalt_cas.clock import now_ms
from gestalt_cas.counting import Contents, Payloads
from gestalt_cas.figures import Distribution
from gestalt_cas.keeping import holds, pins, quotas
from gestalt_cas.keeping.pins import Pin
from gestalt_cas.keeping.quotas import Quota
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.removal import clock_guard, garbage, retention_runs
from gestalt_cas.rows import history, snapshots
from gestalt_cas.rows.history import Horizon
from gestalt_cas.rows.settings import recall
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import Connection

NOTES = {"check": inspection.NOTE, "backup": manifests.NOTE, "gc": garbage.NOTE, "retention": retention_runs.NOTE}
"""Under which name the last run of each tool noted itself down."""


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
    sqlite_version: str = sqlite.VERSION
    sqlite_bundled: bool = sqlite.BUNDLED
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
    contents, payloads = counting.count_versions(parts, tell), counting.count_payloads(parts, tell)
    found = glance(parts)
    with parts.database.read() as tx:
        sequence, last_commit_ms = history.last(tx)
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
