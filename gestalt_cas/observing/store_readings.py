"""The figures of the store: what can be told at a glance, and what `census.py` has counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from gestalt_cas.errors import StoreError
from gestalt_cas.observing.families import GAUGE, HISTOGRAM, NONE, Family, family, gauge, labels
from gestalt_cas.serving.mounts import Mount
from gestalt_cas.statistics import Glance, Stats

log = logging.getLogger(__name__)

# ---- the store, at a glance ----


def at_a_glance(mount: Mount | None) -> Iterator[Family]:
    """What costs next to nothing to tell; without a mount, the families without samples."""
    fault = mount.store.health() if mount is not None else ""
    short = mount.store.shortage() if mount is not None else ""
    there = None if mount is None else 1
    yield gauge("healthy", "1 while nothing is known to be wrong with the store.", there and int(not fault))
    yield gauge("uploads_possible", "0 while the disk is full.", there and int(not (fault or short)))
    found = _glance(mount) if mount is not None else None
    for name, text, pick in _GLANCED:
        yield gauge(name, text, pick(found) if found is not None else None)
    sizes = found.group_sizes if found is not None else None
    yield family(HISTOGRAM, "commit_group_size", "Writers that shared a COMMIT, and its sync.", [(NONE, sizes)])
    for run, figures in _RUNS.items():
        yield from _last(run, getattr(found, f"last_{run}") if found is not None else None, figures)


def _glance(mount: Mount) -> Glance | None:
    try:
        return mount.store.glance()
    except (StoreError, OSError) as error:
        log.warning("the store's figures cannot be read: %s", error)
        return None


_GLANCED: tuple[tuple[str, str, Callable[[Glance], float | None]], ...] = (
    ("wal_bytes", "Length of the write-ahead log.", lambda found: found.wal_bytes),
    ("database_bytes", "Length of the database file.", lambda found: found.database_bytes),
    ("disk_bytes", "Size of the file system that holds the store.", lambda found: found.disk_bytes),
    ("disk_free_bytes", "Bytes that this user may still write there.", lambda found: found.disk_free_bytes),
    ("disk_free_inodes", "Files that it can hold beyond those it has.", lambda found: found.inodes_free),
    ("clock_doubted", "1 while nothing is removed by age, for doubt of the clock.", lambda found: bool(found.clock)),
)
_RUNS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "gc": {
        "files": ("payloads", "Payloads that the last gc removed."),
        "bytes": ("bytes", "Bytes of the payloads that the last gc removed."),
        "stuck_files": ("stuck_payloads", "Payloads that the last gc could not remove."),
    },
    "retention": {
        "versions": ("versions", "Versions that the last run of the retention rules removed."),
        "bytes": ("bytes", "Bytes of the versions that it removed, shared payloads counted for each."),
        "expired": ("expired", "Objects that the last run of the retention rules let expire."),
    },
    "check": {
        "damage": ("damage", "Findings of the last check that lose something of what was stored."),
        "faults": ("faults", "Other findings of the last check."),
    },
    "backup": {
        "bytes": ("bytes", "Bytes of the payloads in the last backup."),
        "lost": ("lost_payloads", "Payloads that the last backup found missing or damaged."),
    },
}
"""For each tool, the figures in its note with the names and texts under which they are shown."""


def _last(run: str, note: Mapping[str, object] | None, figures: Mapping[str, tuple[str, str]]) -> Iterator[Family]:
    """What the last run of a tool noted down, in whatever process."""
    at_ms = _number(note, "at_ms")
    yield gauge(f"{run}_last_run_timestamp_seconds", f"When the last {run} ended.", at_ms and at_ms / 1000)
    results = [(labels(result=str(note.get("result", ""))), 1)] if note is not None else []
    yield family(GAUGE, f"{run}_last_result", f"1; the label says how the last {run} ended.", results)
    for name, (shown, text) in figures.items():
        yield gauge(f"{run}_last_{shown}", text, _number(note, name))


def _number(note: Mapping[str, object] | None, name: str) -> float | None:
    value = note.get(name) if note is not None else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


# ---- the store, counted ----


_COUNTED: tuple[tuple[str, str, Callable[[Stats], float | None]], ...] = (
    ("objects", "Current objects.", lambda stats: stats.contents.objects),
    ("object_bytes", "Bytes of the current objects.", lambda stats: stats.contents.logical_bytes),
    ("versions", "Versions, delete markers not counted.", lambda stats: stats.contents.versions),
    ("version_bytes", "Bytes of all versions.", lambda stats: stats.contents.version_bytes),
    ("delete_markers", "Delete markers.", lambda stats: stats.contents.delete_markers),
    ("payloads", "Distinct contents that are kept.", lambda stats: stats.payloads.count),
    ("payload_bytes", "Bytes of the distinct contents.", lambda stats: stats.payloads.bytes),
    ("dedup_ratio", "Bytes of all versions for each byte that is kept for them.", lambda stats: stats.dedup_ratio),
    ("damaged_payloads", "Payloads known to be damaged.", lambda stats: stats.payloads.damaged),
    ("reclaimable_bytes", "Bytes that gc would free.", lambda stats: stats.reclaimable_bytes),
    ("snapshots", "Snapshots.", lambda stats: stats.snapshots),
    ("holds", "Holds of a version or a prefix.", lambda stats: stats.holds),
    ("staging_files", "Uploads on their way, and what cut-off ones left.", lambda stats: stats.staging.count),
    ("staging_bytes", "Bytes of the files in staging.", lambda stats: stats.staging.bytes),
    ("quarantined_files", "Damaged files that were set aside.", lambda stats: stats.quarantine.count),
)


def counted(stats: Stats | None, counted_at: float) -> Iterator[Family]:
    """What a pass over all rows has found, if there has been one."""
    text = "When objects, versions, payloads, quotas and what goes with them were counted."
    yield gauge("statistics_timestamp_seconds", text, counted_at if stats is not None else None)
    for name, text, pick in _COUNTED:
        yield gauge(name, text, pick(stats) if stats is not None else None)
    standing = stats.quotas if stats is not None else ()
    quotas = [(labels(bucket=one.bucket, prefix=one.prefix), one) for one in standing]
    used = [(at, one.used_bytes) for at, one in quotas]
    yield family(GAUGE, "quota_used_bytes", "Bytes counted against a quota.", used)
    yield family(GAUGE, "quota_limit_bytes", "Bytes that a quota allows.", [(at, one.max_bytes) for at, one in quotas])
