"""Purging a key: all its versions and markers, and the bytes that nothing else reaches, gone when the call returns.

DeleteObject keeps history, and removing single versions leaves their payloads to gc. Purging is for what must not be
kept at all. Quarantined copies of the payloads go too. What stays is named: payloads that another version shares, and
those that a running backup has pinned, which the first gc after it removes. Space on the disk is given back, not
overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass

from gestalt_cas import reachability, versions
from gestalt_cas.clock import now_ms
from gestalt_cas.errors import NoSuchKey
from gestalt_cas.garbage import Collector
from gestalt_cas.objects import ObjectKey
from gestalt_cas.parts import Parts
from gestalt_cas.reachability import Garbage


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge removed: versions (markers included), payload files, their bytes, quarantined copies.

    `shared` and `pinned` count payloads that stay: another version has them, or a live pin keeps them for now.
    """

    key: ObjectKey
    versions: int
    files: int
    bytes: int
    quarantined: int
    shared: int
    pinned: int


def purge(parts: Parts, collector: Collector, key: ObjectKey) -> Purged:
    """Remove the key whole; its bucket is a real name. Raises NoSuchKey when it has neither version nor marker.

    Works on a full disk. Cut off in the midst, the versions are gone and the next gc removes the payloads.
    """
    found, digests = parts.reserve.spend_on(lambda: _remove_versions(parts, key))
    files, size = collector.sweep_now(digests)
    with parts.database.read() as tx:
        pinned = [digest for digest in digests if reachability.recorded(tx, digest)]
        shared = [digest for digest in digests if reachability.is_reached(tx, digest)]
    quarantined = sum(parts.blobs.drop_quarantined(digest) for digest in digests if digest not in shared)
    parts.blobs.sync_removals(digests)
    return Purged(key, found, files, size, quarantined, len(shared), len(pinned))


def _remove_versions(parts: Parts, key: ObjectKey) -> tuple[int, list[bytes]]:
    """Remove the rows and record in the same transaction what that leaves unreachable."""
    with parts.database.write() as tx:
        found = versions.everything(tx, key)
        if not found:
            raise NoSuchKey(f"{key}: nothing to purge, it has no version")
        for version in found:
            versions.remove(tx, version, now_ms())
        payloads = {bytes.fromhex(version.digest): version.size for version in found if version.digest}
        for digest, size in payloads.items():
            if not reachability.is_reached(tx, digest):
                reachability.mark(tx, Garbage(digest, size), now_ms())
    return len(found), sorted(payloads)
