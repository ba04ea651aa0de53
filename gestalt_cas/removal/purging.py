"""Purging a key: all its versions and markers, and the bytes that nothing else reaches, gone when the call returns.

DeleteObject keeps history, and removing single versions leaves their payloads to gc. Purging is for what must not be
kept at all. Quarantined copies of the payloads go too, and go first: once the versions have gone nothing leads to them.
The names are gone for good when the call returns, so their directories are synced. What stays is named: payloads that
another version shares, and those that a running backup has pinned, which the first gc after it removes. Space on the
disk is given back, not overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass

from gestalt_cas.clock import now_ms
from gestalt_cas.errors import NoSuchKey, Protected
from gestalt_cas.keeping import holds, reachability, removals
from gestalt_cas.keeping.reachability import Garbage
from gestalt_cas.objects import ObjectKey
from gestalt_cas.operations.parts import Parts
from gestalt_cas.remedies import command_here
from gestalt_cas.removal.garbage import Collector
from gestalt_cas.rows import versions
from gestalt_cas.sql.sqlite import Connection


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge removed: versions (markers included), payload files, their bytes, quarantined copies.

    `shared` and `pinned` count payloads that stay: another version has them, or a live pin keeps them for now;
    `stuck_files` could not be removed, the last of them for `stuck_reason`.
    """

    key: ObjectKey
    versions: int
    files: int
    bytes: int
    quarantined: int
    shared: int
    pinned: int
    stuck_files: int = 0
    stuck_reason: str = ""


def purge(parts: Parts, collector: Collector, key: ObjectKey) -> Purged:
    """Remove the key whole; its bucket is a real name.

    Raises NoSuchKey when it has neither version nor marker, Protected while a snapshot shows one of its versions, and
    Held while one of them is held, or whatever is below a prefix of the key: no trace of that is removed.
    What earlier removals left in the history is stripped as well.
    Works on a full disk. Cut off in the midst, the versions are gone and the next gc removes the payloads.
    """
    quarantined: list[int] = []
    found, digests, unreached = parts.reserve.spend_on(lambda: _remove_versions(parts, key, quarantined))
    swept = collector.sweep_now(unreached)
    parts.blobs.sync_removals(unreached)
    with parts.database.read() as tx:
        pinned = sum(bool(reachability.recorded(tx, digest)) for digest in digests)
        shared = sum(reachability.is_reached(tx, digest) for digest in digests)
    return Purged(
        key,
        found,
        swept.files,
        swept.bytes,
        sum(quarantined),
        shared,
        pinned,
        swept.stuck_files,
        swept.stuck_reason,
    )


def _refuse_kept(tx: Connection, key: ObjectKey) -> None:
    """Raise Protected when a snapshot keeps something of a key whose versions were all removed."""
    names = removals.snapshots_keeping(tx, key.bucket, key.key.encode())
    if names:
        listed, delete = ", ".join(names), command_here("snapshot delete NAME", tx)
        raise Protected(f"{key} is kept by snapshots: {listed}; delete them first ({delete})")


def _remove_versions(parts: Parts, key: ObjectKey, quarantined: list[int]) -> tuple[int, list[bytes], list[bytes]]:
    """Remove the versions, leaving bare rows, and record in the same transaction what that leaves unreachable.

    Returns how many versions there were, their payloads and those of versions that were removed before, as far as they
    are not collected yet, and those of them that are unreachable now. How many copies
    were dropped from quarantine is added to `quarantined`, since that stands even if the transaction is tried again.
    """
    with parts.database.write() as tx:
        holds.require_sound(tx)
        reachability.require_digests(tx)
        holds.refuse_key(tx, key.bucket, key.key.encode())
        found = versions.everything(tx, key)
        at_ms = now_ms()
        for version in reversed(found):  # the oldest first, so that what is then the newest is found at once
            versions.remove(tx, version, at_ms)
        _refuse_kept(tx, key)
        payloads = dict(removals.payloads(tx, key.bucket, key.key.encode()))
        if not removals.strip(tx, key.bucket, key.key.encode()) and not found:
            raise NoSuchKey(f"{key}: nothing to purge, it has no version")
        unreached = [digest for digest in sorted(payloads) if not reachability.is_reached(tx, digest)]
        for digest in unreached:
            reachability.mark(tx, Garbage(digest, payloads[digest]), now_ms())
        quarantined.append(parts.blobs.drop_quarantined(unreached))
    return len(found), sorted(payloads), unreached
